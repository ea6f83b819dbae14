//! The oracle: what every operation of Lathe must compute, in plain slices and f64 sums.
//!
//! Nothing here is fast and nothing here depends on anything. Inputs and outputs are `f32`; a caller with
//! bf16 or f16 data widens it first (exactly), so that oracle and kernel see the same rounded inputs.

pub mod rms_norm;
