//! The model runner: one engine step as tensors, through the decoder, the logits and the sampler.

use super::{
    executor::{Batch, Executor, Item, Sampled, StepResult},
    logprobs::token_logprobs,
    sampling_input::SamplingInput,
    sequence::{SeqId, Sequence},
    staged::Staged,
};
use crate::{
    config::EngineConfig,
    device::{DType, Device, Tensor},
    error::{Error, Result},
    kernels::{KernelSet, LogitsArgs, Queue, SampleArgs, SeqLen, run},
    model::decoder::{Activations, AttentionGroup, Decoder, KvCache, StepInput},
};

/// Runs steps of one model on one device.
pub struct Runner<D: Device> {
    queue: Queue<D>,
    kernels: KernelSet<D>,
    decoder: Decoder<D>,
    kv: KvCache<D>,
    act: Activations<D>,
    input: Input<D>,
    sampling: SamplingInput<D>,
    /// Token rows whose logits are wanted now.
    rows: Staged<D, i32>,
    /// `[rows]` i32.
    sampled: Tensor<D>,
    /// Most rows of logits at a time.
    max_rows: usize,
    num_blocks: usize,
    /// Rows of the step whose next token is drawn, then rows that only tell of the prompt.
    draws: Vec<(i32, SeqId)>,
    tells: Vec<(i32, SeqId, usize)>,
    /// The drawn tokens on the host.
    tokens: Vec<i32>,
    /// Raw logits on the host, where log-probabilities are asked for.
    raw: Vec<f32>,
}

/// A step's tensors, staged on the host and uploaded together.
struct Input<D: Device> {
    ids: Staged<D, i32>,
    positions: Staged<D, i32>,
    slots: Staged<D, i32>,
    q_start: Staged<D, i32>,
    kv_len: Staged<D, i32>,
    /// `[seqs, max_blocks]`.
    block_table: Staged<D, i32>,
    lens: Vec<SeqLen>,
    max_blocks: usize,
    block_size: usize,
}

impl<D: Device> Input<D> {
    fn new(dev: &D, tokens: usize, seqs: usize, max_blocks: usize, block_size: usize) -> Result<Self> {
        Ok(Self {
            ids: Staged::new(dev, tokens)?,
            positions: Staged::new(dev, tokens)?,
            slots: Staged::new(dev, tokens)?,
            q_start: Staged::new(dev, seqs + 1)?,
            kv_len: Staged::new(dev, seqs)?,
            block_table: Staged::new(dev, seqs * max_blocks)?,
            lens: Vec::with_capacity(seqs),
            max_blocks,
            block_size,
        })
    }

    fn clear(&mut self) {
        for s in
            [&mut self.ids, &mut self.positions, &mut self.slots, &mut self.kv_len, &mut self.block_table]
        {
            s.host.clear();
        }
        self.q_start.host.clear();
        self.q_start.host.push(0);
        self.lens.clear();
    }

    /// Adds a sequence's `tokens` at positions `start..`.
    fn push(&mut self, tokens: &[u32], start: usize, block_table: &[u32]) {
        let (end, size) = (start + tokens.len(), self.block_size);
        self.ids.host.extend(tokens.iter().map(|&t| t as i32));
        self.positions.host.extend(start as i32..end as i32);
        let mut at = start;
        while at < end {
            let stop = end.min((at / size + 1) * size);
            let slot = block_table[at / size] as i32 * size as i32 + (at % size) as i32;
            self.slots.host.extend(slot..slot + (stop - at) as i32);
            at = stop;
        }
        let row = self.block_table.host.len();
        self.block_table.host.extend(block_table[..end.div_ceil(size)].iter().map(|&b| b as i32));
        self.block_table.host.resize(row + self.max_blocks, 0);
        self.lens.push(SeqLen { q: tokens.len(), kv: end });
        self.kv_len.host.push(end as i32);
        self.q_start.host.push(self.ids.host.len() as i32);
    }

