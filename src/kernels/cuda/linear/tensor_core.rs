//! `cuda/linear.cu`: `mma.sync`, from sm_80 on.

use super::{
    super::super::{Kernel, Linear, LinearArgs, LinearSpec, SMALL_ROWS, Unsupported},
    Call, sixteen_bits, want_vectors,
};
use crate::{
    device::{
        Cuda,
        cuda::{CudaBuffer, Launch, Program, arg},
    },
    error::Result,
};

/// Tiles over rows and columns.
pub struct MmaPipelined;
/// Tiles that share `k`: for few rows and columns.
pub struct SplitK;
/// A stream of weights past few rows.
pub struct Skinny;

/// Blocks that fill a large GPU, about two for each multiprocessor. Not the device's own number: so results are the
/// same on all, and scratch memory is known without one.
const FILL: usize = 256;

/// `Tile` of `cuda/linear.cu`.
struct Tile {
    function: &'static str,
    rows: usize,
    cols: usize,
    threads: usize,
    stages: usize,
    /// Of a multiprocessor.
    blocks: usize,
}

#[rustfmt::skip]
mod tiles {
    use super::Tile;
    /// Needs more shared memory for a block than most GPUs have.
    pub const LARGE: Tile = Tile { function: "mma_256x128", rows: 256, cols: 128, threads: 256, stages: 4, blocks: 1 };
    pub const MEDIUM: Tile = Tile { function: "mma_128x128", rows: 128, cols: 128, threads: 128, stages: 3, blocks: 2 };
    pub const SMALL: Tile = Tile { function: "mma_64x64", rows: 64, cols: 64, threads: 128, stages: 4, blocks: 3 };
}
use tiles::{LARGE, MEDIUM, SMALL};

impl Tile {
    fn count(&self, rows: usize, n: usize) -> usize {
        rows.div_ceil(self.rows) * n.div_ceil(self.cols)
    }

    fn launch(&self, dev: &Cuda, program: Program, splits: usize, call: &Call) -> Result<()> {
        /// Values of k of a stage.
        const TILE_IN: usize = 64;
        let tiles = self.count(call.rows as usize, call.n as usize);
        let launch = Launch {
            program,
            function: self.function,
            grid: [tiles.min(dev.multiprocessors() * self.blocks), splits, 1],
            block: self.threads,
            shared: self.stages * (self.rows + self.cols) * TILE_IN * 2,
        };
        // SAFETY: the parameter of the entries of `cuda/linear.cu`; see `Call`.
        // The kernel begins with `wait_for_previous`.
        unsafe { dev.launch_early(&launch, &[arg(call)]) }
    }
}

/// Whether the middle-sized tiles alone fill a GPU.
pub fn fills(rows: usize, n: usize) -> bool {
    MEDIUM.count(rows, n) >= FILL / 2
}

/// `Layout` of `cuda/linear.cu`.
struct Layout {
    function: &'static str,
    slots: usize,
    warps_out: usize,
    warps_in: usize,
    /// Values of k, in blocks of 32, of a warp's step.
    in_blocks: usize,
    /// Where a block may have 160 KB of shared memory, and elsewhere.
    stages: [usize; 2],
    /// Of a multiprocessor.
    blocks: usize,
}

#[rustfmt::skip]
mod layouts {
    use super::Layout;
    pub const NARROW: [Layout; 2] = [
        Layout { function: "skinny_8_narrow", slots: 8, warps_out: 1, warps_in: 4, in_blocks: 4, stages: [5, 4], blocks: 1 },
        Layout { function: "skinny_16_narrow", slots: 16, warps_out: 1, warps_in: 8, in_blocks: 2, stages: [5, 3], blocks: 1 },
    ];
    pub const WIDE: [Layout; 4] = [
        Layout { function: "skinny_8", slots: 8, warps_out: 2, warps_in: 4, in_blocks: 2, stages: [6, 4], blocks: 1 },
        Layout { function: "skinny_16", slots: 16, warps_out: 2, warps_in: 4, in_blocks: 2, stages: [5, 4], blocks: 1 },
        Layout { function: "skinny_32", slots: 32, warps_out: 4, warps_in: 2, in_blocks: 2, stages: [3, 3], blocks: 2 },
        Layout { function: "skinny_64", slots: 64, warps_out: 4, warps_in: 2, in_blocks: 2, stages: [3, 3], blocks: 2 },
    ];
}

