//! The rules of a plan, checked before anything moves.

use super::scheduler::{Budget, Plan, View, new_blocks};
use super::sequence::{SeqId, Status};
use crate::error::{Error, Result};

/// Checks plans. Keeps its memory from step to step; an entry counts only if it carries the current step's mark.
#[derive(Debug, Default)]
pub struct PlanCheck {
    mark: u64,
    /// By slot: whether the plan has named the sequence.
    seqs: Vec<(u64, Named)>,
    /// By block: owners that the plan preempts, and whether it gives the block to a sequence that it admits.
    blocks: Vec<(u64, u32, bool)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    Run,
    Preempt,
}

impl PlanCheck {
    /// Checks a plan and counts the sequences that it admits. Nothing of the engine changes.
    ///
    /// # Errors
    /// [`Error::Plan`] with the first rule that is broken.
    pub fn check(
        &mut self,
        scheduler: &'static str,
        view: &View<'_>,
        budget: Budget,
        plan: &Plan,
    ) -> Result<usize> {
        self.mark += 1;
        self.seqs.resize(view.seqs.num_slots(), (0, Named::Run));
        self.blocks.resize(view.pool.num_blocks(), (0, 0, false));
        self.rules(view, budget, plan).map_err(|(rule, detail)| Error::Plan { scheduler, rule, detail })
    }

    fn rules(
        &mut self,
        view: &View<'_>,
        budget: Budget,
        plan: &Plan,
    ) -> Result<usize, (&'static str, String)> {
        let broken = |rule: &'static str, detail: String| Err((rule, detail));
        let show = |id: SeqId| format!("sequence {}", id.number());
        let mut freed = 0;
        for &id in &plan.preempt {
            self.name(view, id, Named::Preempt)?;
            let seq = &view.seqs[id];
            if seq.status != Status::Running {
                return broken(
                    "only running sequences are preempted",
                    format!("{} is {:?}", show(id), seq.status),
                );
            }
            if view.oldest() == Some(id) {
                return broken("the oldest unfinished request is never preempted", show(id));
            }
            for &block in &seq.block_table {
                let entry = self.block(block);
                entry.1 += 1;
                freed += usize::from(entry.1 as usize == view.pool.owners(block));
            }
        }
        if plan.run.is_empty() {
            let left = format!("{} waiting, {} running", view.waiting.len(), view.running.len());
            return broken("a plan runs something while requests are unfinished", left);
        }
        let (mut tokens, mut blocks, mut admitted) = (0, 0, 0);
        for &(id, count) in &plan.run {
            self.name(view, id, Named::Run)?;
            let seq = &view.seqs[id];
            let (start, held) = match seq.status {
                Status::Running => (seq.computed, seq.block_table.len()),
                Status::Waiting => {
                    admitted += 1;
                    let mut hits = 0;
                    for (block, _) in view.pool.hits(seq) {
                        let entry = self.block(block);
                        let ownerless = entry.1 as usize == view.pool.owners(block);
                        blocks += usize::from(ownerless && !entry.2);
                        entry.2 = true;
                        hits += 1;
                    }
                    (hits * view.block_size(), hits)
                }
                other => {
                    return broken(
                        "only waiting or running sequences run",
                        format!("{} is {other:?}", show(id)),
                    );
                }
            };
            if count == 0 {
                return broken("a sequence runs at least one token", show(id));
            }
            if count > seq.len() - start {
                let detail = format!("{} has {} left, not {count}", show(id), seq.len() - start);
                return broken("a sequence runs no more tokens than it has left", detail);
            }
            tokens += count;
            blocks += new_blocks(start + count, held, view.block_size());
        }
        if tokens > budget.tokens {
            return broken("max_num_batched_tokens", format!("{tokens} tokens, {} allowed", budget.tokens));
        }
        let seqs = view.running.len() - plan.preempt.len() + admitted;
        if seqs > budget.seqs {
            return broken("max_num_seqs", format!("{seqs} sequences would run, {} allowed", budget.seqs));
        }
        let free = view.free_blocks() + freed;
        if blocks > free {
            return broken("blocks must be free", format!("{blocks} blocks needed, {free} free"));
        }
        Ok(admitted)
    }

    fn name(&mut self, view: &View<'_>, id: SeqId, named: Named) -> Result<(), (&'static str, String)> {
        if view.seqs.get(id).is_none() {
            return Err((
                "sequences must exist",
                format!("no sequence {} in slot {}", id.number(), id.slot()),
            ));
        }
        let entry = &mut self.seqs[id.slot()];
        if entry.0 == self.mark {
            let rule = if entry.1 == named {
                "a sequence is listed once"
            } else {
                "a sequence is not preempted and run in one step"
            };
            return Err((rule, format!("sequence {}", id.number())));
        }
        *entry = (self.mark, named);
        Ok(())
    }

    fn block(&mut self, block: u32) -> &mut (u64, u32, bool) {
        let entry = &mut self.blocks[block as usize];
        if entry.0 != self.mark {
            *entry = (self.mark, 0, false);
        }
        entry
    }
}
