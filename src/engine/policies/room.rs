//! What policies have in common: keeping count of tokens and blocks, and preempting from the end of an order.

use crate::engine::{
    scheduler::{Budget, Plan, View},
    sequence::SeqId,
};

/// What is left of a step's tokens and blocks while its plan is written.
#[derive(Debug)]
pub struct Room<'a> {
    pub(crate) view: &'a View<'a>,
    /// All running sequences, the first to be preempted last.
    pub(crate) order: &'a [SeqId],
    pub(crate) tokens: usize,
    pub(crate) free_blocks: usize,
    pub(crate) seqs: usize,
    /// Running sequences from this index on are preempted.
    pub(crate) kept: usize,
    /// Whether a sequence was admitted that has hits, perhaps in blocks of running ones.
    pub(crate) shares: bool,
}

impl<'a> Room<'a> {
    /// All of the budget and the free blocks; the oldest sequences go first and the youngest are preempted.
    pub fn new(view: &'a View<'a>, budget: Budget) -> Self {
        Self::in_order(view, view.running(), budget)
    }

    /// As [`Self::new`], in another order of all running sequences. If [`View::oldest`] runs, it must be the first.
    pub fn in_order(view: &'a View<'a>, order: &'a [SeqId], budget: Budget) -> Self {
        let (kept, free_blocks) = (order.len(), view.free_blocks());
        let seqs = budget.seqs.saturating_sub(kept);
        Self { view, order, tokens: budget.tokens, free_blocks, seqs, kept, shares: false }
    }

    /// Runs those running sequences whose remaining tokens `pick` accepts, in order, as far as tokens reach. One that
    /// lacks a block takes it from the last; the last itself waits. Returns whether it passed over any.
    pub fn go_on(&mut self, plan: &mut Plan, mut pick: impl FnMut(usize) -> bool) -> bool {
        let (mut index, mut passed) = (0, false);
        while index < self.kept && self.tokens > 0 {
            let id = self.order[index];
            index += 1;
            let need = self.view.need(id);
            if !pick(need.remaining) {
                passed = true;
                continue;
            }
            let mut fit = need.fit(self.free_blocks);
            while fit == 0 && self.kept > index {
                self.preempt_last(plan);
                fit = need.fit(self.free_blocks);
            }
            let tokens = fit.min(self.tokens);
            if tokens > 0 {
                self.free_blocks -= need.blocks(tokens);
                self.tokens -= tokens;
                plan.run.push((id, tokens));
            }
        }
        passed
    }

    /// Admits the waiting sequences `order`, in that order, while all their blocks are free. `pick` is told whether the
    /// tokens suffice for all of one and whether it would be the plan's first; admission ends at the first that it
    /// refuses. A plan that preempts admits nobody.
    pub fn admit(
        &mut self,
        plan: &mut Plan,
        order: impl IntoIterator<Item = SeqId>,
        pick: impl Fn(bool, bool) -> bool,
    ) {
        if !plan.preempt.is_empty() {
            return;
        }
        for id in order {
            if self.is_full() {
                break;
            }
            let need = self.view.need(id);
            let tokens = need.remaining.min(self.tokens);
            let fits = need.blocks(need.remaining) <= self.free_blocks;
            if !fits || !pick(tokens == need.remaining, plan.run.is_empty()) {
                break;
            }
            self.shares |= need.start > 0;
            self.take(plan, id, tokens, need.blocks(tokens));
        }
    }

    /// Whether nobody can be admitted for want of tokens or of places among the running.
    pub fn is_full(&self) -> bool {
        self.tokens == 0 || self.seqs == 0
    }

    pub(crate) fn take(&mut self, plan: &mut Plan, id: SeqId, tokens: usize, blocks: usize) {
        self.free_blocks -= blocks;
        self.tokens -= tokens;
        self.seqs -= 1;
        plan.run.push((id, tokens));
    }

    pub(crate) fn preempt_last(&mut self, plan: &mut Plan) {
        self.kept -= 1;
        self.seqs += 1;
        let victim = self.order[self.kept];
        // It may already be in the plan, if others go before it for another reason than age.
        if let Some(at) = plan.run.iter().rposition(|&(id, _)| id == victim) {
            let (_, tokens) = plan.run.remove(at);
            self.tokens += tokens;
            self.free_blocks += self.view.blocks_needed(victim, tokens);
        }
        plan.preempt.push(victim);
        // Blocks that only the preempted share are counted for none of them. That is too few but never none: of all
        // preempted, the one admitted last holds its last block alone, unless a kept one has it.
        self.free_blocks += self.view.blocks_freed(victim);
    }
}
