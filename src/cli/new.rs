//! `lathe new`: an experiment that builds, runs and is checked as it stands.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// Start an experiment in experiments/, as a copy of one that works, to be changed.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
    /// The repository
    #[arg(long, global = true, default_value = ".", value_name = "DIR")]
    repository: PathBuf,
}

#[derive(clap::Subcommand)]
enum What {
    /// A kernel
    Kernel {
        /// An idea, such as split_kv
        name: String,
        /// The operation: see lathe kernels. attention and sample begin with a kernel of their own, others with the oracle
        #[arg(long, value_name = "OP")]
        op: String,
    },
    /// A scheduling policy
    Scheduler {
        /// An idea, such as shortest_first
        name: String,
    },
}

const README: &str = "# NAME

**Hypothesis.** What this does better, where, by how much, and who pays.

**Command.** `cargo run --release -p lathe-experiments --bin NAME`

**Result.** What was measured, on which machine, at which commit.
";

/// Operations and their types; attention and sample have examples of their own.
const OPS: [(&str, &str); 10] = [
    ("embedding", "Embedding"),
    ("linear", "Linear"),
    ("rms_norm", "RmsNorm"),
    ("add_rms_norm", "AddRmsNorm"),
    ("rope", "Rope"),
    ("kv_store", "KvStore"),
    ("rope_store", "RopeStore"),
    ("activation", "GatedActivation"),
    ("logits", "Logits"),
    ("logprobs", "Logprobs"),
];

/// Writes the folder and adds it to the experiments' manifest.
///
/// # Errors
/// For a name that is taken or no identifier, an operation that does not exist, or a folder that is not Lathe's.
pub fn run(args: Args) -> Result<()> {
    // The example, and what its kernel or policy is called as a type and by name.
    let (name, example, old_type, old_name) = match &args.what {
        What::Kernel { name, op } => match op.as_str() {
            "attention" => (name, "two_pass_attention", "TwoPass", "two_pass"),
            "sample" => (name, "inverse_sampling", "Inverse", "inverse"),
            op if OPS.iter().any(|(known, _)| *known == op) => {
                (name, "start_here", "StartHere", "start_here")
            }
            _ => {
                let known: Vec<&str> = OPS.iter().map(|(op, _)| *op).collect();
                bail!("--op is {op:?}, expected attention, sample, {}", known.join(", "))
            }
        },
        What::Scheduler { name } => (name, "shortest_first", "ShortestFirst", "shortest_first"),
    };
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(letters);
    ensure!(plain, "the name is {name:?}, expected lower-case letters, digits and _");
    let experiments = args.repository.join("experiments");
    let read = |path: &Path| {
        let hint = || format!("{}: run this in the repository, or say --repository", path.display());
        fs::read_to_string(path).with_context(hint)
    };
    let manifest = experiments.join("Cargo.toml");
    let (text, code) = (read(&manifest)?, read(&experiments.join(example).join("main.rs"))?);
    let folder = experiments.join(name);
    ensure!(!folder.exists(), "{} is there already", folder.display());
    fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
    let write = |path: &Path, text: String| fs::write(path, text).with_context(|| path.display().to_string());
    let mut code = code;
    // The example's operation first: a kernel's name may have an operation's in it.
    if let What::Kernel { op, .. } = &args.what
        && let Some((field, operation)) = OPS.iter().find(|(known, _)| known == op)
    {
        code = code.replace("RmsNorm", operation).replace("registry.rms_norm", &format!("registry.{field}"));
    }
    write(&folder.join("main.rs"), code.replace(old_type, &type_name(name)).replace(old_name, name))?;
    write(&folder.join("README.md"), README.replace("NAME", name))?;
    let entry = format!("\n[[bin]]\nname = \"{name}\"\npath = \"{name}/main.rs\"\n");
    write(&manifest, text + &entry)?;
    println!("{} is ready: cargo run --release -p lathe-experiments --bin {name}", folder.display());
    Ok(())
}

/// `split_kv` as `SplitKv`.
fn type_name(name: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
    };
    name.split('_').map(word).collect()
}
