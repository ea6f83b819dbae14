//! Faults that nano-vLLM has or had, and the prefix cache's finer points.

use lathe::Error;
use lathe::config::SamplingParams;
use lathe::engine::block_manager::{BlockHash, xxh3};
use lathe::engine::{Engine, RequestOptions, SeqId, Status, policies};

use crate::fake::{Setup, check_blocks, drain, oracle};

const HASHES: [BlockHash; 2] = [xxh3, |_, _| 7];

fn params(max_tokens: usize) -> SamplingParams {
    SamplingParams { max_tokens, ignore_eos: true, seed: Some(5), ..SamplingParams::default() }
}

fn setup(num_blocks: usize) -> Setup {
    Setup { block_size: 4, num_blocks, tokens: 64, seqs: 8, max_model_len: 64, hash: Some(xxh3) }
}

fn engine(setup: &Setup) -> Engine {
    setup.engine(policies::by_name("chunked").unwrap()).0
}

fn add(engine: &mut Engine, prompt: &[u32], max_tokens: usize) -> u64 {
    engine.add_request(prompt, params(max_tokens), RequestOptions::default()).unwrap().0
}

/// Runs one request to its end; returns its sequence.
fn run(engine: &mut Engine, prompt: &[u32], max_tokens: usize) -> SeqId {
    add(engine, prompt, max_tokens);
    drain(engine).pop().unwrap()
}

fn find(engine: &Engine, number: u64) -> SeqId {
    let mut all = engine.running().iter().copied().chain(engine.waiting());
    all.find(|id| id.number() == number).unwrap()
}

/// nano-vLLM gave a preempted sequence its old hit count back without the blocks.
#[test]
fn preemption_of_a_sequence_with_a_prefix_hit() {
    let mut engine = engine(&setup(7));
    run(&mut engine, &[1; 9], 1);
    let prompt = [1; 12];
    let old = add(&mut engine, &[2; 8], 12);
    let young = add(&mut engine, &prompt, 8);
    engine.step().unwrap();
    let (old, young) = (find(&engine, old), find(&engine, young));
    assert_eq!(engine.seq(young).unwrap().prefix_hit, 8);
    while engine.stats().preemptions == 0 {
        engine.step().unwrap();
        check_blocks(&engine);
    }
    let seq = engine.seq(young).unwrap();
    assert_eq!(
        (seq.status, seq.computed, seq.block_table.len(), seq.preemptions),
        (Status::Waiting, 0, 0, 1)
    );
    let kept = seq.output().to_vec();
    assert!(!kept.is_empty(), "it had begun to generate");
    let mut outputs = Vec::new();
    while !engine.is_finished() {
        let done: Vec<_> =
            engine.step().unwrap().iter().filter(|event| event.finish.is_some()).map(|e| e.id).collect();
        outputs.extend(done.into_iter().map(|id| (id, engine.seq(id).unwrap().output().to_vec())));
    }
    assert_eq!(outputs, [(old, oracle(8, &params(12), 5, 64).0), (young, oracle(12, &params(8), 5, 64).0)]);
    assert!(outputs[1].1.starts_with(&kept));
    assert_eq!(engine.blocks().num_free(), 7);
}

#[test]
fn a_fully_cached_prompt_computes_its_last_block() {
    let mut engine = engine(&setup(8));
    run(&mut engine, &[1; 8], 5);
    let second = run(&mut engine, &[1; 8], 5);
    let seq = engine.seq(second).unwrap();
    assert_eq!((seq.prefix_hit, seq.output()), (4, &oracle(8, &params(5), 5, 64).0[..]));
    let longer = run(&mut engine, &[1; 9], 5);
    assert_eq!(engine.seq(longer).unwrap().prefix_hit, 8);
    let shorter = run(&mut engine, &[1; 4], 5);
    assert_eq!(engine.seq(shorter).unwrap().prefix_hit, 0);
}

#[test]
fn a_request_that_could_outgrow_the_pool_is_refused() {
    let mut engine = engine(&setup(3));
    let fits = add(&mut engine, &[1; 4], 9);
    match engine.add_request(&[1; 4], params(10), RequestOptions::default()) {
        Err(Error::Request { field, got, want }) => {
            assert_eq!(field, "prompt tokens + max_tokens");
            assert_eq!(got, "4 + 10, which may take 4 KV blocks");
            assert_eq!(want, "at most the pool's 3 blocks of 4 tokens");
        }
        other => panic!("{other:?}"),
    }
    let id = drain(&mut engine)[0];
    assert_eq!((id.number(), engine.seq(id).unwrap().generated()), (fits, 9));
}

/// Every block has the same hash: the cache may miss, but must not give one prompt the other's blocks.
#[test]
fn hash_collisions() {
    let mut engine = engine(&Setup { hash: Some(HASHES[1]), ..setup(20) });
    run(&mut engine, &[1, 1, 1, 1, 2, 2, 2, 2, 3], 5);
    // The same second block after another first, the same first block, and the same tokens one block later.
    for (prompt, hit) in
        [([5, 5, 5, 5, 2, 2, 2, 2, 3], 0), ([1, 1, 1, 1, 5, 5, 5, 5, 3], 4), ([2, 2, 2, 2, 2, 2, 2, 2, 3], 0)]
    {
        let id = run(&mut engine, &prompt, 5);
        let seq = engine.seq(id).unwrap();
        assert_eq!(seq.prefix_hit, hit, "{prompt:?}");
        assert_eq!(seq.output(), oracle(9, &params(5), 5, 64).0);
    }
}

