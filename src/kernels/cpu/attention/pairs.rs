//! bf16 by `vdpbf16ps`: scores by the tiles of `linear`, with keys for rows of weights; values by pairs of keys.
//!
//! Either order of summation depends on positions alone. A score is summed as an output of a linear is. A value
//! adds one pair of keys after the other, pairs beginning at even positions of a chunk; weights are rounded to bf16
//! (their sum is not), as FlashAttention does (arXiv:2205.14135).

use std::{
    arch::x86_64::*,
    f32::consts::{LN_2, LOG2_E},
    mem::transmute,
    ops::Range,
};

use half::bf16;

use super::{
    super::{
        linear::{
            lanes::{self, Level, Work},
            tile::{self as product, MAX_ROWS, Strip},
            x86::Avx512Bf16,
        },
        simd::{L2, prefetch},
    },
    BLOCK, CHUNK,
    tile::Rows,
};

/// Keys that a tile of scores takes.
pub const STRIP: usize = MAX_ROWS;
/// Lanes of a vector of f32.
const WIDTH: usize = 16;

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
    /// [`STRIP`] of them; what they hold may be anything where nobody looks at their scores.
    pub keys: Rows<'a, bf16>,
    /// What is asked for meanwhile: lies as the keys do.
    pub next: *const bf16,
    /// Room for [`STRIP`] padded keys, where many queries pass by them.
    pub packed: &'a mut [bf16],
    /// From the strip's place in the first row of `q` on; rows are [`CHUNK`] apart.
    pub out: &'a mut [f32],
}

impl Scores<'_> {
    /// `out[r][i] = q[r] · keys[i]`.
    ///
    /// # Safety
    /// The CPU has AVX-512 with bf16.
    pub unsafe fn compute(self) {
        if self.rows.is_empty() {
            return;
        }
        let padded = padded(self.keys.dim);
        assert!(self.keys.count == STRIP && self.keys.fit(self.keys.dim));
        assert!(fits(self.keys.dim) && self.packed.len() >= STRIP * padded);
        assert!(self.rows.start.is_multiple_of(BLOCK) && self.q.len() >= self.rows.end * padded);
        assert!(self.out.len() >= (self.rows.end - 1) * CHUNK + STRIP);
        // SAFETY: the caller's promise, and the extents were checked.
        unsafe { Avx512Bf16::enter(self) }
    }
}

impl Work for Scores<'_> {
    #[inline(always)]
    unsafe fn run(self) {
        let Self { q, rows, keys: Rows { data, stride, dim, .. }, next, packed, out } = self;
        let ahead =
            (next.addr().wrapping_sub(data.as_ptr().addr()) as isize / size_of::<bf16>() as isize) as usize;
        let mut keys = [data.as_ptr(); STRIP];
        for (i, key) in keys.iter_mut().enumerate() {
            *key = key.wrapping_add(i * stride);
        }
        let mut strip = Strip::InPlace(&keys, ahead);
        if rows.len() > BLOCK {
            let packed = packed.as_mut_ptr().cast();
            // SAFETY: `packed` holds a strip of whole steps.
            unsafe { product::pack_strip::<Avx512Bf16, bf16>(&keys, dim, ahead, packed) };
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

/// Scores of a row to weights, `e^(scale (s - max))` for the columns `seen` and 0 for the others, rounded to bf16:
/// pair after pair, each in the bits of an f32, from the row's beginning on. Returns the maximum, scaled, and the sum
/// of the weights before they are rounded.
///
/// # Safety
/// The CPU has AVX-512 with bf16.
pub unsafe fn weights(p: &mut [f32], seen: Range<usize>, scale: f32) -> [f32; 2] {
    assert!(p.len() == CHUNK && seen.end <= CHUNK);
    let mut state = [f32::NEG_INFINITY, 0.0];
    if seen.is_empty() {
        p.fill(0.0);
    } else {
        // SAFETY: the caller's promise.
        unsafe { Avx512Bf16::enter(Weights { p, seen, scale, state: &mut state }) }
    }
    state
}

struct Weights<'a> {
    p: &'a mut [f32],
    seen: Range<usize>,
    scale: f32,
    state: &'a mut [f32; 2],
}

impl Work for Weights<'_> {
    #[inline(always)]
    unsafe fn run(self) {
        const VECTORS: usize = CHUNK / WIDTH;
        let Self { p, seen, scale, state } = self;
        let p = p.as_mut_ptr();
        let seen = u128::MAX >> (CHUNK - seen.end) & u128::MAX << seen.start;
        // SAFETY: the row is `VECTORS` vectors long.
        unsafe {
            // Powers of two, so that the factor log2 e costs nothing.
            let (scale, unseen) = (_mm512_set1_ps(scale * LOG2_E), _mm512_set1_ps(f32::NEG_INFINITY));
            let mut s = [unseen; VECTORS];
            for (i, s) in s.iter_mut().enumerate() {
                let mask = (seen >> (i * WIDTH)) as u16;
                *s = _mm512_mask_mul_ps(unseen, mask, _mm512_loadu_ps(p.add(i * WIDTH)), scale);
            }
            let top = _mm512_reduce_max_ps(tree(s, |a, b| _mm512_max_ps(a, b)));
            for s in &mut s {
                *s = exp2(_mm512_sub_ps(*s, _mm512_set1_ps(top)));
            }
            for (i, &[low, high]) in s.as_chunks().0.iter().enumerate() {
                let pairs = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                _mm512_storeu_si512(p.add(i * WIDTH).cast(), pairs);
            }
            *state = [top * LN_2, _mm512_reduce_add_ps(tree(s, |a, b| _mm512_add_ps(a, b)))];
        }
    }
}

