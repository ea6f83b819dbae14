//! A scheduling policy from outside the crate: among waiting prompts, the shortest first.

use lathe::{
    config::{EngineConfig, SamplingParams},
    engine::{
        Budget, Plan, Scheduler, View,
        policies::{Room, by_name},
    },
    llm::{LLM, Prompt},
};

/// Decodes first, then prompts, the one with the fewest tokens left first. Source: shortest job first, as in
/// Conway, Maxwell and Miller, Theory of Scheduling (1967); a long prompt may starve.
struct ShortestFirst;

impl Scheduler for ShortestFirst {
    fn name(&self) -> &'static str {
        "shortest_first"
    }

    fn plan(&mut self, view: &View<'_>, budget: Budget, plan: &mut Plan) {
        let mut room = Room::new(view, budget);
        room.go_on(plan, |remaining| remaining == 1);
        room.go_on(plan, |remaining| remaining > 1);
        let mut waiting: Vec<_> = view.waiting().collect();
        waiting.sort_by_key(|&id| (view.need(id).remaining, id));
        room.admit(plan, waiting, |_, _| true);
    }
}

/// Mean time to first token, in milliseconds, of one long prompt followed by eight short ones.
fn mean_ttft(scheduler: Box<dyn Scheduler>) -> anyhow::Result<f64> {
    let config = EngineConfig { max_num_batched_tokens: 128, ..EngineConfig::default() };
    let mut llm = LLM::with_scheduler(config, scheduler)?;
    let prompts: Vec<Prompt> = std::iter::once(480)
        .chain([16; 8])
        .enumerate()
        .map(|(i, length)| Prompt::Tokens((0..length).map(|t| (300 + 7 * t + i as u32) % 1000).collect()))
        .collect();
    let params = SamplingParams { max_tokens: 8, ignore_eos: true, ..SamplingParams::greedy() };
    let outputs = llm.generate(&prompts, &[params], false)?;
    let ttft = outputs.iter().filter_map(|o| Some(o.timing.first_token? - o.timing.arrival));
    Ok(ttft.sum::<f64>() / outputs.len() as f64 * 1e3)
}

fn main() -> anyhow::Result<()> {
    for round in 1..=3 {
        let (chunked, ours) = (mean_ttft(by_name("chunked")?)?, mean_ttft(Box::new(ShortestFirst))?);
        println!("round {round}: mean TTFT chunked {chunked:.1} ms, shortest_first {ours:.1} ms");
    }
    Ok(())
}
