//! `--deterministic`: a request's tokens and log-probabilities have the same bits alone, among 64 others, in any order,
//! in chunks, preempted, after a prefix hit, from graphs and without.

use lathe::config::{EngineConfig, SamplingParams, StorageType};
use lathe::engine::{Stats, TokenLogprobs};
use lathe::llm::{LLM, Prompt};

use crate::support::{golden, softcuda};

/// What a request got: tokens, and the bits of their log-probabilities.
type Got = (Vec<u32>, Vec<(u32, Vec<(u32, u32)>)>);

fn bits(logprobs: &[TokenLogprobs]) -> Vec<(u32, Vec<(u32, u32)>)> {
    let one = |l: &TokenLogprobs| {
        (l.logprob.to_bits(), l.top.iter().map(|&(id, value)| (id, value.to_bits())).collect())
    };
    logprobs.iter().map(one).collect()
}

/// 64 requests of 1 to 40 prompt tokens, greedy and random, plain and truncated; every eighth shares its beginning.
fn requests() -> Vec<(Prompt, SamplingParams)> {
    let request = |i: u32| {
        let length = 1 + i * 7 % 40;
        let tokens: Vec<u32> =
            (0..length).map(|t| if i.is_multiple_of(8) { t } else { i * 31 + t * t } % 320).collect();
        let params = SamplingParams {
            max_tokens: 2 + i as usize % 3,
            ignore_eos: true,
            logprobs: Some(3),
            seed: Some(u64::from(i)),
            temperature: [0.0, 0.7, 1.0][i as usize % 3],
            top_p: if i.is_multiple_of(5) { 0.8 } else { 1.0 },
            ..SamplingParams::default()
        };
        (Prompt::Tokens(tokens), params)
    };
    (0..64).map(request).collect()
}

fn engine(family: &str, change: impl FnOnce(&mut EngineConfig)) -> LLM {
    softcuda();
    let mut config = EngineConfig {
        model: Some(golden(family).0.to_str().unwrap().into()),
        device: "cuda".into(),
        dtype: Some(StorageType::Bf16),
        deterministic: true,
        max_num_batched_tokens: 2048,
        max_num_seqs: 64,
        max_model_len: 64,
        kvcache_block_size: 16,
        num_kvcache_blocks: Some(256),
        enable_prefix_caching: false,
        ..EngineConfig::default()
    };
    change(&mut config);
    LLM::new(config).unwrap()
}

/// Runs the requests together, and gives what each got, and the engine's counts.
fn run(llm: &mut LLM, requests: &[(Prompt, SamplingParams)]) -> (Vec<Got>, Stats) {
    let (prompts, params): (Vec<_>, Vec<_>) = requests.iter().cloned().unzip();
    let outputs = llm.generate(&prompts, &params, false).unwrap();
    (outputs.iter().map(|o| (o.token_ids.clone(), bits(&o.logprobs))).collect(), llm.engine().stats())
}

#[test]
fn every_request_has_the_same_bits_in_any_company() {
    // A window, a soft-cap and sandwich norms change kernels, not company: fewer requests do for those.
    for (family, every) in [("qwen3", 1), ("gemma3_mixed", 4)] {
        let requests: Vec<_> = requests().into_iter().step_by(every).collect();
        let (together, _) = run(&mut engine(family, |_| {}), &requests);
        assert!(together.iter().zip(&requests).all(|(got, r)| got.1.len() == r.1.max_tokens));
        let mut one = engine(family, |_| {});
        for (i, request) in requests.iter().enumerate() {
            let (alone, _) = run(&mut one, std::slice::from_ref(request));
            assert_eq!(alone[0], together[i], "{family}: request {i} alone");
        }
        let reversed: Vec<_> = requests.iter().rev().cloned().collect();
        let (mut backwards, _) = run(&mut engine(family, |config| config.enforce_eager = true), &reversed);
        backwards.reverse();
        assert_eq!(backwards, together, "{family}: in another order, without graphs");
        let (chunked, _) = run(&mut engine(family, |config| config.max_num_batched_tokens = 23), &requests);
        assert_eq!(chunked, together, "{family}: in chunks");
        let mut cached = engine(family, |config| config.enable_prefix_caching = true);
        assert_eq!(run(&mut cached, &requests).0, together, "{family}: with the prefix cache");
        let (again, stats) = run(&mut cached, &requests);
        assert_eq!(again, together, "{family}: after prefix hits");
        assert!(stats.prefix_hit_tokens > 100, "{stats:?}");
    }
}

#[test]
fn a_preempted_request_has_the_same_bits() {
    let mut requests: Vec<_> = requests().into_iter().step_by(9).take(4).collect();
    requests.iter_mut().for_each(|(_, params)| params.max_tokens = 20);
    let (together, _) = run(&mut engine("qwen3", |_| {}), &requests);
    let (preempted, stats) =
        run(&mut engine("qwen3", |config| config.num_kvcache_blocks = Some(5)), &requests);
    assert_eq!(preempted, together);
    assert!(stats.preemptions > 0, "{stats:?}");
}

#[test]
fn a_kernel_that_depends_on_the_batch_is_refused_by_name() {
    softcuda();
    let config = EngineConfig {
        device: "cuda".into(),
        deterministic: true,
        kernels: [("linear.decode".into(), "split_k".into())].into(),
        ..EngineConfig::default()
    };
    let error = LLM::new(config).err().expect("refused").to_string();
    let want = "kernel linear.decode is split_k, expected a batch-invariant kernel, because of deterministic: \
                batch_invariant, mma_pipelined, naive";
    assert_eq!(error, want);
}
