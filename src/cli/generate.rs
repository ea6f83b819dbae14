//! `lathe generate`: prompts in, continuations out.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lathe::config::SamplingParams;
use lathe::engine::{FinishReason, TokenLogprobs};
use lathe::llm::{LLM, Output, Prompt};
use lathe::model::Message;
use serde_json::{Value, json};

use super::options::{EngineOptions, SamplingOptions, open_llm};

/// Continue prompts.
///
/// The text of a single prompt appears as it is generated. Of several, a progress bar shows on stderr, and then all
/// outputs in the order of the prompts.
#[derive(clap::Args)]
pub struct Args {
    /// Texts to continue
    #[arg(value_name = "PROMPT", required_unless_present = "prompts_file")]
    prompts: Vec<String>,
    /// More prompts: a JSON list of strings or lists of token ids
    #[arg(long, value_name = "FILE.json")]
    prompts_file: Option<PathBuf>,
    /// Ask each text as a user's message, in the model's chat template
    #[arg(long)]
    chat: bool,
    /// System message for --chat
    #[arg(long, value_name = "TEXT", requires = "chat", allow_hyphen_values = true)]
    system: Option<String>,
    /// Print one JSON object a line for each output: prompt_token_ids, token_ids, text, finish_reason, …
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineOptions,
    #[command(flatten)]
    sampling: SamplingOptions,
}

/// Continues the prompts.
///
/// # Errors
/// Whatever is wrong with the model, the options or a prompt, before anything runs.
pub fn run(args: Args) -> Result<()> {
    let mut prompts: Vec<Prompt> = args.prompts.iter().map(|text| Prompt::Text(text.clone())).collect();
    if let Some(path) = &args.prompts_file {
        prompts.append(&mut read_prompts(path)?);
    }
    let mut llm = open_llm(args.engine.config()?)?;
    let params = args.sampling.params(llm.files(), 128)?;
    if args.chat {
        for prompt in &mut prompts {
            if let Prompt::Text(text) = prompt {
                let system = args.system.iter().map(|text| Message::new("system", text));
                let messages: Vec<_> = system.chain([Message::new("user", text.as_str())]).collect();
                *prompt = chat_prompt(&llm, &messages)?;
            }
        }
    }
    match prompts.as_slice() {
        [prompt] if params.n == 1 && !args.json => stream(&mut llm, prompt, &params, args.chat),
        prompts => {
            let outputs = llm.generate(prompts, std::slice::from_ref(&params), true)?;
            let numbered = outputs.iter().enumerate().map(|(i, output)| (i / params.n, output));
            if args.json { print_objects(numbered, &params) } else { print_texts(&llm, numbered, &params) }
        }
    }
}

/// The tokens that ask for an answer to `messages`.
///
/// # Errors
/// If the model has no chat template or tokenizer, or the template refuses the messages.
pub fn chat_prompt(llm: &LLM, messages: &[Message]) -> Result<Prompt> {
    let text = llm.files().chat_template()?.render(messages, true, &serde_json::Map::new())?;
    Ok(Prompt::Tokens(llm.files().tokenizer()?.encode(&text, false)?))
}

fn read_prompts(path: &Path) -> Result<Vec<Prompt>> {
    let text = std::fs::read(path).with_context(|| path.display().to_string())?;
    let values: Vec<Value> = serde_json::from_slice(&text)
        .with_context(|| format!("{}: expected a JSON list of prompts", path.display()))?;
    let prompt = |(i, value)| match value {
        Value::String(text) => Ok(Prompt::Text(text)),
        value => match serde_json::from_value(value) {
            Ok(ids) => Ok(Prompt::Tokens(ids)),
            Err(error) => {
                bail!("{}: prompt {i} is neither a string nor a list of token ids: {error}", path.display())
            }
        },
    };
    values.into_iter().enumerate().map(prompt).collect()
}

/// Prints the prompt and its continuation as it comes, and the rates on stderr.
fn stream(llm: &mut LLM, prompt: &Prompt, params: &SamplingParams, chat: bool) -> Result<()> {
    let mut out = io::stdout().lock();
    let readable = llm.files().has_tokenizer();
    let prompt_ids = llm.encode(prompt)?;
    let echo = match prompt {
        // The template around a question is of no interest.
        _ if chat => String::new(),
        Prompt::Text(text) => text.clone(),
        Prompt::Tokens(ids) => show_tokens(llm, ids)?,
    };
    let mut pieces = llm.stream(&Prompt::Tokens(prompt_ids), params)?;
    out.write_all(echo.as_bytes())?;
    out.flush()?;
    let mut last = None;
    for piece in &mut pieces {
        let piece = piece?;
        match piece.token_id {
            Some(id) if !readable => write!(out, " {id}")?,
            _ => out.write_all(piece.text.as_bytes())?,
        }
        out.flush()?;
        last = piece.output;
    }
    drop(pieces);
    writeln!(out)?;
    let output = last.context("the generation ended without an output")?;
    if output.finish_reason == FinishReason::Error {
        bail!("the logits after {} generated tokens are not numbers", output.token_ids.len());
    }
    let seed = params
        .seed
        .filter(|_| params.temperature > 0.0)
        .map_or(String::new(), |seed| format!("; seed {seed}"));
    writeln!(io::stderr(), "{}{seed}", Rates::of(&output))?;
    Ok(())
}

