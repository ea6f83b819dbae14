//! The forms and their models.
#![allow(
    clippy::precedence,
    clippy::type_complexity,
    reason = "tables of the ISA: operators as it writes them"
)]

mod exact;

use half::{bf16, f16};

use exact::{Direction, rounds_div, rounds_fma, rounds_sqrt};

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
    pub signature: &'static str,
    /// Further operands, as text.
    pub suffix: String,
    /// Its model.
    pub want: Want,
}

fn form(op: impl Into<String>, signature: &'static str, model: impl Fn(&[u64; 4]) -> u64 + 'static) -> Form {
    Form { op: op.into(), signature, suffix: String::new(), want: Want::Exactly(Box::new(model)) }
}

fn close(
    op: impl Into<String>,
    signature: &'static str,
    holds: impl Fn(&[u64; 4], u64) -> bool + 'static,
) -> Form {
    Form { op: op.into(), signature, suffix: String::new(), want: Want::Where(Box::new(holds)) }
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
fn sat(x: f32) -> f32 {
    if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) + 0.0 }
}
fn half_bits(x: f64, bf: bool) -> u64 {
    match (x.is_nan(), bf) {
        (true, _) => 0x7fff,
        (_, true) => bf16::from_f64(x).to_bits().into(),
        (_, false) => f16::from_f64(x).to_bits().into(),
    }
}
fn half_value(x: u64, bf: bool) -> f64 {
    if bf { bf16::from_bits(x as u16).to_f64() } else { f16::from_bits(x as u16).to_f64() }
}

/// All forms.
pub fn forms() -> Vec<Form> {
    let mut all = Vec::new();
    integers(&mut all);
    bits(&mut all);
    comparisons(&mut all);
    floats(&mut all);
    rounded(&mut all);
    approximations(&mut all);
    halves(&mut all);
    conversions(&mut all);
    all
}

