//! All policies on two traces at three loads, and one more from outside the crate.

mod in_time;

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use in_time::InTime;
use lathe::{
    config::EngineConfig,
    lab::{
        policies,
        simulate::{
            self, Setup,
            metrics::{Record, Results, Slo, Summary},
            router::Routing,
            shape::Shape,
            step_time::StepTime,
            trace::Trace,
            workload::{Arrivals, Predictor, Workload},
        },
    },
};

/// An H100 with Llama 3 8B and steps of at most 2048 tokens; 2 s to the first token and 0.1 s a token are promised.
fn setup() -> Result<Setup> {
    let shape = Shape::find(Some("llama-3-8b"))?;
    let step_time = StepTime::find("h100", &shape)?;
    let config = EngineConfig {
        max_num_batched_tokens: 2048,
        max_num_seqs: 512,
        max_model_len: shape.max_model_len,
        num_kvcache_blocks: step_time.kv_blocks(256),
        ..EngineConfig::default()
    };
    let (slo, step_time) = (Slo { ttft: 2.0, tpot: 0.1 }, Arc::new(step_time));
    Ok(Setup { config, step_time, replicas: 1, routing: Routing::LeastLoaded, slo, max_tokens: Some(1024) })
}

/// Poisson arrivals with lengths from the trace; four tenants, of which one sends 60% of the requests; every fifth request
/// is urgent; predicted lengths are off by a log-normal factor.
fn workload(trace: &Trace, rate: f64, seed: u64) -> Result<Trace> {
    let workload = Workload {
        arrivals: Arrivals::Poisson,
        rate: Some(rate),
        requests: Some(3000),
        length_scale: 1.0,
        tenants: Some(4),
        greedy: Some(0.6),
        predictor: Predictor::LogNormal(0.5),
    };
    let mut made = workload.make(trace, seed)?;
    made.requests.iter_mut().enumerate().for_each(|(i, request)| request.priority = -i32::from(i % 5 == 0));
    Ok(made)
}

fn main() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces");
    let (setup, mut policies) = (setup()?, policies::all());
    policies.add("in_time", || Box::<InTime>::default());
    for (file, rates) in
        [("azure_conv_2000.csv", [10.0, 14.0, 22.0]), ("mooncake_conversation_500.jsonl", [1.0, 1.5, 2.5])]
    {
        let trace = Trace::read(&folder.join(file))?;
        for rate in rates {
            println!("\n{file}, {rate} requests/s\n");
            println!(
                "| policy | in SLO % | TTFT p50 s | TTFT p99 s | urgent TTFT p99 s | TPOT p99 ms | E2E mean s | E2E p99 s | \
                 preempted | recomputed % | hits % | Jain |"
            );
            println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
            for name in policies.names() {
                let mut runs = Vec::new();
                for seed in 0..3 {
                    let made = workload(&trace, rate, seed)?;
                    let outcome = simulate::run(&setup, &made, &mut |_| policies.make(name), None, None)?;
                    let urgent =
                        outcome.records.iter().filter(|r| made.requests[r.request as usize].priority < 0);
                    let urgent = Summary::of(urgent.map(Record::ttft)).map_or(f64::NAN, |ttft| ttft.p99);
                    runs.push((Results::of(&outcome, setup.slo), urgent, outcome.stats));
                }
                let mean = |of: &dyn Fn(&(Results, f64, lathe::engine::Stats)) -> f64| {
                    runs.iter().map(of).sum::<f64>() / runs.len() as f64
                };
                let ttft = |r: &Results| r.ttft.expect("requests finished");
                let e2e = |r: &Results| r.e2e.expect("requests finished");
                println!(
                    "| {name} | {:.1} | {:.2} | {:.1} | {:.1} | {:.0} | {:.1} | {:.1} | {:.0} | {:.1} | {:.1} | {} |",
                    mean(&|r| r.0.slo_share * 100.0),
                    mean(&|r| ttft(&r.0).p50),
                    mean(&|r| ttft(&r.0).p99),
                    mean(&|r| r.1),
                    mean(&|r| r.0.tpot.map_or(f64::NAN, |tpot| tpot.p99 * 1e3)),
                    mean(&|r| e2e(&r.0).mean),
                    mean(&|r| e2e(&r.0).p99),
                    mean(&|r| r.0.preemptions as f64),
                    mean(&|r| {
                        let all = r.2.prefill_tokens + r.2.decode_tokens + r.2.recomputed_tokens;
                        100.0 * r.2.recomputed_tokens as f64 / all as f64
                    }),
                    mean(&|r| r.0.prefix_hit_share * 100.0),
                    match mean(&|r| r.0.jain.unwrap_or(f64::NAN)) {
                        jain if jain.is_nan() => "–".into(),
                        jain => format!("{jain:.2}"),
                    },
                );
            }
        }
    }
    Ok(())
}
