//! Text in, text out: [`LLM`], as in nano-vLLM.

use std::{collections::HashMap, sync::Arc, time::Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    config::{EngineConfig, SamplingParams},
    engine::{
        Engine, FinishReason, RequestId, RequestOptions, Scheduler, SeqId, Timing, TokenLogprobs, Vocabulary,
        policies,
    },
    error::{Error, Result},
    model::{Detokenizer, ModelFiles, StopFilter},
    open::{self, ModelRunner},
};

/// What to continue.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Text, encoded with the special tokens that the tokenizer puts around it.
    Text(String),
    /// Token ids as they are.
    Tokens(Vec<u32>),
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<Vec<u32>> for Prompt {
    fn from(tokens: Vec<u32>) -> Self {
        Self::Tokens(tokens)
    }
}

/// A finished generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Its request.
    pub request: RequestId,
    /// Which of the request's `n`.
    pub sample: u32,
    /// The prompt as the model saw it.
    pub prompt_token_ids: Vec<u32>,
    /// The generated tokens; a token that ended it is the last.
    pub token_ids: Vec<u32>,
    /// Their text without special tokens, up to the stop string if one ended it. Empty without a tokenizer.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Of the generated tokens, if asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// Of the prompt's tokens, if asked for; the first has none.
    pub prompt_logprobs: Vec<Option<TokenLogprobs>>,
    /// Tokens of the prompt that the prefix cache had.
    pub prefix_hit: usize,
    /// When things happened, in seconds on the engine's clock.
    pub timing: Timing,
}

/// What a step gave one generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Its request.
    pub request: RequestId,
    /// Which of the request's `n`.
    pub sample: u32,
    /// The new token; none if the logits were invalid.
    pub token_id: Option<u32>,
    /// Text that is final now; never a part of a stop string or of a character.
    pub text: String,
    /// The whole generation, if it ended.
    pub output: Option<Output>,
}

/// A model, its engine and its tokenizer.
pub struct LLM {
    engine: Engine,
    files: Arc<ModelFiles>,
    config: EngineConfig,
    about: String,
    step_bytes: usize,
    /// By sequence slot.
    texts: HashMap<SeqId, TextState>,
}

/// A generation's text so far.
struct TextState {
    detokenizer: Option<Detokenizer>,
    stop: StopFilter,
    text: String,
}

impl LLM {
    /// Opens the model that `config` names on its device, with its scheduler and kernels.
    ///
    /// # Errors
    /// One that names the file, field or choice at fault.
    pub fn new(config: EngineConfig) -> Result<Self> {
        let scheduler = policies::by_name(&config.scheduler)?;
        Self::with_scheduler(config, scheduler)
    }

