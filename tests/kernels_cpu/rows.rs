//! Kernels that work row by row: embedding, linear (reference), norms, rope, KV store, activations, logits.

use lathe::{
    device::{Cpu, DType, Tensor},
    kernels::{
        Activation, ActivationArgs, AddRmsNormArgs, EmbeddingArgs, KvStoreArgs, LinearArgs, LogitsArgs,
        Queue, Registry, RmsNormArgs, RopeArgs, run,
    },
};
use lathe_reference as oracle;

use crate::common::{EPS, FLOATS, Guarded, bits, close, devices, format, ints, noise, tensor};

/// Rows and lengths that cross every vector and block edge.
const SHAPES: [(usize, usize); 7] = [(1, 1), (1, 7), (7, 33), (3, 129), (33, 64), (129, 80), (5, 1030)];

fn queue(dev: &Cpu) -> Queue<Cpu> {
    Queue::new(dev).unwrap()
}

/// `[rows, cols]` inside a wider tensor whose other columns are NaN.
fn apart(dev: &Cpu, dtype: DType, values: &[f32], cols: usize) -> Tensor<Cpu> {
    let rows = values.len() / cols;
    let mut all = vec![f32::NAN; rows * (cols + 5)];
    for (to, from) in all.chunks_exact_mut(cols + 5).zip(values.chunks_exact(cols)) {
        to[2..2 + cols].copy_from_slice(from);
    }
    tensor(dev, dtype, &all, &[rows, cols + 5])
}

/// Relative error of the norm's factor: half of the sum's (partial sums of a 32nd of the row, five levels to add
/// them), and a few roundings of the mean, the root and the products.
fn norm_budget(dim: usize) -> f64 {
    ((dim / 32 + 6) as f64 / 2.0 + 6.0) * EPS
}

#[test]
fn rms_norm() {
    for dtype in FLOATS {
        for ((rows, dim), offset) in SHAPES.into_iter().zip([0.0, 1.0].into_iter().cycle()) {
            let (x, w) = (noise(dtype, 1, rows * dim), noise(dtype, 2, dim));
            let mut want = vec![0.0; x.len()];
            oracle::rms_norm::rms_norm(&x, &w, 1e-6, offset, &mut want);
            for dev in devices() {
                for kernel in &Registry::cpu().rms_norm {
                    let (x, w) = (apart(&dev, dtype, &x, dim), tensor(&dev, dtype, &w, &[dim]));
                    let before = [bits(&dev, &x), bits(&dev, &w)];
                    let mut out = Guarded::new(&dev, dtype, &[rows, dim]);
                    let args = RmsNormArgs {
                        x: x.view().columns(2..2 + dim),
                        weight: w.view(),
                        eps: 1e-6,
                        offset,
                        out: out.view_mut(),
                    };
                    run(&**kernel, &mut queue(&dev), args).unwrap();
                    let what = format!("{} {dtype} {rows}x{dim}", kernel.name());
                    close(&what, dtype, &out.values(&dev), &want, |i| {
                        f64::from(want[i]).abs() * norm_budget(dim)
                    });
                    assert!([bits(&dev, &x), bits(&dev, &w)] == before, "{what}: inputs changed");
                }
            }
        }
    }
}

