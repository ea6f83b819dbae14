//! `cuda/activation.cu`.

use super::{
    super::{Activation, ActivationArgs, GatedActivation, Op},
    dtype,
    elementwise::Elementwise,
    in_vectors, out_in_vectors, u32,
};
use crate::{
    device::{
        Cuda,
        cuda::{Launch, Program, arg},
    },
    error::Result,
};

impl Elementwise for GatedActivation {
    fn in_vectors(a: &ActivationArgs<'_, Cuda>) -> bool {
        in_vectors(&a.x) && out_in_vectors(&a.out)
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
        let x_stride = u32(Self::NAME, "stride of x", a.x.stride())?;
        let out_stride = u32(Self::NAME, "stride of out", a.out.stride())?;
        let launch =
            Launch { program, function, grid: [inter.div_ceil(256 * each), rows, 1], block: 256, shared: 0 };
        let args = [arg(a.x.address()), arg(a.out.address()), arg(x_stride), arg(out_stride)];
        // SAFETY: the parameters of `activation_*`; the contract's shapes say that the views cover `rows` rows of
        // `2 * inter` and of `inter` elements.
        // The kernel begins with `wait_for_previous`.
        unsafe { dev.launch_early(&launch, &args) }
    }
}
