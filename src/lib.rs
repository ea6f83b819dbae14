//! Lathe: a testbed for LLM inference research.
//!
//! The modules in reading order:
//!
//! 1. [`error`]: the one error type
//! 2. [`config`]: what a user sets
//! 3. [`device`]: memory, tensors, the CPU
//! 4. [`kernels`]: the seam; one file per operation
//! 5. [`model`]: a Hugging Face folder, and the one decoder
//! 6. [`engine`]: sequences, KV blocks, scheduling, the step loop, the model runner
//! 7. [`open`]: from a configuration to a model on a device
//! 8. [`llm`]: text in, text out
//! 9. [`lab`]: what a researcher runs on top: check kernels, compare, simulate, report

pub mod config;
pub mod device;
pub mod engine;
pub mod error;
pub mod kernels;
pub mod lab;
pub mod llm;
pub mod model;
pub mod open;
pub mod shipped;

pub use error::{Error, Result};
