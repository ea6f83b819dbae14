//! Against f64 sums within a bound from dtype and k, and bit for bit between batches.

use half::{bf16, f16};

use super::{job::CHUNK, *};
use crate::kernels::cpu::simd::Float;
use crate::{
    device::{Tensor, ViewMut},
    kernels::{Queue, run, strips},
};

/// The SIMD levels that this machine has.
fn levels() -> impl Iterator<Item = Simd> {
    [Simd::Portable, Simd::Avx2, Simd::Avx512, Simd::Avx512Bf16].into_iter().filter(|s| *s <= Simd::detect())
}

fn device(threads: usize, simd: Simd) -> Queue<Cpu> {
    Queue::new(&Cpu::new(Some(threads)).with_simd(simd).unwrap()).unwrap()
}

/// `len` values in (-1, 1), different for each seed (splitmix64).
fn values<T: Float>(len: usize, seed: u64) -> Vec<T> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        T::from_f32(((z ^ z >> 31) >> 40) as f32 / (1 << 23) as f32 - 1.0)
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// x `[m, k]` whose rows lie `gap` elements further apart, NaN in between.
fn apart<T: Float>(dev: &Cpu, x: &[T], k: usize, gap: usize) -> Tensor<Cpu> {
    let row =
        |row: &[T]| row.iter().copied().chain((0..gap).map(|_| T::from_f32(f32::NAN))).collect::<Vec<_>>();
    let data: Vec<T> = x.chunks(k).flat_map(row).collect();
    Tensor::from_slice(dev, &data, &[x.len() / k, k + gap]).unwrap()
}

/// `w`, rows of `k`, in strips.
fn in_strips<T: Float>(dev: &Cpu, w: &[T], k: usize) -> Tensor<Cpu> {
    let shape = strips::shape(w.len() / k, k);
    let mut data = vec![T::from_f32(0.0); shape.iter().product()];
    for (strip, rows) in data.chunks_mut(shape[1..].iter().product()).zip(w.chunks(strips::ROWS * k)) {
        for (r, row) in rows.chunks(k).enumerate() {
            strips::place(bytemuck::cast_slice(row), r, bytemuck::cast_slice_mut(strip));
        }
    }
    Tensor::from_slice(dev, &data, &shape).unwrap()
}

/// `x · weightᵀ (+ bias)` with rows of x `gap` apart; checks that nothing around out is written, and that weights in
/// strips give the same bits.
fn linear<T: Float, O: Float>(
    q: &mut Queue<Cpu>,
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
    k: usize,
    gap: usize,
) -> Vec<O> {
    let (m, n) = (x.len() / k, w.len() / k);
    let dev = q.dev().clone();
    let x = apart(&dev, x, k, gap);
    let bias = bias.map(|b| Tensor::from_slice(&dev, b, &[n]).unwrap());
    let canary = O::from_f32(-77.0);
    let mut with = |weight: Tensor<Cpu>| {
        let mut data = vec![O::from_f32(f32::NAN); (m + 2) * n];
        data[..n].fill(canary);
        data[(m + 1) * n..].fill(canary);
        let mut out = Tensor::from_slice(&dev, &data, &[m + 2, n]).unwrap();
        let view: ViewMut<'_, Cpu> = out.rows_mut(1..m + 1);
        let bias = bias.as_ref().map(|b| b.view());
        let args = LinearArgs { x: x.view().columns(0..k), weight: weight.view(), bias, out: view };
        run(&Blocked, q, args).unwrap();
        let data = out.to_vec::<O>(&dev).unwrap();
        assert!(data[..n].iter().chain(&data[(m + 1) * n..]).all(|v| *v == canary), "written outside of out");
        data[n..(m + 1) * n].to_vec()
    };
    let out = with(Tensor::from_slice(&dev, w, &[n, k]).unwrap());
    if T::DTYPE == DType::Bf16 && Blocked.reads_strips(&dev) {
        let same = with(in_strips(&dev, w, k));
        let bits = |out: &[O]| bytemuck::cast_slice::<O, u8>(out).to_vec();
        assert!(bits(&out) == bits(&same), "m{m} n{n} k{k}: strips give other bits");
    }
    out
}

/// Half of the distance between neighbours at `v`.
fn half_ulp(dtype: DType, v: f64) -> f64 {
    let (digits, smallest) = match dtype {
        DType::Bf16 => (8, -133),
        DType::F16 => (11, -24),
        _ => (24, -149),
    };
    let exponent =
        if v == 0.0 { smallest } else { (v.abs().log2().floor() as i32 - digits + 1).max(smallest) };
    2f64.powi(exponent - 1)
}

