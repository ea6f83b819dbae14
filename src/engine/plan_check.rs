//! The rules of a plan, checked before anything moves.

use super::block_manager::new_blocks;
use super::executor::Item;
use super::scheduler::{Budget, Plan, View};
use super::sequence::{SeqId, Sequence, Status};
use crate::error::{Error, Result};

/// Checks plans, and works out what they come to, as it looks at every sequence anyway. Keeps its memory from step to step;
/// an entry counts only if it carries the current step's mark.
#[derive(Debug, Default)]
pub struct PlanCheck {
    /// The batch of the plan that was checked last: decodes, then chunks.
    pub(super) items: Vec<Item>,
    /// Items to sample.
    pub(super) samples: usize,
    /// Sequences that take blocks, with the positions that these must cover; those that the plan admits are among them.
    pub(super) takers: Vec<(SeqId, usize)>,
    chunks: Vec<Item>,
    mark: u64,
    /// By slot: whether the plan has named the sequence.
    seqs: Vec<(u64, Named)>,
    /// By block: owners that the plan preempts, and whether it gives the block to a sequence that it admits.
    blocks: Vec<(u64, u32, bool)>,
}

/// The rule and the details.
type Broken = (&'static str, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    Run,
    Preempt,
}

fn show(id: SeqId) -> String {
    format!("sequence {}", id.number())
}

impl PlanCheck {
    /// Checks a plan. Nothing of the engine changes.
    ///
    /// # Errors
    /// [`Error::Plan`] with the first rule that is broken.
    pub fn check(
        &mut self,
        scheduler: &'static str,
        view: &View<'_>,
        budget: Budget,
        plan: &Plan,
    ) -> Result<()> {
        self.mark += 1;
        self.seqs.resize(view.seqs.num_slots(), (0, Named::Run));
        self.blocks.resize(view.pool.num_blocks(), (0, 0, false));
        self.rules(view, budget, plan).map_err(|(rule, detail)| Error::Plan { scheduler, rule, detail })
    }

    fn rules(&mut self, view: &View<'_>, budget: Budget, plan: &Plan) -> Result<(), Broken> {
        let broken = |rule: &'static str, detail: String| Err((rule, detail));
        let mut freed = 0;
        for &id in &plan.preempt {
            let seq = self.name(view, id, Named::Preempt)?;
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
        self.items.clear();
        self.chunks.clear();
        self.takers.clear();
        let (mut tokens, mut blocks, mut admitted, mut samples) = (0, 0, 0, 0);
        for &(id, count) in &plan.run {
            let seq = self.name(view, id, Named::Run)?;
            // A sequence holds blocks if and only if it is running.
            let (start, held) = match seq.block_table.len() {
                0 if seq.status != Status::Waiting => {
                    let detail = format!("{} is {:?}", show(id), seq.status);
                    return broken("only waiting or running sequences run", detail);
                }
                0 => {
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
                held => (seq.computed, held),
            };
            if count == 0 {
                return broken("a sequence runs at least one token", show(id));
            }
            if count > seq.len() - start {
                let detail = format!("{} has {} left, not {count}", show(id), seq.len() - start);
                return broken("a sequence runs no more tokens than it has left", detail);
            }
            let end = start + count;
            let new = new_blocks(end, held, view.block_size());
            if new > 0 || seq.block_table.is_empty() {
                self.takers.push((id, end));
            }
            let item = Item { id, start, tokens: count, sample: end == seq.len() };
            if count == 1 {
                self.items.push(item)
            } else {
                self.chunks.push(item)
            }
            samples += usize::from(item.sample);
            tokens += count;
            blocks += new;
        }
        self.items.append(&mut self.chunks);
        self.samples = samples;
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
        Ok(())
    }

    /// The sequence, which the plan has not named before.
    #[inline]
    fn name<'a>(&mut self, view: &View<'a>, id: SeqId, named: Named) -> Result<&'a Sequence, Broken> {
        let Some(seq) = view.seqs.get(id) else {
            let detail = format!("no sequence {} in slot {}", id.number(), id.slot());
            return Err(("sequences must exist", detail));
        };
        let entry = &mut self.seqs[id.slot()];
        if entry.0 == self.mark {
            let once = "a sequence is listed once";
            let rule =
                if entry.1 == named { once } else { "a sequence is not preempted and run in one step" };
            return Err((rule, show(id)));
        }
        *entry = (self.mark, named);
        Ok(seq)
    }

    fn block(&mut self, block: u32) -> &mut (u64, u32, bool) {
        let entry = &mut self.blocks[block as usize];
        if entry.0 != self.mark {
            *entry = (self.mark, 0, false);
        }
        entry
    }
}
