//! Two choices (kernels, sampler, scheduler, dtype) end to end on the same work.

use std::sync::{Arc, Mutex};

use lathe_reference::sampling::{argmax, log_softmax};
use serde::Serialize;
use serde_json::Value;
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::shadow::{Call, Log, shadow};
use crate::{
    config::{EngineConfig, SamplingParams},
    device::Device,
    error::{Error, Result},
    kernels::{Registry, SLOTS},
    llm::{LLM, Output, Prompt},
    model::ModelFiles,
    open::{self, OnDevice},
};

/// `base` with `settings`: comma-separated `NAME=VALUE`, where a name is a field of [`EngineConfig`], or a slot or
/// operation whose kernel the value names.
///
/// # Errors
/// [`Error::Config`] for a setting without `=`, and what [`EngineConfig::from_toml`] would say.
pub fn apply(base: &EngineConfig, settings: &str) -> Result<EngineConfig> {
    let mut config = serde_json::to_value(base).expect("a configuration is plain data");
    for setting in settings.split(',').map(str::trim).filter(|s| !s.is_empty()) {
        let Some((name, value)) = setting.split_once('=') else {
            return Err(Error::config("a setting", setting, "NAME=VALUE"));
        };
        let is_kernel = SLOTS.iter().any(|s| *s == name || s.split('.').next() == Some(name));
        let place = if is_kernel { &mut config["kernels"][name] } else { &mut config[name] };
        *place = match serde_json::from_str(value) {
            Ok(value) if !is_kernel => value,
            _ => Value::String(value.into()),
        };
    }
    let config: EngineConfig = serde_json::from_value(config)
        .map_err(|e| Error::config("settings", settings, format!("settings of the engine: {e}")))?;
    config.validate()?;
    Ok(config)
}

/// How far two models' next-token distributions are apart, over every position of teacher-forced text.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Likelihood {
    /// Positions.
    pub positions: usize,
    /// The largest |Δ log-probability| of a text's own next token.
    pub max_delta: f64,
    /// The mean.
    pub mean_delta: f64,
    /// The mean Kullback–Leibler divergence of b from a, in nats.
    pub mean_kl: f64,
    /// The largest.
    pub max_kl: f64,
    /// The share of positions with the same most likely token.
    pub same_top: f64,
}

/// A ratio b / a over paired rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ratio {
    /// The geometric mean.
    pub mean: f64,
    /// The ends of its 95% confidence interval (Student's t on the logarithms).
    pub interval: [f64; 2],
}

impl Ratio {
    /// Of the pairs `(a, b)`, at least two.
    pub fn of(pairs: &[(f64, f64)]) -> Option<Self> {
        let logs: Vec<f64> = pairs.iter().map(|(a, b)| (b / a).ln()).collect();
        let n = logs.len() as f64;
        let mean = logs.iter().sum::<f64>() / n;
        let variance = logs.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let t = StudentsT::new(0.0, 1.0, n - 1.0).ok()?.inverse_cdf(0.975);
        let half = t * (variance / n).sqrt();
        Some(Self { mean: mean.exp(), interval: [(mean - half).exp(), (mean + half).exp()] })
    }
}

/// What shadow mode found.
#[derive(Clone, Debug, Serialize)]
pub struct Shadowed {
    /// Calls that were computed by both kernels.
    pub calls: usize,
    /// The call with the largest difference for its budget.
    pub worst: Option<Call>,
    /// The first call beyond its budget.
    pub first: Option<Call>,
    /// Its layer, from 0.
    pub layer: Option<usize>,
}

/// What a comparison found.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// On the prompts' own tokens.
    pub likelihood: Likelihood,
    /// For each prompt, the first greedy token that differs; `None`: none does.
    pub diverges_at: Vec<Option<usize>>,
    /// Output tokens per second.
    pub throughput: Option<Ratio>,
    /// Time to the first token.
    pub ttft: Option<Ratio>,
    /// Time per later token.
    pub tpot: Option<Ratio>,
    /// Where only kernels differ.
    pub shadow: Option<Shadowed>,
}

/// The work to compare on.
pub struct Work<'a> {
    /// Continued by both.
    pub prompts: &'a [Prompt],
    /// Tokens to generate.
    pub max_tokens: usize,
    /// Of the timed rounds; greedy text is compared apart from it.
    pub temperature: f32,
    /// Timed rounds, a and b in turn first. Below 2: none.
    pub rounds: usize,
}

