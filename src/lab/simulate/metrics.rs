//! What came of a run, simulated or real: one record a request, and what is made of them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::engine::{Engine, Event, SeqId, Stats};

/// What became of a request. Times are seconds since the run began.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Record {
    /// Its place in the workload.
    pub request: u32,
    /// Which replica served it.
    pub replica: u32,
    /// Whom it is accounted to.
    pub tenant: u32,
    /// It arrived.
    pub arrival: f64,
    /// It first ran.
    pub scheduled: f64,
    /// Its first token was there.
    pub first_token: f64,
    /// Its last token was there.
    pub finished: f64,
    /// Tokens of the prompt.
    pub prompt: u32,
    /// Tokens generated.
    pub output: u32,
    /// Tokens of the prompt that the prefix cache had.
    pub prefix_hit: u32,
    /// Times it was preempted.
    pub preemptions: u32,
}

impl Record {
    /// Seconds from arrival to the first token.
    pub fn ttft(&self) -> f64 {
        self.first_token - self.arrival
    }

    /// Mean seconds from one token to the next, if there are two.
    pub fn tpot(&self) -> Option<f64> {
        (self.output > 1).then(|| (self.finished - self.first_token) / f64::from(self.output - 1))
    }

    /// Seconds from arrival to the last token.
    pub fn e2e(&self) -> f64 {
        self.finished - self.arrival
    }

    /// Seconds from arrival until it first ran.
    pub fn queueing(&self) -> f64 {
        self.scheduled - self.arrival
    }
}

/// What a service promises a request.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Slo {
    /// Most seconds to the first token.
    pub ttft: f64,
    /// Most seconds, on average, from one token to the next.
    pub tpot: f64,
}

impl Slo {
    /// Whether the request got what was promised.
    pub fn met(&self, record: &Record) -> bool {
        record.ttft() <= self.ttft && record.tpot().is_none_or(|tpot| tpot <= self.tpot)
    }
}

/// How full the engine was at a time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Seconds since the run began.
    pub time: f64,
    /// The replica.
    pub replica: u32,
    /// Share of the KV blocks that sequences hold.
    pub kv: f32,
    /// Sequences that hold blocks.
    pub running: u32,
    /// Sequences that wait.
    pub waiting: u32,
}

/// A step, as it is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The replica.
    pub replica: u32,
    /// Seconds since the run began.
    pub began: f64,
    /// Seconds since the run began.
    pub ended: f64,
    /// Tokens computed.
    pub tokens: u32,
    /// Sequences that ran.
    pub sequences: u32,
    /// Sequences that lost their blocks for it.
    pub preempted: u32,
}

/// Counts of durations in buckets a quarter of a percent wide: constant memory for any number of tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; 64 << Self::BITS], total: 0, sum: 0.0 }
    }
}

impl Histogram {
    /// Leading bits of the mantissa that tell buckets apart.
    const BITS: u32 = 8;
    /// The first bucket begins at 2^-40 seconds; the last ends at 2^24.
    const LEAST: u64 = (1023 - 40) << Self::BITS;

    /// Counts a duration.
    #[inline]
    pub fn add(&mut self, seconds: f64) {
        // A positive float's bits, exponent first, are a logarithm with straight lines between powers of two.
        let bucket = (seconds.max(0.0).to_bits() >> (52 - Self::BITS)).saturating_sub(Self::LEAST);
        self.counts[(bucket as usize).min((64 << Self::BITS) - 1)] += 1;
        self.total += 1;
        self.sum += seconds;
    }

    /// The middle of the bucket below which this share lies.
    fn quantile(&self, share: f64) -> f64 {
        let mut left = (share * self.total as f64) as u64;
        for (bucket, &count) in self.counts.iter().enumerate() {
            if count > left {
                let middle = 2 * (bucket as u64 + Self::LEAST) + 1;
                return f64::from_bits(middle << (51 - Self::BITS));
            }
            left -= count;
        }
        f64::NAN
    }

    fn summary(&self) -> Option<Summary> {
        (self.total > 0).then(|| Summary {
            mean: self.sum / self.total as f64,
            p50: self.quantile(0.5),
            p90: self.quantile(0.9),
            p99: self.quantile(0.99),
        })
    }
}

