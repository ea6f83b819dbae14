//! What the tests on softcuda share.

use std::path::{Path, PathBuf};
use std::sync::Once;

use serde::Deserialize;

/// What transformers recorded.
#[derive(Deserialize)]
pub struct Expected {
    pub prompts: Vec<Vec<u32>>,
    pub greedy: Vec<Vec<u32>>,
}

/// The folder with softcuda's `libcuda.so.1`.
pub fn softcuda_folder() -> PathBuf {
    let cache = std::env::var_os("LATHE_CACHE").map(PathBuf::from);
    cache.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache")).join("softcuda")
}

/// Loads softcuda before anything looks for a driver; a driver of the system's would be found by its name.
pub fn softcuda() {
    static LOADED: Once = Once::new();
    LOADED.call_once(|| {
        let path = softcuda_folder().join("libcuda.so.1");
        let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: `name` is a C string; the library's initialisers make no demands on the process.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_GLOBAL) };
        assert!(!handle.is_null(), "{} does not load: run `cargo xtask softcuda`", path.display());
    });
}

/// The folder of a family's model, and what was recorded of it.
pub fn golden(family: &str) -> (PathBuf, Expected) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/golden/models").join(family);
    let expected = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    (folder, expected)
}
