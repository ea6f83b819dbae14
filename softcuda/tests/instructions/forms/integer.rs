//! Integer arithmetic, computed in 128 bits and cut.

use super::{Form, INTS, cut, form};

pub fn forms(all: &mut Vec<Form>) {
    for int in INTS {
        let (ty, l) = (int.name, int.letter());
        let (two, three) = (format!("{l}{l}{l}"), format!("{l}{l}{l}{l}"));
        let v = move |x: u64| int.value(x);
        let mut binary = |op: &str, model: fn(i128, i128) -> i128| {
            all.push(form(format!("{op}.{ty}"), &two, move |x| int.cut(model(v(x[0]), v(x[1])))));
        };
        binary("add", |a, b| a + b);
        binary("sub", |a, b| a - b);
        binary("mul.lo", i128::wrapping_mul);
        binary("min", i128::min);
        binary("max", i128::max);
        // Division by zero is not defined by the ISA; these are what devices give.
        binary("div", |a, b| if b == 0 { -1 } else { a / b });
        binary("rem", |a, b| if b == 0 { a } else { a % b });
        // The high half is the same whether 128 bits are signed or not.
        let high = move |x: &[u64; 4]| v(x[0]).wrapping_mul(v(x[1])) >> int.bits;
        all.push(form(format!("mul.hi.{ty}"), &two, move |x| int.cut(high(x))));
        all.push(form(format!("mad.hi.{ty}"), &three, move |x| int.cut(high(x) + v(x[2]))));
        all.push(form(format!("mad.lo.{ty}"), &three, move |x| {
            int.cut(v(x[0]).wrapping_mul(v(x[1])).wrapping_add(v(x[2])))
        }));
        all.push(form(format!("sad.{ty}"), &three, move |x| int.cut((v(x[0]) - v(x[1])).abs() + v(x[2]))));
        if int.signed {
            let one = format!("{l}{l}");
            all.push(form(format!("abs.{ty}"), &one, move |x| int.cut(v(x[0]).abs())));
            all.push(form(format!("neg.{ty}"), &one, move |x| int.cut(-v(x[0]))));
        }
        if int.bits < 64 {
            let wide = super::letter(2 * int.bits);
            let product = move |x: &[u64; 4]| v(x[0]) * v(x[1]);
            all.push(form(format!("mul.wide.{ty}"), format!("{wide}{l}{l}"), move |x| {
                cut(product(x), 2 * int.bits)
            }));
            all.push(form(format!("mad.wide.{ty}"), format!("{wide}{l}{l}{wide}"), move |x| {
                cut(product(x) + i128::from(x[2]), 2 * int.bits)
            }));
        }
        if int.bits == 32 {
            // The low 24 bits, extended.
            let part = move |x: u64| (v(x) << 104) >> 104 & if int.signed { -1 } else { 0xff_ffff };
            all.push(form(format!("mul24.lo.{ty}"), "rrr", move |x| int.cut(part(x[0]) * part(x[1]))));
            all.push(form(format!("mad24.lo.{ty}"), "rrrr", move |x| {
                int.cut(part(x[0]) * part(x[1]) + v(x[2]))
            }));
        }
    }
    let s32 = INTS[3];
    let (low, high) = s32.range();
    all.push(form("add.sat.s32", "rrr", move |x| {
        s32.cut((s32.value(x[0]) + s32.value(x[1])).clamp(low, high))
    }));
    all.push(form("sub.sat.s32", "rrr", move |x| {
        s32.cut((s32.value(x[0]) - s32.value(x[1])).clamp(low, high))
    }));
    packed(all);
    dots(all);
}

/// Two 16-bit values in a register (sm_90).
fn packed(all: &mut Vec<Form>) {
    for int in &INTS[..2] {
        let ops: [(&str, fn(i128, i128) -> i128); 3] =
            [("add", |a, b| a + b), ("min", i128::min), ("max", i128::max)];
        for (op, model) in ops {
            all.push(form(format!("{op}.{}x2", int.name), "rrr", move |x| {
                let half = |at: u32| int.cut(model(int.value(x[0] >> at), int.value(x[1] >> at)));
                half(0) | half(16) << 16
            }));
        }
    }
}

/// Sums of products of bytes.
fn dots(all: &mut Vec<Form>) {
    let part = |x: u64, bits: u32, i: u32, signed: bool| {
        let low = i128::from(x >> (bits * i) & ((1 << bits) - 1));
        if signed && low >> (bits - 1) != 0 { low - (1 << bits) } else { low }
    };
    for (a, b) in [(false, false), (false, true), (true, false), (true, true)] {
        let ty = |signed| if signed { "s32" } else { "u32" };
        let (ta, tb) = (ty(a), ty(b));
        all.push(form(format!("dp4a.{ta}.{tb}"), "rrrr", move |x| {
            let products = (0..4).map(|i| part(x[0], 8, i, a) * part(x[1], 8, i, b));
            cut(products.sum::<i128>() + i128::from(x[2]), 32)
        }));
        for (name, first) in [("lo", 0), ("hi", 2)] {
            all.push(form(format!("dp2a.{name}.{ta}.{tb}"), "rrrr", move |x| {
                let products = (0..2).map(|i| part(x[0], 16, i, a) * part(x[1], 8, i + first, b));
                cut(products.sum::<i128>() + i128::from(x[2]), 32)
            }));
        }
    }
}
