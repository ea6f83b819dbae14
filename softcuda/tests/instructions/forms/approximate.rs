//! Approximations, within the errors that the ISA gives for them.

use super::{Form, close, f, flush_if, g};

const ULP: f64 = f32::EPSILON as f64;

/// Within a relative error of the f64 value, or the same class of special value. Results below the least normal number
/// are flushed where the instruction says so, and may be within the least subnormal elsewhere.
fn near(want: f64, got: u64, relative: f64, flushes: bool) -> bool {
    let got = f64::from(f(got));
    if want.is_nan() {
        return got.is_nan();
    }
    let narrow = want as f32;
    if narrow.is_infinite() || want == 0.0 {
        return got == f64::from(narrow) && got.is_sign_negative() == want.is_sign_negative();
    }
    if flushes && narrow.is_subnormal() {
        return got == 0.0 && got.is_sign_negative() == want.is_sign_negative();
    }
    (got - want).abs() <= relative * want.abs() + f64::from(f32::from_bits(1))
}

pub fn forms(all: &mut Vec<Form>) {
    for flush in [false, true] {
        let dot = if flush { ".ftz" } else { "" };
        let list: [(&str, f64, fn(f64) -> f64); 5] = [
            ("rcp", ULP, |x| 1.0 / x),
            ("sqrt", ULP, f64::sqrt),
            ("rsqrt", ULP, |x| 1.0 / x.sqrt()),
            ("ex2", ULP, f64::exp2),
            ("lg2", ULP, f64::log2),
        ];
        for (op, relative, model) in list {
            all.push(close(format!("{op}.approx{dot}.f32"), "ff", move |x, r| {
                near(model(flush_if(flush, f(x[0])).into()), r, relative, flush)
            }));
        }
        // The ISA bounds the absolute error, 2^-20.5 in [-pi, pi].
        for (op, model) in [("sin", f64::sin as fn(f64) -> f64), ("cos", f64::cos)] {
            all.push(close(format!("{op}.approx{dot}.f32"), "ff", move |x, r| {
                let a = f64::from(flush_if(flush, f(x[0])));
                match a.is_finite() {
                    true if a == 0.0 => {
                        f64::from(f(r)) == model(a) && f(r).is_sign_negative() == model(a).is_sign_negative()
                    }
                    true if a.abs() <= 1e4 => (f64::from(f(r)) - model(a)).abs() <= 6.7e-7,
                    // Further out the ISA promises nothing.
                    true => f(r).abs() <= 1.0,
                    false => f(r).is_nan(),
                }
            }));
        }
        all.push(close(format!("div.full{dot}.f32"), "fff", move |x, r| {
            let [a, b] = [0, 1].map(|i| f64::from(flush_if(flush, f(x[i]))));
            near(a / b, r, 2.0 * ULP, flush)
        }));
        all.push(close(format!("div.approx{dot}.f32"), "fff", move |x, r| {
            let [a, b] = [0, 1].map(|i| flush_if(flush, f(x[i])));
            match b.abs() > 2f32.powi(126) && b.is_finite() {
                true if a.is_nan() || a.is_infinite() => f(r).is_nan(),
                true => f(r) == 0.0,
                false => near(f64::from(a) / f64::from(b), r, 2.0 * ULP, flush),
            }
        }));
    }
    // 2^-10.987, relative.
    all.push(close("tanh.approx.f32", "ff", |x, r| near(f64::from(f(x[0])).tanh(), r, 5e-4, false)));
    // The upper half of an f64 from that of the operand: 20 bits of mantissa; subnormals are flushed.
    let gross = |x: u64| {
        let a = g(x & !0xffff_ffff);
        if g(x).is_nan() {
            f64::NAN
        } else if a.is_subnormal() {
            0f64.copysign(a)
        } else {
            a
        }
    };
    let upper = |want: f64, r: u64, flush: bool| {
        let got = g(r);
        match want {
            _ if want.is_nan() => got.is_nan(),
            _ if want.is_infinite() || want == 0.0 => got.to_bits() == want.to_bits(),
            _ if flush && want.is_subnormal() => got.to_bits() == 0f64.copysign(want).to_bits(),
            _ => r as u32 == 0 && ((got - want) / want).abs() <= 2f64.powi(-19),
        }
    };
    all.push(close("rcp.approx.ftz.f64", "FF", move |x, r| upper(1.0 / gross(x[0]), r, true)));
    all.push(close("rsqrt.approx.ftz.f64", "FF", move |x, r| upper(1.0 / gross(x[0]).sqrt(), r, true)));
    all.push(close("rsqrt.approx.f64", "FF", move |x, r| upper(1.0 / g(x[0]).sqrt(), r, false)));
}
