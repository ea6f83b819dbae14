//! What the logits processor and the sampler read of each row's request.

use lathe_reference::sampling::top_p_tail;

use super::{
    sequence::{SeqId, Sequence, Sequences},
    staged::Staged,
};
use crate::{device::Device, error::Result, kernels::SampleSpec};

/// Parameters of the rows whose next token is drawn, as [`crate::kernels::LogitsArgs`] and
/// [`crate::kernels::SampleArgs`] take them.
pub struct SamplingInput<D: Device> {
    /// `[rows, 5]`: temperature, min_p, repetition, frequency and presence penalty.
    pub logit_params: Staged<D, f32>,
    /// `[rows + 1]`.
    pub history_start: Staged<D, i32>,
    /// Distinct tokens of rows with penalties.
    pub history_ids: Staged<D, i32>,
    /// How often each is in the output.
    pub history_counts: Staged<D, i32>,
    /// `[rows + 1]`.
    pub bias_start: Staged<D, i32>,
    /// Tokens with a bias, or banned.
    pub bias_ids: Staged<D, i32>,
    /// Their biases.
    pub bias_values: Staged<D, f32>,
    /// `[rows]`.
    pub temperature: Staged<D, f32>,
    /// `[rows]`: what top-p may cut off.
    pub top_p_tail: Staged<D, f32>,
    /// `[rows, 5]`: greedy, top_k, seed (low, high), position.
    pub params: Staged<D, i32>,
    /// What the rows ask for together.
    pub spec: SampleSpec,
    /// Whether only positions differ from what is on the device.
    steady: bool,
    /// By token: where the current row's history has it, as `epoch << 32 | index`.
    seen: Vec<u64>,
    epoch: u64,
    processing: bool,
    logprobs: Option<usize>,
    eos: Vec<u32>,
}

impl<D: Device> SamplingInput<D> {
    /// Room for `rows` rows; `eos` ends a sequence unless it ignores that.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the memory is not there.
    pub fn new(dev: &D, rows: usize, vocab: usize, eos: &[u32]) -> Result<Self> {
        Ok(Self {
            logit_params: Staged::new(dev, 5 * rows)?,
            history_start: Staged::new(dev, rows + 1)?,
            history_ids: Staged::new(dev, 0)?,
            history_counts: Staged::new(dev, 0)?,
            bias_start: Staged::new(dev, rows + 1)?,
            bias_ids: Staged::new(dev, 0)?,
            bias_values: Staged::new(dev, 0)?,
            temperature: Staged::new(dev, rows)?,
            top_p_tail: Staged::new(dev, rows)?,
            params: Staged::new(dev, 5 * rows)?,
            spec: SampleSpec::default(),
            steady: false,
            seen: vec![0; vocab],
            epoch: 0,
            processing: false,
            logprobs: None,
            eos: eos.to_vec(),
        })
    }

    /// No rows.
    pub fn clear(&mut self) {
        for s in [&mut self.history_ids, &mut self.history_counts, &mut self.bias_ids, &mut self.params] {
            s.host.clear();
        }
        for s in [&mut self.logit_params, &mut self.bias_values, &mut self.temperature, &mut self.top_p_tail]
        {
            s.host.clear();
        }
        for s in [&mut self.history_start, &mut self.bias_start] {
            s.host.clear();
            s.host.push(0);
        }
        self.spec = SampleSpec::default();
        (self.processing, self.logprobs, self.steady) = (false, None, false);
    }

    /// Stages the rows that draw the next tokens of `ids`, with greedy ones that ask for nothing until there are `rows`.
    /// `again`: of the same sequences and as many rows as last uploaded.
    pub fn stage(&mut self, ids: impl Iterator<Item = SeqId>, seqs: &Sequences, rows: usize, again: bool) {
        // Lists grow with the sequences.
        self.steady = again && self.history_ids.host.is_empty() && self.bias_ids.host.is_empty();
        if self.steady {
            for (row, id) in self.params.host.chunks_exact_mut(5).zip(ids) {
                row[4] = seqs[id].len() as i32;
            }
            return;
        }
        self.clear();
        ids.for_each(|id| self.push(&seqs[id]));
        self.pad(rows);
    }

    /// Whether some row's logits change before the draw.
    pub fn needs_processing(&self) -> bool {
        self.processing
    }

