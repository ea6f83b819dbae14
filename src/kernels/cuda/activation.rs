//! `cuda/activation.cu`.

use super::{
    super::{Activation, ActivationArgs, GatedActivation, Kernel, Op, Unsupported},
    dtype, in_vectors, out_in_vectors, u32,
};
use crate::{
    device::{
        Cuda, DType,
        cuda::{CudaBuffer, Launch, Program, arg},
    },
    error::Result,
};

/// 16 bytes a thread; rows that do not lie at multiples of 16 bytes as [`Naive`].
pub struct Vectorised;
/// One thread an element.
pub struct Naive;

impl Kernel<GatedActivation, Cuda> for Vectorised {
    fn name(&self) -> &'static str {
        "vectorised"
    }

    fn about(&self) -> &'static str {
        "16 bytes a thread"
    }

    fn supports(&self, _: &(DType, Activation)) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cuda, args: ActivationArgs<'_, Cuda>, _: &mut CudaBuffer) -> Result<()> {
        let vector = in_vectors(&args.x) && out_in_vectors(&args.out);
        launch(dev, args, vector)
    }
}

impl Kernel<GatedActivation, Cuda> for Naive {
    fn name(&self) -> &'static str {
        "naive"
    }

    fn about(&self) -> &'static str {
        "one thread an element"
    }

    fn supports(&self, _: &(DType, Activation)) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cuda, args: ActivationArgs<'_, Cuda>, _: &mut CudaBuffer) -> Result<()> {
        launch(dev, args, false)
    }
}

fn launch(dev: &Cuda, mut a: ActivationArgs<'_, Cuda>, vector: bool) -> Result<()> {
    let &[rows, inter] = a.out.shape() else { unreachable!("checked") };
    let gate = match a.activation {
        Activation::Silu => 0,
        Activation::GeluTanh => 1,
        Activation::GeluErf => 2,
    };
    let program = Program::new("activation.cu")
        .with("DTYPE", dtype(a.x.dtype()))
        .with("INTER", inter)
        .with("GATE", gate)
        .with("VECTOR", vector.into());
    let (function, each) =
        if vector { ("activation_vectorised", 16 / a.x.dtype().size()) } else { ("activation_naive", 1) };
    let x_stride = u32(GatedActivation::NAME, "stride of x", a.x.stride())?;
    let out_stride = u32(GatedActivation::NAME, "stride of out", a.out.stride())?;
    let launch =
        Launch { program, function, grid: [inter.div_ceil(256 * each), rows, 1], block: 256, shared: 0 };
    let args = [arg(a.x.address()), arg(a.out.address()), arg(x_stride), arg(out_stride)];
    // SAFETY: the parameters of `activation_*`; the contract's shapes say that the views cover `rows` rows of
    // `2 * inter` and of `inter` elements.
    unsafe { dev.launch(&launch, &args) }
}
