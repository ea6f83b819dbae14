//! `cuda/linear_naive.cu`.

use super::super::{
    super::{Kernel, Linear, LinearArgs, LinearSpec, Op, Unsupported},
    dtype, u32,
};
use crate::{
    device::{
        Cuda, DType,
        cuda::{CudaBuffer, Launch, Program, arg},
    },
    error::Result,
};

/// One warp an element of the output.
pub struct Naive;

impl Kernel<Linear, Cuda> for Naive {
    fn name(&self) -> &'static str {
        "naive"
    }

    fn about(&self) -> &'static str {
        "one warp an output; any dtype and shape"
    }

    fn supports(&self, _: &LinearSpec) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cuda, args: LinearArgs<'_, Cuda>, _: &mut CudaBuffer) -> Result<()> {
        launch(dev, args)
    }
}

pub fn launch(dev: &Cuda, mut a: LinearArgs<'_, Cuda>) -> Result<()> {
    let (&[rows, k], n) = (a.x.shape(), a.weight.shape()[0]) else { unreachable!("checked") };
    let out_f32 = a.out.dtype() == DType::F32;
    let program = Program::new("linear_naive.cu")
        .with("DTYPE", dtype(a.x.dtype()))
        .with("IN", k)
        .with("OUT_F32", out_f32.into());
    let (out, x_stride) = (u32(Linear::NAME, "n", n)?, u32(Linear::NAME, "stride of x", a.x.stride())?);
    let bias = a.bias.map_or(0, |b| b.address());
    let launch =
        Launch { program, function: "linear_naive", grid: [n.div_ceil(8), rows, 1], block: 256, shared: 0 };
    let args = [
        arg(a.x.address()),
        arg(a.weight.address()),
        arg(bias),
        arg(a.out.address()),
        arg(out),
        arg(x_stride),
    ];
    // SAFETY: the parameters of `linear_naive`; the contract's shapes say that x covers `rows` rows of `k` elements,
    // the weight `n` of them, and out `rows` rows of `n`.
    unsafe { dev.launch(&launch, &args) }
}
