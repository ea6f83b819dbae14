//! `cargo xtask test`: every check that continuous integration runs, and the set-up they need.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::model::{self, Model};
use crate::{command, nvrtc, paths, softcuda, toolchain};

/// Install what the tests need and run all of them: rustfmt, clippy, cargo-deny, unit, integration and doc tests.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the task: all cheap checks, then, if they passed, the tests.
///
/// # Errors
/// If a check or a test fails, or something they need cannot be installed.
pub fn run(_: &Args) -> Result<()> {
    let mut steps = Steps::default();
    steps.run("set-up", || toolchain::components().map(|()| Outcome::Passed));
    steps.run("fmt", || passed(command::cargo().args(["fmt", "--all", "--", "--check"])));
    steps.run("clippy", || {
        let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
        passed(command::cargo().args(clippy))
    });
    steps.run("deny", || passed(deny()?.args(["check", "bans", "licenses", "sources"])));
    steps.run("advisories", advisories);
    steps.run("smollm2-135m", || model::make(Model::Smollm2, None).map(|_| Outcome::Passed));
    steps.run("nvrtc", || nvrtc::folder().map(|_| Outcome::Passed));
    steps.run("softcuda", || softcuda::folder().map(|_| Outcome::Passed));
    let mut counts = Counts::default();
    if steps.failed() {
        steps.skip("tests", "a cheaper check failed");
    } else {
        steps.run("tests", || tests(&paths::cache()?, &mut counts));
    }

    println!("\n{steps}");
    if !counts.is_empty() {
        // Alone on the last line, for whatever reads this output.
        println!("{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.ignored);
    }
    ensure!(!steps.failed(), "see the steps that failed above");
    Ok(())
}

/// How a step ended.
enum Outcome {
    Passed,
    Skipped(String),
    Failed,
}

fn passed(command: &mut Command) -> Result<Outcome> {
    command::run(command.current_dir(paths::workspace())).map(|()| Outcome::Passed)
}

fn deny() -> Result<Command> {
    let mut deny = Command::new(toolchain::cargo_deny()?);
    deny.current_dir(paths::workspace()).args(["--workspace", "--locked"]);
    Ok(deny)
}

/// Known vulnerabilities. Their database is a git repository: without it there is nothing to check against.
fn advisories() -> Result<Outcome> {
    match command::run_quiet(deny()?.args(["fetch", "db"])) {
        Ok(()) => passed(deny()?.args(["check", "advisories"])),
        Err(error) => {
            let message = error.to_string();
            let reason = message.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
            Ok(Outcome::Skipped(format!("the advisory database cannot be fetched: {reason}")))
        }
    }
}

/// Runs all tests of the workspace, doc tests too, past failures, and adds up what they report.
fn tests(cache: &Path, counts: &mut Counts) -> Result<Outcome> {
    let mut cargo = command::cargo();
    cargo.args(["test", "--workspace", "--locked", "--no-fail-fast"]).current_dir(paths::workspace());
    // Absolute, because every test program runs in the folder of its own package.
    cargo.env("LATHE_CACHE", cache).stdout(Stdio::piped());
    let mut child = cargo.spawn().with_context(|| format!("cannot start `{}`", command::line(&cargo)))?;
    let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let mut line = Vec::new();
    while stdout.read_until(b'\n', &mut line)? > 0 {
        std::io::stdout().write_all(&line)?;
        counts.add(&String::from_utf8_lossy(&line));
        line.clear();
    }
    let status = child.wait()?;
    ensure!(status.success(), "`{}`: {status}", command::line(&cargo));
    ensure!(counts.passed > 0, "`{}` ran no test", command::line(&cargo));
    Ok(Outcome::Passed)
}

/// Sums over the test programs.
#[derive(Debug, Default, PartialEq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Counts {
    /// Adds a line like `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; …`; others say nothing.
    fn add(&mut self, line: &str) {
        let Some((_, result)) = line.split_once("test result: ").and_then(|(_, rest)| rest.split_once(". "))
        else {
            return;
        };
        for part in result.split("; ") {
            match part.split_once(' ').map(|(n, what)| (n.parse::<u64>(), what)) {
                Some((Ok(n), "passed")) => self.passed += n,
                Some((Ok(n), "failed")) => self.failed += n,
                Some((Ok(n), "ignored")) => self.ignored += n,
                _ => {}
            }
        }
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What ran so far.
#[derive(Default)]
struct Steps {
    done: Vec<(&'static str, Duration, Outcome)>,
}

impl Steps {
    /// Runs a step, whose error is printed and remembered: later steps still run.
    fn run(&mut self, name: &'static str, step: impl FnOnce() -> Result<Outcome>) {
        println!("== {name}");
        let start = Instant::now();
        let outcome = step().unwrap_or_else(|error| {
            println!("{name}: {error:#}");
            Outcome::Failed
        });
        self.push(name, start.elapsed(), outcome);
    }

    fn skip(&mut self, name: &'static str, why: &str) {
        self.push(name, Duration::ZERO, Outcome::Skipped(why.into()));
    }

    fn push(&mut self, name: &'static str, took: Duration, outcome: Outcome) {
        self.done.push((name, took, outcome));
        println!("{}", self.line(self.done.len() - 1));
    }

    fn line(&self, i: usize) -> String {
        let (name, took, outcome) = &self.done[i];
        let outcome = match outcome {
            Outcome::Passed => "passed".into(),
            Outcome::Failed => "FAILED".into(),
            Outcome::Skipped(why) => format!("skipped: {why}"),
        };
        format!("{name:<13} {:>7.1} s  {outcome}", took.as_secs_f64())
    }

    fn failed(&self) -> bool {
        self.done.iter().any(|(_, _, outcome)| matches!(outcome, Outcome::Failed))
    }
}

impl std::fmt::Display for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        (0..self.done.len()).try_for_each(|i| writeln!(f, "{}", self.line(i)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_over_test_programs() {
        let mut counts = Counts::default();
        for line in [
            "running 4 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test a::b ... ok",
            "test result: FAILED. 2 passed; 5 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s",
            "7 passed",
        ] {
            counts.add(line);
        }
        assert_eq!(counts, Counts { passed: 5, failed: 5, ignored: 1 });
    }

    #[test]
    fn a_failed_step_is_remembered_and_later_ones_run() {
        let mut steps = Steps::default();
        steps.run("one", || anyhow::bail!("broken"));
        steps.run("two", || Ok(Outcome::Passed));
        steps.skip("three", "one failed");
        assert!(steps.failed());
        let words: Vec<Vec<String>> = steps
            .to_string()
            .lines()
            .map(|line| line.split_whitespace().map(str::to_owned).collect())
            .collect();
        assert_eq!(words[0], ["one", "0.0", "s", "FAILED"]);
        assert_eq!(words[1], ["two", "0.0", "s", "passed"]);
        assert_eq!(words[2], ["three", "0.0", "s", "skipped:", "one", "failed"]);
    }
}
