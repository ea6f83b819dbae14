//! Linear, KV store and sampling.

use std::sync::OnceLock;

use half::{bf16, f16};
use lathe::{
    Result,
    kernels::{KvStore, KvStoreArgs, Linear, LinearArgs, Sample, SampleArgs},
    lab::check::{Suite, Verdict},
};
use lathe_reference::{
    logits::is_unusable,
    sampling::{argmax, draw_gumbel, softmax, support, temper},
};

use crate::{
    expect, kernel,
    wild::{Raw, Wild, ints},
};

fn linear(
    a: LinearArgs<'_, Wild>,
    add: fn(f32, f32) -> f32,
    tail: bool,
    bias: bool,
    last: fn(f32) -> f32,
) -> Result<()> {
    let (x, w, out) = (Raw::of(&a.x), Raw::of(&a.weight), Raw::out(&a.out));
    let (k, n) = (x.row(), w.shape[0]);
    let k_used = if tail { k } else { (k / 8 * 8).max(1) };
    let bias =
        a.bias.filter(|_| bias).map(|b| (0..n).map(|j| Raw::of(&b).get(j as isize)).collect::<Vec<_>>());
    let (x, w) = (x.values(), w.values());
    let mut values = Vec::new();
    for x in x.chunks_exact(k) {
        for (j, w) in w.chunks_exact(k).enumerate() {
            let dot = x[..k_used].iter().zip(w).fold(0.0, |sum, (x, w)| add(sum, x * w));
            values.push(last(dot + bias.as_ref().map_or(0.0, |b| b[j])));
        }
    }
    out.fill(&values)
}

#[test]
fn linear_flaws() {
    let suite: OnceLock<Suite<Linear>> = OnceLock::new();
    let exact: fn(f32) -> f32 = |v| v;
    let add: fn(f32, f32) -> f32 = |a, b| a + b;
    type Flaw = (&'static str, fn(f32, f32) -> f32, bool, bool, fn(f32) -> f32, Verdict);
    let cases: [Flaw; 6] = [
        ("right", add, true, true, exact, Verdict::Passed),
        (
            "sums_in_bf16",
            |a, b| bf16::from_f32(a + b).to_f32(),
            true,
            true,
            exact,
            Verdict::IncorrectNumerical,
        ),
        ("sums_in_f16", |a, b| f16::from_f32(a + b).to_f32(), true, true, exact, Verdict::IncorrectNumerical),
        ("drops_the_end_of_k", add, false, true, exact, Verdict::IncorrectNumerical),
        ("forgets_the_bias", add, true, false, exact, Verdict::IncorrectNumerical),
        (
            "rounds_f32_output_to_bf16",
            add,
            true,
            true,
            |v| bf16::from_f32(v).to_f32(),
            Verdict::IncorrectNumerical,
        ),
    ];
    for (name, add, tail, bias, last, want) in cases {
        let kernel = kernel(name, move |a| linear(a, add, tail, bias, last));
        expect(&suite, &kernel, want);
    }
}

fn store(a: KvStoreArgs<'_, Wild>, skips: bool, values_too: bool) -> Result<()> {
    let (k_cache, v_cache) = (Raw::out(&a.k_cache), Raw::out(&a.v_cache));
    for (new, cache) in [(Raw::of(&a.k), k_cache), (Raw::of(if values_too { &a.v } else { &a.k }), v_cache)] {
        let (row, new) = (new.row(), new.values());
        for (t, &slot) in ints(&a.slots).iter().enumerate() {
            if slot < 0 && skips {
                continue;
            }
            for i in 0..row {
                cache.set((slot * row as i32 + i as i32) as isize, new[t * row + i])?;
            }
        }
    }
    Ok(())
}

#[test]
fn kv_store_flaws() {
    let suite: OnceLock<Suite<KvStore>> = OnceLock::new();
    for (name, skips, values, want) in [
        ("right", true, true, Verdict::Passed),
        ("stores_padding_too", false, true, Verdict::WroteOutside),
        ("stores_keys_as_values", true, false, Verdict::IncorrectNumerical),
    ] {
        let kernel = kernel(name, move |a| store(a, skips, values));
        expect(&suite, &kernel, want);
    }
}

/// What top-p leaves if the token that crosses the boundary goes too.
fn too_few(logits: &[f32], top_k: usize, top_p: f64) -> Vec<f64> {
    let mut probs = support(logits, top_k, top_p);
    let kept = probs.iter().filter(|p| **p > 0.0).count();
    if top_p < 1.0 && kept > 1 {
        let least =
            (0..probs.len()).filter(|&i| probs[i] > 0.0).min_by(|&a, &b| probs[a].total_cmp(&probs[b]));
        probs[least.unwrap()] = 0.0;
    }
    probs
}

/// Top-p of all tokens, whatever top-k left.
fn top_p_alone(logits: &[f32], top_k: usize, top_p: f64) -> Vec<f64> {
    let (k, p) = (support(logits, top_k, 1.0), support(logits, 0, top_p));
    k.iter().zip(&p).map(|(k, p)| k * p).collect()
}

#[test]
fn sample_flaws() {
    type Cut = fn(&[f32], usize, f64) -> Vec<f64>;
    let suite: OnceLock<Suite<Sample>> = OnceLock::new();
    type Temper = fn(&mut [f32], f32);
    let cases: [(_, Temper, Cut, bool, bool, _); 7] = [
        ("right", temper, support, true, true, Verdict::Passed),
        ("ignores_the_temperature", |_, _| {}, support, true, true, Verdict::IncorrectNumerical),
        ("top_p_keeps_one_too_few", temper, too_few, true, true, Verdict::IncorrectNumerical),
        ("top_p_before_top_k", temper, top_p_alone, true, true, Verdict::IncorrectNumerical),
        ("ignores_the_cuts", temper, |l, _, _| softmax(l), true, true, Verdict::IncorrectNumerical),
        ("ignores_the_position", temper, support, false, true, Verdict::IncorrectNumerical),
        ("draws_from_nan", temper, support, true, false, Verdict::IncorrectNumerical),
    ];
    for (name, temper, cut, positions, refuses, want) in cases {
        let kernel = kernel(name, move |a: SampleArgs<'_, Wild>| {
            let (logits, tails, params) =
                (Raw::of(&a.logits), a.top_p_tail.to_vec::<f32>(&Wild)?, ints(&a.params));
            let (width, mut logits) = (logits.row(), logits.values());
            for ((row, t), _) in logits
                .chunks_exact_mut(width)
                .zip(a.temperature.to_vec::<f32>(&Wild)?)
                .zip(params.chunks_exact(5))
                .filter(|(_, p)| p[0] == 0)
            {
                temper(row, t);
            }
            let mut tokens = Vec::new();
            for ((logits, &tail), p) in logits.chunks_exact(width).zip(&tails).zip(params.chunks_exact(5)) {
                let key = u64::from(p[3] as u32) << 32 | u64::from(p[2] as u32);
                let position = if positions { p[4] as u32 } else { 0 };
                tokens.push(if is_unusable(logits) {
                    if refuses { -1 } else { 0 }
                } else if p[0] != 0 {
                    argmax(logits) as i32
                } else {
                    let probs = cut(logits, p[1] as usize, 1.0 - f64::from(tail));
                    draw_gumbel(logits, &probs, key, position) as i32
                });
            }
            // Tokens of these vocabularies are exact in f32.
            Raw::out(&a.out).fill(&tokens.iter().map(|&t| t as f32).collect::<Vec<_>>())
        });
        expect(&suite, &kernel, want);
    }
}
