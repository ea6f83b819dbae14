//! `cuda/sample.cu` and `cuda/sample_naive.cu`.

use super::super::{Kernel, Sample, SampleArgs, SampleSpec, Unsupported};
use crate::{
    device::{
        Cuda,
        cuda::{CudaBuffer, Launch, Program, arg},
    },
    error::Result,
};

/// Every kind of row: top-k bounded by delegates, top-p by rejection.
pub struct Rejection;
/// Rows without top-k or top-p.
pub struct Gumbel;
/// Greedy rows.
pub struct Greedy;
/// One block a row, thresholds by bisection.
pub struct Naive;

impl Kernel<Sample, Cuda> for Rejection {
    fn name(&self) -> &'static str {
        "rejection"
    }

    fn about(&self) -> &'static str {
        "every kind of row: one pass by the whole chip, then only what top-k and top-p need"
    }

    fn supports(&self, _: &SampleSpec) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn scratch(&self, args: &SampleArgs<'_, Cuda>) -> usize {
        scratch(args)
    }

    fn launch(&self, dev: &Cuda, args: SampleArgs<'_, Cuda>, scratch: &mut CudaBuffer) -> Result<()> {
        launch(dev, args, SampleSpec { random: true, truncated: true }, scratch)
    }
}

impl Kernel<Sample, Cuda> for Gumbel {
    fn name(&self) -> &'static str {
        "gumbel"
    }

    fn about(&self) -> &'static str {
        "one pass by the whole chip; no top-k or top-p"
    }

    fn supports(&self, spec: &SampleSpec) -> std::result::Result<(), Unsupported> {
        if spec.truncated { Err(Unsupported("top-k or top-p".into())) } else { Ok(()) }
    }

    fn scratch(&self, args: &SampleArgs<'_, Cuda>) -> usize {
        scratch(args)
    }

    fn launch(&self, dev: &Cuda, args: SampleArgs<'_, Cuda>, scratch: &mut CudaBuffer) -> Result<()> {
        launch(dev, args, SampleSpec { random: true, truncated: false }, scratch)
    }
}

impl Kernel<Sample, Cuda> for Greedy {
    fn name(&self) -> &'static str {
        "greedy"
    }

    fn about(&self) -> &'static str {
        "the most likely token alone"
    }

    fn supports(&self, spec: &SampleSpec) -> std::result::Result<(), Unsupported> {
        if spec.random { Err(Unsupported("rows that are not greedy".into())) } else { Ok(()) }
    }

    fn scratch(&self, args: &SampleArgs<'_, Cuda>) -> usize {
        scratch(args)
    }

    fn launch(&self, dev: &Cuda, args: SampleArgs<'_, Cuda>, scratch: &mut CudaBuffer) -> Result<()> {
        launch(dev, args, SampleSpec::default(), scratch)
    }
}

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
        launch_naive(dev, args)
    }
}

/// Tokens that a warp reads: `STRIP` of `cuda/sample.cu`.
const STRIP: usize = 1024;
/// Bytes that the survey notes of a strip: its race's winner, eight segments' largest logits and masses.
const STRIP_SCRATCH: usize = 8 + 8 * 4 + 8 * 4;

fn scratch(args: &SampleArgs<'_, Cuda>) -> usize {
    let &[rows, vocab] = args.logits.shape() else { unreachable!("checked") };
    rows * vocab.div_ceil(STRIP) * STRIP_SCRATCH
}

/// Survey, pick and, with top-k or top-p, reject, compiled for rows of this `kind`.
fn launch(dev: &Cuda, mut a: SampleArgs<'_, Cuda>, kind: SampleSpec, scratch: &mut CudaBuffer) -> Result<()> {
    const SURVEY_THREADS: usize = 128;
    let &[rows, vocab] = a.logits.shape() else { unreachable!("checked") };
    let program = Program::new("sample.cu")
        .with("VOCAB", vocab)
        .with("RANDOM", kind.random.into())
        .with("TRUNCATED", kind.truncated.into());
    let strips = vocab.div_ceil(STRIP).div_ceil(SURVEY_THREADS / 32);
    let survey =
        Launch { program, function: "survey", grid: [strips, rows, 1], block: SURVEY_THREADS, shared: 0 };
    let pick = Launch { program, function: "pick", grid: [rows, 1, 1], block: 512, shared: 0 };
    let reject = Launch { program, function: "reject", grid: [rows, 1, 1], block: 1024, shared: 0 };
    let args = [
        arg(a.logits.address()),
        arg(a.top_p_tail.address()),
        arg(a.params.address()),
        arg(scratch.address()),
        arg(a.out.address()),
    ];
    // SAFETY: the parameters of `survey` (without `out`), `pick` and `reject`; the contract's shapes say that the logits
    // cover `rows` rows of `vocab` and the others as many rows, and `scratch` a row of notes for each.
    unsafe {
        dev.launch(&survey, &args[..4])?;
        dev.launch(&pick, &args)?;
        if kind.truncated {
            dev.launch(&reject, &args)?;
        }
    }
    Ok(())
}

fn launch_naive(dev: &Cuda, mut a: SampleArgs<'_, Cuda>) -> Result<()> {
    let &[rows, vocab] = a.logits.shape() else { unreachable!("checked") };
    let program = Program::new("sample_naive.cu").with("VOCAB", vocab);
    let launch = Launch { program, function: "sample_naive", grid: [rows, 1, 1], block: 256, shared: 0 };
    let args =
        [arg(a.logits.address()), arg(a.top_p_tail.address()), arg(a.params.address()), arg(a.out.address())];
    // SAFETY: the parameters of `sample_naive`; the contract's shapes say that the logits cover `rows` rows of `vocab`,
    // and the others as many rows.
    unsafe { dev.launch(&launch, &args) }
}
