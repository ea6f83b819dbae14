//! What a request may ask for, and how it ends.

use std::collections::VecDeque;

use lathe::config::{EngineConfig, SamplingParams};
use lathe::engine::block_manager::xxh3;
use lathe::engine::{
    Batch, Clock, Engine, Event, Executor, FinishReason, RequestOptions, Sampled, Status, StepResult,
    Vocabulary, policies,
};
use lathe::{Error, Result};

use crate::fake::{EOS, Fake, Setup, check_blocks, drain, logprobs_at, oracle};

fn setup() -> Setup {
    Setup { block_size: 4, num_blocks: 40, tokens: 64, seqs: 8, max_model_len: 64, hash: Some(xxh3) }
}

fn engine() -> (Engine, Fake) {
    setup().engine(policies::by_name("chunked").unwrap())
}

fn params(max_tokens: usize) -> SamplingParams {
    SamplingParams { max_tokens, ignore_eos: true, seed: Some(5), ..SamplingParams::default() }
}

/// An executor that samples a script, one token a step for every sequence.
struct Script(VecDeque<u32>);

impl Executor for Script {
    fn execute(&mut self, batch: &Batch<'_>, out: &mut StepResult) -> Result<()> {
        let token = self.0.pop_front().expect("the script is long enough");
        out.sampled.extend(batch.items.iter().filter(|item| item.sample).map(|_| Sampled::Token(token)));
        out.virtual_seconds = 0.25;
        Ok(())
    }
}

fn scripted(tokens: &[u32], max_model_len: usize) -> Engine {
    let config = EngineConfig { num_kvcache_blocks: Some(8), max_model_len, ..EngineConfig::default() };
    let vocabulary = Vocabulary { size: 100, eos_token_ids: vec![0, 1] };
    let executor = Box::new(Script(tokens.to_vec().into()));
    Engine::new(&config, vocabulary, policies::by_name("chunked").unwrap(), executor).unwrap()
}

/// What one request generates from a script, and why it ends.
fn ends(script: &[u32], params: SamplingParams) -> (Vec<u32>, FinishReason) {
    let mut engine = scripted(script, 4096);
    engine.add_request(&[50], params, RequestOptions::default()).unwrap();
    let id = drain(&mut engine)[0];
    let seq = engine.seq(id).unwrap();
    let Status::Finished(reason) = seq.status else { panic!("{:?}", seq.status) };
    (seq.output().to_vec(), reason)
}

#[test]
fn stop_tokens() {
    let params = SamplingParams { max_tokens: 3, stop_token_ids: vec![9], ..SamplingParams::default() };
    assert_eq!(ends(&[5, 1], params.clone()), (vec![5, 1], FinishReason::StopToken(1)));
    assert_eq!(ends(&[5, 9], params.clone()), (vec![5, 9], FinishReason::StopToken(9)));
    assert_eq!(ends(&[5, 6, 7], params.clone()), (vec![5, 6, 7], FinishReason::Length));
    assert_eq!(ends(&[5, 6, 0], params.clone()), (vec![5, 6, 0], FinishReason::StopToken(0)));
    let ignore = SamplingParams { ignore_eos: true, ..params.clone() };
    assert_eq!(ends(&[0, 1, 0], ignore.clone()), (vec![0, 1, 0], FinishReason::Length));
    assert_eq!(ends(&[0, 9], ignore), (vec![0, 9], FinishReason::StopToken(9)));
    // An executor that does not mask them has them ignored.
    let min = SamplingParams { min_tokens: 2, ..params };
    assert_eq!(ends(&[1, 9, 1], min), (vec![1, 9, 1], FinishReason::StopToken(1)));
}

#[test]
fn finish_reasons_by_name() {
    let reasons = [
        FinishReason::StopToken(0),
        FinishReason::StopString,
        FinishReason::Length,
        FinishReason::Abort,
        FinishReason::Error,
    ];
    assert_eq!(reasons.map(FinishReason::as_str), ["stop", "stop", "length", "abort", "error"]);
}

#[test]
fn max_model_len_ends_with_length() {
    let mut engine = scripted(&[5, 6, 7], 4);
    engine.add_request(&[50], params(1000), RequestOptions::default()).unwrap();
    let id = drain(&mut engine)[0];
    let seq = engine.seq(id).unwrap();
    assert_eq!((&seq.tokens[..], seq.status), (&[50, 5, 6, 7][..], Status::Finished(FinishReason::Length)));
}

