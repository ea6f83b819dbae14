//! The simulator: by hand on small cases, and against itself: replay, policies that do the same, many replicas.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use lathe::Error;
use lathe::config::EngineConfig;
use lathe::engine::{Budget, Plan, Scheduler, Sequence, View};
use lathe::lab::policies::{self, Vtc};
use lathe::lab::simulate::{
    Setup,
    decisions::{Log, Replay},
    metrics::{Outcome, Results, Slo},
    report::perfetto,
    router::Routing,
    run,
    step_time::{Fitted, StepTime},
    trace::{Trace, TraceRequest},
    workload::{Arrivals, Predictor, Workload},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A step takes 1 s, and 0.1 s more for each token beyond the first.
fn setup() -> Setup {
    let steps = vec![(1, 1.0), (101, 11.0)];
    let (source, error) = (String::new(), String::new());
    let (sample, decode_key, chunk_pair, spread) = (0.0, 0.0, 0.0, Vec::new());
    let (after_pause, after_chunk) = (0.0, 0.0);
    let fitted =
        Fitted { source, error, steps, sample, decode_key, chunk_pair, after_pause, after_chunk, spread };
    let config = EngineConfig {
        max_num_batched_tokens: 16,
        max_num_seqs: 4,
        max_model_len: 64,
        kvcache_block_size: 16,
        num_kvcache_blocks: Some(16),
        ..EngineConfig::default()
    };
    Setup {
        config,
        step_time: Arc::new(StepTime::Fitted(fitted)),
        replicas: 1,
        routing: Routing::LeastLoaded,
        slo: Slo { ttft: 10.0, tpot: 2.0 },
        max_tokens: None,
    }
}

fn trace(requests: &[(f64, u32, u32)]) -> Trace {
    let request =
        |&(arrival, prompt, output)| TraceRequest { arrival, prompt, output, ..TraceRequest::default() };
    Trace { name: "t".into(), requests: requests.iter().map(request).collect(), hash_ids: Vec::new() }
}

fn simulate(setup: &Setup, trace: &Trace, policy: &str) -> Outcome {
    run(setup, trace, &mut |_| policies::all().make(policy), None, None).unwrap()
}

#[test]
fn times_by_hand() {
    // Step 1, from 5.0: 11 tokens, 2 s. The second request comes meanwhile. Step 2: a decode and 15 of its 20 tokens:
    // 2.5 s. Step 3: 5 more, and no decode, since the first request is done: 1.4 s. Step 4: a decode.
    let outcome = simulate(&setup(), &trace(&[(5.0, 11, 2), (5.5, 20, 2)]), "chunked");
    let times: Vec<_> =
        outcome.records.iter().map(|r| [r.arrival, r.scheduled, r.first_token, r.finished]).collect();
    let want = [[5.0, 5.0, 7.0, 9.5], [5.5, 7.0, 10.9, 11.9]];
    for (times, want) in times.iter().zip(want) {
        times
            .iter()
            .zip(want)
            .for_each(|(time, want)| approx::assert_abs_diff_eq!(*time, want, epsilon = 1e-9));
    }
    let results = Results::of(&outcome, setup().slo);
    assert_eq!((results.finished, results.steps, results.preemptions), (2, 4, 0));
    approx::assert_relative_eq!(results.itl.unwrap().mean, (2.5 + 1.0) / 2.0, max_relative = 1e-9);
    // The first took 2.5 s for its second token, more than the SLO.
    approx::assert_relative_eq!(results.slo_share, 0.5);
    // 11 of the 16 tokens of a block, then 2 blocks; of 16 in all.
    approx::assert_relative_eq!(outcome.kv.1, 2.0 / 16.0);
}

#[test]
fn equal_hash_ids_are_prefix_hits() {
    let mut trace = trace(&[(0.0, 600, 2), (100.0, 600, 2), (200.0, 600, 2), (300.0, 520, 2)]);
    trace.hash_ids = vec![1, 2, 1, 3, 4, 2, 1, 5];
    trace.requests.iter_mut().enumerate().for_each(|(i, request)| request.hashes = (2 * i as u32, 2));
    let mut setup = setup();
    (setup.config.max_model_len, setup.config.num_kvcache_blocks) = (1024, Some(200));
    let outcome = simulate(&setup, &trace, "chunked");
    let hits: Vec<u32> = outcome.records.iter().map(|r| r.prefix_hit).collect();
    assert_eq!(hits, [0, 512, 0, 512]);
    setup.config.enable_prefix_caching = false;
    assert_eq!(simulate(&setup, &trace, "chunked").stats.prefix_hit_tokens, 0);
}

/// A workload that is too much for the setup, with bursts and tenants.
fn heavy(requests: usize) -> Trace {
    let rows: Vec<_> = (0..50).map(|i| (f64::from(i), 1 + i * 7 % 40, 1 + i * 11 % 20)).collect();
    let workload = Workload {
        arrivals: Arrivals::Gamma(3.0),
        rate: Some(0.4),
        requests: Some(requests),
        length_scale: 1.0,
        tenants: Some(3),
        greedy: Some(0.6),
        predictor: Predictor::LogNormal(0.5),
    };
    workload.make(&trace(&rows), 7).unwrap()
}

#[test]
fn replay_equals_the_run_for_every_policy() {
    let trace = heavy(300);
    let (mut setup, mut preemptions) = (setup(), 0);
    (setup.replicas, setup.config.num_kvcache_blocks) = (2, Some(7));
    for policy in policies::all().names() {
        let log = Log::default();
        let first = run(&setup, &trace, &mut |_| policies::all().make(policy), Some(&log), None).unwrap();
        assert_eq!((first.records.len(), first.refused), (300, 0), "{policy}");
        preemptions += first.stats.preemptions;
        let mut text = Vec::new();
        log.write(&mut text).unwrap();
        let read = Log::read("log", &text[..]).unwrap();
        let routes = read.take_routes();
        let again = run(
            &setup,
            &trace,
            &mut |replica| Ok(Box::new(Replay::new(&read, replica))),
            None,
            Some(&routes),
        );
        assert_eq!(again.unwrap(), first, "{policy}");
    }
    assert!(preemptions > 100, "{preemptions}");
}

#[test]
fn a_log_of_another_run_is_refused() {
    let (setup, log) = (setup(), Log::default());
    run(&setup, &heavy(50), &mut |_| policies::all().make("chunked"), Some(&log), None).unwrap();
    let routes = log.take_routes();
    let mut replay =
        |replica| -> lathe::Result<Box<dyn Scheduler>> { Ok(Box::new(Replay::new(&log, replica))) };
    let error = run(&setup, &heavy(51), &mut replay, None, Some(&routes)).unwrap_err().to_string();
    assert!(error.contains("the log is without a route for request 50"), "{error}");
}

#[test]
fn a_policy_that_plans_nonsense_is_stopped_with_the_rule() {
    struct Greedy;
    impl Scheduler for Greedy {
        fn name(&self) -> &'static str {
            "greedy"
        }
        fn plan(&mut self, view: &View<'_>, _: Budget, plan: &mut Plan) {
            plan.run.extend(view.waiting().chain(view.running().iter().copied()).map(|id| (id, 1)));
        }
    }
    match run(&setup(), &heavy(50), &mut |_| Ok(Box::new(Greedy)), None, None) {
        Err(Error::Plan { scheduler: "greedy", rule: "max_num_seqs", detail }) => {
            assert!(detail.ends_with("sequences would run, 4 allowed"), "{detail}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn requests_that_cannot_run_are_counted_and_others_go_on() {
    let outcome = simulate(&setup(), &trace(&[(0.0, 64, 1), (1.0, 5, 1), (1.0, 70, 1)]), "chunked");
    assert_eq!((outcome.refused, outcome.records.len()), (2, 1));
    let results = Results::of(&outcome, setup().slo);
    approx::assert_relative_eq!(results.slo_share, 1.0 / 3.0);
}

/// A tenant that sends most requests must not take the others' share while they wait.
#[test]
fn vtc_is_fair_to_tenants_that_wait() {
    let trace = heavy(600);
    let index = |policy| Results::of(&simulate(&setup(), &trace, policy), setup().slo).jain.unwrap();
    let (fair, unfair) = (index("vtc"), index("chunked"));
    assert!(fair > unfair && fair > 0.8, "vtc {fair}, chunked {unfair}");
}

/// Service of each tenant as a policy gives it, counted outside of it, and how far two tenants that both wait were apart.
struct Serviced {
    inner: Box<dyn Scheduler>,
    service: [u64; 3],
    apart: Arc<AtomicU64>,
}

impl Scheduler for Serviced {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn plan(&mut self, view: &View<'_>, budget: Budget, plan: &mut Plan) {
        self.inner.plan(view, budget, plan);
        for &(id, tokens) in &plan.run {
            let seq = view.seq(id);
            let service = &mut self.service[seq.options.tenant as usize];
            if seq.timing.scheduled.is_none() {
                *service += Vtc::INPUT * seq.prompt_len as u64;
            }
            if seq.generated() > 0 && tokens == seq.remaining() {
                *service += Vtc::OUTPUT;
            }
        }
        let waiting: BTreeSet<u32> = view.waiting().map(|id| view.seq(id).options.tenant).collect();
        if waiting.len() == 3 {
            let (least, most) = (self.service.iter().min().unwrap(), self.service.iter().max().unwrap());
            self.apart.fetch_max(most - least, Relaxed);
        }
    }

    fn added(&mut self, seq: &Sequence) {
        self.inner.added(seq);
    }

    fn finished(&mut self, seq: &Sequence) {
        self.inner.finished(seq);
    }
}

/// Tenants that always wait differ by at most `2 max(w_in · longest input, w_out · tokens of a full batch)` in service
/// (arXiv:2401.00588, theorem 4.4), however unlike their requests are and whoever sends more.
#[test]
fn vtc_keeps_its_bound() {
    let (setup, mut random) = (setup(), ChaCha8Rng::seed_from_u64(7));
    let bound = 2 * (Vtc::INPUT * 48).max(Vtc::OUTPUT * 16 * 16);
    let (mut fair, mut blind) = (0, 0);
    for _ in 0..20 {
        // Everything is there from the start. The first tenant sends most; its outputs are long, the others' inputs.
        let mut requests = trace(&vec![(0.0, 1, 1); 600]).requests;
        for request in &mut requests {
            request.tenant = [0, 0, 0, 0, 1, 2][random.random_range(0..6)];
            let (prompt, output) = if request.tenant == 0 { (1..8, 8..16) } else { (16..48, 1..8) };
            (request.prompt, request.output) = (random.random_range(prompt), random.random_range(output));
        }
        let trace = Trace { requests, ..trace(&[]) };
        for (policy, most) in [("vtc", &mut fair), ("chunked", &mut blind)] {
            let apart = Arc::new(AtomicU64::new(0));
            let mut make = |_| {
                let inner = policies::all().make(policy)?;
                Ok(Box::new(Serviced { inner, service: [0; 3], apart: apart.clone() }) as Box<dyn Scheduler>)
            };
            assert_eq!(run(&setup, &trace, &mut make, None, None).unwrap().records.len(), 600);
            *most = apart.load(Relaxed).max(*most);
        }
    }
    assert!(fair > 0 && fair <= bound, "vtc: {fair} apart, {bound} allowed");
    assert!(blind > 2 * bound, "a policy that knows no tenants: {blind} apart, {bound} allowed to vtc");
}

/// Preempted requests are seen where they wait, and steps where they ran.
#[test]
fn preemptions_and_steps_are_drawn() {
    let mut setup = setup();
    setup.config.num_kvcache_blocks = Some(6);
    let outcome = simulate(&setup, &heavy(60), "chunked");
    assert!(outcome.stats.preemptions > 0);
    assert_eq!(outcome.preempted.len(), outcome.stats.preemptions, "each runs again");
    for &(request, from, to) in &outcome.preempted {
        let record = outcome.records.iter().find(|r| r.request == request).unwrap();
        assert!(record.preemptions > 0 && record.scheduled < from && from < to && to < record.finished);
    }
    assert_eq!(outcome.steps.len(), outcome.stats.steps);
    let tokens: u32 = outcome.steps.iter().map(|step| step.tokens).sum();
    let stats = &outcome.stats;
    assert_eq!(tokens as usize, stats.prefill_tokens + stats.decode_tokens + stats.recomputed_tokens);
    assert!(outcome.steps.windows(2).all(|pair| pair[0].ended <= pair[1].began));
    let events = perfetto(&outcome);
    let events = events["traceEvents"].as_array().unwrap();
    let count = |key: &str, value: &str| events.iter().filter(|event| event[key] == value).count();
    assert_eq!(count("cat", "step"), outcome.stats.steps);
    assert_eq!(count("name", "preempted"), 2 * outcome.stats.preemptions);
}

#[test]
fn outputs_end_by_themselves_below_max_tokens() {
    let mut setup = setup();
    setup.config.num_kvcache_blocks = Some(8);
    let trace = heavy(100);
    let exact = simulate(&setup, &trace, "chunked");
    setup.max_tokens = Some(24);
    let capped = simulate(&setup, &trace, "chunked");
    let outputs = |outcome: &Outcome| {
        let mut outputs: Vec<_> = outcome.records.iter().map(|r| (r.request, r.output)).collect();
        outputs.sort_unstable();
        outputs
    };
    assert_eq!(outputs(&exact), outputs(&capped));
    // Which `no_evict` cannot know: it reserves for 24.
    assert!(simulate(&setup, &trace, "no_evict").kv.0 < simulate(&setup, &trace, "chunked").kv.0);
}

#[test]
fn more_replicas_serve_more() {
    let trace = heavy(400);
    let seconds = |replicas| simulate(&Setup { replicas, ..setup() }, &trace, "chunked").seconds;
    let (one, four) = (seconds(1), seconds(4));
    assert!(four < 0.6 * one, "{one} and {four}");
    let outcome =
        simulate(&Setup { replicas: 4, routing: Routing::RoundRobin, ..setup() }, &trace, "chunked");
    for replica in 0..4 {
        assert_eq!(outcome.records.iter().filter(|r| r.replica == replica).count(), 100);
    }
}