/// Mean and quantiles of a duration in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
}

impl Summary {
    /// Of these values, if there are any. Quantiles are the values at `⌊share * count⌋` in order.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        if values.is_empty() {
            return None;
        }
        values.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| values[((share * values.len() as f64) as usize).min(values.len() - 1)];
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        Some(Self { mean, p50: at(0.5), p90: at(0.9), p99: at(0.99) })
    }
}

/// Everything that a run left behind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Finished requests, in the order in which they finished.
    pub records: Vec<Record>,
    /// Requests that could never have run.
    pub refused: usize,
    /// The engines' counts, summed.
    pub stats: Stats,
    /// Gaps between a request's tokens.
    pub itl: Histogram,
    /// Seconds to the end of the last step.
    pub seconds: f64,
    /// Mean share of KV blocks held, over the time in which there was work, and the most.
    pub kv: (f64, f64),
    /// Some two thousand, over all of the run.
    pub samples: Vec<Sample>,
    /// From a preemption until the sequence runs again: the workload's place of its request, from, to.
    pub preempted: Vec<(u32, f64, f64)>,
    /// The first 20,000 steps.
    pub steps: Vec<Step>,
}

/// Watches an engine's steps and makes an [`Outcome`].
#[derive(Debug, Default)]
pub struct Collector {
    outcome: Outcome,
    /// By replica and slot: when the sequence's latest token came.
    last: Vec<Vec<f64>>,
    /// By replica: sequences that are preempted, and since when.
    preempted: Vec<BTreeMap<SeqId, f64>>,
    /// Integral of the share of blocks held, and the time it is over.
    kv_seconds: (f64, f64),
    stride: usize,
    steps: usize,
}

impl Collector {
    const SAMPLES: usize = 4096;
    const STEPS: usize = 20_000;

    /// Takes a step's events and the engine after it. `requests` has the workload's place of each request's number.
    pub fn step(&mut self, replica: usize, engine: &Engine, events: &[Event], began: f64, requests: &[u32]) {
        let now = engine.now();
        if self.last.len() <= replica {
            self.last.resize(replica + 1, Vec::new());
            self.preempted.resize(replica + 1, BTreeMap::new());
        }
        let plan = engine.planned();
        let preempted = &mut self.preempted[replica];
        preempted.extend(plan.preempt.iter().map(|&id| (id, began)));
        if !preempted.is_empty() {
            for (id, since) in plan.run.iter().filter_map(|&(id, _)| preempted.remove_entry(&id)) {
                let seq = engine.seq(id).expect("readable until the next step");
                self.outcome.preempted.push((requests[seq.request().0 as usize], since, began));
            }
        }
        if self.outcome.steps.len() < Self::STEPS {
            self.outcome.steps.push(Step {
                replica: replica as u32,
                began,
                ended: now,
                tokens: engine.computed().iter().map(|item| item.tokens as u32).sum(),
                sequences: plan.run.len() as u32,
                preempted: plan.preempt.len() as u32,
            });
        }
        let last = &mut self.last[replica];
        for event in events {
            let slot = event.id.slot();
            if slot >= last.len() {
                last.resize(slot + 1, f64::NAN);
            }
            if !last[slot].is_nan() {
                self.outcome.itl.add(now - last[slot]);
            }
            last[slot] = now;
            if event.finish.is_some() {
                last[slot] = f64::NAN;
                let seq = engine.seq(event.id).expect("readable until the next step");
                self.outcome.records.push(Record {
                    request: requests[seq.request().0 as usize],
                    replica: replica as u32,
                    tenant: seq.options.tenant,
                    arrival: seq.timing.arrival,
                    scheduled: seq.timing.scheduled.unwrap_or(now),
                    first_token: seq.timing.first_token.unwrap_or(now),
                    finished: now,
                    prompt: seq.prompt_len as u32,
                    output: seq.generated() as u32,
                    prefix_hit: seq.prefix_hit as u32,
                    preemptions: seq.preemptions as u32,
                });
            }
        }
        let pool = engine.blocks();
        let kv = 1.0 - pool.num_free() as f64 / pool.num_blocks() as f64;
        self.kv_seconds.0 += kv * (now - began);
        self.kv_seconds.1 += now - began;
        self.outcome.kv.1 = self.outcome.kv.1.max(kv);
        self.outcome.seconds = self.outcome.seconds.max(now);
        self.steps += 1;
        if self.steps.is_multiple_of(self.stride.max(1)) {
            let (running, waiting) = (engine.running().len() as u32, engine.waiting().len() as u32);
            let sample = Sample { time: now, replica: replica as u32, kv: kv as f32, running, waiting };
            self.outcome.samples.push(sample);
            if self.outcome.samples.len() == Self::SAMPLES {
                self.stride = self.stride.max(1) * 2;
                let mut keep = false;
                self.outcome.samples.retain(|_| {
                    keep = !keep;
                    keep
                });
            }
        }
    }

