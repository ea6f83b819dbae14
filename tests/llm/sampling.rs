//! Sampling parameters, where the engine, the sampler and the model meet.

use lathe::config::SamplingParams;
use lathe::engine::{FinishReason, TokenLogprobs};
use lathe::llm::{LLM, Prompt};
use lathe::open;

use super::{config, expected, golden, greedy, one, qwen3};

/// The end-of-sequence token of the golden models.
const EOS: u32 = 2;

#[test]
fn greedy_tokens_of_a_batch_are_transformers() {
    for family in ["qwen3", "qwen2", "llama", "llama3_rope", "mistral_window", "gemma3", "gemma3_mixed"] {
        let expected = expected(family);
        let mut llm = LLM::new(config(&golden(family))).unwrap();
        let params = SamplingParams { ignore_eos: true, ..greedy(24) };
        let prompts: Vec<Prompt> = expected.prompts.iter().cloned().map(Prompt::Tokens).collect();
        let outputs = llm.generate(&prompts, &[params], false).unwrap();
        let got: Vec<&[u32]> = outputs.iter().map(|o| o.token_ids.as_slice()).collect();
        assert_eq!(got, expected.greedy, "{family}");
        assert!(outputs.iter().all(|o| o.finish_reason == FinishReason::Length && o.text.is_empty()));
    }
}

/// After prompt 0 transformers' greedy tokens are 277, 54, 209, 162, 162, ….
fn first() -> (Vec<u32>, Vec<u32>) {
    let expected = expected("qwen3");
    assert_eq!(expected.greedy[0][..4], [277, 54, 209, 162]);
    (expected.prompts[0].clone(), expected.greedy[0].clone())
}

#[test]
fn a_stop_token_ends_the_request_and_is_its_last() {
    let (prompt, tokens) = first();
    let params = SamplingParams { stop_token_ids: vec![300, 209], ..greedy(10) };
    let output = one(&mut qwen3(), prompt, &params);
    assert_eq!(
        (output.token_ids.as_slice(), output.finish_reason),
        (&tokens[..3], FinishReason::StopToken(209))
    );
}

#[test]
fn min_tokens_keeps_stop_tokens_from_being_sampled() {
    let (prompt, tokens) = first();
    let params = SamplingParams { stop_token_ids: vec![209], min_tokens: 5, ..greedy(10) };
    let output = one(&mut qwen3(), prompt, &params);
    assert_eq!(output.token_ids[..2], tokens[..2]);
    assert!(output.token_ids.len() >= 5 && !output.token_ids[..5].contains(&209), "{:?}", output.token_ids);
}

#[test]
fn bias_forces_a_token_and_end_of_sequence_ends_unless_ignored() {
    let (prompt, _) = first();
    let mut llm = qwen3();
    let forced = |token| SamplingParams { logit_bias: [(token, 1000.0)].into(), ..greedy(6) };
    assert_eq!(one(&mut llm, prompt.clone(), &forced(7)).token_ids, [7; 6]);

    let ended = one(&mut llm, prompt.clone(), &forced(EOS));
    assert_eq!((ended.token_ids, ended.finish_reason), (vec![EOS], FinishReason::StopToken(EOS)));

    let ignored = one(&mut llm, prompt.clone(), &SamplingParams { ignore_eos: true, ..forced(EOS) });
    assert_eq!((ignored.token_ids, ignored.finish_reason), (vec![EOS; 6], FinishReason::Length));

    let later = one(&mut llm, prompt, &SamplingParams { min_tokens: 3, ..forced(EOS) });
    assert_eq!((later.token_ids.len(), later.finish_reason), (4, FinishReason::StopToken(EOS)));
    assert_eq!(later.token_ids.iter().position(|&token| token == EOS), Some(3));
}

