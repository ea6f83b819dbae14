//! `cuda/logits.cu`.

use super::super::{Kernel, Logits, LogitsArgs, Unsupported};
use crate::{
    device::{
        Cuda,
        cuda::{CudaBuffer, Launch, Program, arg},
    },
    error::Result,
};

/// Several blocks a row, each with its part in shared memory.
pub struct Chunked;
/// One block a row.
pub struct Naive;

/// `CHUNK` of `cuda/logits.cu`: logits of a block.
const CHUNK: usize = 4096;

impl Kernel<Logits, Cuda> for Chunked {
    fn name(&self) -> &'static str {
        "chunked"
    }

    fn about(&self) -> &'static str {
        "several blocks a row, one read and write of what a row asks for and no more"
    }

    fn supports(&self, _: &()) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn scratch(&self, args: &LogitsArgs<'_, Cuda>) -> usize {
        let &[rows, vocab] = args.logits.shape() else { unreachable!("checked") };
        rows * vocab.div_ceil(CHUNK) * size_of::<f32>()
    }

    fn launch(&self, dev: &Cuda, mut a: LogitsArgs<'_, Cuda>, scratch: &mut CudaBuffer) -> Result<()> {
        let &[rows, vocab] = a.logits.shape() else { unreachable!("checked") };
        let program = Program::new("logits.cu").with("VOCAB", vocab);
        let grid = [vocab.div_ceil(CHUNK), rows, 1];
        let adjust = Launch { program, function: "adjust", grid, block: 256, shared: 0 };
        let mask = Launch { function: "mask_unlikely", ..adjust };
        let maxima = arg(scratch.address());
        let args = [
            arg(a.logits.address()),
            arg(a.params.address()),
            arg(a.history_start.address()),
            arg(a.history_ids.address()),
            arg(a.history_counts.address()),
            arg(a.bias_start.address()),
            arg(a.bias_ids.address()),
            arg(a.bias_values.address()),
            maxima,
            arg(a.softcap.unwrap_or(0.0)),
        ];
        // SAFETY: the parameters of `adjust` and `mask_unlikely`; the contract's shapes say that the logits cover `rows`
        // rows of `vocab` and the parameters as many; the starts delimit the lists, whose ids are tokens (both written by
        // the engine); `scratch` has a maximum for each block.
        // The kernel begins with `wait_for_previous`.
        unsafe {
            dev.launch_early(&adjust, &args)?;
            dev.launch_early(&mask, &[args[0], args[1], maxima])
        }
    }
}

impl Kernel<Logits, Cuda> for Naive {
    fn name(&self) -> &'static str {
        "naive"
    }

    fn about(&self) -> &'static str {
        "one block a row, single tokens one after the other"
    }

    fn supports(&self, _: &()) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cuda, args: LogitsArgs<'_, Cuda>, _: &mut CudaBuffer) -> Result<()> {
        launch(dev, args)
    }
}

fn launch(dev: &Cuda, mut a: LogitsArgs<'_, Cuda>) -> Result<()> {
    let &[rows, vocab] = a.logits.shape() else { unreachable!("checked") };
    let program = Program::new("logits.cu").with("VOCAB", vocab);
    let softcap = a.softcap.unwrap_or(0.0);
    let launch = Launch { program, function: "logits_naive", grid: [rows, 1, 1], block: 256, shared: 0 };
    let args = [
        arg(a.logits.address()),
        arg(a.params.address()),
        arg(a.history_start.address()),
        arg(a.history_ids.address()),
        arg(a.history_counts.address()),
        arg(a.bias_start.address()),
        arg(a.bias_ids.address()),
        arg(a.bias_values.address()),
        arg(softcap),
    ];
    // SAFETY: the parameters of `logits_naive`; the contract's shapes say that the logits cover `rows` rows of `vocab`
    // and the parameters as many; the starts delimit the lists, whose ids are tokens (both written by the engine).
    unsafe { dev.launch(&launch, &args) }
}
