//! Floating point as the PTX ISA defines it: rounding, NaNs, subnormals, approximations.
//!
//! Everything here is made of exact IEEE operations, so results are the same on every machine.

use half::bf16;

use super::code::{Cvt, Round, float_mods};
use crate::ptx::Type;

/// The NaN that f32 arithmetic returns.
const NAN32: u32 = 0x7fff_ffff;

/// Any NaN to the canonical one.
#[inline(always)]
pub fn canon(x: f32) -> f32 {
    // By the bits: the compiler may take one NaN for another where it sees floats.
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { NAN32 } else { bits })
}

/// Subnormals to zero of the same sign.
#[inline(always)]
pub fn flush(x: f32) -> f32 {
    let bits = x.to_bits();
    if bits & 0x7f80_0000 == 0 { f32::from_bits(bits & 0x8000_0000) } else { x }
}

#[inline(always)]
fn flush_if(ftz: bool, x: f32) -> f32 {
    if ftz { flush(x) } else { x }
}

/// Clamps to [0, 1]; NaN becomes +0.
#[inline(always)]
pub fn saturate(x: f32) -> f32 {
    // Comparisons with NaN are false.
    if x > 0.0 { if x < 1.0 { x } else { 1.0 } } else { 0.0 }
}

/// Minimum or maximum: a number beats NaN, −0 is below +0.
#[inline(always)]
pub fn min_f32(a: f32, b: f32) -> f32 {
    let smaller = if a < b || (a == b && a.is_sign_negative()) { a } else { b };
    canon(if a.is_nan() {
        b
    } else if b.is_nan() {
        a
    } else {
        smaller
    })
}

/// See [`min_f32`].
#[inline(always)]
pub fn max_f32(a: f32, b: f32) -> f32 {
    let larger = if a > b || (a == b && a.is_sign_positive()) { a } else { b };
    canon(if a.is_nan() {
        b
    } else if b.is_nan() {
        a
    } else {
        larger
    })
}

/// See [`min_f32`].
#[inline(always)]
pub fn min_f64(a: f64, b: f64) -> f64 {
    let smaller = if a < b || (a == b && a.is_sign_negative()) { a } else { b };
    if a.is_nan() {
        b
    } else if b.is_nan() {
        a
    } else {
        smaller
    }
}

/// See [`min_f32`].
#[inline(always)]
pub fn max_f64(a: f64, b: f64) -> f64 {
    let larger = if a > b || (a == b && a.is_sign_positive()) { a } else { b };
    if a.is_nan() {
        b
    } else if b.is_nan() {
        a
    } else {
        larger
    }
}

// ---- exact results, rounded once ----

/// A finite value that is not zero: `(-1)^negative * mantissa * 2^exponent`, `sticky` if there is a bit more.
#[derive(Debug, Clone, Copy)]
struct Exact {
    negative: bool,
    mantissa: u128,
    exponent: i32,
    sticky: bool,
}

