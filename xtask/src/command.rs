//! Child processes whose errors name the command line.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// The cargo that runs this task.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Command line for people to read.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs with this process's own input and output.
///
/// # Errors
/// If it cannot start or exits non-zero.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}`: {status}", line(command));
    }
    Ok(())
}

/// Runs silently.
///
/// # Errors
/// If it cannot start or exits non-zero; the message ends with what it wrote to stderr.
pub fn run_quiet(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot start `{}`", line(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}`: {}\n{}", line(command), output.status, said.trim_end());
    }
    Ok(())
}
