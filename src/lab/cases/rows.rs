//! Operations that work row by row: embedding, linear, norms, rope, KV store, gated activations.

use lathe_reference::{self as oracle, activation::Activation};
use serde::{Deserialize, Serialize};

use super::{Bound, Cases, Draw, EPS, FLOATS, HostTensor, Problem, Target, Want, format, noise, sum_error};
use crate::{
    device::{DType, Device},
    kernels::{
        ActivationArgs, AddRmsNorm, AddRmsNormArgs, Embedding, EmbeddingArgs, GatedActivation, KvStore,
        KvStoreArgs, Linear, LinearArgs, RmsNorm, RmsNormArgs, Rope, RopeArgs,
    },
};

/// Rows and lengths that cross every vector, warp and block edge.
const SHAPES: [(usize, usize); 9] =
    [(1, 1), (1, 7), (7, 33), (3, 129), (33, 64), (129, 80), (5, 1030), (2, 1024), (1, 4096)];

/// A row's length: often one that models have.
fn row_length(draw: &mut Draw, most: usize) -> usize {
    let size = draw.size(most);
    if draw.one_in(2) { size.next_multiple_of(16) } else { size }
}

/// A case of [`Embedding`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields of the operation's arguments")]
pub struct EmbeddingCase {
    pub dtype: DType,
    pub tokens: usize,
    pub dim: usize,
    pub vocab: usize,
    pub scale: f32,
    pub seed: u64,
}

impl Cases for Embedding {
    type Case = EmbeddingCase;

    fn fixed() -> Vec<EmbeddingCase> {
        let scales = [1.0, 33.94].into_iter().cycle();
        let mut cases = Vec::new();
        for (dtype, ((tokens, dim), scale)) in
            FLOATS.into_iter().flat_map(|d| SHAPES.into_iter().zip(scales.clone()).map(move |s| (d, s)))
        {
            cases.push(EmbeddingCase { dtype, tokens, dim, vocab: 50, scale, seed: 1 });
        }
        cases
    }

    fn random(draw: &mut Draw) -> EmbeddingCase {
        EmbeddingCase {
            dtype: draw.pick(&FLOATS),
            tokens: draw.size(200),
            dim: row_length(draw, 1024),
            vocab: draw.size(300),
            scale: draw.pick(&[1.0, 8.0, 33.94]),
            seed: draw.seed(),
        }
    }

    fn fits(c: &EmbeddingCase) -> bool {
        c.tokens > 0 && c.dim > 0 && c.vocab > 0
    }

    fn seed(case: &mut EmbeddingCase) -> &mut u64 {
        &mut case.seed
    }

    fn problem(c: &EmbeddingCase) -> Problem {
        let table = noise(c.dtype, c.seed, c.vocab * c.dim, 1.0);
        let mut draw = Draw::new(c.seed + 1);
        // Now and then a token that could not be drawn.
        let ids: Vec<i32> =
            (0..c.tokens).map(|t| if t % 9 == 8 { -1 } else { draw.below(c.vocab) as i32 }).collect();
        let mut out = vec![0.0; c.tokens * c.dim];
        oracle::embedding::embedding(&table, &ids, c.dim, c.scale, &mut out);
        let want = Want::Float(Target::exact(out));
        Problem {
            tensors: vec![
                HostTensor::int("ids", ids),
                HostTensor::float("table", c.dtype, table, &[c.vocab, c.dim]).apart(8),
                HostTensor::output("out", c.dtype, &[c.tokens, c.dim], want),
            ],
        }
    }

    fn args<'a, D: Device>(c: &'a EmbeddingCase, mut t: Bound<'a, D>) -> EmbeddingArgs<'a, D> {
        EmbeddingArgs { ids: t.view("ids"), table: t.view("table"), scale: c.scale, out: t.out("out") }
    }
}

/// A case of [`Linear`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields of the operation's arguments")]
pub struct LinearCase {
    pub dtype: DType,
    pub out: DType,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub bias: bool,
    pub seed: u64,
}

impl Cases for Linear {
    type Case = LinearCase;