    /// Counts a request that was refused.
    pub fn refuse(&mut self) {
        self.outcome.refused += 1;
    }

    /// What was seen, with the counts of these engines.
    pub fn outcome(mut self, stats: impl Iterator<Item = Stats>) -> Outcome {
        for one in stats {
            let sum = &mut self.outcome.stats;
            sum.steps += one.steps;
            sum.prefill_tokens += one.prefill_tokens;
            sum.decode_tokens += one.decode_tokens;
            sum.recomputed_tokens += one.recomputed_tokens;
            sum.prefix_hit_tokens += one.prefix_hit_tokens;
            sum.sampled_tokens += one.sampled_tokens;
            sum.preemptions += one.preemptions;
            sum.finished += one.finished;
        }
        self.outcome.kv.0 = if self.kv_seconds.1 > 0.0 { self.kv_seconds.0 / self.kv_seconds.1 } else { 0.0 };
        self.outcome
    }
}

/// A tenant's share of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TenantResults {
    /// The tenant.
    pub tenant: u32,
    /// Its finished requests.
    pub requests: usize,
    /// Prompt tokens, and generated tokens twice, of its finished requests.
    pub service: u64,
    /// Seconds to the first token.
    pub ttft: Summary,
}

/// A run in figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Results {
    /// Requests that finished.
    pub finished: usize,
    /// Requests that could never have run.
    pub refused: usize,
    /// From the first arrival to the end of the last step.
    pub seconds: f64,
    /// Requests finished a second.
    pub requests_per_second: f64,
    /// Tokens generated a second.
    pub output_tokens_per_second: f64,
    /// Share of all requests, refused ones included, that met the SLO.
    pub slo_share: f64,
    /// Requests a second that met the SLO.
    pub goodput: f64,
    /// Time to first token.
    pub ttft: Option<Summary>,
    /// Time per output token after the first, a request's mean.
    pub tpot: Option<Summary>,
    /// Gap between tokens, of all tokens.
    pub itl: Option<Summary>,
    /// From arrival to the last token.
    pub e2e: Option<Summary>,
    /// From arrival until it first ran.
    pub queueing: Option<Summary>,
    /// Steps of all replicas.
    pub steps: usize,
    /// Times a sequence was preempted.
    pub preemptions: usize,
    /// Tokens computed again after that.
    pub recomputed_tokens: usize,
    /// Share of prompt tokens that the prefix cache had.
    pub prefix_hit_share: f64,
    /// Mean share of KV blocks held.
    pub kv_mean: f64,
    /// The most.
    pub kv_peak: f64,
    /// Jain's index of fairness between tenants, see [`jain`].
    pub jain: Option<f64>,
    /// By tenant, if there are several.
    pub tenants: Vec<TenantResults>,
}

