//! `lathe check --sanitize`: a kernel that fails runs again under softcuda's checks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A kernel that forgets its block's index: every block adds to the first block's rows.
#[test]
fn a_failing_kernel_is_told_what_softcuda_sees() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cache = std::env::var_os("LATHE_CACHE").map_or_else(|| root.join(".cache"), PathBuf::from);
    let folder = tempfile::tempdir().unwrap();
    let source = fs::read_to_string(root.join("cuda/rms_norm.cu")).unwrap();
    let (thread, forgotten) = ("blockIdx.x * blockDim.x + threadIdx.x;", "threadIdx.x;");
    assert!(source.contains(thread));
    fs::write(folder.path().join("rms_norm.cu"), source.replacen(thread, forgotten, 1)).unwrap();
    let case = r#"{"dtype":"bf16","rows":150,"dim":8,"eps":1e-6,"offset":0.0,"spread":1.0,"seed":1}"#;
    let check = |more: &[&str]| {
        let mut lathe = Command::new(env!("CARGO_BIN_EXE_lathe"));
        lathe.args(["check", "add_rms_norm/naive", "--device", "cuda", "--case", case]).args(more);
        lathe.env("LD_LIBRARY_PATH", cache.join("softcuda")).env("LATHE_CUDA_DIR", folder.path());
        let output = lathe.env("LATHE_CACHE", &cache).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, found, said) = check(&[]);
    assert!(code == Some(1) && found.contains("UNWRITTEN_OUTPUT") && !said.contains("race"), "{found}{said}");
    let (code, found, said) = check(&["--sanitize"]);
    assert!(code == Some(1) && found.contains("UNWRITTEN_OUTPUT"), "{found}{said}");
    assert!(
        said.contains("softcuda: add_rms_norm_naive")
            && said.contains("races with")
            && said.contains("rms_norm.cu:"),
        "{said}"
    );
}
