//! `cvt`.

use super::{
    NAN32,
    exact::{BF16, Exact, F16, F32, F64, Format, TF32, narrow},
    flush, flush_if,
    half::half_to_f64,
};
use crate::{
    exec::code::{Cvt, Round},
    ptx::Type,
};

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
