//! `cuda/rms_norm.cu`: RMSNorm, alone and after the residual addition.

use super::{
    super::{AddRmsNorm, AddRmsNormArgs, Kernel, Op, RmsNorm, RmsNormArgs, Unsupported},
    dtype, in_vectors, out_in_vectors, u32,
};
use crate::{
    device::{
        Cuda, DType,
        cuda::{CudaBuffer, Launch, Program, arg},
    },
    error::Result,
};

/// What takes a row. A warp and a block read 16 bytes at a time: rows that do not lie at multiples of them are taken as
/// by [`RowBy::Thread`].
#[derive(Clone, Copy)]
pub enum RowBy {
    /// A thread.
    Thread,
    /// A warp.
    Warp,
    /// A block.
    Block,
}

impl RowBy {
    fn name(self) -> &'static str {
        match self {
            Self::Thread => "naive",
            Self::Warp => "warp_per_row",
            Self::Block => "block_per_row",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Thread => "one thread a row",
            Self::Warp => "one warp a row, in registers: many short rows",
            Self::Block => "one block a row, in registers, 16 bytes an access",
        }
    }
}

impl Kernel<RmsNorm, Cuda> for RowBy {
    fn name(&self) -> &'static str {
        (*self).name()
    }

    fn about(&self) -> &'static str {
        (*self).about()
    }

    fn supports(&self, _: &DType) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cuda, args: RmsNormArgs<'_, Cuda>, _: &mut CudaBuffer) -> Result<()> {
        launch(dev, alone(args)?, *self)
    }
}

impl Kernel<AddRmsNorm, Cuda> for RowBy {
    fn name(&self) -> &'static str {
        (*self).name()
    }

    fn about(&self) -> &'static str {
        (*self).about()
    }

    fn supports(&self, _: &DType) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cuda, args: AddRmsNormArgs<'_, Cuda>, _: &mut CudaBuffer) -> Result<()> {
        launch(dev, added(args)?, *self)
    }
}

/// `Norm` of `cuda/rms_norm.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Norm {
    x: u64,
    residual: u64,
    weight: u64,
    out: u64,
    rows: u32,
    x_stride: u32,
    residual_stride: u32,
    out_stride: u32,
    eps: f32,
    offset: f32,
}

/// A call of either operation.
struct Call {
    norm: Norm,
    dtype: DType,
    rows: usize,
    dim: usize,
    vector: bool,
}

fn alone(mut a: RmsNormArgs<'_, Cuda>) -> Result<Call> {
    let op = RmsNorm::NAME;
    let &[rows, dim] = a.x.shape() else { unreachable!("checked") };
    let vector = in_vectors(&a.x) && out_in_vectors(&a.out) && a.weight.address().is_multiple_of(16);
    let norm = Norm {
        x: a.x.address(),
        residual: 0,
        weight: a.weight.address(),
        out: a.out.address(),
        rows: u32(op, "rows", rows)?,
        x_stride: u32(op, "stride of x", a.x.stride())?,
        residual_stride: 0,
        out_stride: u32(op, "stride of out", a.out.stride())?,
        eps: a.eps,
        offset: a.offset,
    };
    Ok(Call { norm, dtype: a.x.dtype(), rows, dim, vector })
}

fn added(mut a: AddRmsNormArgs<'_, Cuda>) -> Result<Call> {
    let (op, residual_in_vectors) = (AddRmsNorm::NAME, out_in_vectors(&a.residual));
    let (residual, stride) = (a.residual.address(), a.residual.stride());
    let AddRmsNormArgs { x, weight, eps, offset, out, .. } = a;
    let mut call = alone(RmsNormArgs { x, weight, eps, offset, out })?;
    call.norm.residual = residual;
    call.norm.residual_stride = u32(op, "stride of residual", stride)?;
    call.vector &= residual_in_vectors;
    Ok(call)
}

fn launch(dev: &Cuda, call: Call, by: RowBy) -> Result<()> {
    let Call { norm, dtype: of, rows, dim, vector } = call;
    let program =
        Program::new("rms_norm.cu").with("DTYPE", dtype(of)).with("DIM", dim).with("VECTOR", vector.into());
    let by = if vector { by } else { RowBy::Thread };
    let (function, blocks, block) = match (by, norm.residual != 0) {
        (RowBy::Thread, false) => ("rms_norm_naive", rows.div_ceil(128), 128),
        (RowBy::Thread, true) => ("add_rms_norm_naive", rows.div_ceil(128), 128),
        (RowBy::Warp, false) => ("rms_norm_warp_per_row", rows.div_ceil(4), 128),
        (RowBy::Warp, true) => ("add_rms_norm_warp_per_row", rows.div_ceil(4), 128),
        (RowBy::Block, false) => ("rms_norm_block_per_row", rows, 256),
        (RowBy::Block, true) => ("add_rms_norm_block_per_row", rows, 256),
    };
    let launch = Launch { program, function, grid: [blocks, 1, 1], block, shared: 0 };
    // SAFETY: the parameter of `*rms_norm_*`; the contract's shapes say that each view covers `rows` rows of `dim`
    // elements, and the weight `dim`.
    // The kernel waits (`wait_for_previous`) before it touches what the one before may write.
    unsafe { dev.launch_early(&launch, &[arg(&norm)]) }
}