/// A binary format: stored mantissa bits, and exponents of the least and the largest normal number.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    mantissa: u32,
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
    fn bias(self) -> i32 {
        1 - self.min
    }

    fn infinity(self) -> u64 {
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
    fn round(self, format: Format, round: Round) -> u64 {
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
fn fma_exact(a: f64, b: f64, c: f64, format: Format, round: Round) -> u64 {
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

fn div_exact(a: f64, b: f64, format: Format, round: Round) -> u64 {
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

fn sqrt_exact(a: f64, format: Format, round: Round) -> u64 {
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

// ---- f32 with modifiers ----

/// Bits of an f32 result through ftz and sat.
#[inline(always)]
pub fn finish(x: f32, mods: u16) -> f32 {
    let x = flush_if(mods & float_mods::FTZ != 0, canon(x));
    if mods & float_mods::SAT != 0 { saturate(x) } else { x }
}

#[inline(always)]
fn operand(x: f32, mods: u16) -> f32 {
    flush_if(mods & float_mods::FTZ != 0, x)
}

/// Rounding of `mods`.
#[inline(always)]
pub fn round_of(mods: u16) -> Round {
    Round::from_bits(u32::from(mods & float_mods::ROUND))
}

/// `fma`; `add` is `fma(a, 1, b)`, `mul` is `fma(a, b, -0)` with the sign of the product.
#[inline(always)]
pub fn fma_f32(a: f32, b: f32, c: f32, mods: u16) -> f32 {
    let (a, b, c) = (operand(a, mods), operand(b, mods), operand(c, mods));
    let x = match round_of(mods) {
        Round::Nearest => a.mul_add(b, c),
        round => f32::from_bits(fma_exact(a.into(), b.into(), c.into(), F32, round) as u32),
    };
    finish(x, mods)
}

/// `a + b`.
#[inline(always)]
pub fn add_f32(a: f32, b: f32, mods: u16) -> f32 {
    let (a, b) = (operand(a, mods), operand(b, mods));
    let x = match round_of(mods) {
        Round::Nearest => a + b,
        round => f32::from_bits(fma_exact(a.into(), 1.0, b.into(), F32, round) as u32),
    };
    finish(x, mods)
}

/// `a * b`.
#[inline(always)]
pub fn mul_f32(a: f32, b: f32, mods: u16) -> f32 {
    let (a, b) = (operand(a, mods), operand(b, mods));
    let x = match round_of(mods) {
        Round::Nearest => a * b,
        // The product of two f32 is exact in f64, but for overflow and underflow of its square.
        round => f32::from_bits(narrow(f64::from(a) * f64::from(b), F32, round) as u32),
    };
    finish(x, mods)
}

/// `a / b`.
#[inline(always)]
pub fn div_f32(a: f32, b: f32, mods: u16) -> f32 {
    let (a, b) = (operand(a, mods), operand(b, mods));
    let x = match round_of(mods) {
        Round::Nearest => a / b,
        round => f32::from_bits(div_exact(a.into(), b.into(), F32, round) as u32),
    };
    finish(x, mods)
}

/// The square root.
#[inline(always)]
pub fn sqrt_f32(a: f32, mods: u16) -> f32 {
    let a = operand(a, mods);
    let x = match round_of(mods) {
        Round::Nearest => a.sqrt(),
        round => f32::from_bits(sqrt_exact(a.into(), F32, round) as u32),
    };
    finish(x, mods)
}

/// min or max with modifiers.
#[inline(always)]
pub fn pick_f32(a: f32, b: f32, mods: u16, min: bool) -> f32 {
    let (mut a, mut b) = (operand(a, mods), operand(b, mods));
    let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
    if mods & float_mods::XORSIGN != 0 {
        (a, b) = (a.abs(), b.abs());
    }
    if mods & float_mods::NAN != 0 && (a.is_nan() || b.is_nan()) {
        return f32::from_bits(NAN32);
    }
    let x = if min { min_f32(a, b) } else { max_f32(a, b) };
    if mods & float_mods::XORSIGN != 0 && !x.is_nan() { f32::from_bits(x.to_bits() | sign) } else { x }
}

// ---- f64 with a rounding ----

/// `fma`.
pub fn fma_f64(a: f64, b: f64, c: f64, mods: u16) -> f64 {
    f64::from_bits(fma_exact(a, b, c, F64, round_of(mods)))
}

/// `a + b`.
pub fn add_f64(a: f64, b: f64, mods: u16) -> f64 {
    f64::from_bits(fma_exact(a, 1.0, b, F64, round_of(mods)))
}

/// `a * b`.
pub fn mul_f64(a: f64, b: f64, mods: u16) -> f64 {
    // A zero of the product's sign leaves it as it is.
    let zero = if a.is_sign_negative() != b.is_sign_negative() { -0.0 } else { 0.0 };
    f64::from_bits(fma_exact(a, b, zero, F64, round_of(mods)))
}

/// `a / b`.
pub fn div_f64(a: f64, b: f64, mods: u16) -> f64 {
    f64::from_bits(div_exact(a, b, F64, round_of(mods)))
}

/// The square root.
pub fn sqrt_f64(a: f64, mods: u16) -> f64 {
    f64::from_bits(sqrt_exact(a, F64, round_of(mods)))
}

// ---- approximations: within the errors that the PTX ISA gives, computed in f64 ----

/// 2^f for f in [-0.5, 0.5]: Taylor's series of exp(f ln 2), error below 1e-12.
#[inline(always)]
fn exp2_fraction(f: f64) -> f64 {
    let t = f * std::f64::consts::LN_2;
    let mut sum = 1.0 / 479_001_600.0;
    for factor in [
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        sum = sum * t + factor;
    }
    sum
}

/// 2^x in f64 for f32 arguments and their like.
#[inline(always)]
fn exp2(x: f64) -> f64 {
    // Beyond these the f32 result is infinite or zero.
    let x = x.clamp(-300.0, 300.0);
    // Adding and taking away 1.5 * 2^52 rounds to an integer.
    const MAGIC: f64 = 6_755_399_441_055_744.0;
    let shifted = x + MAGIC;
    let n = shifted - MAGIC;
    let scale = f64::from_bits((shifted.to_bits().wrapping_add(1023)) << 52);
    exp2_fraction(x - n) * scale
}

/// `ex2.approx`: 2^x.
#[inline(always)]
pub fn ex2(x: f32, mods: u16) -> f32 {
    let x = operand(x, mods);
    let y = exp2(x.into()) as f32;
    finish(if x.is_nan() { x } else { y }, mods)
}

/// `lg2.approx`: the logarithm to base 2.
#[inline(always)]
pub fn lg2(x: f32, mods: u16) -> f32 {
    let x = operand(x, mods);
    let bits = f64::from(x).to_bits();
    // x = 2^n * m with m in [sqrt(1/2), sqrt(2)).
    let shifted = bits.wrapping_sub(0x3fe6_a09e_667f_3bcd);
    let n = (shifted as i64 >> 52) as i32;
    let m = f64::from_bits(bits.wrapping_sub((shifted as i64 >> 52 << 52) as u64));
    // ln m = 2 atanh((m - 1) / (m + 1))
    let s = (m - 1.0) / (m + 1.0);
    let q = s * s;
    let mut sum = 1.0 / 19.0;
    for odd in [17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        sum = sum * q + 1.0 / odd;
    }
    let y = (f64::from(n) + 2.0 * s * sum * std::f64::consts::LOG2_E) as f32;
    let y = if x == 0.0 {
        f32::NEG_INFINITY
    } else if x < 0.0 || x.is_nan() {
        f32::NAN
    } else if x.is_infinite() {
        x
    } else {
        y
    };
    finish(y, mods)
}

/// Sine and cosine of x after reduction by multiples of pi/2 in three parts: good to 1e-10 for |x| up to 1e5.
#[inline(always)]
fn sin_cos(x: f64) -> (f64, f64) {
    const MAGIC: f64 = 6_755_399_441_055_744.0;
    const PI_2: [f64; 3] = [1.570_796_326_734_125_6, 6.077_100_506_303_966e-11, 2.022_266_248_795_950_6e-21];
    let shifted = x * std::f64::consts::FRAC_2_PI + MAGIC;
    let n = shifted - MAGIC;
    let r = ((x - n * PI_2[0]) - n * PI_2[1]) - n * PI_2[2];
    let q = r * r;
    let sin = r
        * (1.0
            + q * (-1.0 / 6.0
                + q * (1.0 / 120.0
                    + q * (-1.0 / 5_040.0
                        + q * (1.0 / 362_880.0 + q * (-1.0 / 39_916_800.0 + q / 6_227_020_800.0))))));
    let cos = 1.0
        + q * (-0.5
            + q * (1.0 / 24.0
                + q * (-1.0 / 720.0 + q * (1.0 / 40_320.0 + q * (-1.0 / 3_628_800.0 + q / 479_001_600.0)))));
    let quarter = shifted.to_bits() & 3;
    let (s, c) = if quarter & 1 == 0 { (sin, cos) } else { (cos, sin) };
    let s = if quarter & 2 == 0 { s } else { -s };
    let c = if (quarter + 1) & 2 == 0 { c } else { -c };
    (s, c)
}

/// `sin.approx`.
#[inline(always)]
pub fn sin(x: f32, mods: u16) -> f32 {
    let x = operand(x, mods);
    let y = sin_cos(x.into()).0 as f32;
    // The sign of zero is kept.
    finish(if x.is_finite() { if x == 0.0 { x } else { y } } else { f32::NAN }, mods)
}

/// `cos.approx`.
#[inline(always)]
pub fn cos(x: f32, mods: u16) -> f32 {
    let x = operand(x, mods);
    let y = sin_cos(x.into()).1 as f32;
    finish(if x.is_finite() { y } else { f32::NAN }, mods)
}

/// `tanh.approx`.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let wide = f64::from(x);
    // tanh |x| = (1 - e) / (1 + e) with e = exp(-2 |x|); the series where that cancels.
    let e = exp2(-2.0 * wide.abs() * std::f64::consts::LOG2_E);
    let large = (1.0 - e) / (1.0 + e);
    let q = wide * wide;
    let small = wide.abs() * (1.0 - q * (1.0 / 3.0 - q * (2.0 / 15.0)));
    let y = if wide.abs() < 0.01 { small } else { large };
    canon(if x.is_nan() { x } else { (y as f32).copysign(x) })
}

/// `rsqrt.approx`.
#[inline(always)]
pub fn rsqrt(x: f32, mods: u16) -> f32 {
    let x = operand(x, mods);
    finish((1.0 / f64::from(x).sqrt()) as f32, mods)
}

/// `div.approx` and `div.full` (`mods` bit 15).
#[inline(always)]
pub fn div_approx(a: f32, b: f32, mods: u16) -> f32 {
    let (a, b) = (operand(a, mods), operand(b, mods));
    let full = mods >> 15 != 0;
    // div.approx is a * (1 / b), and that reciprocal is zero for b beyond 2^126.
    let tiny = !full && b.abs() > f32::from_bits(0x7e80_0000) && b.is_finite();
    let x = if tiny { a * 0f32.copysign(b) } else { a / b };
    finish(x, mods)
}

/// The high 32 bits of a result, the low ones zero, as `rcp.approx.ftz.f64` and `rsqrt.approx.ftz.f64` give it.
pub fn high_word(x: f64) -> f64 {
    let x = if x.is_subnormal() { 0f64.copysign(x) } else { x };
    f64::from_bits(x.to_bits() & !0xffff_ffff)
}

// ---- f16 and bf16 ----

/// The value of a half in f64.
#[inline(always)]
pub fn half_to_f64(bits: u16, bf: bool) -> f64 {
    if bf { f64::from(bf16::from_bits(bits).to_f32()) } else { f64::from(f16_to_f32(bits)) }
}

/// An f16 in f32, exactly.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let rest = u32::from(bits & 0x7fff);
    // Scaling by 2^112 moves the exponent's bias and makes subnormals normal.
    let scaled = f32::from_bits(rest << 13) * f32::from_bits(0x7780_0000);
    let value = if rest >= 0x7c00 { (rest << 13) | 0x7f80_0000 } else { scaled.to_bits() };
    f32::from_bits(sign | value)
}

/// f32 to bf16, to nearest even.
#[inline(always)]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if x.is_nan() { 0x7fff } else { rounded as u16 }
}

/// f32 to f16, to nearest even.
#[inline(always)]
pub fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let abs = bits & 0x7fff_ffff;
    // Normal results: move the bias, round at bit 13.
    let normal = abs.wrapping_sub(112 << 23).wrapping_add(0xfff + (abs >> 13 & 1)) >> 13;
    // Subnormal results: adding 0.5 puts the last bit of an f16 subnormal at the last bit of the f32.
    let subnormal = (f32::from_bits(abs) + 0.5).to_bits() - 0.5f32.to_bits();
    let value = if abs < 113 << 23 { subnormal } else { normal };
    let value = if abs >= 0x4780_0000 { 0x7c00 } else { value.min(0x7c00) };
    if x.is_nan() { 0x7fff } else { sign | value as u16 }
}

fn f64_to_half(x: f64, bf: bool, round: Round) -> u16 {
    narrow(x, if bf { BF16 } else { F16 }, round) as u16
}

/// Which function of halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum HalfOp {
    Add,
    Sub,
    Mul,
    Fma,
    Min,
    Max,
    Abs,
    Neg,
    Ex2,
    Tanh,
}

