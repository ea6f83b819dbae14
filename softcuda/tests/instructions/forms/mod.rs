//! The arithmetic forms and their models.
#![allow(
    clippy::precedence,
    clippy::type_complexity,
    reason = "tables of the ISA: operators as it writes them"
)]

mod approximate;
mod bits;
mod compare;
mod convert;
mod exact;
mod float;
mod half;
mod integer;

/// What a result must be.
pub enum Want {
    /// These bits.
    Exactly(Box<dyn Fn(&[u64; 4]) -> u64>),
    /// Anything for which this holds.
    Where(Box<dyn Fn(&[u64; 4], u64) -> bool>),
}

/// An instruction with its operands.
pub struct Form {
    /// The opcode.
    pub op: String,
    /// Result, then operands: w, r, d are integers of 16, 32, 64 bits, s an amount, f, F, h, b floats of f32, f64, f16,
    /// bf16, p a predicate.
    pub signature: String,
    /// Further operands, as text.
    pub suffix: String,
    /// Its model.
    pub want: Want,
}

/// All forms.
pub fn forms() -> Vec<Form> {
    let mut all = Vec::new();
    integer::forms(&mut all);
    bits::forms(&mut all);
    compare::forms(&mut all);
    float::forms(&mut all);
    approximate::forms(&mut all);
    half::forms(&mut all);
    convert::forms(&mut all);
    all
}

/// A form whose result is certain.
fn form(
    op: impl Into<String>,
    signature: impl Into<String>,
    model: impl Fn(&[u64; 4]) -> u64 + 'static,
) -> Form {
    let want = Want::Exactly(Box::new(model));
    Form { op: op.into(), signature: signature.into(), suffix: String::new(), want }
}

/// A form whose result may be one of several.
fn close(
    op: impl Into<String>,
    signature: impl Into<String>,
    holds: impl Fn(&[u64; 4], u64) -> bool + 'static,
) -> Form {
    let want = Want::Where(Box::new(holds));
    Form { op: op.into(), signature: signature.into(), suffix: String::new(), want }
}

/// An integer type.
#[derive(Clone, Copy)]
struct Int {
    name: &'static str,
    bits: u32,
    signed: bool,
}

const INTS: [Int; 6] = {
    const fn of(name: &'static str, bits: u32, signed: bool) -> Int {
        Int { name, bits, signed }
    }
    [
        of("u16", 16, false),
        of("s16", 16, true),
        of("u32", 32, false),
        of("s32", 32, true),
        of("u64", 64, false),
        of("s64", 64, true),
    ]
};

impl Int {
    /// Its register in a signature.
    fn letter(self) -> char {
        letter(self.bits)
    }

    /// The value of the low bits of a register.
    fn value(self, x: u64) -> i128 {
        let shift = 64 - self.bits;
        if self.signed { i128::from((x << shift) as i64 >> shift) } else { i128::from(x << shift >> shift) }
    }

    /// The low bits of a value.
    fn cut(self, x: i128) -> u64 {
        cut(x, self.bits)
    }

    fn range(self) -> (i128, i128) {
        match self.signed {
            true => (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1),
            false => (0, (1 << self.bits) - 1),
        }
    }
}

fn letter(bits: u32) -> char {
    match bits {
        ..=16 => 'w',
        32 => 'r',
        _ => 'd',
    }
}

fn cut(x: i128, bits: u32) -> u64 {
    x as u64 & (u64::MAX >> (64 - bits))
}

fn f(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

fn g(x: u64) -> f64 {
    f64::from_bits(x)
}

/// Bits of an f32 result; arithmetic returns one NaN.
fn of(x: f32) -> u64 {
    u64::from(if x.is_nan() { 0x7fff_ffff } else { x.to_bits() })
}

fn same64(x: f64, got: u64) -> bool {
    x.to_bits() == got || x.is_nan() && g(got).is_nan()
}

fn ftz(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

fn flush_if(flush: bool, x: f32) -> f32 {
    if flush { ftz(x) } else { x }
}

fn sat(x: f32) -> f32 {
    if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) + 0.0 }
}
