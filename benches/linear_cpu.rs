//! `Linear` on the CPU against what bounds it, side by side: the machine's read bandwidth and peak FMA rate,
//! and the `gemm` crate.
//!
//! `cargo bench --bench linear_cpu`, with `THREADS=1` for one thread. Compare within a run only. Throughput is
//! in bytes of weights for `read` and `decode`, in floating-point operations ("elements") for the rest.

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gemm::Parallelism;
use half::{bf16, f16};
use lathe::{
    device::{Cpu, DType, Element, Tensor},
    kernels::{self, Linear, LinearArgs, Queue, Registry, Slot},
};

/// `(n, k)` of SmolLM2-135M and of Qwen3-0.6B: attention, MLP, vocabulary.
const SHAPES: [(usize, usize); 7] =
    [(576, 576), (1536, 576), (576, 1536), (49152, 576), (1024, 1024), (3072, 1024), (151_936, 1024)];
/// Larger than the last cache of most machines.
const WORKING_SET: usize = 256 << 20;

fn device() -> Cpu {
    Cpu::new(std::env::var("THREADS").ok().map(|t| t.parse().expect("THREADS is a number")))
}

fn tensor<T: Element>(dev: &Cpu, value: T, shape: &[usize]) -> Tensor<Cpu> {
    Tensor::from_slice(dev, &vec![value; shape.iter().product()], shape).expect("memory")
}

fn default_kernel() -> Slot<Linear, Cpu> {
    Registry::cpu().linear[0].clone()
}

fn launch(c: &mut Criterion) {
    let dev = device();
    c.bench_function(&format!("pool/launch/{} tasks", dev.pool().threads()), |b| {
        b.iter(|| dev.pool().run(dev.pool().threads(), &|task| _ = black_box(task)));
    });
}

/// The ceilings: reading memory once, and fused multiply-adds on registers (256-bit: AVX-512 may double it).
fn ceilings(c: &mut Criterion) {
    let dev = device();
    let data = tensor(&dev, 1.0f32, &[WORKING_SET / 4]);
    let data = data.view().slice::<f32>();
    let mut group = c.benchmark_group("read");
    group.throughput(Throughput::Bytes(WORKING_SET as u64));
    let tasks: Vec<&[f32]> = data.chunks(16 << 10).collect();
    group.bench_function(format!("{} threads", dev.pool().threads()), |b| {
        b.iter(|| dev.pool().run(tasks.len(), &|task| _ = black_box(read(tasks[task]))));
    });
    group.finish();

    let mut group = c.benchmark_group("fma");
    let (tasks, steps) = (dev.pool().threads(), 1 << 16);
    group.throughput(Throughput::Elements((tasks * steps * CHAINS * LANES * 2) as u64));
    group.bench_function(format!("{tasks} threads"), |b| {
        b.iter(|| dev.pool().run(tasks, &|_| _ = black_box(compute(steps))));
    });
    group.finish();
}

/// [`sum`] and [`multiply_add`] compiled for AVX2 and FMA: the ceilings are those of the CPU's vectors.
#[cfg(target_arch = "x86_64")]
mod vectors {
    #[target_feature(enable = "avx2,fma")]
    pub fn sum(data: &[f32]) -> f32 {
        super::sum(data)
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn multiply_add(steps: usize) -> f32 {
        super::multiply_add(steps)
    }

    pub fn detected() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
    }
}

fn read(data: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if vectors::detected() {
        // SAFETY: just detected.
        return unsafe { vectors::sum(data) };
    }
    sum(data)
}

fn compute(steps: usize) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if vectors::detected() {
        // SAFETY: just detected.
        return unsafe { vectors::multiply_add(steps) };
    }
    multiply_add(steps)
}

/// Sums four streams, as the decode tiles read: one stream alone reaches less on some machines.
#[inline(always)]
fn sum(data: &[f32]) -> f32 {
    let quarter = data.len() / 4;
    let mut sums = [[0.0f32; 16]; 4];
    for i in (0..quarter / 16 * 16).step_by(16) {
        for (stream, sums) in sums.iter_mut().enumerate() {
            for (s, v) in sums.iter_mut().zip(&data[stream * quarter + i..][..16]) {
                *s += v;
            }
        }
    }
    sums.as_flattened().iter().sum()
}

const CHAINS: usize = 12;
const LANES: usize = 8;

