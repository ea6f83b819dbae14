//! `cuda/attention.cu`.

use std::sync::Arc;

use super::{
    super::{Attention, AttentionArgs, AttentionSpec, Kernel, Op, Table, Unsupported},
    dtype, in_vectors, u32,
};
use crate::{
    device::{
        Cuda, DType,
        cuda::{CudaBuffer, Launch, Program, Target, arg},
    },
    error::{Error, Result},
};

/// Every kernel for a device of this kind, the default first.
pub fn table(target: Target) -> Table<Attention, Cuda> {
    let fast = |kind| Arc::new(Fast { kind, hopper: target.is_hopper() });
    vec![
        Arc::new(ByShape { hopper: target.is_hopper() }),
        Arc::new(BatchInvariant),
        fast(Kind::SplitKv),
        fast(Kind::GqaPacked),
        fast(Kind::Flash),
        fast(Kind::FlashHopper),
        fast(Kind::Unified),
        Arc::new(Naive),
    ]
}

/// The fastest of the others for the shape and the device, as measured on an H100 (docs/results).
///
/// - f32, heads that the others do not take, rows that are not at multiples of 16 bytes: `naive`
/// - decode: `split_kv` up to 2 query heads a key head, `gqa_packed` beyond
/// - else `flash`, on Hopper with heads of 128 `flash_hopper`
struct ByShape {
    hopper: bool,
}

impl ByShape {
    fn choose(&self, spec: &AttentionSpec) -> Option<Fast> {
        let kinds = match (spec.decode, spec.heads / spec.kv_heads) {
            (true, ..=2) => [Kind::SplitKv, Kind::GqaPacked],
            (true, _) => [Kind::GqaPacked, Kind::SplitKv],
            (false, _) => [Kind::FlashHopper, Kind::Flash],
        };
        kinds.map(|kind| Fast { kind, hopper: self.hopper }).into_iter().find(|k| k.supports(spec).is_ok())
    }
}

impl Kernel<Attention, Cuda> for ByShape {
    fn name(&self) -> &'static str {
        "by_shape"
    }

    fn about(&self) -> &'static str {
        "the fastest of the others, as measured on an H100"
    }

    fn supports(&self, _: &AttentionSpec) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn batch_invariant(&self) -> bool {
        false
    }

    fn scratch(&self, a: &AttentionArgs<'_, Cuda>) -> usize {
        self.choose(&Attention::spec(a)).map_or(0, |kernel| kernel.scratch(a))
    }

    fn launch(&self, dev: &Cuda, args: AttentionArgs<'_, Cuda>, scratch: &mut CudaBuffer) -> Result<()> {
        match self.choose(&Attention::spec(&args)).filter(|_| in_vectors(&args.q)) {
            Some(kernel) => kernel.launch(dev, args, scratch),
            None => Naive.launch(dev, args, scratch),
        }
    }
}

/// `flash` for prompts and decodes alike, and where the shape is not for it `naive`: both walk a query's keys in one
/// order, from tiles at fixed positions, whoever else is in the launch.
struct BatchInvariant;

impl Kernel<Attention, Cuda> for BatchInvariant {
    fn name(&self) -> &'static str {
        "batch_invariant"
    }

    fn about(&self) -> &'static str {
        "flash, or naive where that cannot, for prompts and decodes alike: the same bits in any batch and chunk"
    }

    fn supports(&self, spec: &AttentionSpec) -> std::result::Result<(), Unsupported> {
        Naive.supports(spec)
    }

    fn launch(&self, dev: &Cuda, args: AttentionArgs<'_, Cuda>, scratch: &mut CudaBuffer) -> Result<()> {
        let flash = Fast { kind: Kind::Flash, hopper: false };
        if flash.supports(&Attention::spec(&args)).is_ok() && in_vectors(&args.q) {
            return flash.launch(dev, args, scratch);
        }
        Naive.launch(dev, args, scratch)
    }
}

/// One warp a query and head.
struct Naive;

impl Kernel<Attention, Cuda> for Naive {
    fn name(&self) -> &'static str {
        "naive"
    }

    fn about(&self) -> &'static str {
        "one warp a query and head; any dtype"
    }

    fn supports(&self, spec: &AttentionSpec) -> std::result::Result<(), Unsupported> {
        if spec.head_dim.is_multiple_of(16) {
            return Ok(());
        }
        Err(Unsupported(format!("heads of {} elements, no multiple of 16", spec.head_dim)))
    }

    fn launch(&self, dev: &Cuda, args: AttentionArgs<'_, Cuda>, _: &mut CudaBuffer) -> Result<()> {
        let batch = batch(args)?;
        let grid = [batch.spec.heads, batch.tokens, 1];
        batch.launch(dev, "attention_naive", grid, 32, 0)
    }
}

