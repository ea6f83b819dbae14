//! Log-probabilities of a model's logits: of a chosen token, with its rank, and of the likeliest tokens.
//!
//! Source: vLLM's `logprobs` (log-softmax of the logits before any processing; the rank counts the tokens that are at
//! least as likely). The final soft-cap is part of the model, and keeps the order.

use crate::sampling::log_softmax;

/// What is told of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// The token's, or minus infinity if it is none.
    pub logprob: f64,
    /// How many tokens are at least as likely as the token, itself included; 0 if it is none.
    pub rank: usize,
    /// The likeliest tokens (of equal ones those with the lowest ids), by ascending id.
    pub top: Vec<(usize, f64)>,
}

/// Of a row of logits `[vocab]`. Panics if `top` is above `vocab`.
pub fn logprobs(logits: &[f32], softcap: Option<f32>, token: i32, top: usize) -> Logprobs {
    let capped = |&l: &f32| softcap.map_or(l, |cap| cap * (l / cap).tanh());
    let all = log_softmax(&logits.iter().map(capped).collect::<Vec<_>>());
    let own = usize::try_from(token).ok().filter(|&token| token < logits.len());
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| (logits[b] + 0.0).total_cmp(&(logits[a] + 0.0)));
    let mut likeliest = order[..top].to_vec();
    likeliest.sort_unstable();
    Logprobs {
        logprob: own.map_or(f64::NEG_INFINITY, |token| all[token]),
        rank: own.map_or(0, |token| logits.iter().filter(|&&l| l >= logits[token]).count()),
        top: likeliest.into_iter().map(|i| (i, all[i])).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_ties_and_lower_ids_come_first_among_equals() {
        let logits = [0.0, 2.0f32.ln(), 2.0f32.ln(), 5.0f32.ln()];
        let got = logprobs(&logits, None, 2, 2);
        assert_eq!((got.rank, got.top.len()), (3, 2));
        for ((id, logprob), (want, share)) in got.top.into_iter().zip([(1, 0.2f64), (3, 0.5)]) {
            assert_eq!(id, want);
            assert!((logprob - share.ln()).abs() < 1e-7, "{logprob}");
        }
        assert!((got.logprob - 0.2f64.ln()).abs() < 1e-7);
        let none = logprobs(&[-0.0, 0.0], None, -1, 1);
        assert_eq!((none.logprob, none.rank, none.top[0].0), (f64::NEG_INFINITY, 0, 0));
    }

    #[test]
    fn a_soft_cap_is_part_of_the_model() {
        let got = logprobs(&[100.0, 0.0], Some(1.0), 0, 0);
        assert!((got.logprob + (1.0 + (-1.0f64).exp()).ln()).abs() < 1e-7, "{got:?}");
    }
}
