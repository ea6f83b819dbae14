//! Logits processing: rows that ask for nothing, for one thing and for everything, next to each other.

use lathe_reference::logits::{LogitsParams, process};
use serde::{Deserialize, Serialize};

use super::{Bound, Cases, Draw, EPS, HostTensor, Problem, Target, Want, noise};
use crate::{
    device::{DType, Device},
    kernels::{Logits, LogitsArgs},
};

/// A case of [`Logits`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogitsCase {
    /// Tokens.
    pub vocab: usize,
    /// Final soft-cap.
    pub softcap: Option<f32>,
    /// What each row asks for.
    pub rows: Vec<LogitsRow>,
    /// Of the values.
    pub seed: u64,
}

/// A row of a [`LogitsCase`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogitsRow {
    /// Temperature, min_p, repetition, frequency and presence penalty.
    pub params: [f32; 5],
    /// Tokens of its history.
    pub history: usize,
    /// Tokens with a bias, one of them banned.
    pub biases: usize,
    /// Whether one of its logits is NaN.
    pub nan: bool,
    /// Whether one of its logits is minus infinity.
    pub masked: bool,
}

/// Temperature, min_p and penalties.
const PARAMS: [[f32; 5]; 8] = [
    [1.0, 0.0, 1.0, 0.0, 0.0],
    [0.0, 0.5, 1.0, 0.0, 0.0],
    [0.6, 0.0, 1.0, 0.0, 0.0],
    [1.0, 0.05, 1.0, 0.0, 0.0],
    [0.7, 0.1, 1.3, 0.2, -0.4],
    [0.0, 0.0, 0.8, 0.0, 1.5],
    [2.0, 1.0, 1.1, 0.0, 0.0],
    [1.3, 0.02, 1.0, 0.5, 0.0],
];

impl Cases for Logits {
    type Case = LogitsCase;

    fn fixed() -> Vec<LogitsCase> {
        let mut cases = Vec::new();
        for (vocab, softcap) in
            [(33, None), (1000, None), (4099, Some(30.0)), (129, Some(5.0)), (32_000, None)]
        {
            let rows = (0..if vocab > 10_000 { 3 } else { PARAMS.len() }).map(|r| LogitsRow {
                params: PARAMS[r],
                history: if r % 3 == 1 || r == 6 { 17 } else { 0 },
                biases: if r % 2 == 0 { 3 } else { 0 },
                nan: r == 7,
                masked: r == 0,
            });
            cases.push(LogitsCase { vocab, softcap, rows: rows.collect(), seed: 7 });
        }
        // One row of each kind alone: nothing else hides it.
        cases.extend(PARAMS.into_iter().enumerate().map(|(r, params)| LogitsCase {
            vocab: 129,
            softcap: None,
            rows: vec![LogitsRow {
                params,
                history: 20 * (r % 2),
                biases: r / 2 % 2,
                nan: false,
                masked: false,
            }],
            seed: 7,
        }));
        cases
    }

    fn random(draw: &mut Draw) -> LogitsCase {
        let vocab = draw.size(5000).max(8);
        let rows = (0..draw.size(8)).map(|_| LogitsRow {
            params: draw.pick(&PARAMS),
            history: if draw.one_in(2) { draw.below(vocab.min(300)) } else { 0 },
            biases: if draw.one_in(2) { draw.below(8) } else { 0 },
            nan: draw.one_in(12),
            masked: draw.one_in(4),
        });
        let rows = rows.collect();
        LogitsCase {
            vocab,
            softcap: draw.one_in(3).then(|| draw.pick(&[5.0, 30.0])),
            rows,
            seed: draw.seed(),
        }
    }

    fn fits(c: &LogitsCase) -> bool {
        let row = |r: &LogitsRow| {
            r.history <= c.vocab && r.biases <= c.vocab && r.params[2] > 0.0 && r.params[0] >= 0.0
        };
        c.vocab > 0 && !c.rows.is_empty() && c.rows.iter().all(row) && c.softcap.is_none_or(|cap| cap > 0.0)
    }

