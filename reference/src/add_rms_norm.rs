//! Residual add fused with RMSNorm: the join between two halves of a decoder layer.
//! Source: [`crate::rms_norm`]; the add as in Hugging Face, where the sum is a tensor of the storage dtype.

use crate::rms_norm::rms_norm;

/// `residual += x`, rounded to storage; then `out = rms_norm(residual)`.
///
/// - `x`, `residual`, `out`: `[rows, dim]`; `weight`: `[dim]`; `eps`, `offset` as in [`rms_norm`]
/// - `round`: rounds an f32 to the storage dtype of the residual stream, for example
///   [`BF16.round`](crate::rounding::Format::round). The sum is an f32 add (what a kernel does) before that;
///   the norm reads the rounded residual, as an unfused kernel would.
pub fn add_rms_norm(
    x: &[f32],
    residual: &mut [f32],
    weight: &[f32],
    eps: f32,
    offset: f32,
    round: impl Fn(f32) -> f32,
    out: &mut [f32],
) {
    assert_eq!(x.len(), residual.len(), "add_rms_norm: residual");
    for (r, &x) in residual.iter_mut().zip(x) {
        *r = round(*r + x);
    }
    rms_norm(residual, weight, eps, offset, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounding::BF16;

    #[test]
    fn adds_then_normalises() {
        let mut residual = [1.0, 5.0];
        let mut out = [f32::NAN; 2];
        add_rms_norm(&[2.0, -1.0], &mut residual, &[1.0, 1.0], 0.0, 0.0, |v| v, &mut out);
        assert_eq!(residual, [3.0, 4.0]);
        let root = 12.5f64.sqrt();
        assert_eq!(out, [(3.0 / root) as f32, (4.0 / root) as f32]);
    }

    #[test]
    fn the_norm_sees_the_rounded_residual() {
        // 256 + 1.5 = 257.5: bf16 has a spacing of 2 there, and 258 is nearest.
        let mut residual = [256.0];
        let mut out = [f32::NAN];
        add_rms_norm(&[1.5], &mut residual, &[1.0], 1000.0, 0.0, |v| BF16.round(v.into()), &mut out);
        assert_eq!(residual, [258.0]);
        assert_eq!(out, [(258.0 / (258.0f64 * 258.0 + 1000.0).sqrt()) as f32]);
    }
}
