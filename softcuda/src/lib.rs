//! A CUDA driver in software: `libcuda.so.1` for machines without a GPU.
//!
//! It runs the PTX that NVRTC emits, warp by warp, on the CPU: a tool for correctness and for counting, never for
//! timing. In reading order: [`memory`] is the address space, [`ptx`] parses, [`module`] loads and lowers to the form
//! that [`exec`] runs, [`fault`] is what can go wrong, `check` finds more of it, [`count`] counts.

mod check;
pub mod count;
pub mod exec;
pub mod fault;
mod lower;
pub mod memory;
pub mod module;
pub mod ptx;

// What the shared library exports, over all of the above: the CUDA driver API.
pub mod device;
mod driver;
