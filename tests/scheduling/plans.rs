//! A policy that plans nonsense is told which rule it broke, and changes nothing.

use lathe::Error;
use lathe::config::SamplingParams;
use lathe::engine::block_manager::xxh3;
use lathe::engine::policies::{self, Policies};
use lathe::engine::{Budget, Engine, Plan, RequestId, RequestOptions, Scheduler, SeqId, Sequence, View};

use crate::fake::{Setup, check_blocks, drain};

/// A policy given as a closure.
struct Scripted<F>(F);

impl<F: FnMut(&View<'_>, Budget, &mut Plan) + Send> Scheduler for Scripted<F> {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn plan(&mut self, view: &View<'_>, budget: Budget, plan: &mut Plan) {
        (self.0)(view, budget, plan);
    }
}

fn add(engine: &mut Engine, prompt: usize, max_tokens: usize) -> RequestId {
    let params = SamplingParams { max_tokens, ignore_eos: true, seed: Some(1), ..SamplingParams::default() };
    engine.add_request(&vec![1; prompt], params, RequestOptions::default()).unwrap()
}

/// Two running sequences with 6 tokens in 2 blocks each and one to decode, a third with 8 tokens waiting, and 3
/// blocks of 4 tokens free. Budget: 16 tokens, 3 sequences. Nothing is cached.
fn engine() -> Engine {
    let setup = Setup { block_size: 4, num_blocks: 7, tokens: 16, seqs: 3, max_model_len: 27, hash: None };
    let (mut engine, _) = setup.engine(policies::by_name("chunked").unwrap());
    add(&mut engine, 5, 9);
    add(&mut engine, 5, 9);
    engine.step().unwrap();
    engine.step().unwrap();
    add(&mut engine, 8, 9);
    engine
}

/// What must not change: lengths and blocks of all sequences, queues, free blocks, counts.
fn snapshot(engine: &Engine) -> String {
    let seqs = engine.running().iter().copied().chain(engine.waiting());
    let seqs: Vec<_> = seqs.map(|id| format!("{:?}", engine.seq(id))).collect();
    format!("{seqs:?} {:?} {:?}", engine.blocks().num_free(), engine.stats())
}

