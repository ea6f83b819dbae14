//! An executor whose "KV cache" holds what a real one's would depend on, and an oracle of its output.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use lathe::config::{EngineConfig, SamplingParams};
use lathe::engine::block_manager::BlockHash;
use lathe::engine::{
    Batch, BlockManager, Engine, Executor, FinishReason, Item, Sampled, Scheduler, SeqId, Sequence,
    StepResult, TokenLogprobs, Vocabulary,
};
use lathe::{Error, Result};

/// Tokens of the fake model.
pub const VOCAB: u32 = 13;
/// Its end-of-sequence token.
pub const EOS: u32 = 0;

/// What one position of the cache holds. Two prefixes with equal entries have equal keys and values.
type Entry = Option<(u32, usize, u64)>;

/// The fake model's memory and what it saw; shared with the test that drives it.
#[derive(Default)]
pub struct State {
    cache: Vec<Entry>,
    block_size: usize,
    /// Fail the next batch, halfway through its writes.
    pub fail: bool,
    /// The sequence whose next sample has NaN logits.
    pub invalid: Option<u64>,
    /// The last batch that ran.
    pub items: Vec<Item>,
    /// Tokens computed in all batches that did not fail.
    pub computed: usize,
    /// What each batch takes on a virtual clock.
    pub seconds: f64,
    /// Whether results come late, and the next batch before them.
    pub overlap: bool,
    /// Fail when results are collected next, and lose what the batches since wrote.
    pub fail_late: bool,
    /// Results that were not collected, and where their batches wrote.
    late: VecDeque<(StepResult, Vec<usize>)>,
    /// What the last batch drew.
    drawn: HashMap<SeqId, u32>,
}

/// A handle on the state; one is the engine's executor.
#[derive(Clone)]
pub struct Fake(Arc<Mutex<State>>);

impl Fake {
    /// A model with a cache of this many blocks.
    pub fn new(num_blocks: usize, block_size: usize) -> Self {
        let cache = vec![None; num_blocks * block_size];
        Self(Arc::new(Mutex::new(State { cache, block_size, ..State::default() })))
    }

    /// Its state.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Executor for Fake {
    fn execute(&mut self, batch: &Batch<'_>, out: &mut StepResult) -> Result<()> {
        let state = &mut *self.state();
        let mut late = StepResult::default();
        let out = if state.overlap { &mut late } else { out };
        let drawn = std::mem::take(&mut state.drawn);
        // A pending token is what the batch before drew.
        let token = |seq: &Sequence, position: usize| match seq.tokens.get(position) {
            Some(&token) => token,
            None => drawn[&seq.id],
        };
        let mut written = Vec::new();
        let at = |seq: &Sequence, position: usize| {
            seq.block_table[position / state.block_size] as usize * state.block_size
                + position % state.block_size
        };
        for (i, item) in batch.items.iter().enumerate() {
            let seq = &batch.seqs[item.id];
            assert_eq!(item.start, seq.computed, "{item:?}");
            assert!(item.tokens >= 1 && item.start + item.tokens <= seq.len(), "{item:?} of {}", seq.len());
            assert_eq!(item.sample, item.start + item.tokens == seq.len(), "{item:?}");
            assert_eq!(i < batch.num_decodes, item.tokens == 1, "decodes come first: {:?}", batch.items);
            let salt = seq.options.cache_salt;
            for position in item.start..item.start + item.tokens {
                // A failing device leaves rubbish behind.
                written.push(at(seq, position));
                state.cache[at(seq, position)] =
                    (!state.fail).then(|| (token(seq, position), position, salt));
            }
        }
        if std::mem::take(&mut state.fail) {
            state.drawn = drawn;
            return Err(Error::Device { device: "fake".into(), what: "told to fail".into() });
        }
        for item in batch.items {
            let seq = &batch.seqs[item.id];
            for position in 0..item.start + item.tokens {
                let want = Some((token(seq, position), position, seq.options.cache_salt));
                assert_eq!(state.cache[at(seq, position)], want, "KV of {:?} at {position}", item.id);
            }
            state.computed += item.tokens;
            if seq.prompt_logprobs_wanted().is_some() {
                let told = item.start + 1..(item.start + item.tokens + 1).min(seq.prompt_len);
                out.prompt_logprobs.extend(told.map(|position| (item.id, position, logprobs_at(position))));
            }
            if item.sample {
                let invalid = state.invalid == Some(item.id.number());
                let token = next_token(seq.seed, seq.len(), &seq.params, seq.len() - seq.prompt_len);
                state.drawn.insert(item.id, token);
                out.sampled.push(if invalid { Sampled::Invalid } else { Sampled::Token(token) });
                if seq.params.logprobs.is_some() && !invalid {
                    out.logprobs.push((item.id, logprobs_at(seq.len())));
                }
            }
        }
        state.items = batch.items.to_vec();
        out.virtual_seconds = state.seconds;
        if state.overlap {
            state.late.push_back((late, written));
        }
        Ok(())
    }

