//! One call: x packed in panels, then tiles of weight rows as tasks of the pool.

use std::{marker::PhantomData, mem::MaybeUninit, ops::Range};

use half::{bf16, f16, slice::HalfFloatSliceExt};

use super::{
    super::simd::Float,
    lanes::{Dot, Operand, Packed, Work},
    tile::{self, ROWS, Weights},
};
use crate::{
    device::{Cpu, CpuBuffer, Pool, View},
    kernels::LinearArgs,
};

/// Rows of x that are packed at a time.
pub(super) const CHUNK: usize = 384;
/// Up to this many rows of x, packing the weights costs more than it saves.
const RAW_ROWS: usize = 12;

/// The whole call at level `L`.
///
/// # Safety
/// The CPU has level `L`; the arguments were checked.
pub(super) unsafe fn multiply<L: Dot<T>, T: Float, O: Narrow>(
    pool: &Pool,
    mut a: LinearArgs<'_, Cpu>,
    scratch: &mut CpuBuffer,
) {
    let (&[m, k], n) = (a.x.shape(), a.weight.shape()[0]) else { unreachable!("checked") };
    let x = a.x.slice::<T>();
    let packed = scratch.bytes_mut();
    for first in (0..m).step_by(CHUNK) {
        let rows = CHUNK.min(m - first);
        assert!(packed.len() >= rows * tile::padded::<L, T>(k) * size_of::<Packed<L, T>>());
        let job = Job::<L, T, O> {
            x: x[first * a.x.stride()..].as_ptr(),
            stride: a.x.stride(),
            weight: a.weight.slice::<T>().as_ptr(),
            bias: a.bias.map(|b: View<'_, Cpu>| b.slice::<T>()),
            out: a.out.slice_mut::<O>()[first * n..].as_mut_ptr(),
            packed: packed.as_mut_ptr().cast(),
            rows,
            n,
            k,
            panels: rows.div_ceil(if rows <= RAW_ROWS { L::RAW_COLS } else { L::COLS }),
            level: PhantomData,
        };
        // SAFETY: the slices above cover `rows` rows of x and out and the whole weight, `packed` was checked;
        // a task writes a panel of `packed`, or columns of out, that no other task of its launch has.
        unsafe { job.run(pool) }
    }
}

/// `rows` rows of x, at most [`CHUNK`], by the whole weight.
struct Job<'a, L: Dot<T>, T, O> {
    /// `[rows, k]`, rows `stride` apart.
    x: *const T,
    stride: usize,
    /// `[n, k]`
    weight: *const T,
    bias: Option<&'a [T]>,
    /// `[rows, n]`
    out: *mut O,
    /// Block after block of k; in each, panel after panel of x as [`tile::pack`] leaves them.
    packed: *mut Packed<L, T>,
    rows: usize,
    n: usize,
    k: usize,
    panels: usize,
    level: PhantomData<L>,
}

// SAFETY: see `multiply`: tasks read what nobody writes, and write each a part of its own.
unsafe impl<L: Dot<T>, T: Sync, O> Sync for Job<'_, L, T, O> {}

impl<L: Dot<T>, T: Float, O: Narrow> Job<'_, L, T, O> {
    /// # Safety
    /// The CPU has level `L`; the pointers cover what the fields say.
    unsafe fn run(&self, pool: &Pool) {
        // A launch costs about as much as packing 16 Ki elements.
        let share = ((16 << 10) * self.panels / (self.rows * self.k).max(1)).max(1);
        pool.run(self.panels.div_ceil(share), &|task| {
            let panels = task * share..((task + 1) * share).min(self.panels);
            // SAFETY: the caller's promise; no other task has these panels.
            unsafe { L::enter(PackX(self, panels)) }
        });
        // Enough tasks to even out the threads, each long enough to hide its start and, where the weights are
        // read from memory, for its streams to get going.
        let tiles = self.n.div_ceil(ROWS);
        let cost = ROWS * self.k * (self.rows + RAW_ROWS);
        let each = if self.rows <= RAW_ROWS { 2 } else { 8 };
        let share = (tiles / (pool.threads() * each)).min((1 << 20) / cost.max(1)).max(1);
        pool.run(tiles.div_ceil(share), &|task| {
            let tiles = task * share..((task + 1) * share).min(tiles);
            // SAFETY: the caller's promise, and x is packed; no other task has these columns of out.
            unsafe { L::enter(Tiles(self, tiles)) }
        });
    }

    /// The rows of x in panel `panel`: evenly split, since a narrow tile is a slow one.
    #[inline(always)]
    fn panel_rows(&self, panel: usize) -> Range<usize> {
        panel * self.rows / self.panels..(panel + 1) * self.rows / self.panels
    }

    /// Where row `row` of x, the first of its panel, is packed in the block at `k0` of length `len`.
    #[inline(always)]
    fn panel(&self, k0: usize, len: usize, row: usize) -> *mut Packed<L, T> {
        // Blocks before the last are whole steps, so their packed length is their length.
        self.packed.wrapping_add(k0 * self.rows + row * tile::padded::<L, T>(len))
    }

    /// Row `n` of the weight, or the last: a tile at the edge computes it again.
    #[inline(always)]
    fn weight_row(&self, n: usize) -> *const T {
        self.weight.wrapping_add(n.min(self.n - 1) * self.k)
    }

    /// Adds the bias to the sums of outputs `n0`, `n0 + step`, … of `row`; rounds and stores those that exist.
    ///
    /// # Safety
    /// As [`Self::run`]; no other task has these columns.
    #[inline(always)]
    unsafe fn finish(&self, row: usize, n0: usize, step: usize, mut sums: [f32; ROWS]) {
        let all = n0 + (ROWS - 1) * step < self.n;
        if let Some(bias) = self.bias {
            for (r, s) in sums.iter_mut().enumerate() {
                *s += bias.get(n0 + r * step).map_or(0.0, |b| b.to_f32());
            }
        }
        let mut out = [O::zeroed(); ROWS];
        O::narrow(&sums, &mut out);
        // SAFETY: columns below `n` of a row below `rows`.
        unsafe {
            let to = self.out.add(row * self.n + n0);
            if all && step == 1 {
                to.cast::<[O; ROWS]>().write(out);
            } else {
                for (r, v) in out.into_iter().enumerate() {
                    if all || n0 + r * step < self.n {
                        to.add(r * step).write(v);
                    }
                }
            }
        }
    }
}

