//! `cuda/rope.cu`: q/k-norm and rotation, alone and with the KV store.

use super::{
    super::{Kernel, Op, Rope, RopeArgs, RopeStore, RopeStoreArgs, Unsupported},
    dtype, u32,
};
use crate::{
    device::{
        Cuda, DType,
        cuda::{CudaBuffer, Launch, Program, arg},
    },
    error::Result,
};

/// What takes a head.
#[derive(Clone, Copy)]
pub enum HeadBy {
    /// A thread.
    Thread,
    /// A warp, whose registers it stays in.
    Warp,
}

impl Kernel<Rope, Cuda> for HeadBy {
    fn name(&self) -> &'static str {
        (*self).name()
    }

    fn about(&self) -> &'static str {
        match self {
            Self::Thread => "one thread a head",
            Self::Warp => "one warp a head, in registers",
        }
    }

    fn supports(&self, _: &(DType, bool)) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cuda, args: RopeArgs<'_, Cuda>, _: &mut CudaBuffer) -> Result<()> {
        let (rope, program) = rope(args)?;
        let function = match self {
            Self::Thread => "rope_naive",
            Self::Warp => "rope_warp",
        };
        self.enqueue(dev, program, function, rope.heads + rope.kv_heads, &rope)
    }
}

impl Kernel<RopeStore, Cuda> for HeadBy {
    fn name(&self) -> &'static str {
        (*self).name()
    }

    fn about(&self) -> &'static str {
        match self {
            Self::Thread => "one thread a head",
            Self::Warp => "one warp a head, read once: rotated keys and values go to the cache alone",
        }
    }

    fn supports(&self, _: &(DType, bool)) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cuda, args: RopeStoreArgs<'_, Cuda>, _: &mut CudaBuffer) -> Result<()> {
        let RopeStoreArgs { rope: alone, slots, mut k_cache, mut v_cache } = args;
        let (mut rope, program) = rope(alone)?;
        (rope.slots, rope.k_cache, rope.v_cache) = (slots.address(), k_cache.address(), v_cache.address());
        let function = match self {
            Self::Thread => "rope_store_naive",
            Self::Warp => "rope_store_warp",
        };
        self.enqueue(dev, program, function, rope.heads + 2 * rope.kv_heads, &rope)
    }
}

impl HeadBy {
    fn name(self) -> &'static str {
        match self {
            Self::Thread => "naive",
            Self::Warp => "warp",
        }
    }

    /// `heads` of each token.
    fn enqueue(
        self,
        dev: &Cuda,
        program: Program,
        function: &'static str,
        heads: u32,
        rope: &Params,
    ) -> Result<()> {
        let (tokens, heads) = (rope.tokens as usize, heads as usize);
        let grid = match self {
            Self::Thread => [(tokens * heads).div_ceil(128), 1, 1],
            Self::Warp => [tokens, heads.div_ceil(4), 1],
        };
        let launch = Launch { program, function, grid, block: 128, shared: 0 };
        // SAFETY: the parameter of `rope_*`; the contracts' shapes say that qkv covers `tokens` rows of all heads, norms
        // a head, and the engine that every position is a row of cos_sin and every slot that is not negative one of the
        // caches'.
        // The kernel waits (`wait_for_previous`) before it touches what the one before may write.
        unsafe { dev.launch_early(&launch, &[arg(rope)]) }
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

/// Without the cache.
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
