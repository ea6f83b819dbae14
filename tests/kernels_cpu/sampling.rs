//! Sampling: the oracle's token for every row, exact supports, and the right frequencies.

use lathe::{
    device::{Cpu, DType, Tensor},
    kernels::{Queue, Registry, Sample, SampleArgs, SampleSpec, Slot, run},
};
use lathe_reference::{
    logits::is_unusable,
    sampling::{argmax, draw_gumbel, support, top_p_tail},
};

use crate::common::{bits, devices, noise};

#[derive(Clone, Copy, Debug)]
struct Row {
    greedy: bool,
    top_k: i32,
    top_p: f64,
    seed: u64,
    position: i32,
}

const PLAIN: Row = Row { greedy: false, top_k: 0, top_p: 1.0, seed: 1, position: 0 };

fn sample(dev: &Cpu, kernel: &Slot<Sample, Cpu>, logits: &[f32], rows: &[Row]) -> lathe::Result<Vec<i32>> {
    let vocab = logits.len() / rows.len();
    let params: Vec<i32> = rows
        .iter()
        .flat_map(|r| [r.greedy.into(), r.top_k, r.seed as i32, (r.seed >> 32) as i32, r.position])
        .collect();
    let tails: Vec<f32> = rows.iter().map(|r| top_p_tail(r.top_p)).collect();
    let logits = Tensor::from_slice(dev, logits, &[rows.len(), vocab]).unwrap();
    let params = Tensor::from_slice(dev, &params, &[rows.len(), 5]).unwrap();
    let tails = Tensor::from_slice(dev, &tails, &[rows.len()]).unwrap();
    let before = [&logits, &params, &tails].map(|t| bits(dev, t));
    const CANARY: i32 = -77;
    let mut out = Tensor::from_slice(dev, &vec![CANARY; rows.len() + 2], &[rows.len() + 2]).unwrap();
    let args = SampleArgs {
        logits: logits.view(),
        top_p_tail: tails.view(),
        params: params.view(),
        spec: SampleSpec {
            random: rows.iter().any(|r| !r.greedy),
            truncated: rows.iter().any(|r| r.top_k > 0 || r.top_p < 1.0),
        },
        out: out.rows_mut(1..rows.len() + 1),
    };
    run(&**kernel, &mut Queue::new(dev).unwrap(), args)?;
    assert!([&logits, &params, &tails].map(|t| bits(dev, t)) == before, "inputs changed");
    let out = out.to_vec::<i32>(dev).unwrap();
    assert_eq!((out[0], out[rows.len() + 1]), (CANARY, CANARY), "canaries");
    Ok(out[1..=rows.len()].to_vec())
}

fn oracle(logits: &[f32], row: Row) -> i32 {
    if is_unusable(logits) {
        -1
    } else if row.greedy {
        argmax(logits) as i32
    } else {
        let probs = support(logits, row.top_k as usize, row.top_p);
        draw_gumbel(logits, &probs, row.seed, row.position as u32) as i32
    }
}

fn fast() -> Slot<Sample, Cpu> {
    Registry::cpu().sample.swap_remove(0)
}

/// Rows of every kind: random, peaked, equal, in steps, with masked tokens, of one token, unusable.
fn kinds(vocab: usize) -> Vec<Vec<f32>> {
    let inf = f32::INFINITY;
    let normal = |seed, scale: f32| -> Vec<f32> {
        noise(DType::F32, seed, vocab).into_iter().map(|v| v * scale).collect()
    };
    let set = |mut row: Vec<f32>, pairs: &[(usize, f32)]| {
        for &(i, v) in pairs {
            row[i % vocab] = v;
        }
        row
    };
    vec![
        normal(1, 1.0),
        normal(2, 6.0),
        set(normal(3, 3.0), &[(5, 30.0)]),
        vec![0.0; vocab],
        normal(4, 2.0).into_iter().map(f32::round).collect(),
        normal(5, 2.0).into_iter().map(|v| if v < 1.0 { -inf } else { v }).collect(),
        normal(6, 1.0).into_iter().map(|v| if v < 0.5 { -1e9 } else { v * 100.0 }).collect(),
        set(vec![-inf; vocab], &[(7, 3.0)]),
        set(normal(7, 0.0), &[(1, -0.0), (3, 7.0), (4, 7.0)]),
        set(normal(8, 1.0), &[(2, f32::NAN)]),
        set(normal(9, 1.0), &[(vocab - 1, inf)]),
        vec![-inf; vocab],
    ]
}

