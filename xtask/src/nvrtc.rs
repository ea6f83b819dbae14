//! `cargo xtask nvrtc`: NVIDIA's run-time compiler, pinned, for machines without a CUDA toolkit.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::pip::Wheel;
use crate::{made, paths, pip};

/// Fetch the pinned NVRTC and print the folder that holds its libraries.
///
/// Lathe and its tests look for NVRTC there; no GPU and no CUDA toolkit is needed to compile kernels.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the task.
///
/// # Errors
/// As [`folder`].
pub fn run(_: &Args) -> Result<()> {
    println!("{}", folder()?.display());
    Ok(())
}

/// The folder with `libnvrtc.so.13` and its builtins, fetched at the first call.
///
/// # Errors
/// If NVIDIA has no wheel for this system, or it cannot be fetched.
pub fn folder() -> Result<PathBuf> {
    let sha256 = match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575",
        ("linux", "aarch64") => "d27f20a0ca67a4bb34268a5e951033496c5b74870b868bacd046b1b8e0c3267b",
        (os, arch) => bail!("there is no NVRTC for {os} on {arch}: CUDA kernels compile on Linux alone"),
    };
    let wheel = Wheel { package: "nvidia-cuda-nvrtc", version: "13.0.88", sha256 };
    let dir = paths::cache()?.join("nvrtc");
    made::folder(&dir, &wheel.pin(), |dir| pip::unpack(&[wheel], dir))?;
    Ok(dir.join("nvidia/cu13/lib"))
}
