//! Sampling: top-k, top-p and the draw.

use super::{Op, argument, size, want_dtype, want_shape};
use crate::{
    device::{DType, Device, View, ViewMut},
    error::Result,
};

/// One token a row from processed logits: temperature, softmax, top-k, top-p, draw. Ties and boundaries as Hugging
/// Face's warpers. A row with a NaN or without a finite logit (both after the temperature) gives -1. Oracle:
/// `reference/src/sampling.rs`.
///
/// The temperature is here and not among what [`Logits`](super::Logits) does in place, because a sampler reads the
/// whole row anyway: with nothing else to process, a step passes over its logits once.
///
/// The random numbers are Philox-4x32-10 keyed by (seed, position), so a row's token does not depend on its batch.
pub struct Sample;

/// Arguments of [`Sample`].
pub struct SampleArgs<'a, D: Device> {
    /// `[rows, vocab]` f32, processed: penalties, min-p; contiguous.
    pub logits: View<'a, D>,
    /// `[rows]` f32: what the logits are divided by, each by one f32 division. Greedy rows are not, and theirs may be 0.
    pub temperature: View<'a, D>,
    /// `[rows]` f32: what top-p may cut off, `1 - top_p` in f64 rounded once; 0 is off. Not top_p itself: the
    /// tail of a rounded top_p misses the sums that Hugging Face's float64 top_p meets exactly.
    pub top_p_tail: View<'a, D>,
    /// `[rows, 5]` i32: greedy (0 or 1), top_k (0 is off), seed (low half, high half), position of the new token.
    pub params: View<'a, D>,
    /// What the rows ask for together, known to the host.
    pub spec: SampleSpec,
    /// `[rows]` i32: the token, or -1.
    pub out: ViewMut<'a, D>,
}

/// What a kernel of [`Sample`] may depend on or refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct SampleSpec {
    /// Some row is not greedy.
    pub random: bool,
    /// Some row has a top-k or top-p.
    pub truncated: bool,
}

impl Op for Sample {
    const NAME: &'static str = "sample";
    type Args<'a, D: Device> = SampleArgs<'a, D>;
    type Spec = SampleSpec;

    fn spec<D: Device>(a: &SampleArgs<'_, D>) -> SampleSpec {
        a.spec
    }

    fn check<D: Device>(a: &SampleArgs<'_, D>) -> Result<()> {
        let op = Self::NAME;
        let &[rows, _] = a.logits.shape() else {
            return argument(op, false, "rank of logits", || {
                (format!("{:?}", a.logits.shape()), "[rows, vocab]".into())
            });
        };
        want_dtype(op, "logits", a.logits.dtype(), DType::F32)?;
        want_dtype(op, "temperature", a.temperature.dtype(), DType::F32)?;
        want_shape(op, "temperature", a.temperature.shape(), &[rows])?;
        want_dtype(op, "top_p_tail", a.top_p_tail.dtype(), DType::F32)?;
        want_shape(op, "top_p_tail", a.top_p_tail.shape(), &[rows])?;
        want_dtype(op, "params", a.params.dtype(), DType::I32)?;
        want_shape(op, "params", a.params.shape(), &[rows, 5])?;
        want_dtype(op, "out", a.out.dtype(), DType::I32)?;
        want_shape(op, "out", a.out.shape(), &[rows])
    }

    fn bytes<D: Device>(a: &SampleArgs<'_, D>) -> u64 {
        let rows = [&a.temperature, &a.top_p_tail, &a.params].into_iter().map(size).sum::<u64>();
        size(&a.logits) + rows + size(&a.out.as_view())
    }

    fn flops<D: Device>(a: &SampleArgs<'_, D>) -> u64 {
        3 * a.logits.elements() as u64
    }
}
