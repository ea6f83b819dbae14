//! CUDA without a GPU: NVRTC compiles the kernels.

mod checked;
mod command;
mod compile;
mod counts;
mod deterministic;
mod engine;
mod missing;
mod precision;
mod programs;
mod registers;
mod reload;
mod sanitize;
mod support;
