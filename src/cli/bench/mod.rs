//! `lathe bench`: the whole engine, timed.

mod latency;
mod measure;
mod throughput;
mod workload;

use std::path::Path;

use anyhow::{Context, Result};

/// Time the whole engine.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Throughput(throughput::Args),
    Latency(latency::Args),
}

/// Runs the benchmark.
///
/// # Errors
/// Whatever is wrong with the model, the options or the workload.
pub fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Throughput(args) => throughput::run(args),
        Command::Latency(args) => latency::run(args),
    }
}

fn write_report(path: &Path, report: &serde_json::Value) -> Result<()> {
    let text = serde_json::to_string_pretty(report)? + "\n";
    std::fs::write(path, text).with_context(|| format!("--json {}", path.display()))
}
