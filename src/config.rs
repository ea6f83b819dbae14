//! What a user sets: [`EngineConfig`] for the engine, [`SamplingParams`] for a request.
//!
//! Names and defaults are nano-vLLM's where it has them and vLLM's otherwise. Both read from TOML or JSON, refuse
//! fields they do not know, and check every value before anything is built or queued.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};

/// The number type that weights and KV cache are stored in. Sums are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StorageType {
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

/// How the engine is set up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// A Hugging Face model folder or hub name; `None` is the small model inside the binary.
    pub model: Option<String>,
    /// Most tokens that one step computes, over all its sequences.
    pub max_num_batched_tokens: usize,
    /// Most sequences that hold KV blocks at a time.
    pub max_num_seqs: usize,
    /// Most tokens of one sequence, prompt and output together.
    pub max_model_len: usize,
    /// Share of the device's memory that weights, activations and KV cache may take, in (0, 1].
    pub gpu_memory_utilization: f64,
    /// GPUs that one model is spread over.
    pub tensor_parallel_size: usize,
    /// Launch each kernel by itself instead of replaying captured graphs.
    pub enforce_eager: bool,
    /// Choose kernels whose result for a row does not depend on the batch, so that a request gives the same tokens
    /// alone and among others. The CPU's never depend on it.
    pub deterministic: bool,
    /// Plan and start a step while the one before it still runs. What finishes is then noticed a step later, and tokens
    /// that were computed for it are dropped; results are the same. `None`: where the device works while the host goes on.
    pub async_scheduling: Option<bool>,
    /// Take up CUDA kernel files when they are saved, between steps.
    pub watch: bool,
    /// Tokens in a KV block, a multiple of 16.
    pub kvcache_block_size: usize,
    /// KV blocks in the pool; `None`: as many as the device's memory holds.
    pub num_kvcache_blocks: Option<usize>,
    /// Share the KV blocks of equal prompt prefixes.
    pub enable_prefix_caching: bool,
    /// `"cpu"` or `"cuda"`.
    pub device: String,
    /// Storage type of weights and KV cache; `None`: the checkpoint's own.
    pub dtype: Option<StorageType>,
    /// CPU threads; `None`: one for each core.
    pub threads: Option<usize>,
    /// The scheduling policy, by name.
    pub scheduler: String,
    /// Kernels chosen by name, by slot: `{"attention.decode": "reference"}`. Others keep their default.
    pub kernels: BTreeMap<String, String>,
    /// Requests without a seed of their own draw one from this and their number.
    pub seed: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            model: None,
            max_num_batched_tokens: 16384,
            max_num_seqs: 512,
            max_model_len: 4096,
            gpu_memory_utilization: 0.9,
            tensor_parallel_size: 1,
            enforce_eager: false,
            deterministic: false,
            async_scheduling: None,
            watch: false,
            kvcache_block_size: 256,
            num_kvcache_blocks: None,
            enable_prefix_caching: true,
            device: "cpu".into(),
            dtype: None,
            threads: None,
            scheduler: "chunked".into(),
            kernels: BTreeMap::new(),
            seed: 0,
        }
    }
}

impl EngineConfig {
    /// Reads and checks a TOML text; what it leaves out keeps its default.
    ///
    /// # Errors
    /// [`Error::Config`] for text that is not TOML, an unknown field, a value of the wrong type or out of range.
    pub fn from_toml(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text).map_err(|e| {
            let before = text.bytes().take(e.span().map_or(0, |span| span.start));
            let line = before.filter(|&byte| byte == b'\n').count() + 1;
            let setting = text.lines().nth(line - 1).unwrap_or_default().trim();
            Error::config(
                format!("line {line}, {setting:?},"),
                e.message(),
                "a setting of the engine, in TOML",
            )
        })?;
        config.validate()?;
        Ok(config)
    }

    /// [`Self::from_toml`] of a file.
    ///
    /// # Errors
    /// As [`Self::from_toml`]; [`Error::Io`] if the file cannot be read.
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::from_toml(&std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?)
    }

    /// Checks every value that can be judged without a model or device.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first field at fault.
    pub fn validate(&self) -> Result<()> {
        let at_least = |field: &str, got: usize, least: usize| {
            if got < least { Err(Error::config(field, got, format!("at least {least}"))) } else { Ok(()) }
        };
        at_least("max_num_batched_tokens", self.max_num_batched_tokens, 1)?;
        at_least("max_num_seqs", self.max_num_seqs, 1)?;
        at_least("max_model_len", self.max_model_len, 2)?;
        at_least("tensor_parallel_size", self.tensor_parallel_size, 1)?;
        at_least("num_kvcache_blocks", self.num_kvcache_blocks.unwrap_or(1), 1)?;
        at_least("threads", self.threads.unwrap_or(1), 1)?;
        let share = self.gpu_memory_utilization;
        if !(share > 0.0 && share <= 1.0) {
            return Err(Error::config("gpu_memory_utilization", share, "more than 0 and at most 1"));
        }
        if self.kvcache_block_size == 0 || !self.kvcache_block_size.is_multiple_of(16) {
            return Err(Error::config("kvcache_block_size", self.kvcache_block_size, "a multiple of 16"));
        }
        Ok(())
    }
}

