//! Paged attention: tiles of queries against chunks of keys, softmax in f32, one chunk folded into the next.
//!
//! Rows are (query, head) pairs of one key head's group. A row's keys are cut into chunks of [`CHUNK`] at fixed
//! positions. Within a chunk a row has its own maximum, sum and weighted values; chunks are folded in ascending
//! order. A score is eight partial dot products, added in one order; the sum of weights likewise; values are
//! added key by key. All of this depends on positions alone, and keys that a row does not see add exactly
//! nothing, so **a query's result has the same bits** in any batch, tile or chunked prompt, as prefill or decode,
//! and with any number of threads (for one instruction set). Tile shapes below only change what is computed
//! next to it.
//!
//! A tile of many rows converts keys and values to packed f32 once; a small one (decode) reads them from the
//! cache directly, so that each is read from memory once for all heads of its group.

mod tile;

use std::ops::Range;

use half::{bf16, f16};

use super::{
    super::{Attention, AttentionArgs, AttentionSpec, Kernel, SeqLen, Unsupported},
    RowsMut, each,
    simd::{Float, LANES},
};
use crate::{
    device::{Cpu, CpuBuffer, DType, Simd},
    error::Result,
};
use tile::Rows;

/// Keys of a chunk.
const CHUNK: usize = 128;
/// Keys that are converted at a time: small enough to stay in the L1 cache.
const PACK: usize = 32;
/// Rows of a full tile.
const ROWS: usize = 128;
/// Rows whose results stay in registers together.
const BLOCK: usize = 6;
/// Up to this many rows read keys and values from the cache directly.
const DIRECT: usize = 8;
/// Chunks whose partial results are kept before they are folded, when sequences are split.
const ROUND: usize = 64;

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
        // The number of threads is not known here; `workers` cuts it to what fits.
        let threads = std::thread::available_parallelism().map_or(1, Into::into);
        let dims = Dims::new(args);
        (threads * dims.workspace() + 4 * threads * ROUND * dims.partial()) * size_of::<f32>()
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
        ROWS.max(self.group())
    }

    /// f32 values from one row of a buffer to the next.
    fn padded(self) -> usize {
        self.dim.next_multiple_of(LANES)
    }

    /// f32 values that one worker needs.
    fn workspace(self) -> usize {
        let padded = self.padded();
        // A multiple of a cache line keeps workers apart.
        (self.rows() * (2 * padded + 2 + CHUNK) + (BLOCK + PACK + CHUNK) * padded).next_multiple_of(16)
    }

    /// f32 values of one chunk's partial result for a group of heads.
    fn partial(self) -> usize {
        self.group() * (2 + self.padded())
    }
}

/// What a launch's workers share.
struct Call<'a, T> {
    dims: Dims,
    args: &'a AttentionArgs<'a, Cpu>,
    k: &'a [T],
    v: &'a [T],
    /// From one cache block to the next, in elements.
    block_stride: usize,
    /// `[tokens * heads]` rows.
    out: RowsMut<T>,
    simd: Simd,
}

/// Queries `first..first + count` of a sequence with the heads of one group.
#[derive(Clone, Copy)]
struct Tile {
    seq: usize,
    kv_head: usize,
    first: usize,
    count: usize,
}

fn launch<T: Float>(dev: &Cpu, mut args: AttentionArgs<'_, Cpu>, scratch: &mut CpuBuffer) {
    let dims = Dims::new(&args);
    let tokens = args.q.shape()[0];
    if tokens == 0 {
        return;
    }
    let scratch: &mut [f32] = bytemuck::cast_slice_mut(scratch.bytes_mut());
    let flat = [tokens * dims.heads, dims.dim];
    let out = RowsMut::<T>::new(&mut args.out.reborrow().reshape(&flat));
    let lens = args.lens;
    let call = Call {
        dims,
        k: args.k_cache.slice::<T>(),
        v: args.v_cache.slice::<T>(),
        block_stride: args.k_cache.stride(),
        args: &args,
        out,
        simd: dev.simd(),
    };
    let threads = threads(dev, &call, scratch.len());
    let (work, partials) = scratch.split_at_mut(threads * dims.workspace());
    let work = RowsMut::over(work, dims.workspace());

    let decode = lens.iter().all(|l| l.q == 1);
    let groups = lens.len() * dims.kv_heads;
    let longest = lens.iter().map(|l| l.kv.div_ceil(CHUNK)).max().unwrap_or(0);
    if decode && threads > 1 && groups < 4 * threads && longest > 1 {
        return launch_split(dev, threads, &call, longest, &work, partials);
    }
    let per_tile = queries_per_tile(dims, lens, threads);
    let tiles: usize = lens.iter().map(|l| l.q.div_ceil(per_tile)).sum::<usize>() * dims.kv_heads;
    each(dev, threads, tiles, &|worker, i| {
        // The last tiles see the most keys; they go first.
        let tile = find_tile(dims, lens, per_tile, tiles - 1 - i);
        // SAFETY: `each` runs one item at a time per worker.
        let work = unsafe { work.row(worker) };
        call.run_tile(tile, Work::new(dims, work));
    });
}