/// The tiled kernels.
#[derive(Clone, Copy)]
struct Fast {
    kind: Kind,
    hopper: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    SplitKv,
    GqaPacked,
    Flash,
    FlashHopper,
    Unified,
}

impl Kernel<Attention, Cuda> for Fast {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::SplitKv => "split_kv",
            Kind::GqaPacked => "gqa_packed",
            Kind::Flash => "flash",
            Kind::FlashHopper => "flash_hopper",
            Kind::Unified => "unified",
        }
    }

    fn about(&self) -> &'static str {
        match self.kind {
            Kind::SplitKv => "decode: splits of the keys, joined in a fixed order",
            Kind::GqaPacked => "decode: split_kv with a group's query heads as one tensor-core tile",
            Kind::Flash => "prefill: query tiles on tensor cores, pages by cp.async",
            Kind::FlashHopper => "prefill on sm_90a: wgmma, a warpgroup that copies",
            Kind::Unified => "mixed batches in one launch: gqa_packed and flash",
        }
    }

    fn supports(&self, spec: &AttentionSpec) -> std::result::Result<(), Unsupported> {
        let refuse = |reason: String| Err(Unsupported(reason));
        let dim = spec.head_dim;
        if spec.dtype == DType::F32 {
            return refuse(
                "f32: tensor cores and 16-byte chunks are for bf16 and f16; naive takes it".into(),
            );
        }
        if !dim.is_multiple_of(16) || dim > 256 {
            return refuse(format!("heads of {dim}: multiples of 16 up to 256"));
        }
        match self.kind {
            Kind::SplitKv | Kind::GqaPacked if !spec.decode => {
                refuse("sequences with more than one query: flash or unified take them".into())
            }
            Kind::FlashHopper if !self.hopper => {
                refuse("this device: wgmma needs machine code for compute capability 9.0".into())
            }
            Kind::FlashHopper if dim != 128 => refuse(format!("heads of {dim}: only of 128")),
            _ => Ok(()),
        }
    }

    /// Only `flash` takes every query of a sequence and has been compared bit by bit.
    fn batch_invariant(&self) -> bool {
        self.kind == Kind::Flash
    }

    fn scratch(&self, a: &AttentionArgs<'_, Cuda>) -> usize {
        match self.kind {
            Kind::Flash | Kind::FlashHopper => 0,
            _ => Splits::of(a).partial + Splits::of(a).stats,
        }
    }

    fn launch(&self, dev: &Cuda, args: AttentionArgs<'_, Cuda>, scratch: &mut CudaBuffer) -> Result<()> {
        if !in_vectors(&args.q) {
            let got = format!("at {:#x}, {} elements apart", args.q.address(), args.q.stride());
            let want = "at multiples of 16 bytes".into();
            return Err(Error::Argument { op: Attention::NAME, what: "rows of q", got, want });
        }
        let splits = Splits::of(&args);
        let mut batch = batch(args)?;
        batch.params.partial = scratch.address();
        batch.params.partial_stats = scratch.address() + splits.partial as u64;
        batch.params.split = splits.keys as u32;
        batch.params.max_splits = splits.most as u32;
        let tiles = Tiles::of(&batch.spec);
        let AttentionSpec { heads, kv_heads, head_dim, .. } = batch.spec;
        let seqs = batch.params.seqs as usize;
        // Two blocks a multiprocessor fill it; fewer where there are fewer splits.
        let decode = |pass: usize| {
            let passes = (heads / kv_heads).div_ceil(pass);
            (2 * dev.multiprocessors()).min(seqs * splits.most * kv_heads * passes)
        };
        // At most so many query tiles, whatever the lengths.
        let most_tiles = batch.tokens / tiles.flash_rows + seqs;
        match self.kind {
            Kind::SplitKv => {
                let grid = [decode(SPLIT_PASS), 1, 1];
                batch.launch(dev, "attention_split_kv", grid, 128, tiles.split_shared)?;
            }
            Kind::GqaPacked => {
                let grid = [decode(PACKED_PASS), 1, 1];
                batch.launch(dev, "attention_gqa_packed", grid, 128, tiles.packed_shared)?;
            }
            Kind::Flash => {
                let grid = [heads, most_tiles, 1];
                return batch.launch(dev, "attention_flash", grid, 128, tiles.flash_shared);
            }
            Kind::FlashHopper => {
                let grid = [heads, most_tiles, 1];
                return batch.launch(dev, "attention_flash_hopper", grid, 384, HOPPER_SHARED);
            }
            Kind::Unified => {
                batch.params.flash_tiles = u32(Attention::NAME, "tiles", most_tiles)?;
                let grid = [heads, most_tiles + decode(PACKED_PASS).div_ceil(heads), 1];
                let shared = tiles.flash_shared.max(tiles.packed_shared);
                batch.launch(dev, "attention_unified", grid, 128, shared)?;
            }
        }
        if splits.most > 1 {
            let grid = [(heads * head_dim).div_ceil(4 * 128), seqs, 1];
            batch.launch(dev, "attention_combine", grid, 128, 0)?;
        }
        Ok(())
    }
}

