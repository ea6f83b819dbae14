//! CUDA kernels: what launches the functions of `cuda/*.cu`, one file an operation.
//!
//! A new variant is a `__global__` in the operation's `.cu`, a short impl here, and a table entry. Launches are
//! enqueued on the device's stream; in a rehearsal they only note their program, which is how kernels are compiled
//! before the first step.

mod activation;
mod attention;
mod elementwise;
mod embedding;
mod kv_store;
mod linear;
mod logits;
mod logprobs;
mod norm;
mod rope;
mod sample;

use std::sync::Arc;

use elementwise::Each;
use norm::RowBy;
use rope::HeadBy;
use sample::Draw;

use super::Registry;
use crate::{
    device::{Cuda, DType, View, ViewMut, cuda::Target},
    error::{Error, Result},
};

impl Registry<Cuda> {
    /// Every CUDA kernel of this crate for a device of this kind; the first of a table is the default.
    pub fn cuda(target: Target) -> Self {
        Self {
            embedding: vec![Arc::new(Each::Vector), Arc::new(Each::Element)],
            linear: linear::table(target),
            rms_norm: vec![Arc::new(RowBy::Block), Arc::new(RowBy::Warp), Arc::new(RowBy::Thread)],
            add_rms_norm: vec![Arc::new(RowBy::Block), Arc::new(RowBy::Warp), Arc::new(RowBy::Thread)],
            rope: vec![Arc::new(HeadBy::Warp), Arc::new(HeadBy::Thread)],
            rope_store: vec![Arc::new(HeadBy::Warp), Arc::new(HeadBy::Thread)],
            kv_store: vec![Arc::new(Each::Vector), Arc::new(Each::Element)],
            attention: attention::table(target),
            activation: vec![Arc::new(Each::Vector), Arc::new(Each::Element)],
            logits: vec![Arc::new(logits::Chunked), Arc::new(logits::Naive)],
            logprobs: vec![Arc::new(logprobs::RadixSelect), Arc::new(logprobs::Naive)],
            sample: [Draw::Rejection, Draw::Gumbel, Draw::Greedy, Draw::Sorting, Draw::Naive]
                .into_iter()
                .map(|draw| Arc::new(draw) as _)
                .collect(),
        }
    }
}

/// `DTYPE` of `cuda/common.cuh`.
fn dtype(dtype: DType) -> usize {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::Bf16 => 2,
        DType::I32 => unreachable!("no kernel stores integers"),
    }
}

/// `n` as the `u32` of a kernel's parameter.
fn u32(op: &'static str, what: &'static str, n: usize) -> Result<u32> {
    n.try_into().map_err(|_| Error::Argument { op, what, got: n.to_string(), want: "below 2^32".into() })
}

/// Whether all rows begin at multiples of 16 bytes, so that they can be moved as 16-byte vectors.
fn in_vectors(v: &View<'_, Cuda>) -> bool {
    let size = v.dtype().size();
    let row: usize = v.shape()[1..].iter().product();
    v.address().is_multiple_of(16)
        && (v.stride() * size).is_multiple_of(16)
        && (row * size).is_multiple_of(16)
}

/// [`in_vectors`], to write.
fn out_in_vectors(v: &ViewMut<'_, Cuda>) -> bool {
    in_vectors(&v.as_view())
}
