//! `cuda/sample_naive.cu`.

use super::super::{Kernel, Sample, SampleArgs, SampleSpec, Unsupported};
use crate::{
    device::{
        Cuda,
        cuda::{CudaBuffer, Launch, Program, arg},
    },
    error::Result,
};

/// One block a row, thresholds by bisection.
pub struct Naive;

impl Kernel<Sample, Cuda> for Naive {
    fn name(&self) -> &'static str {
        "naive"
    }

    fn about(&self) -> &'static str {
        "one block a row; every kind of row; thresholds by bisection"
    }

    fn supports(&self, _: &SampleSpec) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cuda, args: SampleArgs<'_, Cuda>, _: &mut CudaBuffer) -> Result<()> {
        launch(dev, args)
    }
}

fn launch(dev: &Cuda, mut a: SampleArgs<'_, Cuda>) -> Result<()> {
    let &[rows, vocab] = a.logits.shape() else { unreachable!("checked") };
    let program = Program::new("sample_naive.cu").with("VOCAB", vocab);
    let launch = Launch { program, function: "sample_naive", grid: [rows, 1, 1], block: 256, shared: 0 };
    let args =
        [arg(a.logits.address()), arg(a.top_p_tail.address()), arg(a.params.address()), arg(a.out.address())];
    // SAFETY: the parameters of `sample_naive`; the contract's shapes say that the logits cover `rows` rows of `vocab`,
    // and the others as many rows.
    unsafe { dev.launch(&launch, &args) }
}
