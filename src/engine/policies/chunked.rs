//! Decodes first, then prefill chunks by arrival.

use super::{Room, Scheduler};
use crate::engine::scheduler::{Budget, Plan, View};

/// Every decode runs in every step; what is left of the token budget goes to prompts, oldest first, the last of them
/// cut to fit. No prompt stalls the decodes. Source: Sarathi-Serve, arXiv:2403.02310.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chunked;

impl Scheduler for Chunked {
    fn name(&self) -> &'static str {
        "chunked"
    }

    fn plan(&mut self, view: &View<'_>, budget: Budget, plan: &mut Plan) {
        let mut room = Room::new(view, budget);
        if room.go_on(plan, |remaining| remaining == 1) {
            room.go_on(plan, |remaining| remaining > 1);
        }
        room.admit(plan, view.waiting(), |_, _| true);
    }
}
