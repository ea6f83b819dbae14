//! Runs requests to their end and notes when each token came.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Result, ensure};
use lathe::config::SamplingParams;
use lathe::engine::{Engine, Event, FinishReason, RequestId, RequestOptions, Stats};
use serde::Serialize;

use super::workload::Request;

/// What a run took, in seconds.
#[derive(Debug, Default)]
pub struct Measured {
    /// From the first request's arrival to the last token.
    pub seconds: f64,
    /// Tokens of the prompts.
    pub prompt_tokens: usize,
    /// Tokens that were generated.
    pub output_tokens: usize,
    /// For each request, from its arrival to its first token.
    pub ttft: Vec<f64>,
    /// For each request of more than one token, the mean time from one to the next.
    pub tpot: Vec<f64>,
    /// The time from each token of a request to its next.
    pub itl: Vec<f64>,
    /// What the engine counted.
    pub stats: Stats,
}

/// Queues all requests at once, end-of-sequence ignored, and runs them: token ids in and out, no text.
///
/// # Errors
/// If a request is refused, or ends otherwise than by its length.
pub fn measure(engine: &mut Engine, requests: &[Request], temperature: f32) -> Result<Measured> {
    let (before, start) = (engine.stats(), engine.now());
    let mut measured = Measured::default();
    for request in requests {
        let params = SamplingParams {
            temperature,
            ignore_eos: true,
            max_tokens: request.max_tokens,
            ..SamplingParams::default()
        };
        engine.add_request(&request.prompt, Arc::new(params), RequestOptions::default())?;
        measured.prompt_tokens += request.prompt.len();
    }
    let mut latest: HashMap<RequestId, f64> = HashMap::with_capacity(requests.len());
    let mut events: Vec<Event> = Vec::new();
    while !engine.is_finished() {
        events.clear();
        events.extend_from_slice(engine.step()?);
        let now = engine.now();
        for event in &events {
            let seq = engine.seq(event.id).expect("readable until the next step");
            match latest.insert(event.request, now) {
                Some(previous) => measured.itl.push(now - previous),
                None => measured.ttft.push(now - seq.timing.arrival),
            }
            let Some(finish) = event.finish else { continue };
            let (number, want) = (seq.id.number(), FinishReason::Length);
            ensure!(finish == want, "request {number} ended by {finish:?}, expected {want:?}");
            measured.output_tokens += seq.generated();
            if let (Some(first), 2..) = (seq.timing.first_token, seq.generated()) {
                measured.tpot.push((now - first) / (seq.generated() - 1) as f64);
            }
        }
    }
    measured.seconds = engine.now() - start;
    let after = engine.stats();
    measured.stats = Stats {
        steps: after.steps - before.steps,
        prefill_tokens: after.prefill_tokens - before.prefill_tokens,
        decode_tokens: after.decode_tokens - before.decode_tokens,
        recomputed_tokens: after.recomputed_tokens - before.recomputed_tokens,
        prefix_hit_tokens: after.prefix_hit_tokens - before.prefix_hit_tokens,
        sampled_tokens: after.sampled_tokens - before.sampled_tokens,
        preemptions: after.preemptions - before.preemptions,
        finished: after.finished - before.finished,
    };
    Ok(measured)
}

/// How a set of values is distributed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
}

impl Summary {
    /// Of `values`; `None` if there are none. Percentiles interpolate linearly, as numpy's.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |share: f64| {
            let place = share * last as f64;
            let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
            low + (high - low) * place.fract()
        };
        let mean = sorted.iter().sum::<f64>() / sorted.len() as f64;
        Some(Self { mean, p50: at(0.5), p90: at(0.9), p99: at(0.99) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_interpolate() {
        let values: Vec<f64> = (0..=10).rev().map(f64::from).collect();
        assert_eq!(Summary::of(&values), Some(Summary { mean: 5.0, p50: 5.0, p90: 9.0, p99: 9.9 }));
        assert_eq!(Summary::of(&[2.0]), Some(Summary { mean: 2.0, p50: 2.0, p90: 2.0, p99: 2.0 }));
        assert_eq!(Summary::of(&[]), None);
    }
}
