//! `cargo xtask gpu`: everything that wants a real GPU, in one run with a time limit for each part.
//!
//! The machine with the GPU needs neither Rust nor a network: `kit` collects what is run there, and the kit's own
//! `xtask gpu run` runs it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::{command, paths};

/// Collect and run what wants a real GPU: checks, golden models, sanitizer, benchmarks, the end-to-end workload.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(clap::Subcommand)]
enum Task {
    /// Build the programs of a run and collect them in `.cache/gpu-kit`.
    Kit,
    /// Run the parts, or those named, with the kit in KIT; logs and a summary go to OUT.
    Run {
        /// The folder that `kit` made.
        #[arg(long, default_value = ".cache/gpu-kit")]
        kit: PathBuf,
        /// Where logs and results go.
        #[arg(long)]
        out: PathBuf,
        /// Seconds for the whole run; parts that do not fit are said to be left out.
        #[arg(long, default_value_t = 560)]
        seconds: u64,
        /// Parts to run; all if none is named.
        parts: Vec<String>,
    },
}

/// A part of a run.
struct Part {
    name: &'static str,
    /// What bash runs, in the repository's root. `$KIT` and `$OUT` are the folders, `$MODEL` is random-weight Qwen3-0.6B,
    /// `$NANO` the arguments of `lathe` that run nano-vLLM's workload on it.
    script: &'static str,
    /// Seconds it may take.
    seconds: u64,
}

const PARTS: [Part; 13] = [
    Part { name: "doctor", script: "nvidia-smi; $KIT/lathe doctor", seconds: 20 },
    Part {
        name: "check",
        script: "$KIT/lathe check --device cuda --cases 40 --json > $OUT/check.json
                 $KIT/lathe check --device cuda --cases 0",
        seconds: 240,
    },
    Part {
        name: "tests",
        script: "for t in $KIT/tests/*; do LATHE_DRIVER=system $t --test-threads 4 --skip registers || exit 1; done",
        seconds: 120,
    },
    Part {
        name: "compute-sanitizer",
        script: "one() {
                     compute-sanitizer --tool $1 --error-exitcode 9 \
                         $KIT/lathe check --here --device cuda --cases 0 --timeout 600 > $OUT/$1.log 2>&1
                     status=$?; echo $1: exit status $status, $(tail -n 1 $OUT/$1.log); return $status
                 }
                 for tool in memcheck racecheck initcheck synccheck; do one $tool & all+=\" $!\"; done
                 failed=0; for pid in $all; do wait $pid || failed=1; done; exit $failed",
        seconds: 320,
    },
    Part { name: "weights", script: "$KIT/xtask model qwen3-0.6b-random", seconds: 60 },
    Part { name: "launch", script: "$KIT/launch --bench", seconds: 20 },
    Part { name: "workload", script: "$KIT/lathe $NANO --json $OUT/workload.json", seconds: 60 },
    Part {
        name: "workload-eager",
        script: "$KIT/lathe $NANO --enforce-eager --json $OUT/workload-eager.json",
        seconds: 60,
    },
    Part {
        name: "latency",
        script: "$KIT/lathe bench latency --device cuda --model $MODEL --input 512 --output 128 --repeat 5",
        seconds: 60,
    },
    Part {
        name: "kernel-trace",
        script: "python=$(python3 -c 'import nvidia; print(list(nvidia.__path__)[0])')/cu13
                 cuda=$(dirname $(dirname $(readlink -f $(command -v nvcc))))
                 cc -O2 -shared -fPIC -I$python/include -I$cuda/include benches/kernel_trace/trace.c -o $KIT/trace.so \
                     $python/lib/libcupti.so.13 -Wl,-rpath,$python/lib
                 CUDA_INJECTION64_PATH=$KIT/trace.so KERNEL_TRACE=$KIT/trace.txt $KIT/lathe $NANO \
                     && python3 benches/kernel_trace/table.py $KIT/trace.txt 256 128 64 16 1",
        seconds: 120,
    },
    Part { name: "anchors", script: "python3 benches/peers/gpu_anchors.py", seconds: 120 },
    Part {
        name: "transformers",
        script: "python3 benches/peers/transformers_gpu.py $MODEL 1 64 256",
        seconds: 90,
    },
    Part { name: "kernels", script: "DEVICE=cuda $KIT/kernels --bench --quick --noplot", seconds: 150 },
];

/// Runs the task.
///
/// # Errors
/// If a build fails, a part is unknown, or a part that was asked for fails.
pub fn run(args: &Args) -> Result<()> {
    match &args.task {
        Task::Kit => kit(),
        Task::Run { kit, out, seconds, parts } => run_parts(kit, out, *seconds, parts),
    }
}

