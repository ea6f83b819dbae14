//! Lathe: a testbed for LLM inference research.
//!
//! The modules in reading order:
//!
//! 1. [`error`]: the one error type
//! 2. [`device`]: memory, tensors, the CPU

pub mod device;
pub mod error;

pub use error::{Error, Result};
