//! bf16 by `vdpbf16ps`: scores by the tiles of `linear`, with keys for rows of weights; values by pairs of keys.
//!
//! Either order of summation depends on positions alone. A score is summed as an output of a linear is. A value
//! adds one pair of keys after the other, pairs beginning at even positions of a chunk; weights are rounded to bf16
//! (their sum is not), as FlashAttention does (arXiv:2205.14135).

use std::{arch::x86_64::*, mem::transmute, ops::Range};

use half::bf16;

use super::{
    super::linear::{
        lanes::{self, Level, Work},
        tile::{self as product, MAX_ROWS, Strip},
        x86::Avx512Bf16,
    },
    BLOCK, CHUNK,
    tile::Rows,
};

/// Keys that a tile of scores takes.
pub const STRIP: usize = MAX_ROWS;
/// Lanes of a vector of f32.
const WIDTH: usize = 16;
/// Vectors of columns that stay in registers.
const VECTORS: usize = 4;

/// A strip's keys: pointers to their rows.
pub type Keys = product::Rows<bf16>;

/// Whether rows of `dim` elements are within one block of a linear's tile.
pub fn fits(dim: usize) -> bool {
    product::blocks::<Avx512Bf16, bf16>(dim).count() == 1
}

/// Elements of a packed query.
pub const fn padded(dim: usize) -> usize {
    product::padded::<Avx512Bf16, bf16>(dim)
}

/// Packs query `row` of `rows` among those of its block, for [`scores`].
///
/// # Safety
/// The CPU has AVX-512 with bf16.
pub unsafe fn pack_query(from: &[bf16], row: usize, rows: usize, to: &mut [bf16]) {
    let (first, padded) = (row / BLOCK * BLOCK, padded(from.len()));
    let rows = BLOCK.min(rows - first);
    let to = &mut to[first * padded..][..rows * padded];
    // SAFETY: the caller's promise; the block holds `rows` padded rows.
    unsafe { Avx512Bf16::enter(PackQuery { from, row: row - first, rows, to }) }
}

struct PackQuery<'a> {
    from: &'a [bf16],
    row: usize,
    rows: usize,
    to: &'a mut [bf16],
}

impl Work for PackQuery<'_> {
    #[inline(always)]
    unsafe fn run(self) {
        let to: *mut u8 = self.to.as_mut_ptr().cast();
        // SAFETY: the row's first operand, in a block that holds all.
        unsafe {
            let (from, len, to) = (self.from.as_ptr(), self.from.len(), to.add(self.row * lanes::BLOCK));
            product::pack_x::<Avx512Bf16, bf16>(from, len, self.rows, to);
        }
    }
}

/// Queries against a strip of keys.
pub struct Scores<'a> {
    /// All queries, as [`pack_query`] left them.
    pub q: &'a [bf16],
    /// Those to compute, from the first of a block to the last of `q`.
    pub rows: Range<usize>,
    pub dim: usize,
    /// Each covers `dim` elements.
    pub keys: &'a Keys,
    /// What is `ahead` elements after the keys is asked for.
    pub ahead: usize,
    /// Room for [`STRIP`] padded keys, where many queries pass by them.
    pub packed: &'a mut [bf16],
    /// From the strip's place in the first row of `q` on; rows are [`CHUNK`] apart.
    pub out: &'a mut [f32],
}

impl Scores<'_> {
    /// `out[r][i] = q[r] · keys[i]`.
    ///
    /// # Safety
    /// The CPU has AVX-512 with bf16; every key covers `dim` elements.
    pub unsafe fn compute(self) {
        if self.rows.is_empty() {
            return;
        }
        let padded = padded(self.dim);
        assert!(fits(self.dim) && self.packed.len() >= STRIP * padded);
        assert!(self.rows.start.is_multiple_of(BLOCK) && self.q.len() >= self.rows.end * padded);
        assert!(self.out.len() >= (self.rows.end - 1) * CHUNK + STRIP);
        // SAFETY: the caller's promise, and the extents were checked.
        unsafe { Avx512Bf16::enter(self) }
    }
}

