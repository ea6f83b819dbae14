//! Exact results, rounded once.

use crate::exec::code::Round;

/// A finite value that is not zero: `(-1)^negative * mantissa * 2^exponent`, `sticky` if there is a bit more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exact {
    pub(super) negative: bool,
    pub(super) mantissa: u128,
    pub(super) exponent: i32,
    pub(super) sticky: bool,
}

/// A binary format: stored mantissa bits, and exponents of the least and the largest normal number.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    pub(super) mantissa: u32,
    min: i32,
    max: i32,
}

/// IEEE binary16.
pub const F16: Format = Format { mantissa: 10, min: -14, max: 15 };
/// bfloat16.
pub const BF16: Format = Format { mantissa: 7, min: -126, max: 127 };
/// NVIDIA's TF32: as f32 with 10 bits of mantissa.
pub const TF32: Format = Format { mantissa: 10, min: -126, max: 127 };
/// IEEE binary32.
pub const F32: Format = Format { mantissa: 23, min: -126, max: 127 };
/// IEEE binary64.
pub const F64: Format = Format { mantissa: 52, min: -1022, max: 1023 };

impl Format {
    pub(super) fn bias(self) -> i32 {
        1 - self.min
    }

    pub(super) fn infinity(self) -> u64 {
        ((self.max + 1 + self.bias()) as u64) << self.mantissa
    }
}

fn exact(x: f64) -> Exact {
    let bits = x.to_bits();
    let biased = (bits >> 52 & 0x7ff) as i32;
    let fraction = u128::from(bits & ((1 << 52) - 1));
    let (mantissa, exponent) =
        if biased == 0 { (fraction, -1074) } else { (fraction | 1 << 52, biased - 1075) };
    Exact { negative: bits >> 63 != 0, mantissa, exponent, sticky: false }
}

impl Exact {
    /// Shifts the top bit to bit 120.
    fn normal(mut self) -> Self {
        let shift = self.mantissa.leading_zeros() as i32 - 7;
        if shift >= 0 {
            self.mantissa <<= shift;
        } else {
            self.sticky |= self.mantissa & ((1 << -shift) - 1) != 0;
            self.mantissa >>= -shift;
        }
        self.exponent -= shift;
        self
    }

    fn times(self, other: Self) -> Self {
        Exact {
            negative: self.negative != other.negative,
            mantissa: self.mantissa * other.mantissa,
            exponent: self.exponent + other.exponent,
            sticky: false,
        }
    }

    /// The sum of two values without sticky bits, of at most 106 significant ones; none if it is zero.
    fn plus(self, other: Self) -> Option<Self> {
        let (mut a, mut b) = (self.normal(), other.normal());
        if (a.exponent, a.mantissa) < (b.exponent, b.mantissa) {
            std::mem::swap(&mut a, &mut b);
        }
        let shift = (a.exponent - b.exponent) as u32;
        let (low, lost) = match shift {
            0 => (b.mantissa, false),
            1..=127 => (b.mantissa >> shift, b.mantissa & ((1 << shift) - 1) != 0),
            _ => (0, true),
        };
        let mantissa = if a.negative == b.negative {
            a.mantissa + low
        } else {
            // What was lost makes the difference a little smaller.
            a.mantissa - low - u128::from(lost)
        };
        (mantissa != 0 || lost).then_some(Exact { mantissa, sticky: lost, ..a })
    }

