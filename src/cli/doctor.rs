//! `lathe doctor`: what this machine has, what is missing, and how to get it.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;
use lathe::config::EngineConfig;
use lathe::model::hub::Hub;
use lathe::open;

use super::machine::Machine;
use lathe::device::cuda::library::{Wanted, usual_folders};

/// Tell what this machine has (CPU, memory, CUDA's libraries, models), what is missing, and how to get it.
#[derive(clap::Args)]
pub struct Args {}

/// Prints what it finds; nothing that is missing is an error.
///
/// # Errors
/// If stdout is closed.
pub fn run(_: Args) -> Result<()> {
    let mut out = io::stdout().lock();
    let mut line = |what: &str, found: String| writeln!(out, "{what:<12} {found}");
    let machine = Machine::this();
    line("lathe", format!("{} for {}", env!("CARGO_PKG_VERSION"), machine.system))?;
    line("CPU", cpu(&machine))?;
    line("memory", memory(&machine))?;
    line("model", embedded_model())?;
    line("hub", hub())?;
    let folders = usual_folders();
    let mut missing = Vec::new();
    for wanted in Wanted::ALL {
        match wanted.find(&folders) {
            Some(found) => {
                let mut text = found.version.unwrap_or("unknown version".into());
                let _ = write!(text, ", {}", found.path.display());
                if wanted == Wanted::Driver {
                    let _ = match found.devices.as_slice() {
                        [] => write!(text, "; no GPU that it can use"),
                        devices => write!(text, "; {}", devices.join(", ")),
                    };
                }
                line(wanted.name(), text)?;
            }
            None => {
                line(wanted.name(), format!("missing: {}", wanted.files().join(" or ")))?;
                missing.push(wanted);
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nThe CPU needs none of what is missing. For CUDA:")?;
    for wanted in missing {
        writeln!(out, "  {}: {}", wanted.name(), wanted.remedy())?;
    }
    Ok(())
}

fn cpu(machine: &Machine) -> String {
    let Machine { cpu, cores, simd, cache_bytes, .. } = machine;
    let cache = cache_bytes.map_or(String::new(), |bytes| format!(", {} MiB cache", bytes >> 20));
    let hint = match simd.as_str() {
        "portable" => " (slow: kernels want AVX2 with FMA and F16C, or AVX-512)",
        _ => "",
    };
    format!("{cpu}: {cores} threads, {simd}{hint}{cache}")
}

fn memory(machine: &Machine) -> String {
    let gib = |bytes: Option<u64>| match bytes {
        Some(bytes) => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
        None => "unknown".into(),
    };
    let pages = match machine.huge_pages.as_deref() {
        Some("never") => {
            "huge pages: never (faster with them: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled)"
                .into()
        }
        Some(mode) => format!("huge pages: {mode}"),
        None => "huge pages: unknown".into(),
    };
    format!("{}, {} available; {pages}", gib(machine.memory_bytes), gib(machine.memory_available_bytes))
}

fn embedded_model() -> String {
    match open::files(&EngineConfig::default()) {
        Ok(files) => {
            let config = &files.config;
            let parameters: usize =
                config.expected_tensors().map(|(_, shape)| shape.iter().product::<usize>()).sum();
            let (layers, millions) = (config.layers.len(), parameters as f64 / 1e6);
            let (family, context) = (&config.model_type, config.max_position_embeddings);
            format!("in the binary: {family}, {layers} layers, {millions:.1} M parameters, context {context}")
        }
        Err(error) => format!("the one in the binary does not open: {error}"),
    }
}

fn hub() -> String {
    let hub = match Hub::from_env() {
        Ok(hub) => hub,
        Err(error) => return format!("--model ORG/NAME does not work: {error}"),
    };
    let models = cached_models(hub.cache());
    let offline = if hub.is_offline() { "; offline, as the environment says" } else { "" };
    let models = match models.as_slice() {
        [] => "no models yet".into(),
        models => models.join(", "),
    };
    format!("cache {}: {models}{offline}", hub.cache().display())
}

/// `ORG/NAME` of each folder `models--ORG--NAME`.
fn cached_models(cache: &Path) -> Vec<String> {
    let entries = cache.read_dir().into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut models: Vec<String> =
        names.filter_map(|name| Some(name.strip_prefix("models--")?.replacen("--", "/", 1))).collect();
    models.sort();
    models
}
