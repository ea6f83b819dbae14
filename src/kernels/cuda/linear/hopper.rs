//! `cuda/linear_hopper.cu`: the tensor copy engine and warpgroup products of Hopper.

use std::{ffi::c_void, mem::MaybeUninit};

use cudarc::driver::sys;

use super::{
    super::{
        super::{Kernel, Linear, LinearArgs, LinearSpec, Op, Unsupported},
        dtype, u32,
    },
    sixteen_bits, want_vectors,
};
use crate::{
    device::{
        Cuda, DType, View,
        cuda::{CudaBuffer, Launch, Program, Target, arg, fail},
    },
    error::Result,
};

/// Tiles fed by the copy engine.
#[derive(Clone, Copy)]
pub struct WgmmaTma {
    target: Target,
}

/// From so many outputs on, it streams weights past a few rows faster than `skinny`.
pub const MANY_OUTPUTS: usize = 24_576;

/// `Shape` of `cuda/linear_hopper.cu`.
struct Shape {
    function: &'static str,
    rows: usize,
    cols: usize,
    stages: usize,
    splits: usize,
    blocks: usize,
}

#[rustfmt::skip]
mod shapes {
    use super::Shape;
    pub const LARGE: Shape = Shape { function: "wgmma_128x256", rows: 128, cols: 256, stages: 4, splits: 1, blocks: 1 };
    pub const MEDIUM: Shape = Shape { function: "wgmma_128x128", rows: 128, cols: 128, stages: 6, splits: 1, blocks: 1 };
    pub const FLAT: Shape = Shape { function: "wgmma_64x128", rows: 64, cols: 128, stages: 8, splits: 1, blocks: 1 };
    pub const SMALL: Shape = Shape { function: "wgmma_64x64", rows: 64, cols: 64, stages: 6, splits: 1, blocks: 2 };
    pub const BY_2: Shape = Shape { function: "wgmma_64x64_by_2", splits: 2, ..SMALL };
    pub const BY_4: Shape = Shape { function: "wgmma_64x64_by_4", splits: 4, ..SMALL };
}

/// Values of k of a stage.
const IN: usize = 64;

impl Shape {
    fn tiles(&self, rows: usize, n: usize) -> usize {
        rows.div_ceil(self.rows) * n.div_ceil(self.cols)
    }
}

/// The shape that was fastest, or nearly, for such a layer on an H100 (docs/results): the largest tiles that leave few
/// multiprocessors idle.
fn choose(rows: usize, n: usize, k: usize) -> &'static Shape {
    use shapes::{BY_2, BY_4, FLAT, LARGE, MEDIUM, SMALL};
    /// Of an H100. Not the device's own number, so that results are the same on all.
    const MULTIPROCESSORS: usize = 132;
    let waves = |shape: &Shape| shape.tiles(rows, n).div_ceil(MULTIPROCESSORS);
    match SMALL.tiles(rows, n) {
        0..=32 if k >= 2048 => &BY_4,
        33..=48 if k >= 3072 => &BY_4,
        0..=64 if k >= 4096 => &BY_2,
        0..=MULTIPROCESSORS => &SMALL,
        _ if rows <= FLAT.rows || waves(&FLAT) == 1 => &FLAT,
        // A tile of twice the size takes a little less than twice the time.
        _ if waves(&MEDIUM) * 27 < waves(&LARGE) * 50 => &MEDIUM,
        _ => &LARGE,
    }
}

impl WgmmaTma {
    /// For a device of this kind.
    pub fn on(target: Target) -> Self {
        Self { target }
    }
}

impl Kernel<Linear, Cuda> for WgmmaTma {
    fn name(&self) -> &'static str {
        "wgmma_tma"
    }

    fn about(&self) -> &'static str {
        "Hopper: copy engine, warpgroup products, persistent blocks or clusters that share k"
    }

    fn supports(&self, spec: &LinearSpec) -> std::result::Result<(), Unsupported> {
        if self.target.capability.0 != 9 || self.target.ptx {
            let arch = self.target.arch();
            return Err(Unsupported(format!("{arch}: its wgmma and TMA need a Hopper GPU (sm_90a)")));
        }
        sixteen_bits(spec)
    }

    fn batch_invariant(&self) -> bool {
        false
    }

    fn launch(&self, dev: &Cuda, mut a: LinearArgs<'_, Cuda>, _: &mut CudaBuffer) -> Result<()> {
        want_vectors(&a)?;
        let (op, spec, rows) = (Linear::NAME, Linear::spec(&a), a.x.shape()[0]);
        let program = Program::new("linear_hopper.cu")
            .with("DTYPE", dtype(spec.dtype))
            .with("OUT_F32", (spec.out == DType::F32).into());
        let shape = choose(rows, spec.n, spec.k);
        let tiles = shape.tiles(rows, spec.n);
        let blocks = if shape.splits == 1 { tiles.min(dev.multiprocessors() * shape.blocks) } else { tiles };
        let launch = Launch {
            program,
            function: shape.function,
            grid: [blocks, shape.splits, 1],
            block: 128 * (1 + shape.rows / 64),
            shared: shape.stages * (shape.rows + shape.cols) * IN * 2 + 1024,
        };
        if rows == 0 {
            return Ok(());
        }
        let (x, weight) = (map(&a.x, shape.rows)?, map(&a.weight, shape.cols)?);
        let args = [
            arg(&x),
            arg(&weight),
            arg(a.bias.as_ref().map_or(0, |b| b.address())),
            arg(a.out.address()),
            arg(u32(op, "rows", rows)?),
            arg(u32(op, "k", spec.k)?),
            arg(u32(op, "n", spec.n)?),
        ];
        // SAFETY: the parameters of the entries of `cuda/linear_hopper.cu`; the maps describe x and the weight, and by
        // the contract's shapes the bias covers `n` elements and out `rows` rows of `n`.
        // The kernel begins with `wait_for_previous`.
        unsafe { dev.launch_early(&launch, &args) }
    }
}

/// A matrix as the copy engine sees it: boxes of `rows` rows by [`IN`] columns, swizzled over 128 bytes.
fn map(v: &View<'_, Cuda>, rows: usize) -> Result<sys::CUtensorMap> {
    let &[height, width] = v.shape() else { unreachable!("checked") };
    let dtype = match v.dtype() {
        DType::F16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        _ => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
    };
    let extents = [width as u64, height as u64];
    let stride = [(v.stride() * v.dtype().size()) as u64];
    let (part, steps) = ([IN as u32, rows as u32], [1, 1]);
    let mut map = MaybeUninit::uninit();
    // SAFETY: arrays of as many elements as a rank of 2 asks for; the driver only reads them, and fills the map unless
    // it returns an error. It does not touch the matrix.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            map.as_mut_ptr(),
            dtype,
            2,
            v.address() as *mut c_void,
            extents.as_ptr(),
            stride.as_ptr(),
            part.as_ptr(),
            steps.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
        .result()
        .map_err(fail("a tensor map of x or the weight"))?;
        Ok(map.assume_init())
    }
}
