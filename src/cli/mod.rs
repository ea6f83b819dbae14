//! The subcommands, a file each, and how they end.

mod bench;
mod calibrate;
mod chat;
mod check;
mod compare;
mod count;
mod date;
mod doctor;
mod generate;
mod kernels;
mod machine;
mod new;
mod options;
mod report;
mod score;
mod simulate;
mod trace;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;

/// A small LLM inference engine and a testbed for kernels, samplers and schedulers.
#[derive(clap::Parser)]
#[command(version, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Generate(generate::Args),
    Chat(chat::Args),
    Score(score::Args),
    Kernels(kernels::Args),
    Check(check::Args),
    Compare(compare::Args),
    Count(count::Args),
    Report(report::Args),
    Trace(trace::Args),
    New(new::Args),
    Bench(bench::Args),
    Simulate(simulate::Args),
    Calibrate(calibrate::Args),
    Doctor(doctor::Args),
}

impl Cli {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// What went wrong, for [`exit_code`] to print.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Generate(args) => generate::run(args),
            Command::Chat(args) => chat::run(args),
            Command::Score(args) => score::run(args),
            Command::Kernels(args) => kernels::run(args),
            Command::Check(args) => check::run(args),
            Command::Compare(args) => compare::run(args),
            Command::Count(args) => count::run(args),
            Command::Report(args) => report::run(args),
            Command::Trace(args) => trace::run(args),
            Command::New(args) => new::run(args),
            Command::Bench(args) => bench::run(args),
            Command::Simulate(args) => simulate::run(args),
            Command::Calibrate(args) => calibrate::run(args),
            Command::Doctor(args) => doctor::run(args),
        }
    }
}

/// 0, or 1 after one line `error: …` on stderr. A reader that closed the pipe early is no error.
pub fn exit_code(result: Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if error.chain().any(is_broken_pipe) {
        return ExitCode::SUCCESS;
    }
    let message = one_line(&format!("{error:#}"));
    // Nobody is left to tell if stderr is closed.
    let _ = writeln!(io::stderr(), "error: {message}");
    ExitCode::FAILURE
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Writes `value` and a line end to stdout.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    // serde_json's own error would hide a broken pipe.
    let line = serde_json::to_string(value)?;
    out.write_all(line.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}