fn kit() -> Result<()> {
    let kit = paths::cache()?.join("gpu-kit");
    if kit.exists() {
        fs::remove_dir_all(&kit).with_context(|| format!("cannot empty {}", kit.display()))?;
    }
    fs::create_dir_all(kit.join("tests"))?;
    let release = ["build", "--release", "--locked", "--bin", "lathe", "--bin", "xtask", "--workspace"];
    for (name, path) in built(&release)? {
        if ["lathe", "xtask"].contains(&name.as_str()) {
            copy(&path, &kit.join(name))?;
        }
    }
    let benches = ["kernels", "launch"];
    for (name, path) in
        built(&["bench", "--no-run", "--locked", "--bench", benches[0], "--bench", benches[1]])?
    {
        if benches.contains(&name.as_str()) {
            copy(&path, &kit.join(name))?;
        }
    }
    for (name, path) in built(&["test", "--no-run", "--locked", "--test", "cuda"])? {
        if name == "cuda" {
            copy(&path, &kit.join("tests").join(name))?;
        }
    }
    println!("{}", kit.display());
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    // Symbols are most of the size, and the kit travels.
    command::run(Command::new("strip").arg(to))
}

/// Runs cargo and returns the names and paths of the programs that it made.
fn built(args: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut cargo = command::cargo();
    cargo.args(args).arg("--message-format=json-render-diagnostics").current_dir(paths::workspace());
    cargo.stdout(Stdio::piped());
    let mut child = cargo.spawn().with_context(|| format!("cannot start `{}`", command::line(&cargo)))?;
    let mut programs = Vec::new();
    for line in BufReader::new(child.stdout.take().expect("stdout is piped")).lines() {
        let message: serde_json::Value = serde_json::from_str(&line?)?;
        if let (Some(name), Some(path)) = (message["target"]["name"].as_str(), message["executable"].as_str())
        {
            programs.push((name.to_owned(), PathBuf::from(path)));
        }
    }
    ensure!(child.wait()?.success(), "`{}` failed", command::line(&cargo));
    Ok(programs)
}

fn run_parts(kit: &Path, out: &Path, seconds: u64, names: &[String]) -> Result<()> {
    if let Some(name) = names.iter().find(|name| !PARTS.iter().any(|part| part.name == **name)) {
        let known: Vec<_> = PARTS.iter().map(|part| part.name).collect();
        bail!("there is no part {name}, only {}", known.join(", "));
    }
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let (kit, out) =
        (kit.canonicalize().with_context(|| format!("no kit at {}", kit.display()))?, out.canonicalize()?);
    let start = Instant::now();
    let mut summary = String::new();
    let mut failed = Vec::new();
    for part in PARTS.iter().filter(|part| names.is_empty() || names.iter().any(|name| name == part.name)) {
        let left = Duration::from_secs(seconds).saturating_sub(start.elapsed());
        let outcome = if left < Duration::from_secs(10) {
            "left out: no time".to_owned()
        } else {
            one(part, &kit, &out, left.min(Duration::from_secs(part.seconds)))?
        };
        if outcome != "passed" {
            failed.push(part.name);
        }
        let line = format!("{:<18} {outcome}, at {:.0} s\n", part.name, start.elapsed().as_secs_f64());
        print!("{line}");
        summary += &line;
    }
    fs::write(out.join("summary.txt"), &summary)?;
    ensure!(failed.is_empty(), "{}: see their logs in {}", failed.join(", "), out.display());
    Ok(())
}

/// Runs a part and says how it ended.
fn one(part: &Part, kit: &Path, out: &Path, limit: Duration) -> Result<String> {
    let log = File::create(out.join(format!("{}.log", part.name)))?;
    let mut timeout = Command::new("timeout");
    timeout.args(["--kill-after=5", &limit.as_secs().to_string(), "bash", "-c", part.script]);
    timeout.env("KIT", kit).env("OUT", out).env("CARGO_MANIFEST_DIR", std::env::current_dir()?);
    let model = paths::cache()?.join("models/qwen3-0.6b-random");
    timeout
        .env("NANO", format!("bench throughput --workload nano --device cuda --model {}", model.display()));
    timeout.env("MODEL", model);
    timeout.stdout(log.try_clone()?).stderr(log);
    let status = timeout.status().context("cannot start `timeout`")?;
    Ok(match status.code() {
        Some(0) => "passed".to_owned(),
        Some(124 | 137) => format!("stopped after {} s", limit.as_secs()),
        _ => format!("failed: {status}"),
    })
}