#[track_caller]
fn breaks(want: &str, want_detail: &str, plan: impl FnMut(&View<'_>, Budget, &mut Plan) + Send + 'static) {
    let mut engine = engine();
    let before = snapshot(&engine);
    engine.set_scheduler(Box::new(Scripted(plan)));
    for _ in 0..2 {
        match engine.step() {
            Err(Error::Plan { scheduler: "scripted", rule, detail }) => {
                assert_eq!((rule, detail.as_str()), (want, want_detail));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(snapshot(&engine), before);
        check_blocks(&engine);
    }
    engine.set_scheduler(policies::by_name("fcfs").unwrap());
    assert_eq!(drain(&mut engine).len(), 3);
    assert_eq!(engine.blocks().num_free(), 7);
}

#[test]
fn unknown_sequence() {
    breaks("sequences must exist", "no sequence 9 in slot 1", |_, _, plan| {
        plan.run.push((SeqId::new(9, 1), 1))
    });
    breaks("sequences must exist", "no sequence 9 in slot 77", |_, _, plan| {
        plan.preempt.push(SeqId::new(9, 77))
    });
}

#[test]
fn finished_sequence() {
    let mut engine = engine();
    let gone = RequestId(1);
    assert!(engine.abort(gone));
    engine.set_scheduler(Box::new(Scripted(|_: &View<'_>, _, plan: &mut Plan| {
        plan.run.push((SeqId::new(1, 1), 1))
    })));
    let error = engine.step().unwrap_err().to_string();
    assert!(error.contains(r#"breaks the rule "sequences must exist": no sequence 1 in slot 1"#), "{error}");
}

#[test]
fn held_sequence() {
    let setup =
        Setup { block_size: 4, num_blocks: 8, tokens: 16, seqs: 3, max_model_len: 20, hash: Some(xxh3) };
    let plan = |_: &View<'_>, _, plan: &mut Plan| plan.run.push((SeqId::new(1, 1), 1));
    let (mut engine, _) = setup.engine(Box::new(Scripted(plan)));
    let params = SamplingParams { n: 2, max_tokens: 4, ..SamplingParams::default() };
    engine.add_request(&[1; 5], params, RequestOptions::default()).unwrap();
    let error = engine.step().unwrap_err().to_string();
    assert!(error.contains(r#""only waiting or running sequences run": sequence 1 is Held"#), "{error}");
}

#[test]
fn listed_twice() {
    let rule = "a sequence is listed once";
    breaks(rule, "sequence 0", |view, _, plan| plan.run = vec![(view.running()[0], 1); 2]);
    breaks(rule, "sequence 1", |view, _, plan| plan.preempt = vec![view.running()[1]; 2]);
}

#[test]
fn preempted_and_run() {
    breaks("a sequence is not preempted and run in one step", "sequence 1", |view, _, plan| {
        plan.preempt.push(view.running()[1]);
        plan.run.push((view.running()[1], 1));
    });
}

#[test]
fn zero_tokens() {
    let rule = "a sequence runs at least one token";
    breaks(rule, "sequence 1", |view, _, plan| {
        plan.run = vec![(view.running()[0], 1), (view.running()[1], 0)]
    });
}

#[test]
fn more_tokens_than_left() {
    let rule = "a sequence runs no more tokens than it has left";
    breaks(rule, "sequence 0 has 1 left, not 2", |view, _, plan| plan.run.push((view.running()[0], 2)));
    breaks(rule, "sequence 2 has 8 left, not 9", |view, _, plan| {
        plan.run.push((view.waiting().next().unwrap(), 9))
    });
}

#[test]
fn token_budget() {
    let setup = Setup { block_size: 4, num_blocks: 7, tokens: 6, seqs: 3, max_model_len: 27, hash: None };
    let plan = |view: &View<'_>, _, plan: &mut Plan| plan.run.extend(view.waiting().map(|id| (id, 4)));
    let (mut engine, _) = setup.engine(Box::new(Scripted(plan)));
    add(&mut engine, 4, 1);
    add(&mut engine, 5, 1);
    let error = engine.step().unwrap_err().to_string();
    assert!(error.ends_with(r#"breaks the rule "max_num_batched_tokens": 8 tokens, 6 allowed"#), "{error}");
}

#[test]
fn too_many_sequences() {
    let setup = Setup { block_size: 4, num_blocks: 7, tokens: 16, seqs: 2, max_model_len: 27, hash: None };
    let plan = |view: &View<'_>, _, plan: &mut Plan| plan.run.extend(view.waiting().map(|id| (id, 1)));
    let (mut engine, _) = setup.engine(Box::new(Scripted(plan)));
    for _ in 0..3 {
        add(&mut engine, 4, 1);
    }
    let error = engine.step().unwrap_err().to_string();
    assert!(
        error.ends_with(r#"breaks the rule "max_num_seqs": 3 sequences would run, 2 allowed"#),
        "{error}"
    );
}

#[test]
fn blocks_not_free() {
    let setup = Setup { block_size: 4, num_blocks: 3, tokens: 16, seqs: 3, max_model_len: 27, hash: None };
    let plan = |view: &View<'_>, _, plan: &mut Plan| plan.run.extend(view.waiting().map(|id| (id, 5)));
    let (mut engine, _) = setup.engine(Box::new(Scripted(plan)));
    for _ in 0..2 {
        add(&mut engine, 5, 1);
    }
    let error = engine.step().unwrap_err().to_string();
    assert!(error.ends_with(r#"breaks the rule "blocks must be free": 4 blocks needed, 3 free"#), "{error}");
}

/// A waiting sequence's cached blocks stay owned when their owner is preempted for it: they are not free for others.
#[test]
fn blocks_freed_and_revived_in_one_plan() {
    for (tokens, ok) in [(4, true), (5, false)] {
        // Sequence 1 owns all 3 blocks that 0 does not; 2 begins with the first two of these.
        let setup =
            Setup { block_size: 4, num_blocks: 5, tokens: 32, seqs: 3, max_model_len: 17, hash: Some(xxh3) };
        let (mut engine, _) = setup.engine(policies::by_name("chunked").unwrap());
        add(&mut engine, 5, 3);
        let params = SamplingParams { max_tokens: 4, ignore_eos: true, ..SamplingParams::default() };
        engine.add_request(&[2; 11], params.clone(), RequestOptions::default()).unwrap();
        engine.step().unwrap();
        assert_eq!(engine.blocks().num_free(), 0);
        let mut prompt = vec![2; 8];
        prompt.resize(15, 3);
        engine
            .add_request(&prompt, SamplingParams { max_tokens: 1, ..params }, RequestOptions::default())
            .unwrap();
        engine.set_scheduler(Box::new(Scripted(move |view: &View<'_>, _, plan: &mut Plan| {
            let waiting = view.waiting().next().unwrap();
            assert_eq!(
                (view.cached_tokens(waiting), view.blocks_needed(waiting, tokens)),
                (8, tokens.div_ceil(4))
            );
            assert_eq!(view.blocks_freed(view.running()[1]), 3);
            plan.preempt.push(view.running()[1]);
            plan.run.push((waiting, tokens));
        })));
        match engine.step() {
            Ok(_) => assert!(ok),
            Err(error) => {
                assert!(!ok, "{error}");
                assert!(error.to_string().ends_with("4 blocks needed, 3 free"), "{error}");
            }
        }
        check_blocks(&engine);
        engine.set_scheduler(policies::by_name("chunked").unwrap());
        assert_eq!(drain(&mut engine).len(), 3);
    }
}

/// Two sequences that share a block free it only together.
#[test]
fn shared_blocks_are_freed_by_their_last_owner() {
    // Sequences 1 and 2 share two of their three blocks each; sequence 0 holds one, and one is free.
    for (victims, blocks, free) in [(1..2, 3, 2), (1..3, 6, 5)] {
        let setup =
            Setup { block_size: 4, num_blocks: 6, tokens: 32, seqs: 4, max_model_len: 25, hash: Some(xxh3) };
        let (mut engine, _) = setup.engine(policies::by_name("chunked").unwrap());
        add(&mut engine, 3, 8);
        let two = SamplingParams { max_tokens: 3, n: 2, ignore_eos: true, ..SamplingParams::default() };
        engine.add_request(&[2; 9], two, RequestOptions::default()).unwrap();
        engine.step().unwrap();
        engine.step().unwrap();
        assert_eq!((engine.running().len(), engine.blocks().num_free()), (3, 1));
        add(&mut engine, blocks * 4, 1);
        engine.set_scheduler(Box::new(Scripted(move |view: &View<'_>, _, plan: &mut Plan| {
            plan.preempt.extend(&view.running()[victims.clone()]);
            plan.run.push((view.waiting().last().unwrap(), blocks * 4));
        })));
        let error = engine.step().unwrap_err().to_string();
        assert!(error.ends_with(&format!("{blocks} blocks needed, {free} free")), "{error}");
    }
}

/// Two waiting sequences that revive the same cached blocks take them from the pool once.
#[test]
fn hits_of_two_sequences_in_one_plan() {
    let setup =
        Setup { block_size: 4, num_blocks: 4, tokens: 32, seqs: 4, max_model_len: 17, hash: Some(xxh3) };
    let plan = |view: &View<'_>, _: Budget, plan: &mut Plan| {
        for id in view.waiting() {
            let need = view.need(id);
            if need.start > 0 {
                assert_eq!((view.cached_tokens(id), view.blocks_needed(id, 1)), (8, 3));
                // Two blocks to revive, and room for nothing more before the third.
                assert_eq!([0, 1, 2, 3, 4].map(|free| need.fit(free)), [0, 0, 0, 3, 3]);
            }
            plan.run.push((id, need.remaining));
        }
        plan.run.extend(view.running().iter().map(|&id| (id, 1)));
    };
    let (mut engine, _) = setup.engine(Box::new(Scripted(plan)));
    add(&mut engine, 11, 1);
    assert_eq!(drain(&mut engine).len(), 1);
    add(&mut engine, 11, 2);
    add(&mut engine, 11, 2);
    engine.step().unwrap();
    check_blocks(&engine);
    assert_eq!((engine.stats().prefix_hit_tokens, engine.blocks().num_free()), (16, 0));
    assert_eq!(drain(&mut engine).len(), 2);
}

/// An old prompt takes the blocks of a younger decode although decodes are planned first.
#[test]
fn chunked_takes_a_planned_decode_back() {
    let setup = Setup { block_size: 4, num_blocks: 3, tokens: 5, seqs: 4, max_model_len: 17, hash: None };
    let admit = |number: u64| {
        Box::new(Scripted(move |view: &View<'_>, _: Budget, plan: &mut Plan| {
            plan.run.extend(view.waiting().filter(|id| id.number() == number).map(|id| (id, 4)));
        }))
    };
    let (mut engine, fake) = setup.engine(admit(1));
    add(&mut engine, 9, 2);
    add(&mut engine, 4, 9);
    engine.step().unwrap();
    engine.set_scheduler(admit(0));
    engine.step().unwrap();
    engine.set_scheduler(policies::by_name("chunked").unwrap());
    // One block is free; the decode of 1 would take it, but 0 needs it, and another.
    engine.step().unwrap();
    let items: Vec<_> = fake.state().items.iter().map(|item| (item.id.number(), item.tokens)).collect();
    assert_eq!((items, engine.stats().preemptions), (vec![(0, 5)], 1));
    assert_eq!(drain(&mut engine).len(), 2);
}

#[test]
fn preempts_one_that_waits() {
    let detail = "sequence 2 is Waiting";
    breaks("only running sequences are preempted", detail, |view, _, plan| {
        plan.preempt.extend(view.waiting())
    });
}

#[test]
fn preempts_the_oldest() {
    breaks("the oldest unfinished request is never preempted", "sequence 0", |view, _, plan| {
        assert_eq!(view.oldest(), Some(view.running()[0]));
        plan.preempt.push(view.running()[0]);
        plan.run.push((view.running()[1], 1));
    });
}

#[test]
fn plans_nothing() {
    let rule = "a plan runs something while requests are unfinished";
    breaks(rule, "1 waiting, 2 running", |_, _, _| {});
    breaks(rule, "1 waiting, 2 running", |view, _, plan| plan.preempt.push(view.running()[1]));
}

/// Runs the newest arrival first, and keeps its own queue by the hooks alone.
#[derive(Default)]
struct NewestFirst(Vec<SeqId>);

impl Scheduler for NewestFirst {
    fn name(&self) -> &'static str {
        "newest_first"
    }

    fn plan(&mut self, view: &View<'_>, budget: Budget, plan: &mut Plan) {
        let mut queue: Vec<_> = view.running().iter().copied().chain(view.waiting()).collect();
        queue.sort();
        assert_eq!(self.0, queue, "the hooks tell of all sequences");
        let &newest = self.0.last().unwrap();
        plan.run.push((newest, view.need(newest).remaining.min(budget.tokens)));
    }

    fn added(&mut self, seq: &Sequence) {
        self.0.push(seq.id);
        self.0.sort();
    }

    fn finished(&mut self, seq: &Sequence) {
        let at = self.0.iter().position(|&id| id == seq.id).expect("added before");
        self.0.remove(at);
    }
}

#[test]
fn policies_from_outside_by_name() {
    let mut policies = Policies::default();
    policies.add("newest_first", || Box::new(NewestFirst::default()));
    assert_eq!(policies.names().collect::<Vec<_>>(), ["chunked", "fcfs", "newest_first"]);
    let setup =
        Setup { block_size: 4, num_blocks: 40, tokens: 64, seqs: 8, max_model_len: 27, hash: Some(xxh3) };
    let (mut engine, _) = setup.engine(policies.make("newest_first").unwrap());
    let params = SamplingParams { max_tokens: 4, ignore_eos: true, n: 3, ..SamplingParams::default() };
    engine.add_request(&[1; 9], params.clone(), RequestOptions::default()).unwrap();
    engine.add_request(&[2; 9], params.clone(), RequestOptions::default()).unwrap();
    let aborted = engine.add_request(&[3; 9], params, RequestOptions::default()).unwrap();
    engine.step().unwrap();
    assert!(engine.abort(aborted));
    let order: Vec<_> = drain(&mut engine).iter().map(|id| id.number()).collect();
    // The first of each request computes the prompt before the others are queued; then the newest ends first.
    assert_eq!(order, [5, 4, 3, 2, 1, 0]);
}
