//! `cvt`: every pair of types, with its roundings.

use super::{
    Form, INTS, Int, cut,
    exact::{DIRECTIONS, Direction, Format, rounds, rounds_fma},
    f, form, ftz, letter,
};

const BYTES: [Int; 2] =
    [Int { name: "u8", bits: 8, signed: false }, Int { name: "s8", bits: 8, signed: true }];

fn ints() -> impl Iterator<Item = Int> {
    BYTES.into_iter().chain(INTS)
}

/// A floating-point type: its name, register and format.
type Float = (&'static str, char, Format);

const FLOATS: [Float; 4] = [
    ("f16", 'h', Format::F16),
    ("bf16", 'b', Format::BF16),
    ("f32", 'f', Format::F32),
    ("f64", 'F', Format::F64),
];

type ToIntegral = fn(f64) -> f64;
const INTEGRAL: [(&str, ToIntegral); 4] =
    [("rni", f64::round_ties_even), ("rzi", f64::trunc), ("rmi", f64::floor), ("rpi", f64::ceil)];

/// A float's bits through `.ftz`.
fn flushed(bits: u64, format: Format) -> u64 {
    if format == Format::F32 { u64::from(ftz(f(bits)).to_bits()) } else { bits }
}

pub fn forms(all: &mut Vec<Form>) {
    between_ints(all);
    ints_to_floats(all);
    floats_to_ints(all);
    between_floats(all);
    packed(all);
    tf32(all);
}

/// Cut, or clamped, then extended to the register.
fn between_ints(all: &mut Vec<Form>) {
    for to in ints() {
        for from in ints() {
            for sat in ["", ".sat"] {
                let (low, high) = to.range();
                // Bytes live in wider registers.
                let register = to.bits.max(16);
                let model = move |x: &[u64; 4]| {
                    let value = from.value(x[0]);
                    let value = if sat.is_empty() { to.value(value as u64) } else { value.clamp(low, high) };
                    cut(value, register)
                };
                let op = format!("cvt{sat}.{}.{}", to.name, from.name);
                all.push(form(&op, format!("{}{}", to.letter(), from.letter()), model));
                if to.bits <= 16 || from.bits <= 16 {
                    let at_least = |int: Int| letter(int.bits.max(32));
                    let model = move |x: &[u64; 4]| {
                        let value = from.value(x[0]);
                        let value =
                            if sat.is_empty() { to.value(value as u64) } else { value.clamp(low, high) };
                        cut(value, to.bits.max(32))
                    };
                    all.push(form(op, format!("{}{}", at_least(to), at_least(from)), model));
                }
            }
        }
    }
}

fn ints_to_floats(all: &mut Vec<Form>) {
    for from in ints() {
        for (name, l, format) in FLOATS {
            for (rounding, way) in DIRECTIONS {
                all.push(form(
                    format!("cvt.{rounding}.{name}.{}", from.name),
                    format!("{l}{}", from.letter()),
                    move |x| {
                        let value = from.value(x[0]);
                        // High and low half, exact in f64.
                        let (high, low) =
                            (value.div_euclid(1 << 32) as f64, value.rem_euclid(1 << 32) as f64);
                        match (format, way) {
                            (_, _) if value == 0 => 0,
                            (Format::F64, Direction::Nearest) => (value as f64).to_bits(),
                            _ => format.find(value as f64, |r| {
                                rounds_fma(high, 4_294_967_296.0, low, r, format, way)
                            }),
                        }
                    },
                ));
            }
        }
    }
}

fn floats_to_ints(all: &mut Vec<Form>) {
    for to in ints() {
        for (name, l, format) in FLOATS {
            for (rounding, round) in INTEGRAL {
                for dot in ["", ".ftz"] {
                    if dot == ".ftz" && name != "f32" {
                        continue;
                    }
                    all.push(form(
                        format!("cvt.{rounding}{dot}.{}.{name}", to.name),
                        format!("{}{l}", to.letter()),
                        move |x| {
                            let bits = if dot.is_empty() { x[0] } else { flushed(x[0], format) };
                            let value = format.value(bits);
                            if value.is_nan() {
                                let wide = name == "f64" || to.bits == 64;
                                return if wide { 1 << (to.bits - 1) } else { 0 };
                            }
                            let (low, high) = to.range();
                            cut((round(value) as i128).clamp(low, high), to.bits.max(16))
                        },
                    ));
                }
            }
        }
    }
}

fn between_floats(all: &mut Vec<Form>) {
    for (to_name, to_l, to) in FLOATS {
        for (from_name, from_l, from) in FLOATS {
            let signature = format!("{to_l}{from_l}");
            let types = format!("{to_name}.{from_name}");
            let widens = matches!((from_name, to_name), ("f16" | "bf16", "f32" | "f64") | ("f32", "f64"));
            let narrows = from != to && !widens;
            let (f32_in, f32_out) = (from_name == "f32", to_name == "f32");
            let flushes: &[&str] = if f32_in || f32_out { &["", ".ftz"] } else { &[""] };
            for dot in flushes {
                let input = move |x: u64| if dot.is_empty() { x } else { flushed(x, from) };
                let output = move |r: u64| if dot.is_empty() { r } else { flushed(r, to) };
                // A NaN of f64 has any payload.
                let matches = move |value: f64, r: u64| match to == Format::F64 {
                    true => super::same64(value, r),
                    false => r == output(to.find(value, |r| rounds(value, r, to, Direction::Nearest))),
                };
                if widens || from == to && to_name != "f64" {
                    for clamp in ["", ".sat"] {
                        all.push(super::close(
                            format!("cvt{dot}{clamp}.{types}"),
                            &signature,
                            move |x, r| {
                                let value = from.value(input(x[0]));
                                matches(if clamp.is_empty() { value } else { saturated(value) }, r)
                            },
                        ));
                    }
                }
                if from == to && to_name != "f64" {
                    for (rounding, round) in INTEGRAL {
                        all.push(form(format!("cvt.{rounding}{dot}.{types}"), &signature, move |x| {
                            let value = round(from.value(input(x[0])));
                            output(to.find(value, |r| rounds(value, r, to, Direction::Nearest)))
                        }));
                    }
                }
                if !narrows {
                    continue;
                }
                for (rounding, way) in DIRECTIONS {
                    let halves = matches!(to_name, "f16" | "bf16") && f32_in && dot.is_empty();
                    let named = halves && matches!(rounding, "rn" | "rz");
                    let clamps: &[&str] =
                        if named { &["", ".relu", ".satfinite", ".relu.satfinite"] } else { &["", ".sat"] };
                    for clamp in clamps {
                        all.push(form(format!("cvt.{rounding}{dot}{clamp}.{types}"), &signature, move |x| {
                            let value = from.value(input(x[0]));
                            let r = to.find(value, |r| rounds(value, r, to, way));
                            output(clamped(r, to, clamp))
                        }));
                    }
                }
            }
        }
    }
    for (rounding, round) in INTEGRAL {
        all.push(super::close(format!("cvt.{rounding}.f64.f64"), "FF", move |x, r| {
            super::same64(round(super::g(x[0])), r)
        }));
    }
}

fn saturated(value: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) + 0.0 }
}

