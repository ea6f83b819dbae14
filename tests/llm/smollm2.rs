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

/// Not the greedy tokens: the first two candidates of the first answer are 0.1 nats apart in float32, and rounding to
/// bf16 in thirty layers moves a log-probability by about as much, whatever the kernel.
#[test]
fn bf16_gives_the_recorded_tokens_nearly_the_same_probability() {
    let (rows, mut llm) = (rows(), open(StorageType::Bf16));
    let params = SamplingParams { max_tokens: 1, prompt_logprobs: Some(0), ..SamplingParams::greedy() };
    let mut differences = Vec::new();
    for row in &rows {
        let forced = [&row.prompt_ids[..], &row.greedy[..8]].concat();
        let output = super::one(&mut llm, forced, &params);
        let got = output.prompt_logprobs[row.prompt_ids.len()..].iter().flatten().map(|l| l.logprob);
        differences.extend(got.zip(&row.top5).map(|(got, top)| (got - top[0].1).abs()));
    }
    assert_eq!(differences.len(), 40);
    let mean = differences.iter().sum::<f32>() / 40.0;
    println!("log-probabilities differ by {mean:.3} in the mean");
    assert!(mean <= 0.05, "{mean}");
}