/// `steps` times [`CHAINS`] independent vectors of [`LANES`] f32.
#[inline(always)]
fn multiply_add(steps: usize) -> f32 {
    let (a, b) = (black_box([0.999f32; LANES]), black_box([0.001f32; LANES]));
    let mut sums = [[1.0f32; LANES]; CHAINS];
    for _ in 0..steps {
        for sums in &mut sums {
            for ((s, a), b) in sums.iter_mut().zip(a).zip(b) {
                *s = s.mul_add(a, b);
            }
        }
    }
    sums.as_flattened().iter().sum()
}

/// One row of x: every call reads another copy of the weight, so that none comes from a cache.
fn decode(c: &mut Criterion) {
    let (dev, kernel) = (device(), default_kernel());
    let mut queue = Queue::new(&dev).expect("a queue");
    let mut group = c.benchmark_group("decode bf16");
    for (n, k) in SHAPES {
        let copies = WORKING_SET.div_ceil(n * k * 2);
        let weights = tensor(&dev, bf16::from_f32(0.01), &[copies * n, k]);
        let x = tensor(&dev, bf16::ONE, &[1, k]);
        let mut out = Tensor::zeros(&dev, DType::Bf16, &[1, n]).expect("memory");
        let mut next = 0;
        group.throughput(Throughput::Bytes((n * k * 2) as u64));
        group.bench_function(format!("{n}x{k}"), |b| {
            b.iter(|| {
                next = (next + 1) % copies;
                let weight = weights.rows(next * n..(next + 1) * n);
                let args = LinearArgs { x: x.view(), weight, bias: None, out: out.view_mut() };
                kernels::run(&*kernel, &mut queue, args).expect("runs");
            });
        });
    }
}

/// Several rows of x, and the same product by the `gemm` crate, which has no bf16.
fn batch(c: &mut Criterion) {
    for (n, k) in [(1536, 576), (576, 1536), (3072, 1024), (1024, 3072)] {
        let mut group = c.benchmark_group(format!("{n}x{k}"));
        for m in [8, 32, 64, 512] {
            group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
            ours(&mut group, "bf16", bf16::from_f32(0.01), (m, n, k));
            ours(&mut group, "f32", 0.01f32, (m, n, k));
            ours(&mut group, "f16", f16::from_f32(0.01), (m, n, k));
            theirs(&mut group, "gemm crate f32", 0.01f32, 1.0, (m, n, k));
            theirs(&mut group, "gemm crate f16", f16::from_f32(0.01), f16::ONE, (m, n, k));
        }
    }
}

type Group<'a> = BenchmarkGroup<'a, criterion::measurement::WallTime>;

fn ours<T: Element>(group: &mut Group<'_>, name: &str, value: T, (m, n, k): (usize, usize, usize)) {
    let (dev, kernel) = (device(), default_kernel());
    let mut queue = Queue::new(&dev).expect("a queue");
    let (x, w) = (tensor(&dev, value, &[m, k]), tensor(&dev, value, &[n, k]));
    let mut out = Tensor::zeros(&dev, T::DTYPE, &[m, n]).expect("memory");
    group.bench_function(BenchmarkId::new(name, m), |b| {
        b.iter(|| {
            let args = LinearArgs { x: x.view(), weight: w.view(), bias: None, out: out.view_mut() };
            kernels::run(&*kernel, &mut queue, args).expect("runs");
        });
    });
}

fn theirs<T: Element>(group: &mut Group<'_>, name: &str, value: T, one: T, (m, n, k): (usize, usize, usize)) {
    let (x, w, mut out) = (vec![value; m * k], vec![value; n * k], vec![value; m * n]);
    let threads = device().pool().threads();
    let parallelism = if threads == 1 { Parallelism::None } else { Parallelism::Rayon(threads) };
    let (k_, n_) = (k as isize, n as isize);
    group.bench_function(BenchmarkId::new(name, m), |b| {
        b.iter(|| {
            let (out, x, w) = (out.as_mut_ptr(), x.as_ptr(), w.as_ptr());
            // SAFETY: out [m, n], x [m, k] and w [n, k], row-major, lie apart; w is passed transposed.
            unsafe {
                gemm::gemm(
                    m,
                    n,
                    k,
                    out,
                    1,
                    n_,
                    false,
                    x,
                    1,
                    k_,
                    w,
                    k_,
                    1,
                    one,
                    one,
                    false,
                    false,
                    false,
                    parallelism,
                );
            }
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = launch, ceilings, decode, batch
}
criterion_main!(benches);
