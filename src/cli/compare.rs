//! `lathe compare`: two choices on the same work.

use std::io::Write;

use anyhow::Result;
use lathe::lab::compare::{Comparison, Ratio, Work, apply, compare};
use lathe::llm::Prompt;

use super::options::EngineOptions;

/// Compare two choices end to end on the same work: log-probabilities, greedy text, speed, and kernel by kernel.
///
/// Settings are comma-separated NAME=VALUE: fields of the engine's configuration (dtype, scheduler, threads, …), or
/// slots and operations with the name of a kernel: --b attention=reference,threads=1
#[derive(clap::Args)]
pub struct Args {
    /// Settings of the first choice, over the engine options
    #[arg(long, default_value = "", value_name = "SETTINGS")]
    a: String,
    /// Settings of the second
    #[arg(long, value_name = "SETTINGS")]
    b: String,
    /// Text to continue; repeatable
    #[arg(long = "prompt", value_name = "TEXT", default_values = ["Once upon a time", "One day, a little girl named Lily", "The dog"])]
    prompts: Vec<String>,
    /// Tokens to generate for each prompt
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_tokens: usize,
    /// Of the timed rounds
    #[arg(long, value_name = "F", default_value_t = 1.0)]
    temperature: f32,
    /// Timed rounds; below 2 nothing is timed
    #[arg(long, value_name = "N", default_value_t = 6)]
    rounds: usize,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineOptions,
}

/// Prints the comparison.
///
/// # Errors
/// For a setting that does not exist, and what opening or running either choice reports.
pub fn run(args: Args) -> Result<()> {
    let base = args.engine.config()?;
    let (a, b) = (apply(&base, &args.a)?, apply(&base, &args.b)?);
    let prompts: Vec<Prompt> = args.prompts.iter().map(|p| Prompt::Text(p.clone())).collect();
    let (max_tokens, temperature, rounds) = (args.max_tokens, args.temperature, args.rounds);
    let found = compare(&a, &b, &Work { prompts: &prompts, max_tokens, temperature, rounds })?;
    if args.json { super::print_json(&found) } else { print(&args, &found) }
}

fn print(args: &Args, found: &Comparison) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let name = |settings: &str| if settings.is_empty() { "the defaults".into() } else { settings.to_owned() };
    writeln!(out, "a: {}\nb: {}\n", name(&args.a), name(&args.b))?;
    let l = &found.likelihood;
    writeln!(
        out,
        "log-probability of {} tokens: |Δ| at most {:.2e}, mean {:.2e}",
        l.positions, l.max_delta, l.mean_delta
    )?;
    writeln!(out, "KL(a ‖ b): mean {:.2e}, at most {:.2e} nats", l.mean_kl, l.max_kl)?;
    writeln!(out, "same most likely token: {:.2}%", l.same_top * 100.0)?;
    for (prompt, at) in args.prompts.iter().zip(&found.diverges_at) {
        match at {
            Some(at) => writeln!(out, "greedy, {prompt:?}: token {at} is the first that differs")?,
            None => writeln!(out, "greedy, {prompt:?}: all tokens equal")?,
        }
    }
    let mut ratio = |what: &str, ratio: Option<Ratio>| match ratio {
        Some(Ratio { mean, interval: [low, high] }) => {
            writeln!(out, "{what}, b / a: {mean:.3} (95%: {low:.3} to {high:.3}, {} rounds)", args.rounds)
        }
        None => Ok(()),
    };
    ratio("output tokens/s", found.throughput)?;
    ratio("time to first token", found.ttft)?;
    ratio("time per later token", found.tpot)?;
    if let Some(shadow) = &found.shadow {
        writeln!(out, "shadow mode: {} calls computed by both kernels on the same tensors", shadow.calls)?;
        match (&shadow.first, &shadow.worst) {
            (Some(c), _) => {
                let layer = shadow.layer.map_or(String::new(), |layer| format!(", layer {layer}"));
                let [a, b] = c.kernels;
                let (slot, tensor, difference, share) = (c.slot, c.tensor, c.difference, c.share);
                writeln!(
                    out,
                    "first beyond the budget: {slot}{layer} ({a} and {b}): {tensor} differs by {difference:.2e}, {share:.1} times the budget"
                )?;
            }
            (None, Some(c)) => {
                let (slot, difference, share) = (c.slot, c.difference, c.share * 100.0);
                writeln!(
                    out,
                    "all within the budget; the most is {share:.0}% of it, {difference:.2e}, in {slot}"
                )?;
            }
            (None, None) => {}
        }
    }
    Ok(())
}
