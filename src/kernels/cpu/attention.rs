//! Paged attention: tiles of queries against chunks of keys, softmax in f32, one chunk folded into the next.
//!
//! Rows are (query, head) pairs of one key head's group. A row's keys are cut into chunks of [`CHUNK`] at fixed
//! positions. Within a chunk a row has its own maximum, sum and weighted values ([`partial`]); chunks are folded in
//! ascending order. A score is eight partial dot products, added in one order; the sum of weights likewise; values are
//! added key by key. ([`pairs`] has other orders, as fixed.) All of this depends on positions alone, and keys that a row does not see add exactly
//! nothing, so **a query's result has the same bits** in any batch, tile or chunked prompt, as prefill or decode,
//! and with any number of threads (for one instruction set). Tile shapes below only change what is computed
//! next to it.
//!
//! Prefill: a tile is some queries with the heads of one group; it converts a chunk's keys and values to packed f32
//! once. Decode: a tile is one query with all its heads, or some of them where sequences are few; what it reads next is
//! asked for while it computes. Few sequences are split by chunks over the threads.

mod chunk;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod partial;
mod tile;

use half::{bf16, f16};

use super::{
    super::{Attention, AttentionArgs, AttentionSpec, Kernel, SeqLen, Unsupported},
    RowsMut, each, machine_threads,
    simd::{Float, LANES},
};
use crate::{
    device::{Cpu, CpuBuffer, DType},
    error::Result,
};
use chunk::{Call, Tile, Work};
use partial::Partial;

/// Keys of a chunk.
const CHUNK: usize = 128;
/// Keys that are converted at a time: small enough to stay in the L1 cache.
const PACK: usize = 32;
/// Bytes of the cache that decode reads for all heads at a time: with as many asked for, half of the L1 cache.
const IN_PLACE: usize = 8 << 10;
/// Rows of a full tile.
const ROWS: usize = 128;
/// Rows whose results stay in registers together.
const BLOCK: usize = 6;
/// Tiles that keep a thread busy to the end while others finish.
const TILES_PER_THREAD: usize = 4;
/// Partial results per tile that decode keeps at least, when sequences are split.
const PARTIALS: usize = 8;

/// One kernel for prefill, decode and mixtures of both.
pub struct Tiled;

impl Kernel<Attention, Cpu> for Tiled {
    fn name(&self) -> &'static str {
        "tiled"
    }

    fn about(&self) -> &'static str {
        "prefill and decode; the same bits in any batch, chunking or number of threads"
    }

    fn supports(&self, _: &AttentionSpec) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    /// The most that this spec and table can ask for, so that no later call needs more.
    fn scratch(&self, args: &AttentionArgs<'_, Cpu>) -> usize {
        // The pool's size is not known here; a launch takes no more threads than fit.
        machine_threads() * Dims::new(args).scratch() * size_of::<f32>()
    }

    fn launch(&self, dev: &Cpu, args: AttentionArgs<'_, Cpu>, scratch: &mut CpuBuffer) -> Result<()> {
        match args.q.dtype() {
            DType::F32 => launch::<f32>(dev, args, scratch),
            DType::Bf16 => launch::<bf16>(dev, args, scratch),
            DType::F16 => launch::<f16>(dev, args, scratch),
            DType::I32 => unreachable!("checked"),
        }
        Ok(())
    }
}

/// The extents that size buffers.
#[derive(Clone, Copy)]
struct Dims {
    heads: usize,
    kv_heads: usize,
    dim: usize,
    block_size: usize,
}

impl Dims {
    fn new(args: &AttentionArgs<'_, Cpu>) -> Self {
        let (&[_, heads, dim], &[_, block_size, kv_heads, _]) = (args.q.shape(), args.k_cache.shape()) else {
            unreachable!("checked")
        };
        Self { heads, kv_heads, dim, block_size }
    }

    /// Query heads of a key head.
    fn group(self) -> usize {
        self.heads / self.kv_heads
    }

    /// Rows of the largest tile.
    fn rows(self) -> usize {
        ROWS.max(self.heads)
    }

    /// f32 values from one row of a buffer to the next: whole double vectors of AVX-512.
    fn padded(self) -> usize {
        self.dim.next_multiple_of(4 * LANES)
    }

    /// f32 values that one worker needs. A multiple of a cache line keeps workers apart.
    fn workspace(self) -> usize {
        (self.rows() * (3 * self.padded() + 4 + CHUNK) + (PACK + CHUNK) * self.padded()).next_multiple_of(16)
    }

    /// f32 values of one partial result: a chunk's maxima, sums and values of every head.
    fn partial(self) -> usize {
        Partial::len(self, self.heads).next_multiple_of(16)
    }

    /// f32 values of scratch memory per thread.
    fn scratch(self) -> usize {
        self.workspace() + TILES_PER_THREAD * PARTIALS * self.partial()
    }
}

