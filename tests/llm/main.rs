//! [`lathe::llm::LLM`] end to end: text and tokens in, text and tokens out.
//!
//! Most tests run on the small random models of `reference/golden/models`, which have no tokenizer, or on the model
//! that ships in the binary, which has one.

mod bad_input;
mod determinism;
mod overlap;
mod sampling;
mod shadow;
mod shipped;
mod smollm2;
mod text;

use std::path::{Path, PathBuf};

use lathe::config::{EngineConfig, SamplingParams};
use lathe::llm::{LLM, Output, Prompt};
use serde::Deserialize;

/// What transformers recorded.
#[derive(Deserialize)]
struct Expected {
    /// Of 1, 5, 16, 17, 33 and 97 tokens.
    prompts: Vec<Vec<u32>>,
    /// 24 tokens after each.
    greedy: Vec<Vec<u32>>,
}

fn golden(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/golden/models").join(family)
}

fn expected(family: &str) -> Expected {
    serde_json::from_slice(&std::fs::read(golden(family).join("expected.json")).unwrap()).unwrap()
}

/// A small engine for a model folder.
fn config(model: &Path) -> EngineConfig {
    EngineConfig { model: Some(model.to_str().unwrap().into()), ..small() }
}

/// A small engine for the model in the binary.
fn small() -> EngineConfig {
    EngineConfig {
        max_num_batched_tokens: 1024,
        max_num_seqs: 64,
        max_model_len: 256,
        kvcache_block_size: 16,
        num_kvcache_blocks: Some(1024),
        threads: Some(2),
        ..EngineConfig::default()
    }
}

fn qwen3() -> LLM {
    LLM::new(config(&golden("qwen3"))).unwrap()
}

fn greedy(max_tokens: usize) -> SamplingParams {
    SamplingParams { max_tokens, ..SamplingParams::greedy() }
}

/// The only output for one prompt.
fn one(llm: &mut LLM, prompt: impl Into<Prompt>, params: &SamplingParams) -> Output {
    let mut outputs = llm.generate(&[prompt.into()], std::slice::from_ref(params), false).unwrap();
    assert_eq!(outputs.len(), 1);
    outputs.remove(0)
}
