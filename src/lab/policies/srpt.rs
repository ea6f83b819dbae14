//! Shortest remaining processing time, by predicted length.

use super::{Ranked, predicted_left};
use crate::engine::{Budget, Plan, Scheduler, Sequence, View};

/// As [`super::Sjf`], by the output that is left, and preemptive: a waiting request takes the place and the blocks of the
/// running one that has most left. One that has generated [`Srpt::COMMITTED`] of its predicted output is so nearly done
/// that it counts as if nothing were left, and is not preempted for others.
/// Source: Schrage, Operations Research 16 (1968); with limited preemption for LLMs, arXiv:2410.01035.
#[derive(Debug)]
pub struct Srpt(Ranked);

impl Srpt {
    /// As [`super::Sjf::SECONDS_PER_TOKEN`], for each token that is left.
    pub const SECONDS_PER_TOKEN: f64 = super::Sjf::SECONDS_PER_TOKEN;
    /// Share of the predicted output from which on a sequence keeps its place.
    pub const COMMITTED: f64 = 0.8;

    fn rank(seq: &Sequence) -> f64 {
        let (left, done) = (predicted_left(seq) as f64, seq.generated() as f64);
        let handicap = if done >= Self::COMMITTED * (done + left) { 0.0 } else { left };
        seq.timing.arrival + Self::SECONDS_PER_TOKEN * handicap
    }
}

impl Default for Srpt {
    fn default() -> Self {
        Self(Ranked::new(Self::rank, true))
    }
}

impl Scheduler for Srpt {
    fn name(&self) -> &'static str {
        "srpt"
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
