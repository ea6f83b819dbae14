//! Models as Hugging Face publishes them: a folder of config, weights, tokenizer and chat template.
//!
//! In reading order:
//!
//! 1. [`config`]: one description of every supported family, and the tensors it needs
//! 2. [`source`]: where a model's files come from: a folder, or the binary itself
//! 3. [`weights`]: memory-mapped safetensors, validated before use
//! 4. [`tokenizer`]: text to token ids and back, also token by token
//! 5. [`stop`]: stop strings in streamed text
//! 6. [`chat`]: chat templates
//! 7. [`hub`]: models by `ORG/NAME`, through the hub's cache
//! 8. [`folder`]: all of these together, checked against each other
//! 9. [`decoder`]: the forward pass of every family

pub mod chat;
pub mod config;
mod config_json;
pub mod decoder;
mod fields;
pub mod folder;
pub mod hub;
mod hub_http;
pub mod source;
pub mod stop;
pub mod tokenizer;
pub mod weights;

pub use chat::{ChatTemplate, Message};
pub use config::ModelConfig;
pub use decoder::Decoder;
pub use folder::ModelFiles;
pub use source::Source;
pub use stop::StopFilter;
pub use tokenizer::{Detokenizer, Tokenizer};
pub use weights::{Dtype, WeightView, Weights};
