//! The one place where products are summed: four rows of weights by `C` rows of x over one block of k.
//!
//! **One summation order per SIMD level.** k is cut in blocks of [`block`] elements. Within a block the terms
//! of an output go to the lanes of one vector of sums, in the order of k, and [`Level::reduce`] adds the lanes
//! by a fixed tree; the blocks' sums are added in order to 0, then the bias. Nothing of this depends on the
//! tile's width, on where the operands come from ([`raw`] or [`packed`]), on m or on the thread, so a row's
//! result is the same bits alone, in any batch and at any place in it.

use super::lanes::{Dot, Level, Operand, Packed};
use crate::device::Element;

/// Rows of weights in a tile.
pub(super) const ROWS: usize = 4;

/// Operand vectors in a block of k: long enough to make the reduction cheap, short enough for the L1 cache.
const BLOCK_VECS: usize = 64;

/// The longest step of all levels.
const MAX_STEP: usize = 32;

/// `[c][r]`: x row `c` times weight row `r`.
pub(super) type Products<const C: usize> = [[f32; ROWS]; C];

/// Elements of k in a block.
pub(super) const fn block<L: Dot<T>, T>() -> usize {
    BLOCK_VECS * L::Operand::WIDTH
}

/// `k` rounded up to whole steps: the packed length of a row.
pub(super) const fn padded<L: Dot<T>, T>(k: usize) -> usize {
    k.next_multiple_of(L::STEP)
}

/// Packs `len` (at most a block) elements of a row, with zeros up to a whole step, among `rows` such:
/// `[operand along k][row][WIDTH]`.
///
/// # Safety
/// The CPU has level `L`; `src` covers `len` elements; `dst`, this row's first operand, begins
/// `rows * padded(len)` elements less those of the rows before.
#[inline(always)]
pub(super) unsafe fn pack<L: Dot<T>, T: Element>(
    src: *const T,
    len: usize,
    rows: usize,
    dst: *mut Packed<L, T>,
) {
    let (whole, dst) = (len / L::STEP, dst.cast::<L::Operand>());
    // SAFETY: step `s` reads elements below `len` (or their copy) and writes operands `s * VECS + i`, below
    // `padded(len) / WIDTH`, of one row.
    unsafe {
        for s in 0..whole {
            for i in 0..L::VECS {
                dst.add((s * L::VECS + i) * rows).write_unaligned(L::unpack(src.add(s * L::STEP), i));
            }
        }
        if len > whole * L::STEP {
            let tail = tail(src.add(whole * L::STEP), len - whole * L::STEP);
            for i in 0..L::VECS {
                dst.add((whole * L::VECS + i) * rows).write_unaligned(L::unpack(tail.as_ptr(), i));
            }
        }
    }
}

/// A tile whose weights were packed by [`pack`] with [`ROWS`] rows, over `len` elements of k.
///
/// # Safety
/// The CPU has level `L`; `w` and `x` cover `ROWS` and `C` packed rows of `padded(len)`.
#[inline(always)]
pub(super) unsafe fn packed<L: Dot<T>, T, const C: usize>(
    w: *const Packed<L, T>,
    x: *const Packed<L, T>,
    len: usize,
) -> Products<C> {
    let (w, x) = (w.cast::<L::Operand>(), x.cast::<L::Operand>());
    // SAFETY: the operands along k are `padded(len) / WIDTH`, each `ROWS` or `C` wide.
    unsafe {
        let mut sums = [[L::zero(); ROWS]; C];
        for v in 0..len.div_ceil(L::STEP) * L::VECS {
            let x = columns::<L, T, C>(x.add(v * C));
            for r in 0..ROWS {
                let w = w.add(v * ROWS + r).read_unaligned();
                for c in 0..C {
                    sums[c][r] = L::Operand::dot(sums[c][r], w, x[c]);
                }
            }
        }
        reduce::<L, C>(sums)
    }
}

/// A tile whose weights are read where they lie, over `len` elements of k. Asks the cache for the bytes
/// `ahead` of those that it reads.
///
/// # Safety
/// The CPU has level `L`; each of `w` covers `len` elements and `x` covers `C` packed rows of `padded(len)`.
#[inline(always)]
pub(super) unsafe fn raw<L: Dot<T>, T: Element, const C: usize>(
    w: [*const T; ROWS],
    x: *const Packed<L, T>,
    len: usize,
    ahead: usize,
) -> Products<C> {
    let x = x.cast::<L::Operand>();
    let whole = len / L::STEP;
    // SAFETY: as in `pack` for the weights, as in `packed` for x.
    unsafe {
        let mut sums = [[L::zero(); ROWS]; C];
        for s in 0..whole {
            let w = w.map(|w| w.add(s * L::STEP));
            for r in 0..ROWS {
                L::prefetch(w[r].cast::<u8>().wrapping_add(ahead));
            }
            step::<L, T, C>(&mut sums, w, x.add(s * L::VECS * C));
        }
        if len > whole * L::STEP {
            let tails = w.map(|w| tail(w.add(whole * L::STEP), len - whole * L::STEP));
            let w = [tails[0].as_ptr(), tails[1].as_ptr(), tails[2].as_ptr(), tails[3].as_ptr()];
            step::<L, T, C>(&mut sums, w, x.add(whole * L::VECS * C));
        }
        reduce::<L, C>(sums)
    }
}

/// One step along k.
///
/// # Safety
/// The CPU has level `L`; each of `w` covers a step and `x` a step of `C` rows.
#[inline(always)]
unsafe fn step<L: Dot<T>, T, const C: usize>(
    sums: &mut [[L::Sums; ROWS]; C],
    w: [*const T; ROWS],
    x: *const L::Operand,
) {
    for i in 0..L::VECS {
        // SAFETY: the caller's promise.
        unsafe {
            let x = columns::<L, T, C>(x.add(i * C));
            for r in 0..ROWS {
                let w = L::unpack(w[r], i);
                for c in 0..C {
                    sums[c][r] = L::Operand::dot(sums[c][r], w, x[c]);
                }
            }
        }
    }
}

/// # Safety
/// `x` covers `C` operands.
#[inline(always)]
unsafe fn columns<L: Dot<T>, T, const C: usize>(x: *const L::Operand) -> [L::Operand; C] {
    // SAFETY: the caller's promise.
    unsafe { x.cast::<[L::Operand; C]>().read_unaligned() }
}

/// # Safety
/// The CPU has level `L`.
#[inline(always)]
unsafe fn reduce<L: Level, const C: usize>(sums: [[L::Sums; ROWS]; C]) -> Products<C> {
    let mut out = [[0.0; ROWS]; C];
    for c in 0..C {
        // SAFETY: the caller's promise.
        out[c] = unsafe { L::reduce(sums[c]) };
    }
    out
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
