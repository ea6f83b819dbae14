//! Matrix product with a weight stored as Hugging Face stores it.

use super::{Op, argument, size, want_dtype, want_float, want_shape};
use crate::{
    device::{DType, Device, View, ViewMut},
    error::Result,
};

/// `out[m, n] = sum_k x[m, k] * weight[n, k] (+ bias[n])`, sums in f32. Oracle: `reference/src/linear.rs`.
pub struct Linear;

/// Arguments of [`Linear`].
pub struct LinearArgs<'a, D: Device> {
    /// `[m, k]`; rows may lie apart.
    pub x: View<'a, D>,
    /// `[n, k]`, contiguous, x's dtype.
    pub weight: View<'a, D>,
    /// `[n]`, x's dtype.
    pub bias: Option<View<'a, D>>,
    /// `[m, n]`, x's dtype or f32; contiguous.
    pub out: ViewMut<'a, D>,
}

/// What a kernel of [`Linear`] may depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinearSpec {
    /// Of x and weight.
    pub dtype: DType,
    /// Of out.
    pub out: DType,
    /// Columns of out.
    pub n: usize,
    /// Columns of x.
    pub k: usize,
    /// Whether there is a bias.
    pub bias: bool,
}

impl Op for Linear {
    const NAME: &'static str = "linear";
    type Args<'a, D: Device> = LinearArgs<'a, D>;
    type Spec = LinearSpec;

    fn spec<D: Device>(a: &LinearArgs<'_, D>) -> LinearSpec {
        let &[n, k] = a.weight.shape() else { unreachable!("checked") };
        LinearSpec { dtype: a.x.dtype(), out: a.out.dtype(), n, k, bias: a.bias.is_some() }
    }

    fn check<D: Device>(a: &LinearArgs<'_, D>) -> Result<()> {
        let op = Self::NAME;
        let (x, w) = (a.x.shape(), a.weight.shape());
        argument(op, x.len() == 2 && w.len() == 2, "rank of x and weight", || {
            (format!("{x:?}, {w:?}"), "[m, k], [n, k]".into())
        })?;
        want_float(op, "x", a.x.dtype())?;
        want_dtype(op, "weight", a.weight.dtype(), a.x.dtype())?;
        want_shape(op, "x", x, &[x[0], w[1]])?;
        want_shape(op, "out", a.out.shape(), &[x[0], w[0]])?;
        argument(
            op,
            a.weight.is_contiguous() && a.out.as_view().is_contiguous(),
            "layout of weight and out",
            || ("rows apart".into(), "contiguous".into()),
        )?;
        if let Some(b) = &a.bias {
            want_shape(op, "bias", b.shape(), &[w[0]])?;
            want_dtype(op, "bias", b.dtype(), a.x.dtype())?;
        }
        if a.out.dtype() != DType::F32 {
            want_dtype(op, "out", a.out.dtype(), a.x.dtype())?;
        }
        Ok(())
    }

    fn bytes<D: Device>(a: &LinearArgs<'_, D>) -> u64 {
        size(&a.x) + size(&a.weight) + a.bias.as_ref().map_or(0, size) + size(&a.out.as_view())
    }

    fn flops<D: Device>(a: &LinearArgs<'_, D>) -> u64 {
        2 * (a.x.shape()[0] * a.weight.elements()) as u64
    }
}
