//! What policies that rank requests have in common.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use crate::engine::{Budget, Plan, SeqId, Sequence, Status, View, policies::Room};

/// Tokens that the sequence is expected to generate from now on, at least 1: as its predictor says, or else up to the
/// length that it may reach.
pub fn predicted_left(seq: &Sequence) -> usize {
    let whole = seq.options.predicted_len.unwrap_or(seq.max_len - seq.prompt_len);
    whole.saturating_sub(seq.generated()).max(1)
}

/// Serves requests by rank, the lowest first: decodes, then prompts already begun, then the waiting queue.
///
/// A rank is a time in seconds: when the request arrived, and what it must let others go ahead by. Since waiting
/// lowers all ranks alike in comparison with those that arrive later, this is aging: a request is passed over only by
/// those that arrive before `rank - (least handicap)`, however many there are, and starves only if that is infinite.
/// Ranks of waiting sequences do not change, so that a step costs the same however long the queue is.
///
/// When blocks are short, the running sequence of the highest rank is preempted, but never the oldest request, which
/// runs in every step. A `preemptive` policy also preempts running sequences for waiting ones of a lower rank.
#[derive(Debug)]
pub struct Ranked {
    rank: fn(&Sequence) -> f64,
    preemptive: bool,
    /// All unfinished sequences; the ranks of running ones are those of when they last waited.
    queue: BTreeSet<(Rank, SeqId)>,
    /// Their ranks in `queue`, by slot.
    queued: Vec<Rank>,
    // Kept from step to step for their memory.
    sorted: Vec<(Rank, SeqId)>,
    order: Vec<SeqId>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Rank(f64);

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Rank {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Rank {}

impl Ranked {
    /// By this rank, which may change only while a sequence runs.
    pub fn new(rank: fn(&Sequence) -> f64, preemptive: bool) -> Self {
        let (queue, queued) = (BTreeSet::new(), Vec::new());
        Self { rank, preemptive, queue, queued, sorted: Vec::new(), order: Vec::new() }
    }

    /// As [`crate::engine::Scheduler::added`].
    pub fn added(&mut self, seq: &Sequence) {
        let slot = seq.id.slot();
        if slot >= self.queued.len() {
            self.queued.resize(slot + 1, Rank::default());
        }
        self.queued[slot] = Rank((self.rank)(seq));
        self.queue.insert((self.queued[slot], seq.id));
    }

    /// As [`crate::engine::Scheduler::finished`].
    pub fn finished(&mut self, seq: &Sequence) {
        self.queue.remove(&(self.queued[seq.id.slot()], seq.id));
    }

    /// As [`crate::engine::Scheduler::plan`].
    pub fn plan(&mut self, view: &View<'_>, budget: Budget, plan: &mut Plan) {
        self.sort_running(view);
        let mut room = Room::in_order(view, &self.order, budget);
        room.decodes_first(plan);
        let rank_of = self.rank;
        for &(rank, id) in &self.queue {
            if view.waiting().len() == 0 || (room.is_full() && !self.preemptive) {
                break;
            }
            if view.seq(id).status != Status::Waiting {
                continue;
            }
            // Blocks freed by preempting one that goes first are not for this one.
            let goes_first = |&victim: &SeqId| (Rank(rank_of(view.seq(victim))), victim) < (rank, id);
            if plan.preempt.iter().any(goes_first) {
                break;
            }
            let before = plan.run.len();
            room.admit(plan, [id], |_, _| true);
            let yields = |victim| !goes_first(&victim);
            if plan.run.len() == before && !(self.preemptive && room.admit_over(plan, id, yields)) {
                break;
            }
        }
        for &id in &plan.preempt {
            self.finished(view.seq(id));
            self.added(view.seq(id));
        }
    }

    /// Running sequences by rank, the oldest request before all others.
    fn sort_running(&mut self, view: &View<'_>) {
        let (rank_of, oldest) = (self.rank, view.oldest());
        self.sorted.clear();
        self.sorted.extend(view.running().iter().map(|&id| {
            let rank = if Some(id) == oldest { f64::NEG_INFINITY } else { rank_of(view.seq(id)) };
            (Rank(rank), id)
        }));
        self.sorted.sort_unstable();
        self.order.clear();
        self.order.extend(self.sorted.iter().map(|&(_, id)| id));
    }
}
