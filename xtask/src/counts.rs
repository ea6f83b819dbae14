//! `cargo xtask counts`: the table of what the kernels move.

use anyhow::Result;

use crate::model::{self, Model};
use crate::{command, nvrtc, paths, softcuda};

/// Count on softcuda what the kernels and a decode step of Qwen3-0.6B's shape move; rewrite docs/results/counted.*.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the task.
///
/// # Errors
/// If something does not build or cannot be installed, or a bound does not hold.
pub fn run(_: &Args) -> Result<()> {
    nvrtc::folder()?;
    let (driver, model) = (softcuda::folder()?, model::make(Model::Qwen3Random, None)?);
    let results = paths::workspace().join("docs/results");
    let mut count = command::cargo();
    count.args(["run", "--quiet", "--release", "--locked", "--bin", "lathe", "--", "count"]);
    count.arg("--step").arg(model).arg("--out").arg(results);
    command::run(count.env("LD_LIBRARY_PATH", driver).current_dir(paths::workspace()))
}