    fn fixed() -> Vec<LinearCase> {
        let shapes = [
            (1, 1, 1),
            (7, 5, 33),
            (3, 17, 129),
            (1, 64, 256),
            (1, 200, 1030),
            (2, 46, 1040),
            (2, 33, 64),
            (8, 72, 136),
            (16, 128, 64),
            (17, 129, 80),
            (33, 64, 512),
            (64, 96, 128),
            (65, 256, 32),
            (129, 130, 72),
            (200, 136, 264),
        ];
        let outs = FLOATS
            .into_iter()
            .flat_map(|d| if d == DType::F32 { vec![(d, d)] } else { vec![(d, d), (d, DType::F32)] });
        let mut cases = Vec::new();
        for (dtype, out) in outs {
            for (i, (m, n, k)) in shapes.into_iter().enumerate() {
                cases.push(LinearCase { dtype, out, m, n, k, bias: i % 3 == 1, seed: 1 });
            }
        }
        cases
    }

    fn random(draw: &mut Draw) -> LinearCase {
        let dtype = draw.pick(&FLOATS);
        let (mut m, n, k) = (draw.size(200), row_length(draw, 300), row_length(draw, 1100));
        while m * n * k > 4 << 20 {
            m = m.div_ceil(2);
        }
        let out = if draw.one_in(4) { DType::F32 } else { dtype };
        LinearCase { dtype, out, m, n, k, bias: draw.one_in(3), seed: draw.seed() }
    }

    fn fits(c: &LinearCase) -> bool {
        c.m > 0 && c.n > 0 && c.k > 0 && c.dtype != DType::I32 && (c.out == c.dtype || c.out == DType::F32)
    }

    fn seed(case: &mut LinearCase) -> &mut u64 {
        &mut case.seed
    }

    fn problem(c: &LinearCase) -> Problem {
        let (x, w) = (noise(c.dtype, c.seed, c.m * c.k, 1.0), noise(c.dtype, c.seed + 1, c.n * c.k, 1.0));
        let bias = c.bias.then(|| noise(c.dtype, c.seed + 2, c.n, 1.0));
        let mut out = vec![0.0; c.m * c.n];
        oracle::linear::linear(&x, &w, bias.as_deref(), c.k, &mut out);
        // |x| · |w| bounds every partial sum; by the rows' lengths it is at most their product.
        let norm = |row: &[f32]| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let rows: Vec<f64> = x.chunks_exact(c.k).map(norm).collect();
        let columns: Vec<f64> = w.chunks_exact(c.k).map(norm).collect();
        let largest_bias = bias.iter().flatten().fold(0.0, |max: f64, b| max.max(b.abs().into()));
        let target = Target::new(out, |i| {
            sum_error(c.k) * rows[i / c.n] * columns[i % c.n] + 2.0 * EPS * largest_bias
        });
        let mut tensors = vec![
            HostTensor::float("x", c.dtype, x, &[c.m, c.k]).apart(8),
            HostTensor::float("weight", c.dtype, w, &[c.n, c.k]),
            HostTensor::output("out", c.out, &[c.m, c.n], Want::Float(target)),
        ];
        tensors.extend(bias.map(|b| HostTensor::float("bias", c.dtype, b, &[c.n])));
        Problem { tensors }
    }

    fn args<'a, D: Device>(_: &'a LinearCase, mut t: Bound<'a, D>) -> LinearArgs<'a, D> {
        LinearArgs { x: t.view("x"), weight: t.view("weight"), bias: t.get("bias"), out: t.out("out") }
    }
}

/// A case of [`RmsNorm`] and [`AddRmsNorm`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields of the operation's arguments")]
pub struct NormCase {
    pub dtype: DType,
    pub rows: usize,
    pub dim: usize,
    pub eps: f32,
    pub offset: f32,
    /// Standard deviation of x: at 1e-3 eps counts, at 200 squares overflow f16.
    pub spread: f32,
    pub seed: u64,
}

impl NormCase {
    fn all() -> Vec<Self> {
        let spreads = [1.0, 1e-3, 1.0, 200.0, 1.0].into_iter().cycle();
        let offsets = [0.0, 1.0].into_iter().cycle();
        let shapes = FLOATS.into_iter().flat_map(|dtype| SHAPES.map(|shape| (dtype, shape)));
        let all = shapes.zip(offsets.zip(spreads));
        all.map(|((dtype, (rows, dim)), (offset, spread))| Self {
            dtype,
            rows,
            dim,
            eps: 1e-6,
            offset,
            spread,
            seed: 1,
        })
        .collect()
    }

