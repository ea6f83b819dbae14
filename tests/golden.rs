//! The decoder against what Hugging Face transformers recorded (see `reference/golden/README.md`): every family, in
//! f32, all positions, the prompt at once, in chunks of 7, and token by token through the paged cache.

use std::{collections::BTreeMap, path::Path};

use lathe::{
    config::EngineConfig,
    device::{Cpu, DType, Simd},
    engine::runner::Runner,
    kernels::Registry,
    model::{Decoder, ModelConfig, Source, Weights},
};
use safetensors::SafeTensors;
use serde::Deserialize;

/// Absolute, for logits of unit scale.
const TOLERANCE: f32 = 2e-4;

#[derive(Deserialize)]
struct Expected {
    prompts: Vec<Vec<u32>>,
    greedy: Vec<Vec<u32>>,
}

fn runner(family: &str, kernels: &[(&str, &str)], block_size: usize) -> Runner<Cpu> {
    runner_in(family, kernels, block_size, DType::F32, false)
}

fn runner_in(
    family: &str,
    kernels: &[(&str, &str)],
    block_size: usize,
    dtype: DType,
    strips: bool,
) -> Runner<Cpu> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/golden/models").join(family);
    let source = Source::Folder(folder);
    let json = source.read("config.json").unwrap().unwrap();
    let model = ModelConfig::from_json((&source.path("config.json"), &json), None).unwrap();
    let weights = Weights::open(&source).unwrap();
    let dev = Cpu::new(Some(2));
    let decoder = Decoder::load(&dev, &model, &weights, dtype, strips, 256).unwrap();
    let names: BTreeMap<String, String> =
        kernels.iter().map(|(s, k)| (s.to_string(), k.to_string())).collect();
    let set = Registry::cpu().select(&names, false).unwrap();
    let config = EngineConfig {
        max_num_batched_tokens: 128,
        max_num_seqs: 8,
        max_model_len: 256,
        kvcache_block_size: block_size,
        num_kvcache_blocks: Some(256 / block_size),
        ..EngineConfig::default()
    };
    Runner::new(&dev, set, decoder, &config).unwrap()
}

/// The largest difference over all prompts, positions and tokens, for each way of chunking.
fn worst(family: &str, kernels: &[(&str, &str)]) -> [f32; 3] {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/golden/models").join(family);
    let expected: Expected =
        serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let file = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let recorded = SafeTensors::deserialize(&file).unwrap();
    let mut runner = runner(family, kernels, 16);
    let mut worst = [0.0f32; 3];
    for (i, prompt) in expected.prompts.iter().enumerate() {
        let want = recorded.tensor(&format!("logits.{i}")).unwrap();
        let want: Vec<f32> =
            want.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        for (way, chunk) in [usize::MAX, 7, 1].into_iter().enumerate() {
            let got = runner.score(prompt, chunk).unwrap();
            assert_eq!(got.len(), want.len(), "{family}: prompt {i}");
            let difference = |(g, w): (&f32, &f32)| if g.is_finite() { (g - w).abs() } else { f32::INFINITY };
            worst[way] = got.iter().zip(&want).map(difference).fold(worst[way], f32::max);
        }
    }
    worst
}

/// Greedy tokens, teacher-forced: each recorded token must be the likeliest after those before it.
fn greedy_matches(family: &str, kernels: &[(&str, &str)]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/golden/models").join(family);
    let expected: Expected =
        serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let mut runner = runner(family, kernels, 16);
    for (prompt, want) in expected.prompts.iter().zip(&expected.greedy) {
        let all = [prompt.as_slice(), want].concat();
        let logits = runner.score(&all, usize::MAX).unwrap();
        let vocab = logits.len() / all.len();
        let argmax =
            |row: &[f32]| (0..vocab).max_by(|&a, &b| row[a].total_cmp(&row[b]).then(b.cmp(&a))).unwrap();
        let got: Vec<u32> = logits
            .chunks_exact(vocab)
            .skip(prompt.len() - 1)
            .map(|row| argmax(row) as u32)
            .take(want.len())
            .collect();
        assert_eq!(&got, want, "{family}: prompt of {} tokens", prompt.len());
    }
}

const FAMILIES: [&str; 7] =
    ["qwen3", "qwen2", "llama", "llama3_rope", "mistral_window", "gemma3", "gemma3_mixed"];

fn check(kernels: &[(&str, &str)]) {
    for family in FAMILIES {
        let [whole, chunks, tokens] = worst(family, kernels);
        println!("{family}: whole {whole:.2e}, chunks of 7 {chunks:.2e}, token by token {tokens:.2e}");
        assert!(whole.max(chunks).max(tokens) <= TOLERANCE, "{family}: {whole} {chunks} {tokens}");
        greedy_matches(family, kernels);
    }
}

#[test]
fn every_family_matches_transformers() {
    check(&[]);
}

#[test]
fn every_family_matches_transformers_with_reference_kernels() {
    let slots = lathe::kernels::SLOTS.map(|slot| (slot, "reference"));
    check(&slots);
}

/// Tied and untied output projections, joined projections with and without biases, whole prompts and single tokens.
#[test]
fn weights_in_strips_give_the_same_bits_as_rows() {
    let strips =
        Registry::cpu().select(&BTreeMap::new(), false).unwrap().read_strips(&Cpu::new(Some(2)), DType::Bf16);
    assert_eq!(strips, Cpu::new(Some(2)).simd() == Simd::Avx512Bf16);
    for family in FAMILIES {
        for chunk in [usize::MAX, 1] {
            let [rows, strips] = [false, strips].map(|strips| {
                let mut runner = runner_in(family, &[], 16, DType::Bf16, strips);
                let logits = runner.score(&[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], chunk).unwrap();
                logits.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            });
            assert!(rows == strips, "{family}, {chunk} tokens at a time");
        }
    }
}
