//! `config.json` and `generation_config.json` to [`ModelConfig`].
//!
//! Defaults are those of transformers' configuration classes. Both spellings of a setting are read: the older
//! (`rope_theta`, `rope_scaling`, `torch_dtype`, `rope_local_base_freq`, `sliding_window_pattern`) and the newer
//! (`rope_parameters`, `dtype`, `layer_types`). What the decoder cannot do is refused by name and value.

use std::path::Path;

use serde_json::Value;

use super::config::{Activation, Layer, ModelConfig, Rope, RopeScaling};
use super::fields::{Fields, parse_object};
use super::weights::Dtype;
use crate::{Error, Result};

/// The supported families: architecture and `model_type`.
const FAMILIES: [(&str, &str); 5] = [
    ("LlamaForCausalLM", "llama"),
    ("MistralForCausalLM", "mistral"),
    ("Qwen2ForCausalLM", "qwen2"),
    ("Qwen3ForCausalLM", "qwen3"),
    ("Gemma3ForCausalLM", "gemma3_text"),
];

// Limits far above any published model; within them no product of two extents overflows or asks for absurd memory.
const MAX_VOCAB: usize = 1 << 22;
const MAX_WIDTH: usize = 1 << 20;
const MAX_LAYERS: usize = 1 << 10;
const MAX_HEADS: usize = 1 << 12;
const MAX_HEAD_DIM: usize = 1 << 10;
const MAX_POSITIONS: usize = 1 << 24;

impl ModelConfig {
    /// Reads a model's `config.json`, and the token ids of its `generation_config.json` if it has one.
    ///
    /// Each file is given as its path, for messages, and its bytes.
    ///
    /// # Errors
    /// [`Error::Model`] naming file, field, value and what was wanted: invalid JSON, a number out of bounds, a field
    /// that is missing, or a feature that the decoder lacks (mixture of experts, quantisation, other rope types, …).
    pub fn from_json(config: (&Path, &[u8]), generation: Option<(&Path, &[u8])>) -> Result<Self> {
        let map = parse_object(config.0, config.1)?;
        let fields = Fields::new(config.0, &map);
        let family = family(fields)?;
        refuse_unsupported(fields)?;
        let mut model = read(fields, family)?;
        if let Some((path, json)) = generation {
            let map = parse_object(path, json)?;
            let generation = Fields::new(path, &map);
            model.bos =
                model.bos.or(generation.token_ids("bos_token_id", model.vocab_size)?.first().copied());
            for id in generation.token_ids("eos_token_id", model.vocab_size)? {
                if !model.eos.contains(&id) {
                    model.eos.push(id);
                }
            }
        }
        Ok(model)
    }
}

/// The `model_type`, after checking that `architectures` and `model_type` name one supported family.
fn family(fields: Fields) -> Result<&'static str> {
    let known = || FAMILIES.map(|(architecture, _)| architecture).join(", ");
    let by_architecture = match fields.get("architectures") {
        None => None,
        Some(value) => {
            let name = match value.as_array().map(Vec::as_slice) {
                Some([Value::String(name)]) => name,
                _ => return Err(fields.wrong("architectures", value, "a list with one name")),
            };
            let entry = FAMILIES.iter().find(|entry| entry.0 == name);
            Some(entry.ok_or_else(|| fields.wrong("architectures", value, format!("one of {}", known())))?.1)
        }
    };
    let by_type = match fields.text("model_type")? {
        None => None,
        Some(name) => {
            let entry = FAMILIES.iter().find(|entry| entry.1 == name);
            let want = || format!("one of {}", FAMILIES.map(|(_, model_type)| model_type).join(", "));
            Some(entry.ok_or_else(|| fields.wrong("model_type", &name.into(), want()))?.1)
        }
    };
    match (by_architecture, by_type) {
        (Some(a), Some(b)) if a != b => {
            Err(fields.wrong("model_type", &b.into(), format!("{a:?}, which `architectures` names")))
        }
        (Some(family), _) | (None, Some(family)) => Ok(family),
        (None, None) => Err(fields.missing("architectures", format!("one of {}", known()))),
    }
}

