//! `blocked`: matrix products on the CPU by dot-product tiles over row-major weights.
//!
//! - [`tile`]: the micro-kernels and the rule of one summation order per SIMD level
//! - [`lanes`], [`x86`]: what a SIMD level offers
//! - this file: packing of x, tasks, and the choice of level
//!
//! x is packed once a call (as f32, or as bf16 for `vdpbf16ps`). Few rows of x read the weights where they
//! lie, four rows at a time: decode is bound by their bytes. With more rows each task packs a group of weight
//! rows, a block of k at a time, into 16 KiB of its stack, and lets all packed rows of x pass by it.

mod lanes;
#[cfg(test)]
mod tests;
mod tile;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::{marker::PhantomData, mem::MaybeUninit, sync::Arc};

use half::{bf16, f16, slice::HalfFloatSliceExt};

use self::{
    lanes::{Dot, Operand, Packed, Portable, Work},
    tile::{Products, ROWS},
};
use super::simd::Float;
use crate::{
    device::{Cpu, CpuBuffer, DType, Pool, Simd, View},
    error::Result,
    kernels::{Kernel, Linear, LinearArgs, LinearSpec, Table, Unsupported},
};

/// Tiles of weight rows in a group: their block of k is 16 KiB at AVX2, half of the L1 cache.
const GROUP: usize = 2;
/// Rows of x that are packed at a time; a multiple of every [`lanes::Level::COLS`].
const CHUNK: usize = 384;
/// Packed bytes of a group's block at most.
const GROUP_BYTES: usize = 32 << 10;

/// Any shape, any float dtype; every SIMD level.
struct Blocked;

/// Puts this kernel first in the table: the default of every slot.
pub(super) fn register(table: &mut Table<Linear, Cpu>) {
    table.insert(0, Arc::new(Blocked));
}

impl Kernel<Linear, Cpu> for Blocked {
    fn name(&self) -> &'static str {
        "blocked"
    }

    fn about(&self) -> &'static str {
        "dot-product tiles over row-major weights; same bits for a row in any batch"
    }

    fn supports(&self, spec: &LinearSpec) -> std::result::Result<(), Unsupported> {
        match (spec.dtype, spec.out) {
            (DType::F32 | DType::Bf16 | DType::F16, out) if out == spec.dtype || out == DType::F32 => Ok(()),
            (x, out) => Err(Unsupported(format!("x of {x} with out of {out}"))),
        }
    }

    fn scratch(&self, a: &LinearArgs<'_, Cpu>) -> usize {
        // The widest packing of all levels: f32, in steps of 32.
        a.x.shape()[0].min(CHUNK) * a.x.shape()[1].next_multiple_of(32) * size_of::<f32>()
    }

    fn launch(&self, dev: &Cpu, a: LinearArgs<'_, Cpu>, scratch: &mut CpuBuffer) -> Result<()> {
        match (a.x.dtype(), a.out.dtype()) {
            (DType::F32, _) => at_level::<f32, f32>(dev, a, scratch),
            (DType::Bf16, DType::Bf16) => at_level::<bf16, bf16>(dev, a, scratch),
            (DType::Bf16, _) => at_level::<bf16, f32>(dev, a, scratch),
            (DType::F16, DType::F16) => at_level::<f16, f16>(dev, a, scratch),
            (DType::F16, _) => at_level::<f16, f32>(dev, a, scratch),
            (DType::I32, _) => unreachable!("unsupported"),
        }
        Ok(())
    }
}

/// Runs the call at the device's SIMD level.
fn at_level<T: Value, O: Narrow>(dev: &Cpu, a: LinearArgs<'_, Cpu>, scratch: &mut CpuBuffer) {
    // SAFETY: `Cpu` offers no level that this machine lacks.
    unsafe {
        match dev.simd() {
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512Bf16 => multiply::<T::Avx512Bf16, T, O>(dev.pool(), a, scratch),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 => multiply::<T::Avx512, T, O>(dev.pool(), a, scratch),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2 => multiply::<T::Avx2, T, O>(dev.pool(), a, scratch),
            _ => multiply::<Portable, T, O>(dev.pool(), a, scratch),
        }
    }
}

