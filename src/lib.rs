//! Lathe: a testbed for LLM inference research.
//!
//! The modules in reading order:
//!
//! 1. [`error`]: the one error type
//! 2. [`model`]: Hugging Face models: config, weights, tokenizer, chat template, hub

pub mod error;
pub mod model;

pub use error::{Error, Result};
