//! `lathe simulate --validate`: the same workload on the real engine and in the simulator.

use std::io::{self, Write};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use lathe::config::EngineConfig;
use lathe::lab::policies;
use lathe::lab::simulate::{
    self, Setup, live,
    metrics::Results,
    step_time::{Fitted, StepTime, Work},
    trace::Trace,
    workload::Arrivals,
};
use lathe::llm::LLM;
use serde_json::json;

use super::Args;

impl Args {
    /// Runs each policy at each rate on the real engine and in the simulator, and prints how far they are apart.
    ///
    /// # Errors
    /// As [`super::run`], and if the model cannot be opened.
    pub fn validate(
        &self,
        mut setup: Setup,
        trace: &Trace,
        names: &[String],
        rates: &[Option<f64>],
    ) -> Result<()> {
        ensure!(self.seconds > 0.0, "--seconds is {}, expected more than 0", self.seconds);
        let (model, num_kvcache_blocks) = (self.model.clone(), self.engine.num_kvcache_blocks);
        let mut llm = LLM::new(EngineConfig { model, num_kvcache_blocks, ..setup.config.clone() })?;
        let vocabulary = llm.files().config.vocab_size;
        setup.config.num_kvcache_blocks = llm.config().num_kvcache_blocks;
        setup.config.max_model_len = llm.config().max_model_len;
        let (policies, mut out) = (policies::all(), io::stdout().lock());
        let (mut within, mut lines) = ((0, 0), String::new());
        let off = |real: f64, simulated: f64| 100.0 * (simulated / real - 1.0);
        // The speed of a machine that others use too drifts, and each process has its own luck with memory: steps are
        // measured in this process, on both sides of each run, and never in it. They are of other requests, but as many a
        // second and as long: how fast a batch is also depends on what ran before it, and on how long nothing did.
        let mut seed = self.seed;
        let mut measure = |llm: &mut LLM, rate: f64| -> Result<live::Steps> {
            if self.device.is_some() {
                return Ok(Vec::new());
            }
            seed += 1;
            let mut others = self.workload(Some(rate));
            others.requests = Some((rate * self.seconds).ceil() as usize);
            if others.arrivals == Arrivals::Trace {
                others.arrivals = Arrivals::Poisson;
            }
            let others = others.make(trace, seed)?;
            Ok(live::run(llm.engine(), policies.make("chunked")?, vocabulary, &others, setup.slo)?.1)
        };
        for rate in rates {
            let made = self.workload(*rate).make(trace, self.seed)?;
            let rate = rate.unwrap_or_else(|| trace.rate());
            let mut before = measure(&mut llm, rate)?;
            for name in names {
                let (outcome, steps) =
                    live::run(llm.engine(), policies.make(name)?, vocabulary, &made, setup.slo)?;
                let after = measure(&mut llm, rate)?;
                if self.device.is_none() {
                    let around: Vec<_> = before.iter().chain(&after).copied().collect();
                    setup.step_time = Arc::new(StepTime::Fitted(Fitted::fit(&around, String::new())?));
                }
                let real = Results::of(&outcome, setup.slo);
                let outcome = simulate::run(&setup, &made, &mut |_| policies.make(name), None, None)?;
                let simulated = Results::of(&outcome, setup.slo);
                let (prompts, decodes): (Vec<_>, Vec<_>) =
                    steps.iter().partition(|(work, _)| work.chunk_keys > 0);
                let took = |steps: &[(Work, f64)]| steps.iter().map(|(_, seconds)| seconds).sum::<f64>();
                let modelled = |steps: &[(Work, f64)]| {
                    steps.iter().map(|(work, _)| setup.step_time.seconds(work)).sum::<f64>()
                };
                let error = |steps: &[(Work, f64)]| off(took(steps), modelled(steps));
                // How far the machine's speed moved while this took.
                let drift = match self.device {
                    Some(_) => String::new(),
                    None => format!("before it {:+.1}%, after it {:+.1}%; ", error(&before), error(&after)),
                };
                before = after;
                let (requests, seconds, busy) = (real.finished, real.seconds, took(&steps) / real.seconds);
                // What a neighbour on the machine does to a run, and no model of steps foresees.
                let (held_up, excess) = steps.iter().fold((0, 0.0), |(count, sum), (work, seconds)| {
                    let over = seconds - 2.0 * setup.step_time.seconds(work);
                    if over > 0.0 { (count + 1, sum + over) } else { (count, sum) }
                });
                writeln!(
                    out,
                    "{name}, {rate:.3} requests/s: {requests} in {seconds:.1} s, {:.0}% of it in steps; the sum of \
                     these steps as modelled: {:+.1}% (with prompts {:+.1}%, decodes alone {:+.1}%); {held_up} took more than \
                     twice that, {excess:.2} s more in all; {drift}{}",
                    100.0 * busy,
                    error(&steps),
                    error(&prompts),
                    error(&decodes),
                    setup.step_time.error()
                )?;
                for (figure, real, simulated, bound) in live::errors(&real, &simulated)? {
                    let fine = (simulated / real - 1.0).abs() <= bound;
                    within = (within.0 + usize::from(fine), within.1 + 1);
                    let (error, bound) = (off(real, simulated), bound * 100.0);
                    let verdict = if fine { "within" } else { "BEYOND" };
                    writeln!(
                        out,
                        "  {figure:<13} real {real:>9.4}  simulated {simulated:>9.4}  {error:>+7.1}%  \
                         {verdict} {bound:.0}%"
                    )?;
                    let line = json!({
                        "scheduler": name, "rate": rate, "figure": figure, "real": real, "simulated": simulated,
                        "error_percent": error, "step_times": setup.step_time.error(),
                    });
                    lines += &format!("{line}\n");
                }
            }
        }
        if let Some(path) = &self.json {
            std::fs::write(path, lines).with_context(|| path.display().to_string())?;
        }
        writeln!(out, "{} of {} figures within their bounds", within.0, within.1)?;
        Ok(())
    }
}