/// Decode with few sequences: chunks are spread over the threads, then folded as the tiles would.
fn launch_split<T: Float>(
    dev: &Cpu,
    threads: usize,
    call: &Call<'_, T>,
    longest: usize,
    work: &RowsMut<f32>,
    partials: &mut [f32],
) {
    let (dims, lens) = (call.dims, call.args.lens);
    let groups = lens.len() * dims.kv_heads;
    let tile = |group: usize| Tile {
        seq: group / dims.kv_heads,
        kv_head: group % dims.kv_heads,
        first: 0,
        count: 1,
    };
    let partials = RowsMut::over(partials, dims.partial());
    // Running results live in each group's first partial: folded into it, round after round.
    for begin in (0..longest).step_by(ROUND - 1) {
        let end = (begin + ROUND - 1).min(longest);
        let width = end - begin;
        each(dev, threads, groups * width, &|worker, i| {
            let (group, chunk) = (i / width, i % width);
            // SAFETY: `each` runs one item at a time per worker; the partial is this item's.
            let (work, into) = unsafe { (work.row(worker), partials.row(group * ROUND + 1 + chunk)) };
            let tile = tile(group);
            call.run_chunk(tile, begin + chunk, Work::new(dims, work), into);
        });
        each(dev, 1, groups, &|_, group| {
            // SAFETY: `each` runs one item at a time; a group's partials are its own.
            let running = unsafe { partials.row(group * ROUND) };
            if begin == 0 {
                empty(dims, running);
            }
            for chunk in 0..width {
                // SAFETY: as above, and another one than `running`.
                let part = unsafe { partials.row(group * ROUND + 1 + chunk) };
                fold_partial(dims, call.simd, running, part);
            }
        });
    }
    for group in 0..groups {
        // SAFETY: no launch is running.
        let running = unsafe { partials.row(group * ROUND) };
        let (state, o) = running.split_at(2 * dims.group());
        for head in 0..dims.group() {
            call.finish(tile(group), head, state[2 * head + 1], &o[head * dims.padded()..]);
        }
    }
}

/// The threads that the work is worth and the scratch memory has room for.
fn threads<T: Float>(dev: &Cpu, call: &Call<'_, T>, scratch: usize) -> usize {
    let dims = call.dims;
    let fit = scratch / (dims.workspace() + 4 * ROUND * dims.partial());
    let queries_times_keys: usize = call.args.lens.iter().map(|l| l.q * l.kv).sum();
    // A pair costs about dim / 16 cycles; a thread should have some ten microseconds of them.
    let worth = (queries_times_keys * dims.heads * dims.dim) >> 19;
    dev.pool().threads().min(fit).min(worth).max(1)
}

/// As many queries as fill a tile, or fewer if that leaves threads idle.
fn queries_per_tile(dims: Dims, lens: &[SeqLen], threads: usize) -> usize {
    let queries: usize = lens.iter().map(|l| l.q).sum();
    let balanced = (queries * dims.kv_heads).div_ceil(4 * threads);
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
            return Tile { seq, kv_head, first, count: per_tile.min(l.q - first) };
        }
        block -= blocks;
    }
    unreachable!("index counts the tiles of lens")
}

/// A worker's buffers.
struct Work<'a> {
    /// `[rows, padded]` queries, interleaved by block.
    q: &'a mut [f32],
    /// `[rows, padded]` running weighted values.
    o: &'a mut [f32],
    /// `[rows, 2]` running maximum and sum of weights.
    state: &'a mut [f32],
    /// `[rows, CHUNK]` scores, then weights.
    p: &'a mut [f32],
    /// `[BLOCK, padded]` weighted values of a chunk.
    part: &'a mut [f32],
    /// `[PACK, padded]` keys.
    k: &'a mut [f32],
    /// `[CHUNK, padded]` values.
    v: &'a mut [f32],
}

impl<'a> Work<'a> {
    fn new(dims: Dims, mut all: &'a mut [f32]) -> Self {
        let (rows, padded) = (dims.rows(), dims.padded());
        Self {
            q: take(&mut all, rows * padded),
            o: take(&mut all, rows * padded),
            state: take(&mut all, rows * 2),
            p: take(&mut all, rows * CHUNK),
            part: take(&mut all, BLOCK * padded),
            k: take(&mut all, PACK * padded),
            v: take(&mut all, CHUNK * padded),
        }
    }
}

