//! The one place where products are summed: a strip of weight rows by `C` rows of x over one block of k.
//!
//! A vector of weights holds 16 bytes of each of `GROUP` rows, an operand of x the same 16 bytes of one row in
//! every block. So a sum's four lanes stay inside one block, and adding them up for all outputs of four vectors
//! takes nine instructions ([`add_lanes`]), where lanes spread over a whole register took eighty.
//!
//! **One summation order per SIMD level.** k is cut in [`blocks`], which depend on k, dtype and level alone.
//! Within a block the terms of an output go to its four lanes in the order of k (`vdpbf16ps` adds two neighbours
//! to a lane); lanes 0 + 2 and 1 + 3 are added, then those; the blocks' sums are added to 0 in order, then the
//! bias. Nothing of this depends on the tile's width, on where the weights are read from, on m or on the thread:
//! a row's result has the same bits alone, in any batch and at any place in it.

use super::{
    super::simd::{L2, prefetch},
    lanes::{BLOCK, Dot, Level, Vector},
};
use crate::device::Element;

/// Vectors of a strip: as many as [`add_lanes`] takes.
pub(in super::super) const VECTORS: usize = 4;

/// Rows of weights in a strip.
pub(in super::super) const fn rows<L: Level>() -> usize {
    VECTORS * <L::V as Vector>::GROUP
}

/// [`rows`] at the widest level.
pub(in super::super) const MAX_ROWS: usize = 16;

/// Bytes of a packed strip's block of k at most: it stays in the L1 cache beside a panel of x.
pub(in super::super) const STRIP_BYTES: usize = 18 << 10;

/// The longest step of all levels.
const MAX_STEP: usize = 32;

/// Pointers to a strip's rows, from the block of k on that is at hand. At lower levels the first [`rows`] count.
pub(in super::super) type Rows<T> = [*const T; MAX_ROWS];

/// The blocks of k, of equal whole steps but for the last: where each starts, and its length.
#[inline(always)]
pub(in super::super) fn blocks<L: Dot<T>, T>(k: usize) -> impl Iterator<Item = (usize, usize)> {
    let most = STRIP_BYTES / (rows::<L>() * size_of::<L::Packed>());
    let block = k.div_ceil(k.div_ceil(most).max(1)).next_multiple_of(L::STEP).max(1);
    (0..k.div_ceil(block)).map(move |b| (b * block, block.min(k - b * block)))
}

/// `k` rounded up to whole steps: the packed length of a row.
pub(in super::super) const fn padded<L: Dot<T>, T>(k: usize) -> usize {
    k.next_multiple_of(L::STEP)
}

/// Bytes of a cache line.
pub(in super::super) const LINE: usize = 64;

/// Operands along `len` elements of k.
pub(in super::super) const fn operands<L: Dot<T>, T>(len: usize) -> usize {
    padded::<L, T>(len) * size_of::<L::Packed>() / BLOCK
}

/// Gives `take(operand along k, vector, weights)` everything of a strip over `len` elements of k. Meanwhile asks
/// for what lies `ahead` elements further; 0 asks for nothing.
///
/// # Safety
/// The CPU has level `L`; each row covers `len` elements.
#[inline(always)]
unsafe fn each_operand<L: Dot<T>, T: Element>(
    w: &Rows<T>,
    len: usize,
    ahead: usize,
    mut take: impl FnMut(usize, usize, L::V),
) {
    let group = <L::V as Vector>::GROUP;
    for at in (0..len).step_by(L::STEP) {
        let first = at / L::STEP * group * L::PARTS;
        for v in 0..VECTORS {
            // Lane `v` of block `g` of the sums is then that of row `VECTORS * g + v`.
            let load = |g: usize| {
                let from = w[VECTORS * g + v].wrapping_add(at);
                prefetch::<L2, T>(from.wrapping_add(ahead));
                // SAFETY: elements of the row, or a copy of its last ones.
                unsafe {
                    if at + L::STEP <= len { L::load(from) } else { L::load(tail(from, len - at).as_ptr()) }
                }
            };
            // SAFETY: the caller's promise.
            unsafe {
                L::V::transpose(load, |block, loaded| {
                    for part in 0..L::PARTS {
                        take(first + block * L::PARTS + part, v, L::part(loaded, part));
                    }
                });
            }
        }
    }
}

