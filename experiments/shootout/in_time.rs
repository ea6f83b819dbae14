//! A policy of the experiment's own: those first who can still be in time.

use lathe::engine::{Budget, Plan, Scheduler, SeqId, Sequence, View, policies::Room};

/// Once the queue is longer than the promised time to first token, every policy by arrival or deadline serves requests that
/// are late already, and makes those behind them late too. This one admits, in order of arrival, requests that have waited
/// less than [`InTime::TTFT`], and late ones with what is left over; but one admission in [`InTime::LATE`] is the oldest
/// request's, late or not, so that nobody starves. Decodes go first.
///
/// The idea is that of dropping hopeless work under overload, as in Locke's best-effort scheduling (CMU-CS-86-134, 1986),
/// with the dropped served last.
#[derive(Debug, Default)]
pub struct InTime {
    /// Preempted sequences: they have waited long and yet go on first.
    preempted: Vec<SeqId>,
    admitted: usize,
}

impl InTime {
    /// Seconds that the SLO allows until the first token, less a step or two.
    pub const TTFT: f64 = 1.8;
    /// One admission in so many goes to the oldest waiting request.
    pub const LATE: usize = 8;
}

impl Scheduler for InTime {
    fn name(&self) -> &'static str {
        "in_time"
    }

    fn plan(&mut self, view: &View<'_>, budget: Budget, plan: &mut Plan) {
        let mut room = Room::new(view, budget);
        room.decodes_first(plan);
        self.preempted.retain(|&id| view.seq(id).block_table.is_empty());
        self.preempted.extend(&plan.preempt);
        if !plan.preempt.is_empty() || room.is_full() {
            return;
        }
        // In order of arrival, the late are a prefix of the queue, and those in time few.
        let (waiting, preempted) = (view.waiting(), &self.preempted);
        let in_time = |&id: &SeqId| view.now() - view.seq(id).timing.arrival <= Self::TTFT;
        let mut good: Vec<SeqId> = waiting.clone().rev().take_while(in_time).collect();
        let late = waiting.len() - good.len();
        good.retain(|id| !preempted.contains(id));
        let mut good = good.into_iter().rev();
        let mut old = waiting.take(late).filter(|id| !preempted.contains(id));
        let mut again = self.preempted.iter().copied();
        loop {
            let turn = (self.admitted + 1).is_multiple_of(Self::LATE);
            let next = again.next().or_else(|| if turn { old.next() } else { None });
            let Some(id) = next.or_else(|| good.next()).or_else(|| old.next()) else { break };
            let before = plan.run.len();
            room.admit(plan, [id], |_, _| true);
            if plan.run.len() == before {
                break;
            }
            self.admitted += 1;
        }
    }

    fn finished(&mut self, seq: &Sequence) {
        self.preempted.retain(|&id| id != seq.id);
    }
}