fn launch<T: Float>(dev: &Cpu, mut args: AttentionArgs<'_, Cpu>, scratch: &mut CpuBuffer) {
    let dims = Dims::new(&args);
    let tokens = args.q.shape()[0];
    if tokens == 0 {
        return;
    }
    let scratch: &mut [f32] = bytemuck::cast_slice_mut(scratch.bytes_mut());
    let out = RowsMut::<T>::new(&mut args.out.reborrow().reshape(&[tokens * dims.heads, dims.dim]));
    let call = Call::new(dev.simd(), dims, &args, out);
    let threads = threads::<T>(dev, dims, args.lens, scratch.len());
    let (work, partials) = scratch.split_at_mut(threads * dims.workspace());
    let work = RowsMut::over(work, dims.workspace());
    if args.lens.iter().all(|l| l.q == 1) {
        return decode(dev, threads, &call, &work, &RowsMut::over(partials, dims.partial()));
    }
    let per_tile = queries_per_tile(dims, args.lens, threads);
    let tiles: usize = args.lens.iter().map(|l| l.q.div_ceil(per_tile)).sum::<usize>() * dims.kv_heads;
    each(dev, threads, tiles, &|worker, i| {
        // The last tiles see the most keys; they go first.
        let tile = find_tile(dims, args.lens, per_tile, tiles - 1 - i);
        // SAFETY: `each` runs one item at a time per worker.
        call.run_tile(tile, None, Work::new(dims, unsafe { work.row(worker) }));
    });
}

/// The threads that the work is worth and the scratch memory has room for.
fn threads<T>(dev: &Cpu, dims: Dims, lens: &[SeqLen], scratch: usize) -> usize {
    let pairs: usize = lens.iter().map(|l| l.q * l.kv).sum();
    let keys: usize = lens.iter().map(|l| l.kv).sum();
    // A thread should have some ten microseconds of arithmetic, of which a pair costs about dim / 16 cycles, or of
    // reading keys and values.
    let arithmetic = (pairs * dims.heads * dims.dim) >> 19;
    let reading = (2 * keys * dims.kv_heads * dims.dim * size_of::<T>()) >> 17;
    dev.pool().threads().min(scratch / dims.scratch()).min(arithmetic.max(reading)).max(1)
}

/// As many queries as fill a tile, or fewer if that leaves threads idle.
fn queries_per_tile(dims: Dims, lens: &[SeqLen], threads: usize) -> usize {
    let queries: usize = lens.iter().map(|l| l.q).sum();
    let balanced = (queries * dims.kv_heads).div_ceil(TILES_PER_THREAD * threads);
    let (most, least) = (ROWS / dims.group(), 4 * BLOCK / dims.group());
    balanced.clamp(least.max(1), most.max(1))
}

/// Tile `index` in the order of sequences, queries, key heads.
fn find_tile(dims: Dims, lens: &[SeqLen], per_tile: usize, index: usize) -> Tile {
    let (mut block, kv_head) = (index / dims.kv_heads, index % dims.kv_heads);
    for (seq, l) in lens.iter().enumerate() {
        let blocks = l.q.div_ceil(per_tile);
        if block < blocks {
            let first = block * per_tile;
            return Tile { seq, first, count: per_tile.min(l.q - first), kv_head, kv_heads: 1 };
        }
        block -= blocks;
    }
    unreachable!("index counts the tiles of lens")
}

/// One query a sequence: a tile per sequence, or per chunk (and share of the heads) where there are few.
fn decode<T: Float>(
    dev: &Cpu,
    threads: usize,
    call: &Call<'_, T>,
    work: &RowsMut<f32>,
    partials: &RowsMut<f32>,
) {
    let (dims, lens) = (call.dims, call.args.lens);
    let chunks = lens.iter().map(|l| l.kv.div_ceil(CHUNK)).max().unwrap_or(0);
    let wanted = if threads > 1 { TILES_PER_THREAD * threads } else { 1 };
    let shares = (2 * wanted).div_ceil(lens.len() * chunks).min(dims.kv_heads);
    let tiles = lens.len() * shares;
    let tile = |i: usize| {
        let (seq, share) = (i / shares, i % shares);
        let kv_head = share * dims.kv_heads / shares;
        let kv_heads = (share + 1) * dims.kv_heads / shares - kv_head;
        Tile { seq, first: 0, count: 1, kv_head, kv_heads }
    };
    if tiles >= wanted || chunks == 1 {
        return each(dev, threads, tiles, &|worker, i| {
            // SAFETY: `each` runs one item at a time per worker.
            let work = Work::new(dims, unsafe { work.row(worker) });
            call.run_tile(tile(i), (i + 1 < tiles).then(|| tile(i + 1)), work);
        });
    }
    // A tile's first partial is its running result; the others are of a round's chunks.
    let slots = partials.rows / tiles;
    for begin in (0..chunks).step_by(slots - 1) {
        let width = (slots - 1).min(chunks - begin);
        let items = tiles * width;
        // Chunk after chunk: a thread reads memory in order.
        let item = |i: usize| (tile(i % tiles), begin + i / tiles);
        each(dev, threads, items, &|worker, i| {
            // SAFETY: `each` runs one item at a time per worker, and the partial is this item's.
            let (work, into) = unsafe { (work.row(worker), partials.row(i % tiles * slots + 1 + i / tiles)) };
            let then = (i + 1 < items).then(|| item(i + 1));
            call.run_chunk(item(i), then, Work::new(dims, work), Partial::new(dims, dims.heads, into));
        });
        for i in 0..tiles {
            // SAFETY: no launch is running, and the two are different partials.
            let running = || Partial::new(dims, dims.heads, unsafe { partials.row(i * slots) });
            if begin == 0 {
                running().clear();
            }
            for chunk in 0..width {
                // SAFETY: as above.
                let part = Partial::new(dims, dims.heads, unsafe { partials.row(i * slots + 1 + chunk) });
                running().fold(call.simd, &part, dims.heads);
            }
            if begin + width == chunks {
                call.finish(tile(i), &running());
            }
        }
    }
}
