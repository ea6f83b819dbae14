//! The inner loops of attention: register blocks of rows against keys.
//!
//! Each is a job of its own, compiled per instruction set and shared by all tiles.
#![expect(clippy::needless_range_loop, reason = "loops over lanes and register blocks read best by index")]

use std::ops::Range;

use super::{
    super::simd::{self, Float, Isa, Job, LANES, V8, dispatch, exp, larger, tanh},
    BLOCK, CHUNK,
};
use crate::device::Simd;

/// Rows of a run of the cache as packed f32: `to[i] = from[i]` for `count` rows of `dim`.
pub fn widen<T: Float>(
    simd: Simd,
    from: &[T],
    stride: usize,
    count: usize,
    dim: usize,
    to: &mut [f32],
    to_stride: usize,
) {
    dispatch(simd, Widen { from, stride, count, dim, to, to_stride });
}

struct Widen<'a, T> {
    from: &'a [T],
    stride: usize,
    count: usize,
    dim: usize,
    to: &'a mut [f32],
    to_stride: usize,
}

impl<T: Float> Job for Widen<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        for i in 0..self.count {
            let from = &self.from[i * self.stride..][..self.dim];
            let to = &mut self.to[i * self.to_stride..][..self.dim];
            to.iter_mut().zip(from).for_each(|(t, &v)| *t = v.to_f32());
        }
    }
}

/// Folds a chunk's maximum and sum `of` and its values into a row's; a chunk without keys changes nothing.
pub fn fold(simd: Simd, state: &mut [f32], o: &mut [f32], of: [f32; 2], part: &[f32]) {
    dispatch(simd, Fold { state, o, of, part });
}

struct Fold<'a> {
    state: &'a mut [f32],
    o: &'a mut [f32],
    of: [f32; 2],
    part: &'a [f32],
}

impl Job for Fold<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let Self { state, o, of: [m, l], part } = self;
        if m == f32::NEG_INFINITY && l == 0.0 {
            return;
        }
        let top = larger(state[0], m);
        let (old, new) = (exp::<I>(state[0] - top), exp::<I>(m - top));
        state[0] = top;
        state[1] = I::mul_add(state[1], old, l * new);
        for (o, &p) in o.iter_mut().zip(part) {
            *o = I::mul_add(*o, old, p * new);
        }
    }
}

/// Scores of a row to weights: `e^(s - max)` for the columns `seen`, 0 for the others. Returns the maximum and
/// the sum.
pub fn weights(simd: Simd, p: &mut [f32], seen: Range<usize>, scale: f32, softcap: Option<f32>) -> [f32; 2] {
    dispatch(simd, Weights { p, seen, scale, softcap })
}

struct Weights<'a> {
    p: &'a mut [f32],
    seen: Range<usize>,
    scale: f32,
    softcap: Option<f32>,
}

impl Job for Weights<'_> {
    type Out = [f32; 2];
    #[inline(always)]
    fn run<I: Isa>(self) -> [f32; 2] {
        let Self { p, seen, scale, softcap } = self;
        if seen.is_empty() {
            p.fill(0.0);
            return [f32::NEG_INFINITY, 0.0];
        }
        // Whole lanes are computed; what a row does not see is set to minus infinity before and vanishes.
        let (first, last) = (seen.start / LANES * LANES, seen.end.next_multiple_of(LANES));
        p[..seen.start].fill(0.0);
        p[last..].fill(0.0);
        let part = &mut p[first..last];
        match softcap {
            None => part.iter_mut().for_each(|s| *s *= scale),
            Some(cap) => part.iter_mut().for_each(|s| *s = cap * tanh::<I>(*s * scale / cap)),
        }
        part[..seen.start - first].fill(f32::NEG_INFINITY);
        part[seen.end - first..].fill(f32::NEG_INFINITY);
        let mut top = [f32::NEG_INFINITY; LANES];
        for s in part.chunks_exact(LANES) {
            for l in 0..LANES {
                top[l] = larger(top[l], s[l]);
            }
        }
        let top = simd::max(top);
        let mut sums = [0.0; LANES];
        for s in part.chunks_exact_mut(LANES) {
            for l in 0..LANES {
                s[l] = exp::<I>(s[l] - top);
                sums[l] += s[l];
            }
        }
        [top, simd::sum(sums)]
    }
}

/// `out[r][j] = q[r] · k[j]` for `rows` rows and `count` keys; rows of `out` are [`CHUNK`] apart, those of `q`
/// padded with zeros to whole lanes.
pub fn scores<T: Float>(
    simd: Simd,
    q: &[f32],
    q_stride: usize,
    rows: usize,
    k: &[T],
    k_stride: usize,
    count: usize,
    dim: usize,
    out: &mut [f32],
) {
    if count == 0 {
        return;
    }
    assert!(rows > 0 && q.len() >= rows * q_stride && q_stride >= dim.next_multiple_of(LANES));
    assert!(k.len() >= (count - 1) * k_stride + dim && out.len() >= (rows - 1) * CHUNK + count);
    for row in (0..rows).step_by(BLOCK) {
        let (q, out, rows) = (&q[row * q_stride..], &mut out[row * CHUNK..], BLOCK.min(rows - row));
        dispatch(simd, Scores { q, q_stride, rows, k, k_stride, count, dim, out });
    }
}

