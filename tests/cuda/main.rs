//! CUDA without a GPU: NVRTC compiles the kernels.

mod compile;
mod deterministic;
mod engine;
mod missing;
mod precision;
mod registers;
mod reload;
mod support;
