//! CUDA without a GPU: NVRTC compiles the kernels.

mod compile;
mod engine;
mod registers;
