//! `cuda/embedding.cu`.

use super::{
    super::{Embedding, EmbeddingArgs, Kernel, Op, Unsupported},
    dtype, in_vectors, out_in_vectors, u32,
};
use crate::{
    device::{
        Cuda, DType,
        cuda::{CudaBuffer, Launch, Program, arg},
    },
    error::Result,
};

/// One block a row, 16 bytes a thread; rows that do not lie at multiples of 16 bytes as [`Naive`].
pub struct Vectorised;
/// One thread an element.
pub struct Naive;

impl Kernel<Embedding, Cuda> for Vectorised {
    fn name(&self) -> &'static str {
        "vectorised"
    }

    fn about(&self) -> &'static str {
        "16 bytes a thread"
    }

    fn supports(&self, _: &DType) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cuda, args: EmbeddingArgs<'_, Cuda>, _: &mut CudaBuffer) -> Result<()> {
        let vector = in_vectors(&args.table) && out_in_vectors(&args.out);
        launch(dev, args, vector)
    }
}

impl Kernel<Embedding, Cuda> for Naive {
    fn name(&self) -> &'static str {
        "naive"
    }

    fn about(&self) -> &'static str {
        "one thread an element"
    }

    fn supports(&self, _: &DType) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cuda, args: EmbeddingArgs<'_, Cuda>, _: &mut CudaBuffer) -> Result<()> {
        launch(dev, args, false)
    }
}

fn launch(dev: &Cuda, mut a: EmbeddingArgs<'_, Cuda>, vector: bool) -> Result<()> {
    let (tokens, dim) = (a.ids.elements(), a.table.shape()[1]);
    let program = Program::new("embedding.cu")
        .with("DTYPE", dtype(a.table.dtype()))
        .with("DIM", dim)
        .with("VECTOR", vector.into());
    let (function, grid, block) = if vector {
        ("embedding_vectorised", [tokens, 1, 1], 128)
    } else {
        ("embedding_naive", [dim.div_ceil(256), tokens, 1], 256)
    };
    let (table_stride, out_stride) = (
        u32(Embedding::NAME, "stride of table", a.table.stride())?,
        u32(Embedding::NAME, "stride of out", a.out.stride())?,
    );
    let launch = Launch { program, function, grid, block, shared: 0 };
    let args = [
        arg(a.table.address()),
        arg(a.ids.address()),
        arg(a.out.address()),
        arg(table_stride),
        arg(out_stride),
        arg(a.scale),
    ];
    // SAFETY: the parameters of `embedding_*`; the contract's shapes say that the views cover `tokens` rows of `dim`
    // elements, and the engine that every id is a row of the table.
    unsafe { dev.launch(&launch, &args) }
}
