//! Attention: ragged batches over a paged cache whose blocks are in no order.

use lathe_reference::attention::{AttentionSpec, attention};
use serde::{Deserialize, Serialize};

use super::{Bound, Cases, Draw, EPS, FLOATS, HostTensor, Problem, Target, Want, format, noise};
use crate::{
    device::{DType, Device},
    kernels::{Attention, AttentionArgs, SeqLen},
};

/// A case of [`Attention`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttentionCase {
    /// Of q, caches and out.
    pub dtype: DType,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub dim: usize,
    /// Tokens of a block.
    pub block_size: usize,
    /// Sliding window.
    pub window: Option<usize>,
    /// Cap of the scores.
    pub softcap: Option<f32>,
    /// Queries and keys of each sequence.
    pub lens: Vec<SeqLen>,
    /// Standard deviation of q and k. At 1 scores are about normal; at 8 a few keys take all the weight, and a kernel
    /// that does not subtract the maximum overflows.
    pub spread: f32,
    /// Of the values.
    pub seed: u64,
}

fn lens(pairs: &[(usize, usize)]) -> Vec<SeqLen> {
    pairs.iter().map(|&(q, kv)| SeqLen { q, kv }).collect()
}

impl Cases for Attention {
    type Case = AttentionCase;

    fn fixed() -> Vec<AttentionCase> {
        // Prefill, decode, mixtures and chunks; lengths around every block, tile and chunk; empty sequences.
        let batches: [&[(usize, usize)]; 8] = [
            &[(1, 1), (7, 7), (33, 33), (129, 129)],
            &[(1, 129), (1, 128), (1, 127), (1, 300)],
            &[(7, 40), (1, 257), (33, 161), (3, 3)],
            &[(1, 700)],
            &[(65, 193), (1, 16)],
            &[(12, 300), (1, 1)],
            &[(1, 1), (1, 2), (1, 15), (1, 16), (1, 17), (1, 31), (1, 33), (1, 64), (1, 65)],
            &[(0, 0), (5, 5), (0, 20), (1, 40)],
        ];
        let groups = [(1, 1), (4, 2), (3, 1), (8, 2), (5, 1), (6, 1), (7, 1), (8, 1), (9, 3)];
        let mut cases = Vec::new();
        for (i, dim) in [64, 128, 16, 32, 80, 96, 256, 20].into_iter().enumerate() {
            for (j, (heads, kv_heads)) in groups.into_iter().enumerate() {
                let n = i * groups.len() + j;
                // Every combination would take minutes; each pair of neighbours occurs.
                if n % 2 != i % 2 && j > 3 || dim > 128 && heads > 4 {
                    continue;
                }
                cases.push(AttentionCase {
                    dtype: FLOATS[n % 3],
                    heads,
                    kv_heads,
                    dim,
                    block_size: [16, 48, 256][(n / 2) % 3],
                    window: [None, Some(1), None, Some(40), None, Some(200)][n % 6],
                    softcap: [None, None, Some(5.0), None, Some(50.0)][n % 5],
                    lens: lens(batches[n % 8]),
                    spread: [1.0, 1.0, 8.0][n / 3 % 3],
                    seed: n as u64,
                });
            }
        }
        // What most models ask for: no window, no cap, bf16, groups of heads.
        for (n, batch) in batches.into_iter().enumerate() {
            cases.push(AttentionCase {
                dtype: DType::Bf16,
                heads: 4,
                kv_heads: 2,
                dim: [64, 128][n % 2],
                block_size: [16, 256][n / 2 % 2],
                window: None,
                softcap: None,
                lens: lens(batch),
                spread: 1.0,
                seed: 100 + n as u64,
            });
        }
        // Where registers and shared memory are scarcest: large heads, a cap, and as many to a key head as Gemma 2's
        // smallest has, and as a tile of 16 rows takes.
        for (n, (heads, batch)) in [(8, 1), (16, 3), (8, 2)].into_iter().enumerate() {
            cases.push(AttentionCase {
                dtype: [DType::Bf16, DType::F16][n % 2],
                heads,
                kv_heads: 1,
                dim: 256,
                block_size: 16,
                window: [None, Some(200)][n % 2],
                softcap: Some(50.0),
                lens: lens(batches[batch]),
                spread: 3.0,
                seed: 200 + n as u64,
            });
        }
        // More pieces of work than two blocks for each of an A100's 108 multiprocessors: a block takes several.
        cases.push(AttentionCase {
            dtype: DType::Bf16,
            heads: 16,
            kv_heads: 8,
            dim: 64,
            block_size: 16,
            window: None,
            softcap: None,
            lens: (20..50).map(|kv| SeqLen { q: 1, kv }).collect(),
            spread: 1.0,
            seed: 300,
        });
        cases
    }

