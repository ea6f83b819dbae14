//! The whole engine on CUDA, on softcuda where there is no GPU: every family's recorded tokens, with and without graphs,
//! prompts in chunks, preempted, and from the prefix cache.

use std::path::{Path, PathBuf};
use std::sync::Once;

use lathe::config::{EngineConfig, SamplingParams, StorageType};
use lathe::llm::{LLM, Prompt};
use serde::Deserialize;

/// What transformers recorded.
#[derive(Deserialize)]
struct Expected {
    prompts: Vec<Vec<u32>>,
    greedy: Vec<Vec<u32>>,
}

/// Loads softcuda before anything looks for a driver; a driver of the system's would be found by its name.
fn softcuda() {
    static LOADED: Once = Once::new();
    LOADED.call_once(|| {
        let cache = std::env::var_os("LATHE_CACHE").map(PathBuf::from);
        let cache = cache.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache"));
        let path = cache.join("softcuda/libcuda.so.1");
        let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: `name` is a C string; the library's initialisers make no demands on the process.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_GLOBAL) };
        assert!(!handle.is_null(), "{} does not load: run `cargo xtask softcuda`", path.display());
    });
}

fn golden(family: &str) -> (PathBuf, Expected) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/golden/models").join(family);
    let expected = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    (folder, expected)
}

/// The first `tokens` greedy tokens of the prompts `which`, together, twice: the second time prefixes are cached.
fn check(
    family: &str,
    which: &[usize],
    tokens: usize,
    change: impl FnOnce(&mut EngineConfig),
) -> lathe::engine::Stats {
    softcuda();
    let (folder, expected) = golden(family);
    let mut config = EngineConfig {
        model: Some(folder.to_str().unwrap().into()),
        device: "cuda".into(),
        dtype: Some(StorageType::F32),
        max_num_batched_tokens: 64,
        max_num_seqs: 4,
        max_model_len: 64,
        kvcache_block_size: 16,
        num_kvcache_blocks: Some(16),
        ..EngineConfig::default()
    };
    change(&mut config);
    let mut llm = LLM::new(config).unwrap();
    let prompts: Vec<_> = which.iter().map(|&i| Prompt::Tokens(expected.prompts[i].clone())).collect();
    let params = SamplingParams { max_tokens: tokens, ignore_eos: true, ..SamplingParams::greedy() };
    for round in 0..2 {
        let outputs = llm.generate(&prompts, std::slice::from_ref(&params), false).unwrap();
        for (output, &i) in outputs.iter().zip(which) {
            assert_eq!(output.token_ids, expected.greedy[i][..tokens], "{family}: round {round}, prompt {i}");
        }
    }
    llm.engine().stats()
}

/// Prompts of 1, 5, 16 and 33 tokens.
const ALL: [usize; 4] = [0, 1, 2, 4];

#[test]
fn every_family_gives_the_recorded_tokens_with_graphs() {
    for family in ["qwen3", "qwen2", "llama", "llama3_rope", "mistral_window", "gemma3", "gemma3_mixed"] {
        let stats = check(family, &ALL, 6, |_| {});
        assert!(stats.prefix_hit_tokens >= 32, "{family}: {stats:?}");
    }
}

#[test]
fn so_it_does_without_graphs_in_chunks_and_preempted() {
    check("qwen3", &ALL, 6, |config| config.enforce_eager = true);
    check("qwen3", &ALL, 6, |config| config.max_num_batched_tokens = 7);
    check("qwen3", &ALL, 6, |config| config.deterministic = true);
    let stats = check("qwen3", &[0, 1, 2], 16, |config| config.num_kvcache_blocks = Some(4));
    assert!(stats.preemptions > 0, "{stats:?}");
}
