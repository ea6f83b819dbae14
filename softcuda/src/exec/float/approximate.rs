//! Approximations: within the errors that the PTX ISA gives, computed in f64.

use super::{canon, finish, operand};
use crate::exec::code::float_mods;

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
pub(super) fn exp2(x: f64) -> f64 {
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
    // Far out nothing of the argument is left; the result stays within [-1, 1].
    let r = r.clamp(-0.8, 0.8);
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

/// `rcp.approx.ftz.f64` and `rsqrt.approx.f64`: the high 32 bits of `f(x)`, the low ones zero.
#[inline(always)]
pub fn high_word(x: f64, mods: u16, f: impl Fn(f64) -> f64) -> f64 {
    let ftz = |x: f64| {
        if mods & float_mods::FTZ != 0 && x.is_subnormal() { 0f64.copysign(x) } else { x }
    };
    f64::from_bits(ftz(f(ftz(x))).to_bits() & !0xffff_ffff)
}
