//! Samplers with random numbers of their own: the check cannot know their tokens, the certificate judges their draws.

use lathe::{
    kernels::{Sample, SampleArgs},
    lab::certificate::{ALPHA, Certificate},
};
use lathe_reference::{
    philox::{Stream, uniform, word},
    sampling::{support, temper},
};

use crate::{
    kernel,
    wild::{Raw, Wild, ints},
};

/// A row as a sampler sees it.
struct Row<'a> {
    logits: &'a [f32],
    top_k: usize,
    top_p: f64,
    seed: u64,
    position: u32,
}

/// The certificate of a sampler that draws by inverting the distribution function of what `probs` gives, at a place
/// that `place` gives.
fn certify(probs: fn(&Row<'_>) -> Vec<f64>, place: fn(&Row<'_>) -> f64) -> Certificate {
    let sampler = kernel::<Sample>("inverse", move |a: SampleArgs<'_, Wild>| {
        let (logits, tails, params) =
            (Raw::of(&a.logits), a.top_p_tail.to_vec::<f32>(&Wild)?, ints(&a.params));
        let (width, mut logits) = (logits.row(), logits.values());
        for (row, t) in logits.chunks_exact_mut(width).zip(a.temperature.to_vec::<f32>(&Wild)?) {
            temper(row, t);
        }
        let tokens = logits.chunks_exact(width).zip(tails.iter().zip(params.as_chunks::<5>().0)).map(
            |(logits, (tail, &[_, top_k, seed, _, position]))| {
                let top_p = 1.0 - f64::from(*tail);
                let (top_k, seed, position) = (top_k as usize, seed as u64, position as u32);
                let row = Row { logits, top_k, top_p, seed, position };
                let probs = probs(&row);
                let mut left = place(&row) * probs.iter().sum::<f64>();
                let crosses = |p: &f64| {
                    left -= p;
                    left < 0.0
                };
                let last = probs.iter().rposition(|p| *p > 0.0).unwrap();
                probs.iter().position(crosses).unwrap_or(last) as f32
            },
        );
        Raw::out(&a.out).fill(&tokens.collect::<Vec<_>>())
    });
    Certificate::of(&Wild, &sampler).unwrap()
}

fn right(row: &Row<'_>) -> Vec<f64> {
    support(row.logits, row.top_k, row.top_p)
}

fn random(row: &Row<'_>) -> f64 {
    uniform(word(row.seed, row.position, Stream::Inverse, 0))
}

#[test]
fn a_sampler_with_other_random_numbers_is_right() {
    let c = certify(right, random);
    assert_eq!(c.fault, None);
    assert_eq!((c.settings, c.draws), (40, 163_840));
    assert!(c.tests > 300 && c.smallest_p >= c.bonferroni && c.uniform_p >= ALPHA, "{c:?}");
}

#[test]
fn wrong_samplers_are_found_out() {
    let fault = |probs, place| certify(probs, place).fault.expect("a fault");
    // Top-p without the token that crosses the boundary, and with one more.
    let few = fault(
        |row| {
            let mut probs = right(row);
            let kept = (0..probs.len()).filter(|&t| probs[t] > 0.0);
            let least = kept.min_by(|&a, &b| probs[a].total_cmp(&probs[b])).unwrap();
            if row.top_p < 1.0 && probs[least] < 1.0 {
                probs[least] = 0.0;
            }
            probs
        },
        random,
    );
    assert!(few.contains("is never drawn") && few.contains("top_p: 0.8"), "{few}");
    let many = fault(|row| support(row.logits, row.top_k, row.top_p + 0.1), random);
    assert!(many.contains("outside the support"), "{many}");
    let temperature = fault(
        |row| {
            let warm: Vec<f64> = right(row).iter().map(|p| p.powf(1.1)).collect();
            let total: f64 = warm.iter().sum();
            warm.iter().map(|p| p / total).collect()
        },
        random,
    );
    assert!(temperature.contains("right sampler") || temperature.contains("uniform"), "{temperature}");
    let stuck = fault(right, |row| uniform(word(row.seed, 0, Stream::Inverse, 0)));
    assert!(stuck.contains("right sampler") || stuck.contains("never drawn"), "{stuck}");
    // Each frequency is right, but a token tells of the next one.
    let pairs = fault(right, |row| uniform(word(row.seed / 2, row.position / 2, Stream::Inverse, 0)));
    assert!(pairs.contains("right sampler"), "{pairs}");
}
