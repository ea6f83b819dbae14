//! AVX2, AVX-512 and AVX-512 with bf16: an intrinsic or a few per method, nothing else.
//!
//! bf16 without `vdpbf16ps`: a 32-bit word holds two elements; shifted left by 16 it is the even one as f32,
//! with its lower half cleared the odd one. So a step is the operand of the even elements, then of the odd.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::lanes::{Dot, Level, Operand, Work};

/// AVX2, FMA, F16C.
pub(super) struct Avx2;
/// AVX-512 F, BW, VL, DQ.
pub(super) struct Avx512;
/// [`Avx512`] with `vdpbf16ps`, for bf16 alone: products of neighbours summed in f32, no conversion.
/// The instruction takes subnormal operands as zero and flushes subnormal results.
pub(super) struct Avx512Bf16;

/// Clears the even elements of bf16 pairs.
const ODD: i32 = 0xffff_0000_u32 as i32;

impl Level for Avx2 {
    const COLS: usize = 3;
    const RAW_COLS: usize = 2;
    type Sums = __m256;

    #[inline(always)]
    unsafe fn enter(work: impl Work) {
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn inner(work: impl Work) {
            // SAFETY: the caller's promise.
            unsafe { work.run() }
        }
        // SAFETY: the caller's promise.
        unsafe { inner(work) }
    }

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: the CPU has AVX.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn reduce(sums: [__m256; 4]) -> [f32; 4] {
        // SAFETY: the CPU has AVX.
        unsafe { reduce_256(sums) }
    }
}

impl Operand<Avx2> for __m256 {
    type Packed = f32;

    #[inline(always)]
    unsafe fn dot(sums: __m256, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the CPU has FMA.
        unsafe { _mm256_fmadd_ps(a, b, sums) }
    }
}

impl Dot<f32> for Avx2 {
    type Operand = __m256;
    const VECS: usize = 1;

    #[inline(always)]
    unsafe fn unpack(p: *const f32, _: usize) -> __m256 {
        // SAFETY: `p` covers eight elements; the CPU has AVX.
        unsafe { _mm256_loadu_ps(p) }
    }
}

impl Dot<f16> for Avx2 {
    type Operand = __m256;
    const VECS: usize = 1;

    #[inline(always)]
    unsafe fn unpack(p: *const f16, _: usize) -> __m256 {
        // SAFETY: `p` covers eight elements; the CPU has F16C.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
}

impl Dot<bf16> for Avx2 {
    type Operand = __m256;
    const VECS: usize = 2;

    #[inline(always)]
    unsafe fn unpack(p: *const bf16, i: usize) -> __m256 {
        // SAFETY: `p` covers sixteen elements; the CPU has AVX2.
        unsafe {
            let pairs = _mm256_loadu_si256(p.cast());
            _mm256_castsi256_ps(match i {
                0 => _mm256_slli_epi32::<16>(pairs),
                _ => _mm256_and_si256(pairs, _mm256_set1_epi32(ODD)),
            })
        }
    }
}

impl Level for Avx512 {
    const COLS: usize = 6;
    const RAW_COLS: usize = 4;
    type Sums = __m512;

    #[inline(always)]
    unsafe fn enter(work: impl Work) {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
        unsafe fn inner(work: impl Work) {
            // SAFETY: the caller's promise.
            unsafe { work.run() }
        }
        // SAFETY: the caller's promise.
        unsafe { inner(work) }
    }

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn reduce(sums: [__m512; 4]) -> [f32; 4] {
        // SAFETY: the CPU has AVX-512.
        unsafe { reduce_512(sums) }
    }
}

impl Operand<Avx512> for __m512 {
    type Packed = f32;

    #[inline(always)]
    unsafe fn dot(sums: __m512, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_fmadd_ps(a, b, sums) }
    }
}

impl Dot<f32> for Avx512 {
    type Operand = __m512;
    const VECS: usize = 1;

    #[inline(always)]
    unsafe fn unpack(p: *const f32, _: usize) -> __m512 {
        // SAFETY: `p` covers sixteen elements; the CPU has AVX-512.
        unsafe { _mm512_loadu_ps(p) }
    }
}

impl Dot<f16> for Avx512 {
    type Operand = __m512;
    const VECS: usize = 1;

    #[inline(always)]
    unsafe fn unpack(p: *const f16, _: usize) -> __m512 {
        // SAFETY: `p` covers sixteen elements; the CPU has AVX-512.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
}

impl Dot<bf16> for Avx512 {
    type Operand = __m512;
    const VECS: usize = 2;

    #[inline(always)]
    unsafe fn unpack(p: *const bf16, i: usize) -> __m512 {
        // SAFETY: `p` covers thirty-two elements; the CPU has AVX-512.
        unsafe {
            let pairs = _mm512_loadu_si512(p.cast());
            _mm512_castsi512_ps(match i {
                0 => _mm512_slli_epi32::<16>(pairs),
                _ => _mm512_and_si512(pairs, _mm512_set1_epi32(ODD)),
            })
        }
    }
}

impl Level for Avx512Bf16 {
    const COLS: usize = 6;
    const RAW_COLS: usize = 6;
    type Sums = __m512;

    #[inline(always)]
    unsafe fn enter(work: impl Work) {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
        unsafe fn inner(work: impl Work) {
            // SAFETY: the caller's promise.
            unsafe { work.run() }
        }
        // SAFETY: the caller's promise.
        unsafe { inner(work) }
    }

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: the CPU has AVX-512.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn reduce(sums: [__m512; 4]) -> [f32; 4] {
        // SAFETY: the CPU has AVX-512.
        unsafe { reduce_512(sums) }
    }
}

impl Operand<Avx512Bf16> for __m512bh {
    type Packed = bf16;

    #[inline(always)]
    unsafe fn dot(sums: __m512, a: __m512bh, b: __m512bh) -> __m512 {
        // SAFETY: the CPU has AVX-512 BF16.
        unsafe { _mm512_dpbf16_ps(sums, a, b) }
    }
}

impl Dot<bf16> for Avx512Bf16 {
    type Operand = __m512bh;
    const VECS: usize = 1;

    #[inline(always)]
    unsafe fn unpack(p: *const bf16, _: usize) -> __m512bh {
        // SAFETY: `p` covers thirty-two elements.
        unsafe { p.cast::<__m512bh>().read_unaligned() }
    }
}

/// `(0+2) + (1+3)` in each half, then the halves.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
unsafe fn reduce_256([a, b, c, d]: [__m256; 4]) -> [f32; 4] {
    // SAFETY: the CPU has AVX; `[f32; 4]` is 16 bytes.
    unsafe {
        let ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        let even = _mm256_shuffle_ps::<0b01_00_01_00>(ab, cd);
        let odd = _mm256_shuffle_ps::<0b11_10_11_10>(ab, cd);
        let abcd = _mm256_add_ps(even, odd);
        let sums = _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps::<1>(abcd));
        let mut out = [0.0; 4];
        _mm_storeu_ps(out.as_mut_ptr(), sums);
        out
    }
}

/// The halves, then [`reduce_256`].
///
/// # Safety
/// The CPU has AVX-512 F and DQ.
#[inline(always)]
unsafe fn reduce_512([a, b, c, d]: [__m512; 4]) -> [f32; 4] {
    // SAFETY: the caller's promise.
    unsafe { reduce_256([fold(a), fold(b), fold(c), fold(d)]) }
}

/// # Safety
/// The CPU has AVX-512 F and DQ.
#[inline(always)]
unsafe fn fold(v: __m512) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v)) }
}
