//! What the kernels of `float.cu` should write.

use half::{bf16, f16};

use super::{Row, Want};

fn erf(x: f64) -> f64 {
    // Taylor series, exact to f64 for the small arguments here.
    let (mut term, mut sum) = (x, x);
    for k in 1..100 {
        term *= -x * x / f64::from(k);
        sum += term / f64::from(2 * k + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

/// A function in f64.
fn wide(f: impl Fn(f64) -> f64, x: f32) -> f32 {
    f(f64::from(x)) as f32
}

fn product(a: &[f32], b: &[f32], [rows, inner, columns]: [usize; 3], out: &mut [f32]) {
    for (i, out) in out[..rows * columns].iter_mut().enumerate() {
        let (r, c) = (i / columns, i % columns);
        *out = (0..inner).map(|k| f64::from(a[r * inner + k]) * f64::from(b[k * columns + c])).sum::<f64>()
            as f32;
    }
}

/// The neighbours of a float that the exact sum of two lies between: 0 or one step.
fn step_of_sum(a: f32, b: f32) -> f32 {
    let exact = f64::from(a) + f64::from(b);
    let near = exact as f32;
    match f64::from(near).total_cmp(&exact) {
        std::cmp::Ordering::Equal => 0.0,
        std::cmp::Ordering::Less => near.next_up() - near,
        std::cmp::Ordering::Greater => near - near.next_down(),
    }
}

/// A product rounded to zero.
fn product_to_zero(a: f32, b: f32) -> f32 {
    let exact = f64::from(a) * f64::from(b);
    let near = exact as f32;
    if f64::from(near).abs() <= exact.abs() {
        near
    } else if near > 0.0 {
        near.next_down()
    } else {
        near.next_up()
    }
}

/// All rows. Without a tolerance, the bits are equal.
pub fn rows() -> Vec<Row> {
    let each = |kernel, want| Row::new(kernel, [8, 1, 1], [128, 1], [1000, 1000], Want::Float(want));
    let one = [1, 1, 1];
    let all = |kernel, grid, block, sizes, want| Row::new(kernel, grid, block, sizes, Want::Floats(want));
    let words = |kernel, grid, block, sizes, want| Row::new(kernel, grid, block, sizes, Want::All(want));
    vec![
        each("fma_f32", |a, b| a.mul_add(b, a)),
        each("divide_f32", |a, b| a / b),
        each("sqrt_f32", |a, _| a.abs().sqrt()),
        each("rounding", |a, b| {
            a.floor() + 2.0 * b.ceil() + 4.0 * (a * 3.0).trunc() + 8.0 * (b * 5.0).round_ties_even()
        }),
        each("named_rounding", |a, b| step_of_sum(a, b) + (product_to_zero(a, b) - a * b)),
        each("to_int", |a, b| {
            let sum = (a * 1000.0) as i32 + (b * 100.0).round_ties_even() as i32 + (a * 7.0).abs() as i32;
            f32::from_bits(sum as u32)
        }),
        each("from_int", |a, b| a.to_bits() as i32 as f32 + b.to_bits() as f32),
        each("min_max_f32", |a, b| a.min(b) - 2.0 * a.max(b)),
        each("saturate_f32", |a, _| a.clamp(0.0, 1.0)),
        words("compare", [8, 1, 1], [128, 1], [1000, 1000], |a, b, _, out| {
            for (i, out) in out.iter_mut().enumerate() {
                let (x, y) = (f32::from_bits(a[i]), f32::from_bits(b[i]));
                let flags = if i % 5 == 0 {
                    [false, false, false, true, false]
                } else {
                    [x < y, x > y, true, false, false]
                };
                *out = flags.iter().enumerate().map(|(k, &flag)| u32::from(flag) << k).sum();
            }
        }),
        each("exp_f32", |a, _| wide(f64::exp, a)).within(3e-7),
        each("log_f32", |a, _| wide(f64::ln, a.abs() + 0.5)).within(3e-7),
        each("sin_cos", |a, b| wide(f64::sin, a) + 2.0 * wide(f64::cos, b)).within(5e-7),
        each("tanh_f32", |a, _| wide(f64::tanh, a)).within(3e-7),
        each("pow_f32", |a, b| f64::from(a.abs() + 0.1).powf(b.into()) as f32).within(1e-6),
        each("fast_math", |a, b| {
            let b = f64::from(b).abs() + 1.0;
            (f64::from(a).exp() + 1.0 / b.sqrt() + f64::from(a) / b) as f32
        })
        .within(3e-6),
        each("f64", |a, b| {
            let (x, y) = (f64::from(a), f64::from(b));
            (x * y + (x * x + y * y).sqrt() / 3.0 - x.mul_add(y, 1.0)) as f32
        })
        .within(1e-7),
        each("gelu", |a, _| {
            (0.5 * f64::from(a) * (1.0 + erf(f64::from(a) * std::f64::consts::FRAC_1_SQRT_2))) as f32
        })
        .within(1e-6),
        each("silu", |a, b| (f64::from(a) / (1.0 + f64::from(-a).exp()) * f64::from(b)) as f32).within(1e-6),
        all("sum", one, [256, 1], [1000, 1], |a, _, n, out| {
            out[0] = a[..n].iter().map(|&x| f64::from(x)).sum::<f64>() as f32;
        })
        .within(1e-4),
        all("sum_atomic", [8, 1, 1], [128, 1], [1000, 1], |a, _, n, out| {
            out[0] = a[..n].iter().map(|&x| f64::from(x)).sum::<f64>() as f32;
        })
        .within(1e-4),
        all("softmax", [3, 1, 1], [256, 1], [200, 600], |a, _, n, out| {
            for (x, out) in a.chunks(n).zip(out.chunks_mut(n)) {
                let sum: f64 = x.iter().map(|&x| f64::from(x).exp()).sum();
                x.iter().zip(out).for_each(|(&x, out)| *out = (f64::from(x).exp() / sum) as f32);
            }
        })
        .within(1e-6),
        all("matmul_naive", one, [16, 16], [0, 256], |a, b, _, out| product(a, b, [16; 3], out)).within(2e-5),
        all("matmul_tiled", [2, 2, 1], [8, 8], [0, 256], |a, b, _, out| product(a, b, [16; 3], out))
            .within(2e-5),
        each("round_f16", |a, _| f16::from_f32(a).to_f32()),
        each("round_bf16", |a, _| bf16::from_f32(a).to_f32()),
        each("add_f16x2", |a, b| {
            let [a, b] = [a, b].map(|x| f16::from_f32(x).to_f64());
            let [lo, hi] = [a * b + a, a * b + b].map(|x| u32::from(f16::from_f64(x).to_bits()));
            f32::from_bits(hi << 16 | lo)
        }),
        all("mma_f16", one, [32, 1], [0, 128], |a, b, _, out| {
            let half = |x: &[f32]| x.iter().map(|&x| f16::from_f32(x).to_f32()).collect::<Vec<_>>();
            product(&half(&a[..256]), &half(&b[..128]), [16, 16, 8], out);
        })
        .within(2e-5),
        all("copy_async", one, [64, 1], [0, 256], |a, _, _, out| {
            for (i, out) in out.iter_mut().enumerate() {
                let from = 255 - i;
                *out = if from < 128 || from % 4 == 0 { a[from] } else { 0.0 };
            }
        }),
        all("rms_norm", [4, 1, 1], [32, 1], [0, 256], |a, _, _, out| {
            for (x, out) in a.chunks(64).zip(out.chunks_mut(64)) {
                let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / 64.0;
                let scale = (mean + 1e-6).sqrt().recip();
                x.iter().zip(out).for_each(|(&x, out)| *out = (f64::from(x) * scale) as f32);
            }
        })
        .within(1e-6),
        words("argmax", one, [64, 1], [0, 2], |a, _, _, out| {
            for (warp, out) in out.iter_mut().enumerate() {
                let value = |&i: &usize| f32::from_bits(a[i]);
                let lanes = warp * 32..(warp + 1) * 32;
                *out = lanes.max_by(|i, j| value(i).total_cmp(&value(j)).then(j.cmp(i))).unwrap() as u32;
            }
        }),
        all("convolve", one, [256, 1], [0, 256], |a, _, _, out| {
            for (t, out) in out.iter_mut().enumerate() {
                let left = if t == 0 { 0.0 } else { a[t - 1] };
                let right = if t == 255 { 0.0 } else { a[t + 1] };
                *out = 0.25 * left + 0.5 * a[t] + 0.25 * right;
            }
        })
        .within(1e-6),
    ]
}
