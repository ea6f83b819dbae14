//! `lathe bench latency`: one request alone, and how near decode comes to the memory's bandwidth.

use std::hint::black_box;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use lathe::device::{Cpu, CpuBuffer, Device};
use serde_json::json;

use super::measure::measure;
use super::workload::{Request, random_prompt};
use crate::cli::machine::Machine;
use crate::cli::options::{EngineOptions, open_llm};

/// Time one greedy request alone: prefill, decode, and decode's share of the memory's read bandwidth.
///
/// Decode reads all weights for every token; the bandwidth is that of reading a large buffer with as many threads,
/// measured before each repetition, on the CPU alone. Figures are the best repetition's.
#[derive(clap::Args)]
pub struct Args {
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    input: u32,
    /// Tokens to generate
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(2..))]
    output: u32,
    /// Repetitions
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Write a report
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineOptions,
}

/// One repetition.
#[derive(Clone, Copy, Debug, serde::Serialize)]
struct Repetition {
    ttft_seconds: f64,
    tpot_seconds: f64,
    read_bytes_per_second: Option<f64>,
}

/// Runs the repetitions and prints the best of each figure.
///
/// # Errors
/// If the lengths do not fit the model.
pub fn run(args: Args) -> Result<()> {
    let config = args.engine.config()?;
    let (input, output) = (args.input as usize, args.output as usize);
    let mut llm = open_llm(config)?;
    let (most, vocab) = (llm.config().max_model_len, llm.files().config.vocab_size);
    ensure!(
        input + output <= most,
        "--input and --output are {input} + {output}, expected at most max_model_len, which is {most}"
    );
    let on_cpu = llm.config().device == "cpu";
    let buffer = on_cpu.then(|| Bandwidth::new(llm.config().threads)).transpose()?;

    let warm_up = Request { prompt: random_prompt(0, input, vocab), max_tokens: 2 };
    measure(llm.engine(), &[warm_up], 0.0)?;
    let mut repetitions = Vec::new();
    for repetition in 1..=args.repeat {
        let read_bytes_per_second = buffer.as_ref().map(Bandwidth::measure);
        // Another prompt each time, which the prefix cache does not have.
        let request = Request { prompt: random_prompt(repetition, input, vocab), max_tokens: output };
        let measured = measure(llm.engine(), &[request], 0.0)?;
        let (ttft_seconds, tpot_seconds) = (measured.ttft[0], measured.tpot[0]);
        repetitions.push(Repetition { ttft_seconds, tpot_seconds, read_bytes_per_second });
    }
    let least = |of: fn(&Repetition) -> f64| repetitions.iter().map(of).fold(f64::INFINITY, f64::min);
    let (ttft, tpot) = (least(|r| r.ttft_seconds), least(|r| r.tpot_seconds));
    let bandwidth = repetitions.iter().filter_map(|r| r.read_bytes_per_second).reduce(f64::max);
    let weight_bytes = llm.step_bytes();
    let weight_rate = weight_bytes as f64 / tpot;

    let mut out = io::stdout().lock();
    writeln!(out, "prefill {input} tokens: {:.1} tok/s (TTFT {:.1} ms)", input as f64 / ttft, ttft * 1e3)?;
    writeln!(out, "decode {output} tokens: {:.1} tok/s (TPOT {:.2} ms)", 1.0 / tpot, tpot * 1e3)?;
    write!(
        out,
        "decode reads {:.1} MB of weights a token at {:.2} GB/s",
        weight_bytes as f64 / 1e6,
        weight_rate / 1e9
    )?;
    if let Some(read) = bandwidth {
        let (share, gb, mb) = (100.0 * weight_rate / read, read / 1e9, Bandwidth::BYTES / 1_000_000);
        write!(out, ": {share:.0}% of the {gb:.2} GB/s that reading {mb} MB reaches")?;
    }
    writeln!(out)?;
    let Some(path) = &args.json else { return Ok(()) };
    let report = json!({
        "input": input,
        "output": output,
        "prefill_tokens_per_second": input as f64 / ttft,
        "decode_tokens_per_second": 1.0 / tpot,
        "ttft_seconds": ttft,
        "tpot_seconds": tpot,
        "weight_bytes": weight_bytes,
        "weight_bytes_per_second": weight_rate,
        "read_bytes_per_second": bandwidth,
        "weight_share_of_read": bandwidth.map(|read| weight_rate / read),
        "repetitions": repetitions,
        "device": llm.describe(),
        "config": llm.config(),
        "machine": Machine::this(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    super::write_report(path, &report)
}

/// Measures how fast the pool's threads read memory together.
struct Bandwidth {
    cpu: Cpu,
    buffer: CpuBuffer,
}

impl Bandwidth {
    /// Much larger than any cache of one socket.
    const BYTES: usize = 1 << 30;
    /// Bytes of a task.
    const PART: usize = 4 << 20;
    const PASSES: usize = 3;

    fn new(threads: Option<usize>) -> Result<Self> {
        let cpu = Cpu::new(threads);
        let mut buffer = cpu.alloc(Self::BYTES).context("the buffer that measures the memory's bandwidth")?;
        // Pages that were never written are all the same one.
        buffer.bytes_mut().fill(1);
        Ok(Self { cpu, buffer })
    }

    /// Bytes a second, of the fastest of a few passes.
    fn measure(&self) -> f64 {
        let bytes = self.buffer.bytes();
        let seconds = (0..Self::PASSES).map(|_| {
            let (start, sum) = (Instant::now(), AtomicU64::new(0));
            self.cpu.pool().run(bytes.len() / Self::PART, &|task| {
                sum.fetch_add(add_up(&bytes[task * Self::PART..(task + 1) * Self::PART]), Relaxed);
            });
            black_box(sum);
            start.elapsed().as_secs_f64()
        });
        bytes.len() as f64 / seconds.fold(f64::INFINITY, f64::min)
    }
}

/// Reads all of `bytes`: many independent sums, so that the loads need not wait for each other.
fn add_up(bytes: &[u8]) -> u64 {
    let words: &[u64] = bytemuck::cast_slice(bytes);
    let mut sums = [0u64; 16];
    for line in words.chunks_exact(16) {
        for (sum, word) in sums.iter_mut().zip(line) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}
