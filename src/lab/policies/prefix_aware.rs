//! Longest cached prefix first.

use std::cmp::Reverse;

use crate::engine::{Budget, Plan, Scheduler, SeqId, View, policies::Room};

/// Of the [`PrefixAware::WINDOW`] oldest waiting requests, the one with the most tokens in the prefix cache is admitted
/// first, while its blocks are still there. One that has waited [`PrefixAware::PATIENCE`] is admitted before all that
/// arrived later. Decodes come first, as in [`Chunked`](crate::engine::policies::Chunked).
/// Source: SGLang's longest-prefix-match scheduling, arXiv:2312.07104, which has no bound on starvation.
#[derive(Debug, Default)]
pub struct PrefixAware {
    window: Vec<(Reverse<usize>, SeqId)>,
}

impl PrefixAware {
    /// Waiting requests that are compared, so that a step costs the same however long the queue is.
    pub const WINDOW: usize = 64;
    /// Seconds after which a request is no longer passed over.
    pub const PATIENCE: f64 = 5.0;
}

impl Scheduler for PrefixAware {
    fn name(&self) -> &'static str {
        "prefix_aware"
    }

    fn plan(&mut self, view: &View<'_>, budget: Budget, plan: &mut Plan) {
        let mut room = Room::new(view, budget);
        room.decodes_first(plan);
        if room.is_full() {
            return;
        }
        self.window.clear();
        self.window.extend(view.waiting().take(Self::WINDOW).map(|id| {
            let impatient = view.now() - view.seq(id).timing.arrival >= Self::PATIENCE;
            (Reverse(if impatient { usize::MAX } else { view.cached_tokens(id) }), id)
        }));
        self.window.sort_unstable();
        room.admit(plan, self.window.iter().map(|&(_, id)| id), |_, _| true);
    }
}
