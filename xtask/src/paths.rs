//! Where the workspace is and where tasks keep what they make.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Root folder of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// `LATHE_CACHE` made absolute, else `.cache` in the workspace. Tests look for their model there.
///
/// # Errors
/// If `LATHE_CACHE` is relative and the working directory is gone.
pub fn cache() -> Result<PathBuf> {
    match std::env::var_os("LATHE_CACHE").filter(|dir| !dir.is_empty()) {
        Some(dir) => {
            std::path::absolute(&dir).with_context(|| format!("LATHE_CACHE={}", Path::new(&dir).display()))
        }
        None => Ok(workspace().join(".cache")),
    }
}
