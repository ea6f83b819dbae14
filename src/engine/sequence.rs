//! One generation in progress.
//!
//! Decode is nothing special: a sequence has `len()` known tokens and the keys and values of the first `computed` of
//! them in the KV cache. Running `n` more computes positions `computed..computed + n`; when nothing remains, the last
//! position's logits give one new token. A preempted sequence forgets its blocks but keeps its tokens.
//!
//! A device that works while the host goes on may have drawn tokens that the host does not know yet. Those are
//! `pending`: they count, but have no values.

use std::ops::Index;
use std::sync::Arc;

use crate::config::SamplingParams;

/// A sequence's handle: a number and a slot in one word. Ordered by arrival; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqId(u64);

impl SeqId {
    const SLOT_BITS: u32 = 24;

    /// The id of a free slot. As many sequences as to reach its number never come.
    const NOBODY: Self = Self(u64::MAX);

    /// A handle by hand, for tests. Panics from 2^40 numbers or 2^24 slots on.
    pub fn new(number: u64, slot: usize) -> Self {
        assert!(
            number >> (64 - Self::SLOT_BITS) == 0 && slot >> Self::SLOT_BITS == 0,
            "{number} in slot {slot}"
        );
        Self(number << Self::SLOT_BITS | slot as u64)
    }

    /// Counts sequences in order of arrival, from 0.
    pub fn number(self) -> u64 {
        self.0 >> Self::SLOT_BITS
    }

    /// A small dense index, free for reuse once the sequence is gone: a key for per-sequence arrays.
    pub fn slot(self) -> usize {
        (self.0 & ((1 << Self::SLOT_BITS) - 1)) as usize
    }
}

/// A request: the number of the first of its `n` sequences, whose numbers are consecutive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What a request says besides its prompt and sampling parameters: facts for scheduling policies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestOptions {
    /// Smaller is more urgent, as in vLLM.
    pub priority: i32,
    /// Whom to account the service to.
    pub tenant: u32,
    /// When the request should be done, in seconds on the engine's clock.
    pub deadline: Option<f64>,
    /// Output length that a predictor expects, in tokens.
    pub predicted_len: Option<usize>,
    /// Only requests with the same salt share cached prefixes.
    pub cache_salt: u64,
    /// When the request arrived, in seconds on the engine's clock; `None` is now.
    pub arrival: Option<f64>,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// It sampled this end-of-sequence or stop token.
    StopToken(u32),
    /// Its text contains a stop string.
    StopString,
    /// It reached `max_tokens` or `max_model_len`.
    Length,
    /// Its caller gave it up.
    Abort,
    /// Its logits were not numbers.
    Error,
}

impl FinishReason {
    /// The name that the OpenAI and vLLM interfaces use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StopToken(_) | Self::StopString => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
            Self::Error => "error",
        }
    }
}

/// Where a sequence stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// One of `n > 1`, kept back until the first of them has computed the prompt that they share.
    Held,
    /// Holds no blocks; new or preempted.
    Waiting,
    /// Holds blocks.
    Running,
    /// Readable until the next step begins.
    Finished(FinishReason),
}

/// A token's log-probability, of the logits before any processing, and those of the likeliest tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// Natural log of the token's probability.
    pub logprob: f32,
    /// How many tokens are at least as likely, itself included.
    pub rank: u32,
    /// The likeliest tokens and their log-probabilities, likeliest first; as many as were asked for.
    pub top: Vec<(u32, f32)>,
}

/// When things happened, in seconds on the engine's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timing {
    /// The request arrived.
    pub arrival: f64,
    /// The sequence first ran.
    pub scheduled: Option<f64>,
    /// Its first token was sampled.
    pub first_token: Option<f64>,
    /// It ended: with its last token, unless it was aborted.
    pub finished: Option<f64>,
}

/// One generation in progress. Inside an engine, only the engine changes it.
///
/// `repr(C)`: the first two cache lines are all that every step touches.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Sequence {
    /// Its handle.
    pub id: SeqId,
    /// Leading tokens whose keys and values are in the KV cache.
    pub computed: usize,
    /// Prompt, then generated tokens, as far as the host knows them.
    pub tokens: Vec<u32>,
    /// KV blocks of the computed tokens, in order; spare room in the last.
    pub block_table: Vec<u32>,
    /// Where it stands.
    pub status: Status,
    /// Tokens that running steps draw, after `tokens`.
    pub pending: u32,
    /// Which of the request's `n` sequences.
    pub sample: u32,
    /// Tokens of the prompt.
    pub prompt_len: usize,
    /// The length that ends it: `prompt_len + max_tokens`, at most `max_model_len`.
    pub max_len: usize,
    /// Most tokens that were ever computed, before any preemption.
    pub(super) computed_before: usize,
    /// Leading blocks known to the prefix cache, and the cache's name for the last of them.
    pub(super) registered: (usize, u64),
    /// How to sample.
    pub params: Arc<SamplingParams>,
    /// When things happened.
    pub timing: Timing,
    /// Keys its random numbers, together with the position of the token that is sampled.
    pub seed: u64,
    /// Facts for policies.
    pub options: RequestOptions,
    /// Tokens of the prompt that the prefix cache had when it first ran.
    pub prefix_hit: usize,
    /// Times it was preempted.
    pub preemptions: usize,
    /// Of the generated tokens, if asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// Of the prompt's tokens, by position, if asked for. The first has none.
    pub prompt_logprobs: Vec<Option<TokenLogprobs>>,
    /// Chained hashes of the leading full blocks of `tokens`.
    pub(super) hashes: Vec<u64>,
}

