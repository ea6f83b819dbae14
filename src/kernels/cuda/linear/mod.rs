//! The linear layer on CUDA: `cuda/linear*.cu`.

mod hopper;
mod naive;
mod tensor_core;

use std::sync::Arc;

use super::{
    super::{Kernel, Linear, LinearArgs, LinearSpec, Op, SMALL_ROWS, Table, Unsupported},
    in_vectors,
};
use crate::{
    device::{
        Cuda, DType,
        cuda::{CudaBuffer, Target},
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
            Choice::Naive => naive::launch(dev, args),
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
        naive::launch(dev, args)
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
