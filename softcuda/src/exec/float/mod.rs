//! Floating point as the PTX ISA defines it: rounding, NaNs, subnormals, approximations.
//!
//! Everything here is made of exact IEEE operations, so results are the same on every machine.

mod approximate;
mod convert;
mod exact;
mod half;

use super::code::{Round, float_mods};

pub use approximate::{cos, div_approx, ex2, high_word, lg2, rsqrt, sin, tanh};
pub use convert::convert;
use exact::{F32, F64, div_exact, fma_exact, narrow, sqrt_exact};
pub use half::{HalfOp, f16_to_f32, f32_to_bf16, f32_to_f16, flush_f16, half};

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
