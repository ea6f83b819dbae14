//! Lathe: a testbed for LLM inference research.
//!
//! The modules in reading order:
//!
//! 1. [`error`]: the one error type
//! 2. [`config`]: what a user sets, for the engine and for a request
//! 3. [`engine`]: sequences, KV blocks, scheduling and the step loop

pub mod config;
pub mod engine;
pub mod error;

pub use config::{EngineConfig, SamplingParams};
pub use error::{Error, Result};
