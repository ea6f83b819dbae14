//! Causal attention over a paged KV cache.
//!
//! Source: PagedAttention, arXiv:2309.06180; grouped queries, arXiv:2305.13245; sliding window as in Hugging
//! Face (`masking_utils.py`); soft-cap as in Gemma 2, arXiv:2408.00118.

/// The constants of one attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`. Query head `h` reads head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Values per head.
    pub head_dim: usize,
    /// Tokens per cache block.
    pub block_size: usize,
    /// Factor on `q · k`, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Query `i` sees key `j` if `j <= i` and `i - j < window`; `None`: every `j <= i`.
    pub window: Option<usize>,
    /// Scores become `cap * tanh(score / cap)`, after scaling and before masking.
    pub softcap: Option<f32>,
}

/// Attention of the new queries of a ragged batch.
///
/// - `q`, `out`: `[tokens, heads, head_dim]`, sequences concatenated
/// - `k_cache`, `v_cache`: `[blocks, block_size, kv_heads, head_dim]`, new tokens already stored
/// - `cu_q`: `[seqs + 1]`; sequence `s` owns tokens `cu_q[s]..cu_q[s + 1]`, its last ones
/// - `block_table`: `[seqs, max_blocks]` block ids; unused entries are never read
/// - `kv_len`: `[seqs]`, in tokens, counting those in `q`
pub fn attention(
    spec: &AttentionSpec,
    q: &[f32],
    k_cache: &[f32],
    v_cache: &[f32],
    cu_q: &[i32],
    block_table: &[i32],
    kv_len: &[i32],
    out: &mut [f32],
) {
    let &AttentionSpec { heads, kv_heads, head_dim, block_size, .. } = spec;
    let scale = f64::from(spec.scale);
    assert_eq!(cu_q.len(), kv_len.len() + 1, "attention: cu_q");
    for (seq, &kv_len) in kv_len.iter().enumerate() {
        let (first, last) = (cu_q[seq] as usize, cu_q[seq + 1] as usize);
        let max_blocks = block_table.len() / (cu_q.len() - 1);
        let blocks = &block_table[seq * max_blocks..][..max_blocks];
        for token in first..last {
            let position = kv_len as usize - (last - token);
            let oldest = spec.window.map_or(0, |w| (position + 1).saturating_sub(w));
            for head in 0..heads {
                let q = &q[(token * heads + head) * head_dim..][..head_dim];
                // Where the cache keeps this head's row of the sequence's token `j`.
                let row = |j: usize| {
                    let slot = blocks[j / block_size] as usize * block_size + j % block_size;
                    let begin = (slot * kv_heads + head / (heads / kv_heads)) * head_dim;
                    begin..begin + head_dim
                };
                let score = |j: usize| {
                    let s: f64 =
                        q.iter().zip(&k_cache[row(j)]).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
                    match spec.softcap.map(f64::from) {
                        Some(cap) => cap * (s * scale / cap).tanh(),
                        None => s * scale,
                    }
                };
                let scores: Vec<f64> = (oldest..=position).map(score).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let total: f64 = weights.iter().sum();
                let mut mean = vec![0.0; head_dim];
                for (j, weight) in (oldest..=position).zip(weights) {
                    for (m, &v) in mean.iter_mut().zip(&v_cache[row(j)]) {
                        *m += weight / total * f64::from(v);
                    }
                }
                let out = &mut out[(token * heads + head) * head_dim..][..head_dim];
                for (o, m) in out.iter_mut().zip(mean) {
                    *o = m as f32;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: AttentionSpec = AttentionSpec {
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        block_size: 4,
        scale: 0.35,
        window: None,
        softcap: None,
    };

    /// Two sequences: 3 new queries over 10 tokens, 1 over 5. Blocks 0..5, the last entry of row 1 unused.
    struct Batch {
        q: Vec<f32>,
        k: Vec<f32>,
        v: Vec<f32>,
        table: [i32; 6],
    }

    impl Batch {
        fn new() -> Self {
            let wave =
                |n: usize, step: f32| -> Vec<f32> { (0..n).map(|i| (i as f32 * step).sin() * 2.0).collect() };
            let spec = SPEC;
            let row = spec.kv_heads * spec.head_dim;
            Self {
                q: wave(4 * spec.heads * spec.head_dim, 0.71),
                k: wave(5 * spec.block_size * row, 1.37),
                v: wave(5 * spec.block_size * row, 2.11),
                table: [0, 1, 2, 3, 4, -1],
            }
        }

        fn run(&self, spec: AttentionSpec) -> Vec<f32> {
            let mut out = vec![f32::NAN; self.q.len()];
            attention(&spec, &self.q, &self.k, &self.v, &[0, 3, 4], &self.table, &[10, 5], &mut out);
            out
        }

        /// The same batch with physical block `b` moved to `to[b]`.
        fn permuted(&self, to: [usize; 5]) -> Self {
            let block = SPEC.block_size * SPEC.kv_heads * SPEC.head_dim;
            let moved = |cache: &[f32]| {
                let mut new = vec![f32::NAN; cache.len()];
                for (b, values) in cache.chunks_exact(block).enumerate() {
                    new[to[b] * block..][..block].copy_from_slice(values);
                }
                new
            };
            Self {
                q: self.q.clone(),
                k: moved(&self.k),
                v: moved(&self.v),
                table: self.table.map(|b| usize::try_from(b).map_or(-1, |b| to[b] as i32)),
            }
        }
    }

    #[test]
    fn two_keys_by_hand() {
        // Scores 0 and ln 3 at scale 1: weights 1/4 and 3/4. The first query sees the first key alone.
        let spec = AttentionSpec { heads: 1, kv_heads: 1, head_dim: 1, scale: 1.0, block_size: 2, ..SPEC };
        let k = [0.0, 3f32.ln()];
        let mut out = [f32::NAN; 2];
        attention(&spec, &[1.0, 1.0], &k, &[4.0, 8.0], &[0, 2], &[0], &[2], &mut out);
        assert_eq!(out[0], 4.0);
        assert!((out[1] - 7.0).abs() < 1e-6, "{out:?}");
    }

    #[test]
    fn softcap_by_hand() {
        // Scores 0 and 2 tanh(1): the weight of the second is 1 / (1 + exp(-2 tanh 1)).
        let spec = AttentionSpec {
            heads: 1,
            kv_heads: 1,
            head_dim: 1,
            scale: 0.5,
            block_size: 2,
            softcap: Some(2.0),
            ..SPEC
        };
        let mut out = [f32::NAN];
        attention(&spec, &[1.0], &[0.0, 4.0], &[0.0, 1.0], &[0, 1], &[0], &[2], &mut out);
        let want = 1.0 / (1.0 + (-2.0 * 1f64.tanh()).exp());
        assert!((f64::from(out[0]) - want).abs() < 1e-7, "{out:?} {want}");
    }

    #[test]
    fn query_heads_share_key_heads_in_groups() {
        // One visible key: every query head returns its group's value row.
        let spec = AttentionSpec { heads: 4, kv_heads: 2, head_dim: 1, block_size: 1, ..SPEC };
        let mut out = [f32::NAN; 4];
        attention(&spec, &[1.0; 4], &[9.0, 9.0], &[5.0, 7.0], &[0, 1], &[0], &[1], &mut out);
        assert_eq!(out, [5.0, 5.0, 7.0, 7.0]);
    }

    #[test]
    fn a_window_of_one_returns_the_own_value_row() {
        let batch = Batch::new();
        let out = batch.run(AttentionSpec { window: Some(1), ..SPEC });
        // Query 2 is token 9 of sequence 0: block 2, offset 1. Head 3 reads key head 1.
        let begin = ((2 * 4 + 1) * 2 + 1) * 8;
        assert_eq!(out[(2 * 4 + 3) * 8..][..8], batch.v[begin..begin + 8]);
    }

    #[test]
    fn the_window_counts_the_query_itself() {
        // Equal scores over values 1, 2, 4, 8: the mean of the last three.
        let spec =
            AttentionSpec { heads: 1, kv_heads: 1, head_dim: 1, block_size: 4, window: Some(3), ..SPEC };
        let mut out = [f32::NAN];
        attention(&spec, &[0.0], &[1.0; 4], &[1.0, 2.0, 4.0, 8.0], &[0, 1], &[0], &[4], &mut out);
        assert_eq!(out, [(14.0f64 / 3.0) as f32]);
    }

    #[test]
    fn a_window_as_long_as_the_sequence_changes_nothing() {
        let batch = Batch::new();
        let full = batch.run(SPEC);
        assert!(full.iter().all(|v| v.is_finite()));
        assert_eq!(batch.run(AttentionSpec { window: Some(10), ..SPEC }), full);
        assert_ne!(batch.run(AttentionSpec { window: Some(9), ..SPEC }), full);
    }

    #[test]
    fn physical_block_order_does_not_matter() {
        let batch = Batch::new();
        let moved = batch.permuted([3, 0, 4, 2, 1]);
        assert_ne!(moved.k, batch.k);
        assert_eq!(moved.run(SPEC), batch.run(SPEC));
    }

    #[test]
    fn whole_prompt_and_token_by_token_agree() {
        let batch = Batch::new();
        let whole = batch.run(SPEC);
        for token in 0..3 {
            let q = &batch.q[token * 32..][..32];
            let mut out = [f32::NAN; 32];
            let kv_len = [8 + token as i32];
            attention(&SPEC, q, &batch.k, &batch.v, &[0, 1], &batch.table[..3], &kv_len, &mut out);
            assert_eq!(out, whole[token * 32..][..32]);
        }
    }
}