/// The text of `ids`, or the ids where there is no tokenizer.
fn show_tokens(llm: &LLM, ids: &[u32]) -> Result<String> {
    if llm.files().has_tokenizer() {
        return Ok(llm.files().tokenizer()?.decode(ids)?);
    }
    Ok(ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" "))
}

fn print_texts<'a>(
    llm: &LLM,
    outputs: impl Iterator<Item = (usize, &'a Output)>,
    params: &SamplingParams,
) -> Result<()> {
    let mut out = io::stdout().lock();
    for (prompt, output) in outputs {
        let sample = if params.n > 1 { format!(", sample {}", output.sample) } else { String::new() };
        let (len, reason) = (output.token_ids.len(), output.finish_reason.as_str());
        writeln!(out, "=== prompt {prompt}{sample}: {len} tokens, {reason}")?;
        let before = show_tokens(llm, &output.prompt_token_ids)?;
        if llm.files().has_tokenizer() {
            writeln!(out, "{before}{}", output.text)?;
        } else {
            writeln!(out, "{before} {}", show_tokens(llm, &output.token_ids)?)?;
        }
    }
    Ok(())
}

fn print_objects<'a>(
    outputs: impl Iterator<Item = (usize, &'a Output)>,
    params: &SamplingParams,
) -> Result<()> {
    for (prompt, output) in outputs {
        let mut object = json!({
            "prompt": prompt,
            "sample": output.sample,
            "prompt_token_ids": output.prompt_token_ids,
            "token_ids": output.token_ids,
            "text": output.text,
            "finish_reason": output.finish_reason.as_str(),
        });
        if params.logprobs.is_some() {
            let all: Vec<Value> = output
                .token_ids
                .iter()
                .zip(&output.logprobs)
                .map(|(&id, logprobs)| describe(id, logprobs))
                .collect();
            object["logprobs"] = all.into();
        }
        if params.prompt_logprobs.is_some() && output.sample == 0 {
            let ids = output.prompt_token_ids.iter();
            let known = output.prompt_logprobs.iter().map(Option::as_ref).chain(std::iter::repeat(None));
            let all: Vec<Value> = ids
                .zip(known)
                .map(|(&id, logprobs)| logprobs.map_or(Value::Null, |l| describe(id, l)))
                .collect();
            object["prompt_logprobs"] = all.into();
        }
        super::print_json(&object)?;
    }
    Ok(())
}

fn describe(token_id: u32, logprobs: &TokenLogprobs) -> Value {
    json!({"token_id": token_id, "logprob": logprobs.logprob, "rank": logprobs.rank, "top": logprobs.top})
}

/// How fast one generation was, by the engine's clock.
pub struct Rates {
    prompt: usize,
    prefix_hit: usize,
    tokens: usize,
    /// From arrival to the first token, in seconds.
    ttft: f64,
    /// From the first token to the last, in seconds.
    decode: f64,
}

impl Rates {
    /// Of a finished generation.
    pub fn of(output: &Output) -> Self {
        let timing = output.timing;
        let first = timing.first_token.unwrap_or(timing.arrival);
        Self {
            prompt: output.prompt_token_ids.len(),
            prefix_hit: output.prefix_hit,
            tokens: output.token_ids.len(),
            ttft: first - timing.arrival,
            decode: timing.finished.unwrap_or(first) - first,
        }
    }
}

impl std::fmt::Display for Rates {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Self { prompt, prefix_hit, tokens, ttft, decode } = *self;
        write!(f, "{prompt} prompt tokens")?;
        if prefix_hit > 0 {
            write!(f, " ({prefix_hit} from the prefix cache)")?;
        }
        write!(f, ", {tokens} generated; prefill {:.1} tok/s", (prompt - prefix_hit) as f64 / ttft)?;
        if tokens > 1 {
            write!(f, ", decode {:.1} tok/s", (tokens - 1) as f64 / decode)?;
        }
        write!(f, ", time to first token {:.0} ms", ttft * 1e3)
    }
}
