//! A certificate for a sampler: whether its draws follow the distribution, however it draws them.
//!
//! [`check`](super::check) asks for the oracle's own token, which only a kernel with its random numbers gives. This
//! asks only for the distribution. Over the settings of [`Setting::all`]:
//!
//! 1. support: no draw outside of it, and every token that draws can hardly miss is drawn;
//! 2. frequencies: Pearson's chi-squared by group of draws, half of the groups over seeds, half over positions;
//! 3. independence: of the tokens at neighbouring positions and of neighbouring seeds, chi-squared again;
//! 4. all p-values at once: the smallest against a Bonferroni bound, and their own distribution, which is uniform for
//!    a right sampler, by Kolmogorov and Smirnov.
//!
//! A right sampler fails with a probability of at most [`ALPHA`] for each of the last two; seeds are fixed, so it does
//! so always or never.

use lathe_reference::{
    logits::{LogitsParams, process},
    sampling::{support, temper, top_p_tail},
};
use serde::{Deserialize, Serialize};
use statrs::distribution::{ChiSquared, ContinuousCDF};

use super::cases::Kind;
use crate::{
    device::{Device, Tensor},
    error::{Error, Result},
    kernels::{Queue, Sample, SampleArgs, SampleSpec, Slot, run},
};

/// The probability that a right sampler fails a test.
pub const ALPHA: f64 = 1e-3;
/// Tokens of the vocabulary.
const VOCAB: usize = 96;
/// Draws of a group, all of which are one launch.
const GROUP: usize = 512;
/// Groups of a setting, unless fewer are asked for.
pub const GROUPS: usize = 8;
/// Draws that a bin of a chi-squared test expects at least.
const BIN: f64 = 8.0;

/// A distribution to draw from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// The logits.
    pub logits: Kind,
    /// Divides them.
    pub temperature: f32,
    /// 0 is off.
    pub top_k: i32,
    /// 1 is off.
    pub top_p: f64,
    /// 0 is off.
    pub min_p: f32,
}

impl Setting {
    /// Temperature, top-k, top-p, min-p and mixtures, on peaked, flat, tied and long-tailed distributions.
    pub fn all() -> Vec<Self> {
        let cuts = [
            (1.0, 0, 1.0, 0.0),
            (0.6, 0, 1.0, 0.0),
            (1.5, 0, 1.0, 0.0),
            (1.0, 12, 1.0, 0.0),
            (1.0, 0, 0.8, 0.0),
            (1.0, 0, 1.0, 0.1),
            (0.8, 40, 0.9, 0.0),
            (1.3, 20, 0.95, 0.02),
        ];
        let kinds = [Kind::Normal, Kind::Peaked, Kind::Flat, Kind::Tied, Kind::LongTail];
        kinds
            .into_iter()
            .flat_map(|logits| {
                cuts.map(|(temperature, top_k, top_p, min_p)| Self {
                    logits,
                    temperature,
                    top_k,
                    top_p,
                    min_p,
                })
            })
            .collect()
    }

    /// The processed logits, and the probabilities of the tokens after temperature, top-k and top-p.
    fn distribution(&self) -> (Vec<f32>, Vec<f64>) {
        let mut logits = self.logits.logits(VOCAB, 41);
        if self.logits == Kind::Peaked {
            // Peaked, but not so that there is nothing to count.
            logits.iter_mut().for_each(|l| *l = l.min(9.0));
        }
        let (temperature, min_p) = (self.temperature, self.min_p);
        process(&mut logits, &LogitsParams { temperature, min_p, ..LogitsParams::default() });
        let mut tempered = logits.clone();
        temper(&mut tempered, temperature);
        let probs = support(&tempered, self.top_k as usize, self.top_p);
        (logits, probs)
    }
}

