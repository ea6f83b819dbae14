//! Admits a request only if its longest possible output has room: nothing is ever preempted.

use crate::engine::{Budget, Plan, Scheduler, Sequence, View, policies::Room};

/// In order of arrival, decodes first. A request is admitted when the pool has blocks for the worst case of all running
/// sequences and its own: no work is ever lost, at the price of blocks that stand empty when outputs end early.
/// Source: TensorRT-LLM's capacity policy `GUARANTEED_NO_EVICT`; Orca (OSDI '22) reserves in the same way.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoEvict;

impl Scheduler for NoEvict {
    fn name(&self) -> &'static str {
        "no_evict"
    }

    fn plan(&mut self, view: &View<'_>, budget: Budget, plan: &mut Plan) {
        let mut room = Room::new(view, budget);
        room.decodes_first(plan);
        // The last token of a sequence is sampled but never computed.
        let worst = |seq: &Sequence| (seq.max_len - 1).div_ceil(view.block_size());
        let mut reserved: usize = view.running().iter().map(|&id| worst(view.seq(id))).sum();
        for id in view.waiting() {
            reserved += worst(view.seq(id));
            let before = plan.run.len();
            if reserved <= view.num_blocks() {
                room.admit(plan, [id], |_, _| true);
            }
            if plan.run.len() == before {
                break;
            }
        }
    }
}
