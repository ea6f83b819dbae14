//! The oracle: what every operation of Lathe must compute, in plain slices and f64 sums.
//!
//! Nothing here is fast and nothing here depends on anything. Inputs and outputs are `f32`; a caller with
//! bf16 or f16 data widens it first (exactly), so that oracle and kernel see the same rounded inputs. Shapes
//! are the caller's business: a wrong one panics.
//!
//! Two parts are exact rather than close, so that a kernel can match them bit for bit: the random numbers
//! ([`philox`], [`gumbel`]) and the elementwise steps of [`logits`].

pub mod activation;
pub mod add_rms_norm;
pub mod attention;
pub mod embedding;
pub mod gumbel;
pub mod kv_store;
pub mod linear;
pub mod logits;
pub mod logprobs;
pub mod philox;
pub mod rms_norm;
pub mod rope;
pub mod rounding;
pub mod sampling;