impl Sequence {
    /// A new sequence, the only one of a request that starts with it.
    pub fn new(id: SeqId, prompt: &[u32], params: Arc<SamplingParams>, options: RequestOptions) -> Self {
        Self {
            id,
            computed: 0,
            tokens: prompt.to_vec(),
            block_table: Vec::new(),
            status: Status::Waiting,
            pending: 0,
            sample: 0,
            prompt_len: prompt.len(),
            max_len: prompt.len().saturating_add(params.max_tokens),
            computed_before: 0,
            registered: (0, options.cache_salt),
            timing: Timing { arrival: options.arrival.unwrap_or_default(), ..Timing::default() },
            seed: params.seed.unwrap_or_default(),
            prefix_hit: 0,
            preemptions: 0,
            logprobs: Vec::new(),
            prompt_logprobs: Vec::new(),
            hashes: Vec::new(),
            params,
            options,
        }
    }

    /// The request it belongs to.
    #[inline]
    pub fn request(&self) -> RequestId {
        RequestId(self.id.number() - u64::from(self.sample))
    }

    /// Prompt and output, pending tokens included.
    #[allow(clippy::len_without_is_empty)] // never empty
    #[inline]
    pub fn len(&self) -> usize {
        self.tokens.len() + self.pending as usize
    }

    /// Tokens that are not computed; at least 1 unless it is finished.
    pub fn remaining(&self) -> usize {
        self.len() - self.computed
    }

    /// Tokens generated so far that the host knows.
    #[inline]
    pub fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// The generated tokens.
    pub fn output(&self) -> &[u32] {
        &self.tokens[self.prompt_len..]
    }

    /// Whether end-of-sequence and stop tokens must not be sampled next, because `min_tokens` is not yet reached.
    #[inline]
    pub fn suppresses_stop(&self) -> bool {
        self.len() - self.prompt_len < self.params.min_tokens
    }

    /// Log-probabilities to report with each token of the prompt; only the first of `n` sequences does.
    #[inline]
    pub fn prompt_logprobs_wanted(&self) -> Option<usize> {
        self.params.prompt_logprobs.filter(|_| self.sample == 0)
    }

    /// Whether it is done.
    pub fn is_finished(&self) -> bool {
        matches!(self.status, Status::Finished(_))
    }
}

/// All sequences, by [`SeqId`].
///
/// A free slot holds an empty sequence with an id that nobody has, instead of being an `Option`: the one check of a look-up
/// is then of the id, in the sequence's first cache line.
#[derive(Debug, Default)]
pub struct Sequences {
    slots: Vec<Sequence>,
    free: Vec<usize>,
    next_number: u64,
}

impl Sequences {
    /// The sequence, unless it is gone.
    #[inline]
    pub fn get(&self, id: SeqId) -> Option<&Sequence> {
        self.slots.get(id.slot()).filter(|seq| seq.id == id)
    }

    /// The number that the next sequence will get.
    pub(super) fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Slots ever used at a time; every id's slot is below.
    pub(super) fn num_slots(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn insert(&mut self, make: impl FnOnce(SeqId) -> Sequence) -> SeqId {
        let id = SeqId::new(self.next_number, self.free.pop().unwrap_or(self.slots.len()));
        self.next_number += 1;
        let seq = make(id);
        match self.slots.get_mut(id.slot()) {
            Some(slot) => *slot = seq,
            None => self.slots.push(seq),
        }
        id
    }

    pub(super) fn remove(&mut self, id: SeqId) {
        debug_assert!(self.get(id).is_some());
        self.slots[id.slot()] = Sequence::new(SeqId::NOBODY, &[], Arc::default(), RequestOptions::default());
        self.free.push(id.slot());
    }

    /// The sequence, to change it, unless it is finished or gone.
    #[inline]
    pub(super) fn live(&mut self, id: SeqId) -> Option<&mut Sequence> {
        self.slots.get_mut(id.slot()).filter(|seq| seq.id == id && !seq.is_finished())
    }

    /// The sequence, to change it. Panics if it is gone: the engine keeps no id of such a one.
    #[inline]
    pub(super) fn at(&mut self, id: SeqId) -> &mut Sequence {
        let seq = &mut self.slots[id.slot()];
        assert_eq!(seq.id, id, "a sequence of this engine");
        seq
    }
}

impl Index<SeqId> for Sequences {
    type Output = Sequence;

    /// Panics if the sequence is gone.
    #[inline]
    fn index(&self, id: SeqId) -> &Sequence {
        self.get(id).expect("a sequence that is not gone")
    }
}
