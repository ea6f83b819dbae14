//! Prompts first, in order of arrival; decodes when there are none.

use super::{Room, Scheduler};
use crate::engine::scheduler::{Budget, Plan, View};

/// A step either computes prompts or decodes. Only the first prompt of a step may be cut to the token budget.
/// Source: nano-vLLM's scheduler (`nanovllm/engine/scheduler.py`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Fcfs;

impl Scheduler for Fcfs {
    fn name(&self) -> &'static str {
        "fcfs"
    }

    fn plan(&mut self, view: &View<'_>, budget: Budget, plan: &mut Plan) {
        let mut room = Room::new(view, budget);
        room.go_on(plan, |remaining| remaining > 1);
        room.admit(plan, view.waiting(), |whole, first| whole || first);
        if plan.run.is_empty() {
            room.go_on(plan, |remaining| remaining == 1);
        }
    }
}