#[test]
fn samples_of_one_request_are_requests_with_consecutive_seeds() {
    let prompts = expected("qwen3").prompts;
    // The longer prompt fills blocks of the KV cache, which its samples share.
    for prompt in [&prompts[1], &prompts[4]] {
        let params =
            |seed, n| SamplingParams { seed: Some(seed), n, max_tokens: 20, ..SamplingParams::default() };
        let outputs = qwen3().generate(&[prompt.clone().into()], &[params(40, 3)], false).unwrap();
        let singles: Vec<_> =
            (0..3).map(|i| one(&mut qwen3(), prompt.clone(), &params(40 + i, 1)).token_ids).collect();
        assert_eq!(outputs.iter().map(|o| o.sample).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(outputs.into_iter().map(|o| o.token_ids).collect::<Vec<_>>(), singles);
        assert!(singles[0] != singles[1] && singles[1] != singles[2]);
    }
}

/// Log-softmax in f64, and the likeliest tokens, of a row of logits.
fn check(logits: &[f32], token: u32, top: usize, got: &TokenLogprobs) {
    let sum: f64 = logits.iter().map(|&v| f64::from(v).exp()).sum();
    let logprob = |token: usize| (f64::from(logits[token]) - sum.ln()) as f32;
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    approx::assert_abs_diff_eq!(got.logprob, logprob(token as usize), epsilon = 1e-5);
    assert_eq!(got.rank as usize, order.iter().position(|&t| t == token as usize).unwrap() + 1);
    assert_eq!(got.top.len(), top);
    for (&(token, value), &want) in got.top.iter().zip(&order) {
        assert_eq!(token as usize, want);
        approx::assert_abs_diff_eq!(value, logprob(want), epsilon = 1e-5);
    }
}

#[test]
fn log_probabilities_are_those_of_teacher_forced_logits() {
    let prompt = &expected("qwen3").prompts[4];
    // Neither temperature nor penalties change what is reported.
    let params = SamplingParams {
        logprobs: Some(3),
        prompt_logprobs: Some(2),
        temperature: 1.3,
        repetition_penalty: 1.2,
        seed: Some(5),
        max_tokens: 12,
        ..SamplingParams::default()
    };
    // Whole, then in pieces of 7, then, in the same engine, with the prompt's blocks in the prefix cache.
    let mut llm =
        LLM::new(lathe::config::EngineConfig { max_num_batched_tokens: 7, ..config(&golden("qwen3")) })
            .unwrap();
    let outputs = [
        one(&mut qwen3(), prompt.clone(), &params),
        one(&mut llm, prompt.clone(), &params),
        one(&mut llm, prompt.clone(), &params),
    ];
    let config = config(&golden("qwen3"));
    let mut runner = open::runner(&config, &open::files(&config).unwrap()).unwrap();
    for output in outputs {
        let all = [output.prompt_token_ids.as_slice(), &output.token_ids].concat();
        let logits = runner.score(&all, 1024).unwrap();
        let rows: Vec<&[f32]> = logits.chunks_exact(logits.len() / all.len()).collect();
        assert_eq!((output.prompt_logprobs.len(), output.logprobs.len()), (33, 12));
        assert_eq!(output.prompt_logprobs[0], None);
        for (position, got) in output.prompt_logprobs.iter().enumerate().skip(1) {
            let got = got.as_ref().unwrap_or_else(|| panic!("position {position} has none"));
            check(rows[position - 1], all[position], 2, got);
        }
        for (i, got) in output.logprobs.iter().enumerate() {
            check(rows[32 + i], all[33 + i], 3, got);
        }
    }
}

#[test]
fn penalties_and_filters_change_what_is_drawn() {
    let prompt = &expected("qwen3").prompts[3];
    let mut llm = qwen3();
    // Greedy repeats 162 without end.
    assert_eq!(one(&mut llm, prompt.clone(), &greedy(8)).token_ids, [162; 8]);
    let penalised = SamplingParams { presence_penalty: 2.0, frequency_penalty: 2.0, ..greedy(8) };
    let tokens = one(&mut llm, prompt.clone(), &penalised).token_ids;
    assert_eq!(tokens[0], 162);
    assert!(tokens.iter().filter(|&&token| token == 162).count() < 4, "{tokens:?}");
    // With one candidate left, the draw is the greedy token.
    let drawn =
        SamplingParams { temperature: 1.0, seed: Some(1), max_tokens: 8, ..SamplingParams::default() };
    for one_left in [
        SamplingParams { top_k: std::num::NonZeroU32::new(1), ..drawn.clone() },
        SamplingParams { top_p: 1e-6, ..drawn.clone() },
        SamplingParams { min_p: 1.0, ..drawn.clone() },
    ] {
        assert_eq!(one(&mut llm, prompt.clone(), &one_left).token_ids, [162; 8], "{one_left:?}");
    }
    assert_ne!(one(&mut llm, prompt.clone(), &drawn).token_ids, [162; 8]);
}