/// Compares the engines of two configurations.
///
/// # Errors
/// What opening or running either reports.
pub fn compare(a: &EngineConfig, b: &EngineConfig, work: &Work<'_>) -> Result<Comparison> {
    let (mut llm_a, mut llm_b) = (LLM::new(a.clone())?, LLM::new(b.clone())?);
    let greedy = SamplingParams { max_tokens: work.max_tokens, ..SamplingParams::greedy() };
    let [ours, theirs] =
        [&mut llm_a, &mut llm_b].map(|llm| llm.generate(work.prompts, std::slice::from_ref(&greedy), false));
    let (ours, theirs) = (ours?, theirs?);
    let diverges_at =
        ours.iter().zip(&theirs).map(|(a, b)| first_difference(&a.token_ids, &b.token_ids)).collect();
    let timed = timed(&mut llm_a, &mut llm_b, work)?;
    drop((llm_a, llm_b));

    // The prompts with a's continuations, so that there is something to score.
    let texts: Vec<Vec<u32>> =
        ours.iter().map(|o| [&o.prompt_token_ids[..], &o.token_ids].concat()).collect();
    let files = [open::files(a)?, open::files(b)?];
    let scores = [(a, &files[0]), (b, &files[1])].map(|(config, files)| -> Result<Vec<Vec<f32>>> {
        let mut runner = open::runner(&bounded(config, files, &texts), files)?;
        texts.iter().map(|text| runner.score(text, usize::MAX)).collect()
    });
    let [scores_a, scores_b] = scores;
    let likelihood = likelihood(&texts, &scores_a?, &scores_b?, files[0].config.vocab_size);
    let only_kernels = a.kernels != b.kernels
        && EngineConfig { kernels: b.kernels.clone(), scheduler: b.scheduler.clone(), ..a.clone() } == *b;
    let shadow = if only_kernels {
        let config = bounded(a, &files[0], &texts);
        Some(open::on_device(a, InShadow { config: &config, b, files: &files[0], texts: &texts })?)
    } else {
        None
    };
    let [throughput, ttft, tpot] = timed;
    Ok(Comparison { likelihood, diverges_at, throughput, ttft, tpot, shadow })
}

fn first_difference(a: &[u32], b: &[u32]) -> Option<usize> {
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    (same < a.len() || same < b.len()).then_some(same)
}

/// Enough blocks for one text, so that shadow mode has little to copy.
fn bounded(config: &EngineConfig, files: &ModelFiles, texts: &[Vec<u32>]) -> EngineConfig {
    let longest = texts.iter().map(Vec::len).max().unwrap_or(1);
    EngineConfig {
        max_model_len: config.max_model_len.min(files.config.max_position_embeddings),
        max_num_batched_tokens: config.max_num_batched_tokens.min(longest.next_power_of_two()),
        num_kvcache_blocks: Some(longest.div_ceil(config.kvcache_block_size)),
        ..config.clone()
    }
}

fn likelihood(texts: &[Vec<u32>], a: &[Vec<f32>], b: &[Vec<f32>], vocab: usize) -> Likelihood {
    let mut out = Likelihood::default();
    for ((text, a), b) in texts.iter().zip(a).zip(b) {
        for ((&next, a), b) in text[1..].iter().zip(a.chunks_exact(vocab)).zip(b.chunks_exact(vocab)) {
            let (la, lb) = (log_softmax(a), log_softmax(b));
            let delta = (la[next as usize] - lb[next as usize]).abs();
            let kl: f64 =
                la.iter().zip(&lb).filter(|(a, _)| a.is_finite()).map(|(a, b)| a.exp() * (a - b)).sum();
            out.positions += 1;
            out.max_delta = out.max_delta.max(delta);
            out.mean_delta += delta;
            out.max_kl = out.max_kl.max(kl);
            out.mean_kl += kl;
            out.same_top += f64::from(u8::from(argmax(a) == argmax(b)));
        }
    }
    let n = out.positions.max(1) as f64;
    out.mean_delta /= n;
    out.mean_kl /= n;
    out.same_top /= n;
    out
}