    fn upload(&mut self, dev: &D) -> Result<()> {
        for s in [
            &mut self.ids,
            &mut self.positions,
            &mut self.slots,
            &mut self.q_start,
            &mut self.kv_len,
            &mut self.block_table,
        ] {
            s.upload(dev)?;
        }
        Ok(())
    }

    fn step(&self, decodes: usize) -> StepInput<'_, D> {
        let seqs = self.lens.len();
        let group = |from: usize, to: usize| AttentionGroup {
            lens: &self.lens[from..to],
            block_table: self.block_table.view().reshape(&[seqs, self.max_blocks]).rows(from..to),
            q_start: self.q_start.view().rows(from..to + 1),
            kv_len: self.kv_len.view().rows(from..to),
        };
        StepInput {
            ids: self.ids.view(),
            positions: self.positions.view(),
            slots: self.slots.view(),
            decode: group(0, decodes),
            prefill: group(decodes, seqs),
        }
    }
}

impl<D: Device> Runner<D> {
    /// Allocates everything that a step needs: activations for `max_num_batched_tokens`, logits for
    /// `max_num_seqs`, scratch memory, and `num_kvcache_blocks` blocks or as many as the device has room for.
    ///
    /// # Errors
    /// [`Error::Device`] when memory is short, [`Error::Unsupported`] when a chosen kernel cannot run this model,
    /// [`Error::Config`] when not one block fits.
    pub fn new(dev: &D, kernels: KernelSet<D>, decoder: Decoder<D>, config: &EngineConfig) -> Result<Self> {
        let (model, dtype, block_size) = (decoder.config(), decoder.dtype(), config.kvcache_block_size);
        let (tokens, seqs) =
            (config.max_num_batched_tokens, config.max_num_seqs.min(config.max_num_batched_tokens));
        let max_blocks = config.max_model_len.div_ceil(block_size);
        let act = Activations::new(dev, model, dtype, tokens, seqs)?;
        let (free, total) = dev.memory();
        let share = (total as f64 * config.gpu_memory_utilization) as usize;
        let room = (share.saturating_sub(total - free) / KvCache::<D>::block_bytes(model, dtype, block_size))
            .min(seqs * max_blocks);
        let num_blocks = config.num_kvcache_blocks.unwrap_or(room);
        if num_blocks == 0 {
            let want = "memory for at least one block: lower kvcache_block_size or max_num_batched_tokens";
            return Err(Error::config("num_kvcache_blocks", 0, want));
        }
        let mut runner = Self {
            queue: Queue::new(dev)?,
            kernels,
            kv: KvCache::new(dev, model, dtype, num_blocks, block_size)?,
            act,
            input: Input::new(dev, tokens, seqs, max_blocks, block_size)?,
            sampling: SamplingInput::new(dev, seqs, model.vocab_size, &model.eos)?,
            rows: Staged::new(dev, seqs)?,
            sampled: Tensor::zeros(dev, DType::I32, &[seqs])?,
            max_rows: seqs,
            num_blocks,
            decoder,
            draws: Vec::with_capacity(seqs),
            tells: Vec::new(),
            tokens: Vec::with_capacity(seqs),
            raw: Vec::new(),
        };
        runner.rehearse(tokens, seqs, config.max_model_len)?;
        Ok(runner)
    }

    /// Blocks of the KV cache.
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// The device.
    pub fn device(&self) -> &D {
        self.queue.dev()
    }

    /// The model.
    pub fn decoder(&self) -> &Decoder<D> {
        &self.decoder
    }