/// One half.
#[inline(always)]
fn half1(op: HalfOp, a: u16, b: u16, c: u16, mods: u16) -> u16 {
    let bf = mods & float_mods::BF16 != 0;
    let inf = if bf { 0x7f80 } else { 0x7c00 };
    let tiny = |x: u16| x & inf == 0;
    let ftz = mods & float_mods::FTZ != 0;
    let f = |x: u16| if ftz && tiny(x) { x & 0x8000 } else { x };
    match op {
        HalfOp::Abs => return f(a) & 0x7fff,
        HalfOp::Neg => return f(a) ^ 0x8000,
        _ => {}
    }
    let v = |x: u16| half_to_f64(f(x), bf);
    let (x, y, z) = (v(a), v(b), v(c));
    let bits = match op {
        HalfOp::Min | HalfOp::Max => {
            if x.is_nan() && y.is_nan() || (mods & float_mods::NAN != 0 && (x.is_nan() || y.is_nan())) {
                return 0x7fff;
            }
            let (p, q) = if mods & float_mods::XORSIGN != 0 { (x.abs(), y.abs()) } else { (x, y) };
            let best = if op == HalfOp::Min { min_f64(p, q) } else { max_f64(p, q) };
            let bits = f64_to_half(best, bf, Round::Nearest);
            return if mods & float_mods::XORSIGN != 0 { bits | (a ^ b) & 0x8000 } else { bits };
        }
        // f64 holds sums and products of halves so well that rounding twice is rounding once, but for sums of far
        // apart exponents, which `fma_exact` takes.
        HalfOp::Add => f64_to_half(x + y, bf, Round::Nearest),
        HalfOp::Sub => f64_to_half(x - y, bf, Round::Nearest),
        HalfOp::Mul => f64_to_half(x * y, bf, Round::Nearest),
        HalfOp::Fma => fma_exact(x, y, z, if bf { BF16 } else { F16 }, Round::Nearest) as u16,
        HalfOp::Ex2 => {
            let y = exp2(x);
            f64_to_half(if x.is_nan() { x } else { y }, bf, Round::Nearest)
        }
        HalfOp::Tanh => f64_to_half(f64::from(tanh(x as f32)), bf, Round::Nearest),
        HalfOp::Abs | HalfOp::Neg => a,
    };
    let bits = f(bits);
    let nan = bits & 0x7fff > inf;
    if mods & float_mods::SAT != 0 {
        let one = if bf { 0x3f80 } else { 0x3c00 };
        return if nan || bits & 0x8000 != 0 { 0 } else { bits.min(one) };
    }
    if mods & float_mods::RELU != 0 && bits & 0x8000 != 0 && !nan { 0 } else { bits }
}

