//! The oracle's sampling semantics against what Hugging Face transformers recorded (`golden/models/warpers.*`).
//!
//! Supports are compared token by token, but for tokens with equal logits by their number: transformers sorts
//! with `torch.sort`, which on a CPU is not stable, so which of them top-p keeps is not defined there.

use std::collections::{BTreeMap, BTreeSet};

use lathe_reference::logits::{LogitsParams, process};
use lathe_reference::sampling::{log_softmax, support, temper};
use safetensors::{Dtype, SafeTensors};

const ROWS: usize = 8;
const VOCAB: usize = 1000;
const PREVIOUS: usize = 40;

fn file() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/models/warpers.safetensors");
    std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// `[ROWS, VOCAB]` values of a float32 tensor.
fn floats(tensors: &SafeTensors, name: &str) -> Vec<f32> {
    let t = tensors.tensor(name).unwrap();
    assert_eq!((t.dtype(), t.shape()), (Dtype::F32, &[ROWS, VOCAB][..]), "{name}");
    t.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// `[ROWS, PREVIOUS]` token ids.
fn previous_ids(tensors: &SafeTensors) -> Vec<i32> {
    let t = tensors.tensor("prev_ids").unwrap();
    assert_eq!((t.dtype(), t.shape()), (Dtype::I64, &[ROWS, PREVIOUS][..]));
    let ids = t.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()));
    ids.map(|id| i32::try_from(id).unwrap()).collect()
}

/// One recorded case: what to do to the logits, then top-k and top-p.
struct Case {
    name: &'static str,
    temperature: f32,
    min_p: f32,
    repetition_penalty: f32,
    top_k: usize,
    top_p: f64,
}

const OFF: Case =
    Case { name: "", temperature: 1.0, min_p: 0.0, repetition_penalty: 1.0, top_k: 0, top_p: 1.0 };

const CASES: [Case; 8] = [
    Case { name: "temperature_0.6", temperature: 0.6, ..OFF },
    Case { name: "top_k_50", top_k: 50, ..OFF },
    Case { name: "top_k_1", top_k: 1, ..OFF },
    Case { name: "top_p_0.9", top_p: 0.9, ..OFF },
    Case { name: "top_p_0.1", top_p: 0.1, ..OFF },
    Case { name: "min_p_0.05", min_p: 0.05, ..OFF },
    Case { name: "repetition_1.3", repetition_penalty: 1.3, ..OFF },
    Case { name: "temperature_0.7_top_k_40_top_p_0.8", temperature: 0.7, top_k: 40, top_p: 0.8, ..OFF },
];

#[test]
fn every_entry_of_the_file_is_a_case() {
    let bytes = file();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let recorded: BTreeSet<&str> = tensors.names().into_iter().collect();
    let known: BTreeSet<&str> = CASES.iter().map(|c| c.name).chain(["logits", "prev_ids"]).collect();
    assert_eq!(recorded, known);
}

#[test]
fn supports_are_equal_and_log_probabilities_agree() {
    let bytes = file();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (logits, previous) = (floats(&tensors, "logits"), previous_ids(&tensors));
    for case in CASES {
        let want = floats(&tensors, case.name);
        let mut worst = 0.0f64;
        for r in 0..ROWS {
            let mut row = logits[r * VOCAB..][..VOCAB].to_vec();
            let params = LogitsParams {
                temperature: case.temperature,
                min_p: case.min_p,
                repetition_penalty: case.repetition_penalty,
                prompt: &previous[r * PREVIOUS..][..PREVIOUS],
                ..Default::default()
            };
            process(&mut row, &params);
            temper(&mut row, case.temperature);
            let processed = log_softmax(&row);
            let probs = support(&row, case.top_k, case.top_p);

            // Per distinct logit, the log-probabilities of the tokens that each side keeps.
            let mut kept: BTreeMap<u32, [Vec<f64>; 2]> = BTreeMap::new();
            for (i, &want) in want[r * VOCAB..][..VOCAB].iter().enumerate() {
                let [ours, theirs] = kept.entry(row[i].to_bits()).or_default();
                if probs[i] > 0.0 {
                    ours.push(probs[i].ln());
                }
                if want > f32::NEG_INFINITY {
                    theirs.push(want.into());
                }
                if case.top_k == 0 && case.top_p == 1.0 && want > f32::NEG_INFINITY {
                    let error = (processed[i] - f64::from(want)).abs();
                    assert!(error < 1e-5, "{}, row {r}, token {i}: log_softmax off by {error}", case.name);
                }
            }
            for [ours, theirs] in kept.values() {
                assert_eq!(ours.len(), theirs.len(), "{}, row {r}: {ours:?} {theirs:?}", case.name);
                for (ours, theirs) in ours.iter().zip(theirs) {
                    let error = (ours - theirs).abs();
                    assert!(error < 1e-5, "{}, row {r}: {ours} for {theirs}", case.name);
                    worst = worst.max(error);
                }
            }
        }
        println!("{}: log-probabilities within {worst:.1e}", case.name);
    }
}

/// The recorded rows do exercise what they are there for; otherwise the test above proves less than it says.
#[test]
fn ties_and_boundaries_are_in_the_recording() {
    let bytes = file();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let logits = floats(&tensors, "logits");
    let kept = |name: &str, row: usize| {
        floats(&tensors, name)[row * VOCAB..][..VOCAB].iter().filter(|l| l.is_finite()).count()
    };
    let tied = &logits[VOCAB + 10..VOCAB + 20];
    assert!(tied.iter().all(|&l| l == tied[0]));
    assert_eq!(kept("top_k_1", 1), 10, "ties with the largest are all kept by top-k");
    assert_eq!(kept("top_k_1", 0), 1);
    assert_eq!(kept("top_p_0.1", 1), 2, "top-p parts ties: 2 of the 10 hold more than 0.1");

    // Row 0: the tokens kept by top-p 0.9 reach 0.9 only with the least likely of them.
    let probs = support(&logits[..VOCAB], 0, 1.0);
    let recorded = floats(&tensors, "top_p_0.9");
    let in_support: Vec<f64> = (0..VOCAB).filter(|&i| recorded[i].is_finite()).map(|i| probs[i]).collect();
    let mass: f64 = in_support.iter().sum();
    let least = in_support.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(mass >= 0.9 && mass - least < 0.9, "mass {mass}, least {least}");
}