    /// Reserves the scratch memory of the largest steps and finds out whether every kernel supports the model.
    fn rehearse(&mut self, tokens: usize, seqs: usize, max_len: usize) -> Result<()> {
        self.queue.rehearse(true)?;
        let table = vec![0; self.input.max_blocks];
        let zeros = vec![0; tokens.min(max_len)];
        self.input.clear();
        (0..seqs).for_each(|_| self.input.push(&[0], max_len - 1, &table));
        self.forward(seqs)?;
        self.input.clear();
        let mut left = tokens;
        while left > 0 && self.input.lens.len() < seqs {
            let chunk = left.min(max_len);
            self.input.push(&zeros[..chunk], max_len - chunk, &table);
            left -= chunk;
        }
        self.forward(0)?;
        self.rows.host.clear();
        self.rows.host.resize(self.max_rows, 0);
        self.decoder.logits(&mut self.queue, &self.kernels, self.rows.view(), &mut self.act)?;
        self.queue.rehearse(false)
    }

    /// Runs the staged tokens through the decoder.
    fn forward(&mut self, decodes: usize) -> Result<()> {
        self.input.upload(self.queue.dev())?;
        let input = self.input.step(decodes);
        self.decoder.forward(&mut self.queue, &self.kernels, &input, &mut self.kv, &mut self.act)
    }

    /// The unprocessed (but soft-capped) logits of `rows`, at most `max_rows` of them, to `self.raw`.
    fn read_logits(&mut self, rows: impl Iterator<Item = i32>) -> Result<()> {
        self.rows.host.clear();
        self.rows.host.extend(rows);
        self.rows.upload(self.queue.dev())?;
        let logits = self.decoder.logits(&mut self.queue, &self.kernels, self.rows.view(), &mut self.act)?;
        logits.as_view().read_to(self.queue.dev(), &mut self.raw)?;
        self.soft_cap();
        Ok(())
    }

    fn soft_cap(&mut self) {
        if let Some(cap) = self.decoder.config().final_softcap {
            self.raw.iter_mut().for_each(|v| *v = cap * (*v / cap).tanh());
        }
    }

    /// Draws the next token of rows `range` of `self.draws`.
    fn draw(&mut self, batch: &Batch<'_>, range: std::ops::Range<usize>, out: &mut StepResult) -> Result<()> {
        let draws = &self.draws[range.clone()];
        self.rows.host.clear();
        self.sampling.clear();
        for &(row, id) in draws {
            self.rows.host.push(row);
            self.sampling.push(&batch.seqs[id]);
        }
        let dev = self.queue.dev().clone();
        self.rows.upload(&dev)?;
        self.sampling.upload(&dev)?;
        let mut logits =
            self.decoder.logits(&mut self.queue, &self.kernels, self.rows.view(), &mut self.act)?;
        let wants = |seq: &Sequence| seq.params.logprobs.is_some();
        let keep_raw = draws.iter().any(|&(_, id)| wants(&batch.seqs[id]));
        if keep_raw {
            logits.as_view().read_to(&dev, &mut self.raw)?;
        }
        let s = &self.sampling;
        let softcap = self.decoder.config().final_softcap;
        if s.needs_processing() || softcap.is_some() {
            let args = LogitsArgs {
                logits: logits.reborrow(),
                params: s.logit_params.view().reshape(&[draws.len(), 5]),
                history_start: s.history_start.view(),
                history_ids: s.history_ids.view(),
                history_counts: s.history_counts.view(),
                bias_start: s.bias_start.view(),
                bias_ids: s.bias_ids.view(),
                bias_values: s.bias_values.view(),
                softcap,
            };
            run(&*self.kernels.logits, &mut self.queue, args)?;
        }
        let args = SampleArgs {
            logits: logits.as_view(),
            top_p_tail: s.top_p_tail.view(),
            params: s.params.view().reshape(&[draws.len(), 5]),
            spec: s.spec,
            out: self.sampled.rows_mut(0..draws.len()),
        };
        run(&*self.kernels.sample, &mut self.queue, args)?;
        self.sampled.rows(0..draws.len()).read_to(&dev, &mut self.tokens)?;
        out.sampled
            .extend(self.tokens.iter().map(|&t| u32::try_from(t).map_or(Sampled::Invalid, Sampled::Token)));
        if keep_raw {
            self.soft_cap();
            let vocab = self.decoder.config().vocab_size;
            for ((logits, &token), &(_, id)) in
                self.raw.chunks_exact(vocab).zip(&self.tokens).zip(&self.draws[range])
            {
                if let (Some(top), Ok(token)) = (batch.seqs[id].params.logprobs, u32::try_from(token)) {
                    out.logprobs.push((id, token_logprobs(logits, token, top)));
                }
            }
        }
        Ok(())
    }

