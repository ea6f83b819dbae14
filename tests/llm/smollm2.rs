//! SmolLM2-135M-Instruct against what transformers recorded for it in float32 (`reference/golden/README.md`).

use std::path::{Path, PathBuf};

use lathe::config::{EngineConfig, SamplingParams, StorageType};
use lathe::llm::{LLM, Prompt};
use lathe::model::Message;
use serde::Deserialize;

use super::config;

#[derive(Deserialize)]
struct Row {
    name: String,
    /// The prompt's text, after the chat template if there is one.
    rendered: String,
    prompt_ids: Vec<u32>,
    /// Up to 48 tokens, an end-of-sequence token included.
    greedy: Vec<u32>,
    text: String,
    /// Of the first eight tokens: the five likeliest and their log-probabilities.
    top5: Vec<Vec<(u32, f32)>>,
}

fn rows() -> Vec<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/golden/smollm2_135m.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn folder() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cache = std::env::var_os("LATHE_CACHE").map_or_else(|| workspace.join(".cache"), PathBuf::from);
    let folder = cache.join("models/smollm2-135m");
    assert!(folder.is_dir(), "{} is missing: run `cargo xtask model smollm2-135m`", folder.display());
    folder
}

fn open(dtype: StorageType) -> LLM {
    let config = EngineConfig { dtype: Some(dtype), num_kvcache_blocks: Some(256), ..config(&folder()) };
    LLM::new(config).unwrap()
}

/// The question that a rendered chat asks.
fn question(rendered: &str) -> Option<&str> {
    let (_, rest) = rendered.split_once("<|im_start|>user\n")?;
    Some(rest.split_once("<|im_end|>")?.0)
}

#[test]
fn prompts_tokens_and_log_probabilities_are_transformers() {
    let (rows, mut llm) = (rows(), open(StorageType::F32));
    assert_eq!(rows.len(), 5);
    let prompts: Vec<Prompt> = rows
        .iter()
        .map(|row| {
            let mut text = row.rendered.clone();
            if let Some(question) = question(&row.rendered) {
                let template = llm.files().chat_template().unwrap();
                text = template.render(&[Message::new("user", question)], true, &Default::default()).unwrap();
                assert_eq!(text, row.rendered, "{}", row.name);
            }
            let ids = llm.files().tokenizer().unwrap().encode(&text, false).unwrap();
            assert_eq!(ids, row.prompt_ids, "{}", row.name);
            Prompt::Tokens(ids)
        })
        .collect();
    assert_eq!(rows.iter().filter(|row| question(&row.rendered).is_some()).count(), 2);

    let params = SamplingParams { max_tokens: 48, logprobs: Some(5), ..SamplingParams::greedy() };
    let outputs = llm.generate(&prompts, &[params], false).unwrap();
    let mut worst = 0.0f32;
    for (row, output) in rows.iter().zip(&outputs) {
        assert_eq!(output.token_ids, row.greedy, "{}", row.name);
        assert_eq!(output.text, row.text, "{}", row.name);
        assert_eq!(row.top5.len(), 8);
        for (want, got) in row.top5.iter().zip(&output.logprobs) {
            assert_eq!(got.rank, 1);
            for (&(want_id, want), &(id, logprob)) in want.iter().zip(&got.top) {
                assert_eq!(id, want_id, "{}", row.name);
                worst = worst.max((logprob - want).abs());
            }
        }
    }
    println!("log-probabilities differ by at most {worst:.1e}");
    assert!(worst <= 1e-3, "{worst}");
}

#[test]
fn bf16_answers_the_question() {
    let row = &rows()[0];
    let mut llm = open(StorageType::Bf16);
    let params = SamplingParams { max_tokens: 16, ..SamplingParams::greedy() };
    let output = super::one(&mut llm, row.prompt_ids.clone(), &params);
    assert_eq!(
        (output.text.as_str(), output.finish_reason.as_str()),
        ("The capital of France is Paris.", "stop")
    );
}
