//! `lathe bench throughput`: many requests at once.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde_json::json;

use super::measure::{Summary, measure};
use super::workload::{self, Request};
use crate::cli::machine::Machine;
use crate::cli::options::{EngineOptions, open_llm};

/// Run a workload as fast as possible; print nano-vLLM's line.
///
/// Token ids in and out: no text is encoded or decoded.
#[derive(clap::Args)]
pub struct Args {
    /// `nano`: nano-vLLM's bench.py, token for token: 256 requests of 100 to 1024 tokens in and out, temperature 0.6.
    /// Or a file {"requests": [{"prompt": [ids], "max_tokens": n}, …]}, run greedily. End-of-sequence is ignored
    #[arg(long, value_name = "nano|FILE.json", default_value = "nano", verbatim_doc_comment)]
    workload: PathBuf,
    /// Share of the workload's requests to run, the first ones, in (0, 1]
    #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = share)]
    scale: f64,
    /// Shorten nano's prompts and outputs to this share, in (0, 1]: for models with a short context
    #[arg(long, value_name = "F", default_value_t = 1.0, value_parser = share)]
    length_scale: f64,
    /// Write a report: time to first token, time per output token, inter-token latency, configuration, machine
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineOptions,
}

fn share(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if value > 0.0 && value <= 1.0 { Ok(value) } else { Err("expected more than 0 and at most 1".into()) }
}

/// Runs the workload and prints `Total: …tok, Time: …s, Throughput: …tok/s`.
///
/// # Errors
/// For a workload that is none, or a request that the model is too short for.
pub fn run(args: Args) -> Result<()> {
    let mut llm = open_llm(args.engine.config()?)?;
    let vocab = llm.files().config.vocab_size;
    let is_nano = args.workload == Path::new("nano");
    let (mut requests, temperature) = match is_nano {
        true => (workload::nano(args.length_scale, vocab), 0.6),
        false => (workload::from_file(&args.workload)?, 0.0),
    };
    requests.truncate(((requests.len() as f64 * args.scale).round() as usize).max(1));
    let most = llm.config().max_model_len;
    for (i, Request { prompt, max_tokens }) in requests.iter().enumerate() {
        let (input, hint) = (prompt.len(), if is_nano { "; --length-scale shortens them" } else { "" });
        ensure!(
            input + max_tokens <= most,
            "request {i} has {input} + {max_tokens} tokens, expected at most max_model_len, which is {most}{hint}"
        );
    }
    let warm_up = Request { prompt: vec![0; 8.min(most - 1)], max_tokens: 1 };
    measure(llm.engine(), &[warm_up], temperature)?;
    let measured = measure(llm.engine(), &requests, temperature)?;

    let (total, time) = (measured.output_tokens, measured.seconds);
    let rate = total as f64 / time;
    writeln!(io::stdout(), "Total: {total}tok, Time: {time:.2}s, Throughput: {rate:.2}tok/s")?;
    let Some(path) = &args.json else { return Ok(()) };
    let stats = measured.stats;
    let report = json!({
        "workload": args.workload,
        "scale": args.scale,
        "length_scale": args.length_scale,
        "requests": requests.len(),
        "prompt_tokens": measured.prompt_tokens,
        "output_tokens": total,
        "seconds": time,
        "output_tokens_per_second": rate,
        "total_tokens_per_second": (measured.prompt_tokens + total) as f64 / time,
        "ttft_seconds": Summary::of(&measured.ttft),
        "tpot_seconds": Summary::of(&measured.tpot),
        "itl_seconds": Summary::of(&measured.itl),
        "steps": stats.steps,
        "preemptions": stats.preemptions,
        "recomputed_tokens": stats.recomputed_tokens,
        "prefix_hit_tokens": stats.prefix_hit_tokens,
        "device": llm.describe(),
        "config": llm.config(),
        "machine": Machine::this(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    super::write_report(path, &report)
}
