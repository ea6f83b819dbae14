//! Machines that lack NVIDIA's libraries: an error that says which, where it was looked for and how to get it.

use std::path::Path;
use std::process::{Command, Output};

use lathe::device::{
    DType,
    cuda::{
        Target,
        library::{Wanted, usual_folders},
    },
};
use lathe::kernels::{LinearSpec, Registry, Unsupported};
use tempfile::TempDir;

/// The command in a folder of its own, where no library is but those in `libraries`.
struct Bare {
    folder: TempDir,
    libraries: String,
}

impl Bare {
    fn new(libraries: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Beside its usual place lies what `cargo xtask` fetched.
        std::fs::copy(env!("CARGO_BIN_EXE_lathe"), folder.path().join("lathe")).unwrap();
        Self { folder, libraries: libraries.to_str().unwrap().into() }
    }

    fn run(&self, args: &[&str]) -> (Output, String) {
        let output = Command::new(self.folder.path().join("lathe"))
            .args(args)
            .current_dir(self.folder.path())
            .env_clear()
            .env("HOME", self.folder.path())
            .env("LD_LIBRARY_PATH", &self.libraries)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!text.contains("panicked"), "{args:?}: {text}");
        (output, text)
    }

    /// Fails for want of the library, unless this system has one of its own, which the doctor then knows.
    fn must_miss(&self, args: &[&str], name: &str, file: &str, remedy: &str) {
        let doctor = String::from_utf8(self.run(&["doctor"]).0.stdout).unwrap();
        let (output, error) = self.run(args);
        if doctor.contains(&format!("missing: {file}")) {
            assert_eq!(output.status.code(), Some(1), "{error}");
            for part in [&format!("{name} is missing: no {file}"), "LD_LIBRARY_PATH", remedy] {
                assert!(error.contains(part), "{part:?} is not in {error}");
            }
            assert_eq!(error.lines().count(), 1, "{error}");
        } else {
            assert!(!error.contains(&format!("{name} is missing")), "the doctor found it: {error}");
        }
    }
}

const GENERATE: [&str; 6] = ["generate", "--device", "cuda", "--max-tokens", "1", "Once"];

#[test]
fn without_a_driver_or_with_something_else_of_its_name() {
    let empty = tempfile::tempdir().unwrap();
    let remedy = "install NVIDIA's driver";
    Bare::new(empty.path()).must_miss(&GENERATE, "CUDA driver", "libcuda.so.1", remedy);
    std::fs::write(empty.path().join("libcuda.so.1"), "not a library").unwrap();
    Bare::new(empty.path()).must_miss(&GENERATE, "CUDA driver", "libcuda.so.1", remedy);
}

#[test]
fn without_nvrtc() {
    let softcuda = crate::support::softcuda_folder();
    let remedy = "pip install nvidia-cuda-nvrtc==13.0.88";
    Bare::new(&softcuda).must_miss(&GENERATE, "NVRTC", "libnvrtc.so.13", remedy);
}

/// Of a library that only some choices need: `told` says all that is wanted, unless this machine has it.
fn must_tell(wanted: Wanted, told: Option<String>, parts: &[&str]) {
    let folders = usual_folders();
    if wanted.find(&folders).is_some() {
        assert!(told.is_none_or(|told| !told.contains("is missing")), "{} was found", wanted.name());
        return;
    }
    let told = told.expect("the library is missing");
    let places = folders.iter().map(|folder| folder.display().to_string());
    for part in parts.iter().map(|part| (*part).to_owned()).chain(places).chain(["LD_LIBRARY_PATH".into()]) {
        assert!(told.contains(&part), "{part:?} is not in {told}");
    }
}

#[test]
fn without_cublaslt() {
    // The kernel as it is for a GPU; it says no to softcuda before it looks for the library.
    let registry = Registry::cuda(Target { capability: (9, 0), ptx: false });
    let kernel = registry.linear.iter().find(|kernel| kernel.name() == "cublaslt").unwrap();
    let spec = LinearSpec { dtype: DType::Bf16, out: DType::Bf16, n: 64, k: 64, bias: false };
    let told = kernel.supports(&spec).err().map(|Unsupported(reason)| reason);
    let file = "cuBLASLt is missing: no libcublasLt.so.13 or libcublasLt.so.12 or libcublasLt.so";
    must_tell(Wanted::CublasLt, told, &[file, "pip install nvidia-cublas, or the CUDA toolkit"]);
}

#[test]
fn softcuda_says_no_to_cublaslt_by_name() {
    let softcuda = crate::support::softcuda_folder();
    let nvrtc = softcuda.parent().unwrap().join("nvrtc/nvidia/cu13/lib");
    let both = std::env::join_paths([softcuda, nvrtc]).unwrap();
    let mut args = GENERATE.to_vec();
    args.extend(["--kernel", "linear=cublaslt"]);
    let (output, error) = Bare::new(Path::new(&both)).run(&args);
    assert_eq!(output.status.code(), Some(1), "{error}");
    let want = "error: linear: kernel cublaslt does not support softcuda: it needs a GPU of NVIDIA's\n";
    assert_eq!(error, want);
}

#[test]
fn without_nccl() {
    let told = Wanted::Nccl.require().err().map(|error| error.to_string());
    let file = "NCCL is missing: no libnccl.so.2 or libnccl.so";
    must_tell(Wanted::Nccl, told, &[file, "pip install nvidia-nccl-cu13, or NVIDIA's package libnccl2"]);
    // Nothing loads it yet: more than one GPU is refused by name.
    let empty = tempfile::tempdir().unwrap();
    let mut args = GENERATE.to_vec();
    args.extend(["--tensor-parallel-size", "2"]);
    let (output, error) = Bare::new(empty.path()).run(&args);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert_eq!(error, "error: tensor_parallel_size is 2, expected 1: one GPU for now\n");
}

#[test]
fn the_doctor_says_how_to_get_what_is_missing() {
    let empty = tempfile::tempdir().unwrap();
    let (output, _) = Bare::new(empty.path()).run(&["doctor"]);
    let doctor = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{doctor}");
    for wanted in Wanted::ALL {
        let line = |line: &&str| line.starts_with(wanted.name());
        let found = doctor.lines().find(line).unwrap_or_else(|| panic!("no {} in {doctor}", wanted.name()));
        let missing = found.ends_with(&format!("missing: {}", wanted.files().join(" or ")));
        let remedy = format!("  {}: {}", wanted.name(), wanted.remedy());
        assert_eq!(doctor.lines().any(|line| line == remedy), missing, "{doctor}");
    }
}
