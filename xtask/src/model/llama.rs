//! A llama-architecture GGUF as Hugging Face weights and configuration.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::gguf::Gguf;
use super::weights::Tensor;

/// Far above any real extent, and small enough that the product of two is no overflow.
const MAX_EXTENT: usize = 1 << 24;

/// The extents of a model with `lm_head` tied to the embedding and no biases.
#[derive(Debug, PartialEq)]
pub struct Llama {
    layers: usize,
    hidden: usize,
    intermediate: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocab: usize,
}

impl Llama {
    /// Reads the extents.
    ///
    /// # Errors
    /// If the architecture is another, or an extent is missing or makes no sense.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let architecture = gguf.string("general.architecture")?;
        ensure!(
            architecture == "llama",
            "gguf: general.architecture is {architecture:?}, expected \"llama\""
        );
        let extent = |key: &str| {
            let n = gguf.unsigned(key)?;
            ensure!((1..=MAX_EXTENT).contains(&n), "gguf: {key} is {n}, expected 1 to {MAX_EXTENT}");
            Ok(n)
        };
        let llama = Self {
            layers: extent("llama.block_count")?,
            hidden: extent("llama.embedding_length")?,
            intermediate: extent("llama.feed_forward_length")?,
            heads: extent("llama.attention.head_count")?,
            kv_heads: extent("llama.attention.head_count_kv")?,
            head_dim: extent("llama.rope.dimension_count")?,
            vocab: gguf.strings("tokenizer.ggml.tokens")?.len(),
        };
        let head_dim = llama.head_dim;
        ensure!(head_dim.is_multiple_of(2), "gguf: llama.rope.dimension_count is {head_dim}, expected even");
        Ok(llama)
    }

    /// All tensors under their Hugging Face names, q and k with their rows in Hugging Face's order.
    ///
    /// # Errors
    /// If a tensor is missing, has another shape, or is not known here.
    pub fn tensors<'a>(&self, gguf: &'a Gguf) -> Result<Vec<Tensor<'a>>> {
        let (hidden, inner, head_dim) = (self.hidden, self.intermediate, self.head_dim);
        let (q, kv) = (self.heads * head_dim, self.kv_heads * head_dim);
        let mut tensors = Vec::new();
        let mut add = |from: String, to: String, shape: &[usize], heads: Option<usize>| -> Result<()> {
            let source =
                gguf.tensors().get(&from).with_context(|| format!("gguf: tensor {from} is missing"))?;
            ensure!(
                source.shape == shape,
                "gguf: tensor {from} has shape {:?}, expected {shape:?}",
                source.shape
            );
            let bf16: Box<dyn Fn() -> Vec<u8>> = match heads {
                None => Box::new(|| source.format.to_bf16(source.blocks)),
                Some(heads) => {
                    Box::new(move || unpermuted(&source.format.to_bf16(source.blocks), heads, head_dim))
                }
            };
            tensors.push(Tensor { name: to, shape: shape.to_vec(), bf16 });
            Ok(())
        };
        let top: [(&str, &str, &[usize]); 2] =
            [("token_embd", "embed_tokens", &[self.vocab, hidden]), ("output_norm", "norm", &[hidden])];
        for (from, to, shape) in top {
            add(format!("{from}.weight"), format!("model.{to}.weight"), shape, None)?;
        }
        let layer: [(&str, &str, &[usize], Option<usize>); 9] = [
            ("attn_norm", "input_layernorm", &[hidden], None),
            ("attn_q", "self_attn.q_proj", &[q, hidden], Some(self.heads)),
            ("attn_k", "self_attn.k_proj", &[kv, hidden], Some(self.kv_heads)),
            ("attn_v", "self_attn.v_proj", &[kv, hidden], None),
            ("attn_output", "self_attn.o_proj", &[hidden, q], None),
            ("ffn_norm", "post_attention_layernorm", &[hidden], None),
            ("ffn_gate", "mlp.gate_proj", &[inner, hidden], None),
            ("ffn_up", "mlp.up_proj", &[inner, hidden], None),
            ("ffn_down", "mlp.down_proj", &[hidden, inner], None),
        ];
        for i in 0..self.layers {
            for (from, to, shape, heads) in layer {
                add(format!("blk.{i}.{from}.weight"), format!("model.layers.{i}.{to}.weight"), shape, heads)?;
            }
        }
        ensure!(
            tensors.len() == gguf.tensors().len(),
            "gguf: {} tensors, of which {} belong to this model",
            gguf.tensors().len(),
            tensors.len()
        );
        Ok(tensors)
    }

    /// `config.json`.
    ///
    /// # Errors
    /// If a metadata value is missing.
    pub fn config(&self, gguf: &Gguf) -> Result<Value> {
        Ok(json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "attention_bias": false,
            "attention_dropout": 0.0,
            "bos_token_id": gguf.unsigned("tokenizer.ggml.bos_token_id")?,
            "eos_token_id": gguf.unsigned("tokenizer.ggml.eos_token_id")?,
            "pad_token_id": gguf.unsigned("tokenizer.ggml.padding_token_id")?,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": gguf.unsigned("llama.context_length")?,
            "mlp_bias": false,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "pretraining_tp": 1,
            "rms_norm_eps": gguf.decimal("llama.attention.layer_norm_rms_epsilon")?,
            "rope_scaling": null,
            "rope_theta": gguf.decimal("llama.rope.freq_base")?,
            "tie_word_embeddings": true,
            "torch_dtype": "bfloat16",
            "use_cache": true,
            "vocab_size": self.vocab,
        }))
    }
}

