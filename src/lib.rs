//! Lathe: a testbed for LLM inference research.
//!
//! The modules in reading order:
//!
//! 1. [`error`]: the one error type
//! 2. [`device`]: memory, tensors, the CPU
//! 3. [`kernels`]: the seam; one file per operation

pub mod device;
pub mod error;
pub mod kernels;

pub use error::{Error, Result};
