//! RMSNorm, alone and with the residual addition before it.

use super::{Op, argument, size, want_dtype, want_float, want_shape};
use crate::{
    device::{DType, Device, View, ViewMut},
    error::Result,
};

/// `out = x / sqrt(mean(x²) + eps) * (weight + offset)` by row, sums in f32. Oracle: `reference/src/rms_norm.rs`.
pub struct RmsNorm;

/// Arguments of [`RmsNorm`].
pub struct RmsNormArgs<'a, D: Device> {
    /// `[rows, dim]`.
    pub x: View<'a, D>,
    /// `[dim]`.
    pub weight: View<'a, D>,
    /// Added to the mean square.
    pub eps: f32,
    /// Added to the weight in f32: 1 for Gemma, else 0.
    pub offset: f32,
    /// `[rows, dim]`, x's dtype.
    pub out: ViewMut<'a, D>,
}

impl Op for RmsNorm {
    const NAME: &'static str = "rms_norm";
    type Args<'a, D: Device> = RmsNormArgs<'a, D>;
    type Spec = DType;

    fn spec<D: Device>(a: &RmsNormArgs<'_, D>) -> DType {
        a.x.dtype()
    }

    fn check<D: Device>(a: &RmsNormArgs<'_, D>) -> Result<()> {
        check_norm(Self::NAME, &a.x, &a.weight, &a.out, a.eps)
    }

    fn bytes<D: Device>(a: &RmsNormArgs<'_, D>) -> u64 {
        2 * size(&a.x) + size(&a.weight)
    }

    fn flops<D: Device>(a: &RmsNormArgs<'_, D>) -> u64 {
        4 * a.x.elements() as u64
    }
}

/// `residual += x`, rounded to its dtype; `out = norm(residual)`. Oracle: `reference/src/add_rms_norm.rs`.
pub struct AddRmsNorm;

/// Arguments of [`AddRmsNorm`].
pub struct AddRmsNormArgs<'a, D: Device> {
    /// `[rows, dim]`.
    pub x: View<'a, D>,
    /// `[rows, dim]`, x's dtype; read and written.
    pub residual: ViewMut<'a, D>,
    /// `[dim]`.
    pub weight: View<'a, D>,
    /// Added to the mean square.
    pub eps: f32,
    /// Added to the weight in f32: 1 for Gemma, else 0.
    pub offset: f32,
    /// `[rows, dim]`, x's dtype.
    pub out: ViewMut<'a, D>,
}

impl Op for AddRmsNorm {
    const NAME: &'static str = "add_rms_norm";
    type Args<'a, D: Device> = AddRmsNormArgs<'a, D>;
    type Spec = DType;

    fn spec<D: Device>(a: &AddRmsNormArgs<'_, D>) -> DType {
        a.x.dtype()
    }

    fn check<D: Device>(a: &AddRmsNormArgs<'_, D>) -> Result<()> {
        check_norm(Self::NAME, &a.x, &a.weight, &a.out, a.eps)?;
        want_dtype(Self::NAME, "residual", a.residual.dtype(), a.x.dtype())?;
        want_shape(Self::NAME, "residual", a.residual.shape(), a.x.shape())
    }

    fn bytes<D: Device>(a: &AddRmsNormArgs<'_, D>) -> u64 {
        4 * size(&a.x) + size(&a.weight)
    }

    fn flops<D: Device>(a: &AddRmsNormArgs<'_, D>) -> u64 {
        5 * a.x.elements() as u64
    }
}

fn check_norm<D: Device>(
    op: &'static str,
    x: &View<'_, D>,
    weight: &View<'_, D>,
    out: &ViewMut<'_, D>,
    eps: f32,
) -> Result<()> {
    let &[_, dim] = x.shape() else {
        return argument(op, false, "rank of x", || (format!("{:?}", x.shape()), "[rows, dim]".into()));
    };
    want_float(op, "x", x.dtype())?;
    want_dtype(op, "weight", weight.dtype(), x.dtype())?;
    want_dtype(op, "out", out.dtype(), x.dtype())?;
    want_shape(op, "weight", weight.shape(), &[dim])?;
    want_shape(op, "out", out.shape(), x.shape())?;
    argument(op, eps >= 0.0, "eps", || (eps.to_string(), "at least 0".into()))
}
