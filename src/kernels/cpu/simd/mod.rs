//! Vector code as generic, inlined Rust that is compiled once per instruction set, and the elementary functions
//! in that style.
//!
//! A kernel writes its inner work as a [`Job`] and calls [`dispatch`]. Everything that a job calls must be
//! `#[inline(always)]`, so that it is compiled with the caller's target features.

mod float;
mod math;
#[cfg(target_arch = "x86_64")]
mod x86;

use half::{bf16, f16};

pub use self::{
    float::Float,
    math::{exp, exp64, normal_cdf, sigmoid, tanh},
};
use crate::device::Simd;

/// Lanes of an array that the compiler turns into one AVX2 register.
pub const LANES: usize = 8;

/// Eight lanes.
pub type V8 = [f32; LANES];

/// What the generic code knows about the instructions that it is compiled for.
///
/// Loops over slices vectorise by themselves; register blocks do not reliably, so they are spelled with [`Isa::V`].
pub trait Isa: Copy {
    /// A register (or two) of eight f32.
    type V: Copy;

    /// `a * b + c`: one rounding where the hardware fuses it, else two.
    fn mul_add(a: f32, b: f32, c: f32) -> f32;
    /// As [`Self::mul_add`].
    fn mul_add64(a: f64, b: f64, c: f64) -> f64;
    /// As [`Self::mul_add`], by lane.
    fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The same value in every lane.
    fn splat(v: f32) -> Self::V;
    /// By lane.
    fn add(a: Self::V, b: Self::V) -> Self::V;
    /// [`larger`] by lane.
    fn larger(a: Self::V, b: Self::V) -> Self::V;
    /// [`sum`] of the lanes.
    fn sum(v: Self::V) -> f32;
    /// [`sum`] of each, to the same bits.
    fn sum4(v: [Self::V; 4]) -> [f32; 4];
    /// # Safety
    /// `from` points to [`LANES`] values.
    unsafe fn load(from: *const f32) -> Self::V;
    /// # Safety
    /// `from` points to [`LANES`] values.
    unsafe fn load_bf16(from: *const bf16) -> Self::V;
    /// # Safety
    /// `from` points to [`LANES`] values.
    unsafe fn load_f16(from: *const f16) -> Self::V;
    /// # Safety
    /// `to` points to [`LANES`] values.
    unsafe fn store(v: Self::V, to: *mut f32);
}

/// What every CPU of the target has. Without fused multiply-add: calling the library for one costs more than the
/// extra rounding.
#[derive(Clone, Copy)]
pub struct Plain;

impl Isa for Plain {
    type V = V8;

    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
    #[inline(always)]
    fn mul_add64(a: f64, b: f64, c: f64) -> f64 {
        a * b + c
    }
    #[inline(always)]
    fn fma(a: V8, b: V8, mut c: V8) -> V8 {
        for l in 0..LANES {
            c[l] += a[l] * b[l];
        }
        c
    }
    #[inline(always)]
    fn splat(v: f32) -> V8 {
        [v; LANES]
    }
    #[inline(always)]
    fn add(mut a: V8, b: V8) -> V8 {
        for l in 0..LANES {
            a[l] += b[l];
        }
        a
    }
    #[inline(always)]
    fn larger(mut a: V8, b: V8) -> V8 {
        for l in 0..LANES {
            a[l] = larger(a[l], b[l]);
        }
        a
    }
    #[inline(always)]
    fn sum(v: V8) -> f32 {
        sum(v)
    }
    #[inline(always)]
    fn sum4(v: [V8; 4]) -> [f32; 4] {
        v.map(sum)
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> V8 {
        // SAFETY: the caller's; no alignment is asked for.
        unsafe { from.cast::<V8>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> V8 {
        // SAFETY: as above.
        unsafe { from.cast::<[bf16; LANES]>().read_unaligned() }.map(Float::to_f32)
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> V8 {
        // SAFETY: as above.
        unsafe { from.cast::<[f16; LANES]>().read_unaligned() }.map(Float::to_f32)
    }
    #[inline(always)]
    unsafe fn store(v: V8, to: *mut f32) {
        // SAFETY: as above.
        unsafe { to.cast::<V8>().write_unaligned(v) }
    }
}

/// Work that is compiled for every instruction set.
pub trait Job {
    /// Its result.
    type Out;
    /// Does it. Implementations are `#[inline(always)]`.
    fn run<I: Isa>(self) -> Self::Out;
}

/// Runs `job` compiled for `simd`. With AVX-512 loops over slices use its width, [`Isa::V`] stays as it is, and
/// both give the same bits as AVX2.
pub fn dispatch<J: Job>(simd: Simd, job: J) -> J::Out {
    match simd {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a `Simd` above `Portable` comes from `Simd::detect` or was checked against it, and includes it.
        Simd::Avx512 | Simd::Avx512Bf16 => unsafe { avx512(job) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Simd::Avx2 => unsafe { avx2(job) },
        _ => job.run::<Plain>(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2<J: Job>(job: J) -> J::Out {
    job.run::<x86::Fused>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
fn avx512<J: Job>(job: J) -> J::Out {
    job.run::<x86::Fused>()
}

/// Caches to [`prefetch`] to, as the instruction encodes them.
pub const L1: i32 = 3;
/// As [`L1`].
pub const L2: i32 = 2;

/// Asks for the cache line at `at`, which need not exist.
#[inline(always)]
pub fn prefetch<const CACHE: i32, T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction, which never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<CACHE>(at.cast());
    }
}

/// `v[0] + … + v[7]`, always in the same order.
#[inline(always)]
pub fn sum(v: V8) -> f32 {
    let [a, b, c, d] = [v[0] + v[4], v[1] + v[5], v[2] + v[6], v[3] + v[7]];
    (a + c) + (b + d)
}

/// As [`sum`].
#[inline(always)]
pub fn sum64(v: [f64; LANES]) -> f64 {
    let [a, b, c, d] = [v[0] + v[4], v[1] + v[5], v[2] + v[6], v[3] + v[7]];
    (a + c) + (b + d)
}

/// The largest lane; NaN lanes do not count unless they come first in a pair.
#[inline(always)]
pub fn max(v: V8) -> f32 {
    let [a, b, c, d] = [larger(v[0], v[4]), larger(v[1], v[5]), larger(v[2], v[6]), larger(v[3], v[7])];
    larger(larger(a, c), larger(b, d))
}

/// The larger; `a` if `b` is NaN.
#[inline(always)]
pub fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}