#[test]
fn every_kernel_draws_the_oracles_tokens() {
    let cuts = [
        (0, 1.0),
        (1, 1.0),
        (2, 1.0),
        (50, 1.0),
        (100_000, 1.0),
        (0, 0.9),
        (0, 0.5),
        (0, 0.05),
        (0, 0.999_999),
        (0, 1e-9),
        (40, 0.8),
        (3, 0.3),
        (600, 0.95),
    ];
    for vocab in [1, 2, 7, 33, 129, 1000, 5003] {
        let kinds = kinds(vocab);
        for (c, &(top_k, top_p)) in cuts.iter().enumerate() {
            let rows: Vec<Row> = (0..kinds.len())
                .map(|i| Row {
                    greedy: (i + c) % 7 == 3,
                    top_k,
                    top_p,
                    seed: 0x1234_5678_9abc << 8 | (i * 64 + c) as u64,
                    position: (31 * i + c) as i32,
                })
                .collect();
            let logits: Vec<f32> = kinds.concat();
            let want: Vec<i32> = kinds.iter().zip(&rows).map(|(l, &r)| oracle(l, r)).collect();
            for dev in devices() {
                for kernel in &Registry::cpu().sample {
                    let got = sample(&dev, kernel, &logits, &rows);
                    let refuses = match kernel.name() {
                        "greedy" => true,
                        "gumbel" => top_k > 0 || top_p < 1.0,
                        _ => false,
                    };
                    if refuses {
                        let error = got.unwrap_err().to_string();
                        assert!(error.contains("does not support"), "{error}");
                    } else {
                        let what = format!("{} vocab {vocab} top_k {top_k} top_p {top_p}", kernel.name());
                        assert_eq!(got.unwrap(), want, "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn greedy_rows_by_every_kernel() {
    for vocab in [1, 33, 1500, 5003] {
        let kinds = kinds(vocab);
        let rows = vec![Row { greedy: true, ..PLAIN }; kinds.len()];
        let want: Vec<i32> = kinds.iter().zip(&rows).map(|(l, &r)| oracle(l, r)).collect();
        for dev in devices() {
            for kernel in &Registry::cpu().sample {
                assert_eq!(sample(&dev, kernel, &kinds.concat(), &rows).unwrap(), want, "{}", kernel.name());
            }
        }
    }
}

/// A support is seen through draws: over many positions every kept token of a small vocabulary comes up, and no
/// other. Ties at top-k's last place stay; top-p parts ties by index and drops a sum that equals the tail.
#[test]
fn supports_are_exact() {
    let tenths = [0.1, 0.4, 0.2, 0.3].map(f32::ln);
    let rows: [(&[f32], i32, f64); 9] = [
        (&[1.0, 3.0, 2.0, 2.0, 0.0], 2, 1.0),
        (&[1.0, 3.0, 2.0, 2.0, 0.0], 1, 1.0),
        (&[1.0, 1.0, 1.0, 1.0], 0, 0.5),
        (&[0.0, 7.0, 7.0, -0.0], 0, 0.2),
        (&[0.0; 10], 0, 0.9),
        (&[0.0; 10], 0, 0.8),
        (&tenths, 0, 0.65),
        (&tenths, 2, 0.55),
        (&[0.0, 0.0, -0.0, 0.0, 0.0, 1.0], 4, 0.75),
    ];
    for (logits, top_k, top_p) in rows {
        let want: Vec<bool> = support(logits, top_k as usize, top_p).iter().map(|&p| p > 0.0).collect();
        for dev in devices() {
            let draws: Vec<Row> =
                (0..400).map(|position| Row { top_k, top_p, seed: 3, position, ..PLAIN }).collect();
            let all = logits.repeat(draws.len());
            let mut got = vec![false; logits.len()];
            for token in sample(&dev, &fast(), &all, &draws).unwrap() {
                got[token as usize] = true;
            }
            assert_eq!(got, want, "{logits:?} top_k {top_k} top_p {top_p}");
        }
    }
}

/// Pearson's chi-squared against the oracle's probabilities. Seeds are fixed, so the result is too.
#[test]
fn draws_follow_the_distribution() {
    let logits: Vec<f32> = noise(DType::F32, 12, 40).into_iter().map(|v| 1.5 * v).collect();
    let dev = Cpu::new(Some(2));
    for (temperature, top_k, top_p) in
        [(1.0, 0, 1.0), (0.6, 0, 1.0), (1.0, 10, 1.0), (1.3, 0, 0.8), (0.8, 20, 0.9)]
    {
        let scaled: Vec<f32> = logits.iter().map(|l| l / temperature).collect();
        let probs = support(&scaled, top_k as usize, top_p);
        let n = 20_000;
        for by_seed in [false, true] {
            let rows: Vec<Row> = (0..n)
                .map(|i| {
                    let (seed, position) = if by_seed { (i as u64, 5) } else { (99, i) };
                    Row { top_k, top_p, seed, position, ..PLAIN }
                })
                .collect();
            let mut counts = vec![0u32; probs.len()];
            for chunk in rows.chunks(1000) {
                let all = scaled.repeat(chunk.len());
                for token in sample(&dev, &fast(), &all, chunk).unwrap() {
                    counts[token as usize] += 1;
                }
            }
            let mut freedom = -1.0;
            let mut chi = 0.0;
            for (&p, &count) in probs.iter().zip(&counts) {
                assert!(p > 0.0 || count == 0, "a token outside the support");
                if p > 0.0 {
                    freedom += 1.0;
                    chi += (f64::from(count) - f64::from(n) * p).powi(2) / (f64::from(n) * p);
                }
            }
            // Mean f, deviation sqrt(2 f): four deviations are passed once in some ten thousand.
            let limit = freedom + 4.0 * (2.0f64 * freedom).sqrt() + 4.0;
            assert!(chi < limit, "{temperature} {top_k} {top_p} by seed {by_seed}: {chi} of {limit}");
        }
    }
}

/// A row's token does not depend on its batch, its place in it or the threads.
#[test]
fn tokens_do_not_depend_on_the_batch() {
    let kinds = kinds(20_011);
    let rows: Vec<Row> = (0..kinds.len())
        .map(|i| Row {
            greedy: i == 4,
            top_k: [0, 50, 0][i % 3],
            top_p: [1.0, 0.9, 0.95][i % 3],
            seed: i as u64,
            position: 9,
        })
        .collect();
    let many = sample(&Cpu::new(Some(4)), &fast(), &kinds.concat(), &rows).unwrap();
    for (i, (logits, &row)) in kinds.iter().zip(&rows).enumerate() {
        let alone = sample(&Cpu::new(Some(1)), &fast(), logits, &[row]).unwrap();
        assert_eq!(alone, [many[i]], "row {i}");
        assert_eq!(many[i], oracle(logits, row), "row {i}");
    }
}