impl Results {
    /// The figures of a run.
    pub fn of(outcome: &Outcome, slo: Slo) -> Self {
        let records = &outcome.records;
        let (finished, seconds) = (records.len(), outcome.seconds.max(f64::MIN_POSITIVE));
        let met = records.iter().filter(|record| slo.met(record)).count();
        let output: u64 = records.iter().map(|record| u64::from(record.output)).sum();
        let prompt: u64 = records.iter().map(|record| u64::from(record.prompt)).sum();
        let mut names: Vec<u32> = records.iter().map(|record| record.tenant).collect();
        names.sort_unstable();
        names.dedup();
        let tenant = |&tenant: &u32| {
            let own = || records.iter().filter(move |record| record.tenant == tenant);
            Some(TenantResults {
                tenant,
                requests: own().count(),
                service: own().map(service).sum(),
                ttft: Summary::of(own().map(Record::ttft))?,
            })
        };
        Self {
            finished,
            refused: outcome.refused,
            seconds,
            requests_per_second: finished as f64 / seconds,
            output_tokens_per_second: output as f64 / seconds,
            slo_share: met as f64 / ((finished + outcome.refused) as f64).max(1.0),
            goodput: met as f64 / seconds,
            ttft: Summary::of(records.iter().map(Record::ttft)),
            tpot: Summary::of(records.iter().filter_map(Record::tpot)),
            itl: outcome.itl.summary(),
            e2e: Summary::of(records.iter().map(Record::e2e)),
            queueing: Summary::of(records.iter().map(Record::queueing)),
            steps: outcome.stats.steps,
            preemptions: outcome.stats.preemptions,
            recomputed_tokens: outcome.stats.recomputed_tokens,
            prefix_hit_share: outcome.stats.prefix_hit_tokens as f64 / (prompt as f64).max(1.0),
            kv_mean: outcome.kv.0,
            kv_peak: outcome.kv.1,
            jain: jain(records, outcome.seconds),
            tenants: if names.len() > 1 { names.iter().filter_map(tenant).collect() } else { Vec::new() },
        }
    }
}

/// Service of a request as the virtual token counter has it: input tokens once, output tokens twice.
fn service(record: &Record) -> u64 {
    u64::from(record.prompt) + 2 * u64::from(record.output)
}

/// Windows that fairness is looked at in.
pub const WINDOWS: usize = 60;

/// Service by tenant in each of [`WINDOWS`] equal parts of the run, and whether a request of the tenant waited all through
/// it. A prompt is served when its first token comes; output evenly from there to the end.
pub fn service_over_time(records: &[Record], seconds: f64) -> Vec<(u32, Vec<(f64, bool)>)> {
    let mut names: Vec<u32> = records.iter().map(|record| record.tenant).collect();
    names.sort_unstable();
    names.dedup();
    let width = seconds / WINDOWS as f64;
    let window = |time: f64| ((time / width) as usize).min(WINDOWS - 1);
    let mut result: Vec<_> = names.into_iter().map(|name| (name, vec![(0.0, false); WINDOWS])).collect();
    for record in records {
        let at = result.partition_point(|(name, _)| *name < record.tenant);
        let windows = &mut result[at].1;
        let (first, last) = (window(record.first_token), window(record.finished));
        windows[first].0 += f64::from(record.prompt);
        for (i, (served, _)) in windows.iter_mut().enumerate().take(last + 1).skip(first) {
            let (from, to) = (i as f64 * width, (i + 1) as f64 * width);
            let whole = record.finished - record.first_token;
            let part = to.min(record.finished) - from.max(record.first_token);
            let share = if whole > 0.0 { part / whole } else { 1.0 };
            *served += 2.0 * f64::from(record.output) * share.clamp(0.0, 1.0);
        }
        let waits =
            (record.arrival / width).ceil() as usize..((record.scheduled / width) as usize).min(WINDOWS);
        windows
            .iter_mut()
            .enumerate()
            .filter(|(i, _)| waits.contains(i))
            .for_each(|(_, window)| window.1 = true);
    }
    result
}

/// Jain's index, `(Σx)² / (n Σx²)`, of the service that tenants got, 1 if all alike; the mean over those windows in which
/// at least two tenants had requests waiting all the time, who alone compete. `None` if there are none.
///
/// Source: Jain, Chiu and Hawe, DEC-TR-301 (1984).
pub fn jain(records: &[Record], seconds: f64) -> Option<f64> {
    let tenants = service_over_time(records, seconds);
    if tenants.len() < 2 {
        return None;
    }
    let indices = (0..WINDOWS).filter_map(|window| {
        let served = tenants.iter().map(|(_, windows)| windows[window]).filter(|w| w.1).map(|w| w.0);
        let (n, sum, squares) =
            served.fold((0.0, 0.0, 0.0), |(n, sum, squares), x| (n + 1.0, sum + x, squares + x * x));
        (n >= 2.0 && squares > 0.0).then(|| sum * sum / (n * squares))
    });
    Summary::of(indices).map(|summary| summary.mean)
}