/// All of `v` by `f`: neighbours, then neighbouring results, and so on.
#[inline(always)]
fn tree(mut v: [__m512; CHUNK / WIDTH], f: impl Fn(__m512, __m512) -> __m512) -> __m512 {
    let mut step = 1;
    while step < v.len() {
        for i in (0..v.len()).step_by(2 * step) {
            v[i] = f(v[i], v[i + step]);
        }
        step *= 2;
    }
    v[0]
}

/// `2^x` for `x <= 0`, to 3e-7; NaN stays. The series in `|f| <= 1/2` stops at `(f ln 2)^6 / 6!`.
///
/// # Safety
/// The CPU has AVX-512.
#[inline(always)]
unsafe fn exp2(x: __m512) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        // Minus infinity is no integer; 2^-160 is 0 as well. (The second operand is what a NaN leaves.)
        let x = _mm512_max_ps(_mm512_set1_ps(-160.0), x);
        let n = _mm512_roundscale_ps::<_MM_FROUND_TO_NEAREST_INT>(x);
        let f = _mm512_sub_ps(x, n);
        let mut q = _mm512_set1_ps(SERIES[6]);
        for &c in SERIES[..6].iter().rev() {
            q = _mm512_fmadd_ps(q, f, _mm512_set1_ps(c));
        }
        _mm512_scalef_ps(q, n)
    }
}

/// `(ln 2)^k / k!`.
const SERIES: [f32; 7] = {
    let (mut series, mut term, mut k) = ([1.0; 7], 1.0, 1);
    while k < 7 {
        term *= std::f64::consts::LN_2 / k as f64;
        series[k] = term as f32;
        k += 1;
    }
    series
};

/// Where pairs of values come from.
trait Pairs {
    /// Of pair `j`, columns `at..at + 2 * WIDTH`, past the end zeros: each lane holds both values.
    ///
    /// # Safety
    /// The CPU has AVX-512 BW; the pair and at least one of the columns exist.
    unsafe fn load(&self, j: usize, at: usize) -> [__m512i; 2];
}

impl Pairs for Rows<'_, bf16> {
    #[inline(always)]
    unsafe fn load(&self, j: usize, at: usize) -> [__m512i; 2] {
        let mask = u32::MAX >> (2 * WIDTH - (2 * WIDTH).min(self.dim - at));
        let row = |key: usize| {
            let from = self.data.as_ptr().wrapping_add(key * self.stride + at);
            // SAFETY: the columns under the mask exist; the others are not read.
            unsafe { _mm512_maskz_loadu_epi16(mask, from.cast()) }
        };
        // SAFETY: the caller's promise. The last of an odd number of keys has a pair of zeros.
        unsafe {
            let even = row(2 * j);
            let odd = if 2 * j + 1 < self.count { row(2 * j + 1) } else { _mm512_setzero_si512() };
            let [low, high] = [const { places(0) }, const { places(WIDTH) }];
            let pairs = |places: [u16; 2 * WIDTH]| {
                _mm512_permutex2var_epi16(even, transmute::<[u16; 2 * WIDTH], __m512i>(places), odd)
            };
            [pairs(low), pairs(high)]
        }
    }
}

/// Where columns `first..first + WIDTH` stand in a vector and the one that follows it, each beside each.
const fn places(first: usize) -> [u16; 2 * WIDTH] {
    let (mut places, mut i) = ([0; 2 * WIDTH], 0);
    while i < places.len() {
        places[i] = (first + i / 2 + i % 2 * 2 * WIDTH) as u16;
        i += 1;
    }
    places
}

/// Values where they lie.
struct InPlace<'a> {
    values: Rows<'a, bf16>,
    /// What is asked for meanwhile: lies as the values do.
    next: *const bf16,
}