    fn seed(case: &mut LogitsCase) -> &mut u64 {
        &mut case.seed
    }

    fn problem(c: &LogitsCase) -> Problem {
        let (rows, vocab) = (c.rows.len(), c.vocab);
        let mut logits = noise(DType::F32, c.seed, rows * vocab, 4.0);
        let mut draw = Draw::new(c.seed + 1);
        let (mut ids, mut counts, mut starts) = (Vec::new(), Vec::new(), vec![0]);
        let (mut bias_ids, mut bias_values, mut bias_starts) = (Vec::new(), Vec::new(), vec![0]);
        for (row, logits) in c.rows.iter().zip(logits.chunks_exact_mut(vocab)) {
            if row.nan {
                logits[draw.below(vocab)] = f32::NAN;
            }
            if row.masked {
                logits[draw.below(vocab)] = f32::NEG_INFINITY;
            }
            ids.extend(distinct(&mut draw, vocab, row.history));
            counts.extend((0..row.history).map(|_| draw.below(4) as i32));
            starts.push(ids.len() as i32);
            bias_ids.extend(distinct(&mut draw, vocab, row.biases));
            bias_values.extend((0..row.biases).map(|i| [-0.25, f32::NEG_INFINITY, 3.5][i % 3]));
            bias_starts.push(bias_ids.len() as i32);
        }
        let mut want = logits.clone();
        for (r, (row, want)) in c.rows.iter().zip(want.chunks_exact_mut(vocab)).enumerate() {
            let seen = starts[r] as usize..starts[r + 1] as usize;
            let output: Vec<i32> =
                seen.clone().flat_map(|i| std::iter::repeat_n(ids[i], counts[i] as usize)).collect();
            let own = bias_starts[r] as usize..bias_starts[r + 1] as usize;
            let logit_bias: Vec<(i32, f32)> = own.map(|i| (bias_ids[i], bias_values[i])).collect();
            let [temperature, min_p, repetition_penalty, frequency_penalty, presence_penalty] = row.params;
            let params = LogitsParams {
                softcap: c.softcap,
                logit_bias: &logit_bias,
                suppress: &[],
                prompt: &ids[seen],
                output: &output,
                repetition_penalty,
                frequency_penalty,
                presence_penalty,
                temperature,
                min_p,
            };
            process(want, &params);
        }
        // Every step is one f32 operation but the soft-cap: 4 ulp of tanh, two roundings, then the other steps'
        // amplification (at most 1 / 0.6, a penalty of 1.3).
        let target = Target::new(want, |_| 16.0 * f64::from(c.softcap.unwrap_or(0.0)) * EPS);
        let params = c.rows.iter().flat_map(|r| r.params).collect();
        let biased = [bias_values.len()];
        Problem {
            tensors: vec![
                HostTensor::float("params", DType::F32, params, &[rows, 5]),
                HostTensor::int("history_start", starts),
                HostTensor::int("history_ids", ids),
                HostTensor::int("history_counts", counts),
                HostTensor::int("bias_start", bias_starts),
                HostTensor::int("bias_ids", bias_ids),
                HostTensor::float("bias_values", DType::F32, bias_values, &biased),
                HostTensor::float("logits", DType::F32, logits, &[rows, vocab]).wanted(Want::Float(target)),
            ],
        }
    }

    fn args<'a, D: Device>(c: &'a LogitsCase, mut t: Bound<'a, D>) -> LogitsArgs<'a, D> {
        LogitsArgs {
            logits: t.out("logits"),
            params: t.view("params"),
            history_start: t.view("history_start"),
            history_ids: t.view("history_ids"),
            history_counts: t.view("history_counts"),
            bias_start: t.view("bias_start"),
            bias_ids: t.view("bias_ids"),
            bias_values: t.view("bias_values"),
            softcap: c.softcap,
        }
    }
}

/// `n` different tokens.
fn distinct(draw: &mut Draw, vocab: usize, n: usize) -> Vec<i32> {
    let mut left: Vec<i32> = (0..vocab as i32).collect();
    (0..n).map(|_| left.swap_remove(draw.below(left.len()))).collect()
}