#[test]
fn add_rms_norm() {
    for dtype in FLOATS {
        for ((rows, dim), offset) in SHAPES.into_iter().zip([0.0, 1.0].into_iter().cycle()) {
            let (x, r) = (noise(dtype, 1, rows * dim), noise(dtype, 3, rows * dim));
            let w = noise(dtype, 2, dim);
            let (mut sum, mut want) = (r.clone(), vec![0.0; x.len()]);
            let round = |v: f32| format(dtype).round(v.into());
            oracle::add_rms_norm::add_rms_norm(&x, &mut sum, &w, 1e-6, offset, round, &mut want);
            for dev in devices() {
                for kernel in &Registry::cpu().add_rms_norm {
                    let (x, w) = (apart(&dev, dtype, &x, dim), tensor(&dev, dtype, &w, &[dim]));
                    let before = [bits(&dev, &x), bits(&dev, &w)];
                    let mut residual = Guarded::with(&dev, dtype, &r, &[rows, dim]);
                    let mut out = Guarded::new(&dev, dtype, &[rows, dim]);
                    let args = AddRmsNormArgs {
                        x: x.view().columns(2..2 + dim),
                        residual: residual.view_mut(),
                        weight: w.view(),
                        eps: 1e-6,
                        offset,
                        out: out.view_mut(),
                    };
                    run(&**kernel, &mut queue(&dev), args).unwrap();
                    let what = format!("{} {dtype} {rows}x{dim}", kernel.name());
                    // One f32 addition, rounded once more: exact.
                    assert_eq!(residual.values(&dev), sum, "{what}");
                    close(&what, dtype, &out.values(&dev), &want, |i| {
                        f64::from(want[i]).abs() * norm_budget(dim)
                    });
                    assert!([bits(&dev, &x), bits(&dev, &w)] == before, "{what}: inputs changed");
                }
            }
        }
    }
}

#[test]
fn rope() {
    let positions = 40;
    for dtype in FLOATS {
        for (dim, heads, kv_heads) in
            [(16, 3, 1), (32, 4, 2), (64, 9, 3), (80, 2, 2), (96, 1, 1), (128, 8, 1), (256, 2, 1), (6, 1, 1)]
        {
            let tokens = [1, 7, 33][dim % 3];
            let all = heads + 2 * kv_heads;
            let qkv = noise(dtype, 1, tokens * all * dim);
            let norms = [noise(dtype, 2, dim), noise(dtype, 3, dim)];
            let at: Vec<i32> = (0..tokens).map(|t| (t * 17 % positions) as i32).collect();
            let inv_freq = oracle::rope::inv_freq_default(dim, 1e4);
            let cos_sin: Vec<f32> = (0..positions)
                .flat_map(|p| {
                    let angles: Vec<f32> = inv_freq.iter().map(|f| p as f32 * f).collect();
                    let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
                    cos.into_iter().chain(angles.into_iter().map(f32::sin))
                })
                .collect();
            for (with_norm, offset) in [(false, 0.0), (true, 0.0), (true, 1.0)] {
                let mut want = qkv.clone();
                let mut sizes = vec![0.0; want.len()];
                for (t, token) in want.chunks_exact_mut(all * dim).enumerate() {
                    for (h, head) in token.chunks_exact_mut(dim).enumerate().take(heads + kv_heads) {
                        if with_norm {
                            let before = head.to_vec();
                            let w = &norms[usize::from(h >= heads)];
                            oracle::rms_norm::rms_norm(&before, w, 1e-5, offset, head);
                        }
                        for i in 0..dim {
                            let pair = head[i % (dim / 2)].abs() + head[i % (dim / 2) + dim / 2].abs();
                            sizes[(t * all + h) * dim + i] = f64::from(pair);
                        }
                        oracle::rope::rope_from_table(head, &at[t..=t], &cos_sin, dim);
                    }
                }
                for dev in devices() {
                    for kernel in &Registry::cpu().rope {
                        let mut x = Guarded::with(&dev, dtype, &qkv, &[tokens, all, dim]);
                        let w = norms.each_ref().map(|w| tensor(&dev, dtype, w, &[dim]));
                        let table = tensor(&dev, DType::F32, &cos_sin, &[positions, dim]);
                        let at = ints(&dev, &at);
                        let inputs = [&w[0], &w[1], &table, &at];
                        let before = inputs.map(|t| bits(&dev, t));
                        let args = RopeArgs {
                            qkv: x.view_mut(),
                            heads,
                            kv_heads,
                            qk_norm: with_norm.then(|| [w[0].view(), w[1].view()]),
                            eps: 1e-5,
                            offset,
                            cos_sin: table.view(),
                            positions: at.view(),
                        };
                        run(&**kernel, &mut queue(&dev), args).unwrap();
                        let what = format!("{} {dtype} {dim} norm {with_norm}", kernel.name());
                        let got = x.values(&dev);
                        // Two products and a sum of the normalised pair; the v heads stay as they were.
                        close(&what, dtype, &got, &want, |i| sizes[i] * (2.0 * EPS + norm_budget(dim)));
                        for (got, was) in got.chunks_exact(all * dim).zip(qkv.chunks_exact(all * dim)) {
                            assert_eq!(got[(heads + kv_heads) * dim..], was[(heads + kv_heads) * dim..]);
                        }
                        assert!(inputs.map(|t| bits(&dev, t)) == before, "{what}: inputs changed");
                    }
                }
            }
        }
    }
}