/// Up to [`BLOCK`] rows; [`scores`] checked that the slices hold them.
struct Scores<'a, T> {
    q: &'a [f32],
    q_stride: usize,
    rows: usize,
    k: &'a [T],
    k_stride: usize,
    count: usize,
    dim: usize,
    out: &'a mut [f32],
}

impl<T: Float> Job for Scores<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let Self { q, q_stride, rows, k, k_stride, count, dim, out } = self;
        // Fewer rows take more keys at a time: a register block needs eight sums to hide their latency.
        // SAFETY: `scores` checked every row and key.
        unsafe {
            match rows {
                1 => scores_block::<I, T, 1, 8>(q, q_stride, k, k_stride, count, dim, out),
                2 => scores_block::<I, T, 2, 4>(q, q_stride, k, k_stride, count, dim, out),
                3 => scores_block::<I, T, 3, 2>(q, q_stride, k, k_stride, count, dim, out),
                4 => scores_block::<I, T, 4, 2>(q, q_stride, k, k_stride, count, dim, out),
                5 => scores_block::<I, T, 5, 2>(q, q_stride, k, k_stride, count, dim, out),
                _ => scores_block::<I, T, BLOCK, 2>(q, q_stride, k, k_stride, count, dim, out),
            }
        }
    }
}

/// [`scores`] of `R` rows, `N` keys at a time.
///
/// # Safety
/// `q` holds `R` rows of `dim` rounded up to [`LANES`], `k` holds `count` keys, `out` `R` rows.
#[inline(always)]
unsafe fn scores_block<I: Isa, T: Float, const R: usize, const N: usize>(
    q: &[f32],
    q_stride: usize,
    k: &[T],
    k_stride: usize,
    count: usize,
    dim: usize,
    out: &mut [f32],
) {
    let whole = count / N * N;
    for j in (0..whole).step_by(N) {
        // SAFETY: keys `j..j + N` are among the `count`.
        let s =
            unsafe { dots::<I, T, R, N>(q.as_ptr(), q_stride, k.as_ptr().add(j * k_stride), k_stride, dim) };
        for r in 0..R {
            out[r * CHUNK + j..][..N].copy_from_slice(&s[r]);
        }
    }
    for j in whole..count {
        // SAFETY: as above.
        let s =
            unsafe { dots::<I, T, R, 1>(q.as_ptr(), q_stride, k.as_ptr().add(j * k_stride), k_stride, dim) };
        for r in 0..R {
            out[r * CHUNK + j] = s[r][0];
        }
    }
}

/// `R × N` dot products, each in [`LANES`] partial sums.
///
/// # Safety
/// `q` points to `R` rows of `dim` rounded up to [`LANES`], `k` to `N` rows of `dim`.
#[inline(always)]
unsafe fn dots<I: Isa, T: Float, const R: usize, const N: usize>(
    q: *const f32,
    q_stride: usize,
    k: *const T,
    k_stride: usize,
    dim: usize,
) -> [[f32; N]; R] {
    let mut sums = [[[0.0; LANES]; N]; R];
    let whole = dim / LANES * LANES;
    let mut i = 0;
    while i < whole {
        let mut keys = [[0.0; LANES]; N];
        for n in 0..N {
            // SAFETY: row `n` has elements up to `dim`.
            keys[n] = unsafe { load(k.add(n * k_stride + i)) };
        }
        // SAFETY: rows of q have elements up to `dim` rounded up to `LANES`.
        unsafe { multiply::<I, R, N>(&mut sums, q.add(i), q_stride, &keys) };
        i += LANES;
    }
    if whole < dim {
        let mut keys = [[0.0; LANES]; N];
        for n in 0..N {
            for l in 0..dim - whole {
                // SAFETY: as above.
                keys[n][l] = unsafe { *k.add(n * k_stride + whole + l) }.to_f32();
            }
        }
        // SAFETY: as above.
        unsafe { multiply::<I, R, N>(&mut sums, q.add(whole), q_stride, &keys) };
    }
    let mut out = [[0.0; N]; R];
    for r in 0..R {
        for n in 0..N {
            out[r][n] = simd::sum(sums[r][n]);
        }
    }
    out
}

/// One step of [`dots`].
///
/// # Safety
/// `q` points to `R` rows of [`LANES`].
#[inline(always)]
unsafe fn multiply<I: Isa, const R: usize, const N: usize>(
    sums: &mut [[V8; N]; R],
    q: *const f32,
    q_stride: usize,
    keys: &[V8; N],
) {
    for r in 0..R {
        // SAFETY: the caller's.
        let q = unsafe { load(q.add(r * q_stride)) };
        for n in 0..N {
            for l in 0..LANES {
                sums[r][n][l] = I::mul_add(q[l], keys[n][l], sums[r][n][l]);
            }
        }
    }
}

