//! How long a step takes: by a device's roofline, or as fitted to measured steps.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::shape::Shape;
use crate::engine::Item;
use crate::error::{Error, Result};

/// What a step's time depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Tokens computed.
    pub tokens: usize,
    /// Sequences that get a token.
    pub samples: usize,
    /// Keys that decodes read, summed over them.
    pub decode_keys: usize,
    /// Keys that chunks read, summed over them.
    pub chunk_keys: usize,
    /// Pairs of a query and a key in chunks.
    pub chunk_pairs: usize,
    /// 1 if the device had nothing to do before the step.
    pub after_pause: usize,
    /// 1 if the step before it had chunks.
    pub after_chunk: usize,
}

impl Work {
    /// Of a step, after another one or, if the device had nothing to do before it, after none.
    pub fn of(items: &[Item], before: Option<&Self>) -> Self {
        let mut work = Self {
            after_pause: before.is_none().into(),
            after_chunk: before.is_some_and(|before| before.chunk_keys > 0).into(),
            ..Self::default()
        };
        for item in items {
            let end = item.start + item.tokens;
            work.tokens += item.tokens;
            work.samples += usize::from(item.sample);
            if item.tokens == 1 {
                work.decode_keys += end;
            } else {
                work.chunk_keys += end;
                work.chunk_pairs += item.tokens * item.start + item.tokens * (item.tokens + 1) / 2;
            }
        }
        work
    }
}

/// A device's peaks and overheads; `devices.toml` says what each means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // devices.toml
pub struct Roofline {
    pub source: String,
    pub flops: f64,
    pub bandwidth: f64,
    pub memory: f64,
    pub flops_share: f64,
    pub attention_share: f64,
    pub bandwidth_share: f64,
    pub launch_seconds: f64,
    pub host_seconds: f64,
}

/// A model of this machine's steps, as `lathe calibrate` fits it: a time for the step's tokens, straight between those
/// measured, and one for each of the other parts of its [`Work`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fitted {
    /// Machine, model, date: what was measured.
    pub source: String,
    /// How far off steps were that the fit had not seen.
    pub error: String,
    /// Seconds of a step with this many tokens and nothing else, by tokens.
    pub steps: Vec<(usize, f64)>,
    /// Seconds for each sampled token.
    pub sample: f64,
    /// Seconds for each key that a decode reads.
    pub decode_key: f64,
    /// Seconds for each pair of a query and a key in a chunk.
    pub chunk_pair: f64,
    /// Seconds more if the device had nothing to do before: threads wake up, caches are cold.
    #[serde(default)]
    pub after_pause: f64,
    /// Seconds more after a step with chunks: their rows have taken the weights' place in the caches.
    #[serde(default)]
    pub after_chunk: f64,
    /// What the rest of the machine does to steps, from short ones to long. A simulated step draws of the last that begins
    /// no later than its modelled time.
    #[serde(default)]
    pub spread: Vec<Spread>,
}

/// Measured times of steps of about one length. Long steps have their own, because an interruption of a few milliseconds
/// doubles a short step and is nothing beside a long one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// Of steps that are modelled to take so many seconds or more.
    pub from: f64,
    /// Their measured time as a share of the modelled one, at evenly spaced quantiles.
    pub shares: Vec<f64>,
}

/// A model of step times.
#[derive(Clone, Debug, PartialEq)]
pub enum StepTime {
    /// From a device's peaks and a model's shape.
    Roofline(Roofline, Shape),
    /// Fitted to measurements.
    Fitted(Fitted),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceFile {
    roofline: Option<Roofline>,
    fitted: Option<Fitted>,
}

impl StepTime {
    /// The device of that name, or of a TOML file with one table `[roofline]` or `[fitted]`.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::Io`], or [`Error::Config`] for a file of another form.
    pub fn find(device: &str, shape: &Shape) -> Result<Self> {
        let known: BTreeMap<String, Roofline> =
            toml::from_str(include_str!("devices.toml")).expect("a file of this repository");
        if let Some(roofline) = known.get(device) {
            return Ok(Self::Roofline(roofline.clone(), shape.clone()));
        }
        let path = Path::new(device);
        if !path.is_file() {
            let known = known.into_keys().collect::<Vec<_>>().join(", ");
            let (kind, known) = ("device".into(), format!("{known}, or a file that lathe calibrate wrote"));
            return Err(Error::UnknownName { kind, name: device.into(), known });
        }
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        let want = "one table, [roofline] as in devices.toml or [fitted] as lathe calibrate writes it";
        match toml::from_str(&text) {
            Ok(DeviceFile { roofline: Some(roofline), fitted: None }) => {
                Ok(Self::Roofline(roofline, shape.clone()))
            }
            Ok(DeviceFile { roofline: None, fitted: Some(fitted) }) if fitted.steps.len() >= 2 => {
                Ok(Self::Fitted(fitted))
            }
            Ok(_) => Err(Error::config(device, "not a device", want)),
            Err(error) => Err(Error::config(device, error.message(), want)),
        }
    }

