//! What the tests on a device share: softcuda, or with `LATHE_DRIVER=system` the machine's GPU.

use std::path::PathBuf;
use std::sync::Once;

use lathe::config::EngineConfig;
use lathe::device::Cuda;
use lathe::engine::policies;
use lathe::kernels::Registry;
use lathe::llm::LLM;
use lathe::open;
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
    cache.unwrap_or_else(|| root().join(".cache")).join("softcuda")
}

/// The repository: cargo says where, also to a test binary that was built elsewhere.
pub fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo").into()
}

/// Whether the machine's own driver is asked for.
pub fn on_gpu() -> bool {
    std::env::var_os("LATHE_DRIVER").is_some_and(|driver| driver == "system")
}

/// Loads softcuda, unless [`on_gpu`], before anything looks for a driver; one of the system's would be found by its name.
pub fn softcuda() {
    static LOADED: Once = Once::new();
    if on_gpu() {
        return;
    }
    LOADED.call_once(|| {
        let path = softcuda_folder().join("libcuda.so.1");
        let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: `name` is a C string; the library's initialisers make no demands on the process.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_GLOBAL) };
        assert!(!handle.is_null(), "{} does not load: run `cargo xtask softcuda`", path.display());
    });
}

/// An engine on a device that is at hand.
pub fn engine_on(dev: &Cuda, config: EngineConfig) -> LLM {
    let files = open::files(&config).unwrap();
    let runner = open::runner_on(dev, &Registry::cuda(dev.target()), &config, &files).unwrap();
    LLM::with_runner(config, files, runner, policies::by_name("chunked").unwrap()).unwrap()
}

/// The families of models that transformers recorded.
pub const FAMILIES: [&str; 7] =
    ["qwen3", "qwen2", "llama", "llama3_rope", "mistral_window", "gemma3", "gemma3_mixed"];

/// The folder of a family's model, and what was recorded of it.
pub fn golden(family: &str) -> (PathBuf, Expected) {
    let folder = root().join("reference/golden/models").join(family);
    let expected = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    (folder, expected)
}
