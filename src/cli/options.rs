//! Options that several subcommands share: those of the engine, and those of sampling.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result};
use lathe::config::{EngineConfig, SamplingParams, StorageType};
use lathe::lab::policies;
use lathe::llm::LLM;
use lathe::model::ModelFiles;

/// What chooses kernels.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Engine")]
pub struct KernelOptions {
    /// Engine settings, under EngineConfig's names; options given here take precedence
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// cpu or cuda
    #[arg(long)]
    device: Option<String>,
    /// Kernel for a slot, or for all of an operation's: attention.decode=reference, linear=reference; repeatable
    #[arg(long = "kernel", value_name = "SLOT=NAME", value_parser = pair::<String, String>)]
    kernels: Vec<(String, String)>,
    /// Only kernels whose bits for a row do not depend on the batch
    #[arg(long)]
    deterministic: bool,
}

impl KernelOptions {
    /// The file's settings, or `base` without a file, changed by the options.
    ///
    /// # Errors
    /// If the file cannot be read or has a field or value that cannot be.
    pub fn over(&self, base: EngineConfig) -> Result<EngineConfig> {
        let mut config = match &self.config {
            Some(path) => {
                EngineConfig::from_file(path).with_context(|| format!("--config {}", path.display()))?
            }
            None => base,
        };
        set(&mut config.device, &self.device);
        config.kernels.extend(self.kernels.iter().cloned());
        config.deterministic |= self.deterministic;
        Ok(config)
    }
}

/// Everything of [`EngineConfig`].
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Engine")]
pub struct EngineOptions {
    /// Hugging Face model folder, or ORG/NAME[@REVISION] on the hub [default: the small model in this binary]
    #[arg(long, value_name = "DIR|ORG/NAME")]
    model: Option<String>,
    #[command(flatten)]
    kernels: KernelOptions,
    /// Storage of weights and KV cache: f32, bf16 or f16 [default: the checkpoint's]
    #[arg(long, value_parser = storage_type)]
    dtype: Option<StorageType>,
    /// CPU threads [default: one for each core]
    #[arg(long)]
    threads: Option<usize>,
    /// Scheduling policy: chunked, fcfs, running_first, sjf, srpt, priority, mlfq, vtc, prefix_aware, deadline or no_evict
    /// [default: chunked]
    #[arg(long, value_name = "NAME")]
    scheduler: Option<String>,
    /// Most tokens that one step computes, over all its sequences [default: 16384]
    #[arg(long, value_name = "N")]
    max_num_batched_tokens: Option<usize>,
    /// Most sequences that hold KV blocks at a time [default: 512]
    #[arg(long, value_name = "N")]
    max_num_seqs: Option<usize>,
    /// Most tokens of one sequence, prompt and output together [default: 4096, or the model's limit if that is less]
    #[arg(long, value_name = "N")]
    max_model_len: Option<usize>,
    /// Share of the device's memory to use, in (0, 1] [default: 0.9]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    gpu_memory_utilization: Option<f64>,
    /// GPUs that one model is spread over [default: 1]
    #[arg(long, value_name = "N")]
    tensor_parallel_size: Option<usize>,
    /// Launch each kernel by itself instead of replaying captured graphs
    #[arg(long)]
    enforce_eager: bool,
    /// Start a step while the one before it still runs [default: true on cuda, false on the cpu]
    #[arg(long, value_name = "BOOL")]
    async_scheduling: Option<bool>,
    /// CUDA: reload kernel files between steps when they are saved, from LATHE_CUDA_DIR or cuda/ of the repository
    #[arg(long)]
    watch: bool,
    /// Tokens in a KV block, a multiple of 16 [default: 256; chat: 16]
    #[arg(long, value_name = "N")]
    kvcache_block_size: Option<usize>,
    /// KV blocks in the pool [default: as many as memory holds]
    #[arg(long, value_name = "N")]
    num_kvcache_blocks: Option<usize>,
    /// Do not share the KV blocks of equal prompt prefixes
    #[arg(long)]
    no_prefix_caching: bool,
    /// What requests without a seed of their own draw one from [default: 0]
    #[arg(long, value_name = "N")]
    engine_seed: Option<u64>,
}

impl EngineOptions {
    /// [`Self::over`] the defaults.
    ///
    /// # Errors
    /// As there.
    pub fn config(&self) -> Result<EngineConfig> {
        self.over(EngineConfig::default())
    }

    /// As [`KernelOptions::over`].
    ///
    /// # Errors
    /// As there.
    pub fn over(&self, base: EngineConfig) -> Result<EngineConfig> {
        let mut config = self.kernels.over(base)?;
        config.model = self.model.clone().or(config.model);
        config.dtype = self.dtype.or(config.dtype);
        config.threads = self.threads.or(config.threads);
        config.num_kvcache_blocks = self.num_kvcache_blocks.or(config.num_kvcache_blocks);
        set(&mut config.scheduler, &self.scheduler);
        set(&mut config.max_num_batched_tokens, &self.max_num_batched_tokens);
        set(&mut config.max_num_seqs, &self.max_num_seqs);
        set(&mut config.max_model_len, &self.max_model_len);
        set(&mut config.gpu_memory_utilization, &self.gpu_memory_utilization);
        set(&mut config.tensor_parallel_size, &self.tensor_parallel_size);
        set(&mut config.kvcache_block_size, &self.kvcache_block_size);
        set(&mut config.seed, &self.engine_seed);
        config.enforce_eager |= self.enforce_eager;
        config.async_scheduling = self.async_scheduling.or(config.async_scheduling);
        config.watch |= self.watch;
        config.enable_prefix_caching &= !self.no_prefix_caching;
        config.validate()?;
        Ok(config)
    }
}

