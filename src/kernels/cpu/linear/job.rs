//! One call: x packed in panels, then strips of weight rows as tasks of the pool.

use std::{marker::PhantomData, mem::MaybeUninit, ops::Range};

use super::{
    super::{
        Shares,
        simd::{Float, L2, prefetch},
    },
    lanes::{BLOCK, Dot, Work},
    tile::{self, LINE, MAX_ROWS, Rows, STRIP_BYTES, Strip},
};
use crate::{
    device::{Cpu, CpuBuffer, Pool, View},
    kernels::{LinearArgs, strips},
};

/// Rows of x that are packed at a time: of 576 columns, a bit more than half of an L2 cache of 1 MiB.
pub(super) const CHUNK: usize = 512;

/// The whole call at level `L`.
///
/// # Safety
/// The CPU has level `L`; the arguments were checked.
pub(super) unsafe fn multiply<L: Dot<T>, T: Float, O: Float>(
    pool: &Pool,
    mut a: LinearArgs<'_, Cpu>,
    scratch: &mut CpuBuffer,
) {
    let (&[m, k], n) = (a.x.shape(), a.out.shape()[1]) else { unreachable!("checked") };
    let in_strips = a.weight.shape().len() == 4;
    // Strips are made for levels that multiply bf16 as it is.
    assert!(!in_strips || (tile::rows::<L>() == strips::ROWS && size_of::<L::Packed>() == size_of::<T>()));
    let x = a.x.slice::<T>();
    let packed = scratch.bytes_mut();
    for first in (0..m).step_by(CHUNK) {
        let rows = CHUNK.min(m - first);
        assert!(packed.len() >= rows * tile::padded::<L, T>(k) * size_of::<L::Packed>());
        let job = Job::<L, T, O> {
            x: x[first * a.x.stride()..].as_ptr(),
            stride: a.x.stride(),
            weight: a.weight.slice::<T>().as_ptr(),
            in_strips,
            bias: a.bias.map(|b: View<'_, Cpu>| b.slice::<T>()),
            out: a.out.slice_mut::<O>()[first * n..].as_mut_ptr(),
            packed: packed.as_mut_ptr(),
            rows,
            n,
            k,
            panels: rows.div_ceil(L::COLS),
            level: PhantomData,
        };
        // SAFETY: the slices above cover `rows` rows of x and out and the whole weight, `packed` was checked;
        // a task writes a panel of `packed`, or columns of out, that no other task of its launch has.
        unsafe { job.run(pool) }
    }
}

/// `rows` rows of x, at most [`CHUNK`], by the whole weight.
struct Job<'a, L, T, O> {
    /// `[rows, k]`, rows `stride` apart.
    x: *const T,
    stride: usize,
    /// `[n, k]`, or that in strips.
    weight: *const T,
    in_strips: bool,
    bias: Option<&'a [T]>,
    /// `[rows, n]`
    out: *mut O,
    /// Block after block of k; in each, panel after panel of x as [`tile::pack_x`] leaves them.
    packed: *mut u8,
    rows: usize,
    n: usize,
    k: usize,
    panels: usize,
    level: PhantomData<L>,
}

// SAFETY: see `multiply`: tasks read what nobody writes, and write each a part of its own.
unsafe impl<L, T: Sync, O> Sync for Job<'_, L, T, O> {}

impl<L: Dot<T>, T: Float, O: Float> Job<'_, L, T, O> {
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
        // A launch costs about as much as some hundred thousand products.
        let strips = self.n.div_ceil(tile::rows::<L>());
        let cost = strips * tile::rows::<L>() * self.k * (self.rows + 12);
        let shares = Shares::new(strips, pool.threads().min(cost >> 17));
        pool.run(shares.count(), &|share| {
            // SAFETY: the caller's promise, and x is packed; a strip is taken once.
            unsafe { L::enter(Strips(self, &shares, share)) }
        });
    }

    /// Whether packing the weights would cost more than it saves: one panel passes by them.
    fn in_place(&self) -> bool {
        self.panels == 1 && !self.in_strips
    }

    /// Whether the weights are read from one end to the other, which the memory system foresees by itself.
    fn streams(&self) -> bool {
        self.panels == 1 && self.in_strips
    }

    /// The rows of x in panel `panel`: evenly split, since a narrow tile is a slow one.
    #[inline(always)]
    fn panel_rows(&self, panel: usize) -> Range<usize> {
        panel * self.rows / self.panels..(panel + 1) * self.rows / self.panels
    }

    /// Where row `row` of x, the first of its panel, is packed in the block at `k0` of length `len`.
    #[inline(always)]
    fn panel(&self, k0: usize, len: usize, row: usize) -> *mut u8 {
        // Blocks before the last are whole steps, so their packed length is their length.
        self.packed.wrapping_add((k0 * self.rows + row * tile::padded::<L, T>(len)) * size_of::<L::Packed>())
    }

    /// Adds the bias to the sums of outputs `n0..n0 + len` of `row`; rounds and stores them.
    ///
    /// # Safety
    /// As [`Self::run`]; the outputs exist and no other task has them.
    #[inline(always)]
    unsafe fn finish(&self, row: usize, n0: usize, sums: &mut [f32], len: usize) {
        if let Some(bias) = self.bias {
            sums[..len].iter_mut().zip(&bias[n0..n0 + len]).for_each(|(s, b)| *s += b.to_f32());
        }
        // SAFETY: the caller's promise.
        let out = unsafe { std::slice::from_raw_parts_mut(self.out.add(row * self.n + n0), len) };
        out.iter_mut().zip(&sums[..len]).for_each(|(o, &s)| *o = O::from_f32(s));
    }
}

