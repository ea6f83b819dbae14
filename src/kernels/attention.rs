//! Causal attention over a paged KV cache, for prefill, decode and mixed batches.

use super::{Op, argument, size, want_dtype, want_float, want_shape};
use crate::{
    device::{DType, Device, View, ViewMut},
    error::Result,
};

/// Causal attention of new queries over a paged KV cache.
///
/// Query `i` of a sequence (0-based among its `q` new tokens) stands at position `kv - q + i` and sees the keys up to
/// its own position; with a `window` only the last `window` of them. Sums in f32.
///
/// Oracle: `reference/src/attention.rs`. Source: PagedAttention, arXiv:2309.06180.
pub struct Attention;

/// A sequence's lengths in a batch, known to the host: they size grids and count work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SeqLen {
    /// New tokens (queries).
    pub q: usize,
    /// Keys and values, those of the new tokens included.
    pub kv: usize,
}

/// Arguments of [`Attention`].
pub struct AttentionArgs<'a, D: Device> {
    /// `[tokens, heads, head_dim]`, sequences concatenated; rows may lie apart.
    pub q: View<'a, D>,
    /// `[blocks, block_size, kv_heads, head_dim]`.
    pub k_cache: View<'a, D>,
    /// As `k_cache`.
    pub v_cache: View<'a, D>,
    /// `[seqs, max_blocks]` i32 block ids; entries past a sequence's length are never read.
    pub block_table: View<'a, D>,
    /// `[seqs + 1]` i32: where each sequence's queries start, counted from the first one's start. The first entry
    /// need not be 0: only differences to it count.
    pub q_start: View<'a, D>,
    /// `[seqs]` i32, in tokens, counting those in `q`.
    pub kv_len: View<'a, D>,
    /// The same lengths on the host, `seqs` of them.
    pub lens: &'a [SeqLen],
    /// Factor of the scores, positive; usually `head_dim^-0.5`.
    pub scale: f32,
    /// Sliding window in tokens, the query's own included.
    pub window: Option<usize>,
    /// `cap * tanh(score / cap)` after scaling.
    pub softcap: Option<f32>,
    /// `[tokens, heads, head_dim]`, q's dtype, contiguous.
    pub out: ViewMut<'a, D>,
}

/// What a kernel of [`Attention`] may depend on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Of q, caches and out.
    pub dtype: DType,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Tokens of a cache block.
    pub block_size: usize,
    /// Whether a window applies.
    pub window: bool,
    /// Whether scores are capped.
    pub softcap: bool,
    /// Whether every sequence has exactly one query.
    pub decode: bool,
}

impl Op for Attention {
    const NAME: &'static str = "attention";
    type Args<'a, D: Device> = AttentionArgs<'a, D>;
    type Spec = AttentionSpec;

    fn spec<D: Device>(a: &AttentionArgs<'_, D>) -> AttentionSpec {
        let (&[_, heads, head_dim], &[_, block_size, kv_heads, _]) = (a.q.shape(), a.k_cache.shape()) else {
            unreachable!("checked")
        };
        AttentionSpec {
            dtype: a.q.dtype(),
            heads,
            kv_heads,
            head_dim,
            block_size,
            window: a.window.is_some(),
            softcap: a.softcap.is_some(),
            decode: a.lens.iter().all(|l| l.q == 1),
        }
    }

