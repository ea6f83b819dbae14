//! The one place where products are summed: four rows of weights by `C` rows of x over one block of k.
//!
//! **One summation order per SIMD level.** k is cut in [`blocks`], which depend on k, dtype and level alone.
//! Within a block the terms of an output go to the lanes of one vector of sums, in the order of k, and
//! [`Level::reduce`] adds the lanes by a fixed tree; the blocks' sums are added to 0 in order, then the bias.
//! Nothing of this depends on the tile's width, on where the weights are read from ([`Weights`]), on m or on
//! the thread: a row's result has the same bits alone, in any batch and at any place in it.

use super::lanes::{Dot, Level, Operand, Packed};
use crate::device::Element;

/// Rows of weights in a tile.
pub(super) const ROWS: usize = 4;

/// Packed bytes of a row's block of k at most: long enough to make the reduction and the end of the loop
/// cheap, short enough that the rows of a tile stay in the L1 cache.
const BLOCK_BYTES: usize = 4096;

/// Packed bytes of a tile's weights in a block of k at most.
pub(super) const TILE_BYTES: usize = ROWS * BLOCK_BYTES;

/// The longest step of all levels.
const MAX_STEP: usize = 32;

/// `[c][r]`: x row `c` times weight row `r`.
type Products<const C: usize> = [[f32; ROWS]; C];

/// A block of k of a tile's weights.
pub(super) enum Weights<L: Dot<T>, T> {
    /// Rows where they lie.
    Raw([*const T; ROWS]),
    /// What [`pack`] made of them, `ROWS` rows.
    Packed(*const Packed<L, T>),
}

/// Adds the products over `len` elements of k with a panel of `sums.len()` rows of x.
///
/// # Safety
/// The CPU has level `L`; each raw row covers `len` elements, packed ones and those of `x` `padded(len)`; the
/// panel is at most [`Level::RAW_COLS`] wide for raw weights, [`Level::COLS`] for packed ones.
#[inline(always)]
pub(super) unsafe fn add_products<L: Dot<T>, T: Element>(
    w: &Weights<L, T>,
    x: *const Packed<L, T>,
    len: usize,
    sums: &mut [[f32; ROWS]],
) {
    // SAFETY: the caller's promise.
    unsafe {
        match sums.len() {
            1 => add::<L, T, 1>(w, x, len, sums),
            2 => add::<L, T, 2>(w, x, len, sums),
            3 => add::<L, T, 3>(w, x, len, sums),
            4 => add::<L, T, 4>(w, x, len, sums),
            5 => add::<L, T, 5>(w, x, len, sums),
            6 => add::<L, T, 6>(w, x, len, sums),
            rows => unreachable!("a panel of {rows} rows"),
        }
    }
}

/// # Safety
/// As [`add_products`], with `C` rows of x.
#[inline(always)]
unsafe fn add<L: Dot<T>, T: Element, const C: usize>(
    w: &Weights<L, T>,
    x: *const Packed<L, T>,
    len: usize,
    sums: &mut [[f32; ROWS]],
) {
    // SAFETY: the caller's promise. The guards keep tiles that no level asks for out of the binary.
    let part = unsafe {
        match *w {
            Weights::Raw(w) if C <= L::RAW_COLS => raw::<L, T, C>(w, x, len),
            Weights::Packed(w) if C <= L::COLS => packed::<L, T, C>(w, x, len),
            _ => unreachable!("a panel of {C} rows"),
        }
    };
    for (sum, part) in sums.as_flattened_mut().iter_mut().zip(part.as_flattened()) {
        *sum += part;
    }
}

/// The blocks of k, of equal whole steps but for the last: where each starts, and its length.
#[inline(always)]
pub(super) fn blocks<L: Dot<T>, T>(k: usize) -> impl Iterator<Item = (usize, usize)> {
    let most = BLOCK_BYTES / size_of::<Packed<L, T>>();
    let block = k.div_ceil(k.div_ceil(most).max(1)).next_multiple_of(L::STEP).max(1);
    (0..k.div_ceil(block)).map(move |b| (b * block, block.min(k - b * block)))
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
unsafe fn packed<L: Dot<T>, T, const C: usize>(
    w: *const Packed<L, T>,
    x: *const Packed<L, T>,
    len: usize,
) -> Products<C> {
    let (w, x) = (w.cast::<L::Operand>(), x.cast::<L::Operand>());
    // SAFETY: the operands along k are `padded(len) / WIDTH`, each `ROWS` or `C` wide.
    unsafe {
        let mut sums = [[L::zero(); C]; ROWS];
        for v in 0..len.div_ceil(L::STEP) * L::VECS {
            let x = load::<L, T, C>(x.add(v * C));
            for (r, sums) in sums.iter_mut().enumerate() {
                let w = w.add(v * ROWS + r).read_unaligned();
                for (sums, x) in sums.iter_mut().zip(x) {
                    *sums = L::Operand::dot(*sums, w, x);
                }
            }
        }
        reduce::<L, C>(sums)
    }
}

/// A tile whose weights are read where they lie, over `len` elements of k.
///
/// # Safety
/// The CPU has level `L`; each of `w` covers `len` elements and `x` covers `C` packed rows of `padded(len)`.
#[inline(always)]
unsafe fn raw<L: Dot<T>, T: Element, const C: usize>(
    w: [*const T; ROWS],
    x: *const Packed<L, T>,
    len: usize,
) -> Products<C> {
    let x = x.cast::<L::Operand>();
    let whole = len / L::STEP;
    // SAFETY: as in `pack` for the weights, as in `packed` for x.
    unsafe {
        let mut sums = [[L::zero(); C]; ROWS];
        for s in 0..whole {
            let w = w.map(|w| w.add(s * L::STEP));
            step::<L, T, C>(&mut sums, w, x.add(s * L::VECS * C));
        }
        if len > whole * L::STEP {
            let tails = w.map(|w| tail(w.add(whole * L::STEP), len - whole * L::STEP));
            step::<L, T, C>(&mut sums, tails.each_ref().map(|t| t.as_ptr()), x.add(whole * L::VECS * C));
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
    sums: &mut [[L::Sums; C]; ROWS],
    w: [*const T; ROWS],
    x: *const L::Operand,
) {
    for i in 0..L::VECS {
        // SAFETY: the caller's promise.
        unsafe {
            let x = load::<L, T, C>(x.add(i * C));
            for (sums, w) in sums.iter_mut().zip(w) {
                let w = L::unpack(w, i);
                for (sums, x) in sums.iter_mut().zip(x) {
                    *sums = L::Operand::dot(*sums, w, x);
                }
            }
        }
    }
}

/// # Safety
/// `x` covers `C` operands.
#[inline(always)]
unsafe fn load<L: Dot<T>, T, const C: usize>(x: *const L::Operand) -> [L::Operand; C] {
    // SAFETY: the caller's promise.
    unsafe { x.cast::<[L::Operand; C]>().read_unaligned() }
}

/// # Safety
/// The CPU has level `L`.
#[inline(always)]
unsafe fn reduce<L: Level, const C: usize>(sums: [[L::Sums; C]; ROWS]) -> Products<C> {
    let mut out = [[0.0; ROWS]; C];
    for (c, out) in out.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *out = unsafe { L::reduce(sums.map(|row| row[c])) };
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
