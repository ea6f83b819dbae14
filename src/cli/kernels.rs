//! `lathe kernels`: every kernel, and which slots choose it.

use std::io::Write;

use anyhow::Result;
use lathe::config::EngineConfig;
use lathe::open;
use serde::Serialize;

use super::options::KernelOptions;

/// List the kernels: operation, name, device, the slots that choose it, whether a row's bits are the same in any batch,
/// what it is good for.
#[derive(clap::Args)]
pub struct Args {
    /// Print a JSON list
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    kernels: KernelOptions,
}

#[derive(Serialize)]
struct Line<'a> {
    op: &'a str,
    kernel: &'a str,
    device: &'a str,
    slots: &'a [&'a str],
    batch_invariant: bool,
    about: &'a str,
}

/// Prints the table.
///
/// # Errors
/// For a slot, kernel or device that does not exist.
pub fn run(args: Args) -> Result<()> {
    let config = args.kernels.over(EngineConfig::default())?;
    let rows = open::kernel_table(&config)?;
    let device = config.device.as_str();
    let lines: Vec<Line> = rows
        .iter()
        .map(|row| Line {
            op: row.op,
            kernel: row.kernel,
            device,
            slots: &row.chosen,
            batch_invariant: row.batch_invariant,
            about: row.about,
        })
        .collect();
    if args.json {
        return super::print_json(&lines);
    }
    let cells = lines.iter().map(|line| {
        let slots = if line.slots.is_empty() { "-".into() } else { line.slots.join(", ") };
        let invariant = if line.batch_invariant { "yes" } else { "no" };
        [line.op.into(), line.kernel.into(), line.device.into(), slots, invariant.into(), line.about.into()]
    });
    let head =
        ["op", "kernel", "device", "chosen for", "batch-invariant", "what it is good for"].map(String::from);
    let table: Vec<[String; 6]> = std::iter::once(head).chain(cells).collect();
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let [op, kernel, device, slots, invariant] = [0, 1, 2, 3, 4].map(width);
    let mut out = std::io::stdout().lock();
    for [a, b, c, d, e, about] in &table {
        writeln!(out, "{a:op$}  {b:kernel$}  {c:device$}  {d:slots$}  {e:invariant$}  {about}")?;
    }
    Ok(())
}
