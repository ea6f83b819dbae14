//! The simulator: the engine's own scheduler, block manager and prefix cache on a virtual clock.
//!
//! Nothing of the engine is rewritten: a simulated step is an [`Executor`] that tells how long it would have taken. In
//! reading order: [`trace`] and [`workload`] (who asks for what, and when), [`shape`] and [`step_time`] (how long a step
//! takes), this module (the event loop), [`metrics`]; then [`router`], [`decisions`],
//! [`report`], [`knee`], and [`live`], the real engine beside it.

pub mod decisions;
pub mod knee;
pub mod live;
pub mod metrics;
pub mod report;
pub mod router;
pub mod shape;
pub mod step_time;
pub mod trace;
pub mod workload;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::config::{EngineConfig, SamplingParams};
use crate::engine::block_manager::xxh3;
use crate::engine::{
    Batch, Clock, Engine, Event, Executor, RequestOptions, Sampled, Scheduler, StepResult, Vocabulary,
};
use crate::error::{Error, Result};
use decisions::{Decision, Log, Recorder};
use metrics::{Collector, Outcome, Slo};
use router::{Router, Routing};
use step_time::{StepTime, Work};
use trace::Trace;

/// What a workload runs on.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The engines' settings; `num_kvcache_blocks` must be set.
    pub config: EngineConfig,
    /// How long steps take.
    pub step_time: Arc<StepTime>,
    /// Engines.
    pub replicas: usize,
    /// How requests are spread over them.
    pub routing: Routing,
    /// Deadlines are the arrival and what this allows for the request's output.
    pub slo: Slo,
    /// The `max_tokens` that requests ask for, if their output does not need more; outputs then end by themselves.
    /// `None`: each asks for exactly its output.
    pub max_tokens: Option<usize>,
}

/// The end-of-sequence token of simulated models. Prompts without hash ids are filled with a token of their own in the
/// upper half of the 32 bits; so is every output.
const EOS: u32 = u32::MAX;

/// Samples what the trace says; takes as long as the model of step times says.
struct Simulated {
    step_time: Arc<StepTime>,
    /// Whether the replica had nothing to do before this step.
    paused: Arc<AtomicBool>,
    /// The latest step's.
    work: Work,
    steps: u64,
}

impl Executor for Simulated {
    fn execute(&mut self, batch: &Batch<'_>, out: &mut StepResult) -> Result<()> {
        let paused = self.paused.swap(false, Relaxed);
        self.work = Work::of(batch.items, Some(&self.work).filter(|_| !paused));
        for item in batch.items {
            if item.sample {
                let seq = &batch.seqs[item.id];
                // See `request`: the seed says how long the output is, and whose it is.
                let ends = seq.generated() + 1 >= seq.seed as u32 as usize;
                let token = if ends { EOS } else { (seq.seed >> 32) as u32 };
                out.sampled.push(Sampled::Token(token));
            }
        }
        self.steps += 1;
        out.virtual_seconds = self.step_time.draw(&self.work, xxh3(self.steps, &[]));
        Ok(())
    }
}

/// Request `index` of a trace as an engine wants it; its tokens go to `prompt`.
fn request(
    setup: &Setup,
    trace: &Trace,
    index: usize,
    prompt: &mut Vec<u32>,
) -> (SamplingParams, RequestOptions) {
    let request = &trace.requests[index];
    let (own, len) = (1 << 31 | index as u32, request.prompt as usize);
    prompt.clear();
    for &id in trace.hashes(request) {
        prompt.resize((prompt.len() + Trace::HASH_BLOCK).min(len), id);
    }
    prompt.resize(len, own);
    let output = request.output as usize;
    let params = SamplingParams {
        max_tokens: setup.max_tokens.map_or(output, |most| most.max(output)),
        seed: Some(u64::from(own) << 32 | u64::from(request.output)),
        ..SamplingParams::default()
    };
    (params, options(trace, index, setup.slo))
}

/// What policies are told of a request.
fn options(trace: &Trace, index: usize, slo: Slo) -> RequestOptions {
    let request = &trace.requests[index];
    RequestOptions {
        priority: request.priority,
        tenant: request.tenant,
        deadline: Some(request.arrival + slo.ttft + slo.tpot * f64::from(request.output)),
        predicted_len: request.predicted.map(|len| len as usize),
        cache_salt: 0,
        arrival: Some(request.arrival),
    }
}