    fn draw(draw: &mut Draw) -> Self {
        Self {
            dtype: draw.pick(&FLOATS),
            rows: draw.size(200),
            dim: row_length(draw, 2048),
            eps: draw.pick(&[1e-6, 1e-5]),
            offset: draw.pick(&[0.0, 1.0]),
            spread: draw.pick(&[1.0, 1.0, 1e-3, 200.0]),
            seed: draw.seed(),
        }
    }

    fn is_possible(&self) -> bool {
        self.rows > 0 && self.dim > 0 && self.dtype != DType::I32 && self.eps > 0.0 && self.spread > 0.0
    }

    fn x(&self) -> Vec<f32> {
        noise(self.dtype, self.seed, self.rows * self.dim, self.spread.into())
    }

    fn weight(&self) -> Vec<f32> {
        noise(self.dtype, self.seed + 1, self.dim, 1.0)
    }
}

/// Relative error of a norm's factor times x and weight: half of that of the sum of squares, and a few roundings of
/// the mean, the root and the products.
fn norm_error(dim: usize) -> f64 {
    sum_error(dim) / 2.0 + 6.0 * EPS
}

impl Cases for RmsNorm {
    type Case = NormCase;

    fn fixed() -> Vec<NormCase> {
        NormCase::all()
    }

    fn random(draw: &mut Draw) -> NormCase {
        NormCase::draw(draw)
    }

    fn fits(case: &NormCase) -> bool {
        case.is_possible()
    }

    fn seed(case: &mut NormCase) -> &mut u64 {
        &mut case.seed
    }

    fn problem(c: &NormCase) -> Problem {
        let (x, weight) = (c.x(), c.weight());
        let mut out = vec![0.0; x.len()];
        oracle::rms_norm::rms_norm(&x, &weight, c.eps, c.offset, &mut out);
        let sizes = out.clone();
        let target = Target::new(out, |i| f64::from(sizes[i]).abs() * norm_error(c.dim));
        Problem {
            tensors: vec![
                HostTensor::float("x", c.dtype, x, &[c.rows, c.dim]).apart(8),
                HostTensor::float("weight", c.dtype, weight, &[c.dim]),
                HostTensor::output("out", c.dtype, &[c.rows, c.dim], Want::Float(target)),
            ],
        }
    }

    fn args<'a, D: Device>(c: &'a NormCase, mut t: Bound<'a, D>) -> RmsNormArgs<'a, D> {
        let (x, weight) = (t.view("x"), t.view("weight"));
        RmsNormArgs { x, weight, eps: c.eps, offset: c.offset, out: t.out("out") }
    }
}

impl Cases for AddRmsNorm {
    type Case = NormCase;

    fn fixed() -> Vec<NormCase> {
        NormCase::all()
    }

    fn random(draw: &mut Draw) -> NormCase {
        NormCase::draw(draw)
    }

    fn fits(case: &NormCase) -> bool {
        case.is_possible()
    }

    fn seed(case: &mut NormCase) -> &mut u64 {
        &mut case.seed
    }

    fn problem(c: &NormCase) -> Problem {
        let (x, weight) = (c.x(), c.weight());
        let residual = noise(c.dtype, c.seed + 2, x.len(), c.spread.into());
        let (mut sum, mut out) = (residual.clone(), vec![0.0; x.len()]);
        let round = |v: f32| format(c.dtype).round(v.into());
        oracle::add_rms_norm::add_rms_norm(&x, &mut sum, &weight, c.eps, c.offset, round, &mut out);
        let sizes = out.clone();
        let target = Target::new(out, |i| f64::from(sizes[i]).abs() * norm_error(c.dim));
        let shape = [c.rows, c.dim];
        Problem {
            tensors: vec![
                HostTensor::float("x", c.dtype, x, &shape).apart(8),
                HostTensor::float("weight", c.dtype, weight, &[c.dim]),
                // One f32 addition, rounded once more: exact.
                HostTensor::float("residual", c.dtype, residual, &shape)
                    .wanted(Want::Float(Target::exact(sum))),
                HostTensor::output("out", c.dtype, &shape, Want::Float(target)),
            ],
        }
    }

    fn args<'a, D: Device>(c: &'a NormCase, mut t: Bound<'a, D>) -> AddRmsNormArgs<'a, D> {
        AddRmsNormArgs {
            x: t.view("x"),
            residual: t.out("residual"),
            weight: t.view("weight"),
            eps: c.eps,
            offset: c.offset,
            out: t.out("out"),
        }
    }
}

