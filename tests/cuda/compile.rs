//! The compiler and its cache.

use std::path::Path;

use lathe::config::{EngineConfig, SamplingParams};
use lathe::device::{
    Cuda,
    cuda::{Compiler, Program, Target, source::Sources},
};
use lathe::llm::Prompt;

use crate::support::{engine_on, softcuda};

const HOPPER: Target = Target { capability: (9, 0), ptx: false };
const PTX: Target = Target { capability: (8, 0), ptx: true };

fn compiler(target: Target, sources: Sources, cache: &Path) -> Compiler {
    Compiler::with(target, sources, Some(cache.into())).expect("run `cargo xtask nvrtc` first")
}

fn norm(dim: usize) -> Program {
    Program::new("rms_norm.cu").with("DTYPE", 2).with("DIM", dim).with("VECTOR", 1)
}

/// The cache's entries.
fn entries(folder: &Path) -> Vec<std::path::PathBuf> {
    folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_warm_start_compiles_nothing_and_a_damaged_entry_is_compiled_again() {
    let cache = tempfile::tempdir().unwrap();
    let cold = compiler(HOPPER, Sources::default(), cache.path());
    let image = cold.image(&norm(1024)).unwrap();
    assert_eq!((cold.compiled(), &image[..4]), (1, &b"\x7fELF"[..]));
    assert_eq!(cold.image(&norm(2048)).map(|_| cold.compiled()).unwrap(), 2, "other constants");

    let warm = compiler(HOPPER, Sources::default(), cache.path());
    assert_eq!(warm.image(&norm(1024)).unwrap(), image);
    assert_eq!(warm.compiled(), 0);
    let ptx = compiler(PTX, Sources::default(), cache.path());
    assert!(ptx.image(&norm(1024)).unwrap().starts_with(b"//\n"), "PTX begins with a comment");
    assert_eq!(ptx.compiled(), 1, "another target");

    assert_eq!(entries(cache.path()).len(), 3, "and no temporary file");
    for entry in entries(cache.path()) {
        let mut bytes = std::fs::read(&entry).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&entry, &bytes[..bytes.len()]).unwrap();
    }
    let mended = compiler(HOPPER, Sources::default(), cache.path());
    assert_eq!(mended.image(&norm(1024)).unwrap(), image);
    assert_eq!(mended.compiled(), 1);
    for entry in entries(cache.path()) {
        std::fs::write(&entry, b"short").unwrap();
    }
    assert_eq!(mended.image(&norm(1024)).unwrap(), image);
    assert_eq!(mended.compiled(), 2);
}

#[test]
fn an_engine_that_starts_again_compiles_nothing() {
    softcuda();
    let config =
        EngineConfig { device: "cuda".into(), num_kvcache_blocks: Some(4), ..EngineConfig::default() };
    let params = SamplingParams { max_tokens: 3, temperature: 0.7, top_p: 0.9, ..SamplingParams::default() };
    // What the first compiles, if anything, is in the user's cache for the second.
    let [first, second] = [(); 2].map(|()| {
        let dev = Cuda::with(0, Sources::default(), false).unwrap();
        let mut llm = engine_on(&dev, config.clone());
        let started = dev.compiler().compiled();
        llm.generate(&[Prompt::from("Once")], std::slice::from_ref(&params), false).unwrap();
        let programs = dev.programs().len();
        assert!(programs >= 8, "{programs} programs");
        assert_eq!(dev.compiler().compiled(), started, "the rehearsal knows all that a step needs");
        started
    });
    assert!(second == 0, "{first} programs at the first start, {second} at the second");
}

#[test]
fn an_edited_file_or_header_is_another_program_and_errors_name_file_and_line() {
    let (cache, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |name: &str| folder.path().join(name);
    let sources = || Sources::new(Some(folder.path().into()));
    std::fs::write(at("own.cuh"), "#define VALUE 1\n").unwrap();
    std::fs::write(
        at("own.cu"),
        "#include \"own.cuh\"\nextern \"C\" __global__ void own(int* p) { *p = VALUE; }\n",
    )
    .unwrap();
    let own = Program::new("own.cu");
    let compiler = compiler(PTX, sources(), cache.path());
    compiler.image(&own).unwrap();
    compiler.image(&own).unwrap();
    assert_eq!(compiler.compiled(), 1);
    std::fs::write(at("own.cuh"), "#define VALUE 2\n").unwrap();
    compiler.image(&own).unwrap();
    assert_eq!(compiler.compiled(), 2);
    std::fs::write(at("own.cuh"), "#define VALUE two\n").unwrap();
    let error = compiler.image(&own).unwrap_err().to_string();
    let place = format!("{}(2): error: identifier \"two\" is undefined", at("own.cu").display());
    assert!(error.contains("own.cu does not compile:\n") && error.contains(&place), "{error}");
    let error = compiler.image(&norm(0)).unwrap_err().to_string();
    assert!(error.contains("cuda/rms_norm.cu("), "{error}");
}
