//! `lathe count`: what kernels move and compute, counted on softcuda.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use anyhow::{Context, Result, bail, ensure};
use lathe::Error;
use lathe::config::EngineConfig;
use lathe::device::Device;
use lathe::kernels::{Registry, Table};
use lathe::lab::cases::{Cases, Visit, each_op};
use lathe::lab::count::{self, Ask, Bounds, Count, DecodeStep, Extent, Function, Least, STEP};
use lathe::open::{self, OnDevice};
use serde_json::Value;

/// Count what kernels move and compute, on softcuda: bytes, sectors, bank conflicts, tensor-core operations.
///
/// Prints a table that holds each count against the least that the operation asks for, and against the bounds of this
/// repository; the exit status is 1 if one does not hold. Needs softcuda as the CUDA driver (`cargo xtask softcuda`):
/// LD_LIBRARY_PATH=.cache/softcuda lathe count. All figures are modelled.
#[derive(clap::Args)]
pub struct Args {
    /// Operation, or one kernel of it; all that have bounds, and more, if not given
    #[arg(value_name = "OP[/KERNEL]")]
    target: Option<String>,
    /// This case instead, as `lathe check --case` takes it; needs OP/KERNEL
    #[arg(long, value_name = "JSON")]
    case: Option<String>,
    /// A decode step of this model too: 8 sequences of 2,048 keys
    #[arg(long, value_name = "MODEL")]
    step: Option<String>,
    /// Smaller shapes with the same ratios
    #[arg(long)]
    small: bool,
    /// Print a JSON list with all counters
    #[arg(long)]
    json: bool,
    /// Also write counted.md and counted.json into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Run one case in this process, and print what it asks for
    #[arg(long, hide = true)]
    here: bool,
}

/// Sequences and keys of the decode step.
const SEQS: usize = 8;
const KEYS: usize = 2048;

/// Prints the table.
///
/// # Errors
/// If there is no such operation or kernel, the driver is not softcuda, a kernel fails, or a bound does not hold.
pub fn run(args: Args) -> Result<()> {
    let config = EngineConfig { device: "cuda".into(), model: args.step.clone(), ..EngineConfig::default() };
    if args.here {
        let least = match &args.step {
            Some(_) => {
                let files = open::files(&config)?;
                open::on_device(&config, DecodeStep { files: &files, seqs: SEQS, keys: KEYS })?
            }
            None => open::on_device(&config, Here(&args))?,
        };
        return super::print_json(&least);
    }
    let jobs = jobs(&args, &config)?;
    let counts = all(&jobs)?;
    if args.json {
        super::print_json(&counts)?;
    } else {
        std::io::stdout().lock().write_all(count::markdown(&counts).as_bytes())?;
    }
    if let Some(folder) = &args.out {
        write(folder, &counts)?;
    }
    let missed: Vec<String> = counts
        .iter()
        .filter(|c| !c.missed().is_empty())
        .map(|c| format!("{} ({}): {}", c.kernel, c.shape, c.missed().join("; ")))
        .collect();
    ensure!(missed.is_empty(), "bounds that do not hold: {}", missed.join(" | "));
    Ok(())
}

/// Something to count: a row, and the arguments of the process that runs it.
struct Job {
    ask: Ask,
    arguments: Vec<String>,
}

fn jobs(args: &Args, config: &EngineConfig) -> Result<Vec<Job>> {
    let of_kernel = |ask: Ask| {
        let arguments = vec![ask.kernel.clone(), "--case".into(), ask.case.to_string()];
        Job { ask, arguments }
    };
    if let Some(case) = &args.case {
        let kernel = args.target.clone().filter(|t| t.contains('/'));
        let kernel = kernel.context("--case is one kernel's: name it, as OP/KERNEL")?;
        let case: Value = serde_json::from_str(case).context("--case")?;
        let shape = case.to_string();
        return Ok(vec![of_kernel(Ask { kernel, shape, case, bounds: Bounds::default() })]);
    }
    let asks = count::asks(if args.small { Extent::Small } else { Extent::Full });
    let wanted = |ask: &Ask| match &args.target {
        None => true,
        Some(target) => ask.kernel == *target || ask.kernel.split('/').next() == Some(target),
    };
    let mut jobs: Vec<Job> = asks.iter().filter(|a| wanted(a)).cloned().map(of_kernel).collect();
    if let Some(model) = &args.step {
        let layers = open::files(config)?.config.layers.len();
        let shape =
            format!("{SEQS} sequences of {KEYS} keys, {layers} layers; least: the weights, keys and values");
        let ask = Ask { kernel: "decode step".into(), shape, case: Value::Null, bounds: STEP };
        jobs.push(Job { ask, arguments: vec!["--step".into(), model.clone()] });
    }
    if jobs.is_empty() {
        let mut known: Vec<String> = asks.into_iter().map(|a| a.kernel).collect();
        known.dedup();
        let name = args.target.clone().unwrap_or_default();
        return Err(
            Error::UnknownName { kind: "kernel to count".into(), name, known: known.join(", ") }.into()
        );
    }
    Ok(jobs)
}

