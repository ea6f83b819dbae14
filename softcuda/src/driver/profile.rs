//! `SOFTCUDA_PROFILE`: the counters of every launch, written when the process ends.

use std::sync::{Mutex, OnceLock, PoisonError};

use serde::Serialize;

use super::config::Config;
use crate::{
    count::Counters,
    exec::{LaunchConfig, Report},
};

/// A launch in the file.
#[derive(Debug, Serialize)]
struct Launch {
    kernel: String,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    counters: Counters,
}

/// The file.
#[derive(Debug, Serialize)]
struct Profile<'a> {
    note: &'a str,
    launches: &'a [Launch],
}

const NOTE: &str =
    "modelled by softcuda: exact counts of the PTX, run on a CPU; l2 and dram are a model; no times";

static LAUNCHES: Mutex<Vec<Launch>> = Mutex::new(Vec::new());
static FILE: OnceLock<String> = OnceLock::new();

/// Takes the report of a launch.
pub fn record(name: &str, config: &LaunchConfig, report: Report) {
    let Some(counters) = report.counters else { return };
    let LaunchConfig { grid, block, dynamic_shared } = *config;
    let launch = Launch { kernel: name.to_string(), grid, block, dynamic_shared, counters };
    LAUNCHES.lock().unwrap_or_else(PoisonError::into_inner).push(launch);
}

/// Arranges for the file to be written at exit.
pub fn at_exit(config: &Config) {
    if let Some(file) = &config.profile
        && FILE.set(file.clone()).is_ok()
    {
        // SAFETY: `write` is a function without arguments that does not unwind.
        unsafe { libc::atexit(write) };
    }
}

extern "C" fn write() {
    let Some(file) = FILE.get() else { return };
    let launches = LAUNCHES.lock().unwrap_or_else(PoisonError::into_inner);
    // A process that launched nothing must not overwrite what its children wrote.
    if launches.is_empty() {
        return;
    }
    let text = serde_json::to_string_pretty(&Profile { note: NOTE, launches: &launches });
    let written =
        text.map_err(|e| e.to_string()).and_then(|t| std::fs::write(file, t).map_err(|e| e.to_string()));
    if let Err(e) = written {
        eprintln!("softcuda: SOFTCUDA_PROFILE={file}: {e}");
    }
}
