//! Machines that lack NVIDIA's libraries: an error that says which, where it was looked for and how to get it.

use std::path::Path;
use std::process::{Command, Output};

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
