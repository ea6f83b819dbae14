//! Log-probabilities from logits, on the host.

use super::sequence::TokenLogprobs;

/// The log-probability and rank of `token`, and those of the `top` likeliest tokens (lower id first among equals),
/// under the softmax of `logits`.
pub fn token_logprobs(logits: &[f32], token: u32, top: usize) -> TokenLogprobs {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&v| f64::from(v - max).exp()).sum();
    let norm = f64::from(max) + sum.ln();
    let logprob = |v: f32| (f64::from(v) - norm) as f32;
    let own = logits[token as usize];
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let likelier = |&a: &u32, &b: &u32| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b));
    if top < order.len() {
        order.select_nth_unstable_by(top, likelier);
        order.truncate(top);
    }
    order.sort_unstable_by(likelier);
    TokenLogprobs {
        logprob: logprob(own),
        rank: logits.iter().filter(|&&v| v >= own).count() as u32,
        top: order.into_iter().map(|t| (t, logprob(logits[t as usize]))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likeliest_first_and_ranks_count_ties() {
        let logits = [0.0, 2.0f32.ln(), 2.0f32.ln(), 5.0f32.ln()];
        let got = token_logprobs(&logits, 2, 3);
        assert_eq!((got.rank, got.top.iter().map(|t| t.0).collect::<Vec<_>>()), (3, vec![3, 1, 2]));
        approx::assert_abs_diff_eq!(got.logprob, 0.2f32.ln(), epsilon = 1e-6);
        approx::assert_abs_diff_eq!(got.top[0].1, 0.5f32.ln(), epsilon = 1e-6);
        assert_eq!(token_logprobs(&logits, 0, 0).top, []);
    }
}
