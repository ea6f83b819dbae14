//! The kernels and shapes of the table, with their bounds.

use serde::Serialize;
use serde_json::Value;

use super::Bounds;
use crate::{
    device::DType,
    kernels::{Activation, SeqLen},
    lab::cases::{
        ActivationCase, AttentionCase, EmbeddingCase, Kind, KvStoreCase, LinearCase, LogitsCase, LogitsRow,
        LogprobsCase, NormCase, RopeCase, RopeStoreCase, SampleCase, SampleRow,
    },
};

/// A row to count.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Operation and kernel.
    pub kernel: String,
    /// The shape, to read.
    pub shape: String,
    /// As `--case` takes it.
    pub case: Value,
    /// What must hold.
    pub bounds: Bounds,
}

/// How much to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The shapes of Qwen3-0.6B.
    Full,
    /// Fewer heads, outputs and rows with the same ratios, for a test.
    Small,
}

/// Of kernels that are bound by bytes.
const STREAMS: Bounds = Bounds { moved: Some(1.05), sectors: Some(0.95), wavefronts: None, tensor: None };
/// Of tiles on tensor cores; `tensor` is what a case's tiles may waste.
const fn tiles(tensor: f64) -> Bounds {
    Bounds { moved: None, sectors: None, wavefronts: Some(0.02), tensor: Some(tensor) }
}

/// The rows of the table, in its order.
pub fn asks(extent: Extent) -> Vec<Ask> {
    let full = extent == Extent::Full;
    let mut rows = Rows(Vec::new());
    decode(&mut rows, full);
    by_row(&mut rows, full);
    skinny(&mut rows, full);
    products(&mut rows, full);
    if full {
        rest(&mut rows);
    }
    rows.0
}

struct Rows(Vec<Ask>);

impl Rows {
    fn add(&mut self, kernel: &str, shape: String, case: impl Serialize, bounds: Bounds) {
        let case = serde_json::to_value(case).expect("a case is plain data");
        self.0.push(Ask { kernel: kernel.into(), shape, case, bounds });
    }
}

const BF16: DType = DType::Bf16;
const HIDDEN: usize = 1024;
const INTER: usize = 3072;
const VOCAB: usize = 151_936;

fn attention(heads: usize, kv_heads: usize, lens: Vec<SeqLen>) -> AttentionCase {
    AttentionCase {
        dtype: BF16,
        heads,
        kv_heads,
        dim: 128,
        block_size: 256,
        window: None,
        softcap: None,
        lens,
        spread: 1.0,
        seed: 0,
    }
}

fn decode(rows: &mut Rows, full: bool) {
    let seqs = if full { 8 } else { 2 };
    // A group of 16 query heads fills a tile of gqa_packed.
    let whole = Bounds { tensor: Some(1.10), ..Bounds::default() };
    let wide = |kv_heads| if full { kv_heads } else { 1 };
    for (kernel, group, kv_heads, bounds) in [
        ("attention/split_kv", 2, wide(8), STREAMS),
        ("attention/gqa_packed", 2, wide(8), STREAMS),
        ("attention/gqa_packed", 16, 1, whole),
        ("attention/unified", 2, wide(8), STREAMS),
    ] {
        let heads = group * kv_heads;
        let shape = format!("{seqs} sequences of 2,048 keys, {heads} / {kv_heads} heads of 128");
        let lens = vec![SeqLen { q: 1, kv: 2048 }; seqs];
        rows.add(kernel, shape, attention(heads, kv_heads, lens), bounds);
    }
}

fn by_row(rows: &mut Rows, full: bool) {
    for count in if full { &[8, 512][..] } else { &[8] } {
        let count = *count;
        let norm =
            NormCase { dtype: BF16, rows: count, dim: HIDDEN, eps: 1e-6, offset: 0.0, spread: 1.0, seed: 0 };
        for kernel in [
            "rms_norm/block_per_row",
            "rms_norm/warp_per_row",
            "add_rms_norm/block_per_row",
            "add_rms_norm/warp_per_row",
        ] {
            rows.add(kernel, format!("{count} rows of {HIDDEN}"), &norm, STREAMS);
        }
        for (name, activation) in [("SiLU", Activation::Silu), ("GELU by tanh", Activation::GeluTanh)] {
            let case = ActivationCase { dtype: BF16, activation, rows: count, inter: INTER, seed: 0 };
            rows.add("activation/vectorised", format!("{name}, {count} rows of {INTER}"), case, STREAMS);
        }
        let (kv_heads, dim, block_size) = (8, 128, 256);
        let blocks = (2 * count).div_ceil(block_size);
        let case = KvStoreCase {
            dtype: BF16,
            tokens: count,
            kv_heads,
            dim,
            block_size,
            blocks,
            padding: false,
            seed: 0,
        };
        rows.add("kv_store/vectorised", format!("{count} tokens, 8 heads of 128"), case, STREAMS);
        let shape = format!("q/k-norm, {count} tokens, 16 / 8 heads of 128");
        let case = RopeStoreCase::of(rope(count), block_size, false);
        rows.add("rope_store/warp", shape, case, STREAMS);
    }
}