fn integers(all: &mut Vec<Form>) {
    for (ty, sig3, sig4) in [("s32", "rrr", "rrrr"), ("u32", "rrr", "rrrr")] {
        all.push(form(format!("add.{ty}"), sig3, |x| u64::from((x[0] as u32).wrapping_add(x[1] as u32))));
        all.push(form(format!("sub.{ty}"), sig3, |x| u64::from((x[0] as u32).wrapping_sub(x[1] as u32))));
        all.push(form(format!("mul.lo.{ty}"), sig3, |x| u64::from((x[0] as u32).wrapping_mul(x[1] as u32))));
        all.push(form(format!("mad.lo.{ty}"), sig4, |x| {
            u64::from((x[0] as u32).wrapping_mul(x[1] as u32).wrapping_add(x[2] as u32))
        }));
    }
    for ty in ["s64", "u64"] {
        all.push(form(format!("add.{ty}"), "ddd", |x| x[0].wrapping_add(x[1])));
        all.push(form(format!("sub.{ty}"), "ddd", |x| x[0].wrapping_sub(x[1])));
        all.push(form(format!("mul.lo.{ty}"), "ddd", |x| x[0].wrapping_mul(x[1])));
        all.push(form(format!("mad.lo.{ty}"), "dddd", |x| x[0].wrapping_mul(x[1]).wrapping_add(x[2])));
    }
    for ty in ["s16", "u16"] {
        all.push(form(format!("add.{ty}"), "www", |x| u64::from((x[0] as u16).wrapping_add(x[1] as u16))));
        all.push(form(format!("sub.{ty}"), "www", |x| u64::from((x[0] as u16).wrapping_sub(x[1] as u16))));
        all.push(form(format!("mul.lo.{ty}"), "www", |x| u64::from((x[0] as u16).wrapping_mul(x[1] as u16))));
        all.push(form(format!("mad.lo.{ty}"), "wwww", |x| {
            u64::from((x[0] as u16).wrapping_mul(x[1] as u16).wrapping_add(x[2] as u16))
        }));
    }
    all.push(form("add.sat.s32", "rrr", |x| u64::from((x[0] as i32).saturating_add(x[1] as i32) as u32)));
    all.push(form("sub.sat.s32", "rrr", |x| u64::from((x[0] as i32).saturating_sub(x[1] as i32) as u32)));
    all.push(form("mul.hi.u32", "rrr", |x| x[0] * x[1] >> 32));
    all.push(form("mul.hi.s32", "rrr", |x| {
        u64::from((i64::from(x[0] as i32) * i64::from(x[1] as i32) >> 32) as u32)
    }));
    all.push(form("mad.hi.u32", "rrrr", |x| {
        u64::from(((x[0] * x[1] >> 32) as u32).wrapping_add(x[2] as u32))
    }));
    all.push(form("mul.hi.u64", "ddd", |x| (u128::from(x[0]) * u128::from(x[1]) >> 64) as u64));
    all.push(form("mul.hi.s64", "ddd", |x| (i128::from(x[0] as i64) * i128::from(x[1] as i64) >> 64) as u64));
    all.push(form("mul.hi.u16", "www", |x| x[0] * x[1] >> 16));
    all.push(form("mul.hi.s16", "www", |x| {
        u64::from((i32::from(x[0] as i16) * i32::from(x[1] as i16) >> 16) as u16)
    }));
    all.push(form("mul.wide.u32", "drr", |x| x[0] * x[1]));
    all.push(form("mul.wide.s32", "drr", |x| (i64::from(x[0] as i32) * i64::from(x[1] as i32)) as u64));
    all.push(form("mul.wide.u16", "rww", |x| x[0] * x[1]));
    all.push(form("mul.wide.s16", "rww", |x| {
        u64::from((i32::from(x[0] as i16) * i32::from(x[1] as i16)) as u32)
    }));
    all.push(form("mad.wide.u32", "drrd", |x| (x[0] * x[1]).wrapping_add(x[2])));
    all.push(form("mad.wide.s32", "drrd", |x| {
        (i64::from(x[0] as i32) * i64::from(x[1] as i32)).wrapping_add(x[2] as i64) as u64
    }));
    all.push(form("mad.wide.u16", "rwwr", |x| {
        u64::from((x[0] * x[1]) as u32).wrapping_add(x[2]) & 0xffff_ffff
    }));
    all.push(form("mul24.lo.u32", "rrr", |x| ((x[0] & 0xff_ffff) * (x[1] & 0xff_ffff)) & 0xffff_ffff));
    all.push(form("mul24.lo.s32", "rrr", |x| {
        let cut = |v: u64| i64::from((v as i32) << 8 >> 8);
        (cut(x[0]) * cut(x[1])) as u64 & 0xffff_ffff
    }));
    // Division by zero is not defined by the ISA; these are what devices give.
    all.push(form("div.u32", "rrr", |x| x[0].checked_div(x[1]).unwrap_or(0xffff_ffff)));
    all.push(form("rem.u32", "rrr", |x| x[0].checked_rem(x[1]).unwrap_or(x[0])));
    all.push(form("div.s32", "rrr", |x| {
        let (a, b) = (x[0] as i32, x[1] as i32);
        u64::from(if b == 0 { u32::MAX } else { a.wrapping_div(b) as u32 })
    }));
    all.push(form("rem.s32", "rrr", |x| {
        let (a, b) = (x[0] as i32, x[1] as i32);
        u64::from(if b == 0 { a as u32 } else { a.wrapping_rem(b) as u32 })
    }));
    all.push(form("div.u64", "ddd", |x| x[0].checked_div(x[1]).unwrap_or(u64::MAX)));
    all.push(form("rem.u64", "ddd", |x| x[0].checked_rem(x[1]).unwrap_or(x[0])));
    all.push(form("div.s64", "ddd", |x| {
        if x[1] == 0 { u64::MAX } else { (x[0] as i64).wrapping_div(x[1] as i64) as u64 }
    }));
    all.push(form("rem.s64", "ddd", |x| {
        if x[1] == 0 { x[0] } else { (x[0] as i64).wrapping_rem(x[1] as i64) as u64 }
    }));
    all.push(form("div.u16", "www", |x| x[0].checked_div(x[1]).unwrap_or(0xffff)));
    all.push(form("rem.s16", "www", |x| {
        let (a, b) = (x[0] as i16, x[1] as i16);
        u64::from(if b == 0 { a as u16 } else { a.wrapping_rem(b) as u16 })
    }));
    all.push(form("min.u32", "rrr", |x| x[0].min(x[1])));
    all.push(form("max.u32", "rrr", |x| x[0].max(x[1])));
    all.push(form("min.s32", "rrr", |x| u64::from((x[0] as i32).min(x[1] as i32) as u32)));
    all.push(form("max.s32", "rrr", |x| u64::from((x[0] as i32).max(x[1] as i32) as u32)));
    all.push(form("min.u64", "ddd", |x| x[0].min(x[1])));
    all.push(form("max.s64", "ddd", |x| (x[0] as i64).max(x[1] as i64) as u64));
    all.push(form("min.s16", "www", |x| u64::from((x[0] as i16).min(x[1] as i16) as u16)));
    all.push(form("max.u16", "www", |x| x[0].max(x[1])));
    all.push(form("abs.s32", "rr", |x| u64::from((x[0] as i32).wrapping_abs() as u32)));
    all.push(form("abs.s64", "dd", |x| (x[0] as i64).wrapping_abs() as u64));
    all.push(form("abs.s16", "ww", |x| u64::from((x[0] as i16).wrapping_abs() as u16)));
    all.push(form("neg.s32", "rr", |x| u64::from((x[0] as u32).wrapping_neg())));
    all.push(form("neg.s64", "dd", |x| x[0].wrapping_neg()));
    all.push(form("neg.s16", "ww", |x| u64::from((x[0] as u16).wrapping_neg())));
    all.push(form("sad.u32", "rrrr", |x| (x[0].abs_diff(x[1]) + x[2]) & 0xffff_ffff));
    all.push(form("sad.s32", "rrrr", |x| {
        (i64::from(x[0] as i32).abs_diff(i64::from(x[1] as i32)) + x[2]) & 0xffff_ffff
    }));
    all.push(form("dp4a.u32.u32", "rrrr", |x| {
        (0..4).fold(x[2], |s, i| s + (x[0] >> (8 * i) & 255) * (x[1] >> (8 * i) & 255)) & 0xffff_ffff
    }));
    all.push(form("dp4a.s32.s32", "rrrr", |x| {
        let b = |v: u64, i: u32| i64::from((v >> (8 * i)) as i8);
        (0..4).fold(x[2] as i64, |s, i| s + b(x[0], i) * b(x[1], i)) as u64 & 0xffff_ffff
    }));
    all.push(form("dp2a.lo.u32.u32", "rrrr", |x| {
        (0..2).fold(x[2], |s, i| s + (x[0] >> (16 * i) & 0xffff) * (x[1] >> (8 * i) & 255)) & 0xffff_ffff
    }));
}

