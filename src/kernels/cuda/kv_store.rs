//! `cuda/kv_store.cu`.

use super::{
    super::{KvStore, KvStoreArgs, Op},
    dtype,
    elementwise::Elementwise,
    in_vectors, u32,
};
use crate::{
    device::{
        Cuda,
        cuda::{Launch, Program, arg},
    },
    error::Result,
};

impl Elementwise for KvStore {
    fn in_vectors(a: &KvStoreArgs<'_, Cuda>) -> bool {
        in_vectors(&a.k) && in_vectors(&a.v)
    }

    fn launch(dev: &Cuda, mut a: KvStoreArgs<'_, Cuda>, vector: bool) -> Result<()> {
        let &[tokens, kv_heads, dim] = a.k.shape() else { unreachable!("checked") };
        let row = kv_heads * dim;
        let program = Program::new("kv_store.cu")
            .with("DTYPE", dtype(a.k.dtype()))
            .with("ROW", row)
            .with("VECTOR", vector.into());
        let (function, each) =
            if vector { ("kv_store_vectorised", 16 / a.k.dtype().size()) } else { ("kv_store_naive", 1) };
        let k_stride = u32(Self::NAME, "stride of k", a.k.stride())?;
        let v_stride = u32(Self::NAME, "stride of v", a.v.stride())?;
        let launch =
            Launch { program, function, grid: [row.div_ceil(128 * each), tokens, 1], block: 128, shared: 0 };
        let args = [
            arg(a.k.address()),
            arg(a.v.address()),
            arg(a.slots.address()),
            arg(a.k_cache.address()),
            arg(a.v_cache.address()),
            arg(k_stride),
            arg(v_stride),
        ];
        // SAFETY: the parameters of `kv_store_*`; the contract's shapes say that the views cover `tokens` rows of `row`
        // elements, and the engine that every slot that is not negative is one of the caches'.
        // The kernel begins with `wait_for_previous`.
        unsafe { dev.launch_early(&launch, &args) }
    }
}
