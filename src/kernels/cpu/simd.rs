//! Vector code as generic, inlined Rust that is compiled once per instruction set, and the elementary functions
//! in that style.
//!
//! A kernel writes its inner work as a [`Job`] and calls [`dispatch`]. Everything that a job calls must be
//! `#[inline(always)]`, so that it is compiled with the caller's target features.

use half::{bf16, f16};

use crate::device::{Element, Simd};

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
    /// Asks for the cache line of `at`.
    fn prefetch<T>(at: &T);
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
    #[inline(always)]
    fn prefetch<T>(_: &T) {}
}

#[cfg(target_arch = "x86_64")]
use fused::Fused;

/// AVX2, FMA and F16C.
#[cfg(target_arch = "x86_64")]
mod fused {
    use std::arch::x86_64::*;

    use super::{Isa, bf16, f16};

    /// Used by [`super::avx2`] alone, so that every intrinsic below is there.
    #[derive(Clone, Copy)]
    pub struct Fused;

    impl Isa for Fused {
        type V = __m256;

        #[inline(always)]
        fn mul_add(a: f32, b: f32, c: f32) -> f32 {
            a.mul_add(b, c)
        }
        #[inline(always)]
        fn mul_add64(a: f64, b: f64, c: f64) -> f64 {
            a.mul_add(b, c)
        }
        #[inline(always)]
        fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: see `Fused`.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn splat(v: f32) -> __m256 {
            // SAFETY: see `Fused`.
            unsafe { _mm256_set1_ps(v) }
        }
        #[inline(always)]
        fn add(a: __m256, b: __m256) -> __m256 {
            // SAFETY: see `Fused`.
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        fn larger(a: __m256, b: __m256) -> __m256 {
            // SAFETY: see `Fused`. The instruction returns its second operand if either is NaN.
            unsafe { _mm256_max_ps(b, a) }
        }
        #[inline(always)]
        fn sum4(v: [__m256; 4]) -> [f32; 4] {
            // SAFETY: see `Fused`.
            unsafe {
                // Quarters (a, b, c, d) of each, then a + c and b + d of two at a time, then their sums.
                let half = |v| _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let pair = |x, y| _mm_add_ps(_mm_movelh_ps(x, y), _mm_movehl_ps(y, x));
                let (low, high) = (pair(half(v[0]), half(v[1])), pair(half(v[2]), half(v[3])));
                let even = _mm_shuffle_ps::<0x88>(low, high);
                let odd = _mm_shuffle_ps::<0xdd>(low, high);
                std::mem::transmute(_mm_add_ps(even, odd))
            }
        }
        #[inline(always)]
        fn sum(v: __m256) -> f32 {
            // SAFETY: see `Fused`.
            unsafe {
                let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
            }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m256 {
            // SAFETY: see `Fused`; the memory is the caller's promise.
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn load_bf16(from: *const bf16) -> __m256 {
            // SAFETY: as above.
            unsafe {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn load_f16(from: *const f16) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
        }
        #[inline(always)]
        unsafe fn store(v: __m256, to: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(to, v) }
        }
        #[inline(always)]
        fn prefetch<T>(at: &T) {
            // SAFETY: see `Fused`.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(at).cast()) }
        }
    }
}

/// Work that is compiled for every instruction set.
pub trait Job {
    /// Its result.
    type Out;
    /// Does it. Implementations are `#[inline(always)]`.
    fn run<I: Isa>(self) -> Self::Out;
}

/// Runs `job` compiled for `simd`. AVX-512 runs the AVX2 code: these kernels mostly wait for memory, and so both
/// give the same bits.
pub fn dispatch<J: Job>(simd: Simd, job: J) -> J::Out {
    match simd {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a `Simd` above `Portable` comes from `Simd::detect` or was checked against it, and includes it.
        Simd::Avx2 | Simd::Avx512 | Simd::Avx512Bf16 => unsafe { avx2(job) },
        _ => job.run::<Plain>(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2<J: Job>(job: J) -> J::Out {
    job.run::<Fused>()
}

/// An element that stands for a real number. Conversions are branch-free, so that loops over them vectorise.
pub(crate) trait Float: Element {
    /// Exact.
    fn to_f32(self) -> f32;
    /// Rounded to nearest, ties to even; too large becomes infinite, NaN stays NaN.
    fn from_f32(v: f32) -> Self;
    /// Eight, widened.
    ///
    /// # Safety
    /// `from` points to [`LANES`] elements.
    unsafe fn load<I: Isa>(from: *const Self) -> I::V;
}

impl Float for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(v: f32) -> Self {
        v
    }
    #[inline(always)]
    unsafe fn load<I: Isa>(from: *const Self) -> I::V {
        // SAFETY: the caller's.
        unsafe { I::load(from) }
    }
}

impl Float for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn from_f32(v: f32) -> Self {
        let bits = v.to_bits();
        let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1))) >> 16;
        let nan = bits >> 16 | 0x40;
        Self::from_bits(if v.is_nan() { nan } else { rounded } as u16)
    }
    #[inline(always)]
    unsafe fn load<I: Isa>(from: *const Self) -> I::V {
        // SAFETY: the caller's.
        unsafe { I::load_bf16(from) }
    }
}

impl Float for f16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        let bits = u32::from(self.to_bits());
        // The exponent's bias grows from 15 to 127; the product also normalises subnormals.
        let finite = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
        let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
        f32::from_bits(finite.to_bits() | special | (bits & 0x8000) << 16)
    }
    #[inline(always)]
    fn from_f32(v: f32) -> Self {
        let sign = v.to_bits() >> 16 & 0x8000;
        let magnitude = v.to_bits() & 0x7fff_ffff;
        // Subnormal: adding 0.5 puts the result's last bit at f32's, and the addition rounds.
        let small = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
        // Normal: the bias shrinks by 112, and a carry out of the fraction is the next exponent.
        let odd = magnitude >> 13 & 1;
        let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + odd) >> 13;
        let finite = if magnitude < 113 << 23 { small } else { normal };
        // From halfway past the largest, 65,520: infinite.
        let large = if magnitude > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
        let bits = if magnitude >= 65_520f32.to_bits() { large } else { finite };
        Self::from_bits((sign | bits) as u16)
    }
    #[inline(always)]
    unsafe fn load<I: Isa>(from: *const Self) -> I::V {
        // SAFETY: the caller's.
        unsafe { I::load_f16(from) }
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

/// Adding this rounds a float of magnitude below 2^22 to an integer, which then stands in the low bits.
const ROUND: f32 = 1.5 * (1 << 23) as f32;

/// `x = n ln 2 + r` with integer `n` and `|r| < 0.35`; returns `(n, e^r - 1)`.
///
/// ln 2 is split so that `n` times its upper part is exact. The series stops at r^7 / 7!: 5e-9 relative.
#[inline(always)]
fn exp_parts<I: Isa>(x: f32) -> (i32, f32) {
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = (std::f64::consts::LN_2 - 355.0 / 512.0) as f32;
    let shifted = I::mul_add(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = I::mul_add(n, -LN2_LOW, I::mul_add(n, -LN2_HIGH, x));
    let mut q = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
        q = I::mul_add(q, r, c);
    }
    ((shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32), I::mul_add(q, r * r, r))
}

/// `2^n` for n in -126..=127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `e^x` within 2 units in the last place; 0 for minus infinity, subnormal results included. NaN stays.
#[inline(always)]
pub fn exp<I: Isa>(x: f32) -> f32 {
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let (n, m) = exp_parts::<I>(x);
    // Two factors, because 2^n itself may be subnormal or infinite.
    let half = n >> 1;
    (m + 1.0) * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// `tanh x`, to a few units in the last place: by `e^(2x) - 1`, which does not cancel near 0.
#[inline(always)]
pub fn tanh<I: Isa>(x: f32) -> f32 {
    let y = x.abs();
    let y = if y > 10.0 { 10.0 } else { y };
    let (n, m) = exp_parts::<I>(2.0 * y);
    let scale = power_of_two(n);
    let less_one = I::mul_add(m, scale, scale - 1.0);
    (less_one / (less_one + 2.0)).copysign(x)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid<I: Isa>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<I>(-x))
}

/// `0.5 erfc(-x / sqrt 2)`: the normal distribution function, accurate in its lower tail too.
///
/// `erfc z = e^(-z²) t R(t)` for z >= 0 with `t = 1 / (1 + z/2)`; R is a Chebyshev fit on 1/6..1 (z up to 10), to
/// 5e-8, in powers of the interval's own coordinate.
#[inline(always)]
pub fn normal_cdf<I: Isa>(x: f32) -> f32 {
    #[rustfmt::skip]
    const R: [f32; 9] = [
        0.572_011_95, 0.326_222_24, 0.102_029_6, 0.005_966_061_7, -0.006_151_694_3,
        -0.000_631_151_7, 0.000_587_326_3, 1.983_81e-5, -5.424_915e-5,
    ];
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / I::mul_add(0.5, z, 1.0);
    let s = I::mul_add(t, 2.4, -1.4);
    let mut r = R[8];
    for c in [R[7], R[6], R[5], R[4], R[3], R[2], R[1], R[0]] {
        r = I::mul_add(r, s, c);
    }
    // x² / 2 without the rounding of z.
    let tail = 0.5 * exp::<I>(-0.5 * x * x) * t * r;
    if x < 0.0 { tail } else { 1.0 - tail }
}

/// `e^x` in f64 for x in -700..=0, to 1e-15; e^0 is exactly 1. Below, 0. The series stops at r^13 / 13!: 4e-18.
#[inline(always)]
pub fn exp64<I: Isa>(x: f64) -> f64 {
    const ROUND: f64 = 1.5 * (1u64 << 52) as f64;
    const LN2_HIGH: f64 = f64::from_bits(std::f64::consts::LN_2.to_bits() & !0xffff_ffff);
    /// `ln 2 - LN2_HIGH`, whose second term is what f64's ln 2 lacks.
    const LN2_LOW: f64 = (std::f64::consts::LN_2 - LN2_HIGH) + 2.319_046_813_846_299_6e-17;
    let y = if x < -700.0 { -700.0 } else { x };
    let shifted = I::mul_add64(y, std::f64::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = I::mul_add64(n, -LN2_LOW, I::mul_add64(n, -LN2_HIGH, y));
    let mut q = 1.0 / 6_227_020_800.0;
    for c in [
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        q = I::mul_add64(q, r, c);
    }
    let scale = f64::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(1023) << 52);
    if x < -700.0 { 0.0 } else { q * scale }
}

#[cfg(test)]
mod tests {
    use lathe_reference::{activation, rounding::F32};

    use super::*;
    use crate::device::Cpu;

    /// Every instruction set of this machine.
    fn levels() -> impl Iterator<Item = Simd> {
        [Simd::Portable, Simd::Avx2, Simd::Avx512, Simd::Avx512Bf16]
            .into_iter()
            .filter(|&s| Cpu::new(Some(1)).with_simd(s).is_ok())
    }

    /// The worst error in units in the last place of `f` on `xs`, by a loop that vectorises.
    struct Worst<'a, F, G>(&'a [f32], F, G);
    impl<F: Fn(f64) -> f64, G: Function> Job for Worst<'_, F, G> {
        type Out = (f64, f32);
        #[inline(always)]
        fn run<I: Isa>(self) -> (f64, f32) {
            let got: Vec<f32> = self.0.iter().map(|&x| self.2.at::<I>(x)).collect();
            let errors = self.0.iter().zip(got).map(|(&x, got)| {
                let want = self.1(x.into());
                // What f32 cannot hold must be infinite.
                let want = if (want as f32).is_infinite() { f64::INFINITY } else { want };
                (F32.ulps(got, want), x)
            });
            errors.fold((0.0, 0.0), |a, b| if b.0 > a.0 { b } else { a })
        }
    }

    trait Function: Copy {
        fn at<I: Isa>(self, x: f32) -> f32;
    }
    #[derive(Clone, Copy)]
    struct Exp;
    impl Function for Exp {
        #[inline(always)]
        fn at<I: Isa>(self, x: f32) -> f32 {
            exp::<I>(x)
        }
    }
    #[derive(Clone, Copy)]
    struct Tanh;
    impl Function for Tanh {
        #[inline(always)]
        fn at<I: Isa>(self, x: f32) -> f32 {
            tanh::<I>(x)
        }
    }

    /// Every 997th float of either sign, infinities included.
    fn floats() -> Vec<f32> {
        let positive = (0..=f32::INFINITY.to_bits()).step_by(997).chain([f32::INFINITY.to_bits()]);
        positive.flat_map(|b| [f32::from_bits(b), -f32::from_bits(b)]).collect()
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place_everywhere() {
        let xs = floats();
        for simd in levels() {
            let (worst, x) = dispatch(simd, Worst(&xs, f64::exp, Exp));
            assert!(worst <= 2.0, "{simd}: {worst} ulp at {x}");
        }
        // The whole range where the result is neither 0 nor infinite, densely.
        let dense: Vec<f32> = (-1_040_000..=890_000).map(|i| i as f32 * 1e-4).collect();
        for simd in levels() {
            let (worst, x) = dispatch(simd, Worst(&dense, f64::exp, Exp));
            assert!(worst <= 2.0, "{simd}: {worst} ulp at {x}");
        }
        assert_eq!(exp::<Plain>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<Plain>(0.0), 1.0);
        assert!(exp::<Plain>(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_is_within_four_units_in_the_last_place_everywhere() {
        let xs = floats();
        for simd in levels() {
            let (worst, x) = dispatch(simd, Worst(&xs, f64::tanh, Tanh));
            assert!(worst <= 4.0, "{simd}: {worst} ulp at {x}");
        }
        assert!(tanh::<Plain>(f32::NAN).is_nan());
    }

    #[test]
    fn the_normal_distribution_function_keeps_its_digits_in_the_tail() {
        for i in -1200..=1200 {
            let x = i as f32 * 0.01;
            let want = activation::Activation::GeluErf.apply(x.into()) / f64::from(x);
            let want = if x == 0.0 { 0.5 } else { want };
            let got = f64::from(normal_cdf::<Plain>(x));
            // The oracle's own sum cancels to some 1e-16 in the lower tail.
            assert!((got - want).abs() < 1e-6 * want + 1e-15, "{x}: {got} {want}");
        }
    }

    #[test]
    fn exp64_is_accurate_and_exact_at_zero() {
        for i in 0..200_000 {
            let x = -f64::from(i) * 0.0035;
            for got in [exp64::<Plain>(x), exp64::<Fused>(x)] {
                assert!((got / x.exp() - 1.0).abs() < 1e-15 || x < -699.9, "{x}: {got} {}", x.exp());
            }
        }
        assert_eq!(exp64::<Plain>(0.0), 1.0);
        assert_eq!(exp64::<Plain>(f64::NEG_INFINITY), 0.0);
    }

    #[test]
    fn conversions_are_those_of_half() {
        for bits in 0..=u16::MAX {
            let (b, h) = (bf16::from_bits(bits), f16::from_bits(bits));
            assert!(Float::to_f32(b).to_bits() == b.to_f32().to_bits() || b.is_nan(), "{bits:#x}");
            assert!(Float::to_f32(h) == h.to_f32_const() || h.is_nan(), "{bits:#x}");
            assert_eq!(Float::to_f32(h).is_sign_negative(), h.is_sign_negative(), "{bits:#x}");
            assert_eq!(Float::to_f32(h).is_nan(), h.is_nan());
        }
        for bits in (0..=u32::MAX).step_by(4099) {
            let v = f32::from_bits(bits);
            let (b, h): (bf16, f16) = (Float::from_f32(v), Float::from_f32(v));
            assert_eq!(b.is_nan(), v.is_nan());
            assert_eq!(h.is_nan(), v.is_nan());
            if !v.is_nan() {
                assert_eq!(b, bf16::from_f32(v), "{v}");
                assert_eq!(h, f16::from_f32_const(v), "{v}");
            }
        }
        // Ties, the subnormals' edge and the overflow of f16.
        for v in [2f32.powi(-24), 1.5 * 2f32.powi(-24), 2f32.powi(-25), 6.1e-5, 65_519.9, 65_520.0, 2049.0] {
            assert_eq!(<f16 as Float>::from_f32(v), f16::from_f32_const(v), "{v}");
        }
    }
}
