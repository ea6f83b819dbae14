//! `cuda/sample*`.

use super::{
    super::{Kernel, Op, Sample, SampleArgs, SampleSpec, Unsupported},
    u32,
};
use crate::{
    device::{
        Cuda,
        cuda::{CudaBuffer, Launch, Program, arg},
    },
    error::Result,
};

/// How a token is drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    /// Every kind of row: top-k bounded by delegates, top-p by rejection.
    Rejection,
    /// Rows without top-k or top-p.
    Gumbel,
    /// Greedy rows.
    Greedy,
    /// Every kind of row, sorted where it has top-k or top-p.
    Sorting,
    /// Every kind of row, thresholds by bisection.
    Naive,
}

/// Tokens that a warp of the survey reads: `STRIP` of `cuda/sample.cu`.
const STRIP: usize = 1024;
/// Bytes that the survey notes of a strip: its race's winner, eight segments' largest logits and masses.
const STRIP_SCRATCH: usize = 8 + 8 * 4 + 8 * 4;
/// Most rows that are sorted at a time: more would cost more scratch memory than they bring.
const SORTED: usize = 128;

impl Kernel<Sample, Cuda> for Draw {
    fn name(&self) -> &'static str {
        match self {
            Self::Rejection => "rejection",
            Self::Gumbel => "gumbel",
            Self::Greedy => "greedy",
            Self::Sorting => "sorting",
            Self::Naive => "naive",
        }
    }

    fn about(&self) -> &'static str {
        match self {
            Self::Rejection => {
                "every kind of row: one pass by the whole chip, then only what top-k and top-p need"
            }
            Self::Gumbel => "one pass by the whole chip; no top-k or top-p",
            Self::Greedy => "the most likely token alone",
            Self::Sorting => "one block a row; every kind of row; top-k and top-p by radix sort",
            Self::Naive => "one block a row; every kind of row; thresholds by bisection",
        }
    }

    fn supports(&self, spec: &SampleSpec) -> std::result::Result<(), Unsupported> {
        match self {
            Self::Gumbel if spec.truncated => Err(Unsupported("top-k or top-p".into())),
            Self::Greedy if spec.random => Err(Unsupported("rows that are not greedy".into())),
            _ => Ok(()),
        }
    }

    fn scratch(&self, args: &SampleArgs<'_, Cuda>) -> usize {
        let &[rows, vocab] = args.logits.shape() else { unreachable!("checked") };
        match self {
            Self::Rejection | Self::Gumbel | Self::Greedy => rows * vocab.div_ceil(STRIP) * STRIP_SCRATCH,
            // Two lists of pairs.
            Self::Sorting => rows.min(SORTED) * 2 * vocab * size_of::<u64>(),
            Self::Naive => 0,
        }
    }

    fn launch(&self, dev: &Cuda, mut a: SampleArgs<'_, Cuda>, scratch: &mut CudaBuffer) -> Result<()> {
        const SURVEY_THREADS: usize = 128;
        let &[rows, vocab] = a.logits.shape() else { unreachable!("checked") };
        let (random, truncated) = (*self != Self::Greedy, !matches!(self, Self::Greedy | Self::Gumbel));
        let program = Program::new("sample.cu")
            .with("VOCAB", vocab)
            .with("RANDOM", random.into())
            .with("TRUNCATED", truncated.into());
        let of = |function, grid, block| Launch { program, function, grid, block, shared: 0 };
        let [logits, temperature, tail, params, scratch, out] = [
            arg(a.logits.address()),
            arg(a.temperature.address()),
            arg(a.top_p_tail.address()),
            arg(a.params.address()),
            arg(scratch.address()),
            arg(a.out.address()),
        ];
        // SAFETY: the functions' parameters in their order; the contract's shapes say that the logits cover `rows` rows of
        // `vocab` and the others as many rows. `scratch` has a row of notes for each (`survey`, `pick`, `reject`) or two
        // lists for each block (`sample_sorting`).
        // The kernel begins with `wait_for_previous`.
        unsafe {
            match self {
                Self::Rejection | Self::Gumbel | Self::Greedy => {
                    let strips = vocab.div_ceil(STRIP).div_ceil(SURVEY_THREADS / 32);
                    let survey = of("survey", [strips, rows, 1], SURVEY_THREADS);
                    dev.launch_early(&survey, &[logits, temperature, tail, params, scratch])?;
                    let args = [logits, temperature, tail, params, scratch, out];
                    dev.launch_early(&of("pick", [rows, 1, 1], 512), &args)?;
                    if truncated {
                        dev.launch_early(&of("reject", [rows, 1, 1], 1024), &args)?;
                    }
                    Ok(())
                }
                Self::Sorting => {
                    let block = if vocab <= 2048 { 256 } else { 1024 };
                    let sort = of("sample_sorting", [rows.min(SORTED), 1, 1], block);
                    let rows = arg(u32(Sample::NAME, "rows", rows)?);
                    dev.launch(&sort, &[logits, temperature, tail, params, scratch, out, rows])
                }
                Self::Naive => dev.launch(
                    &of("sample_naive", [rows, 1, 1], 256),
                    &[logits, temperature, tail, params, out],
                ),
            }
        }
    }
}