/// Refuses features that would otherwise be ignored and give wrong logits.
fn refuse_unsupported(fields: Fields) -> Result<()> {
    // A zero count of experts says that there are none.
    let refuse = |key: &str, feature: &str| match fields.get(key).filter(|value| value.as_u64() != Some(0)) {
        Some(value) => Err(fields.wrong(key, value, format!("it absent: {feature} not supported"))),
        None => Ok(()),
    };
    refuse("quantization_config", "quantised checkpoints are")?;
    refuse("compression_config", "quantised checkpoints are")?;
    refuse("vision_config", "multimodal models are")?;
    refuse("audio_config", "multimodal models are")?;
    for key in ["num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size"] {
        refuse(key, "mixture of experts is")?;
    }
    if let Some(value) = fields.get("partial_rotary_factor").filter(|value| value.as_f64() != Some(1.0)) {
        return Err(fields.wrong(
            "partial_rotary_factor",
            value,
            "1.0: partial rotary embeddings are not supported",
        ));
    }
    if fields.flag("use_bidirectional_attention")? == Some(true) {
        let want = "false: the decoder is causal";
        return Err(fields.wrong("use_bidirectional_attention", &true.into(), want));
    }
    Ok(())
}

fn read(fields: Fields, family: &'static str) -> Result<ModelConfig> {
    let gemma = family == "gemma3_text";
    let vocab_size = fields.required("vocab_size", 1..=MAX_VOCAB)?;
    let hidden = fields.required("hidden_size", 1..=MAX_WIDTH)?;
    let intermediate = fields.required("intermediate_size", 1..=MAX_WIDTH)?;
    let layer_count = fields.required("num_hidden_layers", 1..=MAX_LAYERS)?;
    let heads = fields.required("num_attention_heads", 1..=MAX_HEADS)?;
    let kv_heads = fields.integer("num_key_value_heads", 1..=MAX_HEADS)?.unwrap_or(heads);
    if heads % kv_heads != 0 {
        let want = format!("a divisor of num_attention_heads {heads}");
        return Err(fields.wrong("num_key_value_heads", &kv_heads.into(), want));
    }
    let max_position_embeddings = fields.required("max_position_embeddings", 1..=MAX_POSITIONS)?;
    let head_dim = head_dim(fields, family, hidden, heads)?;
    let (layers, ropes) = layers(fields, family, layer_count, max_position_embeddings)?;

    let attention_bias = family != "mistral" && fields.flag("attention_bias")?.unwrap_or(false);
    let query_scalar = match gemma {
        true => fields.positive("query_pre_attn_scalar", 1e6)?.unwrap_or(256.0),
        false => head_dim as f64,
    };
    let softcap = |key| Ok::<_, Error>(fields.positive(key, 1e6)?.filter(|_| gemma).map(|cap| cap as f32));
    Ok(ModelConfig {
        model_type: family.to_owned(),
        vocab_size,
        hidden,
        intermediate,
        heads,
        kv_heads,
        head_dim,
        layers,
        ropes,
        norm_eps: fields.positive("rms_norm_eps", 0.1)?.unwrap_or(1e-6) as f32,
        norm_offset: if gemma { 1.0 } else { 0.0 },
        qk_norm: gemma || family == "qwen3",
        qkv_bias: attention_bias || family == "qwen2",
        o_bias: attention_bias && family != "qwen2",
        mlp_bias: family == "llama" && fields.flag("mlp_bias")?.unwrap_or(false),
        activation: activation(fields, gemma)?,
        sandwich_norms: gemma,
        tie_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(gemma),
        embed_scale: if gemma { (hidden as f64).sqrt() as f32 } else { 1.0 },
        attn_scale: query_scalar.powf(-0.5) as f32,
        attn_softcap: softcap("attn_logit_softcapping")?,
        final_softcap: softcap("final_logit_softcapping")?,
        max_position_embeddings,
        dtype: dtype(fields)?,
        bos: fields.token_ids("bos_token_id", vocab_size)?.first().copied(),
        eos: fields.token_ids("eos_token_id", vocab_size)?,
        // Llama 2 shipped with pad_token_id -1, and fine-tunes with one past the end: both mean "none".
        pad: fields
            .get("pad_token_id")
            .and_then(Value::as_u64)
            .filter(|&id| id < vocab_size as u64)
            .map(|id| id as u32),
    })
}

