//! `lathe report`: checks, times and counters of kernels as one page.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;
use lathe::config::EngineConfig;
use lathe::device::{Device, Peaks};
use lathe::kernels::{Op, Queue, Registry, Table};
use lathe::lab::check::{Options, Verdict};
use lathe::lab::count::{Bounds, Count, Least};
use lathe::lab::report::{Findings, html, pictures};
use lathe::lab::timing::{self, Per, Shapes, Timed, Visit, WithArgs, each_shape};
use lathe::open::{self, OnDevice};
use serde_json::Value;

use super::machine::Machine;
use super::{check, count, date};

/// Check and time kernels, and write what was found as one page to look at.
///
/// Every kernel is checked as by lathe check; those that pass are timed side by side at the shapes of real models. On
/// softcuda nothing is timed: the page has its counters instead.
#[derive(clap::Args)]
pub struct Args {
    /// Operation, or one kernel of it; all of them if not given
    #[arg(value_name = "OP[/KERNEL]")]
    target: Option<String>,
    /// cpu or cuda
    #[arg(long, default_value = "cpu")]
    device: String,
    /// CPU threads [default: one for each core]
    #[arg(long)]
    threads: Option<usize>,
    /// Random cases of the check, after the fixed ones
    #[arg(long, value_name = "N", default_value_t = Options::default().cases)]
    cases: usize,
    /// Of the random cases
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Shapes to time [default: usual; small on softcuda]
    #[arg(long, value_enum)]
    shapes: Option<ShapesArg>,
    /// The page
    #[arg(long, value_name = "FILE.html", default_value = "report.html")]
    out: PathBuf,
    /// Write the page's pictures as files too
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Run this kernel once at this shape, for softcuda to count
    #[arg(long, hide = true, value_name = "SHAPE")]
    once: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum ShapesArg {
    /// A few, of Qwen3-0.6B
    Small,
    /// Qwen3-0.6B's
    Usual,
    /// Qwen3-8B's and Llama-3-8B's too, with batches to 256 and contexts to 8k
    All,
}

impl From<ShapesArg> for Shapes {
    fn from(arg: ShapesArg) -> Self {
        match arg {
            ShapesArg::Small => Self::Small,
            ShapesArg::Usual => Self::Usual,
            ShapesArg::All => Self::All,
        }
    }
}

/// Writes the page.
///
/// # Errors
/// If there is no such operation, kernel or device, a file cannot be written, or a kernel that passed its check fails.
/// Kernels that fail their check are no error: the page says it.
pub fn run(args: Args) -> Result<()> {
    let mut config =
        EngineConfig { device: args.device.clone(), threads: args.threads, ..EngineConfig::default() };
    config.validate()?;
    config.kernels.clear();
    if args.once.is_some() {
        open::on_device(&config, Once(&args))?;
        return Ok(());
    }
    let mut found = Findings { about: about(&args), command: command(&args), ..Findings::default() };
    let names = check::names(&config, args.target.as_deref())?;
    for &(op, kernel) in &names {
        match found.kernels.last_mut().filter(|(last, _)| last == op) {
            Some((_, kernels)) => kernels.push(kernel.into()),
            None => found.kernels.push((op.into(), vec![kernel.into()])),
        }
        eprintln!("checking {op}/{kernel}");
        found.checks.push(check::child(&check_args(&args), op, kernel, None, &[])?.report);
    }
    // What is wrong is not worth timing, and may end this process.
    let right = found.checks.iter().filter(|report| report.verdict == Verdict::Passed);
    let right: BTreeSet<(String, String)> = right.map(|r| (r.op.clone(), r.kernel.clone())).collect();
    let measured = open::on_device(&config, Measure { args: &args, right: &right })?;
    let Measured { device, peaks, timed, counted, left_out } = measured;
    found.about.insert(0, ("device".into(), device));
    (found.peaks, found.timed, found.counted, found.left_out) = (peaks, timed, counted, left_out);
    let write = |path: &Path, text: &str| fs::write(path, text).with_context(|| path.display().to_string());
    write(&args.out, &html(&found))?;
    if let Some(folder) = &args.svg {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        for (name, picture) in pictures(&found) {
            write(&folder.join(name), &picture)?;
        }
    }
    for point in found.look_first() {
        println!("{}\n    {}", point.what, point.detail);
    }
    println!("{}", args.out.display());
    Ok(())
}

fn check_args(args: &Args) -> check::Args {
    let Args { threads, cases, seed, .. } = *args;
    check::Args { threads, cases, seed, maps: true, ..check::Args::on(&args.device) }
}

fn command(args: &Args) -> String {
    let mut words = vec!["lathe report".to_owned()];
    words.extend(args.target.clone());
    words.push(format!("--device {} --cases {} --seed {}", args.device, args.cases, args.seed));
    words.extend(args.threads.map(|n| format!("--threads {n}")));
    let shapes = args.shapes.and_then(|shapes| shapes.to_possible_value());
    words.extend(shapes.map(|shapes| format!("--shapes {}", shapes.get_name())));
    words.join(" ")
}

fn about(args: &Args) -> Vec<(String, String)> {
    let Machine { cpu, cores, simd, memory_bytes, system, .. } = Machine::this();
    let memory = memory_bytes.map_or(String::new(), |bytes| format!(", {} GiB", bytes >> 30));
    let git = |words: &[&str]| {
        let output = Command::new("git").args(words).output().ok().filter(|o| o.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = match (git(&["rev-parse", "--short=12", "HEAD"]), git(&["status", "--porcelain"])) {
        (Some(commit), Some(changes)) if changes.is_empty() => commit,
        (Some(commit), _) => format!("{commit}, with changes that are not committed"),
        _ => "not run in a repository".into(),
    };
    // What else ran tells how far the times can be trusted.
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().filter(|l| !l.is_empty()).unwrap_or("unknown");
    [
        ("machine", format!("{cpu}, {cores} threads, {simd}{memory}, {system}")),
        ("lathe", format!("{}, commit {commit}", env!("CARGO_PKG_VERSION"))),
        ("written", format!("{}; load average {load} when it began", date::now())),
        ("seed", format!("{} of {} random cases, after the fixed ones", args.seed, args.cases)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// What was measured on the device.
struct Measured {
    device: String,
    peaks: Option<Peaks>,
    timed: Vec<Timed>,
    counted: Vec<Count>,
    left_out: Vec<String>,
}

/// Times, or counts, the kernels that are right.
struct Measure<'a> {
    args: &'a Args,
    right: &'a BTreeSet<(String, String)>,
}

impl OnDevice for Measure<'_> {
    type Out = Measured;

    fn run<D: Device>(self, dev: &D, registry: &Registry<D>) -> lathe::Result<Measured> {
        let measured = Measured {
            device: dev.describe(),
            peaks: dev.peaks()?,
            timed: Vec::new(),
            counted: Vec::new(),
            left_out: Vec::new(),
        };
        let usual = if dev.is_timed() { Shapes::Usual } else { Shapes::Small };
        let shapes = self.args.shapes.map_or(usual, Shapes::from);
        let mut visitor = Measurer { measure: &self, queue: Queue::new(dev)?, measured };
        each_shape(dev, registry, shapes, &mut visitor)?;
        Ok(visitor.measured)
    }
}

struct Measurer<'a, D: Device> {
    measure: &'a Measure<'a>,
    queue: Queue<D>,
    measured: Measured,
}

impl<D: Device> Visit<D> for Measurer<'_, D> {
    fn wants(&self, op: &str) -> bool {
        self.measure.right.iter().any(|(o, _)| o == op)
    }

    fn shape<O: Op>(
        &mut self,
        shape: &str,
        per: Per,
        table: &Table<O, D>,
        with_args: &mut WithArgs<'_, O, D>,
    ) -> lathe::Result<()> {
        let Self { measure, queue, measured } = self;
        let wants = |kernel: &str| measure.right.contains(&(O::NAME.into(), kernel.into()));
        eprintln!("measuring {} at {shape}", O::NAME);
        if queue.dev().is_timed() {
            let left_out = &mut measured.left_out;
            let timed = timing::side_by_side(queue, shape, per, table, wants, with_args, |kernel, why| {
                left_out.push(format!("{}/{kernel} at {shape}: {why}", O::NAME));
            })?;
            measured.timed.extend(timed);
            return Ok(());
        }
        let (bytes, flops) = timing::count(with_args)?;
        for kernel in table.iter().map(|k| k.name()).filter(|k| wants(k)) {
            let (kernel, shape) = (format!("{}/{kernel}", O::NAME), shape.to_owned());
            // softcuda's counters are a process's.
            let mut words = vec!["report", &kernel, "--once", &shape, "--device", &measure.args.device];
            let shapes = measure.args.shapes.and_then(|shapes| shapes.to_possible_value());
            words.extend(shapes.iter().flat_map(|shapes| ["--shapes", shapes.get_name()]));
            match count::apart(0, words.into_iter()) {
                Ok((_, functions)) => measured.counted.push(Count {
                    kernel,
                    shape,
                    case: Value::Null,
                    least: Least { bytes, flops },
                    bounds: Bounds::default(),
                    functions,
                }),
                Err(error) => measured.left_out.push(format!("{kernel} at {shape}: {error:#}")),
            }
        }
        Ok(())
    }
}

/// One call of one kernel at one shape.
struct Once<'a>(&'a Args);

impl OnDevice for Once<'_> {
    type Out = ();