fn bits(all: &mut Vec<Form>) {
    for (ty, sig) in [("b32", "rrr"), ("b64", "ddd"), ("b16", "www"), ("pred", "ppp")] {
        all.push(form(format!("and.{ty}"), sig, |x| x[0] & x[1]));
        all.push(form(format!("or.{ty}"), sig, |x| x[0] | x[1]));
        all.push(form(format!("xor.{ty}"), sig, |x| x[0] ^ x[1]));
    }
    for (ty, sig, mask) in
        [("b32", "rr", 0xffff_ffffu64), ("b64", "dd", u64::MAX), ("b16", "ww", 0xffff), ("pred", "pp", 1)]
    {
        all.push(form(format!("not.{ty}"), sig, move |x| !x[0] & mask));
        all.push(form(format!("mov.{ty}"), sig, |x| x[0]));
    }
    all.push(form("cnot.b32", "rr", |x| u64::from(x[0] == 0)));
    all.push(form("shl.b32", "rrs", |x| if x[1] > 31 { 0 } else { x[0] << x[1] & 0xffff_ffff }));
    all.push(form("shl.b64", "dds", |x| if x[1] > 63 { 0 } else { x[0] << x[1] }));
    all.push(form("shl.b16", "wws", |x| if x[1] > 15 { 0 } else { x[0] << x[1] & 0xffff }));
    all.push(form("shr.u32", "rrs", |x| if x[1] > 31 { 0 } else { x[0] >> x[1] }));
    all.push(form("shr.u64", "dds", |x| if x[1] > 63 { 0 } else { x[0] >> x[1] }));
    all.push(form("shr.u16", "wws", |x| if x[1] > 15 { 0 } else { x[0] >> x[1] }));
    all.push(form("shr.s32", "rrs", |x| u64::from((x[0] as i32 >> x[1].min(31)) as u32)));
    all.push(form("shr.s64", "dds", |x| (x[0] as i64 >> x[1].min(63)) as u64));
    all.push(form("shr.s16", "wws", |x| u64::from((x[0] as i16 >> x[1].min(15)) as u16)));
    let pair = |x: &[u64; 4]| x[1] << 32 | x[0];
    all.push(form("shf.l.wrap.b32", "rrrs", move |x| (pair(x) << (x[2] & 31)) >> 32));
    all.push(form("shf.r.wrap.b32", "rrrs", move |x| pair(x) >> (x[2] & 31) & 0xffff_ffff));
    all.push(form("shf.l.clamp.b32", "rrrs", move |x| (pair(x) << x[2].min(32)) >> 32));
    all.push(form("shf.r.clamp.b32", "rrrs", move |x| pair(x) >> x[2].min(32) & 0xffff_ffff));
    for table in [0x00u64, 0x96, 0xe8, 0xca, 0x1b, 0xff] {
        let mut lop3 = form("lop3.b32", "rrrr", move |x| {
            (0..32).fold(0, |out, i| {
                let index = (x[0] >> i & 1) << 2 | (x[1] >> i & 1) << 1 | x[2] >> i & 1;
                out | (table >> index & 1) << i
            })
        });
        lop3.suffix = format!(", {table}");
        all.push(lop3);
    }
    let byte = |x: &[u64; 4], n: u64| (x[1] << 32 | x[0]) >> (8 * (n & 7)) & 255;
    all.push(form("prmt.b32", "rrrr", move |x| {
        (0..4).fold(0, |out, i| {
            let s = x[2] >> (4 * i) & 15;
            let b = byte(x, s);
            out | (if s & 8 != 0 { if b & 128 != 0 { 255 } else { 0 } } else { b }) << (8 * i)
        })
    }));
    // Byte numbers for i = 0 … 3 by the low bits of the selector: the table of the ISA.
    type Table = [[u64; 4]; 4];
    let modes: [(&str, Table); 6] = [
        ("f4e", [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]),
        ("b4e", [[0, 7, 6, 5], [1, 0, 7, 6], [2, 1, 0, 7], [3, 2, 1, 0]]),
        ("rc8", [[0; 4], [1; 4], [2; 4], [3; 4]]),
        ("ecl", [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 2, 3], [3, 3, 3, 3]]),
        ("ecr", [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]]),
        ("rc16", [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]]),
    ];
    for (mode, table) in modes {
        all.push(form(format!("prmt.b32.{mode}"), "rrrr", move |x| {
            (0..4).fold(0, |out, i| out | byte(x, table[(x[2] & 3) as usize][i]) << (8 * i))
        }));
    }
    // Bit by bit, as the ISA's pseudocode.
    let bfe = |x: u64, pos: u64, len: u64, msb: u64, signed: bool| {
        let (pos, len) = (pos & 255, len & 255);
        let sign = signed && len > 0 && x >> (pos + len - 1).min(msb) & 1 != 0;
        (0..=msb).fold(0, |out, i| {
            let bit = if i < len && pos + i <= msb { x >> (pos + i) & 1 != 0 } else { sign };
            out | u64::from(bit) << i
        })
    };
    all.push(form("bfe.u32", "rrss", move |x| bfe(x[0], x[1], x[2], 31, false)));
    all.push(form("bfe.s32", "rrss", move |x| bfe(x[0], x[1], x[2], 31, true)));
    all.push(form("bfe.u64", "ddss", move |x| bfe(x[0], x[1], x[2], 63, false)));
    all.push(form("bfe.s64", "ddss", move |x| bfe(x[0], x[1], x[2], 63, true)));
    let bfi = |a: u64, b: u64, pos: u64, len: u64, msb: u64| {
        let (pos, len) = (pos & 255, len & 255);
        (0..len)
            .take_while(|i| pos + i <= msb)
            .fold(b, |out, i| out & !(1 << (pos + i)) | (a >> i & 1) << (pos + i))
    };
    all.push(form("bfi.b32", "rrrss", move |x| bfi(x[0], x[1], x[2], x[3], 31)));
    all.push(form("bfi.b64", "dddss", move |x| bfi(x[0], x[1], x[2], x[3], 63)));
    let find = |x: u64| (0..64).rev().find(|i| x >> i & 1 != 0).map_or(0xffff_ffff, |i| i);
    all.push(form("bfind.u32", "rr", move |x| find(x[0])));
    all.push(form("bfind.u64", "rd", move |x| find(x[0])));
    all.push(form("bfind.s32", "rr", move |x| {
        find(u64::from(if x[0] >> 31 != 0 { !(x[0] as u32) } else { x[0] as u32 }))
    }));
    all.push(form("bfind.s64", "rd", move |x| find(if x[0] >> 63 != 0 { !x[0] } else { x[0] })));
    all.push(form(
        "bfind.shiftamt.u32",
        "rr",
        move |x| if x[0] == 0 { 0xffff_ffff } else { 31 - find(x[0]) },
    ));
    all.push(form("popc.b32", "rr", |x| (0..64).map(|i| x[0] >> i & 1).sum()));
    all.push(form("popc.b64", "rd", |x| (0..64).map(|i| x[0] >> i & 1).sum()));
    all.push(form("clz.b32", "rr", move |x| if x[0] == 0 { 32 } else { 31 - find(x[0]) }));
    all.push(form("clz.b64", "rd", move |x| if x[0] == 0 { 64 } else { 63 - find(x[0]) }));
    all.push(form("brev.b32", "rr", |x| (0..32).fold(0, |out, i| out | (x[0] >> i & 1) << (31 - i))));
    all.push(form("brev.b64", "dd", |x| (0..64).fold(0, |out, i| out | (x[0] >> i & 1) << (63 - i))));
    all.push(form("selp.b32", "rrrp", |x| if x[2] != 0 { x[0] } else { x[1] }));
    all.push(form("selp.b64", "dddp", |x| if x[2] != 0 { x[0] } else { x[1] }));
    all.push(form("selp.b16", "wwwp", |x| if x[2] != 0 { x[0] } else { x[1] }));
    all.push(form("slct.b32.s32", "rrrr", |x| if x[2] as i32 >= 0 { x[0] } else { x[1] }));
}