/// An engine and what the event loop knows of it.
struct Replica {
    engine: Engine,
    /// Whether its next step is in the event queue.
    busy: bool,
    /// As its executor sees it.
    paused: Arc<AtomicBool>,
    /// Finished in a step that ends only in the future.
    ending: usize,
    /// The workload's place of each request's number.
    requests: Vec<u32>,
}

/// Runs a workload to its end. `make` gives each replica its policy; decisions go to `log`, if there is one, and requests
/// to the replicas `routes`, if given.
///
/// # Errors
/// [`Error::Plan`] when the policy breaks a rule; [`Error::Config`] for settings that cannot be.
pub fn run(
    setup: &Setup,
    trace: &Trace,
    make: &mut dyn FnMut(usize) -> Result<Box<dyn Scheduler>>,
    log: Option<&Log>,
    routes: Option<&[usize]>,
) -> Result<Outcome> {
    if setup.replicas == 0 {
        return Err(Error::config("replicas", 0, "at least 1"));
    }
    let vocabulary = Vocabulary { size: 1 << 32, eos_token_ids: vec![EOS] };
    let mut replicas = Vec::new();
    for index in 0..setup.replicas {
        let mut scheduler = make(index)?;
        if let Some(log) = log {
            scheduler = Box::new(Recorder::new(scheduler, index, log.clone()));
        }
        let paused = Arc::new(AtomicBool::new(true));
        let (step_time, seen) = (setup.step_time.clone(), paused.clone());
        let executor = Box::new(Simulated { step_time, paused: seen, work: Work::default(), steps: 0 });
        let mut engine = Engine::new(&setup.config, vocabulary.clone(), scheduler, executor)?;
        engine.set_clock(Clock::Virtual(0.0));
        replicas.push(Replica { engine, busy: false, paused, ending: 0, requests: Vec::new() });
    }
    let mut router = Router::new(setup.routing);
    let mut collector = Collector::default();
    // Unfinished requests of each replica, as far as the router knows by now.
    let mut load = vec![0; setup.replicas];
    // When each busy replica plans its next step. Times are not negative, so their bits are in order.
    let mut queue: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    let (mut prompt, mut events, mut next) = (Vec::new(), Vec::<Event>::new(), 0);
    loop {
        let step = queue.peek().map(|Reverse((time, _))| f64::from_bits(*time));
        let arrival = trace.requests.get(next).map(|request| request.arrival);
        // Who arrives while a step runs is seen by the next.
        if let Some(now) = arrival.filter(|&arrival| step.is_none_or(|step| arrival <= step)) {
            let chosen = match routes {
                Some(routes) => {
                    routes.get(next).copied().filter(|&r| r < setup.replicas).ok_or_else(|| {
                        Error::config(
                            "the log",
                            format!("without a route for request {next}"),
                            "one for each request",
                        )
                    })?
                }
                None => router.route(trace, next, &load),
            };
            if let Some(log) = log {
                let (run, preempt) = (Vec::new(), Vec::new());
                log.push(Decision { replica: chosen, now, request: Some(next), run, preempt });
            }
            let replica = &mut replicas[chosen];
            if !replica.busy {
                replica.engine.set_clock(Clock::Virtual(now));
            }
            let (params, options) = request(setup, trace, next, &mut prompt);
            match replica.engine.add_request(&prompt, params, options) {
                Ok(_) => {
                    replica.requests.push(next as u32);
                    load[chosen] += 1;
                    if !std::mem::replace(&mut replica.busy, true) {
                        queue.push(Reverse((now.to_bits(), chosen)));
                    }
                }
                Err(Error::Request { .. }) => collector.refuse(),
                Err(other) => return Err(other),
            }
            next += 1;
            continue;
        }
        let Some(Reverse((time, index))) = queue.pop() else { break };
        let replica = &mut replicas[index];
        load[index] -= std::mem::take(&mut replica.ending);
        if replica.engine.is_finished() {
            replica.busy = false;
            replica.paused.store(true, Relaxed);
            continue;
        }
        events.clear();
        events.extend_from_slice(replica.engine.step()?);
        replica.ending = events.iter().filter(|event| event.finish.is_some()).count();
        collector.step(index, &replica.engine, &events, f64::from_bits(time), &replica.requests);
        queue.push(Reverse((replica.engine.now().to_bits(), index)));
    }
    Ok(collector.outcome(replicas.iter().map(|replica| replica.engine.stats())))
}