fn head_dim(fields: Fields, family: &str, hidden: usize, heads: usize) -> Result<usize> {
    let default = match family {
        "qwen3" => Some(128),
        "gemma3_text" => Some(256),
        _ => None,
    };
    let head_dim = match fields.integer("head_dim", 1..=MAX_HEAD_DIM)?.or(default) {
        Some(head_dim) => head_dim,
        None if hidden.is_multiple_of(heads) && hidden / heads <= MAX_HEAD_DIM => hidden / heads,
        None => {
            let want =
                format!("at most {MAX_HEAD_DIM} times num_attention_heads {heads} and a multiple of it");
            return Err(fields.wrong("hidden_size", &hidden.into(), want));
        }
    };
    if head_dim % 2 != 0 {
        return Err(fields.wrong("head_dim", &head_dim.into(), "an even number, for rotary embeddings"));
    }
    Ok(head_dim)
}

fn activation(fields: Fields, gemma: bool) -> Result<Activation> {
    let (key, default) = match gemma {
        true if fields.get("hidden_activation").is_some() => ("hidden_activation", ""),
        true => ("hidden_act", "gelu_pytorch_tanh"),
        false => ("hidden_act", "silu"),
    };
    match fields.text(key)?.unwrap_or(default) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        "gelu" => Ok(Activation::GeluErf),
        other => Err(fields.wrong(key, &other.into(), "silu, gelu, gelu_new or gelu_pytorch_tanh")),
    }
}

fn dtype(fields: Fields) -> Result<Option<Dtype>> {
    let key = if fields.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    let Some(name) = fields.text(key)? else { return Ok(None) };
    match name.strip_prefix("torch.").unwrap_or(name) {
        "float32" => Ok(Some(Dtype::F32)),
        "float16" => Ok(Some(Dtype::F16)),
        "bfloat16" => Ok(Some(Dtype::BF16)),
        "auto" => Ok(None),
        _ => Err(fields.wrong(key, &name.into(), "float32, float16 or bfloat16")),
    }
}

/// Which layers slide a window, and each kind's RoPE.
fn layers(
    fields: Fields,
    family: &str,
    count: usize,
    max_position: usize,
) -> Result<(Vec<Layer>, Vec<Rope>)> {
    let window = match family {
        "mistral" | "gemma3_text" => window(fields)?,
        "qwen2" | "qwen3" if fields.flag("use_sliding_window")? == Some(true) => window(fields)?,
        _ => None,
    };
    let sliding: Vec<bool> = match family {
        "mistral" => vec![window.is_some(); count],
        "gemma3_text" => {
            let key = ["sliding_window_pattern", "_sliding_window_pattern"]
                .into_iter()
                .find(|key| fields.get(key).is_some());
            let pattern = fields.integer(key.unwrap_or(""), 1..=MAX_LAYERS)?.unwrap_or(6);
            (0..count).map(|layer| (layer + 1) % pattern != 0).collect()
        }
        "qwen2" | "qwen3" => {
            let first = fields.integer("max_window_layers", 0..=usize::MAX)?.unwrap_or(28);
            (0..count).map(|layer| window.is_some() && layer >= first).collect()
        }
        _ => vec![false; count],
    };
    let sliding = match layer_types(fields, count)? {
        // transformers ignores the field for these two; a disagreement means a model of another kind.
        Some(types) if matches!(family, "llama" | "mistral") && types != sliding => {
            let value = fields.get("layer_types").expect("it was just read");
            let want = format!("{:?} in every layer, which is what {family} has", kind(sliding[0]));
            return Err(fields.wrong("layer_types", value, want));
        }
        Some(types) => types,
        None => sliding,
    };
    if window.is_none() && sliding.contains(&true) {
        let want = "the window's length, as some layers slide (with use_sliding_window, for Qwen)";
        return Err(fields.missing("sliding_window", want));
    }

    let full = rope(fields, family, false, max_position)?;
    let local = rope(fields, family, true, max_position)?;
    let mut ropes = Vec::new();
    let layers = sliding.iter().map(|&sliding| {
        let rope = if sliding { local } else { full };
        let index = ropes.iter().position(|&known| known == rope).unwrap_or_else(|| {
            ropes.push(rope);
            ropes.len() - 1
        });
        Layer { window: window.filter(|_| sliding), rope: index }
    });
    Ok((layers.collect(), ropes))
}