#[test]
fn embedding_copies_or_scales_rows() {
    for dtype in FLOATS {
        for ((tokens, dim), scale) in SHAPES.into_iter().zip([1.0, 33.94].into_iter().cycle()) {
            let vocab = 50;
            let table = noise(dtype, 1, vocab * dim);
            let ids: Vec<i32> = (0..tokens).map(|t| (t * 31 % vocab) as i32).collect();
            let mut want = vec![0.0; tokens * dim];
            oracle::embedding::embedding(&table, &ids, dim, scale, &mut want);
            for dev in devices() {
                for kernel in &Registry::cpu().embedding {
                    let (table, ids) = (apart(&dev, dtype, &table, dim), ints(&dev, &ids));
                    let before = [bits(&dev, &table), bits(&dev, &ids)];
                    let mut out = Guarded::new(&dev, dtype, &[tokens, dim]);
                    let args = EmbeddingArgs {
                        ids: ids.view(),
                        table: table.view().columns(2..2 + dim),
                        scale,
                        out: out.view_mut(),
                    };
                    run(&**kernel, &mut queue(&dev), args).unwrap();
                    // One f32 product, rounded: the oracle's own f32 is the same.
                    let exact: Vec<f32> = want.iter().map(|&v| format(dtype).round(v.into())).collect();
                    assert_eq!(out.values(&dev), exact, "{} {dtype} {dim}", kernel.name());
                    assert!([bits(&dev, &table), bits(&dev, &ids)] == before, "inputs changed");
                }
            }
        }
    }
}

#[test]
fn linear() {
    for (dtype, out_dtype) in FLOATS.into_iter().flat_map(|d| [(d, d), (d, DType::F32)]) {
        for (m, n, k) in [(1, 1, 1), (7, 5, 33), (3, 17, 129)] {
            let (x, w, b) = (noise(dtype, 1, m * k), noise(dtype, 2, n * k), noise(dtype, 3, n));
            let dev = Cpu::new(Some(2));
            let reference = Registry::cpu().linear.into_iter().find(|k| k.name() == "reference").unwrap();
            for bias in [None, Some(&b)] {
                let mut want = vec![0.0; m * n];
                oracle::linear::linear(&x, &w, bias.map(|b| &b[..]), k, &mut want);
                let x = apart(&dev, dtype, &x, k);
                let w = tensor(&dev, dtype, &w, &[n, k]);
                let b = bias.map(|b| tensor(&dev, dtype, b, &[n]));
                let mut out = Guarded::new(&dev, out_dtype, &[m, n]);
                let args = LinearArgs {
                    x: x.view().columns(2..2 + k),
                    weight: w.view(),
                    bias: b.as_ref().map(Tensor::view),
                    out: out.view_mut(),
                };
                run(&*reference, &mut queue(&dev), args).unwrap();
                close("linear", out_dtype, &out.values(&dev), &want, |_| 0.0);
            }
        }
    }
}