fn rope(tokens: usize) -> RopeCase {
    RopeCase { dtype: BF16, tokens, heads: 16, kv_heads: 8, dim: 128, norm: true, offset: 0.0, seed: 0 }
}

fn linear(m: usize, n: usize, k: usize) -> LinearCase {
    LinearCase { dtype: BF16, out: BF16, m, n, k, bias: false, seed: 0 }
}

fn skinny(rows: &mut Rows, full: bool) {
    let layers =
        [("qkv", 4096, HIDDEN), ("o", HIDDEN, 2048), ("gate_up", 2 * INTER, HIDDEN), ("down", HIDDEN, INTER)];
    let shapes: Vec<(usize, &str, usize, usize)> = if full {
        let at_8 = layers.map(|(name, n, k)| (8, name, n, k));
        at_8.into_iter().chain([1, 16, 32, 64].map(|m| (m, "gate_up", 2 * INTER, HIDDEN))).collect()
    } else {
        vec![(8, "part of down", 256, INTER), (1, "part of gate_up", 3072, HIDDEN)]
    };
    for (m, name, n, k) in shapes {
        rows.add("linear/skinny", format!("{name}: {m} × {k} to {n}"), linear(m, n, k), STREAMS);
    }
}

fn products(rows: &mut Rows, full: bool) {
    let (heads, kv_heads) = if full { (4, 2) } else { (1, 1) };
    let shape = format!("causal, 2,048 tokens, {heads} / {kv_heads} heads of 128");
    let case = attention(heads, kv_heads, vec![SeqLen { q: 2048, kv: 2048 }]);
    rows.add("attention/flash", shape, case, tiles(1.15));
    // Whole tiles: one more chunk of queries at the end of a long context has next to no diagonal.
    let case = attention(heads, kv_heads, vec![SeqLen { q: 128, kv: 2048 }]);
    let shape = format!("128 tokens after 1,920, {heads} / {kv_heads} heads of 128");
    rows.add("attention/flash", shape, case, tiles(1.10));
    let shapes: &[_] = if full {
        &[(512, 2 * INTER, HIDDEN), (512, HIDDEN, INTER), (64, HIDDEN, HIDDEN)]
    } else {
        &[(128, 256, 512), (64, 64, 512)]
    };
    for &(m, n, k) in shapes {
        rows.add("linear/mma_pipelined", format!("{m} × {k} to {n}"), linear(m, n, k), tiles(1.10));
    }
}

/// What no bound is set for, to know.
fn rest(rows: &mut Rows) {
    let none = Bounds::default();
    let case = EmbeddingCase { dtype: BF16, tokens: 8, dim: HIDDEN, vocab: 1000, scale: 1.0, seed: 0 };
    rows.add("embedding/vectorised", format!("8 rows of {HIDDEN}"), case, none);
    rows.add("rope/warp", "q/k-norm, 8 tokens, 16 / 8 heads of 128".into(), rope(8), none);
    rows.add("linear/split_k", format!("64 × {INTER} to {HIDDEN}"), linear(64, HIDDEN, INTER), none);
    let row =
        LogitsRow { params: [0.7, 0.05, 1.1, 0.0, 0.0], history: 100, biases: 0, nan: false, masked: false };
    let case = LogitsCase { vocab: VOCAB, softcap: None, rows: vec![row; 8], seed: 0 };
    rows.add("logits/chunked", format!("min-p and a penalty, 8 rows of {VOCAB}"), case, none);
    let case = LogprobsCase { vocab: VOCAB, top: 20, softcap: None, rows: vec![Kind::LongTail; 8], seed: 0 };
    rows.add("logprobs/radix_select", format!("the 20 likeliest, 8 rows of {VOCAB}"), case, none);
    for (name, kernel, greedy, top_k, top_p) in [
        ("greedy", "sample/greedy", true, 0, 1.0),
        ("plain", "sample/gumbel", false, 0, 1.0),
        ("top-k 20, top-p 0.95", "sample/rejection", false, 20, 0.95),
        ("top-p 0.95", "sample/rejection", false, 0, 0.95),
    ] {
        let row = |key| SampleRow {
            kind: Kind::LongTail,
            greedy,
            temperature: 0.6,
            top_k,
            top_p,
            key,
            position: 7,
        };
        let case = SampleCase { vocab: VOCAB, rows: (0..8).map(row).collect(), seed: 0 };
        rows.add(kernel, format!("{name}, 8 rows of {VOCAB}"), case, none);
    }
}