/// A case of [`Rope`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields of the operation's arguments")]
pub struct RopeCase {
    pub dtype: DType,
    pub tokens: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
    pub norm: bool,
    pub offset: f32,
    pub seed: u64,
}

/// Positions in the table of cosines and sines.
const POSITIONS: usize = 40;
/// Of the q/k-norm.
const ROPE_EPS: f32 = 1e-5;

impl Cases for Rope {
    type Case = RopeCase;

    fn fixed() -> Vec<RopeCase> {
        let mut cases = Vec::new();
        for dtype in FLOATS {
            for (i, (dim, heads, kv_heads)) in [
                (16, 3, 1),
                (32, 4, 2),
                (64, 9, 3),
                (80, 2, 2),
                (96, 1, 1),
                (128, 8, 1),
                (256, 2, 1),
                (6, 1, 1),
            ]
            .into_iter()
            .enumerate()
            {
                for (norm, offset) in [(false, 0.0), (true, 0.0), (true, 1.0)] {
                    let tokens = [1, 7, 33, 2][i % 4];
                    cases.push(RopeCase { dtype, tokens, heads, kv_heads, dim, norm, offset, seed: 1 });
                }
            }
        }
        cases
    }

    fn random(draw: &mut Draw) -> RopeCase {
        RopeCase {
            dtype: draw.pick(&FLOATS),
            tokens: draw.size(130),
            heads: draw.size(9),
            kv_heads: draw.size(4),
            dim: draw.pick(&[8, 16, 32, 64, 64, 80, 96, 128, 128, 256]),
            norm: draw.one_in(2),
            offset: draw.pick(&[0.0, 1.0]),
            seed: draw.seed(),
        }
    }

    fn fits(c: &RopeCase) -> bool {
        c.tokens > 0
            && c.heads > 0
            && c.kv_heads > 0
            && c.dim > 0
            && c.dim.is_multiple_of(2)
            && c.dtype != DType::I32
    }

    fn seed(case: &mut RopeCase) -> &mut u64 {
        &mut case.seed
    }

    fn problem(c: &RopeCase) -> Problem {
        let &RopeCase { dtype, tokens, heads, kv_heads, dim, .. } = c;
        let all = heads + 2 * kv_heads;
        let qkv = noise(dtype, c.seed, tokens * all * dim, 1.0);
        let norms = [noise(dtype, c.seed + 1, dim, 1.0), noise(dtype, c.seed + 2, dim, 1.0)];
        let mut draw = Draw::new(c.seed + 3);
        let at: Vec<i32> = (0..tokens).map(|_| draw.below(POSITIONS) as i32).collect();
        let inv_freq = oracle::rope::inv_freq_default(dim, 1e4);
        let angles = |p: usize| inv_freq.iter().map(move |f| p as f32 * f);
        let cos_sin: Vec<f32> =
            (0..POSITIONS).flat_map(|p| angles(p).map(f32::cos).chain(angles(p).map(f32::sin))).collect();
        let mut want = qkv.clone();
        let mut sizes = vec![0.0; want.len()];
        for (t, token) in want.chunks_exact_mut(all * dim).enumerate() {
            for (h, head) in token.chunks_exact_mut(dim).enumerate().take(heads + kv_heads) {
                if c.norm {
                    let before = head.to_vec();
                    let weight = &norms[usize::from(h >= heads)];
                    oracle::rms_norm::rms_norm(&before, weight, ROPE_EPS, c.offset, head);
                }
                for i in 0..dim {
                    let pair = head[i % (dim / 2)].abs() + head[i % (dim / 2) + dim / 2].abs();
                    sizes[(t * all + h) * dim + i] = f64::from(pair);
                }
                oracle::rope::rope_from_table(head, &at[t..=t], &cos_sin, dim);
            }
        }
        // Two products and a sum of the pair, normalised or as it was; the v heads stay, so their size is 0.
        let error = 2.0 * EPS + if c.norm { norm_error(dim) } else { 0.0 };
        let target = Target::new(want, |i| sizes[i] * error);
        let mut tensors = vec![
            HostTensor::float("cos_sin", DType::F32, cos_sin, &[POSITIONS, dim]),
            HostTensor::int("positions", at),
            HostTensor::float("qkv", dtype, qkv, &[tokens, all, dim]).wanted(Want::Float(target)),
        ];
        if c.norm {
            let [q, k] = norms;
            tensors.push(HostTensor::float("q_norm", dtype, q, &[dim]));
            tensors.push(HostTensor::float("k_norm", dtype, k, &[dim]));
        }
        Problem { tensors }
    }