fn comparisons(all: &mut Vec<Form>) {
    use std::cmp::Ordering::{Equal, Greater, Less};
    type Test = fn(Option<std::cmp::Ordering>) -> bool;
    let ordered: [(&str, Test); 6] = [
        ("eq", |o| o == Some(Equal)),
        ("ne", |o| o.is_some_and(|o| o != Equal)),
        ("lt", |o| o == Some(Less)),
        ("le", |o| o.is_some_and(|o| o != Greater)),
        ("gt", |o| o == Some(Greater)),
        ("ge", |o| o.is_some_and(|o| o != Less)),
    ];
    for (name, test) in ordered {
        let t = move |o| u64::from(test(o));
        all.push(form(format!("setp.{name}.u32"), "prr", move |x| t(x[0].partial_cmp(&x[1]))));
        all.push(form(format!("setp.{name}.s32"), "prr", move |x| {
            t((x[0] as i32).partial_cmp(&(x[1] as i32)))
        }));
        all.push(form(format!("setp.{name}.u64"), "pdd", move |x| t(x[0].partial_cmp(&x[1]))));
        all.push(form(format!("setp.{name}.s64"), "pdd", move |x| {
            t((x[0] as i64).partial_cmp(&(x[1] as i64)))
        }));
        all.push(form(format!("setp.{name}.u16"), "pww", move |x| t(x[0].partial_cmp(&x[1]))));
        all.push(form(format!("setp.{name}.s16"), "pww", move |x| {
            t((x[0] as i16).partial_cmp(&(x[1] as i16)))
        }));
        all.push(form(format!("set.{name}.u32.f32"), "rff", move |x| {
            t(f(x[0]).partial_cmp(&f(x[1]))) * 0xffff_ffff
        }));
    }
    let unordered: [(&str, Test); 8] = [
        ("equ", |o| o.is_none_or(|o| o == Equal)),
        ("neu", |o| o != Some(Equal)),
        ("ltu", |o| o.is_none_or(|o| o == Less)),
        ("leu", |o| o != Some(Greater)),
        ("gtu", |o| o.is_none_or(|o| o == Greater)),
        ("geu", |o| o != Some(Less)),
        ("num", |o| o.is_some()),
        ("nan", |o| o.is_none()),
    ];
    for (name, test) in ordered.into_iter().chain(unordered) {
        let t = move |o| u64::from(test(o));
        all.push(form(format!("setp.{name}.f32"), "pff", move |x| t(f(x[0]).partial_cmp(&f(x[1])))));
        all.push(form(format!("setp.{name}.ftz.f32"), "pff", move |x| {
            t(ftz(f(x[0])).partial_cmp(&ftz(f(x[1]))))
        }));
        all.push(form(format!("setp.{name}.f64"), "pFF", move |x| t(g(x[0]).partial_cmp(&g(x[1])))));
        all.push(form(format!("setp.{name}.f16"), "phh", move |x| {
            t(half_value(x[0], false).partial_cmp(&half_value(x[1], false)))
        }));
    }
    for (name, combine) in
        [("and", (|a, b| a & b) as fn(u64, u64) -> u64), ("or", |a, b| a | b), ("xor", |a, b| a ^ b)]
    {
        all.push(form(format!("setp.lt.{name}.s32"), "prrp", move |x| {
            combine(u64::from((x[0] as i32) < x[1] as i32), x[2])
        }));
    }
    let classes: [(&str, fn(f32) -> bool); 6] = [
        ("finite", f32::is_finite),
        ("infinite", f32::is_infinite),
        ("number", |x| !x.is_nan()),
        ("notanumber", f32::is_nan),
        ("normal", f32::is_normal),
        ("subnormal", f32::is_subnormal),
    ];
    for (name, test) in classes {
        all.push(form(format!("testp.{name}.f32"), "pf", move |x| u64::from(test(f(x[0])))));
    }
}

