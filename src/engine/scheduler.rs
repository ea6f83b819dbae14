//! The scheduler seam: a policy looks at a [`View`] of the engine and writes a [`Plan`].
//!
//! A policy moves nothing itself. The engine checks the plan ([`super::PlanCheck`]), moves the blocks and runs it.

use std::collections::BTreeSet;

use super::block_manager::{BlockManager, new_blocks};
use super::sequence::{SeqId, Sequence, Sequences};

/// A scheduling policy: who computes how many tokens in the next step, and who gives up its blocks for that.
pub trait Scheduler: Send {
    /// The name that users choose it by.
    fn name(&self) -> &'static str;

    /// Writes the next step's plan. `plan` comes empty; at least one sequence is unfinished.
    fn plan(&mut self, view: &View<'_>, budget: Budget, plan: &mut Plan);

    /// A sequence entered the waiting queue for the first time.
    fn added(&mut self, _seq: &Sequence) {}

    /// A sequence that was `added` has finished or was aborted.
    fn finished(&mut self, _seq: &Sequence) {}
}

/// What one step may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Tokens to compute (`max_num_batched_tokens`).
    pub tokens: usize,
    /// Sequences that may hold blocks (`max_num_seqs`).
    pub seqs: usize,
}

/// What to do in one step. The rules are [`super::PlanCheck::check`]'s.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Sequences to run and how many tokens of each; a waiting one is admitted by this.
    pub run: Vec<(SeqId, usize)>,
    /// Running sequences that give up their blocks first, to be recomputed later.
    pub preempt: Vec<SeqId>,
}

impl Plan {
    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.run.clear();
        self.preempt.clear();
    }
}

/// The engine's state, as policies see it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(super) seqs: &'a Sequences,
    pub(super) pool: &'a BlockManager,
    pub(super) waiting: &'a BTreeSet<SeqId>,
    pub(super) running: &'a [SeqId],
    pub(super) now: f64,
}

impl<'a> View<'a> {
    /// Sequences without blocks, in order of arrival; preempted ones are back at their place.
    pub fn waiting(&self) -> impl ExactSizeIterator<Item = SeqId> + DoubleEndedIterator + Clone + 'a {
        self.waiting.iter().copied()
    }

    /// Sequences that hold blocks, in order of arrival.
    pub fn running(&self) -> &'a [SeqId] {
        self.running
    }

    /// A sequence's facts. Panics for an id that is gone.
    pub fn seq(&self, id: SeqId) -> &'a Sequence {
        &self.seqs[id]
    }

    /// The sequence that arrived first of all unfinished ones; it must not be preempted.
    pub fn oldest(&self) -> Option<SeqId> {
        let (running, waiting) = (self.running.first(), self.waiting.first());
        running.into_iter().chain(waiting).min().copied()
    }

    /// Blocks that can be taken.
    pub fn free_blocks(&self) -> usize {
        self.pool.num_free()
    }

    /// Blocks in the pool.
    pub fn num_blocks(&self) -> usize {
        self.pool.num_blocks()
    }

    /// Tokens in a block.
    pub fn block_size(&self) -> usize {
        self.pool.block_size()
    }

    /// Seconds on the engine's clock.
    pub fn now(&self) -> f64 {
        self.now
    }

    /// Where the sequence goes on and what it holds. For a waiting one this looks into the prefix cache; the answer
    /// holds for this plan, whatever else is in it.
    pub fn need(&self, id: SeqId) -> Need {
        let (seq, block_size) = (&self.seqs[id], self.pool.block_size());
        let (start, held, revived) = match seq.block_table.len() {
            0 => {
                let hit = self.pool.lookup(seq);
                (hit.blocks * block_size, hit.blocks, hit.revived)
            }
            held => (seq.computed, held, 0),
        };
        Need { start, remaining: seq.len() - start, held, revived, block_size }
    }

    /// Tokens of a waiting sequence that the prefix cache has.
    pub fn cached_tokens(&self, id: SeqId) -> usize {
        self.pool.lookup(&self.seqs[id]).blocks * self.block_size()
    }

    /// Free blocks that running `tokens` tokens of the sequence takes.
    pub fn blocks_needed(&self, id: SeqId, tokens: usize) -> usize {
        self.need(id).blocks(tokens)
    }

    /// Free blocks that preempting this sequence gives, if no other sequence of the plan shares them.
    pub fn blocks_freed(&self, id: SeqId) -> usize {
        self.pool.owned_alone(&self.seqs[id])
    }
}

/// What it takes to run a sequence.
///
/// Adding up the blocks of several sequences never says too little, but may say too much where two of them revive the
/// same cached block. One exception: a waiting sequence may have hits in the blocks of one that the same plan
/// preempts, which are then not freed after all. Plans that preempt had better not admit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// First position to compute.
    pub start: usize,
    /// Tokens to compute until the next one can be sampled, at least 1.
    pub remaining: usize,
    held: usize,
    revived: usize,
    block_size: usize,
}

impl Need {
    /// Free blocks that running `tokens` tokens takes.
    pub fn blocks(&self, tokens: usize) -> usize {
        self.revived + new_blocks(self.start + tokens, self.held, self.block_size)
    }

    /// The most tokens, up to what remains, for which `free` blocks are enough; 0 if none.
    pub fn fit(&self, free: usize) -> usize {
        match free.checked_sub(self.revived) {
            Some(new) => self.remaining.min((self.held + new) * self.block_size - self.start),
            None => 0,
        }
    }
}
