//! Models as Hugging Face publishes them: a folder of config, weights, tokenizer and chat template.
//!
//! In reading order:
//!
//! 1. [`config`]: one description of every supported family, and the tensors it needs
//! 2. [`source`]: where a model's files come from: a folder, or the binary itself
//! 3. [`weights`]: memory-mapped safetensors, validated before use
//! 4. [`decoder`]: the forward pass of every family

pub mod config;
mod config_json;
pub mod decoder;
mod fields;
pub mod source;
pub mod weights;

pub use config::ModelConfig;
pub use decoder::Decoder;
pub use source::Source;
pub use weights::{Dtype, WeightView, Weights};
