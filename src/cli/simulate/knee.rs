//! `lathe simulate --knee`: the highest rate that keeps the SLO, by policy.

use std::io::{self, Write};

use anyhow::{Result, ensure};
use lathe::lab::policies;
use lathe::lab::simulate::{self, Setup, knee::knee, metrics::Results, trace::Trace};

use super::Args;

impl Args {
    /// Prints the highest rate of each policy.
    ///
    /// # Errors
    /// As [`super::run`].
    pub fn knees(&self, setup: &Setup, trace: &Trace, names: &[String], want: f64) -> Result<()> {
        ensure!(want > 0.0 && want <= 1.0, "--knee is {want}, expected more than 0 and at most 1");
        let (policies, mut out) = (policies::all(), io::stdout().lock());
        let percent = want * 100.0;
        for name in names {
            let start = self.rate.first().copied().unwrap_or_else(|| trace.rate());
            let found = knee(start, want, |rate| {
                let mut shares = 0.0;
                for seed in self.seed..self.seed + self.seeds {
                    let made = self.workload(Some(rate)).make(trace, seed)?;
                    let outcome = simulate::run(setup, &made, &mut |_| policies.make(name), None, None)?;
                    shares += Results::of(&outcome, setup.slo).slo_share;
                }
                Ok(shares / self.seeds as f64)
            })?;
            let (rate, share, broken) = (found.rate, found.share * 100.0, found.broken_at);
            writeln!(
                out,
                "{name:<14} {rate:>8.3} requests/s with {share:.1}% in the SLO; {percent}% is lost at {broken:.3}"
            )?;
        }
        let (ttft, tpot, error) = (setup.slo.ttft, setup.slo.tpot, setup.step_time.error());
        writeln!(out, "SLO: TTFT {ttft} s and TPOT {tpot} s. {error}")?;
        Ok(())
    }
}
