//! CUDA C programs, compiled by NVRTC and run on softcuda through cudarc: each gives what plain Rust computes.
//!
//! A row of [`INTEGER`] or [`FLOAT`] is a kernel of `integer.cu` or `float.cu`, its launch, and a function that says
//! what it should write.

#[path = "../common/mod.rs"]
mod common;
mod float;
mod integer;

use std::{ffi::CString, path::PathBuf, sync::Once};

use cudarc::{
    driver::{CudaContext, LaunchConfig, PushKernelArg},
    nvrtc::{CompileOptions, compile_ptx_with_opts},
};

/// What a kernel should write, from the inputs a and b.
pub enum Want {
    /// A word from the word of each input.
    Word(fn(u32, u32) -> u32),
    /// The same of floats.
    Float(fn(f32, f32) -> f32),
    /// All words, from `n` and zeros.
    All(fn(a: &[u32], b: &[u32], n: usize, out: &mut [u32])),
    /// All floats.
    Floats(fn(a: &[f32], b: &[f32], n: usize, out: &mut [f32])),
}

impl Want {
    fn output(&self, [a, b]: [&[u32]; 2], n: usize, words: usize) -> Vec<u32> {
        let mut out = vec![0; words];
        let float = |words: &[u32]| words.iter().map(|&w| f32::from_bits(w)).collect::<Vec<_>>();
        match self {
            Self::Word(f) => out.iter_mut().zip(a).zip(b).for_each(|((out, &a), &b)| *out = f(a, b)),
            Self::Float(f) => {
                let each = out.iter_mut().zip(a).zip(b);
                each.for_each(|((out, &a), &b)| *out = f(f32::from_bits(a), f32::from_bits(b)).to_bits());
            }
            Self::All(f) => f(a, b, n, &mut out),
            Self::Floats(f) => {
                let mut floats = vec![0.0; words];
                f(&float(a), &float(b), n, &mut floats);
                out = floats.into_iter().map(f32::to_bits).collect();
            }
        }
        out
    }
}

/// A kernel and what it should do.
pub struct Row {
    kernel: &'static str,
    grid: [u32; 3],
    block: [u32; 2],
    n: usize,
    out: usize,
    want: Want,
    tolerance: Option<f32>,
}

impl Row {
    /// A kernel, its blocks and threads, `n` and the words of the output, which are zero before.
    pub fn new(
        kernel: &'static str,
        grid: [u32; 3],
        block: [u32; 2],
        [n, out]: [usize; 2],
        want: Want,
    ) -> Self {
        Self { kernel, grid, block, n, out, want, tolerance: None }
    }

    /// Floats may differ by this, times one or the expected magnitude if that is larger.
    pub fn within(self, tolerance: f32) -> Self {
        Self { tolerance: Some(tolerance), ..self }
    }
}

/// Words of both inputs, which are the same for all rows.
const INPUT: usize = 1536;

/// Finds the pinned NVRTC and makes cudarc use it.
fn nvrtc() {
    static LOADED: Once = Once::new();
    LOADED.call_once(|| {
        let workspace = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let cache = std::env::var_os("LATHE_CACHE").map_or_else(|| workspace.join(".cache"), PathBuf::from);
        for library in ["libnvrtc-builtins.so.13.0", "libnvrtc.so.13"] {
            let path = cache.join("nvrtc/nvidia/cu13/lib").join(library);
            let path =
                CString::new(path.to_str().expect("a path in UTF-8")).expect("a path without zero bytes");
            // SAFETY: NVRTC may be loaded at any time.
            let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
            assert!(!handle.is_null(), "cannot load {path:?}: run `cargo xtask nvrtc`");
        }
    });
}

fn run(source: &str, rows: &[Row], inputs: [Vec<u32>; 2]) {
    common::load();
    nvrtc();
    let options = CompileOptions { arch: Some("compute_80"), ..CompileOptions::default() };
    let ptx = compile_ptx_with_opts(source, options).expect("the suite compiles");
    let mut wrong = Vec::new();
    for row in rows {
        // A context for each row: a fault would stay in it.
        let ctx = CudaContext::new_non_primary(0, 0).unwrap();
        let stream = ctx.new_stream().unwrap();
        let module = ctx.load_module(ptx.clone()).expect("the suite loads");
        let kernel = module.load_function(row.kernel).unwrap();
        let [a, b] = inputs.each_ref().map(|words| stream.clone_htod(words).unwrap());
        let mut out = stream.alloc_zeros::<u32>(row.out).unwrap();
        let [x, y, z] = row.grid;
        let [bx, by] = row.block;
        let shared_mem_bytes = 8 * bx;
        let config = LaunchConfig { grid_dim: (x, y, z), block_dim: (bx, by, 1), shared_mem_bytes };
        let n = row.n as i32;
        // SAFETY: every kernel of the suite takes these arguments.
        unsafe { stream.launch_builder(&kernel).arg(&a).arg(&b).arg(&mut out).arg(&n).launch(config) }
            .unwrap();
        let got = match stream.clone_dtoh(&out) {
            Ok(got) => got,
            Err(error) => {
                wrong.push(format!("{}: {error:?}", row.kernel));
                continue;
            }
        };
        let want = row.want.output([&inputs[0], &inputs[1]], row.n, row.out);
        let differs = |(&got, &want): (&u32, &u32)| match row.tolerance {
            None => got != want,
            Some(tolerance) => {
                let (got, want) = (f32::from_bits(got), f32::from_bits(want));
                (got - want).abs() > tolerance * want.abs().max(1.0) || got.is_nan() != want.is_nan()
            }
        };
        if let Some(i) = got.iter().zip(&want).position(differs) {
            let floats = row.tolerance.map(|_| [got[i], want[i]].map(f32::from_bits));
            wrong.push(format!(
                "{}: word {i} is {:#x}, expected {:#x} {floats:?}",
                row.kernel, got[i], want[i]
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

/// Words from a linear congruential generator, all bits used.
fn words(mut seed: u64) -> Vec<u32> {
    let mut next = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 32) as u32
    };
    (0..INPUT).map(|_| next()).collect()
}

#[test]
fn integers() {
    run(include_str!("integer.cu"), &integer::rows(), [words(1), words(2)]);
}

#[test]
fn floats() {
    let floats = |seed| words(seed).into_iter().map(|w| ((w as i32) as f32 * 1e-9).to_bits()).collect();
    run(include_str!("float.cu"), &float::rows(), [floats(3), floats(4)]);
}

#[test]
fn there_are_at_least_sixty_programs() {
    let (integer, float) = (integer::rows(), float::rows());
    let names: std::collections::BTreeSet<_> = integer.iter().chain(&float).map(|row| row.kernel).collect();
    let sources = [include_str!("integer.cu"), include_str!("float.cu")].concat();
    let defined = sources.matches("\nKERNEL(").count();
    assert_eq!(names.len(), defined, "every kernel has one row");
    assert!(defined >= 60);
}