/// How decode cuts the keys: splits of about a size that depends on the longest sequence that the block table can hold,
/// not on the batch, so that a sequence's result does not depend on its company.
struct Splits {
    keys: usize,
    most: usize,
    /// Bytes of the partial sums and of their statistics.
    partial: usize,
    stats: usize,
}

impl Splits {
    fn of(a: &AttentionArgs<'_, Cuda>) -> Self {
        /// Keys that keep a block busy for much longer than it takes to start and to join (H100: 512 beat 256).
        const KEYS: usize = 512;
        /// More would cost more scratch memory than they bring.
        const MOST: usize = 32;
        let longest = a.block_table.shape()[1] * a.k_cache.shape()[1];
        let keys = longest.div_ceil(MOST).next_multiple_of(64).max(KEYS);
        // As `SplitSize` of `cuda/attention_decode.cuh`.
        let most = ((longest + keys / 2) / keys).max(1);
        let (heads, head_dim) = (a.q.shape()[1], a.q.shape()[2]);
        let rows = if most > 1 { a.lens.len() * most * heads } else { 0 };
        Self { keys, most, partial: rows * head_dim * 4, stats: rows * 8 }
    }
}

/// `SPLIT_PASS` and `PACKED_PASS` of `cuda/attention_decode.cuh`, at most.
const SPLIT_PASS: usize = 4;
const PACKED_PASS: usize = 16;
/// Bytes of `HopperTiles` of `cuda/attention_hopper.cuh`.
const HOPPER_SHARED: usize = 5 * (32 << 10) + 8 * 8;

/// Sizes that follow from a spec as in `cuda/attention_*.cuh`; shared memory in bytes.
struct Tiles {
    split_shared: usize,
    packed_shared: usize,
    flash_rows: usize,
    flash_shared: usize,
}

impl Tiles {
    fn of(spec: &AttentionSpec) -> Self {
        let (dim, group) = (spec.head_dim, spec.heads / spec.kv_heads);
        let (pitch, large) = (2 * (dim + 8), dim > 128);
        // `States`: HEAD_DIM sums, a maximum and a total, of each head.
        let states = (group.min(SPLIT_PASS) * (4 * dim + 8)).next_multiple_of(16);
        let rows = match dim / 8 {
            ..=8 => 4,
            9..=16 => 2,
            _ => 1,
        };
        let step = if rows == 4 { 4 } else { 8 };
        let split_queue = 4 * 3 * 2 * step * 32 * 16;
        let packed_stages = if large { 2 } else { 3 };
        let (flash_rows, flash_keys) = if large { (64, 32) } else { (128, 64) };
        Self {
            split_shared: split_queue + 4 * rows * states,
            packed_shared: 4 * packed_stages * 2 * 16 * pitch,
            flash_rows,
            flash_shared: (flash_rows + 4 * flash_keys) * pitch,
        }
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
    spec: AttentionSpec,
    tokens: usize,
    program: Program,
}

fn batch(mut a: AttentionArgs<'_, Cuda>) -> Result<Batch> {
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
    Ok(Batch { params, spec, tokens, program })
}

impl Batch {
    fn launch(
        &self,
        dev: &Cuda,
        function: &'static str,
        grid: [usize; 3],
        block: usize,
        shared: usize,
    ) -> Result<()> {
        let launch = Launch { program: self.program, function, grid, block, shared };
        // SAFETY: the parameter of `attention_*`; the contract's shapes say that q and out cover the queries that
        // q_start delimits, the block table `seqs` rows, and the engine that entries within a sequence's length are
        // blocks; the partial sums lie in the scratch memory, of `Splits`' size.
        // The kernel waits (`wait_for_previous`) before it touches what the one before may write.
        unsafe { dev.launch_early(&launch, &[arg(&self.params)]) }
    }
}