    /// To the bits of a format. Subnormals are kept.
    pub(super) fn round(self, format: Format, round: Round) -> u64 {
        let Exact { negative, mantissa, exponent, sticky } = self.normal();
        let sign = u64::from(negative) << (format.mantissa + Self::exponent_bits(format));
        // The exponent of the leading bit, and how many bits of the 121 do not fit.
        let leading = exponent + 120;
        let drop = 120 - format.mantissa as i32 + (format.min - leading).max(0);
        let (kept, half, rest) = if drop > 125 {
            (0, false, true)
        } else {
            let kept = (mantissa >> drop) as u64;
            let half = mantissa >> (drop - 1) & 1 != 0;
            (kept, half, mantissa & ((1 << (drop - 1)) - 1) != 0 || sticky)
        };
        let up = match round {
            Round::Nearest => half && (rest || kept & 1 != 0),
            Round::Away => half,
            Round::Zero => false,
            Round::Down => negative && (half || rest),
            Round::Up => !negative && (half || rest),
        };
        // A carry out of the mantissa moves the exponent on by itself.
        let biased = (leading.max(format.min) - format.min) as u64;
        let magnitude = (biased << format.mantissa) + kept + u64::from(up);
        let toward_zero = match round {
            Round::Nearest | Round::Away => false,
            Round::Zero => true,
            Round::Down => !negative,
            Round::Up => negative,
        };
        let infinity = format.infinity();
        let overflow = if toward_zero { infinity - 1 } else { infinity };
        sign | if magnitude >= infinity { overflow } else { magnitude }
    }

    fn exponent_bits(format: Format) -> u32 {
        ((format.max + 1 + format.bias()) as u32).ilog2() + 1
    }
}

/// An f64 to a narrower format, as its bits.
pub fn narrow(x: f64, format: Format, round: Round) -> u64 {
    let sign_at = format.mantissa + Exact::exponent_bits(format);
    let sign = u64::from(x.is_sign_negative()) << sign_at;
    if x.is_nan() {
        // The canonical NaN has no sign and all bits set.
        return (1 << sign_at) - 1;
    }
    if x.is_infinite() {
        return sign | format.infinity();
    }
    if x == 0.0 { sign } else { exact(x).round(format, round) }
}

/// What `fma`, and so `add` and `mul`, gives when nothing is finite and non-zero enough to be computed exactly.
pub(super) fn fma_exact(a: f64, b: f64, c: f64, format: Format, round: Round) -> u64 {
    let special = !(a.is_finite() && b.is_finite() && c.is_finite());
    if special {
        return narrow(a.mul_add(b, c), format, round);
    }
    let product_zero = a == 0.0 || b == 0.0;
    let product_negative = a.is_sign_negative() != b.is_sign_negative();
    let zero = |negative: bool| narrow(if negative { -0.0 } else { 0.0 }, format, round);
    let sum = match (product_zero, c == 0.0) {
        (true, true) if product_negative == c.is_sign_negative() => return zero(product_negative),
        (true, true) => None,
        (true, false) => Some(exact(c)),
        (false, true) => Some(exact(a).times(exact(b))),
        (false, false) => exact(a).times(exact(b)).plus(exact(c)),
    };
    match sum {
        Some(sum) => sum.round(format, round),
        // An exact cancellation is +0, −0 when rounding down.
        None => zero(round == Round::Down),
    }
}

pub(super) fn div_exact(a: f64, b: f64, format: Format, round: Round) -> u64 {
    if !a.is_finite() || !b.is_finite() || a == 0.0 || b == 0.0 {
        return narrow(a / b, format, round);
    }
    let (x, y) = (exact(a), exact(b));
    let shift = x.mantissa.leading_zeros();
    let dividend = x.mantissa << shift;
    Exact {
        negative: x.negative != y.negative,
        mantissa: dividend / y.mantissa,
        exponent: x.exponent - y.exponent - shift as i32,
        sticky: dividend % y.mantissa != 0,
    }
    .round(format, round)
}

pub(super) fn sqrt_exact(a: f64, format: Format, round: Round) -> u64 {
    if !(a > 0.0 && a.is_finite()) {
        return narrow(a.sqrt(), format, round);
    }
    let mut x = exact(a).normal();
    if x.exponent % 2 != 0 {
        x = Exact { mantissa: x.mantissa << 1, exponent: x.exponent - 1, ..x };
    }
    let root = x.mantissa.isqrt();
    let sticky = root * root != x.mantissa;
    Exact { negative: false, mantissa: root, exponent: x.exponent / 2, sticky }.round(format, round)
}
