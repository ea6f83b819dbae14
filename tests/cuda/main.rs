//! CUDA, with a GPU or without: NVRTC compiles the kernels, the engine runs them.

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