/// Counts all of them, as many at a time as there are cores: counting a launch takes one.
fn all(jobs: &[Job]) -> Result<Vec<Count>> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<Result<Count>>>> = Mutex::new(jobs.iter().map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(|| {
                while let Some((i, job)) =
                    Some(next.fetch_add(1, Relaxed)).and_then(|i| Some((i, jobs.get(i)?)))
                {
                    let result = child(i, job);
                    results.lock().expect("no panic holds it")[i] = Some(result);
                }
            });
        }
    });
    let results = results.into_inner().expect("no panic holds it");
    results.into_iter().map(|r| r.expect("every job ran")).collect()
}

/// Counts one in a process of its own, which leaves softcuda's counters in a file when it ends.
fn child(number: usize, job: &Job) -> Result<Count> {
    let Ask { kernel, shape, case, bounds } = job.ask.clone();
    let arguments = ["count", "--here"].into_iter().chain(job.arguments.iter().map(String::as_str));
    let (least, functions) = apart(number, arguments).with_context(|| format!("{kernel}, {shape}"))?;
    let least: Least = serde_json::from_slice(&least)?;
    Ok(Count { kernel, shape, case, least, bounds, functions })
}

/// Runs this program in a process of its own, the `number`th at this time: what it prints, and what softcuda counted.
///
/// # Errors
/// If it fails, or the driver is not softcuda.
pub(super) fn apart<'a>(
    number: usize,
    arguments: impl Iterator<Item = &'a str>,
) -> Result<(Vec<u8>, Vec<Function>)> {
    let file = std::env::temp_dir().join(format!("lathe-count-{}-{number}.json", std::process::id()));
    let mut command = Command::new(std::env::current_exe().context("where this program is")?);
    let output = command.args(arguments).env("SOFTCUDA_PROFILE", &file).output();
    let output = output.context("a process to count in")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", output.status, said.trim().trim_start_matches("error: "));
    }
    ensure!(
        file.exists(),
        "nothing was counted, so the driver is not softcuda: `cargo xtask softcuda` says where it is"
    );
    let functions = count::read(&file)?;
    std::fs::remove_file(&file)?;
    Ok((output.stdout, functions))
}

/// The table and its figures, to keep.
fn write(folder: &Path, counts: &[Count]) -> Result<()> {
    let mut page =
        format!("# What the kernels move, counted\n\n{}\n{}", count::HEAD, count::markdown(counts));
    if let Some(step) = counts.iter().find(|c| c.bounds == STEP) {
        page += "\nThe decode step, by function:\n\n";
        page += &count::markdown_by_function(step);
    }
    let list = serde_json::to_string_pretty(counts)? + "\n";
    for (name, text) in [("counted.md", page), ("counted.json", list)] {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// One call of the kernel that the arguments name, in this process.
struct Here<'a>(&'a Args);

impl OnDevice for Here<'_> {
    type Out = Least;

    fn run<D: Device>(self, dev: &D, registry: &Registry<D>) -> lathe::Result<Least> {
        let target = self.0.target.as_deref().unwrap_or_default();
        let mut caller =
            Caller { dev, target, case: self.0.case.as_deref().unwrap_or_default(), result: None };
        each_op(registry, &mut caller);
        caller.result.unwrap_or_else(|| {
            let known = registry.rows(&registry.select(&Default::default(), false)?);
            let known: Vec<String> = known.iter().map(|r| format!("{}/{}", r.op, r.kernel)).collect();
            Err(Error::UnknownName { kind: "kernel".into(), name: target.into(), known: known.join(", ") })
        })
    }
}

struct Caller<'a, D> {
    dev: &'a D,
    target: &'a str,
    case: &'a str,
    result: Option<lathe::Result<Least>>,
}

impl<D: Device> Visit<D> for Caller<'_, D> {
    fn visit<O: Cases>(&mut self, table: &Table<O, D>) {
        let kernel = self.target.split_once('/').filter(|(op, _)| *op == O::NAME).map(|(_, kernel)| kernel);
        if let Some(kernel) = table.iter().find(|k| Some(k.name()) == kernel) {
            self.result = Some(count::call::<O, D>(self.dev, kernel, self.case));
        }
    }
}