    /// Seconds of a step, in the mean.
    pub fn seconds(&self, work: &Work) -> f64 {
        match self {
            Self::Roofline(device, shape) => device.seconds(work, shape),
            Self::Fitted(fitted) => {
                let median = fitted.median(work);
                let shares = fitted.shares(median);
                let mean = shares.iter().sum::<f64>() / shares.len().max(1) as f64;
                median * if shares.is_empty() { 1.0 } else { mean }
            }
        }
    }

    /// Seconds of one step among many alike; `draw` is any number, and evenly spread over steps.
    pub fn draw(&self, work: &Work, draw: u64) -> f64 {
        let Self::Fitted(fitted) = self else { return self.seconds(work) };
        let median = fitted.median(work);
        let shares = fitted.shares(median);
        let at = draw.checked_rem(shares.len() as u64);
        median * at.map_or(1.0, |at| shares[at as usize])
    }

    /// KV blocks that fit beside the weights in 90% of the memory, if the memory is known.
    pub fn kv_blocks(&self, block_size: usize) -> Option<usize> {
        match self {
            Self::Roofline(device, shape) => {
                let free = 0.9 * device.memory - shape.weight_bytes() as f64;
                Some((free / (shape.kv_bytes() * block_size) as f64).max(0.0) as usize)
            }
            Self::Fitted(_) => None,
        }
    }

    /// Where the times come from and how far they may be off, to print.
    pub fn error(&self) -> String {
        match self {
            Self::Roofline(..) => {
                "roofline with assumed efficiencies, not validated on this device: compare policies, do not trust \
                 absolute times"
                    .into()
            }
            Self::Fitted(fitted) => fitted.error.clone(),
        }
    }
}

impl Roofline {
    /// Each part takes the longer of its operations and its bytes; parts follow one another.
    fn seconds(&self, work: &Work, shape: &Shape) -> f64 {
        let (tokens, samples) = (work.tokens as f64, work.samples as f64);
        let (layers, dtype, hidden) = (shape.layers as f64, shape.dtype_bytes as f64, shape.hidden as f64);
        let bytes = |bytes: f64| bytes / (self.bandwidth * self.bandwidth_share);
        let products = |rows: f64, weights: f64| {
            (2.0 * rows * weights / (self.flops * self.flops_share)).max(bytes(weights * dtype))
        };
        let linear = products(tokens, layers * shape.layer_weights() as f64);
        let logits = if samples > 0.0 { products(samples, hidden * shape.vocab_size as f64) } else { 0.0 };
        // Scores and weighted values: 2 operations each for every element of a head.
        let pair = 4.0 * layers * (shape.heads * shape.head_dim) as f64 / (self.flops * self.attention_share);
        let key = bytes(shape.kv_bytes() as f64);
        let decode = work.decode_keys as f64 * pair.max(key);
        let chunk = (work.chunk_pairs as f64 * pair).max(work.chunk_keys as f64 * key);
        // Of each token and layer: residual read and written four times by norms and sums, projections' inputs and
        // outputs once each.
        let width = 8.0 * hidden
            + 2.0 * ((2 * shape.heads + 2 * shape.kv_heads) * shape.head_dim) as f64
            + 5.0 * shape.intermediate as f64;
        let activations = bytes(tokens * layers * width * dtype);
        let launches = (10.0 * layers + 5.0) * self.launch_seconds;
        linear + logits + decode + chunk + activations + launches + self.host_seconds
    }
}

impl Fitted {
    /// Lengths of steps that have a spread of their own, with as many measured steps each.
    const SPREADS: usize = 8;
    const QUANTILES: usize = 100;
    /// Measured steps that a knot of [`Self::steps`] takes: fewer say more about the machine's moods.
    const OF_A_KNOT: usize = 6;