/// The ratios of throughput, TTFT and TPOT over rounds of the same requests with the same seeds.
fn timed(a: &mut LLM, b: &mut LLM, work: &Work<'_>) -> Result<[Option<Ratio>; 3]> {
    let mut pairs: [Vec<(f64, f64)>; 3] = Default::default();
    for round in 0..work.rounds {
        let params = SamplingParams {
            temperature: work.temperature,
            seed: Some(round as u64),
            max_tokens: work.max_tokens,
            ignore_eos: true,
            ..SamplingParams::default()
        };
        let run = |llm: &mut LLM| -> Result<[f64; 3]> {
            let start = std::time::Instant::now();
            let outputs = llm.generate(work.prompts, std::slice::from_ref(&params), false)?;
            Ok(measures(&outputs, start.elapsed().as_secs_f64()))
        };
        // Who goes first changes, so that a machine that gets slower does so for both.
        let (of_a, of_b) = if round % 2 == 0 {
            let of_a = run(a)?;
            (of_a, run(b)?)
        } else {
            let of_b = run(b)?;
            (run(a)?, of_b)
        };
        for ((pairs, a), b) in pairs.iter_mut().zip(of_a).zip(of_b) {
            pairs.push((a, b));
        }
    }
    Ok(pairs.map(|pairs| if pairs.len() < 2 { None } else { Ratio::of(&pairs) }))
}

/// Tokens per second, mean TTFT and mean TPOT.
fn measures(outputs: &[Output], seconds: f64) -> [f64; 3] {
    let tokens: usize = outputs.iter().map(|o| o.token_ids.len()).sum();
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let ttft = outputs.iter().filter_map(|o| Some(o.timing.first_token? - o.timing.arrival)).collect();
    let per = |o: &Output| {
        let later = o.token_ids.len().checked_sub(1).filter(|n| *n > 0)?;
        Some((o.timing.finished? - o.timing.first_token?) / later as f64)
    };
    [tokens as f64 / seconds, mean(ttft), mean(outputs.iter().filter_map(per).collect())]
}

/// Both kernels of every slot that differs, on the same tensors: the texts at once, then the first tokens one by one.
struct InShadow<'a> {
    config: &'a EngineConfig,
    b: &'a EngineConfig,
    files: &'a ModelFiles,
    texts: &'a [Vec<u32>],
}

/// Tokens of each text that are also decoded one by one.
const DECODED: usize = 24;

impl OnDevice for InShadow<'_> {
    type Out = Shadowed;

    fn run<D: Device>(self, dev: &D, registry: &Registry<D>) -> Result<Shadowed> {
        let log = Arc::new(Mutex::new(Log::default()));
        let select = |config: &EngineConfig| registry.select(&config.kernels, config.deterministic);
        let kernels = shadow(select(self.config)?, &select(self.b)?, &log);
        let mut runner = open::runner_with(dev, kernels, self.config, self.files)?;
        let mut steps = Vec::new();
        for text in self.texts {
            let short = &text[..text.len().min(DECODED)];
            for (tokens, chunk, count) in [(&text[..], usize::MAX, 1), (short, 1, short.len())] {
                runner.score(tokens, chunk)?;
                steps.push(count);
                log.lock().expect("no kernel panicked").next_pass();
            }
        }
        let log = log.lock().expect("no kernel panicked");
        let first = log.first_beyond(self.files.config.layers.len(), |pass| steps[pass]);
        let worst = log.calls().iter().max_by(|a, b| a.share.total_cmp(&b.share)).cloned();
        let layer = first.and_then(|(_, layer)| layer);
        Ok(Shadowed { calls: log.calls().len(), worst, first: first.map(|(call, _)| call.clone()), layer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_fields_and_kernels() {
        let config =
            apply(&EngineConfig::default(), "attention=reference, threads=1,dtype=f32,scheduler=fcfs")
                .unwrap();
        assert_eq!(config.kernels["attention"], "reference");
        assert_eq!((config.threads, config.scheduler.as_str()), (Some(1), "fcfs"));
        assert_eq!(apply(&EngineConfig::default(), "").unwrap(), EngineConfig::default());
        for (settings, names) in [("fast", "NAME=VALUE"), ("speed=9", "speed"), ("threads=many", "many")] {
            let error = apply(&EngineConfig::default(), settings).unwrap_err().to_string();
            assert!(error.contains(names), "{error}");
        }
    }

    #[test]
    fn ratios_by_hand() {
        let r = Ratio::of(&[(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)]).unwrap();
        assert!((r.mean - 2.0).abs() < 1e-12 && (r.interval[0] - 2.0).abs() < 1e-9);
        // Logarithms 0 and ln 4: mean ln 2, standard error ln 2, t(1 degree, 97.5%) = 12.706.
        let r = Ratio::of(&[(1.0, 1.0), (1.0, 4.0)]).unwrap();
        assert!((r.interval[1].ln() - 2f64.ln() * 13.706).abs() < 0.01, "{r:?}");
        assert_eq!(first_difference(&[1, 2, 3], &[1, 2, 4]), Some(2));
        assert_eq!(first_difference(&[1, 2], &[1, 2]), None);
    }
}
