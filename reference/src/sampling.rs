//! From a row of processed logits to a token: temperature, the exact support and probabilities, and the draws.
//!
//! Source: top-k and top-p as `TopKLogitsWarper` and `TopPLogitsWarper` of Hugging Face's `logits_process.py`,
//! ties and boundaries included; nucleus sampling, arXiv:1904.09751. Rows are usable in the sense of
//! [`is_unusable`](crate::logits::is_unusable).

use crate::gumbel::gumbel;
use crate::philox::{Stream, uniform, word};

/// Divides a row `[vocab]` by the temperature, which is positive: one f32 operation a logit, as in Hugging Face's
/// `TemperatureLogitsWarper`.
pub fn temper(row: &mut [f32], temperature: f32) {
    for l in row {
        *l /= temperature;
    }
}

/// The probabilities of a row `[vocab]`; -inf gets 0.
pub fn softmax(logits: &[f32]) -> Vec<f64> {
    log_softmax(logits).into_iter().map(f64::exp).collect()
}

/// The natural logarithms of the probabilities of a row `[vocab]`; -inf stays.
pub fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let log_total = logits.iter().map(|&l| (f64::from(l) - max).exp()).sum::<f64>().ln();
    logits.iter().map(|&l| f64::from(l) - max - log_total).collect()
}

/// The most likely token; the lowest index wins ties.
pub fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (i, &l) in logits.iter().enumerate() {
        if l > logits[best] {
            best = i;
        }
    }
    best
}

/// The probabilities `[vocab]` that top-k and then top-p leave, renormalised; 0 outside the support.
///
/// - `top_k`: tokens with less than the k-th largest logit go; ties with it stay. 0: off
/// - `top_p`: in ascending order, ties by index, tokens go while the running sum of their probabilities is at
///   most [`top_p_tail`]; the last one stays. 1: off
///
/// The running sum is compared as transformers has it: probabilities rounded to f32, summed in f64, the sum
/// rounded to f32. So a sum that meets the tail exactly (equal logits do) is judged the same. Where top-p parts
/// equal logits, the lower indices go, as under any stable sort; `torch.sort` on a CPU is not stable, so there
/// transformers keeps the same number of them but not always the same ones.
pub fn support(logits: &[f32], top_k: usize, top_p: f64) -> Vec<f64> {
    let mut kept = logits.to_vec();
    let mut ascending: Vec<usize> = (0..kept.len()).collect();
    ascending.sort_by(|&a, &b| kept[a].partial_cmp(&kept[b]).expect("logits have no NaN")); // stable

    if (1..kept.len()).contains(&top_k) {
        let kth = kept[ascending[kept.len() - top_k]];
        for l in kept.iter_mut().filter(|l| **l < kth) {
            *l = f32::NEG_INFINITY;
        }
    }
    if top_p < 1.0 {
        let probs = softmax(&kept);
        let mut sum = 0.0;
        for &i in &ascending[..kept.len() - 1] {
            sum += f64::from(probs[i] as f32);
            if sum as f32 <= top_p_tail(top_p) {
                kept[i] = f32::NEG_INFINITY;
            }
        }
    }
    softmax(&kept)
}

/// The probability that top-p may cut off: `1 - top_p`, rounded to f32.
#[inline]
pub fn top_p_tail(top_p: f64) -> f32 {
    (1.0 - top_p) as f32
}

/// One draw by the Gumbel-max trick: the argmax over the support of `logits[i] + noise(i)`, one f32 add; the
/// lowest index wins ties.
///
/// - `logits`: `[vocab]`; `probs`: `[vocab]`, of which only the support (> 0) matters
/// - noise: [`gumbel`] of the [`word`] at index `i` of [`Stream::Gumbel`] for `seed` and `position`
///
/// Every operation is exact or correctly rounded, so a kernel given the same logits must return this token.
pub fn draw_gumbel(logits: &[f32], probs: &[f64], seed: u64, position: u32) -> usize {
    let noisy: Vec<f32> = (0..logits.len())
        .map(|i| {
            if probs[i] > 0.0 {
                logits[i] + gumbel(word(seed, position, Stream::Gumbel, i as u32))
            } else {
                f32::NEG_INFINITY
            }
        })
        .collect();
    argmax(&noisy)
}