/// An element of x and weight, with what multiplies it at each level.
trait Value: Float {
    #[cfg(target_arch = "x86_64")]
    type Avx2: Dot<Self>;
    #[cfg(target_arch = "x86_64")]
    type Avx512: Dot<Self>;
    #[cfg(target_arch = "x86_64")]
    type Avx512Bf16: Dot<Self>;
}

impl Value for f32 {
    #[cfg(target_arch = "x86_64")]
    type Avx2 = x86::Avx2;
    #[cfg(target_arch = "x86_64")]
    type Avx512 = x86::Avx512;
    #[cfg(target_arch = "x86_64")]
    type Avx512Bf16 = x86::Avx512;
}

impl Value for bf16 {
    #[cfg(target_arch = "x86_64")]
    type Avx2 = x86::Avx2;
    #[cfg(target_arch = "x86_64")]
    type Avx512 = x86::Avx512;
    #[cfg(target_arch = "x86_64")]
    type Avx512Bf16 = x86::Avx512Bf16;
}

impl Value for f16 {
    #[cfg(target_arch = "x86_64")]
    type Avx2 = x86::Avx2;
    #[cfg(target_arch = "x86_64")]
    type Avx512 = x86::Avx512;
    #[cfg(target_arch = "x86_64")]
    type Avx512Bf16 = x86::Avx512;
}

/// An element of out.
trait Narrow: Float {
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

/// The whole call at level `L`.
///
/// # Safety
/// The CPU has level `L`; the arguments were checked.
unsafe fn multiply<L: Dot<T>, T: Float, O: Narrow>(
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
    /// Block after block of k; in each, panels of `L::COLS` rows of x (the last has the rest) as
    /// [`tile::pack`] leaves them.
    packed: *mut Packed<L, T>,
    rows: usize,
    n: usize,
    k: usize,
    level: PhantomData<L>,
}

// SAFETY: see `multiply`: tasks read what nobody writes, and write each a part of its own.
unsafe impl<L: Dot<T>, T: Sync, O> Sync for Job<'_, L, T, O> {}

impl<L: Dot<T>, T: Float, O: Narrow> Job<'_, L, T, O> {
    /// # Safety
    /// The CPU has level `L`; the pointers cover what the fields say.
    unsafe fn run(&self, pool: &Pool) {
        let panels = self.rows.div_ceil(L::COLS);
        // A launch costs about what packing 16 Ki elements does.
        let share = (16 << 10) / (self.k * L::COLS).max(1) + 1;
        pool.run(panels.div_ceil(share), &|task| {
            let panels = (task * share, ((task + 1) * share).min(panels));
            // SAFETY: the caller's promise; no other task has these panels.
            unsafe { L::enter(PackX(self, panels)) }
        });
        if panels == 1 {
            let tiles = self.n.div_ceil(ROWS);
            // Enough tasks to even out the threads, each long enough to hide its start.
            let bytes = ROWS * self.k.max(1) * size_of::<T>();
            let share = (tiles / (pool.threads() * 8)).min((128 << 10) / bytes).max(1);
            pool.run(tiles.div_ceil(share), &|task| {
                let tiles = (task * share, ((task + 1) * share).min(tiles));
                // SAFETY: the caller's promise, and x is packed; no other task has these columns of out.
                unsafe { L::enter(Raw(self, tiles)) }
            });
        } else {
            pool.run(self.n.div_ceil(GROUP * ROWS), &|task| {
                // SAFETY: as above.
                unsafe { L::enter(Grouped(self, task)) }
            });
        }
    }

    /// The blocks of k: where each starts, and its length.
    #[inline(always)]
    fn blocks(&self) -> impl Iterator<Item = (usize, usize)> {
        let (k, block) = (self.k, tile::block::<L, T>());
        (0..k.div_ceil(block)).map(move |b| (b * block, block.min(k - b * block)))
    }

    /// Where panel `panel` of the block at `k0` of length `len` is packed.
    #[inline(always)]
    fn panel(&self, k0: usize, len: usize, panel: usize) -> *mut Packed<L, T> {
        // Blocks before the last are whole steps long, so their packed length is theirs.
        let at = k0 * self.rows + panel * L::COLS * tile::padded::<L, T>(len);
        self.packed.wrapping_add(at)
    }