/// Opens the model that `config` names, with any of the lab's policies.
///
/// # Errors
/// As [`LLM::new`].
pub fn open_llm(config: EngineConfig) -> lathe::Result<LLM> {
    let scheduler = policies::all().make(&config.scheduler)?;
    LLM::with_scheduler(config, scheduler)
}

/// Everything of [`SamplingParams`].
#[derive(clap::Args, Debug)]
#[command(
    next_help_heading = "Sampling (not given: what the model's generation_config.json says, else the default)"
)]
pub struct SamplingOptions {
    /// Divides the logits; 0 is greedy [default: 0.7]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Keep the k likeliest tokens; 0 or -1: all [default: all]
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    top_k: Option<i64>,
    /// Keep the likeliest tokens whose probabilities reach this sum, in (0, 1] [default: 1]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    top_p: Option<f64>,
    /// Keep tokens at least this probable relative to the likeliest, in [0, 1] [default: 0]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Fixes the random numbers: the same seed gives the same tokens, whatever else runs [default: 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Most tokens to generate [default: 128; chat: 512]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Tokens to generate before the end-of-sequence token or a stop may end the text [default: 0]
    #[arg(long, value_name = "N")]
    min_tokens: Option<usize>,
    /// End before this string; repeatable
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// End at this token; repeatable
    #[arg(long = "stop-token-id", value_name = "ID")]
    stop_token_ids: Vec<u32>,
    /// Treat end-of-sequence tokens like any other
    #[arg(long)]
    ignore_eos: bool,
    /// Subtracted from the logits of tokens already generated, in [-2, 2] [default: 0]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Subtracted once for each time a token was generated, in [-2, 2] [default: 0]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// Divides positive and multiplies negative logits of tokens in prompt or output [default: 1]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// Added to a token's logit; repeatable
    #[arg(long, value_name = "ID=VALUE", value_parser = pair::<u32, f32>)]
    logit_bias: Vec<(u32, f32)>,
    /// Report (with --json) each token's log-probability and those of the K likeliest
    #[arg(long, value_name = "K")]
    logprobs: Option<usize>,
    /// The same for each token of the prompt
    #[arg(long, value_name = "K")]
    prompt_logprobs: Option<usize>,
    /// Samples for each prompt; the i-th has seed + i [default: 1]
    #[arg(long, value_name = "N")]
    n: Option<usize>,
}

impl SamplingOptions {
    /// The options over what `files` recommends over the defaults that the help text names.
    ///
    /// # Errors
    /// If generation_config.json cannot be read, or `--top-k` is below -1. Other values are checked with the request.
    pub fn params(&self, files: &ModelFiles, max_tokens: usize) -> Result<SamplingParams> {
        let mut params =
            SamplingParams { temperature: 0.7, seed: Some(0), max_tokens, ..SamplingParams::default() };
        let recommended = Recommended::of(files)?;
        set(&mut params.temperature, &self.temperature.or(recommended.temperature));
        if let Some(top_k) = self.top_k.or(recommended.top_k) {
            params.top_k = SamplingParams::parse_top_k(top_k)?;
        }
        set(&mut params.top_p, &self.top_p.or(recommended.top_p));
        set(&mut params.min_p, &self.min_p.or(recommended.min_p));
        set(&mut params.repetition_penalty, &self.repetition_penalty.or(recommended.repetition_penalty));
        params.seed = self.seed.or(params.seed);
        set(&mut params.max_tokens, &self.max_tokens);
        set(&mut params.min_tokens, &self.min_tokens);
        params.stop = self.stop.clone();
        params.stop_token_ids = self.stop_token_ids.clone();
        params.ignore_eos = self.ignore_eos;
        set(&mut params.presence_penalty, &self.presence_penalty);
        set(&mut params.frequency_penalty, &self.frequency_penalty);
        params.logit_bias = self.logit_bias.iter().copied().collect();
        params.logprobs = self.logprobs;
        params.prompt_logprobs = self.prompt_logprobs;
        set(&mut params.n, &self.n);
        Ok(params)
    }
}

/// The sampling that a model's publisher recommends in generation_config.json, of which vLLM takes the same fields.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Recommended {
    temperature: Option<f32>,
    top_k: Option<i64>,
    top_p: Option<f64>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
}

impl Recommended {
    fn of(files: &ModelFiles) -> Result<Self> {
        const NAME: &str = "generation_config.json";
        let Some(json) = files.source.read(NAME)? else { return Ok(Self::default()) };
        serde_json::from_slice(&json).with_context(|| files.source.path(NAME).display().to_string())
    }
}

fn set<T: Clone>(field: &mut T, value: &Option<T>) {
    if let Some(value) = value {
        field.clone_from(value);
    }
}

/// `KEY=VALUE`.
fn pair<K: FromStr, V: FromStr>(text: &str) -> Result<(K, V), String>
where
    K::Err: std::fmt::Display,
    V::Err: std::fmt::Display,
{
    let (key, value) = text.split_once('=').ok_or("there is no =")?;
    Ok((
        key.parse().map_err(|e| format!("{key:?}: {e}"))?,
        value.parse().map_err(|e| format!("{value:?}: {e}"))?,
    ))
}

fn storage_type(text: &str) -> Result<StorageType, String> {
    match text {
        "f32" | "float32" => Ok(StorageType::F32),
        "bf16" | "bfloat16" => Ok(StorageType::Bf16),
        "f16" | "float16" => Ok(StorageType::F16),
        _ => Err("expected f32, bf16 or f16".into()),
    }
}
