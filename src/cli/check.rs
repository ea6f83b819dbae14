//! `lathe check`: is a kernel right?

use std::io::{BufRead, BufReader, Read, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lathe::Error;
use lathe::config::EngineConfig;
use lathe::device::Device;
use lathe::kernels::{Registry, Table};
use lathe::lab::cases::{Cases, Visit, each_op};
use lathe::lab::check::{self, Options, Report, Suite, Verdict};
use lathe::open::{self, OnDevice};

use super::trace;

/// Check kernels against the oracle: fixed ragged cases, then random ones; the first failure is shrunk.
///
/// Each kernel runs in a process of its own, so that one that crashes or hangs costs the others nothing. The exit
/// status is 1 if any fails.
#[derive(clap::Args)]
pub struct Args {
    /// Operation, or one kernel of it; all of them if not given
    #[arg(value_name = "OP[/KERNEL]")]
    pub(super) target: Option<String>,
    /// cpu or cuda
    #[arg(long, default_value = "cpu")]
    pub(super) device: String,
    /// CPU threads [default: one for each core]
    #[arg(long)]
    pub(super) threads: Option<usize>,
    /// Only every N-th of the fixed cases: an emulated device is slow
    #[arg(long, value_name = "N", default_value = "1")]
    pub(super) every: NonZeroUsize,
    /// Random cases, after the fixed ones
    #[arg(long, value_name = "N", default_value_t = Options::default().cases)]
    pub(super) cases: usize,
    /// Of the random cases
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(super) seed: u64,
    /// Only this case, as a failure prints it; needs OP/KERNEL
    #[arg(long, value_name = "JSON")]
    pub(super) case: Option<String>,
    /// Only flashinfer-bench's workloads in this file; their definitions lie beside it as in its data set
    #[arg(long, value_name = "FILE.jsonl", conflicts_with = "case")]
    pub(super) workload: Option<PathBuf>,
    /// For one case, in seconds, compilation included
    #[arg(long, value_name = "S", default_value_t = Options::default().timeout.as_secs_f64())]
    pub(super) timeout: f64,
    /// Groups of 512 draws for each setting of a sampler's certificate; an emulated device wants few
    #[arg(long, value_name = "N", default_value_t = Options::default().groups)]
    pub(super) groups: usize,
    /// Print a JSON list
    #[arg(long)]
    pub(super) json: bool,
    /// Run a kernel that fails again with all of softcuda's checks on, and show what they say; --device cuda
    #[arg(long)]
    pub(super) sanitize: bool,
    /// Tell where the errors are, in JSON
    #[arg(long, hide = true)]
    pub(super) maps: bool,
    /// Check in this process, and print a JSON object a line
    #[arg(long, hide = true)]
    pub(super) here: bool,
}

impl Args {
    /// The defaults, on a device.
    pub(super) fn on(device: &str) -> Self {
        let Options { cases, seed, timeout, groups, .. } = Options::default();
        Self {
            target: None,
            device: device.into(),
            threads: None,
            every: NonZeroUsize::MIN,
            cases,
            seed,
            case: None,
            workload: None,
            timeout: timeout.as_secs_f64(),
            groups,
            json: false,
            sanitize: false,
            maps: false,
            here: false,
        }
    }
}

/// Prints the reports.
///
/// # Errors
/// If there is no such operation, kernel or device, or a kernel fails.
pub fn run(args: Args) -> Result<()> {
    let mut config =
        EngineConfig { device: args.device.clone(), threads: args.threads, ..EngineConfig::default() };
    config.validate()?;
    if args.here {
        // Kernels that are not asked for must not be in the way of those that are.
        config.kernels.clear();
        return open::on_device(&config, Here(&args)).map_err(Into::into);
    }
    if args.sanitize && args.device != "cuda" {
        bail!("--sanitize is softcuda's, which --device cuda runs on: the device is {}", args.device);
    }
    let names = names(&config, args.target.as_deref())?;
    if args.case.is_some() && names.len() > 1 {
        bail!("--case is one operation's: name the kernel too, as OP/KERNEL");
    }
    let mut reports = Vec::new();
    // Each kernel on each case, or on all of the operation's.
    let mut runs: Vec<(&str, &str, Option<String>)> = Vec::new();
    match &args.workload {
        None => runs.extend(names.into_iter().map(|(op, kernel)| (op, kernel, args.case.clone()))),
        Some(file) => {
            for (_, op, case) in trace::workloads(file)? {
                let own = names.iter().filter(|name| name.0 == op);
                runs.extend(own.map(|&(op, kernel)| (op, kernel, Some(case.to_string()))));
            }
        }
    }
    for (op, kernel, case) in runs {
        let Child { report, .. } = child(&args, op, kernel, case.as_deref(), &[])?;
        if !args.json {
            print(&args, &report)?;
        }
        if args.sanitize && !report.verdict.is_fine() {
            sanitize(&args, &report)?;
        }
        reports.push(report);
    }
    if args.json {
        super::print_json(&reports)?;
    }
    let failed = reports.iter().filter(|r| !r.verdict.is_fine()).count();
    if failed > 0 {
        bail!("{failed} of {} kernels failed", reports.len());
    }
    Ok(())
}

/// The kernels that `target` names.
pub(super) fn names(
    config: &EngineConfig,
    target: Option<&str>,
) -> Result<Vec<(&'static str, &'static str)>> {
    let rows = open::kernel_table(config)?;
    let (op, kernel) = match target.map(|t| t.split_once('/').unwrap_or((t, ""))) {
        Some((op, kernel)) => (Some(op), Some(kernel).filter(|k| !k.is_empty())),
        None => (None, None),
    };
    let of_op: Vec<_> = rows.iter().filter(|r| op.is_none_or(|op| op == r.op)).collect();
    let list = |names: Vec<&str>| {
        let mut names = names;
        names.dedup();
        names.join(", ")
    };
    if of_op.is_empty() {
        let known = list(rows.iter().map(|r| r.op).collect());
        return Err(
            Error::UnknownName { kind: "operation".into(), name: op.unwrap_or("").into(), known }.into()
        );
    }
    let names: Vec<_> =
        of_op.iter().filter(|r| kernel.is_none_or(|k| k == r.kernel)).map(|r| (r.op, r.kernel)).collect();
    if names.is_empty() {
        let kind = format!("kernel for {}", op.unwrap_or(""));
        let known = list(of_op.iter().map(|r| r.kernel).collect());
        return Err(Error::UnknownName { kind, name: kernel.unwrap_or("").into(), known }.into());
    }
    Ok(names)
}

/// A check that ran in a process of its own.
pub(super) struct Child {
    /// What it found.
    pub report: Report,
    /// What it said on stderr.
    pub said: String,
}

/// Checks one kernel in a process of its own: on one case, or on all.
pub(super) fn child(
    args: &Args,
    op: &str,
    kernel: &str,
    case: Option<&str>,
    env: &[(&str, &str)],
) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe().context("where this program is")?);
    command.args(["check", &format!("{op}/{kernel}"), "--here", "--device", &args.device]);
    command.args([
        "--every",
        &args.every.to_string(),
        "--cases",
        &args.cases.to_string(),
        "--seed",
        &args.seed.to_string(),
    ]);
    command.args(["--timeout", &args.timeout.to_string(), "--groups", &args.groups.to_string()]);
    command.args(case.iter().flat_map(|case| ["--case", case]));
    command.args(args.threads.iter().flat_map(|n| ["--threads".into(), n.to_string()]));
    command.args(args.maps.then_some("--maps")).envs(env.iter().copied());
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("a process to check in")?;
    // Read beside stdout: a process that says much would wait for its reader.
    let mut stderr = child.stderr.take().expect("piped");
    let said = thread::spawn(move || {
        let mut said = Vec::new();
        stderr.read_to_end(&mut said).map(|_| String::from_utf8_lossy(&said).into_owned())
    });
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line)?;
    let report = serde_json::from_str(&line).ok();
    if report.is_some() {
        // It has said what there is to say; a kernel that hangs would keep it.
        child.kill().ok();
    }
    let status = child.wait()?;
    let said = said.join().expect("reading does not panic")?;
    match report {
        Some(report) => Ok(Child { report, said }),
        None if status.code() == Some(1) => bail!("{}", said.trim().trim_start_matches("error: ")),
        None => {
            let message = format!("the process that ran it died: {status}\n{said}");
            Ok(Child { report: Report::died(op, kernel, &args.device, message), said })
        }
    }
}

