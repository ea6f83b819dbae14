//! Fair between tenants: the virtual token counter.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::{Budget, Plan, Scheduler, SeqId, Sequence, Status, View, policies::Room};

/// Admits the oldest waiting request of the tenant that has had the least service. A token of a prompt counts
/// [`Vtc::INPUT`] when it is admitted, a generated one [`Vtc::OUTPUT`] when it is planned. A tenant that comes back from
/// idleness starts at the least counter of those that are here, so that nobody saves up service.
/// As long as two tenants both wait, their counters differ by at most twice the larger of a request's longest input and
/// of a full batch's output. Source: arXiv:2401.00588, algorithms 2 and 4.
#[derive(Debug, Default)]
pub struct Vtc {
    tenants: BTreeMap<u32, Tenant>,
    /// The counter of the tenant that left last.
    left: u64,
}

#[derive(Debug, Default)]
struct Tenant {
    counter: u64,
    /// Its unfinished sequences.
    seqs: BTreeSet<SeqId>,
}

impl Vtc {
    /// Service of a token of a prompt.
    pub const INPUT: u64 = 1;
    /// Service of a generated token.
    pub const OUTPUT: u64 = 2;

    /// The service counted for a tenant.
    pub fn counter(&self, tenant: u32) -> u64 {
        self.tenants.get(&tenant).map_or(0, |tenant| tenant.counter)
    }

    fn charge(&mut self, seq: &Sequence, service: u64) {
        if let Some(tenant) = self.tenants.get_mut(&seq.options.tenant) {
            tenant.counter += service;
        }
    }
}

impl Scheduler for Vtc {
    fn name(&self) -> &'static str {
        "vtc"
    }

    fn plan(&mut self, view: &View<'_>, budget: Budget, plan: &mut Plan) {
        let mut room = Room::new(view, budget);
        room.decodes_first(plan);
        for &(id, tokens) in &plan.run {
            let seq = view.seq(id);
            if seq.generated() > 0 && tokens == seq.remaining() {
                self.charge(seq, Self::OUTPUT);
            }
        }
        if view.waiting().len() == 0 || room.is_full() {
            return;
        }
        let waits = |id: &SeqId| view.seq(*id).status == Status::Waiting;
        // Of each tenant: its service, its oldest waiting sequence, and the others.
        let mut queues = Vec::new();
        for tenant in self.tenants.values() {
            let mut queue = tenant.seqs.iter().copied().filter(waits);
            queues.push((tenant.counter, queue.next(), queue));
        }
        let mut admitted = Vec::new();
        while let Some(least) = queues.iter_mut().filter(|q| q.1.is_some()).min_by_key(|q| q.0) {
            let Some(id) = std::mem::replace(&mut least.1, least.2.next()) else { break };
            let before = plan.run.len();
            room.admit(plan, [id], |_, _| true);
            if plan.run.len() == before {
                break;
            }
            if view.seq(id).timing.scheduled.is_none() {
                least.0 += Self::INPUT * view.seq(id).prompt_len as u64;
                admitted.push(id);
            }
        }
        for seq in admitted.into_iter().map(|id| view.seq(id)) {
            self.charge(seq, Self::INPUT * seq.prompt_len as u64);
        }
    }

    fn added(&mut self, seq: &Sequence) {
        let others =
            self.tenants.iter().filter(|(name, t)| **name != seq.options.tenant && !t.seqs.is_empty());
        let least = others.map(|(_, tenant)| tenant.counter).min().unwrap_or(self.left);
        let tenant = self.tenants.entry(seq.options.tenant).or_default();
        if tenant.seqs.is_empty() {
            tenant.counter = tenant.counter.max(least);
        }
        tenant.seqs.insert(seq.id);
    }

    fn finished(&mut self, seq: &Sequence) {
        if let Some(tenant) = self.tenants.get_mut(&seq.options.tenant) {
            tenant.seqs.remove(&seq.id);
            if tenant.seqs.is_empty() {
                self.left = tenant.counter;
            }
        }
    }
}
