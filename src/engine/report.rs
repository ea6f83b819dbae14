//! What an engine tells of itself: its time, what a step did, its counts.

use std::time::Instant;

use super::executor::Item;
use super::sequence::{FinishReason, RequestId, SeqId, Sequence};

/// Where the engine's seconds come from. Both start at 0.
#[derive(Clone, Copy, Debug)]
pub enum Clock {
    /// The machine's clock.
    Wall(Instant),
    /// The executor says how long a step took.
    Virtual(f64),
}

impl Clock {
    /// Seconds.
    pub fn now(self) -> f64 {
        match self {
            Self::Wall(start) => start.elapsed().as_secs_f64(),
            Self::Virtual(now) => now,
        }
    }
}

/// What a step did for one sequence that sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The sequence; [`Engine::seq`](super::Engine::seq) has all of it, until the next step begins if it is finished.
    pub id: SeqId,
    /// Its request.
    pub request: RequestId,
    /// Which of the request's `n` sequences.
    pub sample: u32,
    /// The new token; none if the logits were invalid.
    pub token: Option<u32>,
    /// Why it ended, if it did.
    pub finish: Option<FinishReason>,
}

/// Counts since the engine was made. Every computed token is one of prefill, decode and recomputed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Steps that ran.
    pub steps: usize,
    /// Tokens of prompts computed for the first time.
    pub prefill_tokens: usize,
    /// Generated tokens computed for the first time. Where steps overlap, also one of each sequence that had just ended.
    pub decode_tokens: usize,
    /// Tokens computed again after a preemption.
    pub recomputed_tokens: usize,
    /// Tokens of prompts that the prefix cache had.
    pub prefix_hit_tokens: usize,
    /// Tokens sampled, invalid ones included.
    pub sampled_tokens: usize,
    /// Times that a sequence was preempted.
    pub preemptions: usize,
    /// Sequences that ended, for whatever reason.
    pub finished: usize,
}

impl Stats {
    /// Counts an item that may lie in the prompt or before the point of a preemption.
    pub(super) fn count_chunk(&mut self, item: &Item, seq: &Sequence) {
        let (first_time, end) = (item.start.max(seq.computed_before), item.start + item.tokens);
        let fresh = end.saturating_sub(first_time);
        let prefill = end.min(seq.prompt_len).saturating_sub(first_time);
        self.prefill_tokens += prefill;
        self.decode_tokens += fresh - prefill;
        self.recomputed_tokens += item.tokens - fresh;
    }
}
