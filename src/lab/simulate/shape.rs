//! A model's shape: what a simulation must know of it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::model::ModelConfig;

/// A decoder-only transformer's extents.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Where the figures are from.
    pub source: String,
    /// Decoder layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the gated MLP.
    pub intermediate: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the output projection.
    pub vocab_size: usize,
    /// The longest sequence, in tokens.
    pub max_model_len: usize,
    /// Bytes of a weight and of an element of the KV cache.
    pub dtype_bytes: usize,
}

impl Shape {
    /// The shape of that name, or of a Hugging Face folder; `None` is the model inside the binary.
    ///
    /// # Errors
    /// [`Error::UnknownName`] for what is neither a name nor a folder; what is wrong with its config.json.
    pub fn find(name: Option<&str>) -> Result<Self> {
        let known: BTreeMap<String, Self> =
            toml::from_str(include_str!("models.toml")).expect("a file of this repository");
        let Some(name) = name else {
            return Ok(Self::of(
                &crate::model::ModelFiles::open(crate::shipped::source())?.config,
                "the shipped model",
            ));
        };
        if let Some(shape) = known.get(name) {
            return Ok(shape.clone());
        }
        let path = Path::new(name).join("config.json");
        if !path.is_file() {
            let known = known.into_keys().collect::<Vec<_>>().join(", ");
            let (kind, known) = ("model shape".into(), format!("{known}, or a folder with a config.json"));
            return Err(Error::UnknownName { kind, name: name.into(), known });
        }
        let text = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        Ok(Self::of(&ModelConfig::from_json((&path, &text), None)?, name))
    }

    /// The shape of a model's configuration.
    pub fn of(config: &ModelConfig, source: &str) -> Self {
        Self {
            source: source.into(),
            layers: config.layers.len(),
            hidden: config.hidden,
            intermediate: config.intermediate,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            vocab_size: config.vocab_size,
            max_model_len: config.max_position_embeddings,
            dtype_bytes: if config.dtype.is_none_or(|dtype| dtype == crate::model::Dtype::F32) {
                4
            } else {
                2
            },
        }
    }

    /// Weights of a layer's projections.
    pub fn layer_weights(&self) -> usize {
        let attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads);
        attention + 3 * self.hidden * self.intermediate
    }

    /// Bytes of all weights: the layers, and the output projection twice, as if the embedding were not tied to it.
    pub fn weight_bytes(&self) -> usize {
        (self.layers * self.layer_weights() + 2 * self.hidden * self.vocab_size) * self.dtype_bytes
    }

    /// Bytes of a token's keys and values in all layers.
    pub fn kv_bytes(&self) -> usize {
        2 * self.layers * self.kv_heads * self.head_dim * self.dtype_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_sizes() {
        let llama = Shape::find(Some("llama-3-8b")).unwrap();
        // 8.03 billion parameters, 128 KiB of KV cache a token.
        approx::assert_relative_eq!(llama.weight_bytes() as f64 / 2.0, 8.03e9, max_relative = 0.001);
        assert_eq!(llama.kv_bytes(), 128 << 10);
        let shipped = Shape::find(None).unwrap();
        assert_eq!((shipped.layers, shipped.hidden, shipped.max_model_len), (4, 192, 2048));
        let error = Shape::find(Some("gpt-5")).unwrap_err().to_string();
        assert!(error.contains("\"gpt-5\"; known: llama-3-8b, qwen3-0.6b"), "{error}");
    }
}
