//! Rotary position embedding of the query and key heads of a packed qkv tensor, after q/k-norm if any.

use super::{Op, argument, size, want_dtype, want_float, want_shape};
use crate::{
    device::{DType, Device, View, ViewMut},
    error::Result,
};

/// Normalises (where the model has q/k-norm) and rotates the first `heads + kv_heads` heads, in place.
///
/// Rotation is Hugging Face's `rotate_half`: element `i` pairs with `i + head_dim / 2`. Between norm and rotation
/// nothing is rounded. Oracle: `reference/src/rope.rs`, `reference/src/rms_norm.rs`. Source: arXiv:2104.09864.
pub struct Rope;

/// Arguments of [`Rope`].
pub struct RopeArgs<'a, D: Device> {
    /// `[tokens, heads + 2 * kv_heads, head_dim]`: q, k, v. The v heads are left alone.
    pub qkv: ViewMut<'a, D>,
    /// Query heads.
    pub heads: usize,
    /// Key (and value) heads.
    pub kv_heads: usize,
    /// `[head_dim]` norm weights of q and of k.
    pub qk_norm: Option<[View<'a, D>; 2]>,
    /// Of the norm.
    pub eps: f32,
    /// Of the norm: 1 for Gemma, else 0.
    pub offset: f32,
    /// `[max_positions, head_dim]` f32: the cosines of a position's `head_dim / 2` angles, then the sines.
    pub cos_sin: View<'a, D>,
    /// `[tokens]` i32, each below max_positions (checked by the engine).
    pub positions: View<'a, D>,
}

impl<D: Device> RopeArgs<'_, D> {
    /// A shorter borrow of the same arguments.
    pub fn reborrow(&mut self) -> RopeArgs<'_, D> {
        let Self { heads, kv_heads, qk_norm, eps, offset, cos_sin, positions, .. } = *self;
        let qkv = self.qkv.reborrow();
        RopeArgs { qkv, heads, kv_heads, qk_norm, eps, offset, cos_sin, positions }
    }
}

impl Op for Rope {
    const NAME: &'static str = "rope";
    type Args<'a, D: Device> = RopeArgs<'a, D>;
    type Spec = (DType, bool);

    fn spec<D: Device>(a: &RopeArgs<'_, D>) -> (DType, bool) {
        (a.qkv.dtype(), a.qk_norm.is_some())
    }

    fn check<D: Device>(a: &RopeArgs<'_, D>) -> Result<()> {
        let op = Self::NAME;
        let &[tokens, all, dim] = a.qkv.shape() else {
            let got = format!("{:?}", a.qkv.shape());
            return argument(op, false, "rank of qkv", || (got, "[tokens, heads, head_dim]".into()));
        };
        want_float(op, "qkv", a.qkv.dtype())?;
        want_shape(op, "qkv", &[tokens, all, dim], &[tokens, a.heads + 2 * a.kv_heads, dim])?;
        argument(op, dim % 2 == 0, "head_dim", || (dim.to_string(), "an even number".into()))?;
        for norm in a.qk_norm.iter().flatten() {
            want_shape(op, "qk_norm", norm.shape(), &[dim])?;
            want_dtype(op, "qk_norm", norm.dtype(), a.qkv.dtype())?;
        }
        want_dtype(op, "cos_sin", a.cos_sin.dtype(), DType::F32)?;
        want_shape(op, "cos_sin", a.cos_sin.shape(), &[a.cos_sin.shape()[0], dim])?;
        want_dtype(op, "positions", a.positions.dtype(), DType::I32)?;
        want_shape(op, "positions", a.positions.shape(), &[tokens])
    }

    fn bytes<D: Device>(a: &RopeArgs<'_, D>) -> u64 {
        let &[tokens, all, dim] = a.qkv.shape() else { unreachable!("checked") };
        let rotated = (a.qkv.elements() / all * (a.heads + a.kv_heads) * a.qkv.dtype().size()) as u64;
        let norms: u64 = a.qk_norm.iter().flatten().map(size).sum();
        // Tokens may share a position.
        let angles = tokens.min(a.cos_sin.shape()[0]) * dim * 4;
        2 * rotated + norms + angles as u64 + size(&a.positions)
    }

    fn flops<D: Device>(a: &RopeArgs<'_, D>) -> u64 {
        let &[tokens, _, dim] = a.qkv.shape() else { unreachable!("checked") };
        let each = if a.qk_norm.is_some() { 7 } else { 3 };
        (each * tokens * (a.heads + a.kv_heads) * dim) as u64
    }
}