/// minNum and maxNum: a number beats NaN, −0 is below +0.
fn pick(a: f32, b: f32, min: bool) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ => {
            if (a.total_cmp(&b) == std::cmp::Ordering::Less) == min {
                a
            } else {
                b
            }
        }
    }
}

fn floats(all: &mut Vec<Form>) {
    for rn in ["", ".rn"] {
        all.push(form(format!("add{rn}.f32"), "fff", |x| of(f(x[0]) + f(x[1]))));
        all.push(form(format!("sub{rn}.f32"), "fff", |x| of(f(x[0]) - f(x[1]))));
        all.push(form(format!("mul{rn}.f32"), "fff", |x| of(f(x[0]) * f(x[1]))));
        all.push(close(format!("add{rn}.f64"), "FFF", |x, r| same64(g(x[0]) + g(x[1]), r)));
        all.push(close(format!("sub{rn}.f64"), "FFF", |x, r| same64(g(x[0]) - g(x[1]), r)));
        all.push(close(format!("mul{rn}.f64"), "FFF", |x, r| same64(g(x[0]) * g(x[1]), r)));
    }
    all.push(form("fma.rn.f32", "ffff", |x| of(f(x[0]).mul_add(f(x[1]), f(x[2])))));
    all.push(form("fma.rn.ftz.f32", "ffff", |x| of(ftz(ftz(f(x[0])).mul_add(ftz(f(x[1])), ftz(f(x[2])))))));
    all.push(form("fma.rn.sat.f32", "ffff", |x| of(sat(f(x[0]).mul_add(f(x[1]), f(x[2]))))));
    all.push(form("add.ftz.f32", "fff", |x| of(ftz(ftz(f(x[0])) + ftz(f(x[1]))))));
    all.push(form("sub.ftz.f32", "fff", |x| of(ftz(ftz(f(x[0])) - ftz(f(x[1]))))));
    all.push(form("mul.ftz.f32", "fff", |x| of(ftz(ftz(f(x[0])) * ftz(f(x[1]))))));
    all.push(form("add.sat.f32", "fff", |x| of(sat(f(x[0]) + f(x[1])))));
    all.push(form("mul.ftz.sat.f32", "fff", |x| of(sat(ftz(ftz(f(x[0])) * ftz(f(x[1])))))));
    all.push(close("fma.rn.f64", "FFFF", |x, r| same64(g(x[0]).mul_add(g(x[1]), g(x[2])), r)));
    all.push(form("div.rn.f32", "fff", |x| of(f(x[0]) / f(x[1]))));
    all.push(form("div.rn.ftz.f32", "fff", |x| of(ftz(ftz(f(x[0])) / ftz(f(x[1]))))));
    all.push(form("rcp.rn.f32", "ff", |x| of(1.0 / f(x[0]))));
    all.push(form("sqrt.rn.f32", "ff", |x| of(f(x[0]).sqrt())));
    all.push(close("div.rn.f64", "FFF", |x, r| same64(g(x[0]) / g(x[1]), r)));
    all.push(close("rcp.rn.f64", "FF", |x, r| same64(1.0 / g(x[0]), r)));
    all.push(close("sqrt.rn.f64", "FF", |x, r| same64(g(x[0]).sqrt(), r)));
    all.push(form("abs.f32", "ff", |x| x[0] & 0x7fff_ffff));
    all.push(form("neg.f32", "ff", |x| x[0] ^ 0x8000_0000));
    all.push(form("abs.ftz.f32", "ff", |x| u64::from(ftz(f(x[0])).to_bits()) & 0x7fff_ffff));
    all.push(form("neg.ftz.f32", "ff", |x| u64::from(ftz(f(x[0])).to_bits()) ^ 0x8000_0000));
    all.push(form("abs.f64", "FF", |x| x[0] & i64::MAX as u64));
    all.push(form("neg.f64", "FF", |x| x[0] ^ 1 << 63));
    all.push(form("min.f32", "fff", |x| of(pick(f(x[0]), f(x[1]), true))));
    all.push(form("max.f32", "fff", |x| of(pick(f(x[0]), f(x[1]), false))));
    all.push(form("min.ftz.f32", "fff", |x| of(pick(ftz(f(x[0])), ftz(f(x[1])), true))));
    all.push(form("max.ftz.f32", "fff", |x| of(pick(ftz(f(x[0])), ftz(f(x[1])), false))));
    all.push(form("max.NaN.f32", "fff", |x| {
        let (a, b) = (f(x[0]), f(x[1]));
        of(if a.is_nan() || b.is_nan() { f32::NAN } else { pick(a, b, false) })
    }));
    all.push(close("min.f64", "FFF", |x, r| {
        let (a, b) = (g(x[0]), g(x[1]));
        let want = if a.is_nan() {
            b
        } else if b.is_nan() || a.total_cmp(&b).is_le() {
            a
        } else {
            b
        };
        same64(want, r)
    }));
    all.push(form("copysign.f32", "fff", |x| x[0] & 0x8000_0000 | x[1] & 0x7fff_ffff));
    all.push(form("copysign.f64", "FFF", |x| x[0] & 1 << 63 | x[1] & i64::MAX as u64));
}