    /// The most log-probabilities that a row asks for, if any does.
    pub fn logprobs(&self) -> Option<usize> {
        self.logprobs
    }

    /// Adds the row that draws `seq`'s next token.
    fn push(&mut self, seq: &Sequence) {
        let p = &*seq.params;
        let greedy = p.temperature == 0.0;
        let penalised =
            p.repetition_penalty != 1.0 || p.frequency_penalty != 0.0 || p.presence_penalty != 0.0;
        // One by one: a thousand rows a step are staged, and an array would go over the stack.
        for v in [p.temperature, p.min_p, p.repetition_penalty, p.frequency_penalty, p.presence_penalty] {
            self.logit_params.host.push(v);
        }
        if penalised {
            self.history(seq);
        }
        self.history_start.host.push(self.history_ids.host.len() as i32);
        for (&token, &bias) in &p.logit_bias {
            self.bias_ids.host.push(token as i32);
            self.bias_values.host.push(bias);
        }
        if seq.suppresses_stop() {
            let eos = if p.ignore_eos { &[][..] } else { &self.eos };
            for &token in eos.iter().chain(&p.stop_token_ids) {
                self.bias_ids.host.push(token as i32);
                self.bias_values.host.push(f32::NEG_INFINITY);
            }
        }
        let biases = self.bias_ids.host.len() as i32;
        let plain = (greedy || p.min_p == 0.0) && !penalised && self.bias_start.host.last() == Some(&biases);
        self.processing |= !plain;
        self.bias_start.host.push(biases);
        let top_k = p.top_k.map_or(0, |k| k.get().min(i32::MAX as u32) as i32);
        self.temperature.host.push(p.temperature);
        self.top_p_tail.host.push(top_p_tail(p.top_p));
        let (low, high) = (seq.seed as u32 as i32, (seq.seed >> 32) as u32 as i32);
        for v in [i32::from(greedy), top_k, low, high, seq.len() as i32] {
            self.params.host.push(v);
        }
        self.spec.random |= !greedy;
        self.spec.truncated |= !greedy && (top_k > 0 || p.top_p < 1.0);
        self.logprobs = self.logprobs.max(p.logprobs);
    }

    /// Adds greedy rows that ask for nothing until there are `rows`.
    pub fn pad(&mut self, rows: usize) {
        for _ in self.top_p_tail.host.len()..rows {
            self.logit_params.host.extend([0.0, 0.0, 1.0, 0.0, 0.0]);
            self.history_start.host.push(self.history_ids.host.len() as i32);
            self.bias_start.host.push(self.bias_ids.host.len() as i32);
            self.temperature.host.push(0.0);
            self.top_p_tail.host.push(0.0);
            self.params.host.extend([1, 0, 0, 0, 0]);
        }
    }

    /// Values that there is room for on the device, in the lists that may grow.
    pub fn capacity(&self) -> usize {
        [&self.history_ids, &self.history_counts, &self.bias_ids].map(Staged::capacity).iter().sum::<usize>()
            + self.bias_values.capacity()
    }

    /// The distinct tokens of the sequence, with how often each is in its output.
    fn history(&mut self, seq: &Sequence) {
        self.epoch += 1;
        for (at, &token) in seq.tokens.iter().enumerate() {
            let output = i32::from(at >= seq.prompt_len);
            let seen = &mut self.seen[token as usize];
            if *seen >> 32 == self.epoch {
                self.history_counts.host[(*seen & 0xffff_ffff) as usize] += output;
            } else {
                *seen = self.epoch << 32 | self.history_ids.host.len() as u64;
                self.history_ids.host.push(token as i32);
                self.history_counts.host.push(output);
            }
        }
    }

    /// Copies the rows to the device.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when a copy fails.
    pub fn upload(&mut self, dev: &D) -> Result<()> {
        if self.steady {
            return self.params.upload(dev);
        }
        for s in [
            &mut self.history_start,
            &mut self.history_ids,
            &mut self.history_counts,
            &mut self.bias_start,
            &mut self.bias_ids,
            &mut self.params,
        ] {
            s.upload(dev)?;
        }
        for s in [&mut self.logit_params, &mut self.bias_values, &mut self.temperature, &mut self.top_p_tail]
        {
            s.upload(dev)?;
        }
        Ok(())
    }
}
