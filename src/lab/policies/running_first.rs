//! Running sequences first, whatever they compute, then the waiting queue.

use crate::engine::{Budget, Plan, Scheduler, View, policies::Room};

/// There are no phases: in order of arrival, each running sequence computes what it has left, a prompt or one token, as
/// far as the budget goes; then waiting ones join. An older prompt goes before a younger decode, which
/// [`Chunked`](crate::engine::policies::Chunked) turns around.
/// Source: vLLM v1's scheduler (`vllm/v1/core/sched/scheduler.py`), which admits a prompt when its first chunk has
/// blocks, where this wants blocks for all of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunningFirst;

impl Scheduler for RunningFirst {
    fn name(&self) -> &'static str {
        "running_first"
    }

    fn plan(&mut self, view: &View<'_>, budget: Budget, plan: &mut Plan) {
        let mut room = Room::new(view, budget);
        room.go_on(plan, |_| true);
        room.admit(plan, view.waiting(), |_, _| true);
    }
}