/// What the draws of a sampler showed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Certificate {
    /// Settings that the kernel supports.
    pub settings: usize,
    /// Settings that it does not.
    pub unsupported: usize,
    /// Draws altogether.
    pub draws: usize,
    /// Chi-squared tests, of frequencies and of independence.
    pub tests: usize,
    /// Their smallest p-value.
    pub smallest_p: f64,
    /// What it must reach: [`ALPHA`] over the number of tests.
    pub bonferroni: f64,
    /// The p-value of all p-values being uniform.
    pub uniform_p: f64,
    /// What is wrong, if something is.
    pub fault: Option<String>,
}

impl Certificate {
    /// Draws from `kernel` and judges the draws.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn of<D: Device>(dev: &D, kernel: &Slot<Sample, D>) -> Result<Self> {
        Self::of_groups(dev, kernel, GROUPS)
    }

    /// The same with so many groups of each setting: fewer find less, but sooner.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn of_groups<D: Device>(dev: &D, kernel: &Slot<Sample, D>, groups: usize) -> Result<Self> {
        let mut queue = Queue::new(dev)?;
        let (mut tests, mut fault) = (Vec::new(), None);
        let (mut settings, mut unsupported) = (0, 0);
        for setting in Setting::all() {
            let (logits, probs) = setting.distribution();
            let mut tokens = Vec::new();
            match (0..groups).try_for_each(|group| -> Result<()> {
                tokens.push(draw(dev, kernel, &mut queue, &setting, &logits, group)?);
                Ok(())
            }) {
                Err(Error::Unsupported { .. }) => {
                    unsupported += 1;
                    continue;
                }
                other => other?,
            }
            settings += 1;
            match judge(&probs, &tokens) {
                Ok(p_values) => tests.extend(p_values.into_iter().map(|p| (p, setting))),
                Err(message) => {
                    fault.get_or_insert(format!("{message}, with {setting:?}"));
                }
            }
        }
        let smallest = tests.iter().copied().min_by(|a, b| a.0.total_cmp(&b.0));
        let (smallest_p, bonferroni) = (smallest.map_or(1.0, |s| s.0), ALPHA / tests.len().max(1) as f64);
        let p_values: Vec<f64> = tests.iter().map(|t| t.0).collect();
        let uniform_p = kolmogorov_smirnov(&p_values);
        if let Some((p, setting)) = smallest.filter(|s| s.0 < bonferroni) {
            fault.get_or_insert(format!(
                "frequencies that a right sampler has with probability {p:.1e}, with {setting:?}"
            ));
        } else if uniform_p < ALPHA {
            fault.get_or_insert(format!(
                "the p-values of {} tests are not uniform: {uniform_p:.1e} by Kolmogorov and Smirnov",
                tests.len()
            ));
        }
        Ok(Self {
            settings,
            unsupported,
            draws: settings * groups * GROUP,
            tests: tests.len(),
            smallest_p,
            bonferroni,
            uniform_p,
            fault,
        })
    }
}

/// The draws of a group: over seeds at one position for odd groups, over positions at one seed for even ones.
fn draw<D: Device>(
    dev: &D,
    kernel: &Slot<Sample, D>,
    queue: &mut Queue<D>,
    setting: &Setting,
    logits: &[f32],
    group: usize,
) -> Result<Vec<i32>> {
    let params: Vec<i32> = (0..GROUP as i32)
        .flat_map(|i| {
            let (seed, position) = if group % 2 == 1 { (i, group as i32) } else { (7_000 + group as i32, i) };
            [0, setting.top_k, seed, 0, position]
        })
        .collect();
    let logits = Tensor::from_slice(dev, &logits.repeat(GROUP), &[GROUP, VOCAB])?;
    let temperature = Tensor::from_slice(dev, &[setting.temperature; GROUP], &[GROUP])?;
    let tails = Tensor::from_slice(dev, &[top_p_tail(setting.top_p); GROUP], &[GROUP])?;
    let params = Tensor::from_slice(dev, &params, &[GROUP, 5])?;
    let mut out = Tensor::from_slice(dev, &[-1; GROUP], &[GROUP])?;
    let spec = SampleSpec { random: true, truncated: setting.top_k > 0 || setting.top_p < 1.0 };
    let args = SampleArgs {
        logits: logits.view(),
        temperature: temperature.view(),
        top_p_tail: tails.view(),
        params: params.view(),
        spec,
        out: out.view_mut(),
    };
    run(&**kernel, queue, args)?;
    out.to_vec(dev)
}

