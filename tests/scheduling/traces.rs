//! Random traces: arrivals, aborts, failures and tiny pools, every output compared with the oracle and every admission
//! with what the policy claims about starvation.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use lathe::config::SamplingParams;
use lathe::engine::block_manager::{BlockHash, xxh3};
use lathe::engine::{
    Clock, Engine, Event, FinishReason, RequestId, RequestOptions, SeqId, Sequence, Stats, Status,
};
use lathe::lab::policies::{self, Deadline, Mlfq, PrefixAware, Priority, Sjf};
use proptest::prelude::*;

use crate::fake::{Fake, Setup, VOCAB, check_blocks, logprobs_at, oracle};

const CASES: u32 = 100_000;

#[derive(Clone, Debug)]
enum Op {
    Add {
        shared: usize,
        family: u32,
        own: usize,
        params: Box<SamplingParams>,
        options: RequestOptions,
    },
    Steps(usize),
    /// Aborts one of the requests so far.
    Abort(prop::sample::Index),
    /// The next step's executor fails.
    Fail,
    /// The next sample of this request has NaN logits.
    Invalid(prop::sample::Index),
}

fn op() -> impl Strategy<Value = Op> {
    let flags = (prop::bool::weighted(0.8), prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    let params = (1..24usize, 0..4usize, prop_oneof![4 => Just(1), 1 => 2..4usize], any::<u8>(), flags);
    // Facts for policies: priority, tenant, deadline and predicted length, the last two none where they are 0.
    let facts = (-2..3i32, 0..3u32, 0..40u32, 0..24usize, 0..2u64);
    let add =
        (0..14usize, 0..2u32, 0..5usize, params, facts).prop_map(|(shared, family, own, params, facts)| {
            let (max_tokens, min_tokens, n, seed, (ignore_eos, stops, logprobs)) = params;
            let params = SamplingParams {
                seed: Some(u64::from(seed)),
                max_tokens,
                min_tokens: min_tokens.min(max_tokens),
                stop_token_ids: if stops { vec![3, 7] } else { vec![] },
                ignore_eos,
                logprobs: logprobs.then_some(0),
                prompt_logprobs: logprobs.then_some(0),
                n,
                ..SamplingParams::default()
            };
            let (priority, tenant, deadline, predicted, cache_salt) = facts;
            let options = RequestOptions {
                priority,
                tenant,
                deadline: (deadline > 0).then(|| f64::from(deadline)),
                predicted_len: (predicted > 0).then_some(predicted),
                cache_salt,
                arrival: None,
            };
            Op::Add { shared, family, own, params: Box::new(params), options }
        });
    prop_oneof![
        8 => add,
        6 => (1..6usize).prop_map(Op::Steps),
        1 => any::<prop::sample::Index>().prop_map(Op::Abort),
        1 => Just(Op::Fail),
        1 => any::<prop::sample::Index>().prop_map(Op::Invalid),
    ]
}

fn setup() -> impl Strategy<Value = Setup> {
    let hash = prop_oneof![
        4 => Just(Some(xxh3 as BlockHash)),
        1 => Just(None),
        1 => Just(Some((|_, _| 7) as BlockHash)),
        1 => Just(Some((|seed, tokens| xxh3(seed, tokens) % 3) as BlockHash)),
    ];
    (1..5usize, 4..16usize, 1..24usize, 1..8usize, 12..40usize, hash).prop_map(
        |(block_size, num_blocks, tokens, seqs, max_model_len, hash)| Setup {
            block_size,
            num_blocks,
            tokens,
            seqs,
            max_model_len,
            hash,
        },
    )
}

/// What `policy` claims about starvation: whether it must admit the waiting sequence `a` before it admits `b`.
fn must_go_first(policy: &str, a: &Sequence, b: &Sequence, now: f64) -> bool {
    let (arrived, later) = (a.timing.arrival, b.timing.arrival);
    let left = |seq: &Sequence| {
        // Of the one that the step admitted, at most one token is new.
        let all = seq.options.predicted_len.unwrap_or(seq.max_len - seq.prompt_len);
        all.saturating_sub(seq.generated()).max(1) as f64
    };
    match policy {
        "chunked" | "fcfs" | "running_first" | "no_evict" => a.id < b.id,
        "sjf" | "srpt" => later > arrived + Sjf::SECONDS_PER_TOKEN * left(a),
        "priority" => {
            let levels = f64::from(a.options.priority - b.options.priority);
            later > arrived + Priority::SECONDS_PER_LEVEL * levels
        }
        "mlfq" => {
            let levels = f64::from(Mlfq::level(a.prompt_len, a.generated()));
            later > arrived + Mlfq::SECONDS_PER_LEVEL * levels
        }
        "vtc" => a.options.tenant == b.options.tenant && a.id < b.id,
        "prefix_aware" => a.id < b.id && now - arrived >= PrefixAware::PATIENCE,
        "deadline" => {
            let due = |seq: &Sequence| {
                let default = seq.timing.arrival + Deadline::DEFAULT;
                seq.options.deadline.unwrap_or(default) - Deadline::SECONDS_PER_TOKEN * left(seq)
            };
            due(b) > due(a) + 1.001 * Deadline::SECONDS_PER_TOKEN
        }
        other => panic!("what does {other} claim?"),
    }
}

/// An engine under test and what must come of it.
struct Trial {
    setup: Setup,
    engine: Engine,
    fake: Fake,
    policy: &'static str,
    /// Unfinished sequences by request and sample: prompt, parameters, tokens so far.
    open: HashMap<(RequestId, u32), (usize, SamplingParams, Vec<u32>)>,
    requests: Vec<RequestId>,
    /// Whether steps overlap: then an outcome is seen a step later, and order is not what it was when it was planned.
    overlap: bool,
    /// Whether every position was computed exactly once, so that the counts must add up.
    plain: bool,
    prompts: usize,
    outputs: usize,
}

impl Trial {
    fn new(setup: Setup, policy: &'static str, overlap: bool) -> Self {
        let (mut engine, fake) = setup.engine(policies::all().make(policy).unwrap());
        engine.set_clock(Clock::Virtual(0.0));
        (fake.state().seconds, fake.state().overlap) = (0.5, overlap);
        let (open, requests) = (HashMap::new(), Vec::new());
        Self { setup, engine, fake, policy, overlap, open, requests, plain: true, prompts: 0, outputs: 0 }
    }

    fn add(
        &mut self,
        shared: usize,
        family: u32,
        own: usize,
        params: &SamplingParams,
        options: &RequestOptions,
    ) {
        // Few distinct tokens, so that equal blocks also follow different prefixes.
        let mut prompt: Vec<u32> = (0..shared as u32).map(|i| (i / 3 + family) % 3).collect();
        prompt.extend((0..own).map(|i| (self.requests.len() + i) as u32 % VOCAB));
        let most = (prompt.len() + params.max_tokens).min(self.setup.max_model_len).max(1) - 1;
        let fits = most.div_ceil(self.setup.block_size) <= self.setup.num_blocks;
        let good = !prompt.is_empty() && prompt.len() < self.setup.max_model_len && fits;
        let before = self.engine.num_unfinished();
        match self.engine.add_request(&prompt, params.clone(), options.clone()) {
            Ok(request) => {
                assert!(good, "admitted {} tokens to {:?}", prompt.len(), self.setup);
                assert_eq!(self.engine.num_unfinished(), before + params.n);
                self.requests.push(request);
                for sample in 0..params.n as u32 {
                    self.open.insert((request, sample), (prompt.len(), params.clone(), Vec::new()));
                    self.prompts += prompt.len();
                }
            }
            Err(error) => {
                assert!(!good, "{error}");
                assert_eq!(self.engine.num_unfinished(), before, "queued in spite of {error}");
            }
        }
    }

    fn step(&mut self) {
        let waiting: Vec<_> = self.engine.waiting().collect();
        let running = self.engine.running().to_vec();
        let oldest = self.engine.running().iter().chain(&waiting).min().copied();
        let was_running = oldest.is_some_and(|id| self.engine.running().contains(&id));
        let now = self.engine.now();
        let failing = self.fake.state().fail || self.fake.state().fail_late;
        let computed = self.fake.state().computed;
        let events = match self.engine.step() {
            Ok(events) => events.to_vec(),
            Err(error) => {
                assert!(failing && error.to_string().contains("told to fail"), "{error}");
                return check_blocks(&self.engine);
            }
        };
        check_blocks(&self.engine);
        assert!(self.engine.running().len() <= self.setup.seqs, "{} running", self.engine.running().len());
        if self.policy == "no_evict" {
            assert_eq!(self.engine.stats().preemptions, 0);
        }
        if !self.overlap {
            let tokens = self.fake.state().computed - computed;
            assert!(tokens <= self.setup.tokens, "{tokens} tokens in a step");
            self.check_order(oldest, was_running, &waiting, &running, now);
        }
        for event in events {
            self.take(event);
        }
    }

    /// Who ran, who was admitted.
    fn check_order(
        &self,
        oldest: Option<SeqId>,
        was_running: bool,
        waiting: &[SeqId],
        running: &[SeqId],
        now: f64,
    ) {
        let items = self.fake.state().items.clone();
        if let Some(oldest) = oldest {
            let runs = items.iter().any(|item| item.id == oldest);
            // Prompts first: a decode may have to wait for prompts, and only for those.
            let prompts =
                items.iter().any(|item| item.tokens > 1 || !item.sample || waiting.contains(&item.id));
            let waits = self.policy == "fcfs" && prompts;
            assert!(runs || !was_running || waits, "the oldest does not progress");
            if let Some(seq) = self.engine.seq(oldest) {
                assert!(!was_running || seq.status != Status::Waiting, "the oldest was preempted");
            }
        }
        let admitted = items.iter().map(|item| item.id).filter(|id| waiting.contains(id));
        for admitted in admitted.filter_map(|id| self.engine.seq(id)) {
            // Those that waited before the step, and those that it preempted.
            let passed = waiting.iter().chain(running).filter_map(|&id| self.engine.seq(id));
            for passed in passed.filter(|seq| seq.status == Status::Waiting) {
                let wrong = must_go_first(self.policy, passed, admitted, now);
                assert!(!wrong, "{:?} is admitted before {:?}", admitted.id, passed.id);
            }
        }
    }

    fn take(&mut self, event: Event) {
        let key = (event.request, event.sample);
        let (prompt, params, output) = self.open.get_mut(&key).expect("an open sequence");
        output.extend(event.token);
        let seq = self.engine.seq(event.id).expect("readable until the next step");
        assert_eq!(seq.output(), output, "tokens of the events");
        let Some(reason) = event.finish else { return };
        assert_eq!(seq.status, Status::Finished(reason));
        let (want, why) =
            oracle(*prompt, params, params.seed.unwrap() + u64::from(event.sample), self.setup.max_model_len);
        if reason == FinishReason::Error {
            self.plain = false;
            assert_eq!(event.token, None);
            assert!(want.starts_with(output), "{output:?} is no beginning of {want:?}");
        } else {
            assert_eq!((&*output, reason), (&want, why), "output");
        }
        if params.logprobs.is_some() {
            let want: Vec<_> = (0..output.len()).map(|i| logprobs_at(*prompt + i)).collect();
            assert_eq!(seq.logprobs, want, "logprobs");
        }
        if params.prompt_logprobs.is_some() && event.sample == 0 && *prompt > 1 {
            let want: Vec<_> = (0..*prompt).map(|i| (i > 0).then(|| logprobs_at(i))).collect();
            assert_eq!(seq.prompt_logprobs, want, "prompt logprobs");
        }
        self.outputs += output.len() - usize::from(reason != FinishReason::Error);
        self.open.remove(&key);
    }

    fn run(mut self, ops: &[Op]) -> Stats {
        for op in ops {
            match op {
                Op::Add { shared, family, own, params, options } => {
                    self.add(*shared, *family, *own, params, options)
                }
                Op::Steps(count) => (0..*count).for_each(|_| self.step()),
                Op::Fail if self.overlap && self.requests.len().is_multiple_of(2) => {
                    self.fake.state().fail_late = true;
                }
                Op::Fail => self.fake.state().fail = true,
                Op::Invalid(index) if !self.requests.is_empty() => {
                    self.fake.state().invalid = Some(index.get(&self.requests).0);
                }
                Op::Abort(index) if !self.requests.is_empty() => {
                    let request = *index.get(&self.requests);
                    let open = self.open.keys().filter(|key| key.0 == request).count();
                    assert_eq!(self.engine.abort(request), open > 0);
                    self.open.retain(|key, _| key.0 != request);
                    self.plain &= open == 0;
                    check_blocks(&self.engine);
                }
                Op::Invalid(_) | Op::Abort(_) => {}
            }
        }
        let mut steps = 0;
        while !self.engine.is_finished() {
            self.step();
            steps += 1;
            assert!(steps < 5_000, "{} sequences never finish", self.engine.num_unfinished());
        }
        assert!(self.open.is_empty(), "unreported: {:?}", self.open.keys());
        assert_eq!(self.engine.blocks().num_free(), self.setup.num_blocks, "leaked blocks");
        let stats = self.engine.stats();
        let computed = stats.prefill_tokens + stats.decode_tokens + stats.recomputed_tokens;
        assert_eq!(computed, self.fake.state().computed, "{stats:?}");
        if self.plain && stats.preemptions == 0 {
            assert_eq!(stats.prefill_tokens + stats.prefix_hit_tokens, self.prompts, "{stats:?}");
            if self.overlap {
                assert!(stats.decode_tokens >= self.outputs, "{stats:?}");
            } else {
                assert_eq!((stats.decode_tokens, stats.recomputed_tokens), (self.outputs, 0), "{stats:?}");
            }
        }
        stats
    }
}

fn traces(policy: &'static str, cases: u32, overlap: bool) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let (preemptions, recomputed, hits) = <(AtomicUsize, AtomicUsize, AtomicUsize)>::default();
    proptest!(config, |(setup in setup(), ops in prop::collection::vec(op(), 1..30))| {
        let stats = Trial::new(setup, policy, overlap).run(&ops);
        preemptions.fetch_add(stats.preemptions, Relaxed);
        recomputed.fetch_add(stats.recomputed_tokens, Relaxed);
        hits.fetch_add(stats.prefix_hit_tokens, Relaxed);
    });
    // The traces must be hard enough to mean something: on average each preempts and each hits.
    for (what, count) in [("preemptions", preemptions), ("recomputed", recomputed), ("hits", hits)] {
        let (count, none) = (count.into_inner(), policy == "no_evict" && what != "hits");
        assert!(none || count > cases as usize, "only {count} {what} in {cases} traces");
    }
}

#[test]
fn random_traces_with_chunked() {
    traces("chunked", CASES, false);
}

#[test]
fn random_traces_with_fcfs() {
    traces("fcfs", CASES, false);
}

#[test]
fn random_traces_with_running_first() {
    traces("running_first", CASES, false);
}

#[test]
fn random_traces_with_sjf() {
    traces("sjf", CASES, false);
}

#[test]
fn random_traces_with_srpt() {
    traces("srpt", CASES, false);
}

#[test]
fn random_traces_with_priority() {
    traces("priority", CASES, false);
}

#[test]
fn random_traces_with_mlfq() {
    traces("mlfq", CASES, false);
}

#[test]
fn random_traces_with_vtc() {
    traces("vtc", CASES, false);
}

#[test]
fn random_traces_with_prefix_aware() {
    traces("prefix_aware", CASES, false);
}

#[test]
fn random_traces_with_deadline() {
    traces("deadline", CASES, false);
}

#[test]
fn random_traces_with_no_evict() {
    traces("no_evict", CASES, false);
}

#[test]
fn random_traces_with_steps_that_overlap() {
    for policy in ["chunked", "fcfs", "srpt"] {
        traces(policy, CASES / 3, true);
    }
}

#[test]
fn every_policy_has_its_traces() {
    let tested = "chunked fcfs running_first sjf srpt priority mlfq vtc prefix_aware deadline no_evict";
    assert_eq!(policies::all().names().collect::<Vec<_>>().join(" "), tested);
}
