//! A policy tried twice: in the simulator on a trace, then on the real engine. docs/scheduling.md starts here.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use lathe::{
    config::{EngineConfig, SamplingParams},
    engine::{Budget, Plan, Scheduler, View, policies::Room},
    lab::{
        policies,
        simulate::{
            self, Setup,
            metrics::{Results, Slo},
            router::Routing,
            shape::Shape,
            step_time::StepTime,
            trace::Trace,
            workload::{Arrivals, Predictor, Workload},
        },
    },
    llm::{LLM, Prompt},
};

/// Decodes first, then the request that arrived last: who has just come is served at once, who has waited long has given
/// up. Source: adaptive LIFO, Maurer, "Fail at Scale", ACM Queue 13 (2015). Starves the others under overload.
#[derive(Default)]
struct NewestFirst;

impl Scheduler for NewestFirst {
    fn name(&self) -> &'static str {
        "newest_first"
    }

    fn plan(&mut self, view: &View<'_>, budget: Budget, plan: &mut Plan) {
        let mut room = Room::new(view, budget);
        room.decodes_first(plan);
        room.admit(plan, view.waiting().rev(), |_, _| true);
    }
}

/// The share of requests within the SLO, and the p50 and p99 time to first token.
fn simulated(name: &str, rate: f64) -> Result<(f64, f64, f64)> {
    let shape = Shape::find(Some("llama-3-8b"))?;
    let step_time = StepTime::find("h100", &shape)?;
    let config = EngineConfig {
        max_model_len: shape.max_model_len,
        num_kvcache_blocks: step_time.kv_blocks(256),
        ..EngineConfig::default()
    };
    let (slo, step_time) = (Slo { ttft: 2.0, tpot: 0.1 }, Arc::new(step_time));
    let setup = Setup { config, step_time, replicas: 1, routing: Routing::RoundRobin, slo, max_tokens: None };
    let trace = Trace::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("traces/azure_conv_2000.csv"))?;
    let workload = Workload {
        arrivals: Arrivals::Poisson,
        rate: Some(rate),
        requests: None,
        length_scale: 1.0,
        tenants: None,
        greedy: None,
        predictor: Predictor::None,
    };
    let mut all = policies::all();
    all.add("newest_first", || Box::new(NewestFirst));
    let outcome = simulate::run(&setup, &workload.make(&trace, 0)?, &mut |_| all.make(name), None, None)?;
    let results = Results::of(&outcome, setup.slo);
    let ttft = results.ttft.expect("requests finished");
    Ok((results.slo_share, ttft.p50, ttft.p99))
}

/// Texts of the real engine with the shipped model, whose tokens no policy may change.
fn real(scheduler: Box<dyn Scheduler>) -> Result<Vec<String>> {
    let config = EngineConfig { max_num_batched_tokens: 64, max_num_seqs: 2, ..EngineConfig::default() };
    let mut llm = LLM::with_scheduler(config, scheduler)?;
    let prompts = ["Once upon a time", "The fox", "One day, a king", "In the woods"].map(Prompt::from);
    let params = SamplingParams { max_tokens: 16, ..SamplingParams::greedy() };
    Ok(llm.generate(&prompts, &[params], false)?.into_iter().map(|output| output.text).collect())
}

fn main() -> Result<()> {
    println!("simulated: llama-3-8b on an H100, azure_conv_2000.csv");
    for rate in [10.0, 18.0, 22.0] {
        for name in ["chunked", "newest_first"] {
            let (share, p50, p99) = simulated(name, rate)?;
            let percent = share * 100.0;
            println!(
                "{rate} requests/s, {name:<12} {percent:.1}% in the SLO; TTFT p50 {p50:.2} s, p99 {p99:.2} s"
            );
        }
    }
    let texts = real(Box::new(NewestFirst))?;
    assert_eq!(texts, real(policies::all().make("chunked")?)?, "a policy decides when, not what");
    println!("real engine: {} texts, the same as with chunked", texts.len());
    Ok(())
}
