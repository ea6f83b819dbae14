//! Text in and out, on the model in the binary.

use lathe::config::SamplingParams;
use lathe::engine::FinishReason;
use lathe::llm::{LLM, Piece, Prompt};

use super::{greedy, one, qwen3, small};

const PROMPT: &str = "Once upon a time";

fn stream(llm: &mut LLM, params: &SamplingParams) -> Vec<Piece> {
    llm.stream(&PROMPT.into(), params).unwrap().collect::<Result<_, _>>().unwrap()
}

fn joined(pieces: &[Piece]) -> String {
    pieces.iter().map(|piece| piece.text.as_str()).collect()
}

#[test]
fn streamed_pieces_join_to_the_text_of_the_tokens() {
    let mut llm = LLM::new(small()).unwrap();
    for params in [
        greedy(60),
        SamplingParams { seed: Some(3), max_tokens: 60, ..SamplingParams::default() },
        // Hot enough for broken characters.
        SamplingParams { temperature: 20.0, seed: Some(4), max_tokens: 60, ..SamplingParams::default() },
    ] {
        let whole = one(&mut llm, PROMPT, &params);
        let pieces = stream(&mut llm, &params);
        assert_eq!(joined(&pieces), whole.text);
        let tokens: Vec<u32> = pieces.iter().filter_map(|piece| piece.token_id).collect();
        assert_eq!(tokens, whole.token_ids);
        let (last, before) = pieces.split_last().unwrap();
        assert_eq!(last.output.as_ref().unwrap().text, whole.text);
        assert!(before.iter().all(|piece| piece.output.is_none()));
        if params.temperature == 0.0 {
            assert_eq!(llm.files().tokenizer().unwrap().decode(&tokens).unwrap(), whole.text);
            assert!(whole.text.len() > 60, "{:?}", whole.text);
        }
    }
}

/// A string that begins in one token and ends in the next, with the number of tokens until it is complete.
fn straddling(pieces: &[Piece]) -> (String, usize) {
    let text = joined(pieces);
    let ends_in = |i: usize| {
        let (left, right) = (&pieces[i].text, &pieces[i + 1].text);
        let stop = format!("{}{}", &left[left.len().checked_sub(2)?..], right.get(..2)?);
        // It must not be complete earlier.
        let complete = joined(&pieces[..i + 2]).find(&stop)? + stop.len() > joined(&pieces[..=i]).len();
        (complete && text.is_ascii()).then_some((stop, i + 2))
    };
    (4..pieces.len() - 8).find_map(ends_in).expect("two long tokens next to each other")
}

#[test]
fn a_stop_string_split_over_tokens_ends_the_text_before_it() {
    let mut llm = LLM::new(small()).unwrap();
    let free = stream(&mut llm, &greedy(60));
    let (stop, count) = straddling(&free);
    let text = joined(&free);

    let params = SamplingParams { stop: vec!["\u{1F980}".into(), stop.clone()], ..greedy(60) };
    let pieces = stream(&mut llm, &params);
    let output = pieces.last().unwrap().output.clone().unwrap();
    assert_eq!(output.finish_reason, FinishReason::StopString);
    assert_eq!(output.finish_reason.as_str(), "stop");
    assert_eq!(output.text, text[..text.find(&stop).unwrap()]);
    assert_eq!(joined(&pieces), output.text, "no part of the stop string was shown");
    assert_eq!(output.token_ids.len(), count);
    assert!(llm.is_finished());

    // It may begin in the last of min_tokens; one that ends there is text like any other.
    let spared = SamplingParams { stop: vec![stop.clone()], min_tokens: count - 1, ..greedy(60) };
    assert_eq!(one(&mut llm, PROMPT, &spared).text, output.text);
    let late = SamplingParams { stop: vec![stop.clone()], min_tokens: count, ..greedy(60) };
    let output = one(&mut llm, PROMPT, &late);
    assert!(output.text.contains(&stop) && output.token_ids.len() > count, "{output:?}");
}

#[test]
fn a_stop_string_ends_one_request_of_a_batch_alone() {
    let mut llm = LLM::new(small()).unwrap();
    let free = one(&mut llm, PROMPT, &greedy(40));
    let stop = SamplingParams { stop: vec![" ".into()], ..greedy(40) };
    let outputs = llm
        .generate(&[PROMPT.into(), PROMPT.into(), PROMPT.into()], &[greedy(40), stop, greedy(40)], false)
        .unwrap();
    assert_eq!(outputs[0].text, free.text);
    assert_eq!(outputs[2].text, free.text);
    assert_eq!(outputs[1].finish_reason, FinishReason::StopString);
    assert_eq!(outputs[1].text, free.text[..free.text.find(' ').unwrap()]);
}

#[test]
fn text_and_tokens_mix_in_one_batch() {
    let mut llm = LLM::new(small()).unwrap();
    let ids = llm.encode(&PROMPT.into()).unwrap();
    let prompts = [Prompt::Tokens(ids.clone()), PROMPT.into()];
    let outputs = llm.generate(&prompts, &[greedy(20)], false).unwrap();
    assert_eq!(outputs[0].prompt_token_ids, ids);
    assert_eq!(outputs[0].text, outputs[1].text);
    assert_eq!(outputs[0].token_ids, outputs[1].token_ids);
}

#[test]
fn a_dropped_stream_aborts_its_request_and_no_other() {
    let mut llm = LLM::new(small()).unwrap();
    let want = one(&mut llm, "The dog", &greedy(20)).token_ids;
    let other = llm.add_request(&"The dog".into(), &greedy(20), Default::default()).unwrap();
    let mut pieces = llm.stream(&PROMPT.into(), &greedy(100)).unwrap();
    assert!(pieces.next().unwrap().unwrap().token_id.is_some());
    drop(pieces);
    let mut outputs = Vec::new();
    while !llm.is_finished() {
        outputs.extend(llm.step().unwrap().into_iter().filter_map(|piece| piece.output));
    }
    // The step that the stream ran gave the other request its first token, too.
    assert_eq!(outputs.len(), 1);
    assert_eq!((outputs[0].request, &outputs[0].token_ids), (other, &want));
    assert!(!llm.abort(other));
}

#[test]
fn a_model_without_a_tokenizer_takes_tokens_only() {
    let mut llm = qwen3();
    let error = llm.generate(&[PROMPT.into()], &[greedy(4)], false).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json") && error.contains("token ids"), "{error}");
    let stop = SamplingParams { stop: vec!["x".into()], ..greedy(4) };
    let error = llm.generate(&[vec![5].into()], &[stop], false).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
    assert_eq!(one(&mut llm, vec![5], &greedy(4)).token_ids.len(), 4);
}
