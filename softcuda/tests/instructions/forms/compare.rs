//! Comparisons and classes.

use std::cmp::Ordering::{self, Equal, Greater, Less};

use super::{Form, INTS, exact::Format, f, form, ftz, g};

type Test = fn(Option<Ordering>) -> bool;

const ORDERED: [(&str, Test); 6] = [
    ("eq", |o| o == Some(Equal)),
    ("ne", |o| o.is_some_and(|o| o != Equal)),
    ("lt", |o| o == Some(Less)),
    ("le", |o| o.is_some_and(|o| o != Greater)),
    ("gt", |o| o == Some(Greater)),
    ("ge", |o| o.is_some_and(|o| o != Less)),
];

/// True when an operand is NaN.
const UNORDERED: [(&str, Test); 8] = [
    ("equ", |o| o.is_none_or(|o| o == Equal)),
    ("neu", |o| o != Some(Equal)),
    ("ltu", |o| o.is_none_or(|o| o == Less)),
    ("leu", |o| o != Some(Greater)),
    ("gtu", |o| o.is_none_or(|o| o == Greater)),
    ("geu", |o| o != Some(Less)),
    ("num", |o| o.is_some()),
    ("nan", |o| o.is_none()),
];

/// A type that is compared: its name, register and order.
type Compared = (String, char, Box<dyn Fn(u64, u64) -> Option<Ordering>>);

/// Forms of `setp`, and of `set` to each type that it can give.
fn compare(all: &mut Vec<Form>, name: &str, test: Test, (ty, l, order): Compared) {
    let order = std::rc::Rc::new(order);
    let holds = {
        let order = order.clone();
        move |x: &[u64; 4]| u64::from(test(order(x[0], x[1])))
    };
    all.push(form(format!("setp.{name}.{ty}"), format!("p{l}{l}"), holds));
    let combined: [(&str, fn(u64, u64) -> u64); 3] =
        [("and", |a, b| a & b), ("or", |a, b| a | b), ("xor", |a, b| a ^ b)];
    // `ftz` stands between the combination and the type.
    let results = [("u32", 0xffff_ffff), ("s32", 0xffff_ffff), ("f32", 0x3f80_0000)];
    for (combination, combine) in combined {
        let order = order.clone();
        all.push(form(format!("setp.{name}.{combination}.{ty}"), format!("p{l}{l}p"), move |x| {
            combine(u64::from(test(order(x[0], x[1]))), x[2])
        }));
    }
    for (to, yes) in results {
        let order = order.clone();
        let flush = ty.starts_with("ftz.");
        let (dot, plain) = (if flush { ".ftz" } else { "" }, ty.trim_start_matches("ftz."));
        all.push(form(format!("set.{name}{dot}.{to}.{plain}"), format!("r{l}{l}"), move |x| {
            u64::from(test(order(x[0], x[1]))) * yes
        }));
    }
}

pub fn forms(all: &mut Vec<Form>) {
    let value = |format: Format| move |a: u64, b: u64| format.value(a).partial_cmp(&format.value(b));
    for (name, test) in ORDERED {
        for int in INTS {
            let order = move |a, b| int.value(a).partial_cmp(&int.value(b));
            compare(all, name, test, (int.name.into(), int.letter(), Box::new(order)));
            // Untyped values are equal or not; unsigned ones have further names.
            if !int.signed && (name == "eq" || name == "ne") {
                let order = move |a: u64, b: u64| a.partial_cmp(&b);
                compare(all, name, test, (format!("b{}", int.bits), int.letter(), Box::new(order)));
            }
            let also = [("lt", "lo"), ("le", "ls"), ("gt", "hi"), ("ge", "hs")];
            if let Some((_, also)) = also.iter().find(|(n, _)| *n == name && !int.signed) {
                let l = int.letter();
                all.push(form(format!("setp.{also}.{}", int.name), format!("p{l}{l}"), move |x| {
                    u64::from(test(x[0].partial_cmp(&x[1])))
                }));
            }
        }
    }
    for (name, test) in ORDERED.into_iter().chain(UNORDERED) {
        compare(all, name, test, ("f32".into(), 'f', Box::new(|a, b| f(a).partial_cmp(&f(b)))));
        compare(all, name, test, ("ftz.f32".into(), 'f', Box::new(|a, b| ftz(f(a)).partial_cmp(&ftz(f(b))))));
        compare(all, name, test, ("f64".into(), 'F', Box::new(|a, b| g(a).partial_cmp(&g(b)))));
        compare(all, name, test, ("f16".into(), 'h', Box::new(value(Format::F16))));
        compare(all, name, test, ("bf16".into(), 'b', Box::new(value(Format::BF16))));
    }
    type Class<T> = fn(T) -> bool;
    let narrow: [(&str, Class<f32>); 6] = [
        ("finite", f32::is_finite),
        ("infinite", f32::is_infinite),
        ("number", |x| !x.is_nan()),
        ("notanumber", f32::is_nan),
        ("normal", f32::is_normal),
        ("subnormal", f32::is_subnormal),
    ];
    let wide: [(&str, Class<f64>); 6] = [
        ("finite", f64::is_finite),
        ("infinite", f64::is_infinite),
        ("number", |x| !x.is_nan()),
        ("notanumber", f64::is_nan),
        ("normal", f64::is_normal),
        ("subnormal", f64::is_subnormal),
    ];
    for (name, test) in narrow {
        all.push(form(format!("testp.{name}.f32"), "pf", move |x| u64::from(test(f(x[0])))));
    }
    for (name, test) in wide {
        all.push(form(format!("testp.{name}.f64"), "pF", move |x| u64::from(test(g(x[0])))));
    }
}