impl Pairs for InPlace<'_> {
    #[inline(always)]
    unsafe fn load(&self, j: usize, at: usize) -> [__m512i; 2] {
        let next = self.next.wrapping_add(2 * j * self.values.stride + at);
        prefetch::<L2, _>(next);
        prefetch::<L2, _>(next.wrapping_add(self.values.stride));
        // SAFETY: the caller's promise.
        unsafe { self.values.load(j, at) }
    }
}

/// What [`pack_values`] wrote.
pub struct Packed<'a> {
    pub data: &'a [f32],
    /// A multiple of `2 * WIDTH`.
    pub stride: usize,
}

impl Pairs for Packed<'_> {
    #[inline(always)]
    unsafe fn load(&self, j: usize, at: usize) -> [__m512i; 2] {
        let from = self.data.as_ptr().wrapping_add(j * self.stride + at);
        // SAFETY: the caller's promise.
        unsafe { [_mm512_loadu_si512(from.cast()), _mm512_loadu_si512(from.add(WIDTH).cast())] }
    }
}

/// Writes the pairs of `from`, `stride` apart, columns filled up with zeros.
///
/// # Safety
/// The CPU has AVX-512 with bf16.
pub unsafe fn pack_values(from: Rows<'_, bf16>, to: &mut [f32], stride: usize) {
    assert!(from.fit(from.dim) && stride >= from.dim.next_multiple_of(2 * WIDTH));
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
            for at in (0..self.from.dim).step_by(2 * WIDTH) {
                // SAFETY: pairs and columns that exist, to a row that holds them.
                unsafe {
                    let to = self.to.as_mut_ptr().add(j * self.stride + at);
                    for (n, pairs) in self.from.load(j, at).into_iter().enumerate() {
                        _mm512_storeu_si512(to.add(n * WIDTH).cast(), pairs);
                    }
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
    /// Rows of whole double vectors, `out_stride` apart.
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
        assert!(out_stride >= dim.next_multiple_of(2 * WIDTH) && out.len() >= rows * out_stride);
        Self { p, rows, pairs, dim, out, out_stride }
    }

    /// `out[r] += p[r][j] * v[j]` for the values of `v`. Meanwhile asks for `next`, which lies as they do.
    ///
    /// # Safety
    /// The CPU has AVX-512 with bf16.
    pub unsafe fn rows(self, v: Rows<'_, bf16>, next: *const bf16) {
        assert!(v.dim == self.dim && v.count.div_ceil(2) >= self.pairs && v.fit(v.dim));
        // SAFETY: the caller's promise, and the extents were checked.
        unsafe { Avx512Bf16::enter(WithValues(self, InPlace { values: v, next })) }
    }

    /// As [`Self::rows`], with packed values.
    ///
    /// # Safety
    /// The CPU has AVX-512 with bf16.
    pub unsafe fn packed(self, v: Packed<'_>) {
        assert!(v.stride >= self.dim.next_multiple_of(2 * WIDTH) && v.data.len() >= self.pairs * v.stride);
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
        while at + 4 * WIDTH <= w.dim {
            columns::<V, R, 2>(w, v, at);
            at += 4 * WIDTH;
        }
        while at < w.dim {
            columns::<V, R, 1>(w, v, at);
            at += 2 * WIDTH;
        }
    }
}

/// `N` double vectors of columns of `R` rows, in registers over all pairs.
///
/// # Safety
/// As [`all_columns`]; the columns begin before the end.
#[inline(always)]
unsafe fn columns<V: Pairs, const R: usize, const N: usize>(w: &mut Weighted<'_>, v: &V, at: usize) {
    let (p, out) = (w.p.as_ptr().cast::<i32>(), w.out.as_mut_ptr());
    // SAFETY: rows of `out` hold whole double vectors, rows of `p` every pair.
    unsafe {
        let place = |r: usize, n: usize| out.add(r * w.out_stride + at + n * WIDTH);
        let mut sums = [[[_mm512_setzero_ps(); 2]; N]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (n, sum) in sums.as_flattened_mut().iter_mut().enumerate() {
                *sum = _mm512_loadu_ps(place(r, n));
            }
        }
        for j in 0..w.pairs {
            let mut values = [[_mm512_setzero_si512(); 2]; N];
            for (n, values) in values.iter_mut().enumerate() {
                *values = v.load(j, at + 2 * n * WIDTH);
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let p = transmute::<__m512i, __m512bh>(_mm512_set1_epi32(*p.add(r * CHUNK + j)));
                for (sum, &values) in sums.as_flattened_mut().iter_mut().zip(values.as_flattened()) {
                    *sum = _mm512_dpbf16_ps(*sum, p, transmute::<__m512i, __m512bh>(values));
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (n, &sum) in sums.as_flattened().iter().enumerate() {
                _mm512_storeu_ps(place(r, n), sum);
            }
        }
    }
}