    /// As [`Self::new`], with a policy of the caller's own.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_scheduler(mut config: EngineConfig, scheduler: Box<dyn Scheduler>) -> Result<Self> {
        config.validate()?;
        let files = open::files(&config)?;
        config.max_model_len = config.max_model_len.min(files.config.max_position_embeddings);
        let runner = open::runner(&config, &files)?;
        Self::with_runner(config, files, runner, scheduler)
    }

    /// As [`Self::with_scheduler`], with a runner of the caller's own, see [`open::runner_on`].
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_runner(
        mut config: EngineConfig,
        files: ModelFiles,
        runner: Box<dyn ModelRunner>,
        scheduler: Box<dyn Scheduler>,
    ) -> Result<Self> {
        config.num_kvcache_blocks = Some(runner.num_blocks());
        let vocabulary =
            Vocabulary { size: files.config.vocab_size, eos_token_ids: files.config.eos.clone() };
        let (about, step_bytes) = (runner.describe(), runner.step_bytes());
        let engine = Engine::new(&config, vocabulary, scheduler, runner)?;
        Ok(Self { engine, files: Arc::new(files), config, about, step_bytes, texts: HashMap::new() })
    }

    /// The configuration in force.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// The model's files.
    pub fn files(&self) -> &ModelFiles {
        &self.files
    }

    /// The engine, for its counts and its policy.
    pub fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// Device and storage dtype, to print.
    pub fn describe(&self) -> &str {
        &self.about
    }

    /// Bytes of weights that every decode step reads.
    pub fn step_bytes(&self) -> usize {
        self.step_bytes
    }

    /// The prompt's tokens.
    ///
    /// # Errors
    /// [`Error::Model`] for text without a tokenizer, or that the tokenizer fails on.
    pub fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        match prompt {
            Prompt::Tokens(tokens) => Ok(tokens.clone()),
            Prompt::Text(text) => self.files.tokenizer()?.encode(text, true),
        }
    }

    /// Queues a request; [`Self::step`] runs it.
    ///
    /// # Errors
    /// One that names what cannot work; nothing is queued then and other requests are untouched.
    pub fn add_request(
        &mut self,
        prompt: &Prompt,
        params: &SamplingParams,
        options: RequestOptions,
    ) -> Result<RequestId> {
        if !params.stop.is_empty() {
            self.files.tokenizer()?;
        }
        self.engine.add_request(&self.encode(prompt)?, params.clone(), options)
    }

    /// Whether nothing is left to run.
    pub fn is_finished(&self) -> bool {
        self.engine.is_finished()
    }

    /// Gives a request up. Returns whether any of it was unfinished.
    pub fn abort(&mut self, request: RequestId) -> bool {
        self.texts.retain(|&id, _| self.engine.seq(id).is_none_or(|s| s.request() != request));
        self.engine.abort(request)
    }

    /// Runs one step.
    ///
    /// # Errors
    /// As [`Engine::step`].
    pub fn step(&mut self) -> Result<Vec<Piece>> {
        let events = self.engine.step()?.to_vec();
        events.into_iter().map(|e| self.piece(e.id, e.token, e.finish)).collect()
    }

    /// Turns what happened to a sequence into text, and ends it at a stop string.
    fn piece(&mut self, id: SeqId, token: Option<u32>, mut finish: Option<FinishReason>) -> Result<Piece> {
        let seq = self.engine.seq(id).expect("readable until the next step");
        let state = match self.texts.entry(id) {
            std::collections::hash_map::Entry::Occupied(e) => e.into_mut(),
            std::collections::hash_map::Entry::Vacant(e) => {
                let tokenizer = self.files.tokenizer().ok().cloned();
                let detokenizer =
                    tokenizer.map(|t| Detokenizer::new(t, &seq.tokens[..seq.prompt_len])).transpose()?;
                e.insert(TextState {
                    detokenizer,
                    stop: StopFilter::new(&seq.params.stop),
                    text: String::new(),
                })
            }
        };
        let mut text = String::new();
        if let (Some(detokenizer), Some(token)) = (&mut state.detokenizer, token) {
            let mut new = detokenizer.push(token)?;
            if finish.is_some() {
                new += &detokenizer.finish()?;
            }
            // As in vLLM, a stop string that ends within the first min_tokens is text like any other.
            let filtered = state.stop.push(&new, seq.generated() > seq.params.min_tokens);
            text = filtered.text;
            if filtered.stopped {
                finish = Some(FinishReason::StopString);
            } else if finish.is_some() {
                text += &state.stop.finish();
            }
        }
        state.text += &text;
        let (request, sample) = (seq.request(), seq.sample);
        let Some(finish_reason) = finish else {
            return Ok(Piece { request, sample, token_id: token, text, output: None });
        };
        self.engine.finish(id, finish_reason);
        let whole = self.texts.remove(&id).map(|s| s.text).unwrap_or_default();
        let seq = self.engine.seq(id).expect("readable until the next step");
        let output = Output {
            request,
            sample,
            prompt_token_ids: seq.tokens[..seq.prompt_len].to_vec(),
            token_ids: seq.output().to_vec(),
            text: whole,
            finish_reason,
            logprobs: seq.logprobs.clone(),
            prompt_logprobs: seq.prompt_logprobs.clone(),
            prefix_hit: seq.prefix_hit,
            timing: seq.timing,
        };
        Ok(Piece { request, sample, token_id: token, text, output: Some(output) })
    }

    /// Continues every prompt: `params` are one for all or one each. The outputs are in the prompts' order, the `n`
    /// of one prompt together; `progress` shows a bar with prefill and decode tokens/s on stderr.
    ///
    /// # Errors
    /// The first request that is refused, before any runs; an engine error, after which nothing is left queued.
    pub fn generate(
        &mut self,
        prompts: &[Prompt],
        params: &[SamplingParams],
        progress: bool,
    ) -> Result<Vec<Output>> {
        if params.len() != 1 && params.len() != prompts.len() {
            return Err(Error::request(
                "sampling parameters",
                params.len(),
                format!("1 or {}", prompts.len()),
            ));
        }
        let mut requests = Vec::with_capacity(prompts.len());
        let result = self.generate_into(prompts, params, progress, &mut requests);
        if result.is_err() {
            for request in requests {
                self.abort(request);
            }
        }
        result
    }

    fn generate_into(
        &mut self,
        prompts: &[Prompt],
        params: &[SamplingParams],
        progress: bool,
        requests: &mut Vec<RequestId>,
    ) -> Result<Vec<Output>> {
        for (i, prompt) in prompts.iter().enumerate() {
            let request = self.add_request(prompt, &params[i % params.len()], RequestOptions::default());
            requests.push(request.map_err(|error| match error {
                Error::Request { field, got, want } if prompts.len() > 1 => {
                    Error::Request { field: format!("prompts[{i}]: {field}"), got, want }
                }
                other => other,
            })?);
        }
        let bar = Progress::new(progress.then_some(prompts.len() as u64));
        let mut outputs = Vec::with_capacity(prompts.len());
        while !self.is_finished() {
            outputs.extend(self.step()?.into_iter().filter_map(|p| p.output));
            bar.show(&self.engine, outputs.len() as u64);
        }
        outputs.retain(|o| requests.contains(&o.request));
        outputs.sort_by_key(|o| (o.request, o.sample));
        Ok(outputs)
    }

    /// Continues one prompt (of `n` = 1) and yields its pieces as they come. Dropping the iterator aborts the request.
    ///
    /// # Errors
    /// As [`Self::add_request`].
    pub fn stream(&mut self, prompt: &Prompt, params: &SamplingParams) -> Result<Stream<'_>> {
        let request = self.add_request(prompt, params, RequestOptions::default())?;
        Ok(Stream { llm: self, request, ready: Vec::new().into_iter(), done: false })
    }
}

