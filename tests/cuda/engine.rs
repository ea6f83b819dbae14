//! The whole engine on CUDA: every family's recorded tokens, with and without graphs, prompts in chunks, preempted, and
//! from the prefix cache. On softcuda, or with `LATHE_DRIVER=system` on the machine's GPU.

use lathe::config::{EngineConfig, SamplingParams, StorageType};
use lathe::llm::{LLM, Prompt};

use crate::support::{golden, on_gpu, softcuda};

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

const FAMILIES: [&str; 7] =
    ["qwen3", "qwen2", "llama", "llama3_rope", "mistral_window", "gemma3", "gemma3_mixed"];

#[test]
fn every_family_gives_the_recorded_tokens_with_graphs() {
    for family in FAMILIES {
        let stats = check(family, &ALL, 6, |_| {});
        assert!(stats.prefix_hit_tokens >= 32, "{family}: {stats:?}");
    }
}

#[test]
fn so_it_does_without_graphs_in_chunks_and_preempted() {
    for family in FAMILIES {
        let chunks = |config: &mut EngineConfig| config.max_num_batched_tokens = 7;
        check(family, &[1, 4], 3, |config| {
            chunks(config);
            config.enforce_eager = true;
        });
        let stats = check(family, &[0, 1, 2], 16, |config| config.num_kvcache_blocks = Some(4));
        assert!(stats.preemptions > 0, "{family}: {stats:?}");
        // A GPU has the time for all families.
        if family == FAMILIES[0] || on_gpu() {
            check(family, &ALL, 6, chunks);
            check(family, &ALL, 6, |config| config.enforce_eager = true);
        }
    }
    check("qwen3", &ALL, 6, |config| config.async_scheduling = Some(false));
    check("qwen3", &ALL, 6, |config| config.deterministic = true);
}