/// A sum of k products in f32, in any order, errs by at most `k·u·Σ|x·w|` with u = 2⁻²⁴ (Higham, Accuracy and
/// Stability of Numerical Algorithms, 2nd ed., 4.2, to first order), the bias by one rounding more; then
/// comes the rounding to out. Every result and bias here is far from the subnormals.
fn check<T: Float, O: Float>(
    simd: Simd,
    threads: usize,
    (m, n, k): (usize, usize, usize),
    bias: bool,
    gap: usize,
) {
    let seed = (m * 1_000_003 + n * 1009 + k) as u64;
    let (x, w): (Vec<T>, Vec<T>) = (values(m * k, seed), values(n * k, seed + 1));
    let bias = bias.then(|| values::<T>(n, seed + 2));
    let out: Vec<O> = linear(&mut device(threads, simd), &x, &w, bias.as_deref(), k, gap);
    let f = |v: T| f64::from(v.to_f32());
    for (i, out) in out.iter().enumerate() {
        let terms = || x[i / n * k..][..k].iter().zip(&w[i % n * k..][..k]).map(|(&x, &w)| f(x) * f(w));
        let bias = bias.as_ref().map_or(0.0, |b| f(b[i % n]));
        let want = terms().sum::<f64>() + bias;
        let magnitude = terms().map(f64::abs).sum::<f64>() + bias.abs();
        let sum_error = (k + 1) as f64 * 2f64.powi(-24) * magnitude;
        let bound = sum_error + half_ulp(O::DTYPE, want.abs() + sum_error);
        let got = f64::from(out.to_f32());
        assert!(
            (got - want).abs() <= bound,
            "{simd} {:?}->{:?} m{m} n{n} k{k} at {},{}: {got}, want {want} within {bound:e}",
            T::DTYPE,
            O::DTYPE,
            i / n,
            i % n
        );
    }
}

fn check_dtypes(simd: Simd, threads: usize, shape: (usize, usize, usize), bias: bool, gap: usize) {
    check::<f32, f32>(simd, threads, shape, bias, gap);
    check::<bf16, bf16>(simd, threads, shape, bias, gap);
    check::<bf16, f32>(simd, threads, shape, bias, gap);
    check::<f16, f16>(simd, threads, shape, bias, gap);
    check::<f16, f32>(simd, threads, shape, bias, gap);
}

#[test]
fn matches_f64_on_ragged_shapes() {
    let sizes = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 65];
    for simd in levels() {
        for (i, &k) in sizes.iter().chain(&[63, 64, 127, 129, 255, 511, 513, 1025, 2049, 4099]).enumerate() {
            for (j, &m) in sizes.iter().enumerate() {
                let n = sizes[(i * 5 + j * 7) % sizes.len()];
                check_dtypes(simd, 1 + j % 2, (m, n, k), (i + j) % 2 == 0, [0, 1, 5][j % 3]);
            }
        }
    }
}

#[test]
fn matches_f64_across_chunks_and_tasks() {
    for simd in levels() {
        check_dtypes(simd, 2, (CHUNK - 1, 9, 40), true, 3);
        check_dtypes(simd, 2, (CHUNK, 9, 40), false, 0);
        check_dtypes(simd, 3, (2 * CHUNK + 5, 11, 31), true, 1);
        check_dtypes(simd, 3, (1, 2049, 65), true, 0);
        check_dtypes(simd, 3, (5, 1031, 33), false, 0);
    }
}

#[test]
fn empty_sums_are_the_bias_and_no_rows_are_no_work() {
    for simd in levels() {
        let q = &mut device(2, simd);
        let dev = q.dev().clone();
        let x = Tensor::zeros(&dev, DType::F32, &[3, 0]).unwrap();
        let w = Tensor::zeros(&dev, DType::F32, &[5, 0]).unwrap();
        let bias = Tensor::from_slice(&dev, &[1.0f32, 2.0, 3.0, 4.0, 5.0], &[5]).unwrap();
        let mut out = Tensor::from_slice(&dev, &[f32::NAN; 15], &[3, 5]).unwrap();
        let args = LinearArgs { x: x.view(), weight: w.view(), bias: Some(bias.view()), out: out.view_mut() };
        run(&Blocked, q, args).unwrap();
        assert_eq!(out.to_vec::<f32>(&dev).unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0].repeat(3));
        for (m, n) in [(0, 5), (3, 0)] {
            assert_eq!(linear_shape(q, m, n), m * n);
        }
    }
}