/// Packs a strip: `[operand along k][vector]`. `ahead` as in [`each_operand`].
///
/// # Safety
/// The CPU has level `L`; each row covers `len` elements, at most a block; `to` has [`STRIP_BYTES`].
#[inline(always)]
pub(in super::super) unsafe fn pack_strip<L: Dot<T>, T: Element>(
    w: &Rows<T>,
    len: usize,
    ahead: usize,
    to: *mut u8,
) {
    // SAFETY: the caller's promise; a block's operands fit.
    unsafe {
        each_operand::<L, T>(w, len, ahead, |i, v, weights| {
            weights.store(to.add((i * VECTORS + v) * size_of::<L::V>()));
        });
    }
}

/// Packs `len` (at most a block) elements of a row of x among the `rows` of its panel, with zeros up to a whole
/// step: `[operand along k][row]`.
///
/// # Safety
/// The CPU has level `L`; `x` covers `len` elements; `to`, this row's first operand, begins the packed panel less
/// the rows before.
#[inline(always)]
pub(in super::super) unsafe fn pack_x<L: Dot<T>, T: Element>(
    x: *const T,
    len: usize,
    rows: usize,
    to: *mut u8,
) {
    let mut parts = [[[0u8; BLOCK]; 4]; 2];
    let mut to = to.cast::<[u8; BLOCK]>();
    for at in (0..len).step_by(L::STEP) {
        // SAFETY: elements of the row, or a copy of its last ones; one operand after the other of this row.
        unsafe {
            let x = x.add(at);
            let loaded = if at + L::STEP <= len { L::load(x) } else { L::load(tail(x, len - at).as_ptr()) };
            for (i, part) in parts[..L::PARTS].iter_mut().enumerate() {
                L::part(loaded, i).store(part.as_mut_ptr().cast());
            }
            for block in 0..<L::V as Vector>::GROUP {
                for part in &parts[..L::PARTS] {
                    to.write(part[block]);
                    to = to.wrapping_add(rows);
                }
            }
        }
    }
}

/// Adds to `sums`, `[C][rows]`, the products of a packed strip with a packed panel over `len` elements of k. With
/// each operand it asks for a line of memory, from `next` on and `step` bytes apart.
///
/// # Safety
/// The CPU has level `L`; `w` is what [`pack_strip`] wrote, `x` what [`pack_x`] wrote for `C` rows.
#[inline(always)]
unsafe fn packed<L: Dot<T>, T, const C: usize>(
    w: *const u8,
    next: *const u8,
    step: usize,
    x: *const u8,
    len: usize,
    sums: &mut [f32],
) {
    // SAFETY: the operands along k are `operands(len)`, each `VECTORS` or `C` wide.
    unsafe {
        let mut acc = [[L::V::zero(); VECTORS]; C];
        for i in 0..operands::<L, T>(len) {
            let x = repeat::<L, C>(x, i);
            prefetch::<L2, u8>(next.wrapping_add(i * step));
            for v in 0..VECTORS {
                let w = L::V::load(w.add((i * VECTORS + v) * size_of::<L::V>()));
                for (acc, x) in acc.iter_mut().zip(x) {
                    acc[v] = L::dot(acc[v], w, x);
                }
            }
        }
        add_lanes::<L, C>(acc, sums);
    }
}

/// As [`packed`], with the strip's rows read where they lie. `ahead` as in [`each_operand`].
///
/// # Safety
/// As there; each row of `w` covers `len` elements.
#[inline(always)]
unsafe fn in_place<L: Dot<T>, T: Element, const C: usize>(
    w: &Rows<T>,
    ahead: usize,
    x: *const u8,
    len: usize,
    sums: &mut [f32],
) {
    // SAFETY: as in `packed`.
    unsafe {
        let mut acc = [[L::V::zero(); VECTORS]; C];
        each_operand::<L, T>(w, len, ahead, |i, v, w| {
            let x = repeat::<L, C>(x, i);
            for (acc, x) in acc.iter_mut().zip(x) {
                acc[v] = L::dot(acc[v], w, x);
            }
        });
        add_lanes::<L, C>(acc, sums);
    }
}

