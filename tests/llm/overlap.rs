//! Steps that overlap change nothing but when an end is noticed: the same outputs, with everything that a request can ask.

use std::num::NonZeroU32;

use lathe::config::{EngineConfig, SamplingParams, StorageType};
use lathe::engine::policies::Room;
use lathe::engine::scheduler::{Budget, Plan, Scheduler, View};
use lathe::llm::{LLM, Output, Prompt};

/// Prompts of the model in the binary, greedy and random; with stop tokens and strings, penalties, log-probabilities of
/// both kinds, several sequences, ends by length.
fn requests() -> (Vec<Prompt>, Vec<SamplingParams>) {
    let prompts =
        ["Once upon a time", "The fox", "A girl had a red kite and a", "Rain", "They went to the sea and"];
    let of = |i: usize| SamplingParams {
        max_tokens: [1, 7, 24, 40][i % 4],
        min_tokens: (i % 3).min([1, 7, 24, 40][i % 4]),
        temperature: [0.0, 0.8, 1.0][i % 3],
        top_k: NonZeroU32::new([0, 20][i % 2]),
        seed: Some(i as u64),
        stop: if i % 5 == 1 { vec!["the".into()] } else { Vec::new() },
        stop_token_ids: if i % 5 == 2 { (200..400).collect() } else { Vec::new() },
        repetition_penalty: if i % 7 == 3 { 1.3 } else { 1.0 },
        logprobs: i.is_multiple_of(2).then_some(i % 4),
        prompt_logprobs: (i % 6 == 5).then_some(2),
        n: 1 + usize::from(i % 16 == 7),
        ..SamplingParams::default()
    };
    (0..24).map(|i| (Prompt::from(prompts[i % prompts.len()]), of(i))).unzip()
}

/// Prompts wait in every second step, half computed, while the same sequences decode again.
struct Pausing(usize);

impl Scheduler for Pausing {
    fn name(&self) -> &'static str {
        "pausing"
    }

    fn plan(&mut self, view: &View<'_>, budget: Budget, plan: &mut Plan) {
        self.0 += 1;
        let mut room = Room::new(view, budget);
        room.go_on(plan, |remaining| remaining == 1);
        if plan.run.is_empty() || self.0.is_multiple_of(2) {
            room.go_on(plan, |remaining| remaining > 1);
            room.admit(plan, view.waiting(), |_, _| true);
        }
    }
}

/// What each request got, and how many preemptions there were.
fn run(overlap: bool, change: impl FnOnce(&mut EngineConfig)) -> (Vec<Output>, usize) {
    run_with(None, overlap, change)
}

/// The same with another policy.
fn run_with(
    policy: Option<Box<dyn Scheduler>>,
    overlap: bool,
    change: impl FnOnce(&mut EngineConfig),
) -> (Vec<Output>, usize) {
    let mut config = EngineConfig {
        dtype: Some(StorageType::F32),
        async_scheduling: Some(overlap),
        max_num_seqs: 6,
        max_model_len: 64,
        kvcache_block_size: 16,
        num_kvcache_blocks: Some(64),
        ..EngineConfig::default()
    };
    change(&mut config);
    let mut llm = LLM::new(config).unwrap();
    if let Some(policy) = policy {
        llm.engine().set_scheduler(policy);
    }
    let (prompts, params) = requests();
    let mut outputs = llm.generate(&prompts, &params, false).unwrap();
    // A second round on the same engine, whose last step may still be on its way.
    outputs.extend(llm.generate(&prompts[..3], &params[..3], false).unwrap());
    outputs.iter_mut().for_each(|o| (o.timing, o.prefix_hit) = (Default::default(), 0));
    (outputs, llm.engine().stats().preemptions)
}

#[test]
fn outputs_are_the_same() {
    let (want, _) = run(false, |_| {});
    assert!(want.iter().any(|o| o.finish_reason.as_str() == "stop") && want.len() == 29, "{}", want.len());
    assert_eq!(run(true, |_| {}).0, want);
    assert_eq!(run(true, |config| config.max_num_batched_tokens = 5).0, want, "in chunks");
    for overlap in [false, true] {
        let (got, _) =
            run_with(Some(Box::new(Pausing(0))), overlap, |config| config.max_num_batched_tokens = 6);
        assert_eq!(got, want, "pausing, overlap {overlap}");
    }
    let (preempted, preemptions) = run(true, |config| config.num_kvcache_blocks = Some(6));
    assert_eq!(preempted, want, "preempted");
    assert!(preemptions > 0);
}
