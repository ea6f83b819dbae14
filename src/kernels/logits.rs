//! Logits processing: what the request asks for before a token is drawn.

use super::{Op, argument, size, want_dtype, want_shape};
use crate::{
    device::{DType, Device, View, ViewMut},
    error::Result,
};

/// Soft-cap, bias, penalties and min-p, in place and in this order (vLLM's). Oracle: `reference/src/logits.rs`.
///
/// Min-p compares what the temperature leaves; the division itself is for who reads the row next,
/// [`Sample`](super::Sample).
pub struct Logits;

/// Arguments of [`Logits`]. Lists by row are concatenated, with `*_start[row]..*_start[row + 1]` for a row's part.
pub struct LogitsArgs<'a, D: Device> {
    /// `[rows, vocab]` f32, contiguous.
    pub logits: ViewMut<'a, D>,
    /// `[rows, 5]` f32: temperature (for min_p; 0 = greedy: none), min_p, repetition, frequency, presence penalty.
    pub params: View<'a, D>,
    /// `[rows + 1]` i32.
    pub history_start: View<'a, D>,
    /// Distinct token ids of prompt and output; empty for rows without penalties. i32.
    pub history_ids: View<'a, D>,
    /// How often each occurs in the output (0: in the prompt only). i32.
    pub history_counts: View<'a, D>,
    /// `[rows + 1]` i32.
    pub bias_start: View<'a, D>,
    /// Token ids. i32.
    pub bias_ids: View<'a, D>,
    /// Added to their logits; minus infinity bans. f32.
    pub bias_values: View<'a, D>,
    /// Gemma's final soft-cap: `cap * tanh(logit / cap)`.
    pub softcap: Option<f32>,
}

impl Op for Logits {
    const NAME: &'static str = "logits";
    type Args<'a, D: Device> = LogitsArgs<'a, D>;
    type Spec = ();

    fn spec<D: Device>(_: &LogitsArgs<'_, D>) {}

    fn check<D: Device>(a: &LogitsArgs<'_, D>) -> Result<()> {
        let op = Self::NAME;
        let &[rows, _] = a.logits.shape() else {
            return argument(op, false, "rank of logits", || {
                (format!("{:?}", a.logits.shape()), "[rows, vocab]".into())
            });
        };
        want_dtype(op, "logits", a.logits.dtype(), DType::F32)?;
        want_dtype(op, "params", a.params.dtype(), DType::F32)?;
        want_shape(op, "params", a.params.shape(), &[rows, 5])?;
        for (name, v) in [("history_start", &a.history_start), ("bias_start", &a.bias_start)] {
            want_dtype(op, name, v.dtype(), DType::I32)?;
            want_shape(op, name, v.shape(), &[rows + 1])?;
        }
        want_dtype(op, "history_ids", a.history_ids.dtype(), DType::I32)?;
        want_dtype(op, "history_counts", a.history_counts.dtype(), DType::I32)?;
        want_shape(op, "history_counts", a.history_counts.shape(), a.history_ids.shape())?;
        want_dtype(op, "bias_ids", a.bias_ids.dtype(), DType::I32)?;
        want_dtype(op, "bias_values", a.bias_values.dtype(), DType::F32)?;
        want_shape(op, "bias_values", a.bias_values.shape(), a.bias_ids.shape())
    }

    fn bytes<D: Device>(a: &LogitsArgs<'_, D>) -> u64 {
        let lists =
            [&a.history_start, &a.history_ids, &a.history_counts, &a.bias_start, &a.bias_ids, &a.bias_values];
        2 * size(&a.logits.as_view()) + size(&a.params) + lists.into_iter().map(size).sum::<u64>()
    }

    fn flops<D: Device>(a: &LogitsArgs<'_, D>) -> u64 {
        2 * a.logits.elements() as u64
    }
}