    fn run<D: Device>(self, dev: &D, registry: &Registry<D>) -> lathe::Result<()> {
        let shapes = self.0.shapes.map_or(Shapes::Small, Shapes::from);
        each_shape(dev, registry, shapes, &mut Caller { args: self.0, queue: Queue::new(dev)? })
    }
}

struct Caller<'a, D: Device> {
    args: &'a Args,
    queue: Queue<D>,
}

impl<D: Device> Caller<'_, D> {
    fn target(&self) -> (&str, &str) {
        self.args.target.as_deref().and_then(|t| t.split_once('/')).unwrap_or_default()
    }
}

impl<D: Device> Visit<D> for Caller<'_, D> {
    fn wants(&self, op: &str) -> bool {
        self.target().0 == op
    }

    fn shape<O: Op>(
        &mut self,
        shape: &str,
        _: Per,
        table: &Table<O, D>,
        with_args: &mut WithArgs<'_, O, D>,
    ) -> lathe::Result<()> {
        let (op, name) = self.target();
        let kernel = table.iter().find(|k| op == O::NAME && k.name() == name);
        let (Some(kernel), true) = (kernel, self.args.once.as_deref() == Some(shape)) else { return Ok(()) };
        timing::time(&mut self.queue, kernel, 1, with_args).map(|_| ())
    }
}
