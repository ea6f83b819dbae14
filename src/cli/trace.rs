//! `lathe trace`: flashinfer-bench's definitions, workloads, solutions and traces.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use indexmap::IndexMap;
use lathe::config::EngineConfig;
use lathe::device::Device;
use lathe::kernels::{Registry, Slot, Table};
use lathe::lab::cases::Draw;
use lathe::lab::exchange::{
    self, BuildSpec, Counterpart, Definition, Environment, Input, Record, Solution, SourceFile, Status,
    Trace, Values, Workload,
};
use lathe::lab::timing;
use lathe::open::{self, OnDevice};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;

use super::{check, date};

/// Exchange definitions, workloads, solutions and traces with flashinfer-bench.
///
/// For matrix products, RMSNorm, paged attention, and sampling with top-k and top-p. lathe check --workload runs others'
/// workloads.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Check and time kernels on cases that the schema has too, and write them as a data set
    Export(Export),
    /// Tell what is in files of the schema, and which operation of Lathe's it is
    Show {
        /// JSON, or JSON lines
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

#[derive(clap::Args)]
struct Export {
    /// linear, rms_norm, attention or sample; all of them if not given
    #[arg(long, value_name = "OP")]
    op: Option<String>,
    /// cpu or cuda; softcuda has no times to write
    #[arg(long, default_value = "cpu")]
    device: String,
    /// CPU threads [default: one for each core]
    #[arg(long)]
    threads: Option<usize>,
    /// Cases of each operation
    #[arg(long, value_name = "N", default_value_t = 8)]
    cases: usize,
    /// Of the cases
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Instead of cases of Lathe's own, the workloads in this file
    #[arg(long, value_name = "FILE.jsonl")]
    workload: Option<PathBuf>,
    /// The data set's folder
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Runs the subcommand.
///
/// # Errors
/// For files that are none of the schema's, operations that do not exist, and what running a kernel reports.
pub fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Show { files } => files.iter().try_for_each(|file| show(file)),
        Command::Export(args) => export(&args),
    }
}

fn read(file: &Path) -> Result<Vec<Record>> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    exchange::records(&text).map_err(|e| anyhow!("{}: {e}", file.display()))
}

/// The workloads of a file: each with the operation and its case as JSON. Definitions are looked for in the folders
/// around it, as flashinfer-bench's data set has them.
///
/// # Errors
/// For a workload that Lathe cannot run: which, and why.
pub(super) fn workloads(file: &Path) -> Result<Vec<(Trace, &'static str, Value)>> {
    let file = file.canonicalize().with_context(|| file.display().to_string())?;
    let mut found = Vec::new();
    let mut definitions = BTreeMap::new();
    for record in read(&file)? {
        let Record::Trace(trace) = record else {
            bail!("{}: expected workloads, found a definition or a solution", file.display());
        };
        if !definitions.contains_key(&trace.definition) {
            definitions.insert(trace.definition.clone(), definition_of(&file, &trace.definition)?);
        }
        let mut load = |path: &str, key: &str| load(&file, path, key);
        let (op, case) = exchange::case_of(&definitions[&trace.definition], &trace.workload, &mut load)
            .map_err(|e| anyhow!("{}: workload {}: {e}", file.display(), trace.workload.uuid))?;
        found.push((*trace, op, case));
    }
    Ok(found)
}

/// `definitions/*/NAME.json` of the nearest folder above `file` that has it.
fn definition_of(file: &Path, name: &str) -> Result<Definition> {
    for folder in file.ancestors().skip(1) {
        let Ok(kinds) = folder.join("definitions").read_dir() else { continue };
        let mut paths = kinds.flatten().map(|kind| kind.path().join(format!("{name}.json")));
        if let Some(path) = paths.find(|path| path.is_file()) {
            return match read(&path)?.into_iter().next() {
                Some(Record::Definition(definition)) => Ok(*definition),
                _ => bail!("{} is no definition", path.display()),
            };
        }
    }
    bail!("{}: no definitions/*/{name}.json in the folders above it", file.display())
}