/// A function of one half or of a pair in a register.
#[inline(always)]
pub fn half(op: HalfOp, a: u32, b: u32, c: u32, mods: u16) -> u32 {
    let low = u32::from(half1(op, a as u16, b as u16, c as u16, mods));
    if mods & float_mods::PACKED == 0 {
        return low;
    }
    low | u32::from(half1(op, (a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16, mods)) << 16
}

// ---- conversions ----

fn integral(x: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => x.round_ties_even(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
        Round::Away => x.round(),
    }
}

/// The range of an integer type.
fn range(ty: Type) -> (i128, i128) {
    let bits = ty.bits();
    if ty.is_signed() {
        (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
    } else {
        (0, (1i128 << bits) - 1)
    }
}

/// Sign- or zero-extends the low bits.
fn int_of(bits: u64, ty: Type) -> i128 {
    let shift = 64 - ty.bits();
    match ty.is_signed() {
        true => i128::from((bits << shift) as i64 >> shift),
        false => i128::from(bits << shift >> shift),
    }
}

fn format_of(ty: Type) -> Format {
    match ty {
        Type::F16 => F16,
        Type::Bf16 => BF16,
        Type::Tf32 => TF32,
        Type::F32 => F32,
        _ => F64,
    }
}

/// `cvt`: bits of a source to bits of the destination register.
pub fn convert(bits: u64, cvt: &Cvt) -> u64 {
    let register = |value: i128| {
        // Narrow results are extended to the register; 16-bit registers keep the upper half of a row clear.
        value as u64 & (u64::MAX >> (64 - cvt.reg))
    };
    if !cvt.src.is_float() {
        let value = int_of(bits, cvt.src);
        if !cvt.dst.is_float() {
            let (low, high) = range(cvt.dst);
            let value = if cvt.sat { value.clamp(low, high) } else { value };
            return register(int_of(value as u64, cvt.dst));
        }
        let format = format_of(cvt.dst);
        if value == 0 {
            return 0;
        }
        let x = Exact { negative: value < 0, mantissa: value.unsigned_abs(), exponent: 0, sticky: false };
        let rounded = x.round(format, cvt.round);
        return if cvt.sat { saturate_bits(rounded, cvt.dst) } else { rounded };
    }
    let x = match cvt.src {
        Type::F16 => half_to_f64(bits as u16, false),
        Type::Bf16 => half_to_f64(bits as u16, true),
        Type::F32 => f64::from(flush_if(cvt.ftz, f32::from_bits(bits as u32))),
        _ => f64::from_bits(bits),
    };
    if !cvt.dst.is_float() {
        if x.is_nan() {
            let wide = cvt.src == Type::F64 || cvt.dst.bits() == 64;
            return if wide { 1 << (cvt.dst.bits() - 1) } else { 0 };
        }
        let (low, high) = range(cvt.dst);
        // `as` saturates at i128's range, which is wider than any of ours.
        return register((integral(x, cvt.round) as i128).clamp(low, high));
    }
    let x = if cvt.integral { integral(x, cvt.round) } else { x };
    let round = if cvt.integral { Round::Nearest } else { cvt.round };
    let format = format_of(cvt.dst);
    let mut out = match cvt.dst {
        // A NaN keeps its payload from f64 to f64, and is made quiet.
        Type::F64 => x.to_bits(),
        // TF32 is an f32 with 13 bits of zero.
        Type::Tf32 if x.is_nan() => u64::from(NAN32),
        Type::Tf32 => narrow(x, format, round) << 13,
        _ => narrow(x, format, round),
    };
    let sign_at = if cvt.dst == Type::Tf32 { 31 } else { cvt.dst.bits() - 1 };
    let magnitude = out & !(1 << sign_at);
    let infinity = if cvt.dst == Type::Tf32 { format.infinity() << 13 } else { format.infinity() };
    let nan = magnitude > infinity;
    if cvt.satfinite && magnitude == infinity {
        let unit = if cvt.dst == Type::Tf32 { 1 << 13 } else { 1 };
        out = out & 1 << sign_at | (infinity - unit);
    }
    if cvt.relu && out >> sign_at & 1 != 0 && !nan {
        out = 0;
    }
    if cvt.ftz && cvt.dst == Type::F32 {
        out = u64::from(flush(f32::from_bits(out as u32)).to_bits());
    }
    if cvt.sat { saturate_bits(out, cvt.dst) } else { out }
}

/// [`saturate`] on the bits of any format.
fn saturate_bits(bits: u64, ty: Type) -> u64 {
    let format = format_of(ty);
    let one = (format.bias() as u64) << format.mantissa;
    let sign = 1 << (ty.bits() - 1);
    if bits & sign != 0 || bits > format.infinity() { 0 } else { bits.min(one) }
}
