//! What cannot work is refused before anything is queued, and what fails alone.

use std::fs;

use lathe::config::SamplingParams;
use lathe::engine::FinishReason;
use lathe::llm::{LLM, Prompt};
use safetensors::SafeTensors;

use super::{config, expected, golden, greedy, one, qwen3};

/// Prompts and parameters that cannot work, and what the refusal must name.
fn refused() -> Vec<(Vec<u32>, SamplingParams, [&'static str; 2])> {
    let p = SamplingParams::default;
    let mut all: Vec<(Vec<u32>, SamplingParams, [&str; 2])> = vec![
        (vec![], p(), ["prompt", "empty"]),
        (vec![1, 320], p(), ["prompt[1]", "320"]),
        (vec![u32::MAX], p(), ["prompt[0]", "4294967295"]),
        (vec![1; 256], p(), ["max_model_len", "256"]),
        (vec![1; 10_000], p(), ["max_model_len", "10000"]),
    ];
    for (params, names) in [
        (SamplingParams { temperature: -0.1, ..p() }, ["temperature", "-0.1"]),
        (SamplingParams { temperature: f32::NAN, ..p() }, ["temperature", "NaN"]),
        (SamplingParams { temperature: f32::INFINITY, ..p() }, ["temperature", "inf"]),
        (SamplingParams { top_p: 0.0, ..p() }, ["top_p", "0"]),
        (SamplingParams { top_p: 1.5, ..p() }, ["top_p", "1.5"]),
        (SamplingParams { top_p: f64::NAN, ..p() }, ["top_p", "NaN"]),
        (SamplingParams { min_p: -0.5, ..p() }, ["min_p", "-0.5"]),
        (SamplingParams { min_p: f32::NAN, ..p() }, ["min_p", "NaN"]),
        (SamplingParams { presence_penalty: 2.5, ..p() }, ["presence_penalty", "2.5"]),
        (SamplingParams { frequency_penalty: f32::NAN, ..p() }, ["frequency_penalty", "NaN"]),
        (SamplingParams { repetition_penalty: 0.0, ..p() }, ["repetition_penalty", "0"]),
        (SamplingParams { repetition_penalty: -1.0, ..p() }, ["repetition_penalty", "-1"]),
        (SamplingParams { logit_bias: [(320, 1.0)].into(), ..p() }, ["logit_bias", "320"]),
        (SamplingParams { logit_bias: [(7, f32::NAN)].into(), ..p() }, ["logit_bias[7]", "NaN"]),
        (SamplingParams { stop_token_ids: vec![3, 400], ..p() }, ["stop_token_ids", "400"]),
        (SamplingParams { logprobs: Some(321), ..p() }, ["logprobs", "321"]),
        (SamplingParams { prompt_logprobs: Some(999), ..p() }, ["prompt_logprobs", "999"]),
        (SamplingParams { max_tokens: 0, ..p() }, ["max_tokens", "0"]),
        (SamplingParams { min_tokens: 65, ..p() }, ["min_tokens", "65"]),
        (SamplingParams { n: 0, ..p() }, ["n is 0", "1 to"]),
        (SamplingParams { n: 2, ..SamplingParams::greedy() }, ["n is 2", "temperature 0"]),
    ] {
        all.push((vec![5], params, names));
    }
    all
}

#[test]
fn a_refusal_names_the_parameter_and_disturbs_nobody() {
    let mut llm = qwen3();
    let prompt = expected("qwen3").prompts[4].clone();
    let params =
        SamplingParams { seed: Some(1), max_tokens: 60, ignore_eos: true, ..SamplingParams::default() };
    let want = one(&mut qwen3(), prompt.clone(), &params).token_ids;

    let id = llm.add_request(&prompt.into(), &params, Default::default()).unwrap();
    let mut tokens = Vec::new();
    for (prompt, params, names) in refused() {
        tokens.extend(llm.step().unwrap().into_iter().filter_map(|piece| piece.token_id));
        let error = llm.add_request(&prompt.into(), &params, Default::default()).unwrap_err().to_string();
        assert!(names.iter().all(|name| error.contains(name)), "{error:?} does not say {names:?}");
        assert_eq!(llm.engine().num_unfinished(), 1, "{error}");
    }
    while !llm.is_finished() {
        for piece in llm.step().unwrap() {
            assert_eq!(piece.request, id);
            tokens.extend(piece.token_id);
        }
    }
    assert_eq!(tokens, want);
}

#[test]
fn an_empty_stop_string_is_refused() {
    let mut llm = LLM::new(super::small()).unwrap();
    let params = SamplingParams { stop: vec!["a".into(), String::new()], ..greedy(4) };
    let error = llm.add_request(&"Once".into(), &params, Default::default()).unwrap_err().to_string();
    assert!(error.contains("stop is an empty string"), "{error}");
    assert!(llm.is_finished());
}

#[test]
fn a_request_that_outgrows_the_pool_is_refused_at_once() {
    let config = lathe::config::EngineConfig { num_kvcache_blocks: Some(3), ..config(&golden("qwen3")) };
    let mut llm = LLM::new(config).unwrap();
    // 48 slots; the last token is never computed.
    assert_eq!(
        one(&mut llm, vec![9; 40], &SamplingParams { ignore_eos: true, ..greedy(9) }).token_ids.len(),
        9
    );
    let error =
        llm.add_request(&vec![9; 40].into(), &greedy(10), Default::default()).unwrap_err().to_string();
    assert!(error.contains("40 + 10") && error.contains("3 blocks"), "{error}");
}

#[test]
fn generate_refuses_all_or_nothing_and_says_which() {
    let mut llm = qwen3();
    let prompts: [Prompt; 3] = [vec![1].into(), vec![2, 3].into(), vec![4, 999].into()];
    let error = llm.generate(&prompts, &[greedy(4)], false).unwrap_err().to_string();
    assert!(error.contains("prompts[2]: prompt[1] is 999"), "{error}");
    assert!(llm.is_finished());
    let error =
        llm.generate(&prompts[..2], &[greedy(4), greedy(4), greedy(4)], false).unwrap_err().to_string();
    assert!(error.contains("sampling parameters is 3, expected 1 or 2"), "{error}");
    assert!(llm.generate(&[], &[greedy(4)], false).unwrap().is_empty());
}

#[test]
fn logits_that_are_not_numbers_end_that_request_alone() {
    const POISON: u32 = 42;
    // A family whose output projection is not the embedding.
    let family = golden("qwen2");
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "generation_config.json"] {
        fs::copy(family.join(name), folder.path().join(name)).unwrap();
    }
    let mut bytes = fs::read(family.join("model.safetensors")).unwrap();
    let at = {
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let embedding = file.tensor("model.embed_tokens.weight").unwrap();
        let start = embedding.data().as_ptr() as usize - bytes.as_ptr() as usize;
        start + POISON as usize * embedding.shape()[1] * size_of::<f32>()
    };
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(folder.path().join("model.safetensors"), bytes).unwrap();

    let expected = expected("qwen2");
    let healthy: Vec<usize> = (0..expected.prompts.len())
        .filter(|&i| !expected.prompts[i].contains(&POISON) && !expected.greedy[i].contains(&POISON))
        .collect();
    assert!(healthy.len() >= 4, "{healthy:?}");
    let params = SamplingParams { ignore_eos: true, logprobs: Some(1), ..greedy(24) };
    // So few blocks that healthy requests get those that the poisoned one has left.
    let config = lathe::config::EngineConfig { num_kvcache_blocks: Some(9), ..config(folder.path()) };
    let mut llm = LLM::new(config).unwrap();
    let mut prompts: Vec<Prompt> = vec![vec![7, 8, POISON, 9].into()];
    prompts.extend(healthy.iter().map(|&i| expected.prompts[i].clone().into()));
    prompts.push(vec![POISON; 40].into());
    for _ in 0..2 {
        let outputs = llm.generate(&prompts, std::slice::from_ref(&params), false).unwrap();
        let (poisoned, rest): (Vec<_>, Vec<_>) =
            outputs.into_iter().partition(|output| output.prompt_token_ids.contains(&POISON));
        assert_eq!(poisoned.len(), 2);
        for output in poisoned {
            assert_eq!((output.finish_reason, output.token_ids.len()), (FinishReason::Error, 0));
            assert_eq!(output.finish_reason.as_str(), "error");
        }
        let want: Vec<_> = healthy.iter().map(|&i| expected.greedy[i].clone()).collect();
        assert_eq!(rest.into_iter().map(|output| output.token_ids).collect::<Vec<_>>(), want);
    }
}
