//! Rows of a table by id: the token embedding, and the gathering of rows for the logits.

use super::{Op, argument, size, want_dtype, want_float, want_shape};
use crate::{
    device::{DType, Device, View, ViewMut},
    error::Result,
};

/// `out[t] = table[ids[t]] * scale`. Oracle: `reference/src/embedding.rs`.
pub struct Embedding;

/// Arguments of [`Embedding`].
pub struct EmbeddingArgs<'a, D: Device> {
    /// `[tokens]` i32, each below the table's rows (checked by the engine). A negative one, as a row with invalid logits
    /// draws, reads row 0.
    pub ids: View<'a, D>,
    /// `[vocab, dim]`.
    pub table: View<'a, D>,
    /// 1 for most models; Gemma multiplies by `sqrt(dim)`.
    pub scale: f32,
    /// `[tokens, dim]`, the table's dtype.
    pub out: ViewMut<'a, D>,
}

impl Op for Embedding {
    const NAME: &'static str = "embedding";
    type Args<'a, D: Device> = EmbeddingArgs<'a, D>;
    type Spec = DType;

    fn spec<D: Device>(a: &EmbeddingArgs<'_, D>) -> DType {
        a.table.dtype()
    }

    fn check<D: Device>(a: &EmbeddingArgs<'_, D>) -> Result<()> {
        let op = Self::NAME;
        argument(op, a.table.shape().len() == 2, "rank of table", || {
            (format!("{:?}", a.table.shape()), "[vocab, dim]".into())
        })?;
        want_float(op, "table", a.table.dtype())?;
        want_dtype(op, "ids", a.ids.dtype(), DType::I32)?;
        want_dtype(op, "out", a.out.dtype(), a.table.dtype())?;
        want_shape(op, "out", a.out.shape(), &[a.ids.elements(), a.table.shape()[1]])
    }

    fn bytes<D: Device>(a: &EmbeddingArgs<'_, D>) -> u64 {
        size(&a.ids) + 2 * size(&a.out.as_view())
    }

    fn flops<D: Device>(a: &EmbeddingArgs<'_, D>) -> u64 {
        if a.scale == 1.0 { 0 } else { a.out.elements() as u64 }
    }
}