fn take<'a>(all: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    all.split_off_mut(..len).expect("the workspace holds every buffer")
}

/// No keys yet: maximum, sum and values of a partial result.
fn empty(dims: Dims, partial: &mut [f32]) {
    let (state, o) = partial.split_at_mut(2 * dims.group());
    state.chunks_exact_mut(2).for_each(|s| s.copy_from_slice(&[f32::NEG_INFINITY, 0.0]));
    o.fill(0.0);
}

/// Folds a chunk's partial result into the running one.
fn fold_partial(dims: Dims, simd: Simd, running: &mut [f32], part: &[f32]) {
    let (state, o) = running.split_at_mut(2 * dims.group());
    let (part_state, part) = part.split_at(2 * dims.group());
    for row in 0..dims.group() {
        let from = row * dims.padded()..(row + 1) * dims.padded();
        let (state, of) = (&mut state[2 * row..][..2], [part_state[2 * row], part_state[2 * row + 1]]);
        tile::fold(simd, state, &mut o[from.clone()], of, &part[from]);
    }
}

impl<T: Float> Call<'_, T> {
    /// All chunks of a tile, one after the other.
    fn run_tile(&self, tile: Tile, mut w: Work<'_>) {
        let (padded, rows) = (self.dims.padded(), tile.count * self.dims.group());
        self.load_queries(tile, w.q);
        w.state[..2 * rows].chunks_exact_mut(2).for_each(|s| s.copy_from_slice(&[f32::NEG_INFINITY, 0.0]));
        w.o[..rows * padded].fill(0.0);
        let (oldest, newest) = (self.visible(tile, 0).0, self.visible(tile, tile.count - 1).1);
        for chunk in oldest / CHUNK..newest.div_ceil(CHUNK) {
            self.chunk(tile, chunk, &mut w, true);
        }
        for row in 0..rows {
            self.finish(tile, row, w.state[2 * row + 1], &w.o[row * padded..]);
        }
    }

    /// One chunk of a group's only query, stored as a partial result.
    fn run_chunk<'w>(&self, tile: Tile, chunk: usize, mut w: Work<'w>, into: &'w mut [f32]) {
        empty(self.dims, into);
        let (oldest, newest) = self.visible(tile, 0);
        if (oldest / CHUNK..newest.div_ceil(CHUNK)).contains(&chunk) {
            self.load_queries(tile, w.q);
            (w.state, w.o) = into.split_at_mut(2 * self.dims.group());
            self.chunk(tile, chunk, &mut w, false);
        }
    }

    /// The keys `oldest..newest` that query `i` of a tile sees.
    fn visible(&self, tile: Tile, i: usize) -> (usize, usize) {
        let l = self.args.lens[tile.seq];
        let newest = l.kv - l.q + tile.first + i + 1;
        (self.args.window.map_or(0, |w| newest.saturating_sub(w)), newest)
    }

    /// The row of q and out where a tile's row stands: (token, head).
    fn token_head(&self, tile: Tile, row: usize) -> (usize, usize) {
        let starts = self.args.q_start.slice::<i32>();
        let group = self.dims.group();
        let token = (starts[tile.seq] - starts[0]) as usize + tile.first + row / group;
        (token, tile.kv_head * group + row % group)
    }

    fn load_queries(&self, tile: Tile, q: &mut [f32]) {
        let (dim, rows) = (self.dims.dim, tile.count * self.dims.group());
        for row in 0..rows {
            let (token, head) = self.token_head(tile, row);
            tile::interleave(&self.args.q.row::<T>(token)[head * dim..][..dim], row, rows, q);
        }
    }

    /// Writes a row: weighted values over the sum of weights.
    fn finish(&self, tile: Tile, row: usize, l: f32, o: &[f32]) {
        let (token, head) = self.token_head(tile, row);
        // SAFETY: a (token, head) belongs to one tile.
        let out = unsafe { self.out.row(token * self.dims.heads + head) };
        for (out, &o) in out.iter_mut().zip(o) {
            // + 0 makes minus zero, which unseen values could have turned, plus zero.
            *out = T::from_f32(o / l + 0.0);
        }
    }

    /// The longest run of keys (or values) from `key` on, up to `end`, that lies in one block of the cache.
    fn run<'c>(&self, cache: &'c [T], tile: Tile, key: usize, end: usize) -> Rows<'c, T> {
        let Dims { kv_heads, dim, block_size, .. } = self.dims;
        let (block, at, stride) = (key / block_size, key % block_size, kv_heads * dim);
        let table = self.args.block_table.row::<i32>(tile.seq);
        let first = table[block] as usize * self.block_stride + at * stride + tile.kv_head * dim;
        let count = (block_size - at).min(end - key);
        Rows { data: &cache[first..first + (count - 1) * stride + dim], stride, count, dim }
    }

    /// Scores, weights and weighted values of one chunk, folded into `w.state` and `w.o`, or stored there.
    fn chunk(&self, tile: Tile, chunk: usize, w: &mut Work<'_>, folded: bool) {
        let (group, padded, simd) = (self.dims.group(), self.dims.padded(), self.simd);
        let rows = tile.count * group;
        let begin = chunk * CHUNK;
        let from = self.visible(tile, 0).0.max(begin);
        // Where the keys end that a row sees, and those that any row sees.
        let seen_end = |row: usize| self.visible(tile, row / group).1.min(begin + CHUNK);
        let end = seen_end(rows - 1);
        let direct = rows <= DIRECT;
        if direct {
            self.scores_direct(tile, w, begin, from..end);
        } else {
            self.scores_packed(tile, w, begin, from..end, seen_end);
            let mut key = from;
            while key < end {
                let values = self.run(self.v, tile, key, end);
                tile::widen(simd, values, &mut w.v[(key - from) * padded..], padded);
                key += values.count;
            }
        }
        for row in (0..rows).step_by(BLOCK) {
            let block = BLOCK.min(rows - row);
            let mut state = [[0.0; 2]; BLOCK];
            for (r, state) in state.iter_mut().enumerate().take(block) {
                let (oldest, newest) = self.visible(tile, (row + r) / group);
                let seen = oldest.max(begin) - begin..newest.clamp(begin, begin + CHUNK) - begin;
                let p = &mut w.p[(row + r) * CHUNK..][..CHUNK];
                *state = tile::weights(simd, p, seen, self.args.scale, self.args.softcap);
            }
            w.part[..block * padded].fill(0.0);
            let end = seen_end(row + block - 1);
            let mut key = from;
            while key < end {
                let p = &w.p[row * CHUNK + key - begin..];
                if direct {
                    let values = self.run(self.v, tile, key, end);
                    tile::weighted(simd, p, block, values, w.part, padded);
                    key += values.count;
                } else {
                    tile::weighted(simd, p, block, self.packed(w.v, key - from, end - key), w.part, padded);
                    key = end;
                }
            }
            for (r, &of) in state.iter().enumerate().take(block) {
                let part = &w.part[r * padded..][..padded];
                let to = &mut w.state[2 * (row + r)..][..2];
                let o = &mut w.o[(row + r) * padded..][..padded];
                if folded {
                    tile::fold(simd, to, o, of, part);
                } else {
                    to.copy_from_slice(&of);
                    o.copy_from_slice(part);
                }
            }
        }
    }

    /// Scores of few rows, from the cache.
    fn scores_direct(&self, tile: Tile, w: &mut Work<'_>, begin: usize, keys: Range<usize>) {
        let q = self.packed(w.q, 0, tile.count * self.dims.group());
        let mut key = keys.start;
        while key < keys.end {
            let run = self.run(self.k, tile, key, keys.end);
            let values = self.run(self.v, tile, key, keys.end);
            tile::scores(self.simd, q, run, &mut w.p[key - begin..], Some(values));
            key += run.count;
        }
    }

    /// Scores of many rows: [`PACK`] keys at a time are widened and meet every row that sees them.
    fn scores_packed(
        &self,
        tile: Tile,
        w: &mut Work<'_>,
        begin: usize,
        keys: Range<usize>,
        seen_end: impl Fn(usize) -> usize,
    ) {
        let (rows, padded) = (tile.count * self.dims.group(), self.dims.padded());
        for first in keys.clone().step_by(PACK) {
            let end = keys.end.min(first + PACK);
            let mut key = first;
            while key < end {
                let run = self.run(self.k, tile, key, end);
                tile::widen(self.simd, run, &mut w.k[(key - first) * padded..], padded);
                key += run.count;
            }
            for row in (0..rows).step_by(BLOCK) {
                let block = BLOCK.min(rows - row);
                let count = seen_end(row + block - 1).min(end).saturating_sub(first);
                let (q, k) = (self.packed(w.q, row, block), self.packed(w.k, 0, count));
                tile::scores(self.simd, q, k, &mut w.p[row * CHUNK + first - begin..], None);
            }
        }
    }

    /// Rows `first..first + count` of a padded buffer.
    fn packed<'w>(&self, buffer: &'w [f32], first: usize, count: usize) -> Rows<'w, f32> {
        let (dim, stride) = (self.dims.dim, self.dims.padded());
        Rows { data: &buffer[first * stride..], stride, count, dim }
    }
}
