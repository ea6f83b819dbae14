//! AVX2, AVX-512 and AVX-512 with bf16: what each width and each dtype means in instructions, nothing else.
//!
//! bf16 without `vdpbf16ps`: a 32-bit word holds two elements; shifted left by 16 it is the even one as f32,
//! with its lower half cleared the odd one. So loaded bf16 blocks are two operands: the even elements, the odd.

use std::{arch::x86_64::*, mem::transmute};

use half::{bf16, f16};

use super::lanes::{Convert, Dot, Fused, Level, Vector, Work};

/// AVX2, FMA, F16C.
pub(in super::super) struct Avx2;
/// AVX-512 F, BW, VL, DQ.
pub(in super::super) struct Avx512;
/// [`Avx512`] with `vdpbf16ps`, for bf16 alone: products of neighbours summed in f32, no conversion.
/// The instruction takes subnormal operands as zero and flushes subnormal results.
pub(in super::super) struct Avx512Bf16;

/// Clears the even elements of bf16 pairs.
const ODD: i32 = 0xffff_0000_u32 as i32;

// Every `unsafe` block in the implementations of `Vector` and `Convert` relies on the traits' promises alone: the CPU has the
// level's instructions, and the pointers cover what the intrinsic touches.

impl Vector for __m256 {
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn add(a: Self, b: Self) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(sum: Self, a: Self, b: Self) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_fmadd_ps(a, b, sum) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_loadu_ps(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_ps(to.cast(), self) }
    }

    #[inline(always)]
    unsafe fn repeat(from: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_broadcast_ps(&from.cast::<__m128>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn interleave(a: Self, b: Self) -> [Self; 2] {
        // SAFETY: see above.
        unsafe { [_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)] }
    }

    #[inline(always)]
    unsafe fn halves(a: Self, b: Self) -> [Self; 2] {
        // SAFETY: see above.
        unsafe { [_mm256_shuffle_ps::<0x44>(a, b), _mm256_shuffle_ps::<0xee>(a, b)] }
    }

    #[inline(always)]
    unsafe fn transpose(row: impl Fn(usize) -> Self, mut take: impl FnMut(usize, Self)) {
        let (a, b) = (row(0), row(1));
        // SAFETY: see above.
        unsafe {
            take(0, _mm256_permute2f128_ps::<0x20>(a, b));
            take(1, _mm256_permute2f128_ps::<0x31>(a, b));
        }
    }
}

impl Vector for __m512 {
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see above.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn add(a: Self, b: Self) -> Self {
        // SAFETY: see above.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(sum: Self, a: Self, b: Self) -> Self {
        // SAFETY: see above.
        unsafe { _mm512_fmadd_ps(a, b, sum) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { _mm512_loadu_ps(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(to.cast(), self) }
    }

    #[inline(always)]
    unsafe fn repeat(from: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { _mm512_broadcast_f32x4(from.cast::<__m128>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn interleave(a: Self, b: Self) -> [Self; 2] {
        // SAFETY: see above.
        unsafe { [_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)] }
    }

    #[inline(always)]
    unsafe fn halves(a: Self, b: Self) -> [Self; 2] {
        // SAFETY: see above.
        unsafe { [_mm512_shuffle_ps::<0x44>(a, b), _mm512_shuffle_ps::<0xee>(a, b)] }
    }

    #[inline(always)]
    unsafe fn transpose(row: impl Fn(usize) -> Self, mut take: impl FnMut(usize, Self)) {
        let [a, b, c, d] = [row(0), row(1), row(2), row(3)];
        // SAFETY: see above.
        unsafe {
            // Blocks 0 and 2 of two rows, blocks 1 and 3; then the first or second of each of two such.
            let (ab_even, ab_odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
            let (cd_even, cd_odd) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
            take(0, _mm512_shuffle_f32x4::<0x88>(ab_even, cd_even));
            take(1, _mm512_shuffle_f32x4::<0x88>(ab_odd, cd_odd));
            take(2, _mm512_shuffle_f32x4::<0xdd>(ab_even, cd_even));
            take(3, _mm512_shuffle_f32x4::<0xdd>(ab_odd, cd_odd));
        }
    }
}

impl Convert for __m256 {
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn even(self) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(self))) }
    }

    #[inline(always)]
    unsafe fn odd(self) -> Self {
        // SAFETY: see above.
        unsafe { _mm256_and_ps(self, _mm256_castsi256_ps(_mm256_set1_epi32(ODD))) }
    }
}

impl Convert for __m512 {
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: see above.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn even(self) -> Self {
        // SAFETY: see above.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(self))) }
    }

    #[inline(always)]
    unsafe fn odd(self) -> Self {
        // SAFETY: see above.
        unsafe { _mm512_and_ps(self, _mm512_castsi512_ps(_mm512_set1_epi32(ODD))) }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn with_avx2(work: impl Work) {
    // SAFETY: the caller's promise.
    unsafe { work.run() }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn with_avx512(work: impl Work) {
    // SAFETY: the caller's promise.
    unsafe { work.run() }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn with_avx512_bf16(work: impl Work) {
    // SAFETY: the caller's promise.
    unsafe { work.run() }
}

impl Fused for Avx2 {}
impl Fused for Avx512 {}

impl Level for Avx2 {
    type V = __m256;
    const COLS: usize = 3;

    #[inline(always)]
    unsafe fn enter(work: impl Work) {
        // SAFETY: the caller's promise.
        unsafe { with_avx2(work) }
    }
}

impl Level for Avx512 {
    type V = __m512;
    const COLS: usize = 6;

    #[inline(always)]
    unsafe fn enter(work: impl Work) {
        // SAFETY: the caller's promise.
        unsafe { with_avx512(work) }
    }
}

impl Level for Avx512Bf16 {
    type V = __m512;
    const COLS: usize = 6;

    #[inline(always)]
    unsafe fn enter(work: impl Work) {
        // SAFETY: the caller's promise.
        unsafe { with_avx512_bf16(work) }
    }
}

impl Dot<bf16> for Avx512Bf16 {
    type Packed = bf16;
    const PARTS: usize = 1;

    #[inline(always)]
    unsafe fn load(p: *const bf16) -> __m512 {
        // SAFETY: `p` covers thirty-two elements.
        unsafe { __m512::load(p.cast()) }
    }

    #[inline(always)]
    unsafe fn part(loaded: __m512, _: usize) -> __m512 {
        loaded
    }

    #[inline(always)]
    unsafe fn dot(sums: __m512, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the CPU has AVX-512 BF16; a register's bits have no type.
        unsafe { _mm512_dpbf16_ps(sums, transmute::<__m512, __m512bh>(a), transmute::<__m512, __m512bh>(b)) }
    }
}
