//! Matrix product with a weight stored as Hugging Face stores it, or in [`strips`].

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
    /// `[n, k]`, contiguous, x's dtype. Or, for kernels that say so in [`super::Kernel::reads_strips`], the same in
    /// [`strips`].
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

/// Weights in the order of their use: a kernel that walks them from one end to the other reads memory as fast as it
/// gives, and has nothing to rearrange.
///
/// A strip is 16 rows, a block 8 elements (16 bytes) of a row. Strip after strip, all blocks `0..8` of k, then all
/// blocks `8..16`, …; within them row 0, 4, 8, 12, 1, 5, …, 15, so that a vector of four blocks has every fourth row.
/// Rows are filled up with zeros to whole steps of 32 elements, the last strip with rows of zeros.
pub mod strips {
    /// Rows of a strip.
    pub const ROWS: usize = 16;
    /// Elements of a block.
    pub const BLOCK: usize = 8;
    /// What a row's length is rounded up to.
    pub const STEP: usize = 32;
    /// Bytes of a bf16 block.
    const BYTES: usize = 2 * BLOCK;

    /// The shape of a weight `[n, k]` in strips: `[strips, blocks of k, ROWS, BLOCK]`.
    pub fn shape(n: usize, k: usize) -> [usize; 4] {
        [n.div_ceil(ROWS), k.next_multiple_of(STEP) / BLOCK, ROWS, BLOCK]
    }

    /// Writes the bytes of a strip's row `row`, of 16-bit elements, to their places in the strip.
    pub fn place(from: &[u8], row: usize, strip: &mut [u8]) {
        let lane = row % 4 * 4 + row / 4;
        let to = strip.as_chunks_mut::<BYTES>().0[lane..].iter_mut().step_by(ROWS);
        for (to, from) in to.zip(from.chunks(BYTES)) {
            to[..from.len()].copy_from_slice(from);
        }
    }
}

impl Op for Linear {
    const NAME: &'static str = "linear";
    type Args<'a, D: Device> = LinearArgs<'a, D>;
    type Spec = LinearSpec;

    fn spec<D: Device>(a: &LinearArgs<'_, D>) -> LinearSpec {
        let (n, k) = (a.out.shape()[1], a.x.shape()[1]);
        LinearSpec { dtype: a.x.dtype(), out: a.out.dtype(), n, k, bias: a.bias.is_some() }
    }

    fn check<D: Device>(a: &LinearArgs<'_, D>) -> Result<()> {
        let op = Self::NAME;
        let (x, w, out) = (a.x.shape(), a.weight.shape(), a.out.shape());
        argument(op, x.len() == 2 && matches!(w.len(), 2 | 4), "rank of x and weight", || {
            (format!("{x:?}, {w:?}"), "[m, k], [n, k]".into())
        })?;
        want_float(op, "x", a.x.dtype())?;
        want_dtype(op, "weight", a.weight.dtype(), a.x.dtype())?;
        if w.len() == 4 {
            want_dtype(op, "weight in strips", a.weight.dtype(), DType::Bf16)?;
            want_shape(op, "out", out, &[x[0], *out.get(1).unwrap_or(&0)])?;
            want_shape(op, "weight in strips", w, &strips::shape(out[1], x[1]))?;
        } else {
            want_shape(op, "x", x, &[x[0], w[1]])?;
            want_shape(op, "out", out, &[x[0], w[0]])?;
        }
        argument(
            op,
            a.weight.is_contiguous() && a.out.as_view().is_contiguous(),
            "layout of weight and out",
            || ("rows apart".into(), "contiguous".into()),
        )?;
        if let Some(b) = &a.bias {
            want_shape(op, "bias", b.shape(), &[out[1]])?;
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
        2 * (a.x.elements() * a.out.shape()[1]) as u64
    }
}
