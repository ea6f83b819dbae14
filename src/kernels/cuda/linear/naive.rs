//! The readable variant of `cuda/linear.cu`.

use super::{
    super::super::{Kernel, Linear, LinearArgs, LinearSpec, Unsupported},
    Call,
};
use crate::{
    device::{
        Cuda,
        cuda::{CudaBuffer, Launch, arg},
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

    fn launch(&self, dev: &Cuda, mut a: LinearArgs<'_, Cuda>, _: &mut CudaBuffer) -> Result<()> {
        let (program, call) = Call::of(&mut a, 0)?;
        let grid = [(call.n as usize).div_ceil(8), call.rows as usize, 1];
        let launch = Launch { program, function: "linear_naive", grid, block: 256, shared: 0 };
        // SAFETY: the parameter of `linear_naive`; see `Call`.
        unsafe { dev.launch(&launch, &[arg(&call)]) }
    }
}