/// Bits of a result through `.sat`, `.relu`, `.satfinite`.
fn clamped(r: u64, format: Format, clamp: &str) -> u64 {
    let value = format.value(r);
    let bits_of = |value: f64| format.find(value, |r| rounds(value, r, format, Direction::Nearest));
    match clamp {
        ".sat" => bits_of(saturated(value)),
        _ => {
            let r =
                if clamp.contains(".relu") && value.is_sign_negative() && !value.is_nan() { 0 } else { r };
            // The bits before infinity are the largest finite value.
            if clamp.contains(".satfinite") && format.value(r).is_infinite() { r - 1 } else { r }
        }
    }
}

fn packed(all: &mut Vec<Form>) {
    for (name, _, format) in &FLOATS[..2] {
        for (rounding, way) in &DIRECTIONS[..2] {
            for clamp in ["", ".relu", ".satfinite", ".relu.satfinite"] {
                all.push(form(format!("cvt.{rounding}{clamp}.{name}x2.f32"), "rff", move |x| {
                    let half = |x: u64| {
                        let value = f64::from(f(x));
                        clamped(format.find(value, |r| rounds(value, r, *format, *way)), *format, clamp)
                    };
                    half(x[0]) << 16 | half(x[1])
                }));
            }
        }
    }
}

fn tf32(all: &mut Vec<Form>) {
    // To nearest, ties away from zero.
    all.push(form("cvt.rna.tf32.f32", "rf", |x| match f(x[0]) {
        v if v.is_nan() => 0x7fff_ffff,
        v if v.is_infinite() => x[0],
        _ => (x[0] + 0x1000) & 0xffff_e000,
    }));
    for (rounding, way) in &DIRECTIONS[..2] {
        for clamp in ["", ".relu"] {
            all.push(form(format!("cvt.{rounding}{clamp}.tf32.f32"), "rf", move |x| {
                let value = f64::from(f(x[0]));
                if value.is_nan() {
                    return 0x7fff_ffff;
                }
                clamped(
                    Format::TF32.find(value, |r| rounds(value, r, Format::TF32, *way)),
                    Format::TF32,
                    clamp,
                ) << 13
            }));
        }
    }
}