    /// Row `n` of the weight, or the last: a tile at the edge computes it again.
    #[inline(always)]
    fn weight_row(&self, n: usize) -> *const T {
        self.weight.wrapping_add(n.min(self.n - 1) * self.k)
    }

    /// Adds the bias to the sums of outputs `n0..` of `row`, rounds and stores those that exist.
    ///
    /// # Safety
    /// As [`Self::run`]; no other task has these columns.
    #[inline(always)]
    unsafe fn finish(&self, row: usize, n0: usize, mut sums: [f32; ROWS]) {
        let count = ROWS.min(self.n - n0);
        if let Some(bias) = self.bias {
            for (s, b) in sums.iter_mut().zip(&bias[n0..n0 + count]) {
                *s += b.to_f32();
            }
        }
        // SAFETY: columns `n0..n0 + count` of a row below `rows`.
        let out = unsafe { std::slice::from_raw_parts_mut(self.out.add(row * self.n + n0), count) };
        if count == ROWS {
            // The same with a length that the compiler knows.
            O::narrow(&sums, &mut out[..ROWS]);
        } else {
            O::narrow(&sums[..count], out);
        }
    }
}

/// Packs panels `.0..1` of x.
struct PackX<'a, L: Dot<T>, T, O>(&'a Job<'a, L, T, O>, (usize, usize));

impl<L: Dot<T>, T: Float, O: Narrow> Work for PackX<'_, L, T, O> {
    #[inline(always)]
    unsafe fn run(self) {
        let Self(job, (begin, end)) = self;
        for panel in begin..end {
            let row = panel * L::COLS;
            let rows = L::COLS.min(job.rows - row);
            for (k0, len) in job.blocks() {
                for r in 0..rows {
                    // SAFETY: elements of x that exist, to their place in `packed`.
                    unsafe {
                        let src = job.x.add((row + r) * job.stride + k0);
                        let dst = job.panel(k0, len, panel).add(r * L::Operand::WIDTH);
                        tile::pack::<L, T>(src, len, rows, dst);
                    }
                }
            }
        }
    }
}

/// Few rows of x (one panel): tiles `.0..1` of weight rows, read where they lie.
struct Raw<'a, L: Dot<T>, T, O>(&'a Job<'a, L, T, O>, (usize, usize));

impl<L: Dot<T>, T: Float, O: Narrow> Work for Raw<'_, L, T, O> {
    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: the caller's promise; `C` is the panel's width.
        unsafe {
            match self.0.rows {
                1 => self.columns::<1>(),
                2 => self.columns::<2>(),
                3 if L::COLS >= 3 => self.columns::<3>(),
                4 if L::COLS >= 4 => self.columns::<4>(),
                5 if L::COLS >= 5 => self.columns::<5>(),
                6 if L::COLS >= 6 => self.columns::<6>(),
                rows => unreachable!("a panel of {rows} rows"),
            }
        }
    }
}

impl<L: Dot<T>, T: Float, O: Narrow> Raw<'_, L, T, O> {
    /// # Safety
    /// As [`Work::run`]; the job has `C` rows.
    #[inline(always)]
    unsafe fn columns<const C: usize>(self) {
        let Self(job, (begin, end)) = self;
        let ahead = ROWS * job.k * size_of::<T>();
        for tile in begin..end {
            let n0 = tile * ROWS;
            let w =
                [job.weight_row(n0), job.weight_row(n0 + 1), job.weight_row(n0 + 2), job.weight_row(n0 + 3)];
            let mut sums = [[0.0; ROWS]; C];
            for (k0, len) in job.blocks() {
                // SAFETY: elements `k0..k0 + len` of rows that exist, and of the only panel.
                let part = unsafe {
                    let w = [w[0].add(k0), w[1].add(k0), w[2].add(k0), w[3].add(k0)];
                    tile::raw::<L, T, C>(w, job.panel(k0, len, 0), len, ahead)
                };
                add(&mut sums, &part);
            }
            for (row, sums) in sums.into_iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe { job.finish(row, n0, sums) }
            }
        }
    }
}

