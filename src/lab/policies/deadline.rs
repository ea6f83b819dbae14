//! Earliest slack first.

use super::{Ranked, predicted_left};
use crate::engine::{Budget, Plan, Scheduler, Sequence, View};

/// Slack is what is left until the deadline once the predicted output is generated. Time passes for all alike, so the order
/// of slacks is that of `deadline - predicted time`, and stays. A request without a deadline has one
/// [`Deadline::DEFAULT`] after its arrival. Preempts only for want of blocks. Under overload it serves requests that are
/// late anyway before those that could still be in time. Source: least slack first, Dertouzos and Mok, IEEE TSE 15 (1989);
/// earliest deadline first, Liu and Layland, JACM 20 (1973).
#[derive(Debug)]
pub struct Deadline(Ranked);

impl Deadline {
    /// Seconds that the predictor assumes for a token of output.
    pub const SECONDS_PER_TOKEN: f64 = 0.02;
    /// Seconds from arrival to the deadline of a request that has none.
    pub const DEFAULT: f64 = 30.0;

    fn rank(seq: &Sequence) -> f64 {
        let deadline = seq.options.deadline.unwrap_or(seq.timing.arrival + Self::DEFAULT);
        deadline - Self::SECONDS_PER_TOKEN * predicted_left(seq) as f64
    }
}

impl Default for Deadline {
    fn default() -> Self {
        Self(Ranked::new(Self::rank, false))
    }
}

impl Scheduler for Deadline {
    fn name(&self) -> &'static str {
        "deadline"
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