/// Operand `i` of a panel's rows.
///
/// # Safety
/// The CPU has level `L`; `x` covers `i + 1` operands of `C` rows.
#[inline(always)]
unsafe fn repeat<L: Level, const C: usize>(x: *const u8, i: usize) -> [L::V; C] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut out = [L::V::zero(); C];
        for (c, out) in out.iter_mut().enumerate() {
            *out = L::V::repeat(x.add((i * C + c) * BLOCK));
        }
        out
    }
}

/// Adds the lanes of each output of a tile, and that to `sums`.
///
/// # Safety
/// The CPU has level `L`.
#[inline(always)]
unsafe fn add_lanes<L: Level, const C: usize>(acc: [[L::V; VECTORS]; C], sums: &mut [f32]) {
    for ([a, b, c, d], sums) in acc.into_iter().zip(sums.chunks_exact_mut(rows::<L>())) {
        // SAFETY: the caller's promise; a chunk is a vector long.
        unsafe {
            let pair = |a, b| {
                let [low, high] = L::V::interleave(a, b);
                L::V::add(low, high)
            };
            let [even, odd] = L::V::halves(pair(a, b), pair(c, d));
            let all = L::V::add(even, odd);
            let to = sums.as_mut_ptr().cast();
            L::V::add(L::V::load(to), all).store(to);
        }
    }
}

/// Where a strip's weights are.
#[derive(Clone, Copy)]
pub(in super::super) enum Strip<'a, T> {
    /// Packed at `w` by [`pack_strip`]. Meanwhile lines are asked for, one with each operand, `step` bytes apart.
    Packed { w: *const u8, next: *const u8, step: usize },
    /// Where they lie, with `ahead` of [`each_operand`].
    InPlace(&'a Rows<T>, usize),
}

/// Adds to `sums`, `[panel rows][rows]`, the products of a strip with a packed panel over `len` elements of k.
///
/// # Safety
/// The CPU has level `L`; the strip and `x`, at most [`Level::COLS`] rows, cover `len` elements of k.
#[inline(always)]
pub(in super::super) unsafe fn add_products<L: Dot<T>, T: Element>(
    strip: Strip<'_, T>,
    x: *const u8,
    len: usize,
    sums: &mut [f32],
) {
    // SAFETY: the caller's promise.
    unsafe {
        match sums.len() / rows::<L>() {
            1 => add::<L, T, 1>(strip, x, len, sums),
            2 => add::<L, T, 2>(strip, x, len, sums),
            3 => add::<L, T, 3>(strip, x, len, sums),
            4 => add::<L, T, 4>(strip, x, len, sums),
            5 => add::<L, T, 5>(strip, x, len, sums),
            6 => add::<L, T, 6>(strip, x, len, sums),
            rows => unreachable!("a panel of {rows} rows"),
        }
    }
}

/// # Safety
/// As [`add_products`], with `C` rows of x.
#[inline(always)]
unsafe fn add<L: Dot<T>, T: Element, const C: usize>(
    strip: Strip<'_, T>,
    x: *const u8,
    len: usize,
    sums: &mut [f32],
) {
    // The guard keeps tiles that no level asks for out of the binary.
    assert!(C <= L::COLS, "a panel of {C} rows");
    // SAFETY: the caller's promise.
    unsafe {
        match strip {
            Strip::Packed { w, next, step } => packed::<L, T, C>(w, next, step, x, len, sums),
            Strip::InPlace(w, ahead) => in_place::<L, T, C>(w, ahead, x, len, sums),
        }
    }
}

/// `len` elements at `p` and zeros, so that a whole step can be read.
///
/// # Safety
/// `p` covers `len` elements, at most [`MAX_STEP`].
#[inline(always)]
unsafe fn tail<T: Element>(p: *const T, len: usize) -> [T; MAX_STEP] {
    let mut out = [T::zeroed(); MAX_STEP];
    // SAFETY: the caller's promise.
    unsafe { p.copy_to_nonoverlapping(out.as_mut_ptr(), len) };
    out
}
