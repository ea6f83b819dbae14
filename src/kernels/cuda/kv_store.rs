//! `cuda/kv_store.cu`.

use super::{
    super::{Kernel, KvStore, KvStoreArgs, Op, Unsupported},
    dtype, in_vectors, u32,
};
use crate::{
    device::{
        Cuda, DType,
        cuda::{CudaBuffer, Launch, Program, arg},
    },
    error::Result,
};

/// 16 bytes a thread; rows that do not lie at multiples of 16 bytes as [`Naive`].
pub struct Vectorised;
/// One thread an element.
pub struct Naive;

impl Kernel<KvStore, Cuda> for Vectorised {
    fn name(&self) -> &'static str {
        "vectorised"
    }

    fn about(&self) -> &'static str {
        "16 bytes a thread"
    }

    fn supports(&self, _: &DType) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cuda, args: KvStoreArgs<'_, Cuda>, _: &mut CudaBuffer) -> Result<()> {
        let vector = in_vectors(&args.k) && in_vectors(&args.v);
        launch(dev, args, vector)
    }
}

impl Kernel<KvStore, Cuda> for Naive {
    fn name(&self) -> &'static str {
        "naive"
    }

    fn about(&self) -> &'static str {
        "one thread an element"
    }

    fn supports(&self, _: &DType) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cuda, args: KvStoreArgs<'_, Cuda>, _: &mut CudaBuffer) -> Result<()> {
        launch(dev, args, false)
    }
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
    let k_stride = u32(KvStore::NAME, "stride of k", a.k.stride())?;
    let v_stride = u32(KvStore::NAME, "stride of v", a.v.stride())?;
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
    unsafe { dev.launch(&launch, &args) }
}