impl Work for Scores<'_> {
    #[inline(always)]
    unsafe fn run(self) {
        let Self { q, rows, dim, keys, ahead, packed, out } = self;
        let mut strip = Strip::InPlace(keys, ahead);
        if rows.len() > BLOCK {
            let packed = packed.as_mut_ptr().cast();
            // SAFETY: `packed` holds a strip of whole steps.
            unsafe { product::pack_strip::<Avx512Bf16, bf16>(keys, dim, ahead, packed) };
            strip = Strip::Packed { w: packed, next: packed, step: 0 };
        }
        for row in rows.clone().step_by(BLOCK) {
            let block = BLOCK.min(rows.end - row);
            let mut sums = [0.0; BLOCK * STRIP];
            let q = q[row * padded(dim)..].as_ptr().cast();
            // SAFETY: a block of packed queries and a strip of keys, each of `dim` elements.
            unsafe { product::add_products::<Avx512Bf16, bf16>(strip, q, dim, &mut sums[..block * STRIP]) };
            for (r, sums) in sums.as_chunks::<STRIP>().0[..block].iter().enumerate() {
                out[(row + r) * CHUNK..][..STRIP].copy_from_slice(sums);
            }
        }
    }
}

/// Rounds a row's weights to bf16, in place: pair after pair, each in the bits of an f32.
///
/// # Safety
/// The CPU has AVX-512 with bf16.
pub unsafe fn round_weights(p: &mut [f32]) {
    assert!(p.len() == CHUNK && CHUNK.is_multiple_of(2 * WIDTH));
    // SAFETY: the caller's promise.
    unsafe { Avx512Bf16::enter(Round(p)) }
}

struct Round<'a>(&'a mut [f32]);

impl Work for Round<'_> {
    #[inline(always)]
    unsafe fn run(self) {
        let p = self.0.as_mut_ptr();
        for i in (0..self.0.len()).step_by(2 * WIDTH) {
            // SAFETY: the row is whole double vectors; what is written lies before what is read next.
            unsafe {
                let (low, high) = (_mm512_loadu_ps(p.add(i)), _mm512_loadu_ps(p.add(i + WIDTH)));
                let pairs = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                _mm512_storeu_si512(p.add(i / 2).cast(), pairs);
            }
        }
    }
}

/// Where pairs of values come from.
trait Pairs {
    /// Of pair `j`, columns `at..at + WIDTH`, past the end zeros: each lane holds both values.
    ///
    /// # Safety
    /// The CPU has AVX-512 BW and VL; the pair and at least one of the columns exist.
    unsafe fn load(&self, j: usize, at: usize) -> __m512i;
}

impl Pairs for Rows<'_, bf16> {
    #[inline(always)]
    unsafe fn load(&self, j: usize, at: usize) -> __m512i {
        let mask = u16::MAX >> (WIDTH - WIDTH.min(self.dim - at));
        let row = |key: usize| {
            let from = self.data.as_ptr().wrapping_add(key * self.stride + at);
            // SAFETY: the columns under the mask exist; the others are not read.
            unsafe { _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from.cast())) }
        };
        // SAFETY: the caller's promise. The last of an odd number of keys has a pair of zeros.
        unsafe {
            let odd = if 2 * j + 1 < self.count { row(2 * j + 1) } else { _mm512_setzero_si512() };
            _mm512_or_si512(row(2 * j), _mm512_slli_epi32::<16>(odd))
        }
    }
}

/// What [`pack_values`] wrote.
pub struct Packed<'a> {
    pub data: &'a [f32],
    /// A multiple of [`WIDTH`].
    pub stride: usize,
}

impl Pairs for Packed<'_> {
    #[inline(always)]
    unsafe fn load(&self, j: usize, at: usize) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_si512(self.data.as_ptr().add(j * self.stride + at).cast()) }
    }
}

/// Writes the pairs of `from`, `stride` apart, columns filled up with zeros.
///
/// # Safety
/// The CPU has AVX-512 with bf16.
pub unsafe fn pack_values(from: Rows<'_, bf16>, to: &mut [f32], stride: usize) {
    assert!(from.fit(from.dim) && stride >= from.dim.next_multiple_of(WIDTH));
    assert!(to.len() >= from.count.div_ceil(2) * stride);
    // SAFETY: the caller's promise, and the extents were checked.
    unsafe { Avx512Bf16::enter(PackValues { from, to, stride }) }
}

struct PackValues<'a> {
    from: Rows<'a, bf16>,
    to: &'a mut [f32],
    stride: usize,
}

impl Work for PackValues<'_> {
    #[inline(always)]
    unsafe fn run(self) {
        for j in 0..self.from.count.div_ceil(2) {
            for at in (0..self.from.dim).step_by(WIDTH) {
                // SAFETY: pairs and columns that exist, to a row that holds them.
                unsafe {
                    let to = self.to.as_mut_ptr().add(j * self.stride + at);
                    _mm512_storeu_si512(to.cast(), self.from.load(j, at));
                }
            }
        }
    }
}