#[test]
fn kv_store_scatters_bit_by_bit() {
    for dtype in FLOATS {
        for (tokens, kv_heads, dim) in [(1, 1, 16), (7, 3, 80), (33, 2, 64), (129, 1, 20)] {
            let (blocks, block_size, row) = (10, 16, kv_heads * dim);
            let (k, v) = (noise(dtype, 1, tokens * row), noise(dtype, 2, tokens * row));
            let slots: Vec<i32> =
                (0..tokens).map(|t| if t % 5 == 3 { -1 } else { (t * 37 % 160) as i32 }).collect();
            let cache = noise(dtype, 3, blocks * block_size * row);
            let (mut want_k, mut want_v) = (cache.clone(), cache.clone());
            oracle::kv_store::kv_store(&k, &v, &slots, row, &mut want_k, &mut want_v);
            for dev in devices() {
                for kernel in &Registry::cpu().kv_store {
                    let shape = [blocks, block_size, kv_heads, dim];
                    let mut k_cache = Guarded::with(&dev, dtype, &cache, &shape);
                    let mut v_cache = Guarded::with(&dev, dtype, &cache, &shape);
                    // k and v are columns of one packed tensor.
                    let mut packed = vec![f32::NAN; tokens * 3 * row];
                    for t in 0..tokens {
                        packed[(3 * t + 1) * row..][..row].copy_from_slice(&k[t * row..][..row]);
                        packed[(3 * t + 2) * row..][..row].copy_from_slice(&v[t * row..][..row]);
                    }
                    let packed = tensor(&dev, dtype, &packed, &[tokens, 3 * kv_heads, dim]);
                    let slots = ints(&dev, &slots);
                    let before = [bits(&dev, &packed), bits(&dev, &slots)];
                    let args = KvStoreArgs {
                        k: packed.view().columns(kv_heads..2 * kv_heads),
                        v: packed.view().columns(2 * kv_heads..3 * kv_heads),
                        slots: slots.view(),
                        k_cache: k_cache.view_mut(),
                        v_cache: v_cache.view_mut(),
                    };
                    run(&**kernel, &mut queue(&dev), args).unwrap();
                    assert_eq!(k_cache.values(&dev), want_k, "{} {dtype}", kernel.name());
                    assert_eq!(v_cache.values(&dev), want_v, "{} {dtype}", kernel.name());
                    assert!([bits(&dev, &packed), bits(&dev, &slots)] == before, "inputs changed");
                }
            }
        }
    }
}

#[test]
fn gated_activations() {
    use oracle::activation::Activation as Gate;
    let gates = [
        (Activation::Silu, Gate::Silu),
        (Activation::GeluTanh, Gate::GeluTanh),
        (Activation::GeluErf, Gate::GeluErf),
    ];
    for dtype in FLOATS {
        for (activation, gate) in gates {
            for (rows, inter) in [(1, 1), (7, 33), (3, 129), (33, 256)] {
                // Wide enough to reach both tails of the gate.
                let x: Vec<f32> = noise(dtype, 1, rows * 2 * inter)
                    .into_iter()
                    .map(|v| format(dtype).round(3.0 * f64::from(v)))
                    .collect();
                let mut want = vec![0.0; rows * inter];
                oracle::activation::gated(gate, &x, inter, &mut want);
                for dev in devices() {
                    for kernel in &Registry::cpu().activation {
                        let t = apart(&dev, dtype, &x, 2 * inter);
                        let before = bits(&dev, &t);
                        let mut out = Guarded::new(&dev, dtype, &[rows, inter]);
                        let args = ActivationArgs {
                            x: t.view().columns(2..2 + 2 * inter),
                            activation,
                            out: out.view_mut(),
                        };
                        run(&**kernel, &mut queue(&dev), args).unwrap();
                        let what = format!("{} {dtype} {activation:?} {rows}x{inter}", kernel.name());
                        // The exponential's argument is as wrong as its magnitude allows (x² / 2, or 1.6 x + …,
                        // times a few roundings), the exponential by 2 ulp, and some six roundings follow. The
                        // oracle's erf cancels to 1e-15 in the lower tail.
                        close(&what, dtype, &out.values(&dev), &want, |i| {
                            let g = f64::from(x[i / inter * 2 * inter + i % inter]);
                            let u = f64::from(x[i / inter * 2 * inter + inter + i % inter]);
                            let argument = 1.6 * g.abs() * (1.0 + 0.05 * g * g) * 4.0 + g * g;
                            f64::from(want[i]).abs() * (16.0 + argument) * EPS + 1e-15 * (g * u).abs()
                        });
                        assert!(bits(&dev, &t) == before, "{what}: inputs changed");
                    }
                }
            }
        }
    }
}

