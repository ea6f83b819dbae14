//! What the engine asks of whoever computes a step: the model runner, a simulator, or a fake in a test.

use super::sequence::{SeqId, Sequences, TokenLogprobs};
use crate::error::Result;

/// Runs one validated batch.
pub trait Executor: Send {
    /// Computes the keys and values of every item's tokens, and samples a token for every item that asks for one, or
    /// starts to.
    ///
    /// `out` comes cleared.
    ///
    /// # Errors
    /// Whatever failed. The engine then takes nothing from `out`; no sequence loses or gains a token, and the same
    /// positions are asked for again.
    fn execute(&mut self, batch: &Batch<'_>, out: &mut StepResult) -> Result<()>;

    /// Waits for the earliest batch whose results were not collected, and adds to `out` what `execute` did not.
    ///
    /// # Errors
    /// As [`Self::execute`], for this batch and all later ones, which the executor forgets.
    fn collect(&mut self, _out: &mut StepResult) -> Result<()> {
        Ok(())
    }

    /// Whether a batch may come before the one before it was collected. Tokens that that draws are then
    /// [pending](super::Sequence::pending), and a batch with them has them from where they were drawn.
    fn overlaps(&self) -> bool {
        false
    }
}

/// The work of one step.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// At most one for each sequence; those with one token (decodes) first, then the longer chunks.
    pub items: &'a [Item],
    /// Items with one token.
    pub num_decodes: usize,
    /// Tokens, block tables and parameters of the sequences.
    pub seqs: &'a Sequences,
}

/// A part of one sequence to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// The sequence. Its block table covers `start + tokens` positions.
    pub id: SeqId,
    /// First position to compute; all earlier ones are in the KV cache.
    pub start: usize,
    /// Positions to compute, at least 1.
    pub tokens: usize,
    /// Whether the last position's logits give the sequence its next token.
    pub sample: bool,
}

/// What became of an item that was to be sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampled {
    /// The next token.
    Token(u32),
    /// The logits were NaN or left nothing to sample from; the sequence ends with an error.
    Invalid,
}

/// What a step computed.
#[derive(Debug, Default)]
pub struct StepResult {
    /// One for each item with `sample`, in the batch's order.
    pub sampled: Vec<Sampled>,
    /// For items with `sample` whose parameters ask for `logprobs`.
    pub logprobs: Vec<(SeqId, TokenLogprobs)>,
    /// For items of sequences with [`prompt_logprobs_wanted`](super::Sequence::prompt_logprobs_wanted): the prompt's
    /// token at this position, given those before it. Logits of positions `start..start + tokens` tell of the tokens
    /// at `start + 1..=start + tokens`, as far as the prompt goes.
    pub prompt_logprobs: Vec<(SeqId, usize, TokenLogprobs)>,
    /// How long the step took, in seconds, for an engine on a virtual clock.
    pub virtual_seconds: f64,
}

impl StepResult {
    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.sampled.clear();
        self.logprobs.clear();
        self.prompt_logprobs.clear();
        self.virtual_seconds = 0.0;
    }
}