impl Layout {
    /// For at most [`SMALL_ROWS`] rows: the narrow one for few outputs, or where the block with the most of them then has
    /// fewer and k is long enough for that to matter (docs/results).
    fn of(rows: usize, n: usize, k: usize) -> &'static Self {
        let for_rows = |layouts: &'static [Self]| layouts.iter().find(|layout| rows <= layout.slots);
        let wide = for_rows(&layouts::WIDE).expect("at most 64 rows");
        let most = |layout: &Self| n.div_ceil(layout.outputs()).div_ceil(FILL / 2) * layout.outputs();
        match for_rows(&layouts::NARROW) {
            Some(narrow) if n <= FILL * 8 || k >= 2048 && most(narrow) < most(wide) => narrow,
            _ => wide,
        }
    }

    fn outputs(&self) -> usize {
        self.warps_out * 16
    }

    fn launch(&self, dev: &Cuda, program: Program, call: &Call) -> Result<()> {
        let stages = self.stages[usize::from(!matches!(dev.target().capability, (8, 0) | (9..=11, _)))];
        let threads = self.warps_out * self.warps_in * 32;
        let (weights, x) =
            (threads * 2 * self.in_blocks, self.warps_in * self.in_blocks * (self.slots / 8) * 32);
        let blocks = (call.n as usize).div_ceil(self.outputs()).min(dev.multiprocessors() * self.blocks);
        let launch = Launch {
            program,
            function: self.function,
            grid: [blocks, 1, 1],
            block: threads,
            shared: stages * (weights + x) * 16 + self.slots * (self.outputs() + 4) * 4,
        };
        // SAFETY: the parameter of the entries of `cuda/linear.cu`; see `Call`.
        // The kernel begins with `wait_for_previous`.
        unsafe { dev.launch_early(&launch, &[arg(call)]) }
    }
}

impl Kernel<Linear, Cuda> for MmaPipelined {
    fn name(&self) -> &'static str {
        "mma_pipelined"
    }

    fn about(&self) -> &'static str {
        "tensor-core tiles, cp.async stages; same bits for a row in any batch"
    }

    fn supports(&self, spec: &LinearSpec) -> std::result::Result<(), Unsupported> {
        sixteen_bits(spec)
    }

    fn launch(&self, dev: &Cuda, mut a: LinearArgs<'_, Cuda>, _: &mut CudaBuffer) -> Result<()> {
        want_vectors(&a)?;
        let (program, call) = Call::of(&mut a, 0)?;
        let (rows, n) = (call.rows as usize, call.n as usize);
        let tile = match dev.target().capability.0 {
            9 | 10 if rows > MEDIUM.rows && LARGE.count(rows, n) >= FILL / 2 => LARGE,
            _ if fills(rows, n) => MEDIUM,
            _ => SMALL,
        };
        tile.launch(dev, program, 1, &call)
    }
}

/// Parts of k for [`SplitK`], of at least eight stages each.
fn splits(a: &LinearArgs<'_, Cuda>) -> usize {
    let (rows, n, k) = (a.x.shape()[0], a.weight.shape()[0], a.weight.shape()[1]);
    (FILL / SMALL.count(rows, n).max(1)).min(k / (8 * 64)).clamp(1, 8)
}

impl Kernel<Linear, Cuda> for SplitK {
    fn name(&self) -> &'static str {
        "split_k"
    }

    fn about(&self) -> &'static str {
        "small tensor-core tiles that share k where tiles are few, combined in order"
    }

    fn supports(&self, spec: &LinearSpec) -> std::result::Result<(), Unsupported> {
        sixteen_bits(spec)
    }

    fn batch_invariant(&self) -> bool {
        false
    }

    fn scratch(&self, a: &LinearArgs<'_, Cuda>) -> usize {
        match splits(a) {
            1 => 0,
            splits => splits * a.out.elements() * size_of::<f32>(),
        }
    }

    fn launch(&self, dev: &Cuda, mut a: LinearArgs<'_, Cuda>, scratch: &mut CudaBuffer) -> Result<()> {
        want_vectors(&a)?;
        let splits = splits(&a);
        let (program, call) = Call::of(&mut a, scratch.address())?;
        SMALL.launch(dev, program, splits, &call)?;
        if splits == 1 {
            return Ok(());
        }
        let launch = Launch {
            program,
            function: "combine_splits",
            grid: [(call.n as usize).div_ceil(4 * 256), call.rows as usize, 1],
            block: 256,
            shared: 0,
        };
        let args = [
            arg(call.partial),
            arg(call.bias),
            arg(call.out),
            arg(splits as u32),
            arg(call.rows),
            arg(call.n),
        ];
        // SAFETY: the parameters of `combine_splits`; scratch has the sums of each split, see `Call`.
        // The kernel begins with `wait_for_previous`.
        unsafe { dev.launch_early(&launch, &args) }
    }
}

impl Kernel<Linear, Cuda> for Skinny {
    fn name(&self) -> &'static str {
        "skinny"
    }

    fn about(&self) -> &'static str {
        "up to 64 rows at a time: a stream of weights, bound by their bytes"
    }

    fn supports(&self, spec: &LinearSpec) -> std::result::Result<(), Unsupported> {
        sixteen_bits(spec)
    }

    fn batch_invariant(&self) -> bool {
        false
    }

    fn launch(&self, dev: &Cuda, mut a: LinearArgs<'_, Cuda>, _: &mut CudaBuffer) -> Result<()> {
        want_vectors(&a)?;
        let (program, all) = Call::of(&mut a, 0)?;
        let (dtype, out) = (a.x.dtype().size() as u64, a.out.dtype().size() as u64);
        for first in (0..all.rows).step_by(SMALL_ROWS) {
            let call = Call {
                x: all.x + u64::from(first) * u64::from(all.ldx) * dtype,
                out: all.out + u64::from(first) * u64::from(all.n) * out,
                rows: (all.rows - first).min(SMALL_ROWS as u32),
                ..all
            };
            Layout::of(call.rows as usize, all.n as usize, all.k as usize).launch(dev, program, &call)?;
        }
        Ok(())
    }
}