/// Packs some panels of x.
struct PackX<'a, L, T, O>(&'a Job<'a, L, T, O>, Range<usize>);

impl<L: Dot<T>, T: Float, O: Float> Work for PackX<'_, L, T, O> {
    #[inline(always)]
    unsafe fn run(self) {
        let Self(job, panels) = self;
        for rows in panels.map(|panel| job.panel_rows(panel)) {
            for (k0, len) in tile::blocks::<L, T>(job.k) {
                for (r, row) in rows.clone().enumerate() {
                    // SAFETY: elements of x that exist, to their place in `packed`.
                    unsafe {
                        let to = job.panel(k0, len, rows.start).add(r * BLOCK);
                        tile::pack_x::<L, T>(job.x.add(row * job.stride + k0), len, rows.len(), to);
                    }
                }
            }
        }
    }
}

/// Strips of weight rows by all of x: first those of a share.
struct Strips<'a, L, T, O>(&'a Job<'a, L, T, O>, &'a Shares, usize);

/// A strip's weights in a block of k, packed.
#[repr(align(64))]
struct Packed([MaybeUninit<u8>; STRIP_BYTES]);

impl<L: Dot<T>, T: Float, O: Float> Work for Strips<'_, L, T, O> {
    #[inline(always)]
    unsafe fn run(self) {
        let Self(job, shares, own) = self;
        let width = tile::rows::<L>();
        let mut packed = Packed([const { MaybeUninit::uninit() }; STRIP_BYTES]);
        let packed: *mut u8 = packed.0.as_mut_ptr().cast();
        let mut sums = [const { MaybeUninit::uninit() }; CHUNK * MAX_ROWS];
        let sums = &mut sums[..job.rows * width];
        // Elements from a strip to the next.
        let stride = width * if job.in_strips { tile::padded::<L, T>(job.k) } else { job.k };
        let mut foreseen = usize::MAX;
        for strip in shares.from(own) {
            let first = job.weight.wrapping_add(strip * stride);
            // Each strip asks for the next one; nobody asked for the first.
            if strip != foreseen && !job.streams() {
                (0..stride)
                    .step_by(LINE / size_of::<T>())
                    .for_each(|at| prefetch::<L2, T>(first.wrapping_add(at)));
            }
            foreseen = strip + 1;
            let n0 = strip * width;
            // Only the rows in use: with few of them, clearing all would cost more than the work.
            sums.fill(MaybeUninit::new(0.0f32));
            // SAFETY: just written.
            let sums = unsafe { sums.assume_init_mut() };
            for (k0, len) in tile::blocks::<L, T>(job.k) {
                let block = first.wrapping_add(k0 * width).cast::<u8>().cast_mut();
                let mut w: Rows<T> = [job.weight; MAX_ROWS];
                for (r, w) in w[..width].iter_mut().enumerate() {
                    // At the edge the last row, again.
                    *w = w.wrapping_add((n0 + r).min(job.n - 1) * job.k + k0);
                }
                // The next strip: a row is too short for the memory system to foresee it. Asked for at once while
                // this one is packed, its lines would keep the core waiting; so enough panels ask for some each.
                let next = block.wrapping_add(stride * size_of::<T>()).cast_const();
                let (bytes, by_panel) = (width * len * size_of::<T>(), tile::operands::<L, T>(len) * LINE);
                let by_panels = job.panels * by_panel >= bytes;
                let ahead = if by_panels && !job.in_place() { 0 } else { width * job.k };
                if !job.in_place() && !job.in_strips {
                    // SAFETY: rows that exist; a block fits.
                    unsafe { tile::pack_strip::<L, T>(&w, len, ahead, packed) };
                }
                let packed = if job.in_strips { block } else { packed };
                for panel in 0..job.panels {
                    let asked = panel * by_panel;
                    let weights = if job.in_place() {
                        Strip::InPlace(&w, ahead)
                    } else if by_panels && asked < bytes {
                        Strip::Packed { w: packed, next: next.wrapping_add(asked), step: LINE }
                    } else {
                        Strip::Packed { w: packed, next: packed, step: 0 }
                    };
                    let rows = job.panel_rows(panel);
                    let x = job.panel(k0, len, rows.start);
                    let sums = &mut sums[rows.start * width..rows.end * width];
                    // SAFETY: weights that exist or were packed, by a panel that was packed.
                    unsafe { tile::add_products::<L, T>(weights, x, len, sums) }
                }
            }
            for (row, sums) in sums.chunks_exact_mut(width).enumerate() {
                // SAFETY: the caller's promise; the outputs exist. Whole strips have a length known beforehand.
                unsafe {
                    if n0 + width <= job.n {
                        job.finish(row, n0, sums, width);
                    } else {
                        job.finish(row, n0, sums, job.n - n0);
                    }
                }
            }
        }
    }
}
