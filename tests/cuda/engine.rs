//! The whole engine on CUDA: every family's recorded tokens, with and without graphs, prompts in chunks, preempted, and
//! from the prefix cache. On softcuda, or with `LATHE_DRIVER=system` on the machine's GPU.

use lathe::config::{EngineConfig, SamplingParams, StorageType};
use lathe::engine::Stats;
use lathe::llm::{LLM, Prompt};

use crate::support::{FAMILIES, golden, on_gpu, softcuda};

/// Small enough that prompts fill blocks and steps.
fn config(model: Option<String>, device: &str) -> EngineConfig {
    EngineConfig {
        model,
        device: device.into(),
        dtype: Some(StorageType::F32),
        max_num_batched_tokens: 64,
        max_num_seqs: 4,
        max_model_len: 64,
        kvcache_block_size: 16,
        num_kvcache_blocks: Some(16),
        ..EngineConfig::default()
    }
}

/// Greedy tokens of the prompts, together, twice: the second time prefixes are cached.
fn greedy(config: EngineConfig, prompts: &[Prompt], tokens: usize) -> ([Vec<Vec<u32>>; 2], Stats) {
    let mut llm = LLM::new(config).unwrap();
    let params = SamplingParams { max_tokens: tokens, ignore_eos: true, ..SamplingParams::greedy() };
    let rounds = [0, 1].map(|_| {
        let outputs = llm.generate(prompts, std::slice::from_ref(&params), false).unwrap();
        outputs.into_iter().map(|output| output.token_ids).collect()
    });
    (rounds, llm.engine().stats())
}

/// That the first `tokens` tokens of the prompts `which` are those recorded.
fn check(family: &str, which: &[usize], tokens: usize, change: impl FnOnce(&mut EngineConfig)) -> Stats {
    softcuda();
    let (folder, expected) = golden(family);
    let mut config = config(Some(folder.to_str().unwrap().into()), "cuda");
    change(&mut config);
    let prompts: Vec<_> = which.iter().map(|&i| Prompt::Tokens(expected.prompts[i].clone())).collect();
    let (rounds, stats) = greedy(config, &prompts, tokens);
    let want: Vec<_> = which.iter().map(|&i| expected.greedy[i][..tokens].to_vec()).collect();
    for (round, got) in rounds.iter().enumerate() {
        assert_eq!(*got, want, "{family}: round {round}");
    }
    stats
}

/// Prompts of 1, 5, 16 and 33 tokens.
const ALL: [usize; 4] = [0, 1, 2, 4];

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

#[test]
fn the_shipped_model_gives_the_cpu_s_tokens() {
    softcuda();
    let prompts = [
        "Once upon a time",
        "The fox and the bear went to the river to look for a boat, and then it began to rain and they ran",
        "Rain",
    ];
    let prompts = prompts.map(Prompt::from);
    let (want, _) = greedy(config(None, "cpu"), &prompts, 16);
    assert_eq!(want[0], want[1]);
    let on_cuda = |change: fn(&mut EngineConfig)| {
        let mut config = config(None, "cuda");
        change(&mut config);
        let (got, stats) = greedy(config, &prompts, 16);
        assert_eq!(got, want);
        stats
    };
    assert!(on_cuda(|_| {}).prefix_hit_tokens >= 16);
    on_cuda(|config| (config.enforce_eager, config.max_num_batched_tokens) = (true, 7));
    assert!(on_cuda(|config| config.num_kvcache_blocks = Some(4)).preemptions > 0);
}