#[test]
fn logits_processing() {
    let inf = f32::INFINITY;
    for (vocab, softcap) in [(33, None), (1000, None), (4099, Some(30.0)), (129, Some(5.0))] {
        // temperature, min_p, repetition, frequency, presence
        let params: [[f32; 5]; 8] = [
            [1.0, 0.0, 1.0, 0.0, 0.0],
            [0.0, 0.5, 1.0, 0.0, 0.0],
            [0.6, 0.0, 1.0, 0.0, 0.0],
            [1.0, 0.05, 1.0, 0.0, 0.0],
            [0.7, 0.1, 1.3, 0.2, -0.4],
            [0.0, 0.0, 0.8, 0.0, 1.5],
            [2.0, 1.0, 1.1, 0.0, 0.0],
            [1.0, 0.0, 1.0, 0.0, 0.0],
        ];
        let rows = params.len();
        let mut logits: Vec<f32> = noise(DType::F32, 7, rows * vocab).into_iter().map(|v| 4.0 * v).collect();
        // What is masked or not a number stays so; the other rows do not see it.
        logits[3] = -inf;
        logits[7 * vocab + 5] = f32::NAN;
        logits[6 * vocab + 9] = logits[6 * vocab + 2];
        let (mut ids, mut counts, mut history) = (Vec::new(), Vec::new(), vec![0]);
        let (mut bias_ids, mut bias, mut biases) = (Vec::new(), Vec::new(), vec![0]);
        for r in 0..rows {
            if r % 3 == 1 || r == 6 {
                for i in 0..17 {
                    ids.push((i * 13 % vocab) as i32);
                    counts.push((i % 4) as i32);
                }
            }
            history.push(ids.len() as i32);
            if r % 2 == 0 {
                bias_ids.extend([1, 0, 8]);
                bias.extend([3.5, -inf, -0.25]);
            }
            biases.push(bias.len() as i32);
        }
        let mut want = logits.clone();
        for (r, p) in params.iter().enumerate() {
            let seen = history[r] as usize..history[r + 1] as usize;
            let output: Vec<i32> =
                seen.clone().flat_map(|i| std::iter::repeat_n(ids[i], counts[i] as usize)).collect();
            let own = biases[r] as usize..biases[r + 1] as usize;
            let logit_bias: Vec<(i32, f32)> = own.map(|i| (bias_ids[i], bias[i])).collect();
            let p = oracle::logits::LogitsParams {
                softcap,
                logit_bias: &logit_bias,
                prompt: &ids[seen],
                output: &output,
                temperature: p[0],
                min_p: p[1],
                repetition_penalty: p[2],
                frequency_penalty: p[3],
                presence_penalty: p[4],
                suppress: &[],
            };
            oracle::logits::process(&mut want[r * vocab..][..vocab], &p);
        }
        for dev in devices() {
            for kernel in &Registry::cpu().logits {
                let mut out = Guarded::with(&dev, DType::F32, &logits, &[rows, vocab]);
                let p = tensor(&dev, DType::F32, params.as_flattened(), &[rows, 5]);
                let [history, ids, counts, biases, bias_ids] =
                    [&history, &ids, &counts, &biases, &bias_ids].map(|v| ints(&dev, v));
                let values = tensor(&dev, DType::F32, &bias, &[bias.len()]);
                let args = LogitsArgs {
                    logits: out.view_mut(),
                    params: p.view(),
                    history_start: history.view(),
                    history_ids: ids.view(),
                    history_counts: counts.view(),
                    bias_start: biases.view(),
                    bias_ids: bias_ids.view(),
                    bias_values: values.view(),
                    softcap,
                };
                run(&**kernel, &mut queue(&dev), args).unwrap();
                let what = format!("{} vocab {vocab} cap {softcap:?}", kernel.name());
                for (i, (got, want)) in out.values(&dev).into_iter().zip(&want).enumerate() {
                    let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
                    // Every step is one f32 operation but the soft-cap: 4 ulp of tanh, two roundings, then the
                    // other steps' amplification (at most 1 / 0.6, a penalty of 1.3).
                    let near =
                        softcap.is_some_and(|cap| f64::from(got - want).abs() <= 16.0 * f64::from(cap) * EPS);
                    assert!(same || near, "{what}: {i}: {got} for {want}");
                }
            }
        }
    }
}
