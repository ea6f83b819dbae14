//! Shortest job first, by predicted length.

use super::{Ranked, predicted_left};
use crate::engine::{Budget, Plan, Scheduler, Sequence, View};

/// The waiting queue is served by predicted output length (`predicted_len`, else `max_tokens`), with aging: each token
/// is a handicap of [`Sjf::SECONDS_PER_TOKEN`], so that a request of `n` predicted tokens is passed over only by those
/// that arrive less than `n` times that later. Running sequences are preempted only for want of blocks.
/// Source: shortest job first, Conway, Maxwell and Miller, Theory of Scheduling (1967); for LLMs by predicted length,
/// arXiv:2408.15792, which ages by counting steps.
#[derive(Debug)]
pub struct Sjf(Ranked);

impl Sjf {
    /// Seconds that a request lets others go ahead by, for each token of its predicted output.
    pub const SECONDS_PER_TOKEN: f64 = 0.2;
}

impl Default for Sjf {
    fn default() -> Self {
        Self(Ranked::new(
            |seq| seq.timing.arrival + Self::SECONDS_PER_TOKEN * predicted_left(seq) as f64,
            false,
        ))
    }
}

impl Scheduler for Sjf {
    fn name(&self) -> &'static str {
        "sjf"
    }

    fn plan(&mut self, view: &View<'_>, budget: Budget, plan: &mut Plan) {
        self.0.plan(view, budget, plan);
    }

    fn added(&mut self, seq: &Sequence) {
        self.0.added(seq);
    }

    fn finished(&mut self, seq: &Sequence) {
        self.0.finished(seq);
    }
}
