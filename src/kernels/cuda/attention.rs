//! `cuda/attention.cu`.

use super::{
    super::{Attention, AttentionArgs, AttentionSpec, Kernel, Op, Unsupported},
    dtype, u32,
};
use crate::{
    device::{
        Cuda,
        cuda::{CudaBuffer, Launch, Program, arg},
    },
    error::Result,
};

/// One warp a query and head.
pub struct Naive;

impl Kernel<Attention, Cuda> for Naive {
    fn name(&self) -> &'static str {
        "naive"
    }

    fn about(&self) -> &'static str {
        "one warp a query and head; any dtype and shape"
    }

    fn supports(&self, _: &AttentionSpec) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cuda, args: AttentionArgs<'_, Cuda>, _: &mut CudaBuffer) -> Result<()> {
        let (batch, program) = batch(args)?;
        let grid = [batch.heads, batch.tokens, 1];
        launch(dev, program, "attention_naive", grid, 32, 0, &batch.params)
    }
}

/// `Batch` of `cuda/attention.cuh`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Params {
    q: u64,
    k_cache: u64,
    v_cache: u64,
    block_table: u64,
    q_start: u64,
    kv_len: u64,
    out: u64,
    partial: u64,
    partial_stats: u64,
    q_stride: u32,
    seqs: u32,
    kv_heads: u32,
    max_blocks: u32,
    split: u32,
    max_splits: u32,
    flash_tiles: u32,
    scale: f32,
    softcap: f32,
    window: u32,
}

/// A call.
struct Batch {
    params: Params,
    heads: usize,
    tokens: usize,
}

fn batch(mut a: AttentionArgs<'_, Cuda>) -> Result<(Batch, Program)> {
    let (op, spec) = (Attention::NAME, Attention::spec(&a));
    let (seqs, tokens, max_blocks) = (a.lens.len(), a.q.shape()[0], a.block_table.shape()[1]);
    let program = Program::new("attention.cu")
        .with("DTYPE", dtype(spec.dtype))
        .with("HEAD_DIM", spec.head_dim)
        .with("GROUP", spec.heads / spec.kv_heads)
        .with("BLOCK_SIZE", spec.block_size)
        .with("WINDOW", spec.window.into())
        .with("SOFTCAP", spec.softcap.into());
    let params = Params {
        q: a.q.address(),
        k_cache: a.k_cache.address(),
        v_cache: a.v_cache.address(),
        block_table: a.block_table.address(),
        q_start: a.q_start.address(),
        kv_len: a.kv_len.address(),
        out: a.out.address(),
        partial: 0,
        partial_stats: 0,
        q_stride: u32(op, "stride of q", a.q.stride())?,
        seqs: u32(op, "seqs", seqs)?,
        kv_heads: u32(op, "kv_heads", spec.kv_heads)?,
        max_blocks: u32(op, "max_blocks", max_blocks)?,
        split: 0,
        max_splits: 0,
        flash_tiles: 0,
        scale: a.scale,
        softcap: a.softcap.unwrap_or(0.0),
        window: u32(op, "window", a.window.unwrap_or(0))?,
    };
    Ok((Batch { params, heads: spec.heads, tokens }, program))
}

fn launch(
    dev: &Cuda,
    program: Program,
    function: &'static str,
    grid: [usize; 3],
    block: usize,
    shared: usize,
    params: &Params,
) -> Result<()> {
    let launch = Launch { program, function, grid, block, shared };
    // SAFETY: the parameter of `attention_*`; the contract's shapes say that q and out cover the queries that q_start
    // delimits, the block table `seqs` rows, and the engine that entries within a sequence's length are blocks.
    unsafe { dev.launch(&launch, &[arg(params)]) }
}
