//! AVX2, FMA and F16C.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::Isa;

/// Used by [`super::dispatch`] alone, after a check, so that every intrinsic below is there.
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
}
