//! The inner loops of attention: register blocks of rows against keys.
//!
//! Each is a job of its own, compiled per instruction set and shared by all tiles.
#![expect(clippy::needless_range_loop, reason = "loops over lanes and register blocks read best by index")]

use std::ops::Range;

use super::{
    super::simd::{self, Float, Isa, Job, LANES, dispatch, exp, tanh},
    BLOCK, CHUNK,
};
use crate::device::Simd;

/// `count` rows of `dim` elements, `stride` apart.
#[derive(Clone, Copy)]
pub struct Rows<'a, T> {
    /// From the first row's first element on.
    pub data: &'a [T],
    /// In elements.
    pub stride: usize,
    /// At least 1 where rows are read.
    pub count: usize,
    /// At most the stride.
    pub dim: usize,
}

impl<T> Rows<'_, T> {
    /// Whether the slice holds all rows, each of `dim` elements.
    pub fn fit(&self, dim: usize) -> bool {
        self.count > 0 && self.data.len() >= (self.count - 1) * self.stride + dim
    }
}

/// Asks for all of `data`.
pub fn prefetch<const CACHE: i32, T>(data: &[T]) {
    data.iter().step_by(64 / size_of::<T>()).for_each(|at| simd::prefetch::<CACHE, T>(at));
}

/// Rows of the cache as packed f32, `to_stride` apart.
pub fn widen<T: Float>(simd: Simd, from: Rows<'_, T>, to: &mut [f32], to_stride: usize) {
    dispatch(simd, Widen { from, to, to_stride });
}

struct Widen<'a, T> {
    from: Rows<'a, T>,
    to: &'a mut [f32],
    to_stride: usize,
}

impl<T: Float> Job for Widen<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let Rows { data, stride, count, dim } = self.from;
        for i in 0..count {
            let (from, to) = (&data[i * stride..][..dim], &mut self.to[i * self.to_stride..][..dim]);
            to.iter_mut().zip(from).for_each(|(t, &v)| *t = v.to_f32());
        }
    }
}

/// Scores, scaled and capped: `cap * tanh(scale * s / cap)`.
pub fn cap_scores(simd: Simd, p: &mut [f32], scale: f32, cap: f32) {
    dispatch(simd, Cap { p, scale, cap });
}

struct Cap<'a> {
    p: &'a mut [f32],
    scale: f32,
    cap: f32,
}

impl Job for Cap<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let Self { p, scale, cap } = self;
        p.iter_mut().for_each(|s| *s = cap * tanh::<I>(*s * scale / cap));
    }
}

/// Scores of a row to weights: `e^(scale (s - max))` for the columns `seen`, 0 for the others. Returns the maximum,
/// scaled, and the sum.
pub fn weights(simd: Simd, p: &mut [f32], seen: Range<usize>, scale: f32) -> [f32; 2] {
    dispatch(simd, Weights { p, seen, scale })
}

struct Weights<'a> {
    p: &'a mut [f32],
    seen: Range<usize>,
    scale: f32,
}

impl Job for Weights<'_> {
    type Out = [f32; 2];
    #[inline(always)]
    fn run<I: Isa>(self) -> [f32; 2] {
        let Self { p, seen, scale } = self;
        if seen.is_empty() {
            p.fill(0.0);
            return [f32::NEG_INFINITY, 0.0];
        }
        // Whole lanes are computed; what a row does not see is set to minus infinity before and vanishes.
        let (first, last) = (seen.start / LANES * LANES, seen.end.next_multiple_of(LANES));
        p[..seen.start].fill(0.0);
        p[last..].fill(0.0);
        let part = &mut p[first..last];
        part.iter_mut().for_each(|s| *s *= scale);
        part[..seen.start - first].fill(f32::NEG_INFINITY);
        part[seen.end - first..].fill(f32::NEG_INFINITY);
        let mut tops = I::splat(f32::NEG_INFINITY);
        for s in part.chunks_exact(LANES) {
            // SAFETY: a chunk has `LANES` values.
            tops = I::larger(tops, unsafe { I::load(s.as_ptr()) });
        }
        let mut lanes = [0.0; LANES];
        // SAFETY: the array has `LANES` values.
        unsafe { I::store(tops, lanes.as_mut_ptr()) };
        let top = simd::max(lanes);
        part.iter_mut().for_each(|s| *s = exp::<I>(*s - top));
        let mut sums = I::splat(0.0);
        for s in part.chunks_exact(LANES) {
            // SAFETY: as above.
            sums = I::add(sums, unsafe { I::load(s.as_ptr()) });
        }
        [top, I::sum(sums)]
    }
}

/// Writes row `row` of `rows` as [`scores`] wants queries: whole lanes, padded with zeros, the rows of a block
/// interleaved, so that one pointer reaches all of them. Blocks begin every [`BLOCK`] times `padded` values.
pub fn interleave<T: Float>(from: &[T], row: usize, rows: usize, to: &mut [f32], padded: usize) {
    let (first, r) = (row / BLOCK * BLOCK, row % BLOCK);
    let block = BLOCK.min(rows - first);
    for (i, lanes) in from.chunks(LANES).enumerate() {
        let to = &mut to[first * padded + (i * block + r) * LANES..][..LANES];
        to.fill(0.0);
        to.iter_mut().zip(lanes).for_each(|(t, &v)| *t = v.to_f32());
    }
}

