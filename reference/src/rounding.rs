//! Storage formats: rounding to them and distances in them. Source: IEEE 754-2019, round to nearest, ties to even.

/// A binary floating-point format narrower than f64.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Format {
    /// Stored fraction bits.
    pub fraction_bits: i32,
    /// Exponent of the smallest normal number.
    pub min_exponent: i32,
    /// Largest finite value.
    pub max: f64,
}

/// bfloat16: f32's exponents, 7 fraction bits.
pub const BF16: Format =
    Format { fraction_bits: 7, min_exponent: -126, max: f32::from_bits(0x7f7f_0000) as f64 };
/// IEEE half precision.
pub const F16: Format = Format { fraction_bits: 10, min_exponent: -14, max: 65_504.0 };
/// IEEE single precision.
pub const F32: Format = Format { fraction_bits: 23, min_exponent: -126, max: f32::MAX as f64 };

impl Format {
    /// Distance between neighbouring numbers of this format around `x`: one unit in the last place.
    pub fn ulp(self, x: f64) -> f64 {
        let exponent = ((x.to_bits() >> 52) & 0x7ff) as i32 - 1023;
        2f64.powi(exponent.max(self.min_exponent) - self.fraction_bits)
    }

    /// `x` rounded to this format, ties to even; too large becomes infinite. The result is exact in f32.
    pub fn round(self, x: f64) -> f32 {
        if !x.is_finite() {
            return x as f32;
        }
        let ulp = self.ulp(x);
        let rounded = (x / ulp).round_ties_even() * ulp;
        if rounded.abs() > self.max { f32::INFINITY.copysign(x as f32) } else { rounded as f32 }
    }

    /// How far `got` is from `want`, in units in the last place of `want` in this format.
    ///
    /// A correctly rounded result is within 0.5. Equal infinities are 0 apart; NaN is infinitely far from
    /// everything but NaN.
    pub fn ulps(self, got: f32, want: f64) -> f64 {
        let got = f64::from(got);
        if got == want || (got.is_nan() && want.is_nan()) {
            0.0
        } else if got.is_finite() && want.is_finite() {
            (got - want).abs() / self.ulp(want)
        } else {
            f64::INFINITY
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_even() {
        // bf16 around 1: spacing 2^-7
        let ulp = 2f64.powi(-7);
        assert_eq!(BF16.round(1.0 + 0.5 * ulp), 1.0);
        assert_eq!(BF16.round(1.0 + 1.5 * ulp), (1.0 + 2.0 * ulp) as f32);
        assert_eq!(BF16.round(1.0 + 0.5000001 * ulp), (1.0 + ulp) as f32);
        assert_eq!(BF16.round(-257.0), -256.0);
        assert_eq!(F16.round(2049.0), 2048.0);
        assert_eq!(F16.round(2051.0), 2052.0);
    }

    #[test]
    fn every_number_of_a_format_is_a_fixed_point_and_midpoints_go_to_the_even_bits() {
        // bf16 is the top half of f32, so its numbers and their successors are known without this module.
        for bits in (0..0x7f80u32).step_by(7) {
            let (x, next) = (f32::from_bits(bits << 16), f32::from_bits((bits + 1) << 16));
            assert_eq!(BF16.round(x.into()), x);
            assert_eq!(BF16.round((-x).into()), -x);
            if next.is_finite() {
                let even = if bits % 2 == 0 { x } else { next };
                assert_eq!(BF16.round((f64::from(x) + f64::from(next)) / 2.0), even, "after {x}");
            }
        }
    }

    #[test]
    fn subnormals_and_overflow() {
        let tiny = 2f64.powi(-24); // smallest f16
        assert_eq!(F16.round(tiny), tiny as f32);
        assert_eq!(F16.round(0.5 * tiny), 0.0);
        assert_eq!(F16.round(1.5 * tiny), 2.0 * tiny as f32);
        assert_eq!(F16.round(65_519.0), 65_504.0);
        assert_eq!(F16.round(65_520.0), f32::INFINITY);
        assert_eq!(F16.round(-1e9), f32::NEG_INFINITY);
        assert_eq!(BF16.round(f64::from(f32::MAX)), f32::INFINITY);
        assert_eq!(BF16.round(BF16.max), f32::from_bits(0x7f7f_0000));
        assert!(BF16.round(f64::NAN).is_nan());
        assert_eq!(BF16.round(-0.0).to_bits(), (-0.0f32).to_bits());
    }

    #[test]
    fn f32_rounding_is_the_cast() {
        for x in [1.0 / 3.0, 1e-42, 3.3e38, -7.7e-39, 1e-46, 16_777_217.0] {
            assert_eq!(F32.round(x).to_bits(), (x as f32).to_bits(), "{x}");
        }
    }

    #[test]
    fn distances() {
        assert_eq!(BF16.ulps(1.0 + 1.0 / 128.0, 1.0), 1.0);
        assert_eq!(F32.ulps(1.0 + 1.0 / 128.0, 1.0), 65_536.0);
        assert_eq!(BF16.ulps(258.0, 257.0), 0.5);
        assert_eq!(F16.ulps(0.0, -2f64.powi(-24)), 1.0);
        assert_eq!(F16.ulps(f32::INFINITY, f64::INFINITY), 0.0);
        assert_eq!(F16.ulps(f32::NAN, f64::NAN), 0.0);
        assert_eq!(F16.ulps(f32::NAN, 1.0), f64::INFINITY);
    }
}
