//! Log-probabilities: rows of every kind, the likeliest from none to all.

use lathe_reference::logprobs::logprobs;
use serde::{Deserialize, Serialize};

use super::{Bound, Cases, Draw, EPS, HostTensor, Kind, Problem, Target, Want, sum_error};
use crate::{
    device::{DType, Device},
    kernels::{Logprobs, LogprobsArgs},
};

/// A case of [`Logprobs`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogprobsCase {
    /// Tokens.
    pub vocab: usize,
    /// How many of the likeliest are told.
    pub top: usize,
    /// Final soft-cap.
    pub softcap: Option<f32>,
    /// Each row's logits.
    pub rows: Vec<Kind>,
    /// Of the values and the tokens.
    pub seed: u64,
}

/// Those whose values mean something, [`Kind::ALL`] but for the unusable.
const KINDS: [Kind; 10] = [
    Kind::Normal,
    Kind::Wide,
    Kind::Peaked,
    Kind::Flat,
    Kind::Tied,
    Kind::Masked,
    Kind::Gaps,
    Kind::One,
    Kind::Zeros,
    Kind::LongTail,
];

impl Cases for Logprobs {
    type Case = LogprobsCase;

    fn fixed() -> Vec<LogprobsCase> {
        let of = |vocab: usize, top: usize| {
            let softcap = (vocab % 2 == 1).then_some(8.0);
            LogprobsCase { vocab, top: top.min(vocab), softcap, rows: KINDS.to_vec(), seed: 3 }
        };
        let tops = [0, 1, 2, 20, 33, 1000, usize::MAX];
        [1, 7, 32, 33, 1023, 1024, 3001].into_iter().flat_map(|v| tops.map(|top| of(v, top))).collect()
    }

    fn random(draw: &mut Draw) -> LogprobsCase {
        let vocab = draw.size(9000);
        LogprobsCase {
            vocab,
            top: draw.size(64).min(vocab) * usize::from(!draw.one_in(4)),
            softcap: draw.one_in(3).then_some(30.0),
            rows: (0..draw.size(6)).map(|_| draw.pick(&KINDS)).collect(),
            seed: draw.seed(),
        }
    }

    fn fits(c: &LogprobsCase) -> bool {
        c.vocab > 0
            && c.top <= c.vocab
            && !c.rows.is_empty()
            && c.rows.iter().all(|kind| KINDS.contains(kind))
            && c.softcap.is_none_or(|cap| cap > 0.0)
    }

    fn seed(case: &mut LogprobsCase) -> &mut u64 {
        &mut case.seed
    }

    fn problem(c: &LogprobsCase) -> Problem {
        let (rows, told) = (c.rows.len(), 1 + c.top);
        let mut draw = Draw::new(c.seed);
        let (mut logits, mut tokens, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        let (mut values, mut budget) = (Vec::new(), Vec::new());
        for (r, kind) in c.rows.iter().enumerate() {
            let row = kind.logits(c.vocab, c.seed + r as u64);
            // Now and then a row without a token.
            let token = if r % 5 == 4 { -1 } else { draw.below(c.vocab) as i32 };
            let got = logprobs(&row, c.softcap, token, c.top);
            ids.push(got.rank as i32);
            ids.extend(got.top.iter().map(|&(id, _)| id as i32));
            let own = values.len();
            values.push(got.logprob as f32);
            values.extend(got.top.iter().map(|&(_, logprob)| logprob as f32));
            // A sum in f32 of exponentials, each good to 2 ulp and of a difference that is rounded, its logarithm (of a
            // sum that is at least 1, so that its error counts for at most what it is), and two subtractions. A
            // soft-cap is good to 6 ulp of itself, in the token, in the largest and in the sum.
            let cap = f64::from(c.softcap.unwrap_or(0.0));
            let shared = sum_error(c.vocab) + (8.0 + 18.0 * cap + 2.0 * (c.vocab as f64).ln()) * EPS;
            budget.extend(values[own..].iter().map(|&v| shared + 4.0 * f64::from(v.abs().min(1e30)) * EPS));
            logits.extend(row);
            tokens.push(token);
        }
        let float = Want::Float(Target::new(values, |i| budget[i]));
        Problem {
            tensors: vec![
                HostTensor::float("logits", DType::F32, logits, &[rows, c.vocab]),
                HostTensor::int("tokens", tokens),
                HostTensor::output("values", DType::F32, &[rows, told], float),
                HostTensor::output("ids", DType::I32, &[rows, told], Want::Int(ids)),
            ],
        }
    }

    fn args<'a, D: Device>(c: &'a LogprobsCase, mut t: Bound<'a, D>) -> LogprobsArgs<'a, D> {
        LogprobsArgs {
            logits: t.view("logits"),
            tokens: t.view("tokens"),
            softcap: c.softcap,
            values: t.out("values"),
            ids: t.out("ids"),
        }
    }
}