/// Blocks with the same hash are all found, each by its own tokens.
#[test]
fn colliding_blocks_live_side_by_side() {
    let mut engine = engine(&Setup { hash: Some(HASHES[1]), ..setup(5) });
    for (token, hit) in [(1, 0), (1, 4), (2, 0), (1, 4), (2, 4), (3, 0), (2, 4), (4, 0), (5, 0)] {
        let id = run(&mut engine, &[token; 5], 1);
        assert_eq!(engine.seq(id).unwrap().prefix_hit, hit, "token {token}");
    }
    // Five blocks, one of them never cached: 2, 3, 4 and 5 are left; the least recently freed, 1, is gone.
    for (token, hit) in [(2, 4), (3, 4), (4, 4), (5, 4), (1, 0)] {
        let id = run(&mut engine, &[token; 5], 1);
        assert_eq!(engine.seq(id).unwrap().prefix_hit, hit, "token {token} at the end");
    }
}

#[test]
fn salts_do_not_share() {
    for hash in HASHES {
        let mut engine = engine(&Setup { hash: Some(hash), ..setup(20) });
        for (cache_salt, hit) in [(0, 0), (0, 4), (1, 0), (1, 4), (2, 0)] {
            let options = RequestOptions { cache_salt, ..RequestOptions::default() };
            engine.add_request(&[1; 5], params(1), options).unwrap();
            let id = drain(&mut engine)[0];
            assert_eq!(engine.seq(id).unwrap().prefix_hit, hit, "salt {cache_salt}");
        }
    }
}

#[test]
fn generated_blocks_are_hits_of_the_next_turn() {
    let mut engine = engine(&setup(20));
    let first = run(&mut engine, &[1; 6], 8);
    let mut history = engine.seq(first).unwrap().tokens.clone();
    history.extend([4, 4, 4]);
    let second = run(&mut engine, &history, 2);
    // 14 known, 13 computed, of these 12 in full blocks.
    assert_eq!(engine.seq(second).unwrap().prefix_hit, 12);
    assert_eq!(engine.stats().prefix_hit_tokens, 12);
}

#[test]
fn blocks_are_not_shared_before_they_are_computed() {
    let mut engine = engine(&Setup { tokens: 6, ..setup(20) });
    add(&mut engine, &[1; 13], 2);
    engine.step().unwrap();
    add(&mut engine, &[1; 13], 2);
    // The second step computes the older's tokens 6..12, and would admit the younger only with tokens left.
    engine.step().unwrap();
    let ids = drain(&mut engine);
    assert_eq!(engine.stats().prefix_hit_tokens, 12);
    assert_eq!(ids.len(), 2);
}

/// Two sequences that compute the same prompt in one step both go on with their own blocks; one copy stays cached.
#[test]
fn twins_computed_in_one_step() {
    let mut engine = engine(&setup(20));
    add(&mut engine, &[1; 9], 6);
    add(&mut engine, &[1; 9], 6);
    engine.step().unwrap();
    let tables: Vec<_> =
        engine.running().iter().map(|&id| engine.seq(id).unwrap().block_table.clone()).collect();
    assert!(tables[0].iter().all(|block| !tables[1].contains(block)), "{tables:?}");
    add(&mut engine, &[1; 9], 6);
    engine.step().unwrap();
    let third = engine.seq(engine.running()[2]).unwrap();
    assert_eq!(third.block_table[..2], tables[0][..2]);
    assert_eq!(drain(&mut engine).len(), 3);
}

#[test]
fn eviction_takes_the_least_recently_freed_and_the_end_of_a_prefix_first() {
    // Five blocks: two of prompt 1, then two of prompt 2, then three new ones.
    let mut engine = engine(&setup(5));
    run(&mut engine, &[1; 9], 1);
    run(&mut engine, &[2; 9], 1);
    // Takes the one block that is not cached and the second block of prompt 1.
    run(&mut engine, &[3; 5], 1);
    let cached = |engine: &mut Engine, token| {
        let id = run(engine, &[token; 9], 1);
        engine.seq(id).unwrap().prefix_hit
    };
    assert_eq!(cached(&mut engine, 1), 4);
    let setup = setup(5);
    let mut engine = self::engine(&setup);
    run(&mut engine, &[1; 9], 1);
    run(&mut engine, &[2; 9], 1);
    run(&mut engine, &[3; 5], 1);
    assert_eq!(cached(&mut engine, 2), 8);
}

/// A hit must be taken before another sequence of the same plan is given the block.
#[test]
fn a_hit_is_not_lost_to_another_sequence_of_the_plan() {
    let mut engine = engine(&setup(4));
    run(&mut engine, &[1; 9], 1);
    // The first needs 2 of 4 free blocks, of which 2 are cached; the second has hits in those and needs one more.
    add(&mut engine, &[2; 4], 1);
    add(&mut engine, &[1; 9], 1);
    engine.step().unwrap();
    assert_eq!(engine.stats().prefix_hit_tokens, 8);
    assert!(engine.is_finished());
}

#[test]
fn without_prefix_caching_nothing_is_shared() {
    let mut engine = engine(&Setup { hash: None, ..setup(8) });
    run(&mut engine, &[1; 9], 2);
    run(&mut engine, &[1; 9], 2);
    assert_eq!((engine.stats().prefix_hit_tokens, engine.stats().prefill_tokens), (0, 18));
}

#[test]
fn prompt_logprobs_need_every_position() {
    let mut engine = engine(&setup(8));
    run(&mut engine, &[1; 9], 2);
    let wants = SamplingParams { prompt_logprobs: Some(0), ..params(2) };
    engine.add_request(&[1; 9], wants, RequestOptions::default()).unwrap();
    let id = drain(&mut engine)[0];
    let seq = engine.seq(id).unwrap();
    assert_eq!((seq.prefix_hit, seq.prompt_logprobs.iter().flatten().count()), (0, 8));
}
