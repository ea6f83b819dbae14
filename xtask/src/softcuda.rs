//! `cargo xtask softcuda`: the CUDA driver in software, built and laid out as clients look for it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{command, paths};

/// Build softcuda, a CUDA driver that needs no GPU, and print the folder with its `libcuda.so.1`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the task.
///
/// # Errors
/// As [`folder`].
pub fn run(_: &Args) -> Result<()> {
    let dir = folder()?;
    println!("{}", dir.display());
    println!("To run a CUDA program on it: LD_LIBRARY_PATH={} PROGRAM", dir.display());
    Ok(())
}

/// The folder with `libcuda.so.1` and the link `libcuda.so`, built now.
///
/// # Errors
/// If it does not build or the file system says no.
pub fn folder() -> Result<PathBuf> {
    let mut cargo = command::cargo();
    cargo.args(["build", "--quiet", "--release", "--package", "softcuda", "--locked"]);
    // Where the library will be, whatever the configuration says.
    let target = paths::workspace().join("target");
    command::run(cargo.arg("--target-dir").arg(&target).current_dir(paths::workspace()))?;

    let dir = paths::cache()?.join("softcuda");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    // Under another name first: a program that has the old library loaded keeps it.
    let (new, library, link) = (dir.join(".new"), dir.join("libcuda.so.1"), dir.join("libcuda.so"));
    fs::copy(target.join("release/libsoftcuda.so"), &new).context("cargo built no libsoftcuda.so")?;
    fs::rename(&new, &library).with_context(|| format!("cannot write {}", library.display()))?;
    if !link.is_symlink() {
        std::os::unix::fs::symlink("libcuda.so.1", &link)
            .with_context(|| format!("cannot link {}", link.display()))?;
    }
    Ok(dir)
}