#[test]
fn a_sequence_ended_from_outside_frees_its_blocks() {
    let (mut engine, _) = engine();
    let free = engine.blocks().num_free();
    engine.add_request(&[1; 10], params(6), RequestOptions::default()).unwrap();
    engine.add_request(&[2; 10], params(6), RequestOptions::default()).unwrap();
    let id = engine.step().unwrap()[0].id;
    engine.finish(id, FinishReason::StopString);
    engine.finish(id, FinishReason::Abort); // too late: nothing happens
    assert_eq!(engine.seq(id).unwrap().status, Status::Finished(FinishReason::StopString));
    assert_eq!((engine.num_unfinished(), engine.stats().finished), (1, 1));
    let other = drain(&mut engine);
    assert_eq!(other.len(), 1);
    assert!(engine.seq(id).is_none());
    assert_eq!(engine.blocks().num_free(), free);
}

#[test]
fn n_sequences_share_the_prompt() {
    let (mut engine, _) = engine();
    let params = SamplingParams { n: 3, logprobs: Some(0), ..params(6) };
    let request = engine.add_request(&[1; 10], params.clone(), RequestOptions::default()).unwrap();
    assert_eq!((engine.num_unfinished(), engine.waiting().len()), (3, 1));
    let mut outputs = vec![Vec::new(); 3];
    while !engine.is_finished() {
        for event in engine.step().unwrap().to_vec() {
            assert_eq!(event.request, request);
            outputs[event.sample as usize].extend(event.token);
            if event.finish.is_some() {
                let seq = engine.seq(event.id).unwrap();
                assert_eq!(seq.logprobs, (10..16).map(logprobs_at).collect::<Vec<_>>());
            }
        }
        check_blocks(&engine);
    }
    let want: Vec<_> = (0..3).map(|sample| oracle(10, &params, 5 + sample, 64).0).collect();
    assert_eq!(outputs, want);
    // Each of the others computed only what lies beyond the two full blocks.
    assert_eq!((engine.stats().prefix_hit_tokens, engine.stats().prefill_tokens), (16, 10 + 2 + 2));
}

#[test]
fn seeds_are_drawn_from_the_engines() {
    let run = |seed| {
        let config = EngineConfig { seed, num_kvcache_blocks: Some(8), ..EngineConfig::default() };
        let vocabulary = Vocabulary { size: 13, eos_token_ids: vec![EOS] };
        let scheduler = policies::by_name("chunked").unwrap();
        let mut engine = Engine::new(&config, vocabulary, scheduler, Box::new(Fake::new(8, 256))).unwrap();
        let params = SamplingParams { seed: None, n: 2, ..params(12) };
        for _ in 0..2 {
            engine.add_request(&[1], params.clone(), RequestOptions::default()).unwrap();
        }
        engine.step().unwrap();
        let seeds: Vec<_> = engine.running().iter().map(|&id| engine.seq(id).unwrap().seed).collect();
        (drain(&mut engine), seeds)
    };
    let (_, seeds) = run(1);
    assert_eq!(run(1).1, seeds);
    assert_ne!(run(2).1, seeds);
    assert_eq!(seeds[1], seeds[0].wrapping_add(1));
    assert_ne!(seeds[2], seeds[0]);
}

#[test]
fn abort_frees_and_reports() {
    let (mut engine, _) = engine();
    let held = SamplingParams { n: 2, ..params(6) };
    let gone = engine.add_request(&[1; 10], held, RequestOptions::default()).unwrap();
    let stays = engine.add_request(&[2; 10], params(6), RequestOptions::default()).unwrap();
    engine.step().unwrap();
    engine.step().unwrap();
    let ids = engine.running().to_vec();
    assert!(engine.abort(gone));
    check_blocks(&engine);
    for id in ids {
        let seq = engine.seq(id).unwrap();
        let aborted = seq.status == Status::Finished(FinishReason::Abort);
        assert_eq!(aborted, seq.request() == gone);
    }
    assert!(!engine.abort(gone), "aborted before");
    let finished = drain(&mut engine);
    assert_eq!((finished.len(), finished[0].number()), (1, stays.0));
    assert_eq!(engine.stats().finished, 3);
    assert_eq!(engine.blocks().num_free(), 40);
    assert!(!engine.abort(stays), "finished before");
}

#[test]
fn finished_sequences_are_gone_in_the_next_step() {
    let (mut engine, _) = engine();
    engine.add_request(&[1], params(1), RequestOptions::default()).unwrap();
    let id = drain(&mut engine)[0];
    assert_eq!(engine.seq(id).unwrap().generated(), 1);
    assert_eq!(engine.step().unwrap(), []);
    assert!(engine.seq(id).is_none());
    let next = engine.add_request(&[1], params(1), RequestOptions::default()).unwrap();
    let reused = engine.waiting().next().unwrap();
    assert_eq!((reused.slot(), reused.number(), next.0), (id.slot(), 1, 1));
    assert!(engine.seq(id).is_none(), "an old handle does not find the slot's new sequence");
}