/// Weights of up to [`BLOCK`] rows, rounded and [`CHUNK`] apart, by pairs of values.
pub struct Weighted<'a> {
    p: &'a [f32],
    rows: usize,
    pairs: usize,
    dim: usize,
    /// Rows of whole vectors, `out_stride` apart.
    out: &'a mut [f32],
    out_stride: usize,
}

impl<'a> Weighted<'a> {
    /// Checks the extents.
    pub fn new(
        p: &'a [f32],
        rows: usize,
        pairs: usize,
        dim: usize,
        out: &'a mut [f32],
        out_stride: usize,
    ) -> Self {
        assert!(0 < rows && rows <= BLOCK && p.len() >= (rows - 1) * CHUNK + pairs);
        assert!(out_stride >= dim.next_multiple_of(WIDTH) && out.len() >= rows * out_stride);
        Self { p, rows, pairs, dim, out, out_stride }
    }

    /// `out[r] += p[r][j] * v[j]` for the values of `v`.
    ///
    /// # Safety
    /// The CPU has AVX-512 with bf16.
    pub unsafe fn rows(self, v: Rows<'_, bf16>) {
        assert!(v.dim == self.dim && v.count.div_ceil(2) >= self.pairs && v.fit(v.dim));
        // SAFETY: the caller's promise, and the extents were checked.
        unsafe { Avx512Bf16::enter(WithValues(self, v)) }
    }

    /// As [`Self::rows`], with packed values.
    ///
    /// # Safety
    /// The CPU has AVX-512 with bf16.
    pub unsafe fn packed(self, v: Packed<'_>) {
        assert!(v.stride >= self.dim.next_multiple_of(WIDTH) && v.data.len() >= self.pairs * v.stride);
        // SAFETY: as above.
        unsafe { Avx512Bf16::enter(WithValues(self, v)) }
    }
}

struct WithValues<'a, V>(Weighted<'a>, V);

impl<V: Pairs> Work for WithValues<'_, V> {
    #[inline(always)]
    unsafe fn run(self) {
        let Self(mut w, v) = self;
        let w = &mut w;
        // SAFETY: `Weighted` checked the rows, its methods the values.
        unsafe {
            match w.rows {
                1 => all_columns::<V, 1>(w, &v),
                2 => all_columns::<V, 2>(w, &v),
                3 => all_columns::<V, 3>(w, &v),
                4 => all_columns::<V, 4>(w, &v),
                5 => all_columns::<V, 5>(w, &v),
                _ => all_columns::<V, BLOCK>(w, &v),
            }
        }
    }
}

/// # Safety
/// The CPU has AVX-512 with bf16; `w` has `R` rows; `v` holds its pairs.
#[inline(always)]
unsafe fn all_columns<V: Pairs, const R: usize>(w: &mut Weighted<'_>, v: &V) {
    let mut at = 0;
    // SAFETY: columns that exist.
    unsafe {
        while at + VECTORS * WIDTH <= w.dim {
            columns::<V, R, VECTORS>(w, v, at);
            at += VECTORS * WIDTH;
        }
        while at < w.dim {
            columns::<V, R, 1>(w, v, at);
            at += WIDTH;
        }
    }
}

/// `N` vectors of columns of `R` rows, in registers over all pairs.
///
/// # Safety
/// As [`all_columns`]; the columns begin before the end.
#[inline(always)]
unsafe fn columns<V: Pairs, const R: usize, const N: usize>(w: &mut Weighted<'_>, v: &V, at: usize) {
    let (p, out) = (w.p.as_ptr().cast::<i32>(), w.out.as_mut_ptr());
    // SAFETY: rows of `out` hold whole vectors, rows of `p` every pair.
    unsafe {
        let place = |r: usize, n: usize| out.add(r * w.out_stride + at + n * WIDTH);
        let mut sums = [[_mm512_setzero_ps(); N]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_loadu_ps(place(r, n));
            }
        }
        for j in 0..w.pairs {
            let mut values = [_mm512_setzero_si512(); N];
            for (n, values) in values.iter_mut().enumerate() {
                *values = v.load(j, at + n * WIDTH);
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let p = transmute::<__m512i, __m512bh>(_mm512_set1_epi32(*p.add(r * CHUNK + j)));
                for (sum, values) in sums.iter_mut().zip(values) {
                    *sum = _mm512_dpbf16_ps(*sum, p, transmute::<__m512i, __m512bh>(values));
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (n, &sum) in sums.iter().enumerate() {
                _mm512_storeu_ps(place(r, n), sum);
            }
        }
    }
}
