//! `cargo xtask TASK`: set-up and test tasks, one file per task.

mod command;
mod counts;
mod gpu;
mod made;
mod model;
mod nvrtc;
mod paths;
mod pip;
mod softcuda;
mod test;
mod toolchain;

use std::process::ExitCode;

use clap::Parser;

/// Set-up and test tasks of this workspace.
///
/// What a task downloads or makes goes to `.cache/` in the workspace, or to the folder in `LATHE_CACHE`.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Task {
    Counts(counts::Args),
    Gpu(gpu::Args),
    Model(model::Args),
    Nvrtc(nvrtc::Args),
    Softcuda(softcuda::Args),
    Test(test::Args),
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Counts(args) => counts::run(&args),
        Task::Gpu(args) => gpu::run(&args),
        Task::Model(args) => model::run(&args),
        Task::Nvrtc(args) => nvrtc::run(&args),
        Task::Softcuda(args) => softcuda::run(&args),
        Task::Test(args) => test::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
