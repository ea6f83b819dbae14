//! The real engine beside the simulated one: measuring its steps, and running a workload on it in real time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::metrics::{Collector, Outcome, Results, Slo};
use super::step_time::Work;
use super::trace::Trace;
use crate::config::SamplingParams;
use crate::engine::{Clock, Engine, Event, RequestOptions, Scheduler};
use crate::error::{Error, Result};

/// Steps and how many seconds each took.
pub type Steps = Vec<(Work, f64)>;

/// An engine whose steps are timed.
struct Timed<'a> {
    engine: &'a mut Engine,
    /// Nothing ran since the latest step ended.
    paused: bool,
    steps: Steps,
    events: Vec<Event>,
}

impl<'a> Timed<'a> {
    fn new(engine: &'a mut Engine, scheduler: Box<dyn Scheduler>) -> Self {
        engine.set_scheduler(scheduler);
        Self { engine, paused: true, steps: Vec::new(), events: Vec::new() }
    }

    fn step(&mut self) -> Result<()> {
        let start = Instant::now();
        self.events.clear();
        self.events.extend_from_slice(self.engine.step()?);
        let seconds = start.elapsed().as_secs_f64();
        let before = self.steps.last().filter(|_| !self.paused).map(|(work, _)| work);
        self.steps.push((Work::of(self.engine.computed(), before), seconds));
        self.paused = false;
        Ok(())
    }

    /// Waits without work. The end is spun for: a sleeping thread wakes up late.
    fn pause(&mut self, seconds: f64) {
        let start = Instant::now();
        std::thread::sleep(Duration::from_secs_f64((seconds - 200e-6).max(0.0)));
        while start.elapsed().as_secs_f64() < seconds {
            std::hint::spin_loop();
        }
        self.paused = true;
    }
}

fn greedy(max_tokens: usize) -> SamplingParams {
    SamplingParams { max_tokens, ignore_eos: true, ..SamplingParams::greedy() }
}

/// What [`measure`] runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// Most tokens of a sequence, at least 8.
    pub longest: usize,
    /// Most sequences at a time, at least 1.
    pub most: usize,
    /// How long to measure.
    pub seconds: f64,
}

/// Keeps a random number of sequences running for some steps, then another, and times every step. Every second time the
/// requests come at once and after a pause; else they join those that run, one a step, so that their prompts run beside
/// the others' decodes.
///
/// The turns are short and everything is drawn anew in each: a machine's speed changes within seconds, and a batch size
/// measured in a slow minute would look like a slow batch size.
///
/// # Errors
/// The engine's.
pub fn measure(
    engine: &mut Engine,
    scheduler: Box<dyn Scheduler>,
    vocabulary: usize,
    calibration: Calibration,
    seed: u64,
) -> Result<Steps> {
    const STEPS_OF_A_TURN: usize = 16;
    let Calibration { longest, most, seconds } = calibration;
    let mut timed = Timed::new(engine, scheduler);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    // Uniform in the logarithm: as many small batches and short prompts as large and long ones.
    let between = |random: &mut ChaCha8Rng, low: usize, high: usize| {
        let (low, high) = ((low as f64).ln(), (high.max(low + 1) as f64).ln());
        random.random_range(low..high).exp() as usize
    };
    let mut requests = VecDeque::new();
    let start = Instant::now();
    for turn in 0.. {
        if start.elapsed().as_secs_f64() >= seconds {
            break;
        }
        let at_once = turn % 2 == 0;
        let count = between(&mut random, 1, most + 1);
        let kept = if at_once { 0 } else { count };
        while timed.engine.num_unfinished() > kept
            && let Some(oldest) = requests.pop_front()
        {
            timed.engine.abort(oldest);
        }
        if at_once {
            // Long enough for a core to slow down and for others to take the caches that are shared.
            timed.pause(random.random_range(0.5e-3..60e-3));
        }
        for step in 0..STEPS_OF_A_TURN {
            let missing = count.saturating_sub(timed.engine.num_unfinished());
            let joining = if at_once && step == 0 { missing } else { missing.min(1) };
            for _ in 0..joining {
                let output = between(&mut random, 2, 33).min(longest / 2);
                let prompt = between(&mut random, 4, longest - output);
                let prompt: Vec<u32> =
                    (0..prompt).map(|_| random.random_range(0..vocabulary as u32)).collect();
                requests.push_back(timed.engine.add_request(
                    &prompt,
                    greedy(output),
                    RequestOptions::default(),
                )?);
            }
            timed.step()?;
        }
    }
    for request in requests {
        timed.engine.abort(request);
    }
    // The first half of a second warms caches up.
    let warm = timed.steps.iter().scan(0.0, |sum, (_, seconds)| {
        *sum += seconds;
        Some(*sum < 0.5)
    });
    let warm = warm.take_while(|early| *early).count();
    Ok(timed.steps.split_off(warm.min(timed.steps.len() / 2)))
}

