//! The `lathe` command.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cli::exit_code(cli::Cli::parse().run())
}