/// A tensor of a safetensors file, by its path from any folder above `file`.
fn load(file: &Path, path: &str, key: &str) -> Result<Values, String> {
    let there = file.ancestors().skip(1).map(|folder| folder.join(path)).find(|p| p.is_file());
    let there = there.ok_or_else(|| format!("{path} is in no folder above the workloads"))?;
    let fail = |e: &dyn std::fmt::Display| format!("{}: {e}", there.display());
    let bytes = fs::read(&there).map_err(|e| fail(&e))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| fail(&e))?;
    let tensor = tensors.tensor(key).map_err(|e| fail(&e))?;
    let data = tensor.data();
    match tensor.dtype() {
        Dtype::I32 => Ok(Values::Ints(data.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect())),
        Dtype::I64 => {
            Ok(Values::Ints(data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as i32).collect()))
        }
        Dtype::F32 => Ok(Values::Floats(
            tensor.shape().to_vec(),
            data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        )),
        other => Err(fail(&format!("{key} is {other:?}, expected int32, int64 or float32"))),
    }
}

fn show(file: &Path) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for record in read(file)? {
        match record {
            Record::Definition(d) => {
                let op = match d.op_type.as_str() {
                    "gemm" => "linear",
                    "rmsnorm" if d.inputs.contains_key("residual") => "none: the sum is not rounded there",
                    "rmsnorm" => "rms_norm",
                    "gqa_paged" => "attention",
                    "sampling" => "sample",
                    _ => "none",
                };
                writeln!(out, "definition {} ({}); Lathe's operation: {op}", d.name, d.op_type)?;
            }
            Record::Solution(s) => {
                let BuildSpec { language, entry_point, .. } = &s.spec;
                writeln!(
                    out,
                    "solution {} of {} by {}: {language}, {entry_point}",
                    s.name, s.definition, s.author
                )?;
            }
            Record::Trace(t) => {
                let axes: Vec<String> =
                    t.workload.axes.iter().map(|(name, n)| format!("{name} {n}")).collect();
                write!(out, "workload of {}: {}", t.definition, axes.join(", "))?;
                if let (Some(solution), Some(e)) = (&t.solution, &t.evaluation) {
                    write!(out, "; {solution} on {}: {:?}", e.environment.hardware, e.status)?;
                    if let Some(p) = e.performance {
                        write!(
                            out,
                            ", {:.4} ms, {:.2} times the reference's speed",
                            p.latency_ms, p.speedup_factor
                        )?;
                    }
                }
                writeln!(out)?;
            }
        }
    }
    Ok(())
}

fn export(args: &Export) -> Result<()> {
    if let Some(op) = args.op.as_deref().filter(|op| !exchange::OPS.contains(op)) {
        bail!("--op is {op:?}, expected one of {}", exchange::OPS.join(", "));
    }
    let used = args.out.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    ensure!(!used, "--out {} is not empty", args.out.display());
    let mut config =
        EngineConfig { device: args.device.clone(), threads: args.threads, ..EngineConfig::default() };
    config.validate()?;
    config.kernels.clear();
    let given = args.workload.as_deref().map(workloads).transpose()?;
    let mut written = None;
    open::on_device(&config, Exporting { args, given: given.as_deref(), written: &mut written })?;
    let Written { definitions, workloads, traces } = written.unwrap_or(Ok(Written::default()))?;
    println!(
        "{definitions} definitions, {workloads} workloads and {traces} traces in {}",
        args.out.display()
    );
    Ok(())
}

/// How much was written.
#[derive(Default)]
struct Written {
    definitions: usize,
    workloads: usize,
    traces: usize,
}

struct Exporting<'a> {
    args: &'a Export,
    given: Option<&'a [(Trace, &'static str, Value)]>,
    /// What came of it; a visit's own errors are Lathe's.
    written: &'a mut Option<Result<Written>>,
}

impl OnDevice for Exporting<'_> {
    type Out = ();

    fn run<D: Device>(self, dev: &D, registry: &Registry<D>) -> lathe::Result<()> {
        let Self { args, given, written } = self;
        let mut exporter = Exporter { args, given, dev, written: Written::default(), failed: None };
        if dev.is_timed() {
            exchange::each_counterpart(registry, &mut exporter)?;
        } else {
            exporter.failed =
                Some(anyhow!("{}: a trace has times, and this device has none", dev.describe()));
        }
        *written = Some(exporter.failed.map_or(Ok(exporter.written), Err));
        Ok(())
    }
}

