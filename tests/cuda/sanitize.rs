//! Under all of softcuda's checks: a kernel that fails, by `lathe check --sanitize`; the whole engine, without a report.

use std::fs;
use std::process::Command;

use crate::support::{root, softcuda_folder};

/// The `lathe` command beside the software driver.
fn lathe() -> Command {
    let softcuda = softcuda_folder();
    let mut lathe = Command::new(env!("CARGO_BIN_EXE_lathe"));
    lathe.env("LATHE_CACHE", softcuda.parent().unwrap()).env("LD_LIBRARY_PATH", softcuda);
    lathe
}

/// Exit status, stdout and stderr.
fn run(lathe: &mut Command) -> (Option<i32>, String, String) {
    let output = lathe.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_engine_gives_the_cpus_tokens_and_no_report() {
    let generate = |device: &str| {
        let mut lathe = lathe();
        lathe.args("generate --dtype f32 --temperature 0 --max-tokens 4 --json --device".split(' '));
        lathe.args([device, "Once upon a time", "The king"]);
        lathe.env("SOFTCUDA_CHECK", "memory,init,race,sync");
        let (code, tokens, said) = run(&mut lathe);
        assert!(code == Some(0) && !said.contains("softcuda:"), "{device}: {said}");
        tokens
    };
    let tokens = generate("cuda");
    assert!(tokens.contains(r#""text":", in a little""#), "{tokens}");
    assert_eq!(tokens, generate("cpu"));
}

/// A kernel that forgets its block's index: every block adds to the first block's rows.
#[test]
fn a_failing_kernel_is_told_what_softcuda_sees() {
    let folder = tempfile::tempdir().unwrap();
    let source = fs::read_to_string(root().join("cuda/rms_norm.cu")).unwrap();
    let (thread, forgotten) = ("blockIdx.x * blockDim.x + threadIdx.x;", "threadIdx.x;");
    assert!(source.contains(thread));
    fs::write(folder.path().join("rms_norm.cu"), source.replacen(thread, forgotten, 1)).unwrap();
    let case = r#"{"dtype":"bf16","rows":150,"dim":8,"eps":1e-6,"offset":0.0,"spread":1.0,"seed":1}"#;
    let check = |more: &[&str]| {
        let mut lathe = lathe();
        lathe.args(["check", "add_rms_norm/naive", "--device", "cuda", "--case", case]).args(more);
        run(lathe.env("LATHE_CUDA_DIR", folder.path()))
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