/// How a request's tokens are chosen and when it ends. Semantics are vLLM's, except that `logprobs` may go up to the
/// whole vocabulary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingParams {
    /// Divides the logits; 0 is greedy.
    pub temperature: f32,
    /// Keep the k likeliest tokens. Reads and writes vLLM's integers, where 0 and -1 are `None`.
    #[serde(deserialize_with = "read_top_k", serialize_with = "write_top_k")]
    pub top_k: Option<NonZeroU32>,
    /// Keep the likeliest tokens whose probabilities reach this sum, in (0, 1].
    pub top_p: f64,
    /// Keep tokens at least this probable relative to the likeliest, in [0, 1].
    pub min_p: f32,
    /// Fixes the request's random numbers; `None` draws a seed at admission.
    pub seed: Option<u64>,
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// Tokens to generate before an end-of-sequence or stop token may be sampled, or a stop string ends the request.
    pub min_tokens: usize,
    /// The request ends when its text contains one of these.
    pub stop: Vec<String>,
    /// The request ends when one of these is sampled.
    pub stop_token_ids: Vec<u32>,
    /// Treat end-of-sequence tokens like any other.
    pub ignore_eos: bool,
    /// Subtracted from the logits of tokens already generated, in [-2, 2].
    pub presence_penalty: f32,
    /// Subtracted once for each time a token was generated, in [-2, 2].
    pub frequency_penalty: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt or output; more than 0.
    pub repetition_penalty: f32,
    /// Added to the logits, by token id.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Report each sampled token's log-probability and those of this many likeliest tokens.
    pub logprobs: Option<usize>,
    /// The same for each token of the prompt.
    pub prompt_logprobs: Option<usize>,
    /// Sequences to sample from the prompt; the i-th has seed + i.
    pub n: usize,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            seed: None,
            max_tokens: 64,
            min_tokens: 0,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: BTreeMap::new(),
            logprobs: None,
            prompt_logprobs: None,
            n: 1,
        }
    }
}

impl SamplingParams {
    /// Most sequences of one request, as in vLLM.
    pub const MAX_N: usize = 16384;

    /// The defaults at temperature 0.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Whether tokens so far change the logits of the next.
    pub fn has_penalties(&self) -> bool {
        [self.repetition_penalty, self.frequency_penalty, self.presence_penalty] != [1.0, 0.0, 0.0]
    }

    /// Checks every value for a model with `vocab_size` tokens.
    ///
    /// # Errors
    /// [`Error::Request`] naming the first parameter at fault, its value and what would do.
    pub fn validate(&self, vocab_size: usize) -> Result<()> {
        // Ranges are written so that NaN fails them.
        let within = |field: &str, got: f32, ok: bool, want: &str| {
            if ok && got.is_finite() { Ok(()) } else { Err(Error::request(field, got, want)) }
        };
        let penalty = -2.0..=2.0;
        within("temperature", self.temperature, self.temperature >= 0.0, "0 or more, finite")?;
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::request("top_p", self.top_p, "more than 0 and at most 1"));
        }
        within("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "0 to 1")?;
        within(
            "presence_penalty",
            self.presence_penalty,
            penalty.contains(&self.presence_penalty),
            "-2 to 2",
        )?;
        within(
            "frequency_penalty",
            self.frequency_penalty,
            penalty.contains(&self.frequency_penalty),
            "-2 to 2",
        )?;
        let repetition = self.repetition_penalty;
        within("repetition_penalty", repetition, repetition > 0.0, "more than 0, finite")?;
        for (&token, &bias) in &self.logit_bias {
            within(&format!("logit_bias[{token}]"), bias, true, "a finite number")?;
        }
        let ids = self.stop_token_ids.iter().map(|t| ("stop_token_ids", t));
        for (field, &token) in ids.chain(self.logit_bias.keys().map(|t| ("logit_bias", t))) {
            if token as usize >= vocab_size {
                return Err(Error::request(field, token, format!("token ids below {vocab_size}")));
            }
        }
        for (field, count) in [("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)] {
            if let Some(count) = count.filter(|&count| count > vocab_size) {
                return Err(Error::request(field, count, format!("at most the vocabulary's {vocab_size}")));
            }
        }
        if self.max_tokens == 0 {
            return Err(Error::request("max_tokens", 0, "at least 1"));
        }
        if self.min_tokens > self.max_tokens {
            let want = format!("at most max_tokens, which is {}", self.max_tokens);
            return Err(Error::request("min_tokens", self.min_tokens, want));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(Error::request("stop", "an empty string", "strings with at least one character"));
        }
        if self.n == 0 || self.n > Self::MAX_N {
            return Err(Error::request("n", self.n, format!("1 to {}", Self::MAX_N)));
        }
        if self.n > 1 && self.temperature == 0.0 {
            return Err(Error::request(
                "n",
                self.n,
                "1 at temperature 0, where every sequence would be the same",
            ));
        }
        Ok(())
    }

    /// `top_k` from vLLM's integer: 0 and -1 are off.
    ///
    /// # Errors
    /// [`Error::Request`] below -1 or above `u32::MAX`.
    pub fn parse_top_k(value: i64) -> Result<Option<NonZeroU32>> {
        match u32::try_from(value.max(0)) {
            Ok(k) if value >= -1 => Ok(NonZeroU32::new(k)),
            _ => Err(Error::request("top_k", value, "0 or -1 for off, or at least 1")),
        }
    }
}

fn read_top_k<'de, D: Deserializer<'de>>(from: D) -> Result<Option<NonZeroU32>, D::Error> {
    SamplingParams::parse_top_k(i64::deserialize(from)?).map_err(serde::de::Error::custom)
}

fn write_top_k<S: Serializer>(top_k: &Option<NonZeroU32>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u32(top_k.map_or(0, NonZeroU32::get))
}
