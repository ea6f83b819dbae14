//! A request's tokens depend on its prompt, its parameters and its seed: not on who shares its batch, how its prompt is
//! cut, whether it was preempted, or what the prefix cache had. Equal token for token.

use std::num::NonZeroU32;

use lathe::config::{EngineConfig, SamplingParams};
use lathe::engine::{RequestOptions, SeqId};
use lathe::llm::{LLM, Output, Prompt};

use super::{config, expected, golden, small};

/// The golden prompts, of 1 to 97 tokens, sampled in six ways.
fn requests() -> (Vec<Prompt>, Vec<SamplingParams>) {
    let base =
        SamplingParams { max_tokens: 40, ignore_eos: true, seed: Some(11), ..SamplingParams::default() };
    let params = vec![
        SamplingParams { temperature: 0.0, ..base.clone() },
        base.clone(),
        SamplingParams { top_k: NonZeroU32::new(20), temperature: 0.8, ..base.clone() },
        SamplingParams { top_p: 0.9, seed: Some(12), ..base.clone() },
        SamplingParams { min_p: 0.05, repetition_penalty: 1.1, ..base.clone() },
        SamplingParams { presence_penalty: 0.5, frequency_penalty: 0.5, temperature: 1.2, ..base },
    ];
    (expected("qwen3").prompts.into_iter().map(Prompt::Tokens).collect(), params)
}

fn run(llm: &mut LLM) -> Vec<Output> {
    let (prompts, params) = requests();
    llm.generate(&prompts, &params, false).unwrap()
}

fn tokens(outputs: &[Output]) -> Vec<Vec<u32>> {
    outputs.iter().map(|output| output.token_ids.clone()).collect()
}

fn alone(config: &EngineConfig) -> Vec<Vec<u32>> {
    let (prompts, params) = requests();
    let one = |(prompt, params): (Prompt, SamplingParams)| {
        let mut llm = LLM::new(config.clone()).unwrap();
        llm.generate(&[prompt], &[params], false).unwrap().remove(0).token_ids
    };
    let all: Vec<Vec<u32>> = prompts.into_iter().zip(params).map(one).collect();
    assert!(all.iter().all(|tokens| tokens.len() == 40));
    all
}

fn check(config: EngineConfig) {
    let want = alone(&config);
    let new = |change: &dyn Fn(&mut EngineConfig)| {
        let mut config = config.clone();
        change(&mut config);
        LLM::new(config).unwrap()
    };

    let mut llm = new(&|_| {});
    assert_eq!(tokens(&run(&mut llm)), want, "together");
    let again = run(&mut llm);
    assert_eq!(again.iter().map(|o| o.prefix_hit).collect::<Vec<_>>(), [0, 0, 0, 16, 32, 96]);
    assert_eq!(tokens(&again), want, "with prefix hits");

    let (mut prompts, mut params) = requests();
    for i in prompts.len()..64 {
        let len = 1 + i * 7 % 90;
        prompts.push(Prompt::Tokens((0..len).map(|j| ((i * 131 + j * 17) % 320) as u32).collect()));
        params.push(SamplingParams {
            max_tokens: 1 + i % 30,
            seed: Some(i as u64),
            ..SamplingParams::default()
        });
    }
    let outputs = new(&|_| {}).generate(&prompts, &params, false).unwrap();
    assert_eq!(outputs.len(), 64);
    assert_eq!(tokens(&outputs[..6]), want, "in a batch of 64");

    for budget in [1, 7, 33] {
        let mut llm = new(&|c| c.max_num_batched_tokens = budget);
        assert_eq!(tokens(&run(&mut llm)), want, "at most {budget} tokens a step");
    }

    // The longest request alone takes 9 blocks.
    for scheduler in ["chunked", "fcfs"] {
        let mut llm = new(&|c| {
            c.num_kvcache_blocks = Some(12);
            c.scheduler = scheduler.into();
        });
        assert_eq!(tokens(&run(&mut llm)), want, "preempted under {scheduler}");
        assert!(llm.engine().stats().preemptions > 0, "{scheduler}: {:?}", llm.engine().stats());
    }

    assert_eq!(tokens(&run(&mut new(&|c| c.enable_prefix_caching = false))), want, "without prefix caching");
    assert_eq!(tokens(&run(&mut new(&|c| c.threads = Some(1)))), want, "on one thread");
    assert_eq!(tokens(&run(&mut new(&|c| c.kvcache_block_size = 64))), want, "in larger blocks");
}

#[test]
fn in_f32() {
    check(config(&golden("qwen3")));
}

#[test]
fn with_windows_and_soft_caps() {
    check(config(&golden("gemma3_mixed")));
}

#[test]
fn in_bf16() {
    check(small());
}

/// A step that goes on from the last one must not compute the chunk that lay beside its decode: another sequence has
/// that chunk's block by now.
#[test]
fn a_preempted_prompts_block_is_not_written_again() {
    let run = |blocks: usize| {
        let mut config = config(&golden("qwen3"));
        (config.num_kvcache_blocks, config.max_num_batched_tokens) = (Some(blocks), 20);
        (config.max_model_len, config.async_scheduling) = (64, Some(false));
        let mut llm = LLM::new(config).unwrap();
        let engine = llm.engine();
        let prompt = |len: u32, from: u32| (0..len).map(|i| (from + 7 * i) % 50 + 1).collect::<Vec<u32>>();
        let params = SamplingParams { logprobs: Some(1), ignore_eos: true, ..super::greedy(12) };
        let first = engine.add_request(&prompt(12, 3), params.clone(), RequestOptions::default()).unwrap();
        let first = SeqId::new(first.0, 0);
        while engine.seq(first).is_none_or(|seq| seq.computed < 14) {
            engine.step().unwrap();
        }
        let other = engine.add_request(&prompt(40, 5), params, RequestOptions::default()).unwrap();
        let other = SeqId::new(other.0, 1);
        for computed in [19, 38] {
            engine.step().unwrap();
            assert_eq!(engine.seq(other).unwrap().computed, computed);
        }
        engine.step().unwrap();
        let alone = (engine.computed().len(), engine.stats().preemptions) == (1, 1);
        while engine.seq(first).is_some_and(|seq| !seq.is_finished()) {
            engine.step().unwrap();
        }
        let seq = engine.seq(first).unwrap();
        let logprobs: Vec<f32> = seq.logprobs.iter().map(|token| token.logprob).collect();
        (seq.output().to_vec(), logprobs, alone)
    };
    let (tokens, logprobs, alone) = run(64);
    assert!(!alone, "there is room for both");
    let (got_tokens, got, alone) = run(4);
    assert!(alone, "the first sequence takes a block of the second");
    assert_eq!(got_tokens, tokens);
    logprobs.iter().zip(&got).for_each(|(want, got)| approx::assert_abs_diff_eq!(want, got, epsilon = 1e-4));
}