    fn collect(&mut self, out: &mut StepResult) -> Result<()> {
        let state = &mut *self.state();
        if !state.overlap {
            return Ok(());
        }
        if std::mem::take(&mut state.fail_late) {
            for (_, written) in state.late.drain(..) {
                written.into_iter().for_each(|at| state.cache[at] = None);
            }
            return Err(Error::Device { device: "fake".into(), what: "told to fail".into() });
        }
        *out = state.late.pop_front().expect("a batch that was executed").0;
        Ok(())
    }

    fn overlaps(&self) -> bool {
        self.state().overlap
    }
}

/// What the fake model reports for the token at this position.
pub fn logprobs_at(position: usize) -> TokenLogprobs {
    TokenLogprobs { logprob: -(position as f32), rank: 1, top: Vec::new() }
}

/// The fake model's token at `position`: a function of seed and position, as sampling with a fixed seed is.
fn next_token(seed: u64, position: usize, params: &SamplingParams, generated: usize) -> u32 {
    let mut x =
        seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (position as u64 + 1).wrapping_mul(0xd134_2543_de82_ef95);
    x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mut token = ((x ^ (x >> 32)) % u64::from(VOCAB)) as u32;
    while generated < params.min_tokens && (token == EOS || params.stop_token_ids.contains(&token)) {
        token = (token + 1) % VOCAB;
    }
    token
}

/// What a sequence must generate, and why it must end.
pub fn oracle(
    prompt: usize,
    params: &SamplingParams,
    seed: u64,
    max_model_len: usize,
) -> (Vec<u32>, FinishReason) {
    let mut output = Vec::new();
    loop {
        let token = next_token(seed, prompt + output.len(), params, output.len());
        output.push(token);
        if (token == EOS && !params.ignore_eos) || params.stop_token_ids.contains(&token) {
            return (output, FinishReason::StopToken(token));
        }
        if output.len() == params.max_tokens || prompt + output.len() == max_model_len {
            return (output, FinishReason::Length);
        }
    }
}

/// How to set up an engine over the fake model.
#[derive(Clone, Debug)]
pub struct Setup {
    pub block_size: usize,
    pub num_blocks: usize,
    pub tokens: usize,
    pub seqs: usize,
    pub max_model_len: usize,
    pub hash: Option<BlockHash>,
}

impl Setup {
    /// An engine and its model.
    pub fn engine(&self, scheduler: Box<dyn Scheduler>) -> (Engine, Fake) {
        let config = EngineConfig {
            max_num_batched_tokens: self.tokens,
            max_num_seqs: self.seqs,
            max_model_len: self.max_model_len,
            ..EngineConfig::default()
        };
        let fake = Fake::new(self.num_blocks, self.block_size);
        let pool = BlockManager::new(self.num_blocks, self.block_size, self.hash);
        let vocabulary = Vocabulary { size: VOCAB as usize, eos_token_ids: vec![EOS] };
        (Engine::with_pool(&config, vocabulary, pool, scheduler, Box::new(fake.clone())), fake)
    }
}

/// Checks that blocks and tables agree: no leak, no block of two owners that is not fully computed.
pub fn check_blocks(engine: &Engine) {
    let pool = engine.blocks();
    let mut owners = vec![0; pool.num_blocks()];
    for &id in engine.running().iter().chain(engine.ending()) {
        let seq = engine.seq(id).unwrap();
        assert!(seq.computed <= seq.block_table.len() * pool.block_size(), "{id:?} computed past its blocks");
        for (depth, &block) in seq.block_table.iter().enumerate() {
            owners[block as usize] += 1;
            let full = (depth + 1) * pool.block_size() <= seq.computed;
            assert!(full || pool.owners(block) == 1, "{id:?} shares block {block}, which is not computed");
        }
    }
    for id in engine.waiting() {
        assert!(engine.seq(id).unwrap().block_table.is_empty(), "{id:?} waits with blocks");
    }
    for (block, &owners) in owners.iter().enumerate() {
        assert_eq!(pool.owners(block as u32), owners, "owners of block {block}");
    }
    assert_eq!(pool.num_free(), owners.iter().filter(|&&owners| owners == 0).count(), "free blocks");
    assert!(engine.running().is_sorted() && engine.waiting().is_sorted(), "queues are in order of arrival");
}

/// Runs an engine until nothing is left; returns the ids that finished, in that order.
pub fn drain(engine: &mut Engine) -> Vec<SeqId> {
    let mut finished = Vec::new();
    for _ in 0..100_000 {
        if engine.is_finished() {
            return finished;
        }
        let events = engine.step().unwrap();
        finished.extend(events.iter().filter(|event| event.finish.is_some()).map(|event| event.id));
        check_blocks(engine);
    }
    panic!("{} sequences never finish", engine.num_unfinished());
}