#[test]
fn invalid_logits_end_their_request_alone() {
    let (mut engine, fake) = engine();
    engine.add_request(&[1; 5], params(6), RequestOptions::default()).unwrap();
    let ill = engine.add_request(&[2; 5], params(6), RequestOptions::default()).unwrap();
    engine.step().unwrap();
    fake.state().invalid = Some(ill.0);
    let events = engine.step().unwrap();
    assert_eq!((events[1].token, events[1].finish), (None, Some(FinishReason::Error)));
    let finished = drain(&mut engine);
    assert_eq!(engine.seq(finished[0]).unwrap().output(), oracle(5, &params(6), 5, 64).0);
}

#[test]
fn a_failed_step_loses_nothing() {
    let (mut engine, fake) = engine();
    engine.add_request(&[1; 9], params(6), RequestOptions::default()).unwrap();
    fake.state().fail = true;
    assert!(matches!(engine.step(), Err(Error::Device { .. })));
    engine.step().unwrap();
    engine.add_request(&[1; 9], params(6), RequestOptions::default()).unwrap();
    let before: Vec<_> = engine.running().iter().map(|&id| engine.seq(id).unwrap().len()).collect();
    fake.state().fail = true;
    assert!(matches!(engine.step(), Err(Error::Device { .. })));
    let after: Vec<_> = engine.running().iter().map(|&id| engine.seq(id).unwrap().len()).collect();
    assert_eq!((before, after), (vec![10], vec![10, 9]));
    check_blocks(&engine);
    assert_eq!(drain(&mut engine).len(), 2);
}

/// An executor that forgets to sample.
struct Silent;

impl Executor for Silent {
    fn execute(&mut self, _: &Batch<'_>, _: &mut StepResult) -> Result<()> {
        Ok(())
    }
}

#[test]
fn an_executor_must_sample_what_is_asked() {
    let config = EngineConfig { num_kvcache_blocks: Some(8), ..EngineConfig::default() };
    let vocabulary = Vocabulary { size: 13, eos_token_ids: vec![EOS] };
    let scheduler = policies::by_name("chunked").unwrap();
    let mut engine = Engine::new(&config, vocabulary, scheduler, Box::new(Silent)).unwrap();
    engine.add_request(&[1], params(1), RequestOptions::default()).unwrap();
    let error = engine.step().unwrap_err().to_string();
    assert_eq!(error, "execute: the number of sampled tokens is 0, expected 1, one for each item to sample");
}

#[test]
fn times_on_a_virtual_clock() {
    let mut engine = scripted(&[5; 3], 4096);
    engine.set_clock(Clock::Virtual(10.0));
    let options = RequestOptions { arrival: Some(9.5), ..RequestOptions::default() };
    engine.add_request(&[50], params(3), options).unwrap();
    engine.add_request(&[50], params(3), RequestOptions::default()).unwrap();
    let ids = drain(&mut engine);
    let timing = engine.seq(ids[0]).unwrap().timing;
    assert_eq!((timing.arrival, timing.scheduled), (9.5, Some(10.0)));
    assert_eq!((timing.first_token, timing.finished), (Some(10.25), Some(10.75)));
    assert_eq!((engine.seq(ids[1]).unwrap().timing.arrival, engine.now()), (10.0, 10.75));
}

#[test]
fn chunked_mixes_and_fcfs_does_not() {
    let batches = |policy| {
        let setup = Setup { tokens: 6, ..setup() };
        let (mut engine, fake) = setup.engine(policies::by_name(policy).unwrap());
        engine.add_request(&[1; 3], params(4), RequestOptions::default()).unwrap();
        engine.step().unwrap();
        engine.add_request(&[2; 8], params(2), RequestOptions::default()).unwrap();
        engine.add_request(&[3; 2], params(2), RequestOptions::default()).unwrap();
        let mut batches = Vec::new();
        while !engine.is_finished() {
            engine.step().unwrap();
            let items = fake.state().items.clone();
            batches.push(items.iter().map(|item| (item.id.number(), item.tokens)).collect::<Vec<_>>());
        }
        batches
    };
    let chunked = [vec![(0, 1), (1, 5)], vec![(0, 1), (1, 3), (2, 2)], vec![(0, 1), (1, 1), (2, 1)]];
    assert_eq!(batches("chunked"), chunked);
    let fcfs = [vec![(1, 6)], vec![(1, 2), (2, 2)], vec![(0, 1), (1, 1), (2, 1)], vec![(0, 1)], vec![(0, 1)]];
    assert_eq!(batches("fcfs"), fcfs);
}

#[test]
fn events_tell_everything_once() {
    let (mut engine, _) = engine();
    let request = engine.add_request(&[1; 3], params(2), RequestOptions::default()).unwrap();
    let id = engine.waiting().next().unwrap();
    let want = oracle(3, &params(2), 5, 64).0;
    let event = Event { id, request, sample: 0, token: Some(want[0]), finish: None };
    assert_eq!(engine.step().unwrap(), [event]);
    let last = Event { token: Some(want[1]), finish: Some(FinishReason::Length), ..event };
    assert_eq!(engine.step().unwrap(), [last]);
}