/// The p-values of a setting's groups, or what no right sampler does.
fn judge(probs: &[f64], groups: &[Vec<i32>]) -> Result<Vec<f64>, String> {
    let mut seen = vec![0usize; probs.len()];
    for &token in groups.iter().flatten() {
        match usize::try_from(token).ok().filter(|&t| probs.get(t).is_some_and(|p| *p > 0.0)) {
            Some(token) => seen[token] += 1,
            None => return Err(format!("token {token} is outside the support")),
        }
    }
    let draws = groups.iter().map(Vec::len).sum::<usize>() as f64;
    // A token that is expected 25 times is missed with probability e^-25.
    if let Some(token) = (0..probs.len()).find(|&t| seen[t] == 0 && probs[t] * draws > 25.0) {
        let expected = probs[token] * draws;
        return Err(format!("token {token} is never drawn, expected {expected:.0} times of {draws}"));
    }
    let bins = bins(probs, GROUP as f64);
    let mut p_values = Vec::new();
    for group in groups {
        p_values.extend(frequencies(probs, &bins, group));
        p_values.extend(independence(probs, group));
    }
    Ok(p_values)
}

/// The bin of each token: tokens of the support, likeliest first, pooled until a bin expects [`BIN`] draws.
fn bins(probs: &[f64], draws: f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..probs.len()).filter(|&t| probs[t] > 0.0).collect();
    order.sort_by(|&a, &b| probs[b].total_cmp(&probs[a]));
    let mut bins = vec![usize::MAX; probs.len()];
    let (mut bin, mut mass, mut left) = (0, 0.0, 1.0);
    for token in order {
        // What is left over and too little for a bin of its own joins the last one.
        if mass * draws >= BIN && left * draws >= BIN {
            (bin, mass) = (bin + 1, 0.0);
        }
        bins[token] = bin;
        mass += probs[token];
        left -= probs[token];
    }
    bins
}

/// Pearson's chi-squared of a group's counts; `None` if there is one bin only.
fn frequencies(probs: &[f64], bins: &[usize], tokens: &[i32]) -> Option<f64> {
    let count = bins.iter().filter(|&&b| b < usize::MAX).max()? + 1;
    let (mut want, mut got) = (vec![0.0; count], vec![0.0; count]);
    for (&bin, p) in bins.iter().zip(probs).filter(|(b, _)| **b < usize::MAX) {
        want[bin] += p * tokens.len() as f64;
    }
    tokens.iter().for_each(|&t| got[bins[t as usize]] += 1.0);
    let x = want.iter().zip(&got).map(|(w, g)| (g - w).powi(2) / w).sum();
    chi_squared(x, count - 1)
}

/// Whether a draw tells of the next one: chi-squared of pairs in two classes of about equal probability, against the
/// product of the classes' probabilities (which are known, so nothing is estimated: 3 degrees of freedom). Pairs do not
/// overlap.
fn independence(probs: &[f64], tokens: &[i32]) -> Option<f64> {
    let mut order: Vec<usize> = (0..probs.len()).collect();
    order.sort_by(|&a, &b| probs[b].total_cmp(&probs[a]));
    let (mut first, mut mass) = (vec![false; probs.len()], 0.0);
    for token in order {
        if mass + probs[token] / 2.0 < 0.5 {
            first[token] = true;
            mass += probs[token];
        }
    }
    let pairs = tokens.len() / 2;
    if mass.min(1.0 - mass).powi(2) * (pairs as f64) < BIN {
        return None;
    }
    let class = |t: i32| usize::from(!first[t as usize]);
    let mut got = [[0.0; 2]; 2];
    tokens.as_chunks::<2>().0.iter().for_each(|&[a, b]| got[class(a)][class(b)] += 1.0);
    let share = [mass, 1.0 - mass];
    let x = (0..4).map(|i| {
        let want = pairs as f64 * share[i / 2] * share[i % 2];
        (got[i / 2][i % 2] - want).powi(2) / want
    });
    chi_squared(x.sum(), 3)
}

