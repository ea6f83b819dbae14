//! The simulator's speed: a whole trace by policy, the cost of a step against the length of the queue, a large cluster.
//!
//! `cargo bench --bench simulate`. `LATHE_TRACE` names a trace to use instead of the excerpt in `experiments/traces`,
//! which is repeated to the length of Azure's whole conversation trace. Times are CPU times of the one thread that works.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lathe::Result;
use lathe::config::EngineConfig;
use lathe::lab::policies;
use lathe::lab::simulate::{
    self, Setup,
    metrics::{Outcome, Slo},
    router::Routing,
    shape::Shape,
    step_time::StepTime,
    trace::{Trace, TraceRequest},
    workload::{Arrivals, Predictor, Workload},
};

fn cpu_time() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec to write to.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    assert_eq!(failed, 0, "the system has a clock for threads");
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn setup(replicas: usize) -> Result<Setup> {
    let shape = Shape::find(Some("llama-3-8b"))?;
    let step_time = StepTime::find("h100", &shape)?;
    let config = EngineConfig {
        max_model_len: shape.max_model_len,
        num_kvcache_blocks: step_time.kv_blocks(256),
        ..EngineConfig::default()
    };
    let (slo, step_time) = (Slo { ttft: 2.0, tpot: 0.1 }, Arc::new(step_time));
    Ok(Setup { config, step_time, replicas, routing: Routing::LeastLoaded, slo, max_tokens: None })
}

/// The outcome and the seconds of CPU time it took.
fn timed(setup: &Setup, trace: &Trace, policy: &str) -> Result<(Outcome, f64)> {
    let start = cpu_time();
    let outcome = simulate::run(setup, trace, &mut |_| policies::all().make(policy), None, None)?;
    Ok((outcome, (cpu_time() - start).as_secs_f64()))
}

/// The most memory that this process ever had, in MB.
fn peak_memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kb = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kb.map_or(f64::NAN, |kb| kb / 1e3)
}

fn main() -> Result<()> {
    let excerpt = concat!(env!("CARGO_MANIFEST_DIR"), "/experiments/traces/azure_conv_2000.csv");
    let path = std::env::var_os("LATHE_TRACE").map_or_else(|| excerpt.into(), PathBuf::from);
    let trace = Trace::read(&path)?;
    let workload = |requests, rate| Workload {
        arrivals: Arrivals::Trace,
        rate,
        requests: Some(requests),
        length_scale: 1.0,
        tenants: Some(8),
        greedy: Some(0.5),
        predictor: Predictor::LogNormal(0.5),
    };

    println!("{}, 19,366 requests, one H100, llama-3-8b", path.display());
    for rate in [None, Some(20.0)] {
        let made = workload(19_366, rate).make(&trace, 0)?;
        for policy in policies::all().names() {
            let (outcome, seconds) = timed(&setup(1)?, &made, policy)?;
            let (steps, rate) = (outcome.stats.steps, made.rate());
            println!("  {policy:<14} {rate:>5.1} requests/s {seconds:>6.2} s, {steps} steps");
        }
    }

    println!("a step while this many requests wait: 64 running, 64 tokens in and 17 to 47 out");
    for policy in policies::all().names() {
        print!("  {policy:<14}");
        for waiting in [1_000, 10_000, 100_000] {
            let one = |i: u32| {
                let output = 17 + i * 7 % 31;
                let predicted = Some(output);
                TraceRequest { prompt: 64, output, predicted, tenant: i % 8, ..TraceRequest::default() }
            };
            let requests = (0..waiting).map(one).collect();
            let queue = Trace { name: String::new(), requests, hash_ids: Vec::new() };
            let mut setup = setup(1)?;
            setup.config.max_num_seqs = 64;
            let (outcome, seconds) = timed(&setup, &queue, policy)?;
            let micros = seconds * 1e6 / outcome.stats.steps as f64;
            print!(" {waiting:>7}: {micros:>5.1} µs");
        }
        println!();
    }

    let made = workload(1_000_000, Some(1000.0)).make(&trace, 0)?;
    let (outcome, seconds) = timed(&setup(64)?, &made, "chunked")?;
    let (requests, steps, memory) = (outcome.records.len(), outcome.stats.steps, peak_memory());
    println!(
        "64 replicas: {requests} requests, {steps} steps in {seconds:.1} s; at most {memory:.0} MB so far"
    );
    Ok(())
}
