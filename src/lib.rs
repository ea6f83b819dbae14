//! Lathe: a testbed for LLM inference research.
//!
//! The modules in reading order:
//!
//! 1. [`error`]: the one error type
//! 2. [`config`]: what a user sets
//! 3. [`device`]: memory, tensors, the CPU
//! 4. [`kernels`]: the seam; one file per operation
//! 6. [`engine`]: sequences, KV blocks, scheduling, the step loop

pub mod config;
pub mod device;
pub mod engine;
pub mod error;
pub mod kernels;

pub use error::{Error, Result};
