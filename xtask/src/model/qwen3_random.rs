//! Qwen3-0.6B's configuration with random weights: the shape that benchmarks need, without its 1.2 GB download.
//!
//! There is no tokenizer: the weights mean nothing, and benchmarks run on token ids.

use std::f32::consts::TAU;
use std::path::Path;

use anyhow::Result;
use half::bf16;
use serde_json::json;

use super::weights::{self, Tensor};

const SEED: u64 = 0;
const STD: f32 = 0.02;

const HIDDEN: usize = 1024;
const INTERMEDIATE: usize = 3072;
const LAYERS: usize = 28;
const HEADS: usize = 16;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 128;
const VOCAB: usize = 151_936;

/// The version of the weights.
pub fn stamp() -> String {
    format!("qwen3-0.6b-random seed {SEED} version 1")
}

/// Writes the model's Hugging Face folder (1.2 GB) into `dir`.
///
/// # Errors
/// If it cannot be written.
pub fn fill(dir: &Path) -> Result<()> {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": 151_643,
        "eos_token_id": 151_645,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": 40_960,
        "max_window_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-6,
        "rope_scaling": null,
        "rope_theta": 1_000_000,
        "sliding_window": null,
        "tie_word_embeddings": true,
        "torch_dtype": "bfloat16",
        "use_cache": true,
        "use_sliding_window": false,
        "vocab_size": VOCAB,
    });
    let generation = json!({
        "bos_token_id": 151_643,
        "do_sample": true,
        "eos_token_id": [151_645, 151_643],
        "pad_token_id": 151_643,
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
    });
    weights::write_json(dir, "config.json", &config)?;
    weights::write_json(dir, "generation_config.json", &generation)?;
    weights::write_safetensors(dir, tensors())
}

fn tensors() -> Vec<Tensor<'static>> {
    let mut tensors = Vec::new();
    // Matrices are normal, each from its own stream; norm weights (one dimension) are ones.
    let mut add = |name: String, shape: &[usize]| {
        let values = shape.iter().product();
        let stream = tensors.len() as u64;
        let bf16: Box<dyn Fn() -> Vec<u8>> = match shape {
            [_] => Box::new(move || bf16::ONE.to_le_bytes().repeat(values)),
            _ => Box::new(move || normal_bf16(SEED, stream, values)),
        };
        tensors.push(Tensor { name, shape: shape.to_vec(), bf16 });
    };
    add("model.embed_tokens.weight".into(), &[VOCAB, HIDDEN]);
    for layer in 0..LAYERS {
        let (q, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
        let shapes: [(&str, &[usize]); 11] = [
            ("input_layernorm", &[HIDDEN]),
            ("self_attn.q_proj", &[q, HIDDEN]),
            ("self_attn.k_proj", &[kv, HIDDEN]),
            ("self_attn.v_proj", &[kv, HIDDEN]),
            ("self_attn.o_proj", &[HIDDEN, q]),
            ("self_attn.q_norm", &[HEAD_DIM]),
            ("self_attn.k_norm", &[HEAD_DIM]),
            ("post_attention_layernorm", &[HIDDEN]),
            ("mlp.gate_proj", &[INTERMEDIATE, HIDDEN]),
            ("mlp.up_proj", &[INTERMEDIATE, HIDDEN]),
            ("mlp.down_proj", &[HIDDEN, INTERMEDIATE]),
        ];
        for (name, shape) in shapes {
            add(format!("model.layers.{layer}.{name}.weight"), shape);
        }
    }
    add("model.norm.weight".into(), &[HIDDEN]);
    tensors
}

/// `values` normal numbers of standard deviation [`STD`] as little-endian bf16, fixed by `seed` and `stream`.
///
/// Source: SplitMix64 (Steele, Lea, Flood 2014), one step for each Box-Muller pair.
fn normal_bf16(seed: u64, stream: u64, values: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(values * 2);
    let mut state = splitmix64(splitmix64(seed).wrapping_add(stream));
    for pair in (0..values).step_by(2) {
        state = state.wrapping_add(GOLDEN_GAMMA);
        let bits = splitmix64(state);
        // 24 bits each: the first in (0, 1], so that its logarithm is finite, the second in [0, 1).
        let radius = (((bits >> 40) + 1) as f32 / (1u32 << 24) as f32).ln() * -2.0;
        let (sin, cos) = ((bits & 0xff_ffff) as f32 / (1u32 << 24) as f32 * TAU).sin_cos();
        let radius = radius.sqrt() * STD;
        out.extend_from_slice(&bf16::from_f32(radius * cos).to_le_bytes());
        if pair + 1 < values {
            out.extend_from_slice(&bf16::from_f32(radius * sin).to_le_bytes());
        }
    }
    out
}

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's output function.
fn splitmix64(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_those_of_qwen3_0_6b() {
        let tensors = tensors();
        assert_eq!(tensors.len(), 2 + 11 * 28);
        // The tied 0.6B: 596,049,920 parameters.
        let values: usize = tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
        assert_eq!(values, 596_049_920);
    }

    #[test]
    fn weights_are_normal_and_differ_by_stream() {
        let values = |stream| -> Vec<f64> {
            let bytes = normal_bf16(0, stream, 100_001);
            bytes.as_chunks().0.iter().map(|&pair| bf16::from_le_bytes(pair).to_f64()).collect()
        };
        let x = values(1);
        assert_eq!(x.len(), 100_001);
        assert_eq!(x, values(1));
        assert_ne!(x, values(2));
        let n = x.len() as f64;
        let moment = |power| x.iter().map(|v| (v / 0.02).powi(power)).sum::<f64>() / n;
        // Standard errors at this n: mean 0.003, variance 0.0045, fourth moment 0.031.
        assert!(moment(1).abs() < 0.015, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.025, "variance {}", moment(2));
        assert!((moment(4) - 3.0).abs() < 0.16, "fourth moment {}", moment(4));
        // Neighbours come from one pair: they must be uncorrelated.
        let lag1 = x.windows(2).map(|w| w[0] * w[1] / 4e-4).sum::<f64>() / n;
        assert!(lag1.abs() < 0.015, "correlation of neighbours {lag1}");
    }
}
