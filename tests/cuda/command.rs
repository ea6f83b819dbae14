//! The command itself, on softcuda.

use std::path::{Path, PathBuf};
use std::process::Command;

/// `lathe` with softcuda as its CUDA driver.
pub fn lathe(arguments: &[&str]) -> Command {
    let cache = std::env::var_os("LATHE_CACHE").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache"));
    let driver = cache.join("softcuda");
    assert!(driver.join("libcuda.so.1").exists(), "{}: run `cargo xtask softcuda` first", driver.display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_lathe"));
    command.args(arguments).env("LD_LIBRARY_PATH", driver);
    command
}