/// One draw by inverting the distribution function: the first token, in index order over the support, at which
/// the running sum of `probs` exceeds `u * Σ probs`.
///
/// - `probs`: `[vocab]`; `u`: [`uniform`] of word 0 of [`Stream::Inverse`] for `seed` and `position`
///
/// A kernel that sums in another order or precision may differ where `u` lies within its rounding error of a
/// step.
pub fn draw_inverse(probs: &[f64], seed: u64, position: u32) -> usize {
    invert(probs, uniform(word(seed, position, Stream::Inverse, 0)))
}

fn invert(probs: &[f64], u: f64) -> usize {
    let target = u * probs.iter().sum::<f64>();
    let mut sum = 0.0;
    let mut last = 0;
    for (i, &p) in probs.iter().enumerate().filter(|&(_, &p)| p > 0.0) {
        sum += p;
        last = i;
        if sum > target {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    const INF: f32 = f32::INFINITY;

    /// The indices of the support.
    fn kept(logits: &[f32], top_k: usize, top_p: f64) -> Vec<usize> {
        let probs = support(logits, top_k, top_p);
        assert!((probs.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        (0..probs.len()).filter(|&i| probs[i] > 0.0).collect()
    }

    /// Logits of the probabilities 0.1, 0.4, 0.2, 0.3.
    fn tenths() -> [f32; 4] {
        [0.1, 0.4, 0.2, 0.3].map(f32::ln)
    }

    #[test]
    fn temperature_divides() {
        let mut row = [6.0, -4.0, 0.0, -INF];
        temper(&mut row, 0.5);
        assert_eq!(row, [12.0, -8.0, 0.0, -INF]);
    }

    #[test]
    fn softmax_by_hand() {
        assert_eq!(softmax(&[0.0, 0.0, -INF, 0.0, 0.0]), [0.25, 0.25, 0.0, 0.25, 0.25]);
        let shifted = softmax(&[1000.0, 1000.0 + 2f32.ln()]);
        assert!((shifted[1] - 2.0 / 3.0).abs() < 1e-4, "{shifted:?}");
        assert_eq!(log_softmax(&[5.0]), [0.0]);
        assert_eq!(log_softmax(&[0.0, -INF]), [0.0, f64::NEG_INFINITY]);
    }

    #[test]
    fn argmax_takes_the_lowest_index_of_a_tie() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(argmax(&[-INF, -5.0, -INF]), 1);
    }

    #[test]
    fn top_k_keeps_ties_with_the_last_place() {
        assert_eq!(kept(&[1.0, 3.0, 2.0, 2.0, 0.0], 2, 1.0), [1, 2, 3]);
        assert_eq!(kept(&[1.0, 3.0, 2.0, 2.0, 0.0], 1, 1.0), [1]);
        assert_eq!(kept(&[1.0, 3.0], 0, 1.0), [0, 1]);
        assert_eq!(kept(&[1.0, 3.0], 9, 1.0), [0, 1]);
    }

    #[test]
    fn top_p_keeps_the_token_that_crosses_the_boundary() {
        assert_eq!(kept(&tenths(), 0, 0.65), [1, 3]);
        assert_eq!(kept(&tenths(), 0, 0.75), [1, 2, 3]);
        assert_eq!(kept(&tenths(), 0, 0.05), [1]);
        assert_eq!(kept(&tenths(), 0, 1.0), [0, 1, 2, 3]);
    }

    #[test]
    fn top_p_parts_ties_by_index_and_drops_a_sum_equal_to_the_tail() {
        assert_eq!(kept(&[1.0; 4], 0, 0.5), [2, 3]);
        assert_eq!(kept(&[0.0, 7.0, 7.0, -0.0], 0, 0.2), [2]);
    }

    #[test]
    fn top_p_over_equal_logits_keeps_as_many_as_transformers() {
        // Counts from TopPLogitsWarper (transformers 5.23.0) at top_p 0.1, 0.2, … 0.9. The sums meet the tail or
        // nearly; in f64 arithmetic 10 tokens at 0.9 would keep 10, since there 0.1 > 1 - 0.9.
        for (n, want) in [
            (2, [1, 1, 1, 1, 1, 2, 2, 2, 2]),
            (5, [1, 1, 2, 2, 3, 3, 4, 4, 5]),
            (10, [2, 2, 3, 4, 5, 6, 7, 8, 9]),
            (20, [3, 4, 6, 8, 10, 12, 14, 16, 18]),
            (100, [10, 20, 30, 40, 50, 60, 70, 80, 90]),
        ] {
            let got = [1, 2, 3, 4, 5, 6, 7, 8, 9].map(|j| kept(&vec![0.0; n], 0, f64::from(j) / 10.0).len());
            assert_eq!(got, want, "{n} tokens");
        }
    }

    #[test]
    fn top_p_sees_the_renormalised_top_k() {
        // Top-2 leaves 4/7 and 3/7; 3/7 <= 1 - 0.55 goes. Without top-k 0.55 keeps both.
        assert_eq!(kept(&tenths(), 0, 0.55), [1, 3]);
        assert_eq!(kept(&tenths(), 2, 0.55), [1]);
    }

    #[test]
    fn probabilities_are_renormalised() {
        let probs = support(&tenths(), 2, 1.0);
        assert!((probs[1] - 4.0 / 7.0).abs() < 1e-7 && (probs[3] - 3.0 / 7.0).abs() < 1e-7, "{probs:?}");
    }

    #[test]
    fn inverse_by_hand() {
        let probs = [0.0, 0.25, 0.0, 0.5, 0.25, 0.0];
        for (u, want) in [(1e-9, 1), (0.24, 1), (0.25, 3), (0.74, 3), (0.75, 4), (1.0 - 1e-12, 4)] {
            assert_eq!(invert(&probs, u), want, "u = {u}");
        }
    }

    /// Pearson's chi-squared of `draws` against `probs`, over tokens with p > 0; others must not occur.
    fn chi_squared(probs: &[f64], draws: impl Iterator<Item = usize>) -> f64 {
        let mut count = vec![0u32; probs.len()];
        draws.for_each(|token| count[token] += 1);
        let n = f64::from(count.iter().sum::<u32>());
        probs
            .iter()
            .zip(count)
            .map(|(&p, c)| {
                assert!(p > 0.0 || c == 0, "drew a token outside the support");
                if p > 0.0 { (f64::from(c) - n * p).powi(2) / (n * p) } else { 0.0 }
            })
            .sum()
    }

    #[test]
    fn draws_follow_the_distribution_over_positions_and_over_seeds() {
        let logits = [0.5, -1.0, 2.0, 1.0, -3.0, 1.5, 0.0, 1.0, -0.5];
        let probs = support(&logits, 6, 0.97);
        let n = 40_000;
        // At most 5 degrees of freedom: above 25.7 with probability 1e-4. The draws are fixed, so is the result.
        for (name, x) in [
            ("gumbel, positions", chi_squared(&probs, (0..n).map(|t| draw_gumbel(&logits, &probs, 1, t)))),
            ("gumbel, seeds", chi_squared(&probs, (0..n).map(|s| draw_gumbel(&logits, &probs, s.into(), 9)))),
            ("inverse, positions", chi_squared(&probs, (0..n).map(|t| draw_inverse(&probs, 1, t)))),
            ("inverse, seeds", chi_squared(&probs, (0..n).map(|s| draw_inverse(&probs, s.into(), 9)))),
        ] {
            assert!(x < 25.7, "{name}: chi-squared {x}");
        }
    }

    #[test]
    fn a_flat_vocabulary_is_drawn_evenly() {
        // 16 bins of 128 tokens: 15 degrees of freedom, above 44.3 with probability 1e-4.
        let (logits, probs) = (vec![0.0; 2048], vec![1.0 / 2048.0; 2048]);
        let x = chi_squared(&[1.0 / 16.0; 16], (0..2_000).map(|t| draw_gumbel(&logits, &probs, 5, t) / 128));
        assert!(x < 44.3, "chi-squared {x}");
    }

    #[test]
    fn only_the_supported_token_is_drawn() {
        let probs = [0.0, 0.0, 1.0];
        for position in 0..100 {
            assert_eq!(draw_gumbel(&[50.0, 50.0, -50.0], &probs, 3, position), 2);
            assert_eq!(draw_inverse(&probs, 3, position), 2);
        }
    }
}
