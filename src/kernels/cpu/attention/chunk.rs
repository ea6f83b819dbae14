//! One tile against its chunks of keys.

use std::ops::Range;

use half::bf16;

#[cfg(target_arch = "x86_64")]
use super::pairs;
use super::{
    super::{
        super::AttentionArgs,
        RowsMut,
        simd::{self, Float},
    },
    BLOCK, CHUNK, Dims, IN_PLACE, PACK,
    partial::Partial,
    tile::{self, Rows},
};
use crate::device::{Cpu, DType, Simd};

/// What a launch's workers share.
pub struct Call<'a, T> {
    pub simd: Simd,
    pub dims: Dims,
    pub args: &'a AttentionArgs<'a, Cpu>,
    k: &'a [T],
    v: &'a [T],
    /// `[tokens * heads]` rows.
    out: RowsMut<T>,
    /// Whether bf16 is multiplied as such.
    pairs: bool,
}

/// Queries `first..first + count` of a sequence with the heads of `kv_heads` groups. Its rows are in the order of
/// group, query, head.
#[derive(Clone, Copy)]
pub struct Tile {
    pub seq: usize,
    pub first: usize,
    pub count: usize,
    pub kv_head: usize,
    pub kv_heads: usize,
}

/// A worker's buffers, by row where not said otherwise.
pub struct Work<'a> {
    /// Queries, interleaved by block.
    q: &'a mut [f32],
    running: Partial<'a>,
    /// Of the chunk at hand.
    part: Partial<'a>,
    /// `[rows, CHUNK]` scores, then weights.
    p: &'a mut [f32],
    /// `[PACK, padded]` keys.
    k: &'a mut [f32],
    /// `[CHUNK, padded]` values.
    v: &'a mut [f32],
}

impl<'a> Work<'a> {
    pub fn new(dims: Dims, mut all: &'a mut [f32]) -> Self {
        let (rows, padded) = (dims.rows(), dims.padded());
        let mut take = |len: usize| all.split_off_mut(..len).expect("the workspace holds every buffer");
        let mut partial = || Partial::new(dims, rows, take(Partial::len(dims, rows)));
        let (running, part) = (partial(), partial());
        let (q, p) = (take(rows * padded), take(rows * CHUNK));
        Self { q, running, part, p, k: take(PACK * padded), v: take(CHUNK * padded) }
    }
}

impl<'a, T: Float> Call<'a, T> {
    pub fn new(simd: Simd, dims: Dims, args: &'a AttentionArgs<'a, Cpu>, out: RowsMut<T>) -> Self {
        #[cfg(target_arch = "x86_64")]
        let pairs = T::DTYPE == DType::Bf16 && simd == Simd::Avx512Bf16 && pairs::fits(dims.dim);
        #[cfg(not(target_arch = "x86_64"))]
        let pairs = false;
        Self { simd, dims, args, k: args.k_cache.slice(), v: args.v_cache.slice(), out, pairs }
    }

    /// All chunks of a tile, one after the other. `then` is the tile that the worker probably takes next.
    pub fn run_tile(&self, tile: Tile, then: Option<Tile>, mut w: Work<'_>) {
        let rows = self.load_queries(tile, w.q);
        w.running.clear();
        let (oldest, newest) = (self.visible(tile, 0).0, self.visible(tile, tile.count - 1).1);
        for chunk in oldest / CHUNK..newest.div_ceil(CHUNK) {
            let next = if (chunk + 1) * CHUNK < newest {
                Some((tile, chunk + 1))
            } else {
                then.map(|tile| (tile, 0))
            };
            self.chunk(tile, chunk, next, &mut w);
            w.running.fold(self.simd, &w.part, rows);
        }
        self.finish(tile, &w.running);
    }

