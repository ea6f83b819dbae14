//! Lathe: a testbed for LLM inference research.
//!
//! The modules in reading order:
//!
//! 1. [`error`]: the one error type
//! 2. [`config`]: what a user sets
//! 3. [`device`]: memory, tensors, the CPU
//! 4. [`kernels`]: the seam; one file per operation
//! 5. [`model`]: a Hugging Face folder, and the one decoder
//! 6. [`engine`]: sequences, KV blocks, scheduling, the step loop

pub mod config;
pub mod device;
pub mod engine;
pub mod error;
pub mod kernels;
pub mod model;

pub use error::{Error, Result};
