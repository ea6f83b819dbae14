//! Attention, one query after the other, and what can go wrong with masks, tables and lengths.

use std::sync::OnceLock;

use half::bf16;
use lathe::{
    Result,
    kernels::{Attention, AttentionArgs},
    lab::check::{Suite, Verdict},
};

use crate::{
    expect, kernel,
    wild::{Raw, Wild, ints},
};

static SUITE: OnceLock<Suite<Attention>> = OnceLock::new();

/// Where a kernel may go wrong; each has the right choice as its default.
struct Choices {
    /// Keys that a query at a position sees, given the sequence's length.
    last: fn(usize, usize) -> usize,
    window: fn(Option<usize>) -> Option<usize>,
    softcap: fn(Option<f32>) -> Option<f32>,
    /// The block of a sequence's position.
    block: fn(&[i32], usize) -> i32,
    /// The key head of a query head, given the number of both.
    kv_head: fn(usize, usize, usize) -> usize,
    /// What is subtracted from the scores.
    shift: fn(f32) -> f32,
    /// Applied to every partial sum of values.
    round: fn(f32) -> f32,
    /// Applied to a result, given head_dim, its sequence's length and the block size.
    result: fn(f32, usize, usize, usize) -> f32,
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            last: |position, _| position + 1,
            window: |w| w,
            softcap: |c| c,
            block: |table, i| table[i],
            kv_head: |head, heads, kv_heads| head / (heads / kv_heads),
            shift: |max| max,
            round: |v| v,
            result: |v, _, _, _| v,
        }
    }
}

fn run(c: &Choices, a: AttentionArgs<'_, Wild>) -> Result<()> {
    let (q, k, v, out) = (Raw::of(&a.q), Raw::of(&a.k_cache), Raw::of(&a.v_cache), Raw::out(&a.out));
    let &[_, heads, dim] = &q.shape[..] else { unreachable!() };
    let &[blocks, block_size, kv_heads, _] = &k.shape[..] else { unreachable!() };
    let (q, keys, values, table) = (q.values(), k.values(), v.values(), ints(&a.block_table));
    let width = a.block_table.shape()[1];
    let mut token = 0;
    for (s, l) in a.lens.iter().enumerate() {
        let table = &table[s * width..(s + 1) * width];
        for position in l.kv - l.q..l.kv {
            let end = (c.last)(position, l.kv);
            let start = (c.window)(a.window).map_or(0, |w| (position + 1).saturating_sub(w));
            for head in 0..heads {
                let kv_head = (c.kv_head)(head, heads, kv_heads);
                let at = |t: usize| {
                    let block = (c.block)(table, t / block_size) as usize % blocks;
                    ((block * block_size + t % block_size) * kv_heads + kv_head) * dim
                };
                let q = &q[(token * heads + head) * dim..][..dim];
                let score = |t: usize| {
                    let dot: f32 = q.iter().zip(&keys[at(t)..]).map(|(q, k)| q * k).sum();
                    let score = dot * a.scale;
                    (c.softcap)(a.softcap).map_or(score, |cap| cap * (score / cap).tanh())
                };
                let scores: Vec<f32> = (start..end).map(score).collect();
                let shift = (c.shift)(scores.iter().copied().fold(f32::NEG_INFINITY, f32::max));
                let weights: Vec<f32> = scores.iter().map(|s| (s - shift).exp()).collect();
                let total: f32 = weights.iter().sum();
                let mut sums = vec![0.0; dim];
                for (t, weight) in (start..end).zip(&weights) {
                    for (sum, v) in sums.iter_mut().zip(&values[at(t)..]) {
                        *sum = (c.round)(*sum + weight * v);
                    }
                }
                for (i, sum) in sums.iter().enumerate() {
                    let value = (c.result)(sum / total, dim, l.kv, block_size);
                    out.set(((token * heads + head) * dim + i) as isize, value)?;
                }
            }
            token += 1;
        }
    }
    Ok(())
}

fn bad(name: &'static str, choices: Choices, want: Verdict) -> serde_json::Value {
    let kernel = kernel(name, move |a| run(&choices, a));
    let report = expect(&SUITE, &kernel, want);
    report.failure.map_or(serde_json::Value::Null, |f| f.case)
}

#[test]
fn each_flaw_is_found() {
    let right = Choices::default;
    bad("right", right(), Verdict::Passed);
    let wrong = |name, choices| bad(name, choices, Verdict::IncorrectNumerical);
    wrong("sees_the_next_key", Choices { last: |p, kv| (p + 2).min(kv), ..right() });
    wrong("does_not_see_itself", Choices { last: |p, _| p.max(1), ..right() });
    wrong("sees_all_keys", Choices { last: |_, kv| kv, ..right() });
    wrong("sees_the_padding", Choices { last: |_, kv| kv.next_multiple_of(16), ..right() });
    wrong("ignores_the_window", Choices { window: |_| None, ..right() });
    wrong("window_off_by_one", Choices { window: |w| w.map(|w| w + 1), ..right() });
    wrong("ignores_the_cap", Choices { softcap: |_| None, ..right() });
    wrong("ignores_the_block_table", Choices { block: |_, i| i as i32, ..right() });
    wrong("repeats_the_first_block", Choices { block: |table, _| table[0], ..right() });
    wrong("interleaves_heads", Choices { kv_head: |h, _, kv_heads| h % kv_heads, ..right() });
    wrong("does_not_subtract_the_maximum", Choices { shift: |_| 0.0, ..right() });
    wrong("sums_in_bf16", Choices { round: |v| bf16::from_f32(v).to_f32(), ..right() });

    let dim = wrong(
        "wrong_at_one_head_size",
        Choices { result: |v, dim, _, _| if dim == 80 { -v } else { v }, ..right() },
    );
    assert_eq!(dim["dim"], 80);
    let kv = wrong(
        "wrong_for_one_key",
        Choices { result: |v, _, kv, _| if kv == 1 { 0.0 } else { v }, ..right() },
    );
    assert_eq!(kv["lens"], serde_json::json!([{"q": 1, "kv": 1}]));
    let full = |v: f32, _, kv: usize, block: usize| if kv.is_multiple_of(block) { 1.5 * v } else { v };
    let kv = wrong("wrong_where_the_last_block_is_full", Choices { result: full, ..right() });
    assert_eq!(kv["lens"][0]["kv"].as_u64().unwrap() % kv["block_size"].as_u64().unwrap(), 0, "{kv}");
}
