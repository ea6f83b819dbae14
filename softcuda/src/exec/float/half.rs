//! f16 and bf16, alone and in pairs.

use half::bf16;

use super::{
    approximate::{exp2, tanh},
    exact::{BF16, F16, fma_exact, narrow},
    max_f64, min_f64,
};
use crate::exec::code::{Round, float_mods};

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

/// Subnormals to zero of the same sign.
#[inline(always)]
pub fn flush_f16(bits: u16) -> u16 {
    if bits & 0x7c00 == 0 { bits & 0x8000 } else { bits }
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