fn rounded(all: &mut Vec<Form>) {
    let directions = [("rz", Direction::Zero), ("rm", Direction::Down), ("rp", Direction::Up)];
    for (name, way) in directions {
        all.push(close(format!("add.{name}.f32"), "fff", move |x, r| {
            rounds_fma(f(x[0]).into(), 1.0, f(x[1]).into(), r, false, way)
        }));
        all.push(close(format!("mul.{name}.f32"), "fff", move |x, r| {
            let zero = 0f64.copysign(f64::from(f(x[0]).signum() * f(x[1]).signum()));
            rounds_fma(f(x[0]).into(), f(x[1]).into(), zero, r, false, way)
        }));
        all.push(close(format!("fma.{name}.f32"), "ffff", move |x, r| {
            rounds_fma(f(x[0]).into(), f(x[1]).into(), f(x[2]).into(), r, false, way)
        }));
        all.push(close(format!("div.{name}.f32"), "fff", move |x, r| {
            rounds_div(f(x[0]).into(), f(x[1]).into(), r, false, way)
        }));
        all.push(close(format!("rcp.{name}.f32"), "ff", move |x, r| {
            rounds_div(1.0, f(x[0]).into(), r, false, way)
        }));
        all.push(close(format!("sqrt.{name}.f32"), "ff", move |x, r| {
            rounds_sqrt(f(x[0]).into(), r, false, way)
        }));
        all.push(close(format!("add.{name}.f64"), "FFF", move |x, r| {
            rounds_fma(g(x[0]), 1.0, g(x[1]), r, true, way)
        }));
        all.push(close(format!("mul.{name}.f64"), "FFF", move |x, r| {
            let zero = 0f64.copysign(g(x[0]).signum() * g(x[1]).signum());
            rounds_fma(g(x[0]), g(x[1]), zero, r, true, way)
        }));
        all.push(close(format!("fma.{name}.f64"), "FFFF", move |x, r| {
            rounds_fma(g(x[0]), g(x[1]), g(x[2]), r, true, way)
        }));
        all.push(close(format!("div.{name}.f64"), "FFF", move |x, r| {
            rounds_div(g(x[0]), g(x[1]), r, true, way)
        }));
        all.push(close(format!("sqrt.{name}.f64"), "FF", move |x, r| rounds_sqrt(g(x[0]), r, true, way)));
    }
}

/// Within a relative error of the f64 value, or the same class of special value. Results below the least normal number
/// may be flushed.
fn near(want: f64, got: u64, relative: f64) -> bool {
    let got = f64::from(f(got));
    if want.is_nan() {
        return got.is_nan();
    }
    let narrow = want as f32;
    if narrow.is_infinite() || want == 0.0 {
        return got == f64::from(narrow);
    }
    (got - want).abs() <= relative * want.abs() + f64::from(f32::from_bits(1))
}