/// Runs what failed again with all of softcuda's checks on.
fn sanitize(args: &Args, report: &Report) -> Result<()> {
    let case = report.failure.as_ref().map(|f| &f.case).filter(|case| !case.is_null()).map(|c| c.to_string());
    let case = case.as_deref().or(args.case.as_deref());
    let Child { said, .. } = child(args, &report.op, &report.kernel, case, &[("SOFTCUDA_CHECK", "all")])?;
    let mut err = std::io::stderr().lock();
    if said.contains("softcuda") {
        writeln!(err, "{}", said.trim_end())?;
    } else if report.device.to_lowercase().contains("soft") {
        writeln!(err, "    softcuda's checks (bounds, init, race, sync) find nothing in that case")?;
    } else {
        let repeat = report.repeat().unwrap_or_else(|| format!("{}/{}", report.op, report.kernel));
        writeln!(err, "    --sanitize needs softcuda (cargo xtask softcuda says how); on a GPU, NVIDIA's:")?;
        writeln!(err, "    compute-sanitizer lathe check {repeat} --device cuda --here")?;
    }
    Ok(())
}

fn print(args: &Args, report: &Report) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{report}")?;
    if let Some(repeat) = report.repeat() {
        let device = if args.device == "cpu" { String::new() } else { format!(" --device {}", args.device) };
        writeln!(out, "    repeat: lathe check {repeat}{device}")?;
    } else if report.verdict == Verdict::RuntimeError {
        writeln!(out, "    which case it was is not known; --here tells more")?;
    }
    out.flush()?;
    Ok(())
}