    fn random(draw: &mut Draw) -> AttentionCase {
        let (dim, group) = (draw.pick(&[64, 64, 128, 128, 16, 32, 80, 96, 256]), draw.size(8));
        let kv_heads = if dim < 128 { draw.size(3) } else { 1 };
        let decode = draw.one_in(2);
        let lens = (0..draw.size(6))
            .map(|_| {
                let kv = draw.size(400);
                let q = if decode { 1 } else { draw.size(kv.min(150)) };
                SeqLen { q, kv }
            })
            .collect();
        AttentionCase {
            dtype: draw.pick(&FLOATS),
            heads: kv_heads * group,
            kv_heads,
            dim,
            block_size: draw.pick(&[16, 32, 48, 256]),
            window: draw.one_in(4).then(|| draw.size(300)),
            softcap: draw.one_in(4).then(|| draw.pick(&[5.0, 30.0, 50.0])),
            lens,
            spread: draw.pick(&[1.0, 1.0, 3.0, 8.0]),
            seed: draw.seed(),
        }
    }

    fn fits(c: &AttentionCase) -> bool {
        let heads = c.kv_heads > 0 && c.heads > 0 && c.heads.is_multiple_of(c.kv_heads) && c.dim > 0;
        let block = c.block_size > 0 && c.block_size.is_multiple_of(16);
        let lens = c.lens.iter().all(|l| l.q <= l.kv) && c.lens.iter().any(|l| l.q > 0);
        let options = c.window != Some(0) && c.softcap.is_none_or(|cap| cap > 0.0) && c.spread > 0.0;
        heads && block && lens && options && c.dtype != DType::I32
    }

    fn seed(case: &mut AttentionCase) -> &mut u64 {
        &mut case.seed
    }

    fn problem(c: &AttentionCase) -> Problem {
        let spec = AttentionSpec {
            heads: c.heads,
            kv_heads: c.kv_heads,
            head_dim: c.dim,
            block_size: c.block_size,
            scale: scale(c),
            window: c.window,
            softcap: c.softcap,
        };
        let cache = Cache::new(c);
        let tokens: usize = c.lens.iter().map(|l| l.q).sum();
        let q = noise(c.dtype, c.seed, tokens * c.heads * c.dim, c.spread.into());
        let mut cu_q = vec![0];
        c.lens.iter().for_each(|l| cu_q.push(cu_q[cu_q.len() - 1] + l.q as i32));
        let kv_len: Vec<i32> = c.lens.iter().map(|l| l.kv as i32).collect();
        let mut want = vec![0.0; q.len()];
        attention(&spec, &q, &cache.k, &cache.v, &cu_q, &cache.table, &kv_len, &mut want);
        let naive = naive(c, &spec, &cache, &q);

        // Twice the naive kernel's errors. Those are not taken for less than what its last rounding and its last few
        // operations may give, so that a case of a few elements does not depend on luck.
        let format = format(c.dtype);
        let half_ulp = |v: f32| 0.5 * format.ulp(v.into());
        let error = |i: usize| (f64::from(naive.out[i]) - f64::from(want[i])).abs();
        let last = (0..want.len()).map(|i| half_ulp(want[i]) + naive.floor[i]).fold(0.0, f64::max);
        let worst = (0..want.len()).map(error).fold(last, f64::max);
        let mean = |of: &dyn Fn(usize) -> f64| {
            ((0..want.len()).map(|i| of(i).powi(2)).sum::<f64>() / want.len() as f64).sqrt()
        };
        let rms = 2.0 * mean(&error).max(mean(&|i| half_ulp(want[i]) / 3f64.sqrt() + naive.floor[i]));
        let out = Target {
            budget: vec![2.0 * worst; want.len()],
            values: want,
            rms: Some(rms),
            naive: Some(naive.out),
        };

        let shape = [cache.blocks, c.block_size, c.kv_heads, c.dim];
        let queries = [tokens, c.heads, c.dim];
        // The first start need not be 0.
        let q_start = cu_q.iter().map(|start| start + 5).collect();
        Problem {
            tensors: vec![
                HostTensor::float("q", c.dtype, q, &queries).apart(1),
                HostTensor::float("k_cache", c.dtype, cache.k, &shape),
                HostTensor::float("v_cache", c.dtype, cache.v, &shape),
                HostTensor::int("block_table", cache.table).reshaped(&[c.lens.len(), cache.width]),
                HostTensor::int("q_start", q_start),
                HostTensor::int("kv_len", kv_len),
                HostTensor::output("out", c.dtype, &queries, Want::Float(out)),
            ],
        }
    }

