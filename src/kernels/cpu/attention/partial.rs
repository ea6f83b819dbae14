//! Results of rows over some of their keys, and how a later chunk's join them.

use super::{
    super::simd::{Float, Isa, Job, dispatch, exp, larger},
    Dims,
};
use crate::device::Simd;

/// Rows' running results, or those of one chunk.
pub struct Partial<'a> {
    /// Of a row's scores, the largest.
    pub top: &'a mut [f32],
    /// Of its weights, which are `e^(score - top)`.
    pub sum: &'a mut [f32],
    /// `[rows, padded]` weighted values.
    pub o: &'a mut [f32],
    padded: usize,
}

impl<'a> Partial<'a> {
    /// f32 values that `rows` rows need.
    pub fn len(dims: Dims, rows: usize) -> usize {
        rows * (2 + dims.padded())
    }

    /// Of `rows` rows, in `memory`.
    pub fn new(dims: Dims, rows: usize, memory: &'a mut [f32]) -> Self {
        let (top, memory) = memory.split_at_mut(rows);
        let (sum, o) = memory.split_at_mut(rows);
        Self { top, sum, o: &mut o[..rows * dims.padded()], padded: dims.padded() }
    }

    /// No keys yet.
    pub fn clear(&mut self) {
        self.top.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
        self.o.fill(0.0);
    }

    /// Folds the later chunk `part` into the first `rows` rows; what has no keys changes nothing.
    pub fn fold(&mut self, simd: Simd, part: &Partial<'_>, rows: usize) {
        dispatch(simd, Fold { into: self, part, rows });
    }

    /// Row `row` of the result: weighted values over the sum of weights.
    pub fn write<T: Float>(&self, simd: Simd, row: usize, out: &mut [T]) {
        dispatch(simd, Write { o: &self.o[row * self.padded..], sum: self.sum[row], out });
    }
}

struct Fold<'a, 'b> {
    into: &'a mut Partial<'b>,
    part: &'a Partial<'a>,
    rows: usize,
}

impl Job for Fold<'_, '_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        /// Rows whose factors are computed together, as vectors.
        const ROWS: usize = 16;
        let Self { into, part, rows } = self;
        for first in (0..rows).step_by(ROWS) {
            let rows = first..rows.min(first + ROWS);
            let (mut a, mut b) = ([f32::NEG_INFINITY; ROWS], [f32::NEG_INFINITY; ROWS]);
            a[..rows.len()].copy_from_slice(&into.top[rows.clone()]);
            b[..rows.len()].copy_from_slice(&part.top[rows.clone()]);
            for (a, b) in a.iter_mut().zip(&mut b) {
                let top = larger(*a, *b);
                // Two of minus infinity have no difference.
                (*a, *b) = [*a, *b].map(|s| if s == top { 1.0 } else { exp::<I>(s - top) }).into();
            }
            for (row, (old, new)) in rows.zip(a.into_iter().zip(b)) {
                into.top[row] = larger(into.top[row], part.top[row]);
                into.sum[row] = I::mul_add(into.sum[row], old, part.sum[row] * new);
                let o = &mut into.o[row * into.padded..][..into.padded];
                for (o, &p) in o.iter_mut().zip(&part.o[row * part.padded..]) {
                    *o = I::mul_add(*o, old, p * new);
                }
            }
        }
    }
}

struct Write<'a, T> {
    o: &'a [f32],
    sum: f32,
    out: &'a mut [T],
}

impl<T: Float> Job for Write<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        for (out, &o) in self.out.iter_mut().zip(self.o) {
            // + 0 makes minus zero, which unseen values could have turned, plus zero.
            *out = T::from_f32(o / self.sum + 0.0);
        }
    }
}
