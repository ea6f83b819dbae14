//! The model in the binary against what transformers recorded for it in float32 (`models/record_golden.py`).

use lathe::config::{EngineConfig, SamplingParams, StorageType};
use lathe::llm::{LLM, Prompt};
use serde::Deserialize;

#[derive(Deserialize)]
struct Row {
    text: String,
    prompt_ids: Vec<u32>,
    greedy: Vec<u32>,
    decoded: String,
    /// Of the first eight tokens: the five likeliest and their log-probabilities.
    top5: Vec<Vec<(u32, f32)>>,
}

#[test]
fn tokens_text_and_log_probabilities_are_transformers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/reference/golden/shipped_model.json");
    let rows: Vec<Row> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(rows.len() >= 6);
    let config = EngineConfig {
        dtype: Some(StorageType::F32),
        num_kvcache_blocks: Some(64),
        ..EngineConfig::default()
    };
    let mut llm = LLM::new(config).unwrap();
    let prompts: Vec<Prompt> = rows.iter().map(|row| Prompt::from(row.text.as_str())).collect();
    let params =
        SamplingParams { max_tokens: 48, logprobs: Some(5), ignore_eos: true, ..SamplingParams::greedy() };
    let outputs = llm.generate(&prompts, &[params], false).unwrap();
    for (row, output) in rows.iter().zip(&outputs) {
        assert_eq!(output.prompt_token_ids, row.prompt_ids, "{}", row.text);
        let length = row.greedy.len();
        assert_eq!(output.token_ids[..length], row.greedy, "{}", row.text);
        if length == 48 {
            assert_eq!(output.text, row.decoded, "{}", row.text);
        }
        for (want, got) in row.top5.iter().zip(&output.logprobs) {
            for (&(want_id, want), &(id, logprob)) in want.iter().zip(&got.top) {
                assert_eq!(id, want_id, "{}", row.text);
                assert!((logprob - want).abs() <= 1e-3, "{}: {logprob} for {want}", row.text);
            }
        }
    }
}
