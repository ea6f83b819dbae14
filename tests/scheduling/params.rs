//! Every bad parameter is refused by name and value, before anything is queued.

use std::num::NonZeroU32;

use lathe::Error;
use lathe::config::{EngineConfig, SamplingParams, StorageType};
use lathe::engine::block_manager::xxh3;
use lathe::engine::{Engine, RequestOptions, policies};

use crate::fake::{Setup, VOCAB, drain};

fn engine() -> Engine {
    let setup =
        Setup { block_size: 4, num_blocks: 8, tokens: 16, seqs: 4, max_model_len: 40, hash: Some(xxh3) };
    setup.engine(policies::by_name("chunked").unwrap()).0
}

/// Asserts that a request is refused with this field and value, and that one running beside it is not disturbed.
#[track_caller]
fn refused(prompt: &[u32], params: SamplingParams, options: RequestOptions, field: &str, got: &str) {
    let mut engine = engine();
    let beside = SamplingParams { max_tokens: 5, ignore_eos: true, ..SamplingParams::default() };
    engine.add_request(&[1, 2, 3], beside, RequestOptions::default()).unwrap();
    engine.step().unwrap();
    match engine.add_request(prompt, params, options) {
        Err(Error::Request { field: f, got: g, .. }) => assert_eq!((f.as_str(), g.as_str()), (field, got)),
        other => panic!("{other:?}"),
    }
    assert_eq!(engine.num_unfinished(), 1);
    let finished = drain(&mut engine);
    assert_eq!(engine.seq(finished[0]).unwrap().generated(), 5);
}

#[track_caller]
fn bad(params: SamplingParams, field: &str, got: &str) {
    refused(&[1, 2], params, RequestOptions::default(), field, got);
}

fn params() -> SamplingParams {
    SamplingParams::default()
}

#[test]
fn temperature() {
    bad(SamplingParams { temperature: f32::NAN, ..params() }, "temperature", "NaN");
    bad(SamplingParams { temperature: -0.5, ..params() }, "temperature", "-0.5");
    bad(SamplingParams { temperature: f32::INFINITY, ..params() }, "temperature", "inf");
}

#[test]
fn top_p() {
    bad(SamplingParams { top_p: 0.0, ..params() }, "top_p", "0");
    bad(SamplingParams { top_p: 1.5, ..params() }, "top_p", "1.5");
    bad(SamplingParams { top_p: f64::NAN, ..params() }, "top_p", "NaN");
    bad(SamplingParams { top_p: -0.1, ..params() }, "top_p", "-0.1");
}

#[test]
fn min_p() {
    bad(SamplingParams { min_p: -0.1, ..params() }, "min_p", "-0.1");
    bad(SamplingParams { min_p: 1.1, ..params() }, "min_p", "1.1");
    bad(SamplingParams { min_p: f32::NAN, ..params() }, "min_p", "NaN");
}

#[test]
fn penalties() {
    bad(SamplingParams { presence_penalty: 2.5, ..params() }, "presence_penalty", "2.5");
    bad(SamplingParams { presence_penalty: f32::NAN, ..params() }, "presence_penalty", "NaN");
    bad(SamplingParams { frequency_penalty: -2.5, ..params() }, "frequency_penalty", "-2.5");
    bad(SamplingParams { frequency_penalty: f32::NEG_INFINITY, ..params() }, "frequency_penalty", "-inf");
    bad(SamplingParams { repetition_penalty: 0.0, ..params() }, "repetition_penalty", "0");
    bad(SamplingParams { repetition_penalty: -1.0, ..params() }, "repetition_penalty", "-1");
    bad(SamplingParams { repetition_penalty: f32::INFINITY, ..params() }, "repetition_penalty", "inf");
    bad(SamplingParams { repetition_penalty: f32::NAN, ..params() }, "repetition_penalty", "NaN");
}

#[test]
fn token_ids() {
    bad(SamplingParams { stop_token_ids: vec![1, VOCAB], ..params() }, "stop_token_ids", "13");
    bad(SamplingParams { logit_bias: [(VOCAB, 1.0)].into(), ..params() }, "logit_bias", "13");
    bad(SamplingParams { logit_bias: [(3, f32::NAN)].into(), ..params() }, "logit_bias[3]", "NaN");
    bad(SamplingParams { logit_bias: [(3, f32::INFINITY)].into(), ..params() }, "logit_bias[3]", "inf");
    bad(SamplingParams { logprobs: Some(14), ..params() }, "logprobs", "14");
    bad(SamplingParams { prompt_logprobs: Some(14), ..params() }, "prompt_logprobs", "14");
    refused(&[1, 99], params(), RequestOptions::default(), "prompt[1]", "99");
}

#[test]
fn lengths_and_counts() {
    bad(SamplingParams { max_tokens: 0, ..params() }, "max_tokens", "0");
    bad(SamplingParams { max_tokens: 3, min_tokens: 4, ..params() }, "min_tokens", "4");
    bad(SamplingParams { n: 0, ..params() }, "n", "0");
    bad(SamplingParams { n: 16385, ..params() }, "n", "16385");
    bad(SamplingParams { n: 2, temperature: 0.0, ..params() }, "n", "2");
    bad(SamplingParams { stop: vec!["x".into(), String::new()], ..params() }, "stop", "an empty string");
}

#[test]
fn prompts() {
    refused(&[], params(), RequestOptions::default(), "prompt", "empty");
    refused(&[1; 40], params(), RequestOptions::default(), "prompt", "40 tokens");
    let got = "30 + 4, which may take 9 KV blocks";
    let four = SamplingParams { max_tokens: 4, ..params() };
    refused(&[1; 30], four, RequestOptions::default(), "prompt tokens + max_tokens", got);
}