/// `out[r][j] = q[r] · k[j]`; rows of `out` are [`CHUNK`] apart, `q` is as [`interleave`] writes it, from the first
/// row of a block on.
pub fn scores<T: Float>(simd: Simd, q: Rows<'_, f32>, k: Rows<'_, T>, out: &mut [f32]) {
    if k.count == 0 {
        return;
    }
    assert!(q.dim == k.dim && q.fit(q.dim.next_multiple_of(LANES)) && k.fit(k.dim));
    assert!(out.len() >= (q.count - 1) * CHUNK + k.count);
    for row in (0..q.count).step_by(BLOCK) {
        let q = Rows { data: &q.data[row * q.stride..], count: BLOCK.min(q.count - row), ..q };
        dispatch(simd, Scores { q, k, out: &mut out[row * CHUNK..] });
    }
}

/// Up to [`BLOCK`] rows; [`scores`] checked that the slices hold them.
struct Scores<'a, T> {
    q: Rows<'a, f32>,
    k: Rows<'a, T>,
    out: &'a mut [f32],
}

impl<T: Float> Job for Scores<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let Self { q, k, out } = self;
        // Fewer rows take more keys at a time: eight sums hide each other's latency.
        // SAFETY: `scores` checked every row and key.
        unsafe {
            match q.count {
                1 => scores_block::<I, T, 1, 8>(q, k, out),
                2 => scores_block::<I, T, 2, 4>(q, k, out),
                3 => scores_block::<I, T, 3, 2>(q, k, out),
                4 => scores_block::<I, T, 4, 2>(q, k, out),
                5 => scores_block::<I, T, 5, 2>(q, k, out),
                _ => scores_block::<I, T, BLOCK, 2>(q, k, out),
            }
        }
    }
}

/// [`scores`] of `R` rows, `N` keys at a time.
///
/// # Safety
/// `q` holds `R` rows of its `dim` rounded up to [`LANES`], `k` its rows, `out` `R` rows.
#[inline(always)]
unsafe fn scores_block<I: Isa, T: Float, const R: usize, const N: usize>(
    q: Rows<'_, f32>,
    k: Rows<'_, T>,
    out: &mut [f32],
) {
    let whole = k.count / N * N;
    for j in (0..whole).step_by(N) {
        // SAFETY: keys `j..j + N` are among the rows of `k`.
        let s = unsafe {
            dots::<I, T, R, N>(q.data.as_ptr(), k.data.as_ptr().add(j * k.stride), k.stride, k.dim)
        };
        for r in 0..R {
            out[r * CHUNK + j..][..N].copy_from_slice(&s[r]);
        }
    }
    for j in whole..k.count {
        // SAFETY: as above.
        let s = unsafe {
            dots::<I, T, R, 1>(q.data.as_ptr(), k.data.as_ptr().add(j * k.stride), k.stride, k.dim)
        };
        for r in 0..R {
            out[r * CHUNK + j] = s[r][0];
        }
    }
}

/// `R × N` dot products, each in [`LANES`] partial sums.
///
/// # Safety
/// `q` points to `R` interleaved rows of `dim` rounded up to [`LANES`], `k` to `N` rows of `dim`.
#[inline(always)]
unsafe fn dots<I: Isa, T: Float, const R: usize, const N: usize>(
    q: *const f32,
    k: *const T,
    k_stride: usize,
    dim: usize,
) -> [[f32; N]; R] {
    let mut sums = [[I::splat(0.0); N]; R];
    let whole = dim / LANES * LANES;
    let mut i = 0;
    while i < whole {
        let mut keys = [I::splat(0.0); N];
        for n in 0..N {
            // SAFETY: row `n` has elements up to `dim`.
            keys[n] = unsafe { T::load::<I>(k.add(n * k_stride + i)) };
        }
        // SAFETY: rows of q have elements up to `dim` rounded up to `LANES`.
        unsafe { multiply::<I, R, N>(&mut sums, q.add(i * R), &keys) };
        i += LANES;
    }
    if whole < dim {
        let mut keys = [I::splat(0.0); N];
        for n in 0..N {
            let mut rest = [0.0; LANES];
            for l in 0..dim - whole {
                // SAFETY: as above.
                rest[l] = unsafe { *k.add(n * k_stride + whole + l) }.to_f32();
            }
            // SAFETY: the array has `LANES` values.
            keys[n] = unsafe { I::load(rest.as_ptr()) };
        }
        // SAFETY: as above.
        unsafe { multiply::<I, R, N>(&mut sums, q.add(whole * R), &keys) };
    }
    let mut out = [[0.0; N]; R];
    let (sums, rest) = sums.as_flattened().as_chunks::<4>();
    let (fours, ones) = out.as_flattened_mut().as_chunks_mut::<4>();
    for (o, &s) in fours.iter_mut().zip(sums) {
        *o = I::sum4(s);
    }
    for (o, &s) in ones.iter_mut().zip(rest) {
        *o = I::sum(s);
    }
    out
}

