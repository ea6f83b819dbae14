//! Sampling: the oracle's token for every row. Every operation of a draw is exact or correctly rounded, so there is
//! one right token.

use lathe_reference::{
    logits::is_unusable,
    sampling::{argmax, draw_gumbel, support, temper, top_p_tail},
};
use serde::{Deserialize, Serialize};

use super::{Bound, Cases, Draw, HostTensor, Problem, Want, noise};
use crate::{
    device::{DType, Device},
    error::Result,
    kernels::{Sample, SampleArgs, SampleSpec, Slot},
    lab::certificate::Certificate,
};

/// A case of [`Sample`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleCase {
    /// Tokens.
    pub vocab: usize,
    /// What each row asks for.
    pub rows: Vec<SampleRow>,
    /// Of the logits.
    pub seed: u64,
}

/// A row of a [`SampleCase`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleRow {
    /// How its logits are distributed.
    pub kind: Kind,
    /// The most likely token.
    pub greedy: bool,
    /// Divides the logits, unless greedy.
    pub temperature: f32,
    /// 0 is off.
    pub top_k: i32,
    /// 1 is off.
    pub top_p: f64,
    /// Of the random numbers.
    pub key: u64,
    /// Of the new token.
    pub position: i32,
}

/// How a row's logits are distributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Normal, of standard deviation 1.
    Normal,
    /// Normal, of standard deviation 6.
    Wide,
    /// One token 30 above the others.
    Peaked,
    /// All equal.
    Flat,
    /// Rounded to integers: many ties.
    Tied,
    /// Most of them masked.
    Masked,
    /// A few far apart, most at -1e9.
    Gaps,
    /// All but one masked.
    One,
    /// Zeros of both signs and two sevens.
    Zeros,
    /// As a language model's: falling as a power of the rank.
    LongTail,
    /// One NaN: unusable.
    Nan,
    /// One plus infinity: unusable.
    Infinite,
    /// All masked: unusable.
    Empty,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Normal,
        Self::Wide,
        Self::Peaked,
        Self::Flat,
        Self::Tied,
        Self::Masked,
        Self::Gaps,
        Self::One,
        Self::Zeros,
        Self::LongTail,
        Self::Nan,
        Self::Infinite,
        Self::Empty,
    ];

    /// A row of `vocab` logits.
    pub fn logits(self, vocab: usize, seed: u64) -> Vec<f32> {
        let inf = f32::INFINITY;
        let normal = |deviation| noise(DType::F32, seed, vocab, deviation);
        let map =
            |deviation, f: &dyn Fn(f32) -> f32| normal(deviation).into_iter().map(f).collect::<Vec<_>>();
        let set = |mut row: Vec<f32>, pairs: &[(usize, f32)]| {
            pairs.iter().for_each(|&(i, v)| row[i % vocab] = v);
            row
        };
        match self {
            Self::Normal => normal(1.0),
            Self::Wide => normal(6.0),
            Self::Peaked => set(normal(3.0), &[(5, 30.0)]),
            Self::Flat => vec![0.0; vocab],
            Self::Tied => map(2.0, &f32::round),
            Self::Masked => map(2.0, &|v| if v < 1.0 { -inf } else { v }),
            Self::Gaps => map(1.0, &|v| if v < 0.5 { -1e9 } else { v * 100.0 }),
            Self::One => set(vec![-inf; vocab], &[(7, 3.0)]),
            Self::Zeros => set(map(1.0, &|v| v * 0.0), &[(1, -0.0), (3, 7.0), (4, 7.0)]),
            Self::LongTail => {
                // Ranks in a scattered order; an odd factor and a power of two visit each once.
                let rank = |i: usize| (i * 40_503 + 11) % vocab.next_power_of_two();
                (0..vocab).map(|i| -1.1 * ((rank(i) + 1) as f32).ln()).collect()
            }
            Self::Nan => set(normal(1.0), &[(2, f32::NAN)]),
            Self::Infinite => set(normal(1.0), &[(vocab - 1, inf)]),
            Self::Empty => vec![-inf; vocab],
        }
    }
}

impl SampleRow {
    /// The right token for these logits.
    pub fn token(&self, logits: &[f32]) -> i32 {
        let mut logits = logits.to_vec();
        if !self.greedy {
            temper(&mut logits, self.temperature);
        }
        if is_unusable(&logits) {
            -1
        } else if self.greedy {
            argmax(&logits) as i32
        } else {
            let probs = support(&logits, self.top_k as usize, self.top_p);
            draw_gumbel(&logits, &probs, self.key, self.position as u32) as i32
        }
    }

    /// `[5]`, as [`SampleArgs::params`] has it.
    pub fn params(&self) -> [i32; 5] {
        [self.greedy.into(), self.top_k, self.key as i32, (self.key >> 32) as i32, self.position]
    }
}

/// Temperatures: as is, and where divisions round, make ties, and overflow (`Gaps` at the last one).
const TEMPERATURES: [f32; 5] = [1.0, 0.6, 0.8, 1.3, 1e-37];