    fn args<'a, D: Device>(c: &'a AttentionCase, mut t: Bound<'a, D>) -> AttentionArgs<'a, D> {
        AttentionArgs {
            q: t.view("q"),
            k_cache: t.view("k_cache"),
            v_cache: t.view("v_cache"),
            block_table: t.view("block_table"),
            q_start: t.view("q_start"),
            kv_len: t.view("kv_len"),
            lens: &c.lens,
            scale: scale(c),
            window: c.window,
            softcap: c.softcap,
            out: t.out("out"),
        }
    }
}

fn scale(c: &AttentionCase) -> f32 {
    (c.dim as f32).powf(-0.5)
}

/// A paged cache with NaN where no token is.
struct Cache {
    k: Vec<f32>,
    v: Vec<f32>,
    /// `[seqs, width]`; unused entries name a block of NaN.
    table: Vec<i32>,
    width: usize,
    blocks: usize,
}

impl Cache {
    fn new(c: &AttentionCase) -> Self {
        let needs: Vec<usize> = c.lens.iter().map(|l| l.kv.div_ceil(c.block_size)).collect();
        // One block belongs to nobody.
        let blocks = needs.iter().sum::<usize>() + 1;
        let mut draw = Draw::new(c.seed + 1);
        let mut free: Vec<i32> = (0..blocks as i32).collect();
        let nobody = free.swap_remove(draw.below(blocks));
        let width = needs.iter().max().map_or(1, |n| n + 1);
        let mut table = vec![nobody; c.lens.len() * width];
        let row = c.kv_heads * c.dim;
        let mut k = vec![f32::NAN; blocks * c.block_size * row];
        let mut v = k.clone();
        for (s, l) in c.lens.iter().enumerate() {
            let own = &mut table[s * width..][..needs[s]];
            own.iter_mut().for_each(|b| *b = free.swap_remove(draw.below(free.len())));
            let seed = c.seed.wrapping_mul(1000) + 10 * s as u64;
            let keys = noise(c.dtype, seed + 2, l.kv * row, c.spread.into());
            let values = noise(c.dtype, seed + 3, l.kv * row, 1.0);
            for t in 0..l.kv {
                let at = slot(own, t, c.block_size) * row;
                k[at..at + row].copy_from_slice(&keys[t * row..][..row]);
                v[at..at + row].copy_from_slice(&values[t * row..][..row]);
            }
        }
        Self { k, v, table, width, blocks }
    }
}

/// Where the cache keeps a sequence's token `t`.
fn slot(blocks: &[i32], t: usize, block_size: usize) -> usize {
    blocks[t / block_size] as usize * block_size + t % block_size
}

/// What the naive kernel gives.
struct Naive {
    out: Vec<f32>,
    /// What its exponential (2 ulp), its division, its last sum and a score's four roundings may add to its error.
    floor: Vec<f64>,
}

/// The definition in f32, one operation after the other, rounded to the dtype at the end.
fn naive(c: &AttentionCase, spec: &AttentionSpec, cache: &Cache, q: &[f32]) -> Naive {
    let mut naive = Naive { out: Vec::with_capacity(q.len()), floor: Vec::with_capacity(q.len()) };
    let mut queries = q.chunks_exact(c.dim);
    for (s, l) in c.lens.iter().enumerate() {
        let blocks = &cache.table[s * cache.width..][..cache.width];
        for position in l.kv - l.q..l.kv {
            let oldest = c.window.map_or(0, |w| (position + 1).saturating_sub(w));
            for (head, q) in queries.by_ref().take(c.heads).enumerate() {
                let at = |t: usize| {
                    (slot(blocks, t, c.block_size) * c.kv_heads + head / (c.heads / c.kv_heads)) * c.dim
                };
                let scores: Vec<f32> = (oldest..=position)
                    .map(|t| {
                        let dot =
                            q.iter().zip(&cache.k[at(t)..][..c.dim]).fold(0.0, |sum, (a, b)| sum + a * b);
                        let score = dot * spec.scale;
                        c.softcap.map_or(score, |cap| cap * (score / cap).tanh())
                    })
                    .collect();
                let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let largest = scores.iter().fold(0.0, |m: f32, s| m.max(s.abs()));
                let weights: Vec<f32> = scores.iter().map(|s| (s - max).exp()).collect();
                let total: f32 = weights.iter().sum();
                let (mut sums, mut sizes) = (vec![0.0f32; c.dim], vec![0.0f32; c.dim]);
                for (t, w) in (oldest..=position).zip(&weights) {
                    for ((sum, size), v) in sums.iter_mut().zip(&mut sizes).zip(&cache.v[at(t)..][..c.dim]) {
                        *sum += w * v;
                        *size += w * v.abs();
                    }
                }
                let factor = 4.0 * EPS * (1.0 + f64::from(largest)) / f64::from(total);
                naive.out.extend(sums.iter().map(|sum| format(c.dtype).round((sum / total).into())));
                naive.floor.extend(sizes.iter().map(|&size| f64::from(size) * factor));
            }
        }
    }
    naive
}
