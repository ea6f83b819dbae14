//! f32 and f64: every rounding, with flushed subnormals and saturation.

use super::{
    Form, close,
    exact::{DIRECTIONS, Direction, Format, rounds_div, rounds_fma, rounds_mul, rounds_sqrt},
    f, flush_if, form, ftz, g, of, same64, sat,
};

pub fn forms(all: &mut Vec<Form>) {
    narrow(all);
    wide(all);
    signs(all);
    extremes(all);
}

/// An operation on operands as f64: the nearest f64 to the result, and whether bits are the rounded result.
type Near = fn(f64, f64, f64) -> f64;
type Rounds = fn(f64, f64, f64, u64, Format, Direction) -> bool;

const OPERATIONS: [(&str, usize, Near, Rounds); 7] = [
    ("add", 2, |a, b, _| a + b, |a, b, _, r, format, way| rounds_fma(a, 1.0, b, r, format, way)),
    ("sub", 2, |a, b, _| a - b, |a, b, _, r, format, way| rounds_fma(a, 1.0, -b, r, format, way)),
    ("mul", 2, |a, b, _| a * b, |a, b, _, r, format, way| rounds_mul(a, b, r, format, way)),
    ("fma", 3, f64::mul_add, rounds_fma),
    ("div", 2, |a, b, _| a / b, |a, b, _, r, format, way| rounds_div(a, b, r, format, way)),
    ("rcp", 1, |a, _, _| 1.0 / a, |a, _, _, r, format, way| rounds_div(1.0, a, r, format, way)),
    ("sqrt", 1, |a, _, _| a.sqrt(), |a, _, _, r, format, way| rounds_sqrt(a, r, format, way)),
];

/// The instructions on the host, which rounds to nearest.
fn host(op: &str, a: f32, b: f32, c: f32) -> f32 {
    match op {
        "add" => a + b,
        "sub" => a - b,
        "mul" => a * b,
        "fma" => a.mul_add(b, c),
        "div" => a / b,
        "rcp" => 1.0 / a,
        _ => a.sqrt(),
    }
}

fn narrow(all: &mut Vec<Form>) {
    for (op, operands, near, rounds) in OPERATIONS {
        let signature = "f".repeat(1 + operands);
        let saturates = matches!(op, "add" | "sub" | "mul" | "fma");
        for (name, way) in DIRECTIONS {
            for flush in [false, true] {
                for clamp in [false, true] {
                    if clamp && !saturates {
                        continue;
                    }
                    let mods = [(flush, ".ftz"), (clamp, ".sat")];
                    let mods: String = mods.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
                    let model = move |x: &[u64; 4]| {
                        let [a, b, c] = [0, 1, 2].map(|i| flush_if(flush, f(x[i])));
                        let exact = match way {
                            Direction::Nearest => host(op, a, b, c),
                            _ => {
                                let [a, b, c] = [a, b, c].map(f64::from);
                                f(Format::F32.find(near(a, b, c), |r| rounds(a, b, c, r, Format::F32, way)))
                            }
                        };
                        let exact = flush_if(flush, exact);
                        of(if clamp { sat(exact) } else { exact })
                    };
                    all.push(form(format!("{op}.{name}{mods}.f32"), &signature, model));
                    // Rounding to nearest is what these do unsaid.
                    if way == Direction::Nearest && matches!(op, "add" | "sub" | "mul") {
                        all.push(form(format!("{op}{mods}.f32"), &signature, model));
                    }
                }
            }
        }
    }
}

fn wide(all: &mut Vec<Form>) {
    for (op, operands, near, rounds) in OPERATIONS {
        let signature = "F".repeat(1 + operands);
        for (name, way) in DIRECTIONS {
            let holds = move |x: &[u64; 4], r: u64| {
                let [a, b, c] = [0, 1, 2].map(|i| g(x[i]));
                match way {
                    // The host's own.
                    Direction::Nearest => same64(near(a, b, c), r),
                    _ => rounds(a, b, c, r, Format::F64, way),
                }
            };
            all.push(close(format!("{op}.{name}.f64"), &signature, holds));
            if way == Direction::Nearest && matches!(op, "add" | "sub" | "mul") {
                all.push(close(format!("{op}.f64"), &signature, holds));
            }
        }
    }
}

fn signs(all: &mut Vec<Form>) {
    all.push(form("abs.f32", "ff", |x| x[0] & 0x7fff_ffff));
    all.push(form("neg.f32", "ff", |x| x[0] ^ 0x8000_0000));
    all.push(form("abs.ftz.f32", "ff", |x| u64::from(ftz(f(x[0])).to_bits()) & 0x7fff_ffff));
    all.push(form("neg.ftz.f32", "ff", |x| u64::from(ftz(f(x[0])).to_bits()) ^ 0x8000_0000));
    all.push(form("abs.f64", "FF", |x| x[0] & i64::MAX as u64));
    all.push(form("neg.f64", "FF", |x| x[0] ^ 1 << 63));
    all.push(form("copysign.f32", "fff", |x| x[0] & 0x8000_0000 | x[1] & 0x7fff_ffff));
    all.push(form("copysign.f64", "FFF", |x| x[0] & 1 << 63 | x[1] & i64::MAX as u64));
}

/// minNum and maxNum: a number beats NaN, −0 is below +0.
pub fn pick(a: f64, b: f64, min: bool) -> f64 {
    match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ => {
            if a.total_cmp(&b).is_lt() == min {
                a
            } else {
                b
            }
        }
    }
}

fn extremes(all: &mut Vec<Form>) {
    for (op, min) in [("min", true), ("max", false)] {
        for flush in [false, true] {
            for nan in [false, true] {
                for xor in [false, true] {
                    let mods = [(flush, ".ftz"), (nan, ".NaN"), (xor, ".xorsign.abs")];
                    let mods: String = mods.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
                    all.push(form(format!("{op}{mods}.f32"), "fff", move |x| {
                        let (a, b) = (flush_if(flush, f(x[0])), flush_if(flush, f(x[1])));
                        if nan && (a.is_nan() || b.is_nan()) {
                            return of(f32::NAN);
                        }
                        let (p, q) = if xor { (a.abs(), b.abs()) } else { (a, b) };
                        let best = pick(p.into(), q.into(), min) as f32;
                        let negative = xor && a.is_sign_negative() != b.is_sign_negative();
                        of(if negative { -best } else { best })
                    }));
                }
            }
        }
        all.push(close(format!("{op}.f64"), "FFF", move |x, r| same64(pick(g(x[0]), g(x[1]), min), r)));
    }
}