    /// One chunk of a tile, as a partial result. `then` is what the worker probably takes next.
    pub fn run_chunk<'w>(
        &self,
        (tile, chunk): (Tile, usize),
        then: Option<(Tile, usize)>,
        mut w: Work<'w>,
        mut into: Partial<'w>,
    ) {
        into.clear();
        w.part = into;
        let (oldest, newest) = self.visible(tile, 0);
        if (oldest / CHUNK..newest.div_ceil(CHUNK)).contains(&chunk) {
            self.load_queries(tile, w.q);
            self.chunk(tile, chunk, then, &mut w);
        }
    }

    /// Writes a tile's rows: weighted values over the sum of weights.
    pub fn finish(&self, tile: Tile, of: &Partial<'_>) {
        for row in 0..self.rows(tile) {
            let (token, head) = self.token_head(tile, row);
            // SAFETY: a (token, head) belongs to one tile.
            let out = unsafe { self.out.row(token * self.dims.heads + head) };
            of.write(self.simd, row, out);
        }
    }

    fn rows(&self, tile: Tile) -> usize {
        tile.kv_heads * tile.count * self.dims.group()
    }

    /// The keys `oldest..newest` that query `i` of a tile sees.
    fn visible(&self, tile: Tile, i: usize) -> (usize, usize) {
        let l = self.args.lens[tile.seq];
        let newest = l.kv - l.q + tile.first + i + 1;
        (self.args.window.map_or(0, |w| newest.saturating_sub(w)), newest)
    }

    /// The query of a tile that a row belongs to.
    fn query(&self, tile: Tile, row: usize) -> usize {
        row / self.dims.group() % tile.count
    }

    /// The row of q and out where a tile's row stands: (token, head).
    fn token_head(&self, tile: Tile, row: usize) -> (usize, usize) {
        let starts = self.args.q_start.slice::<i32>();
        let group = self.dims.group();
        let token = (starts[tile.seq] - starts[0]) as usize + tile.first + self.query(tile, row);
        (token, (tile.kv_head + row / (group * tile.count)) * group + row % group)
    }

    /// Fills `q`; returns the number of rows.
    fn load_queries(&self, tile: Tile, q: &mut [f32]) -> usize {
        let (dim, of_group) = (self.dims.dim, tile.count * self.dims.group());
        for row in 0..self.rows(tile) {
            let (token, head) = self.token_head(tile, row);
            let from = &self.args.q.row::<T>(token)[head * dim..][..dim];
            #[cfg(target_arch = "x86_64")]
            if self.pairs {
                let q: &mut [bf16] = bytemuck::cast_slice_mut(q);
                let group = &mut q[row / of_group * of_group * pairs::padded(dim)..];
                // SAFETY: `pairs` is set where the CPU has the instructions.
                unsafe { pairs::pack_query(bytemuck::cast_slice(from), row % of_group, of_group, group) };
                continue;
            }
            let padded = self.dims.padded();
            let group = &mut q[row / of_group * of_group * padded..];
            tile::interleave(from, row % of_group, of_group, group, padded);
        }
        self.rows(tile)
    }

    /// The longest run of keys (or values) from `key` on, up to `end`, that lies in one block of the cache.
    fn run<'c, E>(&self, cache: &'c [E], tile: Tile, key: usize, end: usize) -> Rows<'c, E> {
        let Dims { kv_heads, dim, block_size, .. } = self.dims;
        let (block, at, stride) = (key / block_size, key % block_size, kv_heads * dim);
        let table = self.args.block_table.row::<i32>(tile.seq);
        let first = table[block] as usize * self.args.k_cache.stride() + at * stride + tile.kv_head * dim;
        Rows { data: &cache[first..], stride, count: (block_size - at).min(end - key), dim }
    }

    /// Rows `first..first + count` of a padded buffer.
    fn packed<'w>(&self, buffer: &'w [f32], first: usize, count: usize) -> Rows<'w, f32> {
        let (dim, stride) = (self.dims.dim, self.dims.padded());
        Rows { data: &buffer[first * stride..], stride, count, dim }
    }

    /// Maxima, sums and weighted values of one chunk, to `w.part`. Meanwhile decode in bf16 asks for the keys of `next`.
    fn chunk(&self, tile: Tile, chunk: usize, next: Option<(Tile, usize)>, w: &mut Work<'_>) {
        let begin = chunk * CHUNK;
        let from = self.visible(tile, 0).0.max(begin);
        let end = self.visible(tile, tile.count - 1).1.min(begin + CHUNK);
        match (self.pairs, tile.count) {
            (true, _) => self.scores_by_strips(tile, w, begin, from..end),
            (false, 1) => self.scores_in_place(tile, w, begin, from..end),
            (false, _) => self.scores_packed(tile, w, begin, from..end),
        }
        let (rows, padded) = (self.rows(tile), self.dims.padded());
        let mut row = 0;
        for query in (0..tile.kv_heads).flat_map(|_| 0..tile.count) {
            let (oldest, newest) = self.visible(tile, query);
            let seen = oldest.max(begin) - begin..newest.clamp(begin, begin + CHUNK) - begin;
            for _ in 0..self.dims.group() {
                let p = &mut w.p[row * CHUNK..][..CHUNK];
                [w.part.top[row], w.part.sum[row]] = self.weights(p, seen.clone());
                row += 1;
            }
        }
        w.part.o[..rows * padded].fill(0.0);
        match (self.pairs, tile.count) {
            (true, _) => self.values_by_pairs(tile, w, begin, from..end, next),
            (false, 1) => self.values_in_place(tile, w, begin, from..end),
            (false, _) => self.values_packed(tile, w, begin, from..end),
        }
    }

    /// Scores of a row to weights; the maximum and the sum.
    fn weights(&self, p: &mut [f32], seen: Range<usize>) -> [f32; 2] {
        let mut scale = self.args.scale;
        if let Some(cap) = self.args.softcap.filter(|_| !seen.is_empty()) {
            tile::cap_scores(self.simd, &mut p[seen.clone()], scale, cap);
            scale = 1.0;
        }
        #[cfg(target_arch = "x86_64")]
        if self.pairs {
            // SAFETY: `pairs` is set where the CPU has the instructions.
            return unsafe { pairs::weights(p, seen, scale) };
        }
        tile::weights(self.simd, p, seen, scale)
    }

    /// Scores in bf16: a strip of keys meets every row that sees any of it.
    #[cfg(target_arch = "x86_64")]
    fn scores_by_strips(&self, tile: Tile, w: &mut Work<'_>, begin: usize, keys: Range<usize>) {
        let (group, dim, padded) = (self.dims.group(), self.dims.dim, pairs::padded(self.dims.dim));
        let (of_group, newest) = (tile.count * group, self.visible(tile, 0).1);
        let cache: &[bf16] = bytemuck::cast_slice(self.k);
        let (q, packed) = (bytemuck::cast_slice(w.q), bytemuck::cast_slice_mut(w.k));
        // Blocks of the cache and chunks are whole strips; keys that the tile does not see have memory there, too.
        let strips = keys.start / pairs::STRIP * pairs::STRIP..keys.end.next_multiple_of(pairs::STRIP);
        self.pieces(cache, tile, strips.clone(), CHUNK, |key, run| {
            // The values come while scores are computed, and the next chunk's keys while those are weighted.
            let values = self.run(self.v, tile, key, strips.end).data.as_ptr().cast::<bf16>();
            for at in (0..run.count).step_by(pairs::STRIP) {
                let first = key + at;
                let unseen = (first + 1).saturating_sub(newest) * group / BLOCK * BLOCK;
                for g in 0..tile.kv_heads {
                    let place = at * run.stride + g * dim;
                    let scores = pairs::Scores {
                        q: &q[g * of_group * padded..],
                        rows: unseen..of_group,
                        keys: Rows { data: &run.data[place..], count: pairs::STRIP, ..run },
                        next: values.wrapping_add(place),
                        packed: &mut *packed,
                        out: &mut w.p[g * of_group * CHUNK + first - begin..],
                    };
                    // SAFETY: `pairs` is set where the CPU has the instructions.
                    unsafe { scores.compute() };
                }
            }
        });
    }

    /// Weighted values in bf16. One query reads them where they lie, many have a chunk packed.
    #[cfg(target_arch = "x86_64")]
    fn values_by_pairs(
        &self,
        tile: Tile,
        w: &mut Work<'_>,
        begin: usize,
        keys: Range<usize>,
        next: Option<(Tile, usize)>,
    ) {
        let (group, padded, dim) = (self.dims.group(), self.dims.padded(), self.dims.dim);
        // Pairs begin at even positions; an unseen key before the first has no weight.
        let keys = keys.start & !1..keys.end;
        let cache: &[bf16] = bytemuck::cast_slice(self.v);
        if tile.count == 1 {
            let next = next.map(|(tile, chunk)| {
                let (oldest, newest) = self.visible(tile, 0);
                let first = oldest.max(chunk * CHUNK);
                self.run(self.k, tile, first.min(newest - 1), newest).data.as_ptr().cast::<bf16>()
            });
            return self.pieces(cache, tile, keys.clone(), CHUNK, |key, run| {
                // Nothing comes next: what is at hand is asked for, to no effect.
                let next =
                    next.map_or(run.data.as_ptr(), |p| p.wrapping_add((key - keys.start) * run.stride));
                for g in 0..tile.kv_heads {
                    let v = Rows { data: &run.data[g * dim..], ..run };
                    for row in (0..group).step_by(BLOCK) {
                        let (block, row) = (BLOCK.min(group - row), g * group + row);
                        let (p, o) = (&w.p[row * CHUNK + (key - begin) / 2..], &mut w.part.o[row * padded..]);
                        let weighted = pairs::Weighted::new(p, block, v.count.div_ceil(2), dim, o, padded);
                        // SAFETY: `pairs` is set where the CPU has the instructions.
                        unsafe { weighted.rows(v, next.wrapping_add(g * dim)) };
                    }
                }
            });
        }
        let rows = self.rows(tile);
        self.pieces(cache, tile, keys.clone(), PACK, |key, run| {
            // SAFETY: as above.
            unsafe { pairs::pack_values(run, &mut w.v[(key - keys.start) / 2 * padded..], padded) };
        });
        for row in (0..rows).step_by(BLOCK) {
            let block = BLOCK.min(rows - row);
            let seen = self.visible(tile, self.query(tile, row + block - 1)).1.min(keys.end);
            let pairs = seen.saturating_sub(keys.start).div_ceil(2);
            let (p, o) = (&w.p[row * CHUNK + (keys.start - begin) / 2..], &mut w.part.o[row * padded..]);
            let v = pairs::Packed { data: w.v, stride: padded };
            // SAFETY: as above.
            unsafe { pairs::Weighted::new(p, block, pairs, dim, o, padded).packed(v) };
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn scores_by_strips(&self, _: Tile, _: &mut Work<'_>, _: usize, _: Range<usize>) {
        unreachable!("`pairs` is not set")
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn values_by_pairs(
        &self,
        _: Tile,
        _: &mut Work<'_>,
        _: usize,
        _: Range<usize>,
        _: Option<(Tile, usize)>,
    ) {
        unreachable!("`pairs` is not set")
    }

    /// Runs `f(first key, rows)` over the keys (or values) of the tile's first group, at most `most` at a time.
    fn pieces<'c, E: Copy>(
        &self,
        cache: &'c [E],
        tile: Tile,
        keys: Range<usize>,
        most: usize,
        mut f: impl FnMut(usize, Rows<'c, E>),
    ) {
        let mut key = keys.start;
        while key < keys.end {
            let run = self.run(cache, tile, key, keys.end.min(key + most));
            f(key, run);
            key += run.count;
        }
    }

    /// Runs `f(group, first key, rows)` over the groups of a tile: some keys (or values) for all groups, then the
    /// next, so that memory is read in the order of addresses. Meanwhile the next are asked for.
    fn in_place<'c, E: Copy>(
        &self,
        cache: &'c [E],
        tile: Tile,
        keys: Range<usize>,
        mut f: impl FnMut(usize, usize, Rows<'c, E>),
    ) {
        let dim = self.dims.dim;
        let most = (IN_PLACE / (self.dims.kv_heads * dim * size_of::<E>())).clamp(4, PACK);
        self.pieces(cache, tile, keys, most, |key, run| {
            let piece = run.count * run.stride;
            for g in 0..tile.kv_heads {
                let share = piece + g * piece / tile.kv_heads..piece + (g + 1) * piece / tile.kv_heads;
                tile::prefetch::<{ simd::L1 }, _>(run.data.get(share).unwrap_or_default());
                f(g, key, Rows { data: &run.data[g * dim..], ..run });
            }
        });
    }

    /// Scores of one query.
    fn scores_in_place(&self, tile: Tile, w: &mut Work<'_>, begin: usize, keys: Range<usize>) {
        let group = self.dims.group();
        self.in_place(self.k, tile, keys, |g, key, k| {
            let q = self.packed(w.q, g * group, group);
            tile::scores(self.simd, q, k, &mut w.p[g * group * CHUNK + key - begin..]);
        });
    }

    /// Weighted values of one query.
    fn values_in_place(&self, tile: Tile, w: &mut Work<'_>, begin: usize, keys: Range<usize>) {
        let (group, padded) = (self.dims.group(), self.dims.padded());
        self.in_place(self.v, tile, keys, |g, key, v| {
            for row in (0..group).step_by(BLOCK) {
                let (block, row) = (BLOCK.min(group - row), g * group + row);
                let p = &w.p[row * CHUNK + key - begin..];
                tile::weighted(self.simd, p, block, v, &mut w.part.o[row * padded..], padded);
            }
        });
    }

    /// Scores of many queries: some keys are widened and meet every row that sees them.
    fn scores_packed(&self, tile: Tile, w: &mut Work<'_>, begin: usize, keys: Range<usize>) {
        let rows = self.rows(tile);
        self.pieces(self.k, tile, keys, PACK, |key, run| {
            tile::widen(self.simd, run, w.k, self.dims.padded());
            for row in (0..rows).step_by(BLOCK) {
                let block = BLOCK.min(rows - row);
                let seen = self.visible(tile, self.query(tile, row + block - 1)).1;
                let k = self.packed(w.k, 0, seen.saturating_sub(key).min(run.count));
                let q = self.packed(w.q, row, block);
                tile::scores(self.simd, q, k, &mut w.p[row * CHUNK + key - begin..]);
            }
        });
    }

    /// Weighted values of many queries: the chunk is widened, then each block of rows stays in registers.
    fn values_packed(&self, tile: Tile, w: &mut Work<'_>, begin: usize, keys: Range<usize>) {
        let (rows, padded, from) = (self.rows(tile), self.dims.padded(), keys.start);
        self.pieces(self.v, tile, keys.clone(), PACK, |key, run| {
            tile::widen(self.simd, run, &mut w.v[(key - from) * padded..], padded);
        });
        for row in (0..rows).step_by(BLOCK) {
            let block = BLOCK.min(rows - row);
            let seen = self.visible(tile, self.query(tile, row + block - 1)).1.min(keys.end);
            let v = self.packed(w.v, 0, seen.saturating_sub(from));
            let p = &w.p[row * CHUNK + from - begin..];
            tile::weighted(self.simd, p, block, v, &mut w.part.o[row * padded..], padded);
        }
    }
}