    fn median(&self, work: &Work) -> f64 {
        let (at, last) =
            (self.steps.partition_point(|&(tokens, _)| tokens < work.tokens), self.steps.len() - 1);
        let upper = at.clamp(1, last);
        let ((t0, s0), (t1, s1)) = (self.steps[upper - 1], self.steps[upper]);
        let slope = (s1 - s0) / (t1 as f64 - t0 as f64);
        let base = s0 + slope * (work.tokens as f64 - t0 as f64);
        base + self.sample * work.samples as f64
            + self.decode_key * work.decode_keys as f64
            + self.chunk_pair * work.chunk_pairs as f64
            + self.after_pause * work.after_pause as f64
            + self.after_chunk * work.after_chunk as f64
    }

    /// The [`Spread::shares`] of steps that are modelled to take so long.
    fn shares(&self, median: f64) -> &[f64] {
        let after = self.spread.partition_point(|spread| spread.from <= median);
        self.spread.get(after.saturating_sub(1)).map_or(&[], |spread| &spread.shares)
    }

    /// The model that is nearest to the measured steps by the sum of relative errors, with no negative part. Not by their
    /// squares, for which a few steps that something else on the machine held up would count most.
    ///
    /// # Errors
    /// [`Error::Config`] with fewer than two different numbers of tokens.
    pub fn fit(measured: &[(Work, f64)], source: String) -> Result<Self> {
        let (held_out, fitted): (Vec<_>, Vec<_>) = measured.iter().enumerate().partition(|(i, _)| i % 5 == 4);
        let strip =
            |rows: Vec<(usize, &(Work, f64))>| rows.into_iter().map(|(_, row)| *row).collect::<Vec<_>>();
        let (held_out, fitted) = (strip(held_out), strip(fitted));
        let most = fitted.iter().map(|(work, _)| work.tokens).max().unwrap_or(0);
        // Close together: a kernel's steps (how many rows it takes at a time) show as corners. The last two as far apart
        // as others, because their slope goes on beyond them.
        let mut knots: Vec<usize> = Vec::new();
        let mut knot = 1;
        while knot * 5 / 4 < most {
            let next = (knot + 1).max(knot * 5 / 4);
            if fitted.iter().filter(|(work, _)| (knot..next).contains(&work.tokens)).count()
                >= Self::OF_A_KNOT
            {
                knots.push(knot);
            }
            knot = next;
        }
        knots.push(most);
        if knots.len() < 2 {
            return Err(Error::config(
                "measured steps",
                "of one size",
                "steps of different numbers of tokens",
            ));
        }
        // One column for each knot (how near the step is to it) and each other part of the work.
        let row = |work: &Work| {
            let mut row = vec![0.0; knots.len()];
            let at = knots.partition_point(|&knot| knot < work.tokens).clamp(1, knots.len() - 1);
            let (low, high) = (knots[at - 1] as f64, knots[at] as f64);
            let share = ((work.tokens as f64 - low) / (high - low)).clamp(0.0, 1.0);
            (row[at - 1], row[at]) = (1.0 - share, share);
            let others =
                [work.samples, work.decode_keys, work.chunk_pairs, work.after_pause, work.after_chunk];
            row.extend(others.map(|count| count as f64));
            row
        };
        let rows: Vec<(Vec<f64>, f64)> = fitted
            .iter()
            .map(|(work, seconds)| (row(work).iter().map(|cell| cell / seconds).collect(), 1.0))
            .collect();
        // Squares weighted by 1/|error| are absolute errors: iteratively reweighted least squares.
        let mut weights = vec![1.0; rows.len()];
        let mut solution = Vec::new();
        for _ in 0..12 {
            solution = least_squares(&rows, &weights);
            for (weight, (row, y)) in weights.iter_mut().zip(&rows) {
                let error = row.iter().zip(&solution).map(|(a, x)| a * x).sum::<f64>() - y;
                *weight = 1.0 / error.abs().max(0.01);
            }
        }
        let (steps, others) = solution.split_at(knots.len());
        let mut result = Self {
            source,
            error: String::new(),
            steps: knots.iter().copied().zip(steps.iter().copied()).collect(),
            sample: others[0],
            decode_key: others[1],
            chunk_pair: others[2],
            after_pause: others[3],
            after_chunk: others[4],
            spread: Vec::new(),
        };
        let mut times: Vec<(f64, f64)> =
            fitted.iter().map(|(work, seconds)| (result.median(work), *seconds)).collect();
        times.sort_by(|a, b| a.0.total_cmp(&b.0));
        result.spread = times
            .chunks(times.len().div_ceil(Self::SPREADS))
            .map(|band| {
                let mut shares: Vec<f64> = band.iter().map(|(median, seconds)| seconds / median).collect();
                shares.sort_by(f64::total_cmp);
                let at = |i: usize| shares[(2 * i + 1) * shares.len() / (2 * Self::QUANTILES)];
                Spread { from: band[0].0, shares: (0..Self::QUANTILES).map(at).collect() }
            })
            .collect();
        let mut off: Vec<f64> = held_out
            .iter()
            .map(|(work, seconds)| (result.median(work) / seconds - 1.0).abs() * 100.0)
            .collect();
        off.sort_by(f64::total_cmp);
        if let (Some(p50), Some(p90)) = (off.get(off.len() / 2), off.get(off.len() * 9 / 10)) {
            let count = off.len();
            result.error = format!(
                "single steps off by {p50:.1}% (p50), {p90:.1}% (p90), over {count} that the fit had not seen"
            );
        }
        Ok(result)
    }
}

/// The non-negative `x` with the least weighted sum of `(row·x - y)²`, by coordinate descent on the normal equations.
fn least_squares(rows: &[(Vec<f64>, f64)], weights: &[f64]) -> Vec<f64> {
    let (mut gram, mut right): (Vec<Vec<f64>>, Vec<f64>) = (Vec::new(), Vec::new());
    for ((row, y), weight) in rows.iter().zip(weights) {
        gram.resize(row.len(), vec![0.0; row.len()]);
        right.resize(row.len(), 0.0);
        for (i, &a) in row.iter().enumerate().filter(|(_, a)| **a != 0.0) {
            right[i] += weight * a * y;
            row.iter().enumerate().for_each(|(j, &b)| gram[i][j] += weight * a * b);
        }
    }
    let mut x = vec![0.0; right.len()];
    for _ in 0..5_000 {
        for i in 0..x.len() {
            if gram[i][i] > 0.0 {
                let others: f64 = gram[i].iter().zip(&x).map(|(g, x)| g * x).sum::<f64>() - gram[i][i] * x[i];
                x[i] = ((right[i] - others) / gram[i][i]).max(0.0);
            }
        }
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decode_step_reads_weights_and_keys() {
        let shape = Shape::find(Some("llama-3-8b")).unwrap();
        let StepTime::Roofline(device, _) = StepTime::find("h100", &shape).unwrap() else {
            panic!("a roofline")
        };
        let step = |tokens, keys| {
            let work = Work { tokens, samples: tokens, decode_keys: keys, ..Work::default() };
            device.seconds(&work, &shape)
        };
        // By hand: 32 x 218.1 M weights and 128256 x 4096 of the output projection, 2 bytes each, at 0.83 x 3.35
        // TB/s: 5.020 + 0.378 ms; 325 launches of 3 us and 0.06 ms of host; activations are 4 us.
        approx::assert_abs_diff_eq!(step(1, 0), 6.44e-3, epsilon = 0.02e-3);
        // 1000 keys of 128 KiB: 47.1 us.
        approx::assert_abs_diff_eq!(step(1, 1000) - step(1, 0), 47.1e-6, epsilon = 0.1e-6);
        // 8192 tokens of a prompt are bound by operations: 2 x 6.98e9 x 8192 / (0.7 x 989.4e12) = 165.1 ms. Activations
        // are 8192 x 32 x 124,928 elements of 2 bytes: 23.6 ms; launches and host 1 ms.
        let work = Work { tokens: 8192, chunk_keys: 8192, chunk_pairs: 8192 * 8193 / 2, ..Work::default() };
        let attention = 4.0 * 32.0 * 4096.0 * work.chunk_pairs as f64 / (0.45 * 989.4e12);
        approx::assert_relative_eq!(device.seconds(&work, &shape), 0.1897 + attention, max_relative = 0.005);
        assert!(StepTime::find("h100", &shape).unwrap().kv_blocks(16).unwrap() > 20_000);
    }

    #[test]
    fn a_fit_finds_the_model_that_made_the_steps() {
        let want = Fitted {
            source: String::new(),
            error: String::new(),
            steps: vec![(1, 1e-3), (2, 1.1e-3), (4, 1.3e-3), (8, 2e-3), (16, 4e-3)],
            sample: 5e-5,
            decode_key: 1e-7,
            chunk_pair: 2e-8,
            after_pause: 3e-4,
            after_chunk: 2e-4,
            spread: Vec::new(),
        };
        let works = (0..400usize).map(|i| Work {
            tokens: 1 + i * 7 % 16,
            samples: i % 5,
            decode_keys: i * 131 % 900,
            chunk_keys: 0,
            chunk_pairs: i * 37 % 5000,
            after_pause: i / 3 % 2,
            after_chunk: i / 7 % 2,
        });
        // Every tenth step takes twice as long as it should, an eighth of those fitted: the model is of the others, the
        // spread of all.
        let held_up = |i: usize| if i % 10 == 7 { 2.0 } else { 1.0 };
        let measured: Vec<_> =
            works.enumerate().map(|(i, work)| (work, held_up(i) * want.median(&work))).collect();
        let got = Fitted::fit(&measured, String::new()).unwrap();
        for (work, _) in &measured {
            approx::assert_relative_eq!(got.median(work), want.median(work), max_relative = 0.02);
        }
        approx::assert_relative_eq!(got.decode_key, want.decode_key, max_relative = 0.05);
        approx::assert_relative_eq!(got.after_chunk, want.after_chunk, max_relative = 0.05);
        assert!(got.error.starts_with("single steps off by 0."), "{}", got.error);
        let drawn = StepTime::Fitted(got.clone());
        let mut slow = 0;
        for (work, _) in &measured {
            let draws: Vec<f64> = (0..100).map(|draw| drawn.draw(work, draw)).collect();
            slow += draws.iter().filter(|&&seconds| seconds > 1.9 * want.median(work)).count();
            let mean = draws.iter().sum::<f64>() / 100.0;
            approx::assert_relative_eq!(mean, drawn.seconds(work), max_relative = 1e-9);
        }
        let slow = slow as f64 / (100 * measured.len()) as f64;
        assert!((0.11..=0.14).contains(&slow), "an eighth of the fitted steps are slow: {slow}");
        // Only long steps are held up: short ones draw no such time.
        let held_up = |work: &Work, i: usize| if work.tokens > 8 && i.is_multiple_of(3) { 2.0 } else { 1.0 };
        let measured: Vec<_> = measured
            .iter()
            .enumerate()
            .map(|(i, (work, _))| (*work, held_up(work, i) * want.median(work)))
            .collect();
        let drawn = StepTime::Fitted(Fitted::fit(&measured, String::new()).unwrap());
        let slowest = |tokens| {
            let work = Work { tokens, ..Work::default() };
            (0..100).map(|draw| drawn.draw(&work, draw)).fold(0.0, f64::max) / want.median(&work)
        };
        approx::assert_relative_eq!(slowest(1), 1.0, max_relative = 0.05);
        approx::assert_relative_eq!(slowest(16), 2.0, max_relative = 0.05);
        // Beyond the last knot the last slope goes on.
        let far = Work { tokens: 32, ..Work::default() };
        approx::assert_relative_eq!(got.median(&far), 8e-3, max_relative = 1e-2);
    }

    #[test]
    fn devices_by_name_and_file() {
        let shape = Shape::find(None).unwrap();
        let error = StepTime::find("tpu", &shape).unwrap_err().to_string();
        assert!(error.contains("known: a100, cpu, h100, h200, or a file"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.toml");
        std::fs::write(&path, "[fitted]\nsource = \"x\"\n").unwrap();
        let error = StepTime::find(path.to_str().unwrap(), &shape).unwrap_err().to_string();
        assert!(error.contains("d.toml is missing field `error`, expected one table"), "{error}");
    }
}