/// Top-k and top-p.
const CUTS: [(i32, f64); 13] = [
    (0, 1.0),
    (1, 1.0),
    (2, 1.0),
    (50, 1.0),
    (100_000, 1.0),
    (0, 0.9),
    (0, 0.5),
    (0, 0.05),
    (0, 0.999_999),
    (0, 1e-9),
    (40, 0.8),
    (3, 0.3),
    (600, 0.95),
];

impl Cases for Sample {
    type Case = SampleCase;

    fn fixed() -> Vec<SampleCase> {
        let mut cases = Vec::new();
        for vocab in [1, 2, 7, 33, 129, 1000, 5003] {
            let row = |(i, kind): (usize, Kind), (top_k, top_p), c: usize| SampleRow {
                kind,
                greedy: (i + c) % 7 == 3,
                temperature: if (i + c) % 7 == 3 {
                    0.0
                } else {
                    TEMPERATURES[(i + 2 * c) % TEMPERATURES.len()]
                },
                top_k,
                top_p,
                key: 0x1234_5678_9abc << 8 | (i * 64 + c) as u64,
                position: (31 * i + c) as i32,
            };
            let kinds = || Kind::ALL.into_iter().enumerate();
            // Plain rows alone, greedy rows alone, then each row cut in another way.
            let plain = kinds().map(|k| row(k, CUTS[0], 0)).collect();
            let greedy =
                kinds().map(|k| SampleRow { greedy: true, temperature: 0.0, ..row(k, CUTS[0], 0) }).collect();
            cases.extend([plain, greedy].map(|rows| SampleCase { vocab, rows, seed: 1 }));
            for c in 0..CUTS.len() {
                let rows = kinds().map(|k| row(k, CUTS[(k.0 + c) % CUTS.len()], c)).collect();
                cases.push(SampleCase { vocab, rows, seed: 1 });
            }
        }
        cases
    }

    fn random(draw: &mut Draw) -> SampleCase {
        let (vocab, truncated) = (draw.size(40_000), draw.one_in(2));
        let rows = (0..draw.size(6))
            .map(|_| {
                let (top_k, top_p) = if truncated { draw.pick(&CUTS) } else { CUTS[0] };
                SampleRow {
                    kind: draw.pick(&Kind::ALL),
                    greedy: draw.one_in(5),
                    temperature: draw.pick(&TEMPERATURES),
                    top_k,
                    top_p,
                    key: draw.seed() << 32 | draw.seed(),
                    position: draw.below(1 << 20) as i32,
                }
            })
            .collect();
        SampleCase { vocab, rows, seed: draw.seed() }
    }

    fn fits(c: &SampleCase) -> bool {
        let row = |r: &SampleRow| {
            (r.greedy || r.temperature > 0.0)
                && r.top_k >= 0
                && r.top_p > 0.0
                && r.top_p <= 1.0
                && r.position >= 0
        };
        c.vocab > 0 && !c.rows.is_empty() && c.rows.iter().all(row)
    }

    fn seed(case: &mut SampleCase) -> &mut u64 {
        &mut case.seed
    }

    fn problem(c: &SampleCase) -> Problem {
        let logits: Vec<Vec<f32>> =
            c.rows.iter().enumerate().map(|(r, row)| row.kind.logits(c.vocab, c.seed + r as u64)).collect();
        let want = c.rows.iter().zip(&logits).map(|(row, logits)| row.token(logits)).collect();
        let params: Vec<i32> = c.rows.iter().flat_map(SampleRow::params).collect();
        let temperatures: Vec<f32> = c.rows.iter().map(|r| r.temperature).collect();
        let tails: Vec<f32> = c.rows.iter().map(|r| top_p_tail(r.top_p)).collect();
        let rows = c.rows.len();
        Problem {
            tensors: vec![
                HostTensor::float("logits", DType::F32, logits.concat(), &[rows, c.vocab]),
                HostTensor::float("temperature", DType::F32, temperatures, &[rows]),
                HostTensor::float("top_p_tail", DType::F32, tails, &[rows]),
                HostTensor::int("params", params).reshaped(&[rows, 5]),
                HostTensor::output("out", DType::I32, &[rows], Want::Int(want)),
            ],
        }
    }

    fn args<'a, D: Device>(c: &'a SampleCase, mut t: Bound<'a, D>) -> SampleArgs<'a, D> {
        SampleArgs {
            logits: t.view("logits"),
            temperature: t.view("temperature"),
            top_p_tail: t.view("top_p_tail"),
            params: t.view("params"),
            spec: SampleSpec {
                random: c.rows.iter().any(|r| !r.greedy),
                truncated: c.rows.iter().any(|r| !r.greedy && (r.top_k > 0 || r.top_p < 1.0)),
            },
            out: t.out("out"),
        }
    }

    fn certificate<D: Device>(dev: &D, kernel: &Slot<Self, D>, groups: usize) -> Result<Option<Certificate>> {
        // A kernel of greedy rows alone has nothing to certify.
        Ok(Some(Certificate::of_groups(dev, kernel, groups)?).filter(|c| c.draws > 0))
    }
}
