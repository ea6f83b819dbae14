//! `lathe simulate`: scheduling policies on traces, on a virtual clock.

mod knee;
mod validate;

use std::io::{self, BufReader, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use lathe::config::EngineConfig;
use lathe::engine::Scheduler;
use lathe::lab::policies;
use lathe::lab::simulate::{
    self, Setup,
    decisions::{Log, Replay},
    metrics::{Results, Slo},
    report::{self, Row},
    router::Routing,
    shape::Shape,
    step_time::StepTime,
    trace::Trace,
    workload::{Arrivals, Predictor, Workload},
};
use serde_json::json;

/// Run scheduling policies on a request trace, on a virtual clock.
///
/// The engine's own scheduler, block manager and prefix cache run unchanged; only the time of a step is modelled, by the
/// roofline of a device and a model shape or as `lathe calibrate` fitted it to this machine. Every figure is simulated.
#[derive(clap::Args)]
pub struct Args {
    /// Policies to compare, comma-separated, or all
    #[arg(long, value_name = "A,B,…", default_value = "chunked", value_delimiter = ',')]
    scheduler: Vec<String>,
    /// Requests: Azure's CSV (TIMESTAMP,ContextTokens,GeneratedTokens) or JSON lines as Mooncake's
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// Model shape: a name, or a folder with a config.json [default: the model in this binary]
    #[arg(long, value_name = "SHAPE")]
    model: Option<String>,
    /// h100, h200, a100, cpu, or a file that lathe calibrate wrote [default: h100; with --validate, this machine]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Requests a second; several are run one after the other [default: the trace's own]
    #[arg(long, value_name = "R,…", value_delimiter = ',')]
    rate: Vec<f64>,
    /// trace, poisson, gamma:CV (bursts above 1) or onoff:ON,OFF (seconds); all but trace draw rows of the trace
    #[arg(long, value_name = "KIND", default_value = "trace")]
    arrivals: Arrivals,
    /// How many requests [default: as many as the trace has]
    #[arg(long, value_name = "N")]
    requests: Option<usize>,
    /// Shorten prompts and outputs to this share, in (0, 1]
    #[arg(long, value_name = "F", default_value_t = 1.0)]
    length_scale: f64,
    /// Spread the requests over this many tenants
    #[arg(long, value_name = "N")]
    tenants: Option<u32>,
    /// Share of the requests that the first tenant sends
    #[arg(long, value_name = "F", requires = "tenants")]
    greedy: Option<f64>,
    /// What policies are told of output lengths: none, exact or lognormal:SIGMA
    #[arg(long, value_name = "KIND", default_value = "exact")]
    predictor: Predictor,
    /// First seed
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Runs with different seeds, for confidence intervals
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Engines
    #[arg(long, value_name = "N", default_value_t = 1)]
    replicas: usize,
    /// round_robin, least_loaded or prefix_affinity
    #[arg(long, value_name = "KIND", default_value = "least_loaded")]
    router: Routing,
    /// The SLO's most seconds to the first token
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    slo_ttft: f64,
    /// The SLO's most seconds from token to token, a request's mean
    #[arg(long, value_name = "S", default_value_t = 0.05)]
    slo_tpot: f64,
    /// The max_tokens that requests ask for, where the trace's output is shorter [default: exactly the output]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Write results, one JSON object for each policy, rate and seed ("-": stdout, instead of the table)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write what became of each request, one JSON object each
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,
    /// Log every decision, as JSON lines; one policy, rate and seed
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Take all decisions from a log instead of a policy
    #[arg(long, value_name = "FILE", conflicts_with_all = ["log", "scheduler"])]
    replay: Option<PathBuf>,
    /// Write a page to look at: latency against rate, distributions, requests, KV cache, fairness over time
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Write a trace that ui.perfetto.dev opens; the first policy, rate and seed
    #[arg(long, value_name = "FILE.json")]
    perfetto: Option<PathBuf>,
    /// Instead, find the highest rate at which this share of requests, in (0, 1], is within the SLO
    #[arg(long, value_name = "F", num_args = 0..=1, default_missing_value = "0.9", conflicts_with_all = ["log", "replay", "report", "perfetto"])]
    knee: Option<f64>,
    /// Instead, run the same on the real engine in real time (--model is opened on this machine's CPU), and report how
    /// far off the simulation is. Without --device, steps of other requests like these are measured before and after each
    /// run, and fitted for that run
    #[arg(long, conflicts_with_all = ["knee", "log", "replay", "report", "perfetto", "replicas"])]
    validate: bool,
    /// With --validate: how long to measure steps before and after each run
    #[arg(long, value_name = "S", default_value_t = 20.0, requires = "validate")]
    seconds: f64,
    #[command(flatten)]
    engine: Engine,
}

/// Settings of the simulated engines.
#[derive(clap::Args)]
#[command(next_help_heading = "Engine")]
struct Engine {
    /// Most tokens that one step computes, over all its sequences
    #[arg(long, value_name = "N", default_value_t = 16384)]
    max_num_batched_tokens: usize,
    /// Most sequences that hold KV blocks at a time
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_num_seqs: usize,
    /// Most tokens of one sequence [default: the model's]
    #[arg(long, value_name = "N")]
    max_model_len: Option<usize>,
    /// Tokens in a KV block, a multiple of 16
    #[arg(long, value_name = "N", default_value_t = 256)]
    kvcache_block_size: usize,
    /// KV blocks of each engine [default: as many as the device's memory holds]
    #[arg(long, value_name = "N")]
    num_kvcache_blocks: Option<usize>,
    /// Do not share the KV blocks of equal prompt prefixes
    #[arg(long)]
    no_prefix_caching: bool,
}

/// Runs everything and prints a table.
///
/// # Errors
/// For options or a trace that cannot be, and for a policy that breaks a rule.
pub fn run(args: Args) -> Result<()> {
    let shape = Shape::find(args.model.as_deref())?;
    let step_time = Arc::new(StepTime::find(args.device(), &shape)?);
    let trace = Trace::read(&args.trace)?;
    let setup = args.setup(&shape, step_time)?;
    let policies = policies::all();
    let names: Vec<String> = match &args.scheduler[..] {
        _ if args.replay.is_some() => vec!["replay".into()],
        [all] if all == "all" => policies.names().map(String::from).collect(),
        names => names.to_vec(),
    };
    let rates = if args.rate.is_empty() { vec![None] } else { args.rate.iter().copied().map(Some).collect() };
    if let Some(share) = args.knee {
        return args.knees(&setup, &trace, &names, share);
    }
    if args.validate {
        return args.validate(setup, &trace, &names, &rates);
    }
    let one = names.len() * rates.len() * args.seeds as usize == 1;
    ensure!(
        one || (args.log.is_none() && args.replay.is_none()),
        "--log and --replay take one policy, rate and seed"
    );
    let replayed = args.replay.as_ref().map(|path| {
        let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
        Ok::<_, anyhow::Error>(Log::read(&path.display().to_string(), BufReader::new(file))?)
    });
    let replayed = replayed.transpose()?;
    let routes = replayed.as_ref().map(Log::take_routes);
    let log = args.log.as_ref().map(|_| Log::default());

    let mut rows: Vec<Row> = Vec::new();
    let mut lines = Vec::new();
    for rate in rates {
        let workload = args.workload(rate);
        for name in &names {
            let mut row =
                Row { scheduler: name.clone(), rate: rate.unwrap_or_else(|| trace.rate()), runs: Vec::new() };
            for seed in args.seed..args.seed + args.seeds {
                let made = workload.make(&trace, seed)?;
                let mut make = |replica: usize| -> lathe::Result<Box<dyn Scheduler>> {
                    match &replayed {
                        Some(log) => Ok(Box::new(Replay::new(log, replica))),
                        None => policies.make(name),
                    }
                };
                let start = Instant::now();
                let outcome = simulate::run(&setup, &made, &mut make, log.as_ref(), routes.as_deref())?;
                let took = start.elapsed().as_secs_f64();
                let results = Results::of(&outcome, setup.slo);
                lines.push(json!({
                    "scheduler": name, "rate": row.rate, "seed": seed, "results": results, "slo": setup.slo,
                    "simulated_in_seconds": took, "error": setup.step_time.error(),
                }));
                row.runs.push((outcome, results));
            }
            rows.push(row);
        }
    }
    args.write(&setup, &rows, &lines, log.as_ref())
}

impl Args {
    fn device(&self) -> &str {
        self.device.as_deref().unwrap_or("h100")
    }

    fn setup(&self, shape: &Shape, step_time: Arc<StepTime>) -> Result<Setup> {
        let (own, defaults) = (&self.engine, EngineConfig::default());
        let blocks = own.num_kvcache_blocks.or_else(|| step_time.kv_blocks(own.kvcache_block_size));
        let config = EngineConfig {
            max_num_batched_tokens: own.max_num_batched_tokens,
            max_num_seqs: own.max_num_seqs,
            max_model_len: own.max_model_len.unwrap_or(shape.max_model_len),
            kvcache_block_size: own.kvcache_block_size,
            // A fitted device says nothing of memory: as the engine's default on a CPU, room for the longest sequences.
            num_kvcache_blocks: Some(
                blocks.unwrap_or(64 * shape.max_model_len.div_ceil(own.kvcache_block_size)),
            ),
            enable_prefix_caching: !own.no_prefix_caching,
            ..defaults
        };
        config.validate()?;
        for (name, value) in [("--slo-ttft", self.slo_ttft), ("--slo-tpot", self.slo_tpot)] {
            ensure!(value > 0.0, "{name} is {value}, expected seconds, more than 0");
        }
        let slo = Slo { ttft: self.slo_ttft, tpot: self.slo_tpot };
        let (replicas, routing, max_tokens) = (self.replicas, self.router, self.max_tokens);
        Ok(Setup { config, step_time, replicas, routing, slo, max_tokens })
    }

    fn workload(&self, rate: Option<f64>) -> Workload {
        Workload {
            arrivals: self.arrivals,
            rate,
            requests: self.requests,
            length_scale: self.length_scale,
            tenants: self.tenants,
            greedy: self.greedy,
            predictor: self.predictor,
        }
    }

    fn write(
        &self,
        setup: &Setup,
        rows: &[Row],
        lines: &[serde_json::Value],
        log: Option<&Log>,
    ) -> Result<()> {
        let create = |path: &PathBuf| {
            Ok::<_, anyhow::Error>(BufWriter::new(
                std::fs::File::create(path).with_context(|| path.display().to_string())?,
            ))
        };
        let stdout = self.json.as_ref().is_some_and(|path| path.as_os_str() == "-");
        if stdout {
            lines.iter().try_for_each(crate::cli::print_json)?;
        } else {
            table(setup, rows)?;
        }
        if let Some(path) = self.json.as_ref().filter(|_| !stdout) {
            let mut out = create(path)?;
            lines.iter().try_for_each(|line| writeln!(out, "{line}"))?;
            out.flush()?;
        }
        if let Some(path) = &self.records {
            let mut out = create(path)?;
            for row in rows {
                for (outcome, _) in &row.runs {
                    for record in &outcome.records {
                        let (scheduler, rate) = (&row.scheduler, row.rate);
                        writeln!(
                            out,
                            "{}",
                            json!({ "scheduler": scheduler, "rate": rate, "record": record })
                        )?;
                    }
                }
            }
            out.flush()?;
        }
        if let Some(path) = &self.report {
            let about = format!(
                "{} on {}, {}, {} replica(s); SLO: TTFT {} s and TPOT {} s. lathe {}",
                self.trace.display(),
                self.device(),
                self.model.as_deref().unwrap_or("the shipped model"),
                setup.replicas,
                setup.slo.ttft,
                setup.slo.tpot,
                std::env::args().skip(1).collect::<Vec<_>>().join(" "),
            );
            create(path)?.write_all(report::html(rows, &about, &setup.step_time.error()).as_bytes())?;
        }
        if let (Some(path), Some(row)) = (&self.perfetto, rows.first()) {
            writeln!(create(path)?, "{}", report::perfetto(&row.runs[0].0))?;
        }
        if let (Some(path), Some(log)) = (&self.log, log) {
            log.write(create(path)?)?;
        }
        Ok(())
    }
}

/// Means over the seeds, with ± half their 95% confidence interval where there are several.
fn table(setup: &Setup, rows: &[Row]) -> Result<()> {
    let cell = |row: &Row, of: &dyn Fn(&Results) -> Option<f64>, digits: usize| match row.mean(of) {
        Some((mean, Some(ci))) => format!("{mean:.digits$}±{ci:.digits$}"),
        Some((mean, None)) => format!("{mean:.digits$}"),
        None => "-".to_owned(),
    };
    type Column = (&'static str, fn(&Results) -> Option<f64>, usize);
    let columns: [Column; 15] = [
        ("tok/s", |r| Some(r.output_tokens_per_second), 0),
        ("TTFT p50", |r| Some(r.ttft?.p50), 3),
        ("p99", |r| Some(r.ttft?.p99), 2),
        ("TPOT p50", |r| Some(r.tpot?.p50), 4),
        ("p99", |r| Some(r.tpot?.p99), 4),
        ("ITL p99", |r| Some(r.itl?.p99), 4),
        ("E2E mean", |r| Some(r.e2e?.mean), 2),
        ("p99", |r| Some(r.e2e?.p99), 1),
        ("queue p99", |r| Some(r.queueing?.p99), 2),
        ("SLO %", |r| Some(r.slo_share * 100.0), 1),
        ("preempt", |r| Some(r.preemptions as f64), 0),
        (
            "recomp %",
            |r| {
                Some(
                    100.0 * r.recomputed_tokens as f64
                        / (r.recomputed_tokens as f64 + r.output_tokens_per_second * r.seconds),
                )
            },
            1,
        ),
        ("hit %", |r| Some(r.prefix_hit_share * 100.0), 1),
        ("KV %", |r| Some(r.kv_mean * 100.0), 0),
        ("Jain", |r| r.jain, 3),
    ];
    let head =
        ["scheduler", "rate"].into_iter().chain(columns.iter().map(|column| column.0)).map(String::from);
    let mut cells: Vec<Vec<String>> = vec![head.collect()];
    for row in rows {
        let own = columns.iter().map(|(_, of, digits)| cell(row, of, *digits));
        cells.push([row.scheduler.clone(), format!("{:.2}", row.rate)].into_iter().chain(own).collect());
    }
    let mut out = io::stdout().lock();
    let widths: Vec<usize> = (0..cells[0].len())
        .map(|i| cells.iter().map(|row| row[i].chars().count()).max().unwrap_or(0))
        .collect();
    for row in &cells {
        let text = row.iter().zip(&widths).enumerate().map(|(i, (cell, width))| match i {
            0 => format!("{cell:width$}"),
            _ => format!("{cell:>width$}"),
        });
        writeln!(out, "{}", text.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    let refused: usize = rows.iter().map(|row| row.runs[0].1.refused).max().unwrap_or(0);
    if refused > 0 {
        writeln!(out, "{refused} requests were refused: longer than --max-model-len or the KV cache")?;
    }
    writeln!(
        out,
        "seconds, simulated; SLO: TTFT {} s and TPOT {} s. {}",
        setup.slo.ttft,
        setup.slo.tpot,
        setup.step_time.error()
    )?;
    Ok(())
}