/// # Safety
/// `from` points to [`LANES`] elements.
#[inline(always)]
unsafe fn load<T: Float>(from: *const T) -> V8 {
    let mut v = [0.0; LANES];
    for (l, v) in v.iter_mut().enumerate() {
        // SAFETY: the caller's.
        *v = unsafe { *from.add(l) }.to_f32();
    }
    v
}

/// `out[r] += sum_j p[r][j] * v[j]` for up to [`BLOCK`] rows and `count` keys; rows of `p` are [`CHUNK`] apart.
pub fn weighted<T: Float>(
    simd: Simd,
    p: &[f32],
    rows: usize,
    v: &[T],
    v_stride: usize,
    count: usize,
    dim: usize,
    out: &mut [f32],
    out_stride: usize,
) {
    assert!(0 < rows && rows <= BLOCK && count > 0);
    assert!(p.len() >= (rows - 1) * CHUNK + count && v.len() >= (count - 1) * v_stride + dim);
    assert!(out.len() >= rows * out_stride && out_stride >= dim);
    dispatch(simd, Weighted { p, rows, v, v_stride, count, dim, out, out_stride });
}

/// [`weighted`] checked that the slices hold the rows.
struct Weighted<'a, T> {
    p: &'a [f32],
    rows: usize,
    v: &'a [T],
    v_stride: usize,
    count: usize,
    dim: usize,
    out: &'a mut [f32],
    out_stride: usize,
}

impl<T: Float> Job for Weighted<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let Self { p, rows, v, v_stride, count, dim, out, out_stride } = self;
        // SAFETY: `weighted` checked every row and key.
        unsafe {
            match rows {
                1 => weighted_block::<I, T, 1, 8>(p, v, v_stride, count, dim, out, out_stride),
                2 => weighted_block::<I, T, 2, 4>(p, v, v_stride, count, dim, out, out_stride),
                3 => weighted_block::<I, T, 3, 2>(p, v, v_stride, count, dim, out, out_stride),
                4 => weighted_block::<I, T, 4, 2>(p, v, v_stride, count, dim, out, out_stride),
                5 => weighted_block::<I, T, 5, 2>(p, v, v_stride, count, dim, out, out_stride),
                _ => weighted_block::<I, T, BLOCK, 2>(p, v, v_stride, count, dim, out, out_stride),
            }
        }
    }
}

/// [`weighted`] of `R` rows, `N` vectors of columns at a time.
///
/// # Safety
/// `p` holds `R` rows of `count`, `v` holds `count` keys of `dim`, `out` `R` rows of `dim`.
#[inline(always)]
unsafe fn weighted_block<I: Isa, T: Float, const R: usize, const N: usize>(
    p: &[f32],
    v: &[T],
    v_stride: usize,
    count: usize,
    dim: usize,
    out: &mut [f32],
    out_stride: usize,
) {
    let mut i = 0;
    while i + N * LANES <= dim {
        // SAFETY: columns `i..i + N * LANES` are inside each row.
        unsafe { columns::<I, T, R, N>(p, v.as_ptr().add(i), v_stride, count, &mut out[i..], out_stride) };
        i += N * LANES;
    }
    while i + LANES <= dim {
        // SAFETY: as above with one vector.
        unsafe { columns::<I, T, R, 1>(p, v.as_ptr().add(i), v_stride, count, &mut out[i..], out_stride) };
        i += LANES;
    }
    for i in i..dim {
        for r in 0..R {
            for j in 0..count {
                let o = &mut out[r * out_stride + i];
                *o = I::mul_add(p[r * CHUNK + j], v[j * v_stride + i].to_f32(), *o);
            }
        }
    }
}

/// `N` vectors of columns of `R` rows, in registers over all keys.
///
/// # Safety
/// `p` holds `R` rows of `count`; `v` points to `count` rows of `N * LANES`.
#[inline(always)]
unsafe fn columns<I: Isa, T: Float, const R: usize, const N: usize>(
    p: &[f32],
    v: *const T,
    v_stride: usize,
    count: usize,
    out: &mut [f32],
    out_stride: usize,
) {
    let mut sums = [[[0.0; LANES]; N]; R];
    for r in 0..R {
        for n in 0..N {
            sums[r][n].copy_from_slice(&out[r * out_stride + n * LANES..][..LANES]);
        }
    }
    for j in 0..count {
        let mut values = [[0.0; LANES]; N];
        for n in 0..N {
            // SAFETY: row `j` has `N * LANES` elements.
            values[n] = unsafe { load(v.add(j * v_stride + n * LANES)) };
        }
        for r in 0..R {
            // SAFETY: row `r` has `count` elements.
            let p = unsafe { *p.get_unchecked(r * CHUNK + j) };
            for n in 0..N {
                for l in 0..LANES {
                    sums[r][n][l] = I::mul_add(p, values[n][l], sums[r][n][l]);
                }
            }
        }
    }
    for r in 0..R {
        for n in 0..N {
            out[r * out_stride + n * LANES..][..LANES].copy_from_slice(&sums[r][n]);
        }
    }
}
