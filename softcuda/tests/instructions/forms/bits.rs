//! Bits, bytes and selections, as the ISA's pseudocode does them.

use super::{Form, INTS, close, cut, form};

pub fn forms(all: &mut Vec<Form>) {
    for (ty, l, mask) in
        [("b32", 'r', 0xffff_ffffu64), ("b64", 'd', u64::MAX), ("b16", 'w', 0xffff), ("pred", 'p', 1)]
    {
        let (one, two) = (format!("{l}{l}"), format!("{l}{l}{l}"));
        all.push(form(format!("and.{ty}"), &two, |x| x[0] & x[1]));
        all.push(form(format!("or.{ty}"), &two, |x| x[0] | x[1]));
        all.push(form(format!("xor.{ty}"), &two, |x| x[0] ^ x[1]));
        all.push(form(format!("not.{ty}"), &one, move |x| !x[0] & mask));
        all.push(form(format!("mov.{ty}"), &one, |x| x[0]));
        if ty != "pred" {
            all.push(form(format!("cnot.{ty}"), &one, |x| u64::from(x[0] == 0)));
            all.push(form(format!("shl.{ty}"), format!("{l}{l}s"), move |x| {
                x[0].checked_shl(x[1] as u32).unwrap_or(0) & mask
            }));
        }
        if ty != "pred" && ty != "b16" {
            let bits = mask.count_ones() as u64;
            let leading = move |x: u64| (0..bits).take_while(|i| x >> (bits - 1 - i) & 1 == 0).count() as u64;
            all.push(form(format!("popc.{ty}"), format!("r{l}"), |x| (0..64).map(|i| x[0] >> i & 1).sum()));
            all.push(form(format!("clz.{ty}"), format!("r{l}"), move |x| leading(x[0])));
            all.push(form(format!("brev.{ty}"), &one, move |x| {
                (0..bits).fold(0, |out, i| out | (x[0] >> i & 1) << (bits - 1 - i))
            }));
        }
    }
    for (types, l) in [
        (&["b16", "u16", "s16"][..], 'w'),
        (&["b32", "u32", "s32", "f32"], 'r'),
        (&["b64", "u64", "s64", "f64"], 'd'),
    ] {
        for ty in types {
            if !ty.starts_with('b') {
                all.push(form(format!("mov.{ty}"), format!("{l}{l}"), |x| x[0]));
            }
            all.push(form(
                format!("selp.{ty}"),
                format!("{l}{l}{l}p"),
                |x| if x[2] != 0 { x[0] } else { x[1] },
            ));
            all.push(form(format!("slct.{ty}.s32"), format!("{l}{l}{l}r"), |x| {
                if x[2] as i32 >= 0 { x[0] } else { x[1] }
            }));
            all.push(form(format!("slct.{ty}.f32"), format!("{l}{l}{l}f"), |x| {
                if super::f(x[2]) >= 0.0 { x[0] } else { x[1] }
            }));
            all.push(form(format!("slct.ftz.{ty}.f32"), format!("{l}{l}{l}f"), |x| {
                if super::ftz(super::f(x[2])) >= 0.0 { x[0] } else { x[1] }
            }));
        }
    }
    for int in INTS {
        let (ty, l) = (int.name, int.letter());
        all.push(form(format!("shr.{ty}"), format!("{l}{l}s"), move |x| {
            int.cut(int.value(x[0]) >> x[1].min(64))
        }));
    }
    logic(all);
    bytes(all);
    fields(all);
}

fn logic(all: &mut Vec<Form>) {
    let pair = |x: &[u64; 4]| x[1] << 32 | x[0];
    all.push(form("shf.l.wrap.b32", "rrrs", move |x| (pair(x) << (x[2] & 31)) >> 32));
    all.push(form("shf.r.wrap.b32", "rrrs", move |x| pair(x) >> (x[2] & 31) & 0xffff_ffff));
    all.push(form("shf.l.clamp.b32", "rrrs", move |x| (pair(x) << x[2].min(32)) >> 32));
    all.push(form("shf.r.clamp.b32", "rrrs", move |x| pair(x) >> x[2].min(32) & 0xffff_ffff));
    for table in 0..256u64 {
        let mut lop3 = form("lop3.b32", "rrrr", move |x| {
            (0..32).fold(0, |out, i| {
                let index = (x[0] >> i & 1) << 2 | (x[1] >> i & 1) << 1 | x[2] >> i & 1;
                out | (table >> index & 1) << i
            })
        });
        lop3.suffix = format!(", {table}");
        all.push(lop3);
    }
}

fn bytes(all: &mut Vec<Form>) {
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
}

fn fields(all: &mut Vec<Form>) {
    for int in &INTS[2..] {
        let (ty, l, msb) = (int.name, int.letter(), u64::from(int.bits) - 1);
        all.push(form(format!("bfe.{ty}"), format!("{l}{l}ss"), move |x| {
            let (pos, len) = (x[1] & 255, x[2] & 255);
            let sign = int.signed && len > 0 && x[0] >> (pos + len - 1).min(msb) & 1 != 0;
            (0..=msb).fold(0, |out, i| {
                let bit = if i < len && pos + i <= msb { x[0] >> (pos + i) & 1 != 0 } else { sign };
                out | u64::from(bit) << i
            })
        }));
        // The place of the highest bit that is not a copy of the sign.
        let find = move |x: u64| {
            let x = if int.signed && x >> msb & 1 != 0 { int.cut(!int.value(x)) } else { x };
            (0..=msb).rev().find(|i| x >> i & 1 != 0)
        };
        all.push(form(format!("bfind.{ty}"), format!("r{l}"), move |x| find(x[0]).unwrap_or(0xffff_ffff)));
        all.push(form(format!("bfind.shiftamt.{ty}"), format!("r{l}"), move |x| {
            find(x[0]).map_or(0xffff_ffff, |at| msb - at)
        }));
    }
    for (ty, l, msb) in [("b32", 'r', 31), ("b64", 'd', 63)] {
        all.push(form(format!("bfi.{ty}"), format!("{l}{l}{l}ss"), move |x| {
            let (pos, len) = (x[2] & 255, x[3] & 255);
            (0..len)
                .take_while(|i| pos + i <= msb)
                .fold(x[1], |out, i| out & !(1 << (pos + i)) | (x[0] >> i & 1) << (pos + i))
        }));
    }
    for (mode, clamp) in [("clamp", true), ("wrap", false)] {
        all.push(form(format!("bmsk.{mode}.b32"), "rss", move |x| {
            let (a, b) = (x[0] & 31, x[1] & 31);
            let above = if clamp && x[0] >= 32 { 0 } else { !0u64 << a };
            let over = a + b >= 32 || clamp && (x[0] >= 32 || x[1] >= 32);
            let beyond = if over { 0 } else { !0u64 << (a + b) };
            cut(i128::from(above & !beyond), 32)
        }));
    }
    // The ISA defines a base from 0 to 31.
    all.push(close("fns.b32", "rrsr", |x, r| {
        let (mask, base, offset) = (x[0], x[1] as i64, i64::from(x[2] as i32));
        if base > 31 {
            return true;
        }
        let set = |at: &i64| mask >> at & 1 != 0;
        let nth = |n: i64| usize::try_from(n).unwrap_or(usize::MAX);
        let found = match offset {
            0 => Some(base).filter(set),
            1.. => (base..32).filter(set).nth(nth(offset - 1)),
            _ => (0..=base).rev().filter(set).nth(nth(-offset - 1)),
        };
        r == found.map_or(0xffff_ffff, |at| at as u64)
    }));
}
