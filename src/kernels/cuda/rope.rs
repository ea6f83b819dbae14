//! `cuda/rope.cu`: q/k-norm and rotation.

use super::{
    super::{Kernel, Op, Rope, RopeArgs, Unsupported},
    dtype, u32,
};
use crate::{
    device::{
        Cuda, DType,
        cuda::{CudaBuffer, Launch, Program, arg},
    },
    error::Result,
};

/// One thread a head.
pub struct Naive;
/// One warp a head, which stays in registers.
pub struct Warp;

impl Kernel<Rope, Cuda> for Naive {
    fn name(&self) -> &'static str {
        "naive"
    }

    fn about(&self) -> &'static str {
        "one thread a head"
    }

    fn supports(&self, _: &(DType, bool)) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cuda, args: RopeArgs<'_, Cuda>, _: &mut CudaBuffer) -> Result<()> {
        let (rope, program) = rope(args)?;
        let heads = (rope.tokens * (rope.heads + rope.kv_heads)) as usize;
        launch(dev, program, "rope_naive", [heads.div_ceil(128), 1, 1], &rope)
    }
}

impl Kernel<Rope, Cuda> for Warp {
    fn name(&self) -> &'static str {
        "warp"
    }

    fn about(&self) -> &'static str {
        "one warp a head, in registers"
    }

    fn supports(&self, _: &(DType, bool)) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cuda, args: RopeArgs<'_, Cuda>, _: &mut CudaBuffer) -> Result<()> {
        let (rope, program) = rope(args)?;
        let heads = (rope.heads + rope.kv_heads) as usize;
        launch(dev, program, "rope_warp", [heads.div_ceil(4), rope.tokens as usize, 1], &rope)
    }
}

/// `Rope` of `cuda/rope.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Params {
    qkv: u64,
    q_norm: u64,
    k_norm: u64,
    cos_sin: u64,
    positions: u64,
    slots: u64,
    k_cache: u64,
    v_cache: u64,
    tokens: u32,
    qkv_stride: u32,
    heads: u32,
    kv_heads: u32,
    cos_sin_stride: u32,
    eps: f32,
    offset: f32,
}

fn rope(mut a: RopeArgs<'_, Cuda>) -> Result<(Params, Program)> {
    let op = Rope::NAME;
    let &[tokens, _, head_dim] = a.qkv.shape() else { unreachable!("checked") };
    let program = Program::new("rope.cu")
        .with("DTYPE", dtype(a.qkv.dtype()))
        .with("HEAD_DIM", head_dim)
        .with("QK_NORM", a.qk_norm.is_some().into());
    let [q_norm, k_norm] = a.qk_norm.map_or([0; 2], |norms| norms.map(|w| w.address()));
    let params = Params {
        qkv: a.qkv.address(),
        q_norm,
        k_norm,
        cos_sin: a.cos_sin.address(),
        positions: a.positions.address(),
        slots: 0,
        k_cache: 0,
        v_cache: 0,
        tokens: u32(op, "tokens", tokens)?,
        qkv_stride: u32(op, "stride of qkv", a.qkv.stride())?,
        heads: u32(op, "heads", a.heads)?,
        kv_heads: u32(op, "kv_heads", a.kv_heads)?,
        cos_sin_stride: u32(op, "stride of cos_sin", a.cos_sin.stride())?,
        eps: a.eps,
        offset: a.offset,
    };
    Ok((params, program))
}

fn launch(
    dev: &Cuda,
    program: Program,
    function: &'static str,
    grid: [usize; 3],
    rope: &Params,
) -> Result<()> {
    let launch = Launch { program, function, grid, block: 128, shared: 0 };
    // SAFETY: the parameter of `rope_*`; the contract's shapes say that qkv covers `tokens` rows of all heads, norms a
    // head, and the engine that every position is a row of cos_sin.
    unsafe { dev.launch(&launch, &[arg(rope)]) }
}
