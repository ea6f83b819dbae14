//! `cuda/logits_naive.cu`.

use super::super::{Kernel, Logits, LogitsArgs, Unsupported};
use crate::{
    device::{
        Cuda,
        cuda::{CudaBuffer, Launch, Program, arg},
    },
    error::Result,
};

/// One block a row.
pub struct Naive;

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
    let program = Program::new("logits_naive.cu").with("VOCAB", vocab);
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