#[test]
fn times() {
    let options = RequestOptions { deadline: Some(f64::NAN), ..RequestOptions::default() };
    refused(&[1], params(), options, "deadline", "NaN");
    let options = RequestOptions { arrival: Some(f64::INFINITY), ..RequestOptions::default() };
    refused(&[1], params(), options, "arrival", "inf");
}

#[test]
fn bounds_are_allowed() {
    let extreme = SamplingParams {
        temperature: 0.0,
        top_p: 1.0,
        min_p: 1.0,
        presence_penalty: -2.0,
        frequency_penalty: 2.0,
        repetition_penalty: 0.01,
        max_tokens: 1,
        min_tokens: 1,
        stop_token_ids: vec![VOCAB - 1],
        logit_bias: [(0, -1e9)].into(),
        logprobs: Some(VOCAB as usize),
        ..params()
    };
    extreme.validate(VOCAB as usize).unwrap();
    // 33 positions computed would need nine blocks, but the last token never is.
    let mut engine = engine();
    let three = SamplingParams { max_tokens: 3, ..params() };
    engine.add_request(&[1; 30], three, RequestOptions::default()).unwrap();
    assert_eq!(drain(&mut engine).len(), 1);
}

#[test]
fn top_k_reads_and_writes_vllms_integers() {
    let read = |text: &str| serde_json::from_str::<SamplingParams>(text).map(|params| params.top_k);
    assert_eq!(read(r#"{"top_k": 0}"#).unwrap(), None);
    assert_eq!(read(r#"{"top_k": -1}"#).unwrap(), None);
    assert_eq!(read(r#"{"top_k": 40}"#).unwrap(), NonZeroU32::new(40));
    let error = read(r#"{"top_k": -2}"#).unwrap_err().to_string();
    assert!(error.contains("top_k is -2"), "{error}");
    let params = SamplingParams { top_k: NonZeroU32::new(5), logit_bias: [(7, 0.5)].into(), ..params() };
    let json = serde_json::to_string(&params).unwrap();
    assert!(json.contains(r#""top_k":5"#), "{json}");
    assert_eq!(serde_json::from_str::<SamplingParams>(&json).unwrap(), params);
    assert_eq!(toml::from_str::<SamplingParams>(&toml::to_string(&params).unwrap()).unwrap(), params);
}

#[test]
fn engine_config_reads_toml() {
    let text = r#"
        model = "some/folder"
        max_num_seqs = 7
        kvcache_block_size = 16
        num_kvcache_blocks = 100
        dtype = "bf16"
        [kernels]
        "attention.decode" = "reference"
    "#;
    let want = EngineConfig {
        model: Some("some/folder".into()),
        max_num_seqs: 7,
        kvcache_block_size: 16,
        num_kvcache_blocks: Some(100),
        dtype: Some(StorageType::Bf16),
        kernels: [("attention.decode".to_string(), "reference".to_string())].into(),
        ..EngineConfig::default()
    };
    assert_eq!(EngineConfig::from_toml(text).unwrap(), want);
    assert_eq!(EngineConfig::from_toml("").unwrap(), EngineConfig::default());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), toml::to_string(&want).unwrap()).unwrap();
    assert_eq!(EngineConfig::from_file(file.path()).unwrap(), want);
    let error = EngineConfig::from_file("no/such/file.toml".as_ref()).unwrap_err().to_string();
    assert!(error.starts_with("no/such/file.toml: "), "{error}");
}

#[test]
fn engine_config_names_the_field_at_fault() {
    for (text, want) in [
        ("max_num_batched_tokens = 0", "max_num_batched_tokens is 0, expected at least 1"),
        ("max_num_seqs = 0", "max_num_seqs is 0, expected at least 1"),
        ("max_model_len = 1", "max_model_len is 1, expected at least 2"),
        ("tensor_parallel_size = 0", "tensor_parallel_size is 0, expected at least 1"),
        ("num_kvcache_blocks = 0", "num_kvcache_blocks is 0, expected at least 1"),
        ("threads = 0", "threads is 0, expected at least 1"),
        ("gpu_memory_utilization = nan", "gpu_memory_utilization is NaN, expected more than 0 and at most 1"),
        ("gpu_memory_utilization = 1.2", "gpu_memory_utilization is 1.2, expected more than 0 and at most 1"),
        ("gpu_memory_utilization = 0.0", "gpu_memory_utilization is 0, expected more than 0 and at most 1"),
        ("kvcache_block_size = 0", "kvcache_block_size is 0, expected a multiple of 16"),
        ("kvcache_block_size = 24", "kvcache_block_size is 24, expected a multiple of 16"),
        ("max_num_seq = 3", "unknown field `max_num_seq`"),
        ("max_num_seqs = -3", "max_num_seqs = -3"),
        ("dtype = \"int8\"", "unknown variant `int8`"),
        ("seed = 1\nmax_num_seqs = ", "line 2, \"max_num_seqs =\""),
    ] {
        let error = EngineConfig::from_toml(text).unwrap_err().to_string();
        assert!(error.contains(want), "{text}: {error}");
    }
}

#[test]
fn unknown_scheduler_lists_the_known() {
    let error = policies::by_name("lifo").err().unwrap().to_string();
    assert_eq!(error, r#"unknown scheduler "lifo"; known: chunked, fcfs"#);
}

#[test]
fn engine_needs_a_pool_size() {
    let (config, fake) = (EngineConfig::default(), crate::fake::Fake::new(1, 1));
    let scheduler = policies::by_name(&config.scheduler).unwrap();
    let error =
        Engine::new(&config, Default::default(), scheduler, Box::new(fake)).err().unwrap().to_string();
    assert_eq!(error, "num_kvcache_blocks is not set, expected the size of the device's pool");
}
