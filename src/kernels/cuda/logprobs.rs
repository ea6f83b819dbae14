//! `cuda/logprobs.cu`.

use super::{
    super::{Kernel, Logprobs, LogprobsArgs, Op, Unsupported},
    u32,
};
use crate::{
    device::{
        Cuda,
        cuda::{CudaBuffer, Launch, Program, arg},
    },
    error::Result,
};

/// One block a row, the likeliest found by counting digits.
pub struct RadixSelect;
/// One warp a row, the likeliest found bit by bit.
pub struct Naive;

impl Kernel<Logprobs, Cuda> for RadixSelect {
    fn name(&self) -> &'static str {
        "radix_select"
    }

    fn about(&self) -> &'static str {
        "one block a row; any number of the likeliest in six passes over it"
    }

    fn supports(&self, (): &()) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cuda, args: LogprobsArgs<'_, Cuda>, _: &mut CudaBuffer) -> Result<()> {
        launch(dev, args, "logprobs_radix_select", 1024)
    }
}

impl Kernel<Logprobs, Cuda> for Naive {
    fn name(&self) -> &'static str {
        "naive"
    }

    fn about(&self) -> &'static str {
        "one warp a row; the least of the likeliest bit by bit"
    }

    fn supports(&self, (): &()) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cuda, args: LogprobsArgs<'_, Cuda>, _: &mut CudaBuffer) -> Result<()> {
        launch(dev, args, "logprobs_naive", 32)
    }
}

fn launch(dev: &Cuda, mut a: LogprobsArgs<'_, Cuda>, function: &'static str, block: usize) -> Result<()> {
    let (&[rows, vocab], &[_, told]) = (a.logits.shape(), a.ids.shape()) else { unreachable!("checked") };
    let program = Program::new("logprobs.cu").with("VOCAB", vocab);
    let launch = Launch { program, function, grid: [rows, 1, 1], block, shared: 0 };
    let args = [
        arg(a.logits.address()),
        arg(a.tokens.address()),
        arg(a.values.address()),
        arg(a.ids.address()),
        arg(u32(Logprobs::NAME, "top", told - 1)?),
        arg(a.softcap.unwrap_or(0.0)),
    ];
    // SAFETY: the parameters of `logprobs_*`; the contract's shapes say that the logits cover `rows` rows of `vocab`, the
    // tokens as many, and both outputs `rows` rows of `told`, of which `told - 1 <= vocab` are for the likeliest.
    unsafe { dev.launch(&launch, &args) }
}
