//! `cuda/embedding.cu`.

use super::{
    super::{Embedding, EmbeddingArgs, Op},
    dtype,
    elementwise::Elementwise,
    in_vectors, out_in_vectors, u32,
};
use crate::{
    device::{
        Cuda,
        cuda::{Launch, Program, arg},
    },
    error::Result,
};

impl Elementwise for Embedding {
    fn in_vectors(a: &EmbeddingArgs<'_, Cuda>) -> bool {
        in_vectors(&a.table) && out_in_vectors(&a.out)
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
            u32(Self::NAME, "stride of table", a.table.stride())?,
            u32(Self::NAME, "stride of out", a.out.stride())?,
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
        // The kernel begins with `wait_for_previous`.
        unsafe { dev.launch_early(&launch, &args) }
    }
}