    fn check<D: Device>(a: &AttentionArgs<'_, D>) -> Result<()> {
        let op = Self::NAME;
        let (q, cache, seqs) = (a.q.shape(), a.k_cache.shape(), a.lens.len());
        argument(op, q.len() == 3, "rank of q", || (format!("{q:?}"), "[tokens, heads, head_dim]".into()))?;
        argument(op, cache.len() == 4, "rank of k_cache", || {
            (format!("{cache:?}"), "[blocks, block_size, kv_heads, head_dim]".into())
        })?;
        want_float(op, "q", a.q.dtype())?;
        want_dtype(op, "k_cache", a.k_cache.dtype(), a.q.dtype())?;
        want_dtype(op, "v_cache", a.v_cache.dtype(), a.q.dtype())?;
        want_dtype(op, "out", a.out.dtype(), a.q.dtype())?;
        want_dtype(op, "block_table", a.block_table.dtype(), DType::I32)?;
        want_dtype(op, "q_start", a.q_start.dtype(), DType::I32)?;
        want_dtype(op, "kv_len", a.kv_len.dtype(), DType::I32)?;
        want_shape(op, "k_cache", cache, &[cache[0], cache[1], cache[2], q[2]])?;
        want_shape(op, "v_cache", a.v_cache.shape(), cache)?;
        want_shape(op, "out", a.out.shape(), q)?;
        want_shape(op, "kv_len", a.kv_len.shape(), &[seqs])?;
        want_shape(op, "q_start", a.q_start.shape(), &[seqs + 1])?;
        let table = a.block_table.shape();
        argument(op, table.len() == 2, "rank of block_table", || {
            (format!("{table:?}"), "[seqs, max_blocks]".into())
        })?;
        want_shape(op, "block_table", table, &[seqs, table[1]])?;
        argument(op, cache[2] > 0 && q[1] % cache[2] == 0, "heads", || {
            (q[1].to_string(), format!("a multiple of {} kv_heads", cache[2]))
        })?;
        argument(op, cache[1] > 0 && cache[1] % 16 == 0, "block_size", || {
            (cache[1].to_string(), "a multiple of 16".into())
        })?;
        let tokens: usize = a.lens.iter().map(|l| l.q).sum();
        want_shape(op, "q", q, &[tokens, q[1], q[2]])?;
        // One comparison each, no division: a step asks for every layer.
        let most = table[1] * cache[1];
        if let Some(l) = a.lens.iter().find(|l| l.q > l.kv || l.kv > most) {
            argument(op, l.q <= l.kv, "kv_len", || {
                (l.kv.to_string(), format!("at least its {} new tokens", l.q))
            })?;
            argument(op, false, "kv_len", || {
                (l.kv.to_string(), format!("at most {} blocks of {}", table[1], cache[1]))
            })?;
        }
        // Kernels take maxima before the factor.
        let scale = a.scale.is_finite() && a.scale > 0.0;
        argument(op, scale, "scale", || (a.scale.to_string(), "finite and positive".into()))?;
        argument(op, a.window != Some(0), "window", || ("0".into(), "at least 1".into()))?;
        argument(op, a.softcap.is_none_or(|c| c > 0.0), "softcap", || {
            (format!("{:?}", a.softcap), "positive".into())
        })
    }

    fn bytes<D: Device>(a: &AttentionArgs<'_, D>) -> u64 {
        let row = a.k_cache.elements() / a.k_cache.shape()[..2].iter().product::<usize>().max(1);
        let kv: usize = a.lens.iter().map(|l| seen(l, a.window)).sum();
        let table: usize = a.lens.iter().map(|l| seen(l, a.window).div_ceil(a.k_cache.shape()[1]) * 4).sum();
        let lens = size(&a.kv_len) + size(&a.q_start);
        2 * size(&a.q) + (2 * kv * row * a.q.dtype().size() + table) as u64 + lens
    }

    fn flops<D: Device>(a: &AttentionArgs<'_, D>) -> u64 {
        let pairs: u64 = a.lens.iter().map(|l| pairs(l, a.window)).sum();
        4 * pairs * (a.q.shape()[1] * a.q.shape()[2]) as u64
    }
}

/// Keys of a sequence that some query sees.
fn seen(l: &SeqLen, window: Option<usize>) -> usize {
    window.map_or(l.kv, |w| l.kv.min(l.q + w - 1))
}

/// (query, key) pairs of a sequence that the mask leaves.
fn pairs(l: &SeqLen, window: Option<usize>) -> u64 {
    (l.kv - l.q + 1..=l.kv).map(|n| window.map_or(n, |w| n.min(w)) as u64).sum()
}
