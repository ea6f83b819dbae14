//! f16 and bf16, alone and in pairs.

use super::{
    Form,
    exact::{Direction, Format, rounds, rounds_fma, rounds_mul},
    float::pick,
    form,
};

/// One half from up to three.
type Model = std::rc::Rc<dyn Fn([u64; 3]) -> u64>;

/// The form on one half and, with `x2`, on two in a register.
fn both(all: &mut Vec<Form>, op: &str, (ty, l): (&str, char), operands: usize, model: Model) {
    let one = model.clone();
    let signature = l.to_string().repeat(1 + operands);
    all.push(form(format!("{op}.{ty}"), signature, move |x| one([x[0], x[1], x[2]])));
    all.push(form(format!("{op}.{ty}x2"), "r".repeat(1 + operands), move |x| {
        let half = |at: u32| model([0, 1, 2].map(|i| x[i] >> at & 0xffff));
        half(0) | half(16) << 16
    }));
}

pub fn forms(all: &mut Vec<Form>) {
    for (ty, l, format) in [("f16", 'h', Format::F16), ("bf16", 'b', Format::BF16)] {
        let wide = ty == "f16";
        arithmetic(all, (ty, l), format, wide);
        extremes(all, (ty, l), format, wide);
        let v = move |x: u64| format.value(x);
        both(all, "neg", (ty, l), 1, std::rc::Rc::new(|x| x[0] ^ 0x8000));
        both(all, "abs", (ty, l), 1, std::rc::Rc::new(|x| x[0] & 0x7fff));
        // Sums, differences and products of the atomics' kind, and 2^x and tanh rounded from f64: better than asked.
        let near = move |want: f64| format.find(want, |r| rounds(want, r, format, Direction::Nearest));
        let dot = if wide { "" } else { ".ftz" };
        let subnormal = move |x: u64| if !wide && format.is_subnormal(x) { x & 0x8000 } else { x };
        both(
            all,
            &format!("ex2.approx{dot}"),
            (ty, l),
            1,
            std::rc::Rc::new(move |x| subnormal(near(v(subnormal(x[0])).exp2()))),
        );
        both(all, "tanh.approx", (ty, l), 1, std::rc::Rc::new(move |x| near(v(x[0]).tanh())));
    }
}

fn arithmetic(all: &mut Vec<Form>, ty: (&str, char), format: Format, wide: bool) {
    let one = format.find(1.0, |r| format.value(r) == 1.0);
    for op in ["add", "sub", "mul", "fma"] {
        // What bf16 lacks.
        for flush in [false, true].into_iter().filter(|&on| wide || !on) {
            for clamp in ["", ".sat", ".relu"] {
                if clamp == ".relu" && op != "fma" || clamp == ".sat" && !wide {
                    continue;
                }
                let model = move |x: [u64; 3]| {
                    let flushed = |x: u64| if flush && format.is_subnormal(x) { x & 0x8000 } else { x };
                    let [a, b, c] = x.map(|x| format.value(flushed(x)));
                    let (near, way) = (|x: f64| x, Direction::Nearest);
                    let exact = match op {
                        "add" => format.find(near(a + b), |r| rounds_fma(a, 1.0, b, r, format, way)),
                        "sub" => format.find(near(a - b), |r| rounds_fma(a, 1.0, -b, r, format, way)),
                        "mul" => format.find(near(a * b), |r| rounds_mul(a, b, r, format, way)),
                        _ => format.find(near(a.mul_add(b, c)), |r| rounds_fma(a, b, c, r, format, way)),
                    };
                    let exact = flushed(exact);
                    let (nan, negative) = (format.value(exact).is_nan(), exact & 0x8000 != 0);
                    match clamp {
                        ".sat" if nan || negative => 0,
                        ".sat" => exact.min(one),
                        ".relu" if negative && !nan => 0,
                        _ => exact,
                    }
                };
                let flush = if flush { ".ftz" } else { "" };
                let model: Model = std::rc::Rc::new(model);
                both(
                    all,
                    &format!("{op}.rn{flush}{clamp}"),
                    ty,
                    if op == "fma" { 3 } else { 2 },
                    model.clone(),
                );
                if op != "fma" {
                    both(all, &format!("{op}{flush}{clamp}"), ty, 2, model);
                }
            }
        }
    }
}

fn extremes(all: &mut Vec<Form>, ty: (&str, char), format: Format, wide: bool) {
    for (op, min) in [("min", true), ("max", false)] {
        for flush in [false, true].into_iter().filter(|&on| wide || !on) {
            for nan in [false, true] {
                for xor in [false, true] {
                    let mods = [(flush, ".ftz"), (nan, ".NaN"), (xor, ".xorsign.abs")];
                    let mods: String = mods.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
                    let model = move |x: [u64; 3]| {
                        let flushed = |x: u64| if flush && format.is_subnormal(x) { x & 0x8000 } else { x };
                        let [a, b, _] = x.map(flushed);
                        let [p, q] = [a, b].map(|x| format.value(if xor { x & 0x7fff } else { x }));
                        if p.is_nan() && q.is_nan() || nan && (p.is_nan() || q.is_nan()) {
                            return format.nan();
                        }
                        let best = pick(p, q, min);
                        let bits = format.find(best, |r| rounds(best, r, format, Direction::Nearest));
                        bits ^ if xor { (a ^ b) & 0x8000 } else { 0 }
                    };
                    both(all, &format!("{op}{mods}"), ty, 2, std::rc::Rc::new(model));
                }
            }
        }
    }
}
