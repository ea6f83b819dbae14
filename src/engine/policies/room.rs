//! What policies by arrival have in common: keeping count of tokens and blocks, and preempting the youngest.

use crate::engine::{
    scheduler::{Budget, Plan, View},
    sequence::SeqId,
};

/// What is left of a step's tokens and blocks while its plan is written.
#[derive(Debug)]
pub struct Room<'a> {
    view: &'a View<'a>,
    tokens: usize,
    free_blocks: usize,
    seqs: usize,
    /// Running sequences from this index on are preempted.
    kept: usize,
}

impl<'a> Room<'a> {
    /// All of the budget and the free blocks.
    pub fn new(view: &'a View<'a>, budget: Budget) -> Self {
        let (kept, free_blocks) = (view.running().len(), view.free_blocks());
        Self { view, tokens: budget.tokens, free_blocks, seqs: budget.seqs.saturating_sub(kept), kept }
    }

    /// Runs those running sequences whose remaining tokens `pick` accepts, oldest first, as far as tokens reach. One
    /// that lacks a block takes it from the youngest; the youngest itself waits. Returns whether it passed over any.
    pub fn go_on(&mut self, plan: &mut Plan, pick: impl Fn(usize) -> bool) -> bool {
        let running = self.view.running();
        let (mut index, mut passed) = (0, false);
        while index < self.kept && self.tokens > 0 {
            let id = running[index];
            index += 1;
            if !pick(self.view.seq(id).remaining()) {
                passed = true;
                continue;
            }
            let need = self.view.need(id);
            let mut fit = need.fit(self.free_blocks);
            while fit == 0 && self.kept > index {
                self.preempt_youngest(plan);
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
            if self.tokens == 0 || self.seqs == 0 {
                break;
            }
            let need = self.view.need(id);
            let tokens = need.remaining.min(self.tokens);
            let fits = need.blocks(need.remaining) <= self.free_blocks;
            if !fits || !pick(tokens == need.remaining, plan.run.is_empty()) {
                break;
            }
            self.free_blocks -= need.blocks(tokens);
            self.tokens -= tokens;
            self.seqs -= 1;
            plan.run.push((id, tokens));
        }
    }

    fn preempt_youngest(&mut self, plan: &mut Plan) {
        self.kept -= 1;
        let victim = self.view.running()[self.kept];
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
