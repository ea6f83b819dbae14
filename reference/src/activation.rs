//! Gated activations of the feed-forward block. Source: GLU variants, arXiv:2002.05202; GELU, arXiv:1606.08415.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};

/// The function applied to the gate half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`; `silu` in `config.json`.
    Silu,
    /// `x/2 * (1 + tanh(sqrt(2/π) (x + 0.044715 x³)))`; `gelu_pytorch_tanh`.
    GeluTanh,
    /// `x/2 * (1 + erf(x / sqrt 2))`; `gelu`.
    GeluErf,
}

impl Activation {
    /// The activation of one value.
    pub fn apply(self, x: f64) -> f64 {
        match self {
            Self::Silu => x / (1.0 + (-x).exp()),
            Self::GeluTanh => 0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
            Self::GeluErf => 0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2)),
        }
    }
}

/// `out[r, i] = act(x[r, i]) * x[r, inter + i]`.
///
/// - `x`: `[rows, 2 * inter]`, the gate half first; `out`: `[rows, inter]`
pub fn gated(act: Activation, x: &[f32], inter: usize, out: &mut [f32]) {
    assert_eq!(x.len(), 2 * out.len(), "gated: out");
    for (x, out) in x.chunks_exact(2 * inter).zip(out.chunks_exact_mut(inter)) {
        let (gate, up) = x.split_at(inter);
        for ((o, &g), &u) in out.iter_mut().zip(gate).zip(up) {
            *o = (act.apply(g.into()) * f64::from(u)) as f32;
        }
    }
}

/// The error function, to about 1e-15 absolute.
///
/// Series `2/√π e^(-x²) Σ 2^n x^(2n+1) / (2n+1)!!`: its terms share one sign, so nothing cancels. Past 6 the
/// result is 1 to the last bit. Source: DLMF 7.6.2.
fn erf(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // To 16 digits with mpmath: x = 1 and x = -2.
        for (act, one, minus_two) in [
            (Activation::Silu, 0.731_058_578_630_004_9, -0.238_405_844_044_235_1),
            (Activation::GeluTanh, 0.841_191_990_608_276_7, -0.045_402_305_912_224_98),
            (Activation::GeluErf, 0.841_344_746_068_542_9, -0.045_500_263_896_358_41),
        ] {
            assert_eq!(act.apply(0.0), 0.0);
            assert!((act.apply(1.0) - one).abs() < 1e-15, "{act:?} {}", act.apply(1.0));
            assert!((act.apply(-2.0) - minus_two).abs() < 1e-15, "{act:?} {}", act.apply(-2.0));
            assert_eq!(act.apply(40.0), 40.0);
            assert!(act.apply(-40.0).abs() < 1e-15);
        }
    }

    #[test]
    fn erf_known_values() {
        for (x, want) in [
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (3.0, 0.999_977_909_503_001_4),
            (5.9, 1.0),
            (7.0, 1.0),
        ] {
            assert!((erf(x) - want).abs() < 2e-15, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
    }

    #[test]
    fn the_gate_is_the_first_half() {
        // silu(0) = 0, silu(40) = 40
        let mut out = [f32::NAN; 4];
        gated(Activation::Silu, &[0.0, 40.0, 5.0, 0.5, 40.0, 0.0, -2.0, 9.0], 2, &mut out);
        assert_eq!(out, [0.0, 20.0, -80.0, 0.0]);
    }
}