/// One step of [`dots`].
///
/// # Safety
/// `q` points to `R` times [`LANES`] values.
#[inline(always)]
unsafe fn multiply<I: Isa, const R: usize, const N: usize>(
    sums: &mut [[I::V; N]; R],
    q: *const f32,
    keys: &[I::V; N],
) {
    for r in 0..R {
        // SAFETY: the caller's.
        let q = unsafe { I::load(q.add(r * LANES)) };
        for n in 0..N {
            sums[r][n] = I::fma(q, keys[n], sums[r][n]);
        }
    }
}

/// `out[r] += sum_j p[r][j] * v[j]` for up to [`BLOCK`] rows, which are [`CHUNK`] apart in `p`.
pub fn weighted<T: Float>(
    simd: Simd,
    p: &[f32],
    rows: usize,
    v: Rows<'_, T>,
    out: &mut [f32],
    out_stride: usize,
) {
    if v.count == 0 {
        return;
    }
    assert!(0 < rows && rows <= BLOCK && v.fit(v.dim));
    assert!(p.len() >= (rows - 1) * CHUNK + v.count);
    assert!(out.len() >= rows * out_stride && out_stride >= v.dim);
    dispatch(simd, Weighted { p, rows, v, out, out_stride });
}

/// [`weighted`] checked that the slices hold the rows.
struct Weighted<'a, T> {
    p: &'a [f32],
    rows: usize,
    v: Rows<'a, T>,
    out: &'a mut [f32],
    out_stride: usize,
}

impl<T: Float> Job for Weighted<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let Self { p, rows, v, out, out_stride } = self;
        // SAFETY: `weighted` checked every row and key.
        unsafe {
            match rows {
                1 => weighted_block::<I, T, 1, 8>(p, v, out, out_stride),
                2 => weighted_block::<I, T, 2, 4>(p, v, out, out_stride),
                3 => weighted_block::<I, T, 3, 2>(p, v, out, out_stride),
                4 => weighted_block::<I, T, 4, 2>(p, v, out, out_stride),
                5 => weighted_block::<I, T, 5, 2>(p, v, out, out_stride),
                _ => weighted_block::<I, T, BLOCK, 2>(p, v, out, out_stride),
            }
        }
    }
}

/// [`weighted`] of `R` rows, `N` vectors of columns at a time.
///
/// # Safety
/// `p` holds `R` rows of weights, `v` its rows, `out` `R` rows of v's `dim`.
#[inline(always)]
unsafe fn weighted_block<I: Isa, T: Float, const R: usize, const N: usize>(
    p: &[f32],
    v: Rows<'_, T>,
    out: &mut [f32],
    out_stride: usize,
) {
    let (first, mut i) = (v.data.as_ptr(), 0);
    while i + N * LANES <= v.dim {
        // SAFETY: columns `i..i + N * LANES` are inside each row.
        unsafe { columns::<I, T, R, N>(p, first.add(i), v.stride, v.count, &mut out[i..], out_stride) };
        i += N * LANES;
    }
    while i + LANES <= v.dim {
        // SAFETY: as above with one vector.
        unsafe { columns::<I, T, R, 1>(p, first.add(i), v.stride, v.count, &mut out[i..], out_stride) };
        i += LANES;
    }
    for i in i..v.dim {
        for r in 0..R {
            for j in 0..v.count {
                let o = &mut out[r * out_stride + i];
                *o = I::mul_add(p[r * CHUNK + j], v.data[j * v.stride + i].to_f32(), *o);
            }
        }
    }
}

/// `N` vectors of columns of `R` rows, in registers over all keys.
///
/// # Safety
/// `p` holds `R` rows of `count`; `v` points to `count` rows of `N * LANES`; `out` holds `R` rows of as many.
#[inline(always)]
unsafe fn columns<I: Isa, T: Float, const R: usize, const N: usize>(
    p: &[f32],
    v: *const T,
    v_stride: usize,
    count: usize,
    out: &mut [f32],
    out_stride: usize,
) {
    let (p, out) = (p.as_ptr(), out.as_mut_ptr());
    let mut sums = [[I::splat(0.0); N]; R];
    for r in 0..R {
        for n in 0..N {
            // SAFETY: row `r` of `out` has `N * LANES` values.
            sums[r][n] = unsafe { I::load(out.add(r * out_stride + n * LANES)) };
        }
    }
    for j in 0..count {
        let mut values = [I::splat(0.0); N];
        for n in 0..N {
            // SAFETY: row `j` has `N * LANES` elements.
            values[n] = unsafe { T::load::<I>(v.add(j * v_stride + n * LANES)) };
        }
        for r in 0..R {
            // SAFETY: row `r` has `count` weights.
            let p = I::splat(unsafe { *p.add(r * CHUNK + j) });
            for n in 0..N {
                sums[r][n] = I::fma(p, values[n], sums[r][n]);
            }
        }
    }
    for r in 0..R {
        for n in 0..N {
            // SAFETY: as above.
            unsafe { I::store(sums[r][n], out.add(r * out_stride + n * LANES)) };
        }
    }
}