/// `generation_config.json`.
///
/// # Errors
/// If a token id is missing.
pub fn generation_config(gguf: &Gguf) -> Result<Value> {
    Ok(json!({
        "bos_token_id": gguf.unsigned("tokenizer.ggml.bos_token_id")?,
        "eos_token_id": gguf.unsigned("tokenizer.ggml.eos_token_id")?,
        "pad_token_id": gguf.unsigned("tokenizer.ggml.padding_token_id")?,
        "do_sample": false,
    }))
}

/// Rows of `[heads * head_dim, …]` in Hugging Face's order.
///
/// llama.cpp rotates neighbouring rows (2i, 2i + 1) of a head together, Hugging Face rows (i, i + head_dim / 2),
/// so its converter interleaved the two halves of every head; here they are taken apart again.
fn unpermuted(rows: &[u8], heads: usize, head_dim: usize) -> Vec<u8> {
    let row_bytes = rows.len() / (heads * head_dim);
    let mut out = Vec::with_capacity(rows.len());
    for head in rows.chunks_exact(head_dim * row_bytes) {
        for half in 0..2 {
            head.chunks_exact(row_bytes).skip(half).step_by(2).for_each(|row| out.extend_from_slice(row));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpermuting_takes_the_halves_of_each_head_apart() {
        // Two heads of four rows of three bytes, each row named by its place in Hugging Face's order.
        let row = |name: u8| [name; 3];
        let llama_cpp = [0, 2, 1, 3, 4, 6, 5, 7].map(row).concat();
        let hugging_face = [0, 1, 2, 3, 4, 5, 6, 7].map(row).concat();
        assert_eq!(unpermuted(&llama_cpp, 2, 4), hugging_face);
    }

    #[test]
    fn unpermuting_undoes_llama_cpps_permutation() {
        // As in its converter: reshape to (heads, 2, head_dim / 2), swap the last two axes.
        let (heads, head_dim) = (3, 8);
        let mut permuted = Vec::new();
        for head in 0..heads {
            for pair in 0..head_dim / 2 {
                for half in 0..2 {
                    permuted.push((head * head_dim + half * head_dim / 2 + pair) as u8);
                }
            }
        }
        assert_eq!(unpermuted(&permuted, heads, head_dim), (0..24).collect::<Vec<u8>>());
    }
}
