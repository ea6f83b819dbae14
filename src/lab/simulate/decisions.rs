//! The log of a run's decisions, and a run exactly as logged.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, Write};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

use crate::engine::{Budget, Plan, Scheduler, SeqId, Sequence, View};
use crate::error::{Error, Result};

/// A decision: what a replica's policy planned for a step, or where a request was sent. Sequences are named by their
/// number on the replica, in order of arrival.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// The replica.
    pub replica: usize,
    /// Seconds since the run began.
    pub now: f64,
    /// The request that was sent there; the rest is empty then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<usize>,
    /// Sequences and the tokens that they run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub run: Vec<(u64, usize)>,
    /// Sequences that are preempted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preempt: Vec<u64>,
}

/// Decisions in the order in which they were made, shared by those who make them.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<VecDeque<Decision>>>);

impl Log {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Decision>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Adds a decision.
    pub fn push(&self, decision: Decision) {
        self.lock().push_back(decision);
    }

    /// All decisions.
    pub fn decisions(&self) -> Vec<Decision> {
        self.lock().iter().cloned().collect()
    }

    /// Where requests were sent, taken out of the log.
    pub fn take_routes(&self) -> Vec<usize> {
        let mut routes = Vec::new();
        self.lock().retain(|decision| {
            routes.extend(decision.request.map(|_| decision.replica));
            decision.request.is_none()
        });
        routes
    }

    /// Writes JSON lines.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, mut out: impl Write) -> std::io::Result<()> {
        for decision in self.lock().iter() {
            serde_json::to_writer(&mut out, decision)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    }

    /// Reads what [`Self::write`] wrote; `name` is for messages.
    ///
    /// # Errors
    /// [`Error::Config`] naming the line.
    pub fn read(name: &str, from: impl BufRead) -> Result<Self> {
        let mut decisions = VecDeque::new();
        for (index, line) in from.lines().enumerate() {
            let line = line.map_err(|e| Error::io(name, e))?;
            let decision = serde_json::from_str(&line).map_err(|e| {
                Error::config(format!("{name}: line {}", index + 1), e, "a decision as --log writes it")
            })?;
            decisions.push_back(decision);
        }
        Ok(Self(Arc::new(Mutex::new(decisions))))
    }
}

/// A policy whose plans go to a log.
pub struct Recorder {
    inner: Box<dyn Scheduler>,
    replica: usize,
    log: Log,
}

impl Recorder {
    /// Records `inner` as the policy of `replica`.
    pub fn new(inner: Box<dyn Scheduler>, replica: usize, log: Log) -> Self {
        Self { inner, replica, log }
    }
}

impl Scheduler for Recorder {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn plan(&mut self, view: &View<'_>, budget: Budget, plan: &mut Plan) {
        self.inner.plan(view, budget, plan);
        self.log.push(Decision {
            replica: self.replica,
            now: view.now(),
            request: None,
            run: plan.run.iter().map(|&(id, tokens)| (id.number(), tokens)).collect(),
            preempt: plan.preempt.iter().map(|id| id.number()).collect(),
        });
    }

    fn added(&mut self, seq: &Sequence) {
        self.inner.added(seq);
    }

    fn finished(&mut self, seq: &Sequence) {
        self.inner.finished(seq);
    }
}

/// The policy of a log: plans what was planned then. A plan that does not fit the present one is refused by the engine.
pub struct Replay {
    plans: VecDeque<Decision>,
    ids: HashMap<u64, SeqId>,
}

impl Replay {
    /// Of the log's plans for `replica`, which it takes out of the log.
    pub fn new(log: &Log, replica: usize) -> Self {
        let mut all = log.lock();
        let (own, others) =
            std::mem::take(&mut *all).into_iter().partition(|decision| decision.replica == replica);
        *all = others;
        Self { plans: own, ids: HashMap::new() }
    }
}

impl Scheduler for Replay {
    fn name(&self) -> &'static str {
        "replay"
    }

    fn plan(&mut self, view: &View<'_>, _: Budget, plan: &mut Plan) {
        // Without a plan, or at another time, nothing is planned: the engine says so.
        let Some(decision) = self.plans.pop_front() else { return };
        if (decision.now - view.now()).abs() > 1e-9 * view.now().max(1.0) {
            return;
        }
        let id = |number: &u64| self.ids.get(number).copied().unwrap_or(SeqId::new(*number & 0xff_ffff, 0));
        plan.run.extend(decision.run.iter().map(|(number, tokens)| (id(number), *tokens)));
        plan.preempt.extend(decision.preempt.iter().map(id));
    }

    fn added(&mut self, seq: &Sequence) {
        self.ids.insert(seq.id.number(), seq.id);
    }

    fn finished(&mut self, seq: &Sequence) {
        self.ids.remove(&seq.id.number());
    }
}
