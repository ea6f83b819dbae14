//! `lathe chat`: a conversation, line by line.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Context, Result, bail};
use lathe::config::{EngineConfig, SamplingParams};
use lathe::engine::FinishReason;
use lathe::llm::{LLM, Output};
use lathe::model::Message;

use super::generate::{Rates, chat_prompt};
use super::options::{EngineOptions, SamplingOptions, open_llm};

/// Talk with a model, line by line.
///
/// /reset forgets the conversation; /quit or the end of the input ends it. After each answer, stderr tells how fast it
/// was and how much of the conversation came from the prefix cache. The cache knows whole KV blocks only, so they have
/// 16 tokens here unless --config or --kvcache-block-size says otherwise.
#[derive(clap::Args)]
pub struct Args {
    /// System message
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    #[command(flatten)]
    engine: EngineOptions,
    #[command(flatten)]
    sampling: SamplingOptions,
}

/// Talks until the input ends.
///
/// # Errors
/// For a model that has no chat template, and whatever is wrong with the options. A message that the model cannot take
/// is reported, and the conversation goes on without it.
pub fn run(args: Args) -> Result<()> {
    let config = args.engine.over(EngineConfig { kvcache_block_size: 16, ..EngineConfig::default() })?;
    let mut llm = open_llm(config)?;
    let params = args.sampling.params(llm.files(), 512)?;
    params.validate(llm.files().config.vocab_size)?;
    if params.n > 1 {
        bail!("n is {}, expected 1 in a chat", params.n);
    }
    llm.files().chat_template()?;
    llm.files().tokenizer()?;

    let system = args.system.map(|text| Message::new("system", text));
    let mut messages: Vec<Message> = system.iter().cloned().collect();
    let mut input = io::stdin().lock();
    let mut line = Vec::new();
    loop {
        if io::stdin().is_terminal() {
            write!(io::stderr(), "> ")?;
        }
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        match String::from_utf8_lossy(&line).trim() {
            "" => {}
            "/quit" => return Ok(()),
            "/reset" => messages = system.iter().cloned().collect(),
            command if command.starts_with('/') => {
                writeln!(io::stderr(), "unknown command {command}; known: /reset, /quit")?;
            }
            text => {
                messages.push(Message::new("user", text));
                match answer(&mut llm, &messages, &params) {
                    Ok(output) => {
                        writeln!(io::stderr(), "[{}]", Rates::of(&output))?;
                        messages.push(Message::new("assistant", output.text));
                    }
                    Err(error) if error.downcast_ref::<io::Error>().is_some() => return Err(error),
                    Err(error) => {
                        messages.pop();
                        writeln!(io::stderr(), "error: {}", super::one_line(&format!("{error:#}")))?;
                    }
                }
            }
        }
    }
}

/// Prints the answer to the last message as it comes.
fn answer(llm: &mut LLM, messages: &[Message], params: &SamplingParams) -> Result<Output> {
    let prompt = chat_prompt(llm, messages)?;
    let mut out = io::stdout().lock();
    let mut last = None;
    for piece in llm.stream(&prompt, params)? {
        let piece = piece?;
        out.write_all(piece.text.as_bytes())?;
        out.flush()?;
        last = piece.output;
    }
    writeln!(out)?;
    let output = last.context("the generation ended without an output")?;
    if output.finish_reason == FinishReason::Error {
        bail!("the logits after {} generated tokens are not numbers", output.token_ids.len());
    }
    Ok(output)
}