    fn args<'a, D: Device>(c: &'a RopeCase, mut t: Bound<'a, D>) -> RopeArgs<'a, D> {
        RopeArgs {
            qkv: t.out("qkv"),
            heads: c.heads,
            kv_heads: c.kv_heads,
            qk_norm: c.norm.then(|| [t.view("q_norm"), t.view("k_norm")]),
            eps: ROPE_EPS,
            offset: c.offset,
            cos_sin: t.view("cos_sin"),
            positions: t.view("positions"),
        }
    }
}

/// Slots of `tokens` tokens below `all` in a random order, each at most once; with padding every fifth or so is none.
pub(super) fn slots(seed: u64, tokens: usize, all: usize, padding: bool) -> Vec<i32> {
    let mut draw = Draw::new(seed);
    let mut free: Vec<i32> = (0..all as i32).collect();
    (0..tokens)
        .map(|_| {
            let slot = free.swap_remove(draw.below(free.len()));
            if draw.one_in(5) && padding { -1 } else { slot }
        })
        .collect()
}

/// A case of [`KvStore`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields of the operation's arguments")]
pub struct KvStoreCase {
    pub dtype: DType,
    pub tokens: usize,
    pub kv_heads: usize,
    pub dim: usize,
    pub block_size: usize,
    pub blocks: usize,
    /// Whether every fifth token or so has no place.
    pub padding: bool,
    pub seed: u64,
}

impl Cases for KvStore {
    type Case = KvStoreCase;

    fn fixed() -> Vec<KvStoreCase> {
        let mut cases = Vec::new();
        for dtype in FLOATS {
            for (tokens, kv_heads, dim, block_size) in
                [(1usize, 1, 16, 16), (7, 3, 80, 16), (33, 2, 64, 48), (129, 1, 20, 16), (20, 8, 128, 256)]
            {
                let blocks = (2 * tokens).div_ceil(block_size) + 1;
                cases.push(KvStoreCase {
                    dtype,
                    tokens,
                    kv_heads,
                    dim,
                    block_size,
                    blocks,
                    padding: true,
                    seed: 1,
                });
            }
        }
        cases
    }

    fn random(draw: &mut Draw) -> KvStoreCase {
        let (tokens, block_size) = (draw.size(200), draw.pick(&[16, 32, 48, 256]));
        KvStoreCase {
            dtype: draw.pick(&FLOATS),
            tokens,
            kv_heads: draw.size(4),
            dim: draw.pick(&[16, 32, 64, 80, 96, 128, 20]),
            block_size,
            blocks: (2 * tokens).div_ceil(block_size) + draw.below(3),
            padding: true,
            seed: draw.seed(),
        }
    }

    fn fits(c: &KvStoreCase) -> bool {
        let sizes = c.kv_heads > 0 && c.dim > 0 && c.block_size > 0 && c.block_size.is_multiple_of(16);
        sizes && c.tokens > 0 && c.blocks * c.block_size >= c.tokens && c.dtype != DType::I32
    }

    fn seed(case: &mut KvStoreCase) -> &mut u64 {
        &mut case.seed
    }

    fn problem(c: &KvStoreCase) -> Problem {
        let row = c.kv_heads * c.dim;
        let (k, v) =
            (noise(c.dtype, c.seed, c.tokens * row, 1.0), noise(c.dtype, c.seed + 1, c.tokens * row, 1.0));
        let slots = slots(c.seed + 2, c.tokens, c.blocks * c.block_size, c.padding);
        let shape = [c.blocks, c.block_size, c.kv_heads, c.dim];
        let caches = [c.seed + 3, c.seed + 4].map(|seed| noise(c.dtype, seed, shape.iter().product(), 1.0));
        let [mut want_k, mut want_v] = caches.clone();
        oracle::kv_store::kv_store(&k, &v, &slots, row, &mut want_k, &mut want_v);
        let [k_cache, v_cache] = caches;
        let new = [c.tokens, c.kv_heads, c.dim];
        let cache = |name, before, want| {
            HostTensor::float(name, c.dtype, before, &shape).wanted(Want::Float(Target::exact(want)))
        };
        Problem {
            tensors: vec![
                HostTensor::float("k", c.dtype, k, &new).apart(1),
                HostTensor::float("v", c.dtype, v, &new).apart(1),
                HostTensor::int("slots", slots),
                cache("k_cache", k_cache, want_k),
                cache("v_cache", v_cache, want_v),
            ],
        }
    }