/// Runs a workload on a real engine: each request is added when its time has come on the machine's clock.
///
/// # Errors
/// The engine's; [`Error::Request`] for a request that the model is too short for.
pub fn run(
    engine: &mut Engine,
    scheduler: Box<dyn Scheduler>,
    vocabulary: usize,
    trace: &Trace,
    slo: Slo,
) -> Result<(Outcome, Steps)> {
    let before = engine.stats();
    // The engine's prefix cache still has the prompts of earlier runs: they are other tokens in each.
    let run = before.steps as u64;
    let mut timed = Timed::new(engine, scheduler);
    let mut collector = Collector::default();
    let (mut requests, mut prompt, mut next) = (Vec::new(), Vec::new(), 0);
    let first = timed.engine.add_request(&[0], greedy(1), RequestOptions::default())?;
    timed.engine.abort(first);
    requests.resize(first.0 as usize + 1, 0);
    timed.engine.set_clock(Clock::Wall(Instant::now()));
    loop {
        while let Some(request) = trace.requests.get(next).filter(|r| r.arrival <= timed.engine.now()) {
            prompt.clear();
            // Equal ids, equal tokens.
            let ids = trace.hashes(request);
            let token = |at: usize| {
                let own = (1 << 31) | next as u32;
                let id = ids.get(at / Trace::HASH_BLOCK).copied().unwrap_or(own);
                let mixed = crate::engine::block_manager::xxh3(
                    u64::from(id) ^ run << 32,
                    &[(at % Trace::HASH_BLOCK) as u32],
                );
                (mixed % vocabulary as u64) as u32
            };
            prompt.extend((0..request.prompt as usize).map(token));
            let options = super::options(trace, next, slo);
            timed.engine.add_request(&prompt, greedy(request.output as usize), options)?;
            requests.push(next as u32);
            next += 1;
        }
        if timed.engine.is_finished() {
            let Some(request) = trace.requests.get(next) else { break };
            timed.pause((request.arrival - timed.engine.now()).max(0.0));
            continue;
        }
        let began = timed.engine.now();
        timed.step()?;
        collector.step(0, timed.engine, &timed.events, began, &requests);
    }
    let steps = std::mem::take(&mut timed.steps);
    let mut outcome = collector.outcome(std::iter::once(timed.engine.stats()));
    outcome.stats.steps -= before.steps;
    outcome.stats.preemptions -= before.preemptions;
    outcome.stats.recomputed_tokens -= before.recomputed_tokens;
    outcome.stats.prefix_hit_tokens -= before.prefix_hit_tokens;
    Ok((outcome, steps))
}

/// How far the simulated figures are from the real ones: name, real, simulated, and the bound that is promised, as a
/// share of the real figure.
pub fn errors(real: &Results, simulated: &Results) -> Result<Vec<(&'static str, f64, f64, f64)>> {
    let missing = || Error::config("the workload", "without two tokens of output", "some, to validate with");
    let times = |r: &Results| Some((r.ttft?, r.tpot?));
    let (real_ttft, real_tpot) = times(real).ok_or_else(missing)?;
    let (ttft, tpot) = times(simulated).ok_or_else(missing)?;
    Ok(vec![
        ("output tok/s", real.output_tokens_per_second, simulated.output_tokens_per_second, 0.1),
        ("TTFT p50", real_ttft.p50, ttft.p50, 0.1),
        ("TTFT p99", real_ttft.p99, ttft.p99, 0.2),
        ("TPOT p50", real_tpot.p50, tpot.p50, 0.1),
        ("TPOT p99", real_tpot.p99, tpot.p99, 0.2),
    ])
}
