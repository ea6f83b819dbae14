//! Multi-level feedback queue: who has had little service goes first.

use super::Ranked;
use crate::engine::{Budget, Plan, Scheduler, Sequence, View};

/// Nothing is predicted. A request starts at a level that fits its prompt ("skip-join") and sinks one level each time that
/// its service doubles; lower levels are preempted for higher ones. A level is a handicap of
/// [`Mlfq::SECONDS_PER_LEVEL`], which takes the place of the promotion of starving requests.
/// Source: FastServe, arXiv:2305.05920; Corbató et al., An experimental time-sharing system (1962).
#[derive(Debug)]
pub struct Mlfq(Ranked);

impl Mlfq {
    /// Generated tokens that level 0 serves; each further level twice as many as all before it.
    pub const QUANTUM: usize = 32;
    /// Tokens of a prompt that count as one generated token, being computed together.
    pub const PROMPT_TOKENS: usize = 32;
    /// Seconds of waiting that make up for one level.
    pub const SECONDS_PER_LEVEL: f64 = 5.0;

    /// The level: 0 is served first.
    pub fn level(prompt_tokens: usize, generated: usize) -> u32 {
        ((prompt_tokens / Self::PROMPT_TOKENS + generated) / Self::QUANTUM + 1).ilog2()
    }

    fn rank(seq: &Sequence) -> f64 {
        let level = Self::level(seq.prompt_len, seq.generated());
        seq.timing.arrival + Self::SECONDS_PER_LEVEL * f64::from(level)
    }
}

impl Default for Mlfq {
    fn default() -> Self {
        Self(Ranked::new(Self::rank, true))
    }
}

impl Scheduler for Mlfq {
    fn name(&self) -> &'static str {
        "mlfq"
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