    /// Notes which rows of `item`, whose first token is row `first`, want logits.
    fn want(&mut self, item: &Item, seq: &Sequence, first: usize) {
        if item.sample {
            self.draws.push(((first + item.tokens - 1) as i32, item.id));
        }
        if seq.prompt_logprobs_wanted().is_some() {
            let last = (item.start + item.tokens).min(seq.prompt_len - 1);
            self.tells.extend((item.start..last).map(|p| ((first + p - item.start) as i32, item.id, p + 1)));
        }
    }

    /// Teacher-forced logits of every position of `tokens`, `[len, vocab]`, computed `chunk` tokens at a time through
    /// the paged cache; final soft-cap applied. Overwrites the cache: not for a runner that serves an engine.
    ///
    /// # Errors
    /// [`Error::Request`] when the tokens are none, out of range or do not fit; what the kernels report.
    pub fn score(&mut self, tokens: &[u32], chunk: usize) -> Result<Vec<f32>> {
        let (vocab, most) = (self.decoder.config().vocab_size, self.num_blocks * self.input.block_size);
        let most = most.min(self.input.max_blocks * self.input.block_size);
        if tokens.is_empty() || tokens.len() > most {
            return Err(Error::request("ids", format!("{} tokens", tokens.len()), format!("1 to {most}")));
        }
        if let Some(t) = tokens.iter().find(|&&t| t as usize >= vocab) {
            return Err(Error::request("ids", t, format!("token ids below {vocab}")));
        }
        // Not in order, so that a kernel that ignores the block table is found out.
        let table: Vec<u32> = (0..tokens.len().div_ceil(self.input.block_size) as u32).rev().collect();
        let mut out = Vec::with_capacity(tokens.len() * vocab);
        let chunk = chunk.clamp(1, self.input.ids.capacity());
        for (i, part) in tokens.chunks(chunk).enumerate() {
            self.input.clear();
            self.input.push(part, i * chunk, &table);
            self.forward(usize::from(part.len() == 1))?;
            for from in (0..part.len()).step_by(self.max_rows) {
                let to = part.len().min(from + self.max_rows);
                self.read_logits(from as i32..to as i32)?;
                out.extend_from_slice(&self.raw);
            }
        }
        Ok(out)
    }
}

impl<D: Device> Executor for Runner<D> {
    fn execute(&mut self, batch: &Batch<'_>, out: &mut StepResult) -> Result<()> {
        self.input.clear();
        self.draws.clear();
        self.tells.clear();
        for item in batch.items {
            let seq = &batch.seqs[item.id];
            self.want(item, seq, self.input.ids.host.len());
            self.input.push(&seq.tokens[item.start..item.start + item.tokens], item.start, &seq.block_table);
        }
        self.forward(batch.num_decodes)?;
        for from in (0..self.draws.len()).step_by(self.max_rows) {
            self.draw(batch, from..self.draws.len().min(from + self.max_rows), out)?;
        }
        for from in (0..self.tells.len()).step_by(self.max_rows) {
            let range = from..self.tells.len().min(from + self.max_rows);
            let tells = std::mem::take(&mut self.tells);
            self.read_logits(tells[range.clone()].iter().map(|t| t.0))?;
            let vocab = self.decoder.config().vocab_size;
            for (logits, &(_, id, position)) in self.raw.chunks_exact(vocab).zip(&tells[range]) {
                let seq = &batch.seqs[id];
                let top = seq.prompt_logprobs_wanted().unwrap_or(0);
                out.prompt_logprobs.push((id, position, token_logprobs(logits, seq.tokens[position], top)));
            }
            self.tells = tells;
        }
        Ok(())
    }
}