struct Exporter<'a, D> {
    args: &'a Export,
    given: Option<&'a [(Trace, &'static str, Value)]>,
    dev: &'a D,
    written: Written,
    failed: Option<anyhow::Error>,
}

impl<D: Device> exchange::Visit<D> for Exporter<'_, D> {
    fn visit<O: Counterpart>(&mut self, table: &Table<O, D>) -> lathe::Result<()> {
        if self.failed.is_none() && self.args.op.as_deref().is_none_or(|op| op == O::NAME) {
            self.failed = self.operation(table).err();
        }
        Ok(())
    }
}

impl<D: Device> Exporter<'_, D> {
    fn operation<O: Counterpart>(&mut self, table: &Table<O, D>) -> Result<()> {
        match self.given {
            Some(given) => {
                for (trace, _, case) in given.iter().filter(|(_, op, _)| *op == O::NAME) {
                    let case: O::Case = serde_json::from_value(case.clone())?;
                    self.evaluate(table, &trace.definition, None, &trace.workload, &case)?;
                }
            }
            None => {
                let mut draw = Draw::new(self.args.seed);
                let random = (0..100 * self.args.cases).map(|_| O::random(&mut draw));
                let both = random.filter_map(|case| Some((O::definition(&case)?, case)));
                for (i, (definition, case)) in both.take(self.args.cases).enumerate() {
                    let workload = self.workload::<O>(&definition, &case, i)?;
                    self.evaluate(table, &definition.name, Some(&definition), &workload, &case)?;
                }
            }
        }
        Ok(())
    }

    /// A case as a workload, with the values that matter in a file.
    fn workload<O: Counterpart>(
        &self,
        definition: &Definition,
        case: &O::Case,
        i: usize,
    ) -> Result<Workload> {
        let given = O::inputs(case);
        let uuid = uuid(&format!("{} {} {i}", definition.name, serde_json::to_string(case)?));
        let path = format!(
            "blob/workloads/{}/{}/{}_{uuid}.safetensors",
            definition.op_type, definition.name, definition.name
        );
        let mut inputs = IndexMap::new();
        let mut tensors: Vec<(&str, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
        for name in definition.inputs.keys() {
            let stored = Input::Safetensors { path: path.clone(), tensor_key: name.clone() };
            let input = match given.values.get(name) {
                None => Input::Random,
                Some(Values::Scalar(value)) => Input::Scalar { value: *value },
                Some(Values::Ints(values)) => {
                    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                    tensors.push((name, Dtype::I32, vec![values.len()], bytes));
                    stored
                }
                Some(Values::Floats(shape, values)) => {
                    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                    tensors.push((name, Dtype::F32, shape.clone(), bytes));
                    stored
                }
            };
            inputs.insert(name.clone(), input);
        }
        if !tensors.is_empty() {
            let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
                TensorView::new(*dtype, shape.clone(), bytes).map(|view| (*name, view))
            });
            let views: Vec<_> = views.collect::<Result<_, _>>()?;
            self.write(&path, &safetensors::serialize(views, None)?)?;
        }
        Ok(Workload { uuid, axes: given.axes, inputs })
    }

    /// Checks and times every kernel on a case, and adds the records.
    fn evaluate<O: Counterpart>(
        &mut self,
        table: &Table<O, D>,
        definition: &str,
        own: Option<&Definition>,
        workload: &Workload,
        case: &O::Case,
    ) -> Result<()> {
        let op_type = own.map_or(O::NAME, |d| d.op_type.as_str());
        if let Some(own) = own {
            let path = format!("definitions/{op_type}/{definition}.json");
            if !self.args.out.join(&path).exists() {
                self.write(&path, (serde_json::to_string_pretty(own)? + "\n").as_bytes())?;
                self.written.definitions += 1;
            }
        }
        let record = |solution: Option<String>, evaluation| Trace {
            definition: definition.into(),
            solution,
            workload: workload.clone(),
            evaluation,
        };
        self.append(&format!("workloads/{op_type}/{definition}.jsonl"), &record(None, None))?;
        self.written.workloads += 1;
        let text = serde_json::to_string(case)?;
        let check_args = check::Args { threads: self.args.threads, ..check::Args::on(&self.args.device) };
        // The readable kernel: what the schema calls the reference.
        let plain = |k: &&Slot<O, D>| ["reference", "naive"].contains(&k.name());
        let reference = table.iter().find(plain).unwrap_or(&table[0]);
        let reference_seconds = timing::of_case(self.dev, reference, case);
        for kernel in table {
            let report = check::child(&check_args, O::NAME, kernel.name(), Some(&text), &[])?.report;
            if report.cases == 0 {
                // It does not support the case, so there is nothing to tell of it.
                continue;
            }
            let seconds = match (report.verdict.is_fine(), &reference_seconds) {
                (true, Ok(reference)) => Some((timing::of_case(self.dev, kernel, case)?, *reference)),
                _ => None,
            };
            let libs = BTreeMap::from([
                ("lathe".into(), env!("CARGO_PKG_VERSION").into()),
                ("reference".into(), format!("lathe's kernel {}", reference.name())),
            ]);
            let environment = Environment { hardware: self.dev.describe(), libs };
            let evaluation = exchange::evaluation(&report, seconds, environment, date::now());
            ensure!(
                evaluation.status != Status::Passed || evaluation.performance.is_some(),
                "{}/{}: it passed, but the reference does not run: {:?}",
                O::NAME,
                kernel.name(),
                reference_seconds
            );
            let name = format!("lathe_{}_{definition}", kernel.name());
            let solution = self.solution::<O>(&name, definition, kernel.name(), kernel.about());
            let path = format!("solutions/lathe/{op_type}/{definition}/{name}.json");
            self.write(&path, (serde_json::to_string_pretty(&solution)? + "\n").as_bytes())?;
            let trace = record(Some(name), Some(evaluation));
            self.append(&format!("traces/lathe/{op_type}/{definition}.jsonl"), &trace)?;
            self.written.traces += 1;
        }
        Ok(())
    }

    /// A kernel of Lathe's as a solution: it runs in Lathe, and its only file says how.
    fn solution<O: Counterpart>(&self, name: &str, definition: &str, kernel: &str, about: &str) -> Solution {
        let device = &self.args.device;
        let content = format!(
            "{about}.\n\nThis kernel is a part of Lathe {}. To run it there on a workload of this definition:\n\n    \
             lathe check {}/{kernel} --device {device} --workload WORKLOADS.jsonl\n",
            env!("CARGO_PKG_VERSION"),
            O::NAME
        );
        Solution {
            name: name.into(),
            definition: definition.into(),
            description: Some(about.into()),
            author: "lathe".into(),
            spec: BuildSpec {
                language: if device == "cuda" { "cuda" } else { "rust" }.into(),
                target_hardware: vec![self.dev.describe()],
                entry_point: format!("README.md::{kernel}"),
                dependencies: Some(vec![format!("lathe == {}", env!("CARGO_PKG_VERSION"))]),
                build_commands: None,
            },
            sources: vec![SourceFile { path: "README.md".into(), content }],
        }
    }

    fn write(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let path = self.args.out.join(path);
        let folder = path.parent().context("a file in a folder")?;
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        fs::write(&path, bytes).with_context(|| path.display().to_string())
    }

    fn append(&self, path: &str, trace: &Trace) -> Result<()> {
        let path = self.args.out.join(path);
        let folder = path.parent().context("a file in a folder")?;
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&path)?;
        writeln!(file, "{}", serde_json::to_string(trace)?).with_context(|| path.display().to_string())
    }
}

/// A UUID (version 8: of one's own making) of a text, so that the same case has the same.
fn uuid(text: &str) -> String {
    let hash = xxhash_rust::xxh3::xxh3_128(text.as_bytes());
    let bits = hash & !(0xf << 76) & !(0x3 << 62) | 0x8 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