/// Runs `[m, 4] · [n, 4]ᵀ` and returns the number of outputs.
fn linear_shape(q: &mut Queue<Cpu>, m: usize, n: usize) -> usize {
    linear::<f32, f32>(q, &values(m * 4, 1), &values(n * 4, 2), None, 4, 0).len()
}

/// The rule of `tile.rs`: a row has the same bits alone and in any batch, wherever it and its rows lie.
fn same_bits_in_any_batch<T: Float, O: Float>(simd: Simd) {
    for k in [15, 576, 1100, 2081] {
        let (n, m) = (21, CHUNK + 70);
        let (x, w, bias) = (values::<T>(m * k, 1), values::<T>(n * k, 2), values::<T>(n, 3));
        let rows =
            |threads, x: &[T], gap| linear::<T, O>(&mut device(threads, simd), x, &w, Some(&bias), k, gap);
        let all = rows(2, &x, 0);
        let equal = |threads, range: std::ops::Range<usize>, gap| {
            let got = rows(threads, &x[range.start * k..range.end * k], gap);
            let (got, want) = (
                bytemuck::cast_slice::<O, u8>(&got),
                bytemuck::cast_slice::<O, u8>(&all[range.start * n..range.end * n]),
            );
            assert!(
                got == want,
                "{simd} {:?}: rows {range:?} of k {k}, {threads} threads, {gap} apart",
                T::DTYPE
            );
        };
        for row in [0, 1, 2, 3, 63, 64, 299, CHUNK - 1, CHUNK, m - 1] {
            equal(1, row..row + 1, 0);
        }
        for rows in 2..=13 {
            equal(2, 5..5 + rows, 7);
        }
        equal(3, 0..64, 0);
        equal(2, 1..65, 3);
        equal(1, 7..307, 0);
        equal(3, 0..m, 1);
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_batch() {
    for simd in levels() {
        same_bits_in_any_batch::<f32, f32>(simd);
        same_bits_in_any_batch::<bf16, bf16>(simd);
        same_bits_in_any_batch::<bf16, f32>(simd);
        same_bits_in_any_batch::<f16, f16>(simd);
    }
}

#[test]
fn not_a_number_reaches_its_outputs_alone() {
    for simd in levels() {
        let (m, n, k) = (5, 9, 40);
        let (mut x, mut w) = (values::<bf16>(m * k, 1), values::<bf16>(n * k, 2));
        x[3 * k + 39] = bf16::NAN;
        w[7 * k] = bf16::INFINITY;
        let out: Vec<f32> = linear(&mut device(2, simd), &x, &w, None, k, 0);
        for (i, v) in out.iter().enumerate() {
            assert_eq!(v.is_nan(), i / n == 3, "{simd} at {},{}: {v}", i / n, i % n);
            assert_eq!(v.is_infinite(), i / n != 3 && i % n == 7, "{simd} at {},{}: {v}", i / n, i % n);
        }
    }
}

#[test]
fn strips_of_another_shape_are_refused() {
    let q = &mut device(1, Simd::detect());
    let dev = q.dev().clone();
    let x = Tensor::zeros(&dev, DType::Bf16, &[2, 40]).unwrap();
    let mut out = Tensor::zeros(&dev, DType::Bf16, &[2, 17]).unwrap();
    let weight = Tensor::zeros(&dev, DType::Bf16, &strips::shape(16, 40)).unwrap();
    let args = LinearArgs { x: x.view(), weight: weight.view(), bias: None, out: out.view_mut() };
    let error = run(&Blocked, q, args).unwrap_err().to_string();
    assert_eq!(error, "linear: weight in strips has shape [1, 8, 16, 8], expected [2, 8, 16, 8]");
}

#[test]
fn integers_are_refused_with_a_reason() {
    let spec = LinearSpec { dtype: DType::I32, out: DType::F32, n: 1, k: 1, bias: false };
    assert_eq!(Blocked.supports(&spec), Err(Unsupported("x of i32 with out of f32".into())));
    let spec = LinearSpec { dtype: DType::F32, out: DType::Bf16, ..spec };
    assert_eq!(Blocked.supports(&spec), Err(Unsupported("x of f32 with out of bf16".into())));
}