/// The check of the kernels that the arguments name, in this process.
struct Here<'a>(&'a Args);

impl OnDevice for Here<'_> {
    type Out = ();

    fn run<D: Device>(self, dev: &D, registry: &Registry<D>) -> lathe::Result<()> {
        let mut visitor = Checker { dev, args: self.0, result: Ok(()) };
        each_op(registry, &mut visitor);
        visitor.result
    }
}

struct Checker<'a, D> {
    dev: &'a D,
    args: &'a Args,
    result: lathe::Result<()>,
}

impl<D: Device> Visit<D> for Checker<'_, D> {
    fn visit<O: Cases>(&mut self, table: &Table<O, D>) {
        let target = self.args.target.as_deref().unwrap_or(O::NAME);
        let (op, kernel) = target.split_once('/').unwrap_or((target, ""));
        if op != O::NAME || self.result.is_err() {
            return;
        }
        let options = Options {
            every: self.args.every.get(),
            cases: self.args.cases,
            seed: self.args.seed,
            timeout: Duration::from_secs_f64(self.args.timeout),
            groups: self.args.groups,
            maps: self.args.maps,
        };
        let suite = match &self.args.case {
            Some(case) => Suite::<O>::one(case).map_err(|want| Error::Config {
                field: "--case".into(),
                got: case.clone(),
                want,
            }),
            None => Ok(Suite::new(&options)),
        };
        match suite {
            Err(error) => self.result = Err(error),
            Ok(suite) => {
                for k in table.iter().filter(|k| kernel.is_empty() || k.name() == kernel) {
                    let report = check::check(self.dev, k, &suite, &options);
                    println!("{}", serde_json::to_string(&report).expect("a report is plain data"));
                }
            }
        }
    }
}