fn approximations(all: &mut Vec<Form>) {
    let ulp = f64::from(f32::EPSILON);
    let list: [(&'static str, f64, fn(f64) -> f64); 6] = [
        ("rcp.approx.f32", ulp, |x| 1.0 / x),
        ("sqrt.approx.f32", ulp, f64::sqrt),
        ("rsqrt.approx.f32", ulp, |x| 1.0 / x.sqrt()),
        ("ex2.approx.f32", ulp, f64::exp2),
        ("lg2.approx.f32", ulp, f64::log2),
        ("tanh.approx.f32", 5e-4, f64::tanh),
    ];
    for (op, relative, model) in list {
        all.push(close(op, "ff", move |x, r| near(model(f(x[0]).into()), r, relative)));
    }
    all.push(close("ex2.approx.ftz.f32", "ff", move |x, r| {
        let want = f64::from(ftz(f(x[0]))).exp2();
        if want < f64::from(f32::MIN_POSITIVE) { f(r) == 0.0 } else { near(want, r, ulp) }
    }));
    // The ISA bounds the absolute error, 2^-20.5 in [-pi, pi].
    for (op, model) in [("sin.approx.f32", f64::sin as fn(f64) -> f64), ("cos.approx.f32", f64::cos)] {
        all.push(close(op, "ff", move |x, r| {
            let a = f64::from(f(x[0]));
            match a.is_finite() {
                true if a.abs() <= 1e4 => (f64::from(f(r)) - model(a)).abs() <= 6.7e-7,
                true => true,
                false => f(r).is_nan(),
            }
        }));
    }
    all.push(close("div.full.f32", "fff", move |x, r| {
        near(f64::from(f(x[0])) / f64::from(f(x[1])), r, 2.0 * ulp)
    }));
    all.push(close("div.approx.f32", "fff", move |x, r| {
        let (a, b) = (f(x[0]), f(x[1]));
        match b.abs() > 2f32.powi(126) && b.is_finite() {
            true if a.is_nan() || a.is_infinite() => f(r).is_nan(),
            true => f(r) == 0.0,
            false => near(f64::from(a) / f64::from(b), r, 2.0 * ulp),
        }
    }));
}

fn halves(all: &mut Vec<Form>) {
    for (ty, sig2, sig3, sig4, bf) in
        [("f16", "hh", "hhh", "hhhh", false), ("bf16", "bb", "bbb", "bbbb", true)]
    {
        let v = move |x: u64| half_value(x, bf);
        all.push(form(format!("add.{ty}"), sig3, move |x| half_bits(v(x[0]) + v(x[1]), bf)));
        all.push(form(format!("sub.{ty}"), sig3, move |x| half_bits(v(x[0]) - v(x[1]), bf)));
        all.push(form(format!("mul.{ty}"), sig3, move |x| half_bits(v(x[0]) * v(x[1]), bf)));
        all.push(close(format!("fma.rn.{ty}"), sig4, move |x, r| {
            exact::rounds_half_fma(v(x[0]), v(x[1]), v(x[2]), r, bf)
        }));
        all.push(form(format!("neg.{ty}"), sig2, |x| x[0] ^ 0x8000));
        all.push(form(format!("abs.{ty}"), sig2, |x| x[0] & 0x7fff));
        all.push(form(format!("max.{ty}"), sig3, move |x| {
            let (a, b) = (v(x[0]), v(x[1]));
            match (a.is_nan(), b.is_nan()) {
                (true, true) => 0x7fff,
                (true, _) => x[1],
                (_, true) => x[0],
                _ => {
                    if a.total_cmp(&b).is_ge() {
                        x[0]
                    } else {
                        x[1]
                    }
                }
            }
        }));
        let x2 = move |x: &[u64; 4], model: &dyn Fn(f64, f64) -> f64| {
            let half = |i: u32| half_bits(model(v(x[0] >> i & 0xffff), v(x[1] >> i & 0xffff)), bf);
            half(0) | half(16) << 16
        };
        all.push(form(format!("add.{ty}x2"), "rrr", move |x| x2(x, &|a, b| a + b)));
        all.push(form(format!("mul.{ty}x2"), "rrr", move |x| x2(x, &|a, b| a * b)));
    }
}

fn conversions(all: &mut Vec<Form>) {
    // Between integers: cut, then extended to the register.
    all.push(form("cvt.u32.u64", "rd", |x| x[0] & 0xffff_ffff));
    all.push(form("cvt.s32.s64", "rd", |x| x[0] & 0xffff_ffff));
    all.push(form("cvt.u64.u32", "dr", |x| x[0]));
    all.push(form("cvt.s64.s32", "dr", |x| i64::from(x[0] as i32) as u64));
    all.push(form("cvt.u16.u32", "wr", |x| x[0] & 0xffff));
    all.push(form("cvt.u32.u16", "rw", |x| x[0]));
    all.push(form("cvt.s32.s16", "rw", |x| u64::from(i32::from(x[0] as i16) as u32)));
    all.push(form("cvt.s32.s8", "rr", |x| u64::from(i32::from(x[0] as i8) as u32)));
    all.push(form("cvt.u32.u8", "rr", |x| x[0] & 255));
    all.push(form("cvt.s16.s8", "ww", |x| u64::from(i16::from(x[0] as i8) as u16)));
    all.push(form("cvt.s8.s32", "rr", |x| u64::from(i32::from(x[0] as i8) as u32)));
    all.push(form("cvt.sat.u8.s32", "rr", |x| (x[0] as i32).clamp(0, 255) as u64));
    all.push(form("cvt.sat.s8.s32", "rr", |x| u64::from((x[0] as i32).clamp(-128, 127) as u32)));
    all.push(form("cvt.sat.u32.s32", "rr", |x| (x[0] as i32).max(0) as u64));
    all.push(form("cvt.s64.s16", "dw", |x| i64::from(x[0] as i16) as u64));
    // Integers to floats.
    all.push(form("cvt.rn.f32.u32", "fr", |x| of(x[0] as u32 as f32)));
    all.push(form("cvt.rn.f32.s32", "fr", |x| of(x[0] as i32 as f32)));
    all.push(form("cvt.rn.f32.u64", "fd", |x| of(x[0] as f32)));
    all.push(form("cvt.rn.f32.s64", "fd", |x| of(x[0] as i64 as f32)));
    all.push(form("cvt.rn.f64.s32", "Fr", |x| f64::from(x[0] as i32).to_bits()));
    all.push(form("cvt.rn.f64.u32", "Fr", |x| (x[0] as f64).to_bits()));
    all.push(form("cvt.rn.f64.s64", "Fd", |x| (x[0] as i64 as f64).to_bits()));
    all.push(form("cvt.rn.f64.u64", "Fd", |x| (x[0] as f64).to_bits()));
    all.push(form("cvt.rn.f32.u16", "fw", |x| of(x[0] as f32)));
    all.push(form("cvt.rn.f32.s16", "fw", |x| of(f32::from(x[0] as i16))));
    all.push(form("cvt.rn.f32.u8", "fr", |x| of(f32::from(x[0] as u8))));
    all.push(form("cvt.rn.f32.s8", "fr", |x| of(f32::from(x[0] as i8))));
    all.push(form("cvt.rn.f16.s32", "hr", |x| half_bits(f64::from(x[0] as i32), false)));
    all.push(form("cvt.rz.f32.u32", "fr", |x| {
        let (v, near) = (x[0] as f64, x[0] as u32 as f32);
        of(if f64::from(near) > v { f32::from_bits(near.to_bits() - 1) } else { near })
    }));
    // Floats to integers.
    type Rounding = fn(f64) -> f64;
    let roundings: [(&str, Rounding); 4] =
        [("rni", f64::round_ties_even), ("rzi", f64::trunc), ("rmi", f64::floor), ("rpi", f64::ceil)];
    for (name, round) in roundings {
        all.push(form(format!("cvt.{name}.s32.f32"), "rf", move |x| {
            u64::from(round(f(x[0]).into()) as i32 as u32)
        }));
        all.push(form(format!("cvt.{name}.u32.f32"), "rf", move |x| u64::from(round(f(x[0]).into()) as u32)));
        all.push(form(format!("cvt.{name}.s64.f32"), "df", move |x| match f(x[0]).is_nan() {
            true => 1 << 63,
            false => round(f(x[0]).into()) as i64 as u64,
        }));
        all.push(form(format!("cvt.{name}.u64.f64"), "dF", move |x| match g(x[0]).is_nan() {
            true => 1 << 63,
            false => round(g(x[0])) as u64,
        }));
        all.push(form(format!("cvt.{name}.s32.f64"), "rF", move |x| match g(x[0]).is_nan() {
            true => 1 << 31,
            false => u64::from(round(g(x[0])) as i32 as u32),
        }));
        all.push(form(format!("cvt.{name}.f32.f32"), "ff", move |x| of(round(f(x[0]).into()) as f32)));
        all.push(close(format!("cvt.{name}.f64.f64"), "FF", move |x, r| same64(round(g(x[0])), r)));
        all.push(form(format!("cvt.{name}.s32.f16"), "rh", move |x| {
            u64::from(round(half_value(x[0], false)) as i32 as u32)
        }));
    }
    all.push(form("cvt.rzi.u8.f32", "rf", |x| u64::from(f(x[0]) as u8)));
    all.push(form("cvt.rzi.ftz.s32.f32", "rf", |x| u64::from(ftz(f(x[0])) as i32 as u32)));
    // Floats to floats.
    all.push(form("cvt.f32.f16", "fh", |x| of(half_value(x[0], false) as f32)));
    all.push(form("cvt.f32.bf16", "fb", |x| of(half_value(x[0], true) as f32)));
    all.push(close("cvt.f64.f32", "Ff", |x, r| same64(f(x[0]).into(), r)));
    all.push(form("cvt.rn.f32.f64", "fF", |x| of(g(x[0]) as f32)));
    all.push(form("cvt.rn.f16.f32", "hf", |x| half_bits(f(x[0]).into(), false)));
    all.push(form("cvt.rn.bf16.f32", "bf", |x| half_bits(f(x[0]).into(), true)));
    all.push(form("cvt.rn.f16.f64", "hF", |x| half_bits(g(x[0]), false)));
    all.push(form("cvt.rn.f16x2.f32", "rff", |x| {
        half_bits(f(x[0]).into(), false) << 16 | half_bits(f(x[1]).into(), false)
    }));
    all.push(form("cvt.rn.bf16x2.f32", "rff", |x| {
        half_bits(f(x[0]).into(), true) << 16 | half_bits(f(x[1]).into(), true)
    }));
    all.push(form("cvt.rn.relu.f16.f32", "hf", |x| {
        let v = f(x[0]);
        half_bits(if v.is_nan() { f64::NAN } else { f64::from(v.max(0.0)) + 0.0 }, false)
    }));
    all.push(form("cvt.rz.f16.f32", "hf", |x| {
        let near = half_bits(f(x[0]).into(), false);
        let beyond = half_value(near, false).abs() > f64::from(f(x[0])).abs();
        near - u64::from(beyond)
    }));
    all.push(form("cvt.rz.bf16.f32", "bf", |x| if f(x[0]).is_nan() { 0x7fff } else { x[0] >> 16 }));
    all.push(form("cvt.rna.tf32.f32", "rf", |x| match f(x[0]) {
        v if v.is_nan() => 0x7fff_ffff,
        v if v.is_infinite() => x[0],
        _ => (x[0] + 0x1000) & 0xffff_e000,
    }));
    all.push(form("cvt.sat.f32.f32", "ff", |x| of(sat(f(x[0])))));
    all.push(form("cvt.ftz.f32.f32", "ff", |x| of(ftz(f(x[0])))));
}