fn window(fields: Fields) -> Result<Option<usize>> {
    // Only an absent field takes the default; null says that there is no window.
    if fields.is_null("sliding_window") {
        return Ok(None);
    }
    Ok(Some(fields.integer("sliding_window", 1..=MAX_POSITIONS)?.unwrap_or(4096)))
}

/// What `layer_types` and `rope_parameters` call a layer.
fn kind(sliding: bool) -> &'static str {
    if sliding { "sliding_attention" } else { "full_attention" }
}

/// `layer_types` as whether each layer slides.
fn layer_types(fields: Fields, count: usize) -> Result<Option<Vec<bool>>> {
    let Some(value) = fields.get("layer_types") else { return Ok(None) };
    let Some(names) = value.as_array().filter(|names| names.len() == count) else {
        return Err(fields.wrong("layer_types", value, format!("a list of num_hidden_layers {count} names")));
    };
    let sliding = |name: &Value| match name.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => Err(fields.wrong("layer_types", name, "each \"full_attention\" or \"sliding_attention\"")),
    };
    Ok(Some(names.iter().map(sliding).collect::<Result<_>>()?))
}

/// The RoPE of the layers that slide, or of those that do not.
fn rope(fields: Fields, family: &str, sliding: bool, max_position: usize) -> Result<Rope> {
    let gemma_local = family == "gemma3_text" && sliding;
    let theta_key = if gemma_local { "rope_local_base_freq" } else { "rope_theta" };
    let default = match (family, sliding) {
        ("gemma3_text", false) => 1e6,
        _ => 1e4,
    };
    let theta = fields.positive(theta_key, MAX_THETA)?.unwrap_or(default);

    let parameters = fields.object("rope_parameters")?;
    if let (Some(_), Some(value)) = (parameters, fields.get("rope_scaling")) {
        return Err(fields.wrong("rope_scaling", value, "it absent beside rope_parameters"));
    }
    let nested = parameters.is_some_and(|all| all.get(kind(true)).or(all.get(kind(false))).is_some());
    let parameters = match parameters {
        Some(all) if nested => all.object(kind(sliding))?,
        Some(_) if family == "gemma3_text" => {
            let value = fields.get("rope_parameters").expect("it was just read");
            return Err(fields.wrong(
                "rope_parameters",
                value,
                "full_attention and sliding_attention within",
            ));
        }
        Some(all) => Some(all),
        // Gemma 3's older form scales the full-attention layers only.
        None if gemma_local => None,
        None => fields.object("rope_scaling")?,
    };
    let Some(parameters) = parameters else { return Ok(Rope { theta, scaling: RopeScaling::Default }) };
    if let Some(value) = parameters.get("partial_rotary_factor").filter(|value| value.as_f64() != Some(1.0)) {
        let want = "1.0: partial rotary embeddings are not supported";
        return Err(parameters.wrong("partial_rotary_factor", value, want));
    }
    let theta = parameters.positive("rope_theta", MAX_THETA)?.unwrap_or(theta);
    Ok(Rope { theta, scaling: scaling(fields, parameters, max_position)? })
}

const MAX_THETA: f64 = 1e12;

fn scaling(top: Fields, parameters: Fields, max_position: usize) -> Result<RopeScaling> {
    let key = if parameters.get("rope_type").is_some() { "rope_type" } else { "type" };
    let factor = |key: &str| {
        let value = parameters.positive(key, 1e6)?;
        value.ok_or_else(|| parameters.missing(key, "a number above 0"))
    };
    match parameters.text(key)?.unwrap_or("default") {
        "default" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear { factor: factor("factor")? }),
        "llama3" => {
            let original = "original_max_position_embeddings";
            let within = parameters.integer(original, 1..=MAX_POSITIONS)?;
            let (low_freq_factor, high_freq_factor) =
                (factor("low_freq_factor")?, factor("high_freq_factor")?);
            if high_freq_factor <= low_freq_factor {
                let want = format!("above low_freq_factor {low_freq_factor}");
                return Err(parameters.wrong("high_freq_factor", &high_freq_factor.into(), want));
            }
            Ok(RopeScaling::Llama3 {
                factor: factor("factor")?,
                low_freq_factor,
                high_freq_factor,
                original_max_position: top
                    .integer(original, 1..=MAX_POSITIONS)?
                    .or(within)
                    .unwrap_or(max_position),
            })
        }
        other => Err(parameters.wrong(key, &other.into(), "default, linear or llama3")),
    }
}
