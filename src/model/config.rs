//! What a decoder must know of a model, whatever its family.
//!
//! There is no enum of families: what tells them apart (norm offset, biases, windows, …) is a field each, so that one
//! decoder serves them all. `config_json.rs` fills the fields from a Hugging Face `config.json`.

use super::weights::Dtype;
pub use crate::kernels::Activation;

/// A decoder-only transformer: embedding, `layers`, final RMSNorm, output projection.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The family's name, as `model_type` has it: `"qwen3"`, `"llama"`, …. For messages only.
    pub model_type: String,
    /// Rows of the embedding; token ids are below it.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the gated MLP.
    pub intermediate: usize,
    /// Query heads. `heads * head_dim` need not be `hidden`.
    pub heads: usize,
    /// Key and value heads; divides `heads`. Query head `h` reads KV head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Each layer's attention; its length is the number of layers.
    pub layers: Vec<Layer>,
    /// The position embeddings that `layers` refer to; one or two.
    pub ropes: Vec<Rope>,
    /// Epsilon of every RMSNorm, added to the mean square.
    pub norm_eps: f32,
    /// RMSNorm multiplies by `norm_offset + weight`: 0, or 1 for Gemma.
    pub norm_offset: f32,
    /// RMSNorm over each head of q and k, before RoPE (Qwen3, Gemma 3).
    pub qk_norm: bool,
    /// Biases on the q, k and v projections (Qwen2; Llama's and Qwen3's `attention_bias`).
    pub qkv_bias: bool,
    /// A bias on the attention's output projection.
    pub o_bias: bool,
    /// Biases on the three projections of the MLP.
    pub mlp_bias: bool,
    /// The MLP is `down(activation(gate(x)) * up(x))`.
    pub activation: Activation,
    /// RMSNorms also after attention and after the MLP, before each is added to the residual stream (Gemma 3).
    pub sandwich_norms: bool,
    /// The output projection is the embedding matrix; there is no `lm_head.weight`.
    pub tie_embeddings: bool,
    /// Embeddings are multiplied by this, `sqrt(hidden)` for Gemma and 1 otherwise. See [`Self::embed_scale_in`].
    pub embed_scale: f32,
    /// Attention scores are `attn_scale * q·k`: `head_dim^-0.5`, or `query_pre_attn_scalar^-0.5`.
    pub attn_scale: f32,
    /// Scores become `cap * tanh(score / cap)` before masking and softmax.
    pub attn_softcap: Option<f32>,
    /// Logits become `cap * tanh(logit / cap)`.
    pub final_softcap: Option<f32>,
    /// The longest sequence the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// The dtype that the config declares for the weights; the files may hold another.
    pub dtype: Option<Dtype>,
    /// The token that starts a text.
    pub bos: Option<u32>,
    /// The tokens that end generation: those of config.json, then those that generation_config.json adds.
    pub eos: Vec<u32>,
    /// The padding token, if it is one of the vocabulary; the engine never feeds it.
    pub pad: Option<u32>,
}

/// What differs between the layers of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// A query sees this many keys, its own among them: key `j` for query `i` if `i - window < j <= i`. `None`: all.
    pub window: Option<usize>,
    /// Index into [`ModelConfig::ropes`].
    pub rope: usize,
}

/// A rotary position embedding over all of `head_dim`, in the rotate-half form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How the frequencies are stretched beyond the trained length.
    pub scaling: RopeScaling,
}

/// How RoPE's frequencies are changed for longer contexts. Source: transformers' `modeling_rope_utils.py`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// Every frequency divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, those between interpolated.
    Llama3 {
        /// The divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_position / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The trained length, in tokens.
        original_max_position: usize,
    },
}

impl ModelConfig {
    /// [`Self::embed_scale`] as transformers applies it to an embedding matrix held in `dtype`: it rounds the factor
    /// to that dtype first (`Gemma3TextScaledWordEmbedding`), so in bf16 Gemma-3-1B scales by 34 rather than 33.94.
    pub fn embed_scale_in(&self, dtype: Dtype) -> f32 {
        dtype.round(self.embed_scale)
    }

    /// Every tensor that the decoder reads, with its shape, in the order of the forward pass.
    ///
    /// Names are Hugging Face's; projections are `[out, in]`.
    pub fn expected_tensors(&self) -> impl Iterator<Item = (String, Vec<usize>)> {
        let embedding = ("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, self.hidden]);
        let layers = (0..self.layers.len()).flat_map(|layer| self.layer_tensors(layer));
        let norm = ("model.norm.weight".to_owned(), vec![self.hidden]);
        let head = (!self.tie_embeddings).then(|| (LM_HEAD.to_owned(), vec![self.vocab_size, self.hidden]));
        std::iter::once(embedding).chain(layers).chain([norm]).chain(head)
    }

    fn layer_tensors(&self, layer: usize) -> Vec<(String, Vec<usize>)> {
        let (hidden, intermediate, head_dim) = (self.hidden, self.intermediate, self.head_dim);
        let (q, kv) = (self.heads * head_dim, self.kv_heads * head_dim);
        let mut tensors = Vec::with_capacity(16);
        let mut add = |name: &str, shape: &[usize]| {
            tensors.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        };
        add("input_layernorm.weight", &[hidden]);
        for (name, rows, cols, bias) in [
            ("self_attn.q_proj", q, hidden, self.qkv_bias),
            ("self_attn.k_proj", kv, hidden, self.qkv_bias),
            ("self_attn.v_proj", kv, hidden, self.qkv_bias),
            ("self_attn.o_proj", hidden, q, self.o_bias),
            ("mlp.gate_proj", intermediate, hidden, self.mlp_bias),
            ("mlp.up_proj", intermediate, hidden, self.mlp_bias),
            ("mlp.down_proj", hidden, intermediate, self.mlp_bias),
        ] {
            add(&format!("{name}.weight"), &[rows, cols]);
            if bias {
                add(&format!("{name}.bias"), &[rows]);
            }
        }
        if self.qk_norm {
            add("self_attn.q_norm.weight", &[head_dim]);
            add("self_attn.k_norm.weight", &[head_dim]);
        }
        add("post_attention_layernorm.weight", &[hidden]);
        if self.sandwich_norms {
            add("pre_feedforward_layernorm.weight", &[hidden]);
            add("post_feedforward_layernorm.weight", &[hidden]);
        }
        tensors
    }
}

/// The output projection, where it is not the embedding matrix.
pub(super) const LM_HEAD: &str = "lm_head.weight";
