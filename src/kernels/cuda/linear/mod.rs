//! The linear layer on CUDA: `cuda/linear*.cu`.

mod cublaslt;
mod hopper;
mod naive;
mod tensor_core;

use std::sync::Arc;

use super::{
    super::{Kernel, Linear, LinearArgs, LinearSpec, Op, SMALL_ROWS, Table, Unsupported},
    dtype, in_vectors, u32,
};
use crate::{
    device::{
        Cuda, DType,
        cuda::{CudaBuffer, Program, Target},
    },
    error::{Error, Result},
};

/// The kernels for such a device; the first is the default.
pub fn table(target: Target) -> Table<Linear, Cuda> {
    vec![
        Arc::new(ByShape { hopper: hopper::WgmmaTma::on(target) }),
        Arc::new(BatchInvariant),
        Arc::new(tensor_core::MmaPipelined),
        Arc::new(tensor_core::SplitK),
        Arc::new(tensor_core::Skinny),
        Arc::new(hopper::WgmmaTma::on(target)),
        Arc::new(cublaslt::CublasLt::on(target)),
        Arc::new(naive::Naive),
    ]
}

/// The fastest of the others for the shape and the device, as measured on an H100 (docs/results).
///
/// - f32, rows of x that are not at multiples of 16 bytes, k that is not a multiple of 8: `naive`
/// - `skinny` up to 16 rows, on Hopper unless there are very many outputs
/// - more on Hopper: `wgmma_tma`
/// - more elsewhere: `split_k`, and `mma_pipelined` once its tiles fill the device
struct ByShape {
    hopper: hopper::WgmmaTma,
}

enum Choice {
    Naive,
    Skinny,
    SplitK,
    MmaPipelined,
    WgmmaTma,
}

impl ByShape {
    fn choose(&self, a: &LinearArgs<'_, Cuda>) -> Choice {
        let (spec, rows) = (Linear::spec(a), a.x.shape()[0]);
        if sixteen_bits(&spec).is_err() || !in_vectors(&a.x) || !in_vectors(&a.weight) {
            return Choice::Naive;
        }
        match self.hopper.supports(&spec) {
            Ok(()) if rows <= 16 && spec.n < hopper::MANY_OUTPUTS => Choice::Skinny,
            Ok(()) => Choice::WgmmaTma,
            Err(_) if rows <= 16 => Choice::Skinny,
            Err(_) if rows <= SMALL_ROWS || !tensor_core::fills(rows, spec.n) => Choice::SplitK,
            Err(_) => Choice::MmaPipelined,
        }
    }
}

impl Kernel<Linear, Cuda> for ByShape {
    fn name(&self) -> &'static str {
        "by_shape"
    }

    fn about(&self) -> &'static str {
        "the fastest of the others for the shape and the device"
    }

    fn supports(&self, _: &LinearSpec) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn batch_invariant(&self) -> bool {
        false
    }

    fn scratch(&self, args: &LinearArgs<'_, Cuda>) -> usize {
        match self.choose(args) {
            Choice::SplitK => tensor_core::SplitK.scratch(args),
            _ => 0,
        }
    }

    fn launch(&self, dev: &Cuda, args: LinearArgs<'_, Cuda>, scratch: &mut CudaBuffer) -> Result<()> {
        match self.choose(&args) {
            Choice::Naive => naive::Naive.launch(dev, args, scratch),
            Choice::Skinny => tensor_core::Skinny.launch(dev, args, scratch),
            Choice::SplitK => tensor_core::SplitK.launch(dev, args, scratch),
            Choice::MmaPipelined => tensor_core::MmaPipelined.launch(dev, args, scratch),
            Choice::WgmmaTma => self.hopper.launch(dev, args, scratch),
        }
    }
}

/// `mma_pipelined`, and where the layer is not for it `naive`: neither looks at the number of rows.
struct BatchInvariant;

impl Kernel<Linear, Cuda> for BatchInvariant {
    fn name(&self) -> &'static str {
        "batch_invariant"
    }

    fn about(&self) -> &'static str {
        "mma_pipelined, or naive where that cannot: by the layer alone, so the same bits for a row in any batch"
    }

    fn supports(&self, _: &LinearSpec) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cuda, args: LinearArgs<'_, Cuda>, scratch: &mut CudaBuffer) -> Result<()> {
        if sixteen_bits(&Linear::spec(&args)).is_ok() && in_vectors(&args.x) && in_vectors(&args.weight) {
            return tensor_core::MmaPipelined.launch(dev, args, scratch);
        }
        naive::Naive.launch(dev, args, scratch)
    }
}

/// `LinearCall` of `cuda/linear.cu`. By the contract's shapes x covers `rows` rows of `k` elements `ldx` apart, the weight
/// `n` rows, the bias `n` elements, out `rows` rows of `n`; `partial` as much in f32 for each split, if there are any.
#[derive(Clone, Copy)]
#[repr(C)]
struct Call {
    x: u64,
    weight: u64,
    bias: u64,
    out: u64,
    partial: u64,
    rows: u32,
    k: u32,
    n: u32,
    ldx: u32,
}

impl Call {
    fn of(a: &mut LinearArgs<'_, Cuda>, partial: u64) -> Result<(Program, Self)> {
        let (op, spec) = (Linear::NAME, Linear::spec(a));
        let program = Program::new("linear.cu")
            .with("DTYPE", dtype(spec.dtype))
            .with("OUT_F32", (spec.out == DType::F32).into());
        let call = Self {
            x: a.x.address(),
            weight: a.weight.address(),
            bias: a.bias.as_ref().map_or(0, |b| b.address()),
            out: a.out.address(),
            partial,
            rows: u32(op, "rows", a.x.shape()[0])?,
            k: u32(op, "k", spec.k)?,
            n: u32(op, "n", spec.n)?,
            ldx: u32(op, "stride of x", a.x.stride())?,
        };
        Ok((program, call))
    }
}

/// Whether tensor cores and 16-byte copies can take such a layer.
fn sixteen_bits(spec: &LinearSpec) -> std::result::Result<(), Unsupported> {
    if spec.dtype == DType::F32 {
        return Err(Unsupported("f32: its tensor cores take bf16 and f16".into()));
    }
    if !spec.k.is_multiple_of(8) {
        return Err(Unsupported(format!("k = {}: it copies 8 values at a time", spec.k)));
    }
    Ok(())
}

/// Fails unless 16-byte copies can read x and the weight.
fn want_vectors(a: &LinearArgs<'_, Cuda>) -> Result<()> {
    if in_vectors(&a.x) && in_vectors(&a.weight) {
        return Ok(());
    }
    let got = format!("{:#x} every {} elements, {:#x}", a.x.address(), a.x.stride(), a.weight.address());
    let want = "rows at multiples of 16 bytes".into();
    Err(Error::Argument { op: Linear::NAME, what: "addresses of x and weight", got, want })
}