/// Packs some panels of x.
struct PackX<'a, L: Dot<T>, T, O>(&'a Job<'a, L, T, O>, Range<usize>);

impl<L: Dot<T>, T: Float, O: Narrow> Work for PackX<'_, L, T, O> {
    #[inline(always)]
    unsafe fn run(self) {
        let Self(job, panels) = self;
        for rows in panels.map(|panel| job.panel_rows(panel)) {
            for (k0, len) in tile::blocks::<L, T>(job.k) {
                for (r, row) in rows.clone().enumerate() {
                    // SAFETY: elements of x that exist, to their place in `packed`.
                    unsafe {
                        let src = job.x.add(row * job.stride + k0);
                        let dst = job.panel(k0, len, rows.start).add(r * L::Operand::WIDTH);
                        tile::pack::<L, T>(src, len, rows.len(), dst);
                    }
                }
            }
        }
    }
}

/// Some tiles of weight rows by all of x.
struct Tiles<'a, L: Dot<T>, T, O>(&'a Job<'a, L, T, O>, Range<usize>);

/// A tile's weights in a block of k, packed.
#[repr(align(64))]
struct TileBlock([MaybeUninit<u8>; tile::TILE_BYTES]);

impl<L: Dot<T>, T: Float, O: Narrow> Work for Tiles<'_, L, T, O> {
    #[inline(always)]
    unsafe fn run(self) {
        let Self(job, tiles) = self;
        let mut block = TileBlock([const { MaybeUninit::uninit() }; tile::TILE_BYTES]);
        let block: *mut Packed<L, T> = block.0.as_mut_ptr().cast();
        let mut sums = [const { MaybeUninit::uninit() }; CHUNK];
        let sums = &mut sums[..job.rows];
        let raw = job.rows <= RAW_ROWS;
        let first = tiles.start * ROWS;
        let count = (job.n - first).min(tiles.len() * ROWS).div_ceil(ROWS);
        for tile in 0..count {
            // Four rows far apart are four long streams, which the memory system fetches ahead; four rows in
            // sequence were a third slower.
            let (n0, step) = if raw { (first + tile, count) } else { (first + tile * ROWS, 1) };
            // Only the rows in use: with few of them, clearing all would cost more than the work.
            sums.fill(MaybeUninit::new([0.0; ROWS]));
            // SAFETY: just written.
            let sums = unsafe { sums.assume_init_mut() };
            let w = [n0, n0 + step, n0 + 2 * step, n0 + 3 * step].map(|n| job.weight_row(n));
            for (k0, len) in tile::blocks::<L, T>(job.k) {
                let w = w.map(|w| w.wrapping_add(k0));
                let weights = if raw {
                    Weights::<L, T>::Raw(w)
                } else {
                    for (r, w) in w.into_iter().enumerate() {
                        // SAFETY: a row that exists, to its place in the block.
                        unsafe { tile::pack::<L, T>(w, len, ROWS, block.add(r * L::Operand::WIDTH)) }
                    }
                    Weights::Packed(block)
                };
                for rows in (0..job.panels).map(|panel| job.panel_rows(panel)) {
                    let x = job.panel(k0, len, rows.start);
                    // SAFETY: rows of weights that exist or were packed, by a panel that was packed.
                    unsafe { tile::add_products(&weights, x, len, &mut sums[rows]) }
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe { job.finish(row, n0, step, *sums) }
            }
        }
    }
}

/// An element of out.
pub(super) trait Narrow: Float {
    /// Rounds each value to nearest, ties to even.
    fn narrow(from: &[f32], to: &mut [Self]);
}

impl Narrow for f32 {
    #[inline(always)]
    fn narrow(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

impl Narrow for bf16 {
    #[inline(always)]
    fn narrow(from: &[f32], to: &mut [bf16]) {
        for (to, &from) in to.iter_mut().zip(from) {
            // Without a branch, so that it vectorises: carry into the upper half, or a quiet NaN.
            let bits = from.to_bits();
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
            let nan = bits >> 16 | 0x40;
            *to = bf16::from_bits(if from.is_nan() { nan } else { rounded } as u16);
        }
    }
}

impl Narrow for f16 {
    #[inline(always)]
    fn narrow(from: &[f32], to: &mut [f16]) {
        to.convert_from_f32_slice(from);
    }
}