/// Mean and half the width of its 95% confidence interval (Student's t), which needs at least two values.
pub fn mean_ci(values: &[f64]) -> (f64, Option<f64>) {
    // Quantiles of t at 97.5% for 1 to 30 degrees of freedom.
    const T: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145,
        2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048,
        2.045, 2.042,
    ];
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    if values.len() < 2 {
        return (mean, None);
    }
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let t = T.get(values.len() - 2).copied().unwrap_or(1.96);
    (mean, Some(t * (variance / n).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(tenant: u32, times: [f64; 4], prompt: u32, output: u32) -> Record {
        let [arrival, scheduled, first_token, finished] = times;
        Record {
            request: 0,
            replica: 0,
            tenant,
            arrival,
            scheduled,
            first_token,
            finished,
            prompt,
            output,
            prefix_hit: 0,
            preemptions: 0,
        }
    }

    #[test]
    fn histograms_are_near_the_truth() {
        let mut histogram = Histogram::default();
        (1..=10_000).for_each(|i| histogram.add(f64::from(i) * 1e-4));
        let got = histogram.summary().unwrap();
        let want = Summary::of((1..=10_000).map(|i| f64::from(i) * 1e-4)).unwrap();
        approx::assert_relative_eq!(got.mean, want.mean, max_relative = 1e-9);
        for (got, want) in [(got.p50, want.p50), (got.p90, want.p90), (got.p99, want.p99)] {
            approx::assert_relative_eq!(got, want, max_relative = 0.003);
        }
        approx::assert_abs_diff_eq!(want.p50, 0.5001, epsilon = 1e-9);
        approx::assert_abs_diff_eq!(want.p99, 0.9901, epsilon = 1e-9);
        histogram.add(0.0);
        histogram.add(1e300);
    }

    #[test]
    fn an_slo_is_about_both_times() {
        let slo = Slo { ttft: 1.0, tpot: 0.1 };
        assert!(slo.met(&record(0, [1.0, 1.5, 2.0, 3.0], 5, 11)));
        assert!(!slo.met(&record(0, [1.0, 1.5, 2.1, 3.1], 5, 11)));
        assert!(!slo.met(&record(0, [1.0, 1.5, 2.0, 3.1], 5, 11)));
        assert!(slo.met(&record(0, [1.0, 1.5, 2.0, 2.0], 5, 1)));
    }

    #[test]
    fn jains_index_is_of_those_who_wait() {
        // Two tenants wait from the start to the end; one gets 300 of service a window, the other 100.
        let mut records: Vec<Record> = Vec::new();
        for i in 0..60 {
            let at = f64::from(i) + 0.5;
            records.push(record(0, [0.0, 60.0, at, at], 298, 1));
            records.push(record(1, [0.0, 60.0, at, at], 98, 1));
        }
        approx::assert_relative_eq!(jain(&records, 60.0).unwrap(), 0.8, max_relative = 1e-9);
        // A third who never waits does not count.
        records.push(record(2, [5.0, 5.0, 5.5, 6.0], 10, 1));
        approx::assert_relative_eq!(jain(&records, 60.0).unwrap(), 0.8, max_relative = 1e-9);
        assert_eq!(jain(&records[..1], 60.0), None);
    }

    #[test]
    fn confidence_intervals() {
        // scipy.stats.t.interval(0.95, 2, 2, 1/sqrt(3)): 2 ± 2.484
        let (mean, ci) = mean_ci(&[1.0, 2.0, 3.0]);
        assert_eq!(mean, 2.0);
        approx::assert_abs_diff_eq!(ci.unwrap(), 2.484, epsilon = 1e-3);
        assert_eq!(mean_ci(&[5.0]), (5.0, None));
    }
}
