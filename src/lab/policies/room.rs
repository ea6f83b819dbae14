//! What policies by rank need of [`Room`] besides.

use crate::engine::{Plan, SeqId, policies::Room};

impl Room<'_> {
    /// Runs the first in the order whatever it has left, then all decodes, then prompts already begun.
    pub fn decodes_first(&mut self, plan: &mut Plan) {
        let mut first = true;
        if self.go_on(plan, |remaining| std::mem::take(&mut first) || remaining == 1) {
            first = true;
            self.go_on(plan, |remaining| !std::mem::take(&mut first) && remaining > 1);
        }
    }

    /// Admits a waiting sequence at the cost of running ones: from the end of the order, those that `yields` accepts are
    /// preempted until it has a place and all its blocks. Returns false, having changed nothing, if that is not enough, if
    /// this step has no tokens left, which are not worth a preemption, or if one admitted before has hits in blocks that
    /// might be freed.
    pub fn admit_over(&mut self, plan: &mut Plan, id: SeqId, yields: impl Fn(SeqId) -> bool) -> bool {
        let need = self.view.need(id);
        // Its hits may lie in blocks that the plan frees: they are counted as if it had none.
        let blocks = |tokens: usize| (need.start + tokens).div_ceil(self.view.block_size());
        let (whole, oldest) = (blocks(need.remaining), self.view.oldest());
        let (mut kept, mut free, mut seqs) = (self.kept, self.free_blocks, self.seqs);
        if self.tokens == 0 {
            return false;
        }
        while free < whole || seqs == 0 {
            let Some(&victim) = self.order[..kept].last() else { return false };
            if self.shares || Some(victim) == oldest || !yields(victim) {
                return false;
            }
            kept -= 1;
            seqs += 1;
            free += self.view.blocks_freed(victim);
        }
        while self.kept > kept {
            self.preempt_last(plan);
        }
        let tokens = need.remaining.min(self.tokens);
        self.take(plan, id, tokens, blocks(tokens));
        true
    }
}