/// The probability that chi-squared with `freedom` degrees of freedom is at least `x`; `None` without freedom.
fn chi_squared(x: f64, freedom: usize) -> Option<f64> {
    ChiSquared::new(freedom as f64).ok().map(|d| d.sf(x))
}

/// The p-value of `values` being uniform on 0..1. Source: Stephens, "Use of the Kolmogorov–Smirnov … Statistics
/// without Extensive Tables", J. R. Stat. Soc. B 32, 1970, for the correction by `n`.
pub fn kolmogorov_smirnov(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len() as f64;
    let distance = sorted.iter().enumerate().fold(0.0f64, |d, (i, v)| {
        let i = i as f64;
        d.max(v - i / n).max((i + 1.0) / n - v)
    });
    let x = (n.sqrt() + 0.12 + 0.11 / n.sqrt()) * distance;
    if x < 0.2 {
        return 1.0; // where the series below converges too slowly, and rounds to 1
    }
    let term = |j: i32| 2.0 * f64::from(1 - 2 * (1 - j % 2)) * (-2.0 * f64::from(j * j) * x * x).exp();
    (1..100).map(term).sum::<f64>().clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_values_by_hand() {
        // Tables: chi-squared at 5% with 1, 5 and 100 degrees of freedom; Kolmogorov's limit at 5% and 1%.
        for (x, freedom, p) in [(3.841, 1, 0.05), (11.070, 5, 0.05), (124.342, 100, 0.05)] {
            assert!((chi_squared(x, freedom).unwrap() - p).abs() < 1e-4);
        }
        assert_eq!(chi_squared(1.0, 0), None);
        let spread = |shift: f64| -> Vec<f64> {
            (0..1000).map(|i| ((f64::from(i) + 0.5) / 1000.0 + shift).min(1.0)).collect()
        };
        assert!(kolmogorov_smirnov(&spread(0.0)) > 0.999);
        // The distance at which the corrected statistic is Kolmogorov's limit; half a step is there without a shift.
        let n = 1000f64.sqrt();
        let at = |limit: f64| spread(limit / (n + 0.12 + 0.11 / n) - 0.0005);
        assert!((kolmogorov_smirnov(&at(1.358)) - 0.05).abs() < 0.001);
        assert!((kolmogorov_smirnov(&at(1.628)) - 0.01).abs() < 0.001);
    }

    #[test]
    fn bins_hold_enough_and_all() {
        let probs = [0.5, 0.0, 0.3, 0.15, 0.04, 0.01];
        assert_eq!(bins(&probs, 100.0), [0, usize::MAX, 1, 2, 2, 2]);
        assert_eq!(bins(&probs, 1000.0), [0, usize::MAX, 1, 2, 3, 4]);
        assert_eq!(frequencies(&probs, &bins(&probs, 2.0), &[0, 0]), None);
    }

    #[test]
    fn settings_have_something_to_count() {
        let tests: usize = Setting::all()
            .iter()
            .map(|s| {
                let (_, probs) = s.distribution();
                bins(&probs, GROUP as f64)
                    .iter()
                    .filter(|b| **b < usize::MAX)
                    .max()
                    .copied()
                    .unwrap_or(0)
                    .min(1)
            })
            .sum();
        assert!(tests >= 36, "{tests} of {} settings have two bins", Setting::all().len());
    }
}