    fn args<'a, D: Device>(_: &'a KvStoreCase, mut t: Bound<'a, D>) -> KvStoreArgs<'a, D> {
        KvStoreArgs {
            k: t.view("k"),
            v: t.view("v"),
            slots: t.view("slots"),
            k_cache: t.out("k_cache"),
            v_cache: t.out("v_cache"),
        }
    }
}

/// A case of [`GatedActivation`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields of the operation's arguments")]
pub struct ActivationCase {
    pub dtype: DType,
    #[serde(with = "gate")]
    pub activation: Activation,
    pub rows: usize,
    pub inter: usize,
    pub seed: u64,
}

/// The gate's function as text.
mod gate {
    use super::Activation;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    const NAMES: [(&str, Activation); 3] =
        [("silu", Activation::Silu), ("gelu_tanh", Activation::GeluTanh), ("gelu_erf", Activation::GeluErf)];

    pub fn serialize<S: Serializer>(gate: &Activation, to: S) -> Result<S::Ok, S::Error> {
        let name = NAMES.iter().find(|(_, g)| g == gate).map_or("", |(name, _)| name);
        to.serialize_str(name)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Activation, D::Error> {
        let text = String::deserialize(from)?;
        let found = NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, gate)| *gate).ok_or_else(|| D::Error::custom(format!("no activation {text:?}")))
    }
}

impl Cases for GatedActivation {
    type Case = ActivationCase;

    fn fixed() -> Vec<ActivationCase> {
        let mut cases = Vec::new();
        for dtype in FLOATS {
            for activation in [Activation::Silu, Activation::GeluTanh, Activation::GeluErf] {
                for (rows, inter) in [(1, 1), (7, 33), (3, 129), (33, 256), (2, 1030)] {
                    cases.push(ActivationCase { dtype, activation, rows, inter, seed: 1 });
                }
            }
        }
        cases
    }

    fn random(draw: &mut Draw) -> ActivationCase {
        ActivationCase {
            dtype: draw.pick(&FLOATS),
            activation: draw.pick(&[Activation::Silu, Activation::GeluTanh, Activation::GeluErf]),
            rows: draw.size(100),
            inter: row_length(draw, 1024),
            seed: draw.seed(),
        }
    }

    fn fits(c: &ActivationCase) -> bool {
        c.rows > 0 && c.inter > 0 && c.dtype != DType::I32
    }

    fn seed(case: &mut ActivationCase) -> &mut u64 {
        &mut case.seed
    }

    fn problem(c: &ActivationCase) -> Problem {
        // Wide enough to reach both tails of the gate.
        let x = noise(c.dtype, c.seed, c.rows * 2 * c.inter, 3.0);
        let mut out = vec![0.0; c.rows * c.inter];
        oracle::activation::gated(c.activation, &x, c.inter, &mut out);
        let sizes = out.clone();
        // The exponential's argument is as wrong as its magnitude allows (x² / 2, or 1.6 x + …, times a few
        // roundings), the exponential by 2 ulp, and some six roundings follow. The oracle's erf cancels to 1e-15 in
        // the lower tail.
        let target = Target::new(out, |i| {
            let gate = i / c.inter * 2 * c.inter + i % c.inter;
            let (g, u) = (f64::from(x[gate]), f64::from(x[gate + c.inter]));
            let argument = 1.6 * g.abs() * (1.0 + 0.05 * g * g) * 4.0 + g * g;
            f64::from(sizes[i]).abs() * (16.0 + argument) * EPS + 1e-15 * (g * u).abs()
        });
        Problem {
            tensors: vec![
                HostTensor::float("x", c.dtype, x, &[c.rows, 2 * c.inter]).apart(8),
                HostTensor::output("out", c.dtype, &[c.rows, c.inter], Want::Float(target)),
            ],
        }
    }

    fn args<'a, D: Device>(c: &'a ActivationCase, mut t: Bound<'a, D>) -> ActivationArgs<'a, D> {
        ActivationArgs { x: t.view("x"), activation: c.activation, out: t.out("out") }
    }
}