/// Pieces of one generation; see [`LLM::stream`].
pub struct Stream<'a> {
    llm: &'a mut LLM,
    request: RequestId,
    ready: std::vec::IntoIter<Piece>,
    done: bool,
}

impl Iterator for Stream<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        loop {
            if let Some(piece) = self.ready.find(|p| p.request == self.request) {
                return Some(Ok(piece));
            }
            if self.done || self.llm.is_finished() {
                return None;
            }
            match self.llm.step() {
                Ok(pieces) => self.ready = pieces.into_iter(),
                Err(e) => {
                    self.done = true;
                    return Some(Err(e));
                }
            }
        }
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        self.llm.abort(self.request);
    }
}

/// nano-vLLM's bar: requests done, and the rates of prefill and decode so far.
struct Progress {
    bar: Option<ProgressBar>,
    start: Instant,
}

impl Progress {
    fn new(requests: Option<u64>) -> Self {
        let style = "{bar:30} {pos}/{len} [{elapsed}<{eta}] {msg}";
        let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
        Self { bar: requests.map(|n| ProgressBar::new(n).with_style(style)), start: Instant::now() }
    }

    fn show(&self, engine: &Engine, done: u64) {
        if let Some(bar) = &self.bar {
            let (stats, seconds) = (engine.stats(), self.start.elapsed().as_secs_f64());
            let rate = |n: usize| n as f64 / seconds;
            let (prefill, decode) = (rate(stats.prefill_tokens), rate(stats.decode_tokens));
            bar.set_message(format!("prefill {prefill:.0} tok/s, decode {decode:.0} tok/s"));
            bar.set_position(done);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}
