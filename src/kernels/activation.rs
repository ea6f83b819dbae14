//! Gated activations: SiLU·mul and GELU·mul.

pub use lathe_reference::activation::Activation;

use super::{Op, argument, size, want_dtype, want_float, want_shape};
use crate::{
    device::{DType, Device, View, ViewMut},
    error::Result,
};

/// `out[r, i] = act(x[r, i]) * x[r, inter + i]`. Oracle: `reference/src/activation.rs`. Source: arXiv:2002.05202.
pub struct GatedActivation;

/// Arguments of [`GatedActivation`].
pub struct ActivationArgs<'a, D: Device> {
    /// `[rows, 2 * inter]`: gate, then up.
    pub x: View<'a, D>,
    /// The gate's function.
    pub activation: Activation,
    /// `[rows, inter]`, x's dtype.
    pub out: ViewMut<'a, D>,
}

impl Op for GatedActivation {
    const NAME: &'static str = "activation";
    type Args<'a, D: Device> = ActivationArgs<'a, D>;
    type Spec = (DType, Activation);

    fn spec<D: Device>(a: &ActivationArgs<'_, D>) -> (DType, Activation) {
        (a.x.dtype(), a.activation)
    }

    fn check<D: Device>(a: &ActivationArgs<'_, D>) -> Result<()> {
        let op = Self::NAME;
        let &[rows, inter] = a.out.shape() else {
            return argument(op, false, "rank of out", || {
                (format!("{:?}", a.out.shape()), "[rows, inter]".into())
            });
        };
        want_float(op, "x", a.x.dtype())?;
        want_dtype(op, "out", a.out.dtype(), a.x.dtype())?;
        want_shape(op, "x", a.x.shape(), &[rows, 2 * inter])
    }

    fn bytes<D: Device>(a: &ActivationArgs<'_, D>) -> u64 {
        size(&a.x) + size(&a.out.as_view())
    }

    fn flops<D: Device>(a: &ActivationArgs<'_, D>) -> u64 {
        5 * a.out.elements() as u64
    }
}
