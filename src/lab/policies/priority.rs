//! By priority, with preemption and aging.

use super::Ranked;
use crate::engine::{Budget, Plan, Scheduler, Sequence, View};

/// The smaller `priority` is, the earlier, as in vLLM; equals by arrival. A waiting request takes the place and the blocks
/// of running ones that are less urgent. A level is worth [`Priority::SECONDS_PER_LEVEL`] of waiting, so that nobody
/// starves. Source: vLLM's priority scheduling (`vllm/v1/core/sched/request_queue.py`); aging as in Silberschatz,
/// Galvin and Gagne, Operating System Concepts, "priority scheduling".
#[derive(Debug)]
pub struct Priority(Ranked);

impl Priority {
    /// Seconds of waiting that make up for one level of priority.
    pub const SECONDS_PER_LEVEL: f64 = 10.0;
}

impl Default for Priority {
    fn default() -> Self {
        Self(Ranked::new(
            |seq| seq.timing.arrival + Self::SECONDS_PER_LEVEL * f64::from(seq.options.priority),
            true,
        ))
    }
}

impl Scheduler for Priority {
    fn name(&self) -> &'static str {
        "priority"
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
