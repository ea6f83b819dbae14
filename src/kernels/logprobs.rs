//! Log-probabilities: what is told of tokens besides the tokens themselves.

use super::{Op, argument, size, want_dtype, want_shape};
use crate::{
    device::{DType, Device, View, ViewMut},
    error::Result,
};

/// Log-probabilities under the softmax of the model's logits, before any processing: of one token a row, with its rank,
/// and of the `top` likeliest. Oracle: `reference/src/logprobs.rs`.
///
/// A row with a NaN or without a finite logit gets values without meaning, but gets them.
pub struct Logprobs;

/// Arguments of [`Logprobs`].
pub struct LogprobsArgs<'a, D: Device> {
    /// `[rows, vocab]` f32, contiguous.
    pub logits: View<'a, D>,
    /// `[rows]` i32; what is no token gets minus infinity and rank 0.
    pub tokens: View<'a, D>,
    /// Gemma's final soft-cap, as for the logits that tokens are drawn from.
    pub softcap: Option<f32>,
    /// `[rows, 1 + top]` f32: the token's log-probability, then those of the likeliest tokens, in the order of `ids`.
    pub values: ViewMut<'a, D>,
    /// `[rows, 1 + top]` i32: how many tokens are at least as likely as the token, itself included; then the likeliest
    /// tokens, of equal ones those with the lowest ids, by ascending id.
    pub ids: ViewMut<'a, D>,
}

impl Op for Logprobs {
    const NAME: &'static str = "logprobs";
    type Args<'a, D: Device> = LogprobsArgs<'a, D>;
    type Spec = ();

    fn spec<D: Device>(_: &LogprobsArgs<'_, D>) {}

    fn check<D: Device>(a: &LogprobsArgs<'_, D>) -> Result<()> {
        let op = Self::NAME;
        let (&[rows, vocab], &[_, told]) = (a.logits.shape(), a.ids.shape()) else {
            return argument(op, false, "ranks of logits and ids", || {
                let shapes = format!("{:?} and {:?}", a.logits.shape(), a.ids.shape());
                (shapes, "[rows, vocab] and [rows, 1 + top]".into())
            });
        };
        argument(op, (1..=vocab + 1).contains(&told), "columns of ids", || {
            (told.to_string(), format!("1 to {}", vocab + 1))
        })?;
        want_dtype(op, "logits", a.logits.dtype(), DType::F32)?;
        want_dtype(op, "tokens", a.tokens.dtype(), DType::I32)?;
        want_shape(op, "tokens", a.tokens.shape(), &[rows])?;
        want_dtype(op, "values", a.values.dtype(), DType::F32)?;
        want_shape(op, "values", a.values.shape(), &[rows, told])?;
        want_dtype(op, "ids", a.ids.dtype(), DType::I32)?;
        want_shape(op, "ids", a.ids.shape(), &[rows, told])
    }

    fn bytes<D: Device>(a: &LogprobsArgs<'_, D>) -> u64 {
        size(&a.logits) + size(&a.tokens) + size(&a.values.as_view()) + size(&a.ids.as_view())
    }

    fn flops<D: Device>(a: &LogprobsArgs<'_, D>) -> u64 {
        2 * a.logits.elements() as u64
    }
}
