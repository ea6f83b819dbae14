//! `lathe calibrate`: a model of this machine's step times, for `lathe simulate --device`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use lathe::engine::policies;
use lathe::lab::simulate::{live, step_time::Fitted};
use lathe::llm::LLM;

use super::machine::Machine;
use super::options::EngineOptions;

/// Measure this machine's steps and fit a model of their time, for lathe simulate --device.
///
/// Runs batches of random size, prompts and outputs, some at once and after a pause, some joining one by one. Nothing else
/// should run meanwhile. The model holds for the same model, dtype, kernels and threads.
#[derive(clap::Args)]
pub struct Args {
    /// The file to write, TOML
    #[arg(long, value_name = "FILE.toml")]
    out: PathBuf,
    /// How long to measure
    #[arg(long, value_name = "S", default_value_t = 45.0)]
    seconds: f64,
    /// Longest sequences to measure [default: a quarter of the model's limit]
    #[arg(long, value_name = "N")]
    longest: Option<usize>,
    /// Most sequences at a time
    #[arg(long, value_name = "N", default_value_t = 32)]
    most: usize,
    #[command(flatten)]
    engine: EngineOptions,
}

/// Measures, fits, writes.
///
/// # Errors
/// If the model cannot be opened or the file not be written.
pub fn run(args: Args) -> Result<()> {
    let mut llm = LLM::new(args.engine.config()?)?;
    let (limit, vocabulary) = (llm.config().max_model_len, llm.files().config.vocab_size);
    ensure!(args.seconds > 0.0 && args.most > 0, "--seconds and --most are expected above 0");
    let longest = args.longest.unwrap_or(limit / 4).min(limit);
    ensure!(longest >= 8, "--longest is {longest}, expected at least 8");
    let calibration = live::Calibration { longest, most: args.most, seconds: args.seconds };
    let machine = Machine::this();
    let model = llm.config().model.clone().unwrap_or_else(|| "the shipped model".into());
    let source = format!("{model}, {}, on {} ({} cores)", llm.describe(), machine.cpu, machine.cores);
    let scheduler = policies::by_name("chunked")?;
    let steps = live::measure(llm.engine(), scheduler, vocabulary, calibration, 0)?;
    let fitted = Fitted::fit(&steps, source)?;
    let text = toml::to_string(&BTreeMap::from([("fitted", &fitted)]))?;
    std::fs::write(&args.out, text).with_context(|| args.out.display().to_string())?;
    writeln!(std::io::stdout(), "{} steps measured; {}", steps.len(), fitted.error)?;
    Ok(())
}