/// Many rows of x by one group of weight rows.
struct Grouped<'a, L: Dot<T>, T, O>(&'a Job<'a, L, T, O>, usize);

/// A group's block of k, packed.
#[repr(align(64))]
struct GroupBlock(MaybeUninit<[u8; GROUP_BYTES]>);

impl<L: Dot<T>, T: Float, O: Narrow> Work for Grouped<'_, L, T, O> {
    #[inline(always)]
    unsafe fn run(self) {
        const {
            let packed = size_of::<Packed<L, T>>();
            assert!(GROUP * ROWS * tile::block::<L, T>() * packed <= GROUP_BYTES && CHUNK % L::COLS == 0);
        }
        let Self(job, group) = self;
        let n0 = group * GROUP * ROWS;
        let tiles = (job.n - n0).div_ceil(ROWS).min(GROUP);
        let mut block = GroupBlock(MaybeUninit::uninit());
        let block: *mut Packed<L, T> = block.0.as_mut_ptr().cast();
        let mut sums = [const { MaybeUninit::uninit() }; CHUNK];
        let sums = zeros(&mut sums[..job.rows]);
        for (k0, len) in job.blocks() {
            let tile_len = ROWS * tile::padded::<L, T>(len);
            for tile in 0..tiles {
                for r in 0..ROWS {
                    // SAFETY: a row that exists, to its place in `block`, which holds `GROUP` tiles.
                    unsafe {
                        let src = job.weight_row(n0 + tile * ROWS + r).add(k0);
                        let dst = block.add(tile * tile_len + r * L::Operand::WIDTH);
                        tile::pack::<L, T>(src, len, ROWS, dst);
                    }
                }
            }
            for (panel, sums) in sums.chunks_mut(L::COLS).enumerate() {
                let x = job.panel(k0, len, panel);
                for tile in 0..tiles {
                    // SAFETY: a tile and a panel of `sums.len()` rows that were packed above and before.
                    unsafe {
                        let w = block.add(tile * tile_len);
                        match sums.len() {
                            1 => add_tile(tile, sums, &tile::packed::<L, T, 1>(w, x, len)),
                            2 => add_tile(tile, sums, &tile::packed::<L, T, 2>(w, x, len)),
                            3 if L::COLS >= 3 => add_tile(tile, sums, &tile::packed::<L, T, 3>(w, x, len)),
                            4 if L::COLS >= 4 => add_tile(tile, sums, &tile::packed::<L, T, 4>(w, x, len)),
                            5 if L::COLS >= 5 => add_tile(tile, sums, &tile::packed::<L, T, 5>(w, x, len)),
                            6 if L::COLS >= 6 => add_tile(tile, sums, &tile::packed::<L, T, 6>(w, x, len)),
                            rows => unreachable!("a panel of {rows} rows"),
                        }
                    }
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (tile, sums) in sums[..tiles].iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe { job.finish(row, n0 + tile * ROWS, *sums) }
            }
        }
    }
}

/// The sums of a row of x and a group of weight rows.
type GroupSums = [[f32; ROWS]; GROUP];

/// Only the rows in use are cleared: with few rows the rest would cost more than the work.
#[inline(always)]
fn zeros(sums: &mut [MaybeUninit<GroupSums>]) -> &mut [GroupSums] {
    sums.fill(MaybeUninit::new([[0.0; ROWS]; GROUP]));
    // SAFETY: each was just written.
    unsafe { sums.assume_init_mut() }
}

/// Adds a block's products to tile `tile` of each row.
#[inline(always)]
fn add_tile<const C: usize>(tile: usize, sums: &mut [GroupSums], part: &Products<C>) {
    for (sums, part) in sums.iter_mut().zip(part) {
        for (s, p) in sums[tile].iter_mut().zip(part) {
            *s += p;
        }
    }
}

#[inline(always)]
fn add<const C: usize>(sums: &mut Products<C>, part: &Products<C>) {
    for (s, p) in sums.as_flattened_mut().iter_mut().zip(part.as_flattened()) {
        *s += p;
    }
}
