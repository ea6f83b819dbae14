//! Every operation at the shapes of real models, on inputs that rotate through more memory than the caches hold, as
//! weights and KV blocks do in a decoder.

use crate::{
    device::{DType, Device, Tensor},
    error::Result,
    kernels::*,
};

/// More than the last cache of most machines.
const WORKING_SET: usize = 128 << 20;
/// What models store.
const DTYPE: DType = DType::Bf16;

/// The extents of a model that its kernels see.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "as in a Hugging Face configuration")]
pub struct Model {
    pub name: &'static str,
    pub hidden: usize,
    pub inter: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
    pub vocab: usize,
    pub qk_norm: bool,
}

const fn model(name: &'static str, hidden: usize, inter: usize, heads: usize, vocab: usize) -> Model {
    Model { name, hidden, inter, heads, kv_heads: 8, dim: 128, vocab, qk_norm: true }
}

/// Models whose shapes are timed, the smallest first.
pub const MODELS: [Model; 3] = [
    model("Qwen3-0.6B", 1024, 3072, 16, 151_936),
    model("Qwen3-8B", 4096, 12_288, 32, 151_936),
    Model { qk_norm: false, ..model("Llama-3-8B", 4096, 14_336, 32, 128_256) },
];

/// Which shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shapes {
    /// A few small ones of the first model: for a device in software, or to see that everything runs.
    Small,
    /// The first model's, at a few batches and contexts.
    Usual,
    /// All models'; decode at batch 1, 8, 64 and 256 and context 128 to 8k, prefill of 128 to 8k tokens.
    All,
}

impl Shapes {
    /// One of these lists.
    fn pick<T>(self, small: T, usual: T, all: T) -> T {
        match self {
            Self::Small => small,
            Self::Usual => usual,
            Self::All => all,
        }
    }
}

/// What throughput counts at a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// Bytes that any kernel must move.
    Bytes,
    /// Floating-point operations.
    Flops,
}

/// Calls its argument with an operation's arguments on copy `i` of the inputs.
pub type WithArgs<'w, O, D> =
    dyn FnMut(usize, &mut dyn FnMut(<O as Op>::Args<'_, D>) -> Result<()>) -> Result<()> + 'w;

/// Something to do at every shape.
pub trait Visit<D: Device> {
    /// Whether `op` (an [`Op::NAME`]) is wanted at all; its inputs are not made otherwise.
    fn wants(&self, op: &str) -> bool;

    /// One operation at one shape.
    ///
    /// # Errors
    /// Its own; the visit ends.
    fn shape<O: Op>(
        &mut self,
        shape: &str,
        per: Per,
        table: &Table<O, D>,
        with_args: &mut WithArgs<'_, O, D>,
    ) -> Result<()>;
}

/// Visits every operation that `visitor` wants at every shape.
///
/// # Errors
/// [`crate::Error::Device`] when there is no memory for the inputs, and the visitor's own.
pub fn each_shape<D: Device>(
    dev: &D,
    registry: &Registry<D>,
    shapes: Shapes,
    visitor: &mut impl Visit<D>,
) -> Result<()> {
    for model in MODELS.into_iter().take(shapes.pick(1, 1, 3)) {
        let make = Make { dev, model, shapes };
        attention(&make, &registry.attention, visitor)?;
        linear(&make, &registry.linear, visitor)?;
        embedding(&make, &registry.embedding, visitor)?;
        norms(&make, registry, visitor)?;
        rope_and_store(&make, registry, visitor)?;
        activation(&make, &registry.activation, visitor)?;
        logits(&make, &registry.logits, visitor)?;
        logprobs(&make, &registry.logprobs, visitor)?;
        sample(&make, &registry.sample, visitor)?;
    }
    Ok(())
}

/// Copies of something of `bytes` that exceed the caches.
fn copies(shapes: Shapes, bytes: usize) -> usize {
    let enough = WORKING_SET.div_ceil(bytes).clamp(1, 64);
    shapes.pick(1, enough, enough)
}

/// What inputs are made of.
struct Make<'a, D: Device> {
    dev: &'a D,
    model: Model,
    shapes: Shapes,
}

impl<D: Device> Make<'_, D> {
    /// `copies` tensors one after the other along the first extent, of small values that are not all equal.
    fn tensor(&self, copies: usize, shape: &[usize]) -> Result<Tensor<D>> {
        let mut outer = shape.to_vec();
        outer[0] *= copies;
        let pattern: Vec<half::bf16> =
            (0..4096u32).map(|i| half::bf16::from_f32(((i * 37 % 101) as f32 - 50.0) / 400.0)).collect();
        let values: Vec<half::bf16> = pattern.iter().copied().cycle().take(outer.iter().product()).collect();
        Tensor::from_slice(self.dev, &values, &outer)
    }

    fn zeros(&self, dtype: DType, shape: &[usize]) -> Result<Tensor<D>> {
        Tensor::zeros(self.dev, dtype, shape)
    }

    fn ints(&self, values: &[i32], shape: &[usize]) -> Result<Tensor<D>> {
        Tensor::from_slice(self.dev, values, shape)
    }

    /// Rows of logits, none of them alike.
    fn logits(&self, rows: usize) -> Result<Tensor<D>> {
        let vocab = self.model.vocab;
        let values: Vec<f32> = (0..rows * vocab).map(|i| ((i * 7919) % 10_007) as f32 / 800.0).collect();
        Tensor::from_slice(self.dev, &values, &[rows, vocab])
    }

    /// Rows of a step: a few decodes, and a prompt.
    fn rows(&self) -> &'static [usize] {
        self.shapes.pick(&[4], &[1, 64, 1024], &[1, 64, 256, 2048])
    }

    /// Rows of a step from which tokens are drawn.
    fn sampled(&self) -> &'static [usize] {
        self.shapes.pick(&[1], &[1, 64], &[1, 8, 64, 256])
    }
}

fn linear<D: Device>(
    make: &Make<'_, D>,
    table: &Table<Linear, D>,
    visitor: &mut impl Visit<D>,
) -> Result<()> {
    if !visitor.wants(Linear::NAME) {
        return Ok(());
    }
    let (m, shapes) = (make.model, make.shapes);
    let qkv = (m.heads + 2 * m.kv_heads) * m.dim;
    let all = [
        ("qkv", qkv, m.hidden),
        ("o", m.hidden, m.heads * m.dim),
        ("gate_up", 2 * m.inter, m.hidden),
        ("down", m.hidden, m.inter),
        ("lm_head", m.vocab, m.hidden),
    ];
    for &(what, n, k) in shapes.pick(&all[1..2], &all[..], &all[..]) {
        let copies = copies(shapes, n * k * 2);
        let weights = make.tensor(copies, &[n, k])?;
        // Only the last token of a prompt goes through the lm_head.
        let usual: &[usize] = if what == "lm_head" { &[1, 8] } else { &[1, 64, 512] };
        let every: &[usize] = if what == "lm_head" { &[1, 8, 64, 256] } else { &[1, 8, 64, 256, 2048] };
        for &rows in shapes.pick(&[1, 16][..], usual, every) {
            let (x, mut out) = (make.tensor(1, &[rows, k])?, make.zeros(DTYPE, &[rows, n])?);
            let per = if rows > SMALL_ROWS { Per::Flops } else { Per::Bytes };
            let shape = format!("{}/{what} {n}x{k}/{rows} rows", m.name);
            visitor.shape::<Linear>(&shape, per, table, &mut |i, f| {
                let weight = weights.rows(i % copies * n..(i % copies + 1) * n);
                f(LinearArgs { x: x.view(), weight, bias: None, out: out.view_mut() })
            })?;
        }
    }
    Ok(())
}

fn embedding<D: Device>(
    make: &Make<'_, D>,
    table: &Table<Embedding, D>,
    visitor: &mut impl Visit<D>,
) -> Result<()> {
    if !visitor.wants(Embedding::NAME) {
        return Ok(());
    }
    let m = make.model;
    let weight = make.tensor(1, &[make.shapes.pick(4096, m.vocab, m.vocab), m.hidden])?;
    let vocab = weight.shape()[0];
    for &rows in make.rows() {
        // Other rows of the table every time.
        let copies = copies(make.shapes, rows * m.hidden * 4);
        let ids: Vec<i32> = (0..copies * rows).map(|i| (i * 7919 % vocab) as i32).collect();
        let (ids, mut out) = (make.ints(&ids, &[copies * rows])?, make.zeros(DTYPE, &[rows, m.hidden])?);
        let shape = format!("{}/{rows} tokens", m.name);
        visitor.shape::<Embedding>(&shape, Per::Bytes, table, &mut |i, f| {
            let ids = ids.rows(i % copies * rows..(i % copies + 1) * rows);
            f(EmbeddingArgs { ids, table: weight.view(), scale: 1.0, out: out.view_mut() })
        })?;
    }
    Ok(())
}

fn norms<D: Device>(make: &Make<'_, D>, registry: &Registry<D>, visitor: &mut impl Visit<D>) -> Result<()> {
    let wants = [RmsNorm::NAME, AddRmsNorm::NAME].map(|op| visitor.wants(op));
    if wants == [false; 2] {
        return Ok(());
    }
    let m = make.model;
    for &rows in make.rows() {
        let copies = copies(make.shapes, rows * m.hidden * 8);
        let (x, weight) = (make.tensor(copies, &[rows, m.hidden])?, make.tensor(1, &[m.hidden])?);
        let mut residual = make.tensor(copies, &[rows, m.hidden])?;
        let mut out = make.zeros(DTYPE, &[rows, m.hidden])?;
        let shape = format!("{}/{rows} rows", m.name);
        let (eps, offset) = (1e-6, 0.0);
        let at = |i: usize| i % copies * rows..(i % copies + 1) * rows;
        if wants[0] {
            visitor.shape::<RmsNorm>(&shape, Per::Bytes, &registry.rms_norm, &mut |i, f| {
                let (x, weight, out) = (x.rows(at(i)), weight.view(), out.view_mut());
                f(RmsNormArgs { x, weight, eps, offset, out })
            })?;
        }
        if wants[1] {
            visitor.shape::<AddRmsNorm>(&shape, Per::Bytes, &registry.add_rms_norm, &mut |i, f| {
                let (x, residual) = (x.rows(at(i)), residual.rows_mut(at(i)));
                f(AddRmsNormArgs { x, residual, weight: weight.view(), eps, offset, out: out.view_mut() })
            })?;
        }
    }
    Ok(())
}

fn rope_and_store<D: Device>(
    make: &Make<'_, D>,
    registry: &Registry<D>,
    visitor: &mut impl Visit<D>,
) -> Result<()> {
    let wants = [Rope::NAME, KvStore::NAME, RopeStore::NAME].map(|op| visitor.wants(op));
    if wants == [false; 3] {
        return Ok(());
    }
    const POSITIONS: usize = 8192;
    let m = make.model;
    let Model { heads, kv_heads, dim, .. } = m;
    let norm = make.tensor(1, &[dim])?;
    // No rotation: in place, so values must stay as they are.
    let cos_sin: Vec<f32> = (0..POSITIONS * dim).map(|i| f32::from(u8::from(i % dim < dim / 2))).collect();
    let cos_sin = Tensor::from_slice(make.dev, &cos_sin, &[POSITIONS, dim])?;
    for &rows in make.rows() {
        let shape = format!("{}/{rows} tokens", m.name);
        let positions: Vec<i32> = (0..rows as i32).collect();
        let at = make.ints(&positions, &[rows])?;
        let mut qkv = make.tensor(1, &[rows, heads + 2 * kv_heads, dim])?;
        let cache = || make.zeros(DTYPE, &[rows.div_ceil(256) * 4, 256, kv_heads, dim]);
        let (mut k_cache, mut v_cache) = (cache()?, cache()?);
        let qk_norm = m.qk_norm.then(|| [norm.view(), norm.view()]);
        let (cos_sin, positions) = (cos_sin.view(), at.view());
        let (eps, offset) = (1e-6, 0.0);
        if wants[0] {
            visitor.shape::<Rope>(&shape, Per::Bytes, &registry.rope, &mut |_, f| {
                f(RopeArgs { qkv: qkv.view_mut(), heads, kv_heads, qk_norm, eps, offset, cos_sin, positions })
            })?;
        }
        if wants[1] {
            visitor.shape::<KvStore>(&shape, Per::Bytes, &registry.kv_store, &mut |_, f| {
                f(KvStoreArgs {
                    k: qkv.view().columns(heads..heads + kv_heads),
                    v: qkv.view().columns(heads + kv_heads..heads + 2 * kv_heads),
                    slots: at.view(),
                    k_cache: k_cache.view_mut(),
                    v_cache: v_cache.view_mut(),
                })
            })?;
        }
        if wants[2] {
            visitor.shape::<RopeStore>(&shape, Per::Bytes, &registry.rope_store, &mut |_, f| {
                let qkv = qkv.view_mut();
                let rope = RopeArgs { qkv, heads, kv_heads, qk_norm, eps, offset, cos_sin, positions };
                let (k_cache, v_cache) = (k_cache.view_mut(), v_cache.view_mut());
                f(RopeStoreArgs { rope, slots: at.view(), k_cache, v_cache })
            })?;
        }
    }
    Ok(())
}

fn activation<D: Device>(
    make: &Make<'_, D>,
    table: &Table<GatedActivation, D>,
    visitor: &mut impl Visit<D>,
) -> Result<()> {
    if !visitor.wants(GatedActivation::NAME) {
        return Ok(());
    }
    let m = make.model;
    for &rows in make.rows() {
        let copies = copies(make.shapes, rows * m.inter * 6);
        let x = make.tensor(copies, &[rows, 2 * m.inter])?;
        let mut out = make.zeros(DTYPE, &[rows, m.inter])?;
        let shape = format!("{}/{rows} rows", m.name);
        visitor.shape::<GatedActivation>(&shape, Per::Bytes, table, &mut |i, f| {
            let x = x.rows(i % copies * rows..(i % copies + 1) * rows);
            f(ActivationArgs { x, activation: Activation::Silu, out: out.view_mut() })
        })?;
    }
    Ok(())
}

fn attention<D: Device>(
    make: &Make<'_, D>,
    table: &Table<Attention, D>,
    visitor: &mut impl Visit<D>,
) -> Result<()> {
    if !visitor.wants(Attention::NAME) {
        return Ok(());
    }
    let shapes = make.shapes;
    for &kv in shapes.pick(&[128][..], &[128, 2048], &[128, 512, 2048, 8192]) {
        for &seqs in shapes.pick(&[4][..], &[1, 64], &[1, 8, 64, 256]) {
            one_attention(make, table, "decode", &vec![SeqLen { q: 1, kv }; seqs], Per::Bytes, visitor)?;
        }
        one_attention(make, table, "prefill", &[SeqLen { q: kv, kv }], Per::Flops, visitor)?;
    }
    Ok(())
}

fn one_attention<D: Device>(
    make: &Make<'_, D>,
    table: &Table<Attention, D>,
    what: &str,
    lens: &[SeqLen],
    per: Per,
    visitor: &mut impl Visit<D>,
) -> Result<()> {
    const BLOCK: usize = 256;
    let m = make.model;
    let (seqs, kv) = (lens.len(), lens[0].kv);
    let (width, tokens) = (kv.div_ceil(BLOCK), lens.iter().map(|l| l.q).sum::<usize>());
    let block_bytes = BLOCK * m.kv_heads * m.dim * 2;
    // Sequences share blocks where there are more than the working set asks for, so that memory suffices.
    let blocks = (seqs * width).min((4 * WORKING_SET / block_bytes).max(width));
    let ids: Vec<i32> = (0..seqs * width).map(|i| (i * 7919 % blocks) as i32).collect();
    let cache = || make.tensor(blocks, &[1, BLOCK, m.kv_heads, m.dim]);
    let (k, v) = (cache()?, cache()?);
    let q = make.tensor(1, &[tokens, m.heads, m.dim])?;
    let mut out = make.zeros(DTYPE, &[tokens, m.heads, m.dim])?;
    let block_table = make.ints(&ids, &[seqs, width])?;
    let starts: Vec<i32> = (0..=seqs).map(|s| (s * lens[0].q) as i32).collect();
    let q_start = make.ints(&starts, &[seqs + 1])?;
    let kv_len = make.ints(&vec![kv as i32; seqs], &[seqs])?;
    let shape = match what {
        "decode" => format!("decode/{}/batch {seqs}, context {kv}", m.name),
        _ => format!("prefill/{}/{kv} tokens", m.name),
    };
    visitor.shape::<Attention>(&shape, per, table, &mut |_, f| {
        f(AttentionArgs {
            q: q.view(),
            k_cache: k.view(),
            v_cache: v.view(),
            block_table: block_table.view(),
            q_start: q_start.view(),
            kv_len: kv_len.view(),
            lens,
            scale: (m.dim as f32).powf(-0.5),
            window: None,
            softcap: None,
            out: out.view_mut(),
        })
    })
}

fn logits<D: Device>(
    make: &Make<'_, D>,
    table: &Table<Logits, D>,
    visitor: &mut impl Visit<D>,
) -> Result<()> {
    if !visitor.wants(Logits::NAME) {
        return Ok(());
    }
    let vocab = make.model.vocab;
    for &rows in make.sampled() {
        let mut logits = make.logits(rows)?;
        // In place, but what is masked once is masked from then on.
        let params = Tensor::from_slice(make.dev, &[0.8f32, 0.05, 1.0, 0.0, 0.0].repeat(rows), &[rows, 5])?;
        let starts = make.ints(&vec![0; rows + 1], &[rows + 1])?;
        let (no_ids, no_values) = (make.zeros(DType::I32, &[0])?, make.zeros(DType::F32, &[0])?);
        let shape = format!("min-p 0.05/{vocab} tokens/{rows} rows");
        visitor.shape::<Logits>(&shape, Per::Bytes, table, &mut |_, f| {
            f(LogitsArgs {
                logits: logits.view_mut(),
                params: params.view(),
                history_start: starts.view(),
                history_ids: no_ids.view(),
                history_counts: no_ids.view(),
                bias_start: starts.view(),
                bias_ids: no_ids.view(),
                bias_values: no_values.view(),
                softcap: None,
            })
        })?;
    }
    Ok(())
}

fn logprobs<D: Device>(
    make: &Make<'_, D>,
    table: &Table<Logprobs, D>,
    visitor: &mut impl Visit<D>,
) -> Result<()> {
    if !visitor.wants(Logprobs::NAME) {
        return Ok(());
    }
    const TOP: usize = 5;
    let vocab = make.model.vocab;
    for &rows in make.sampled() {
        let (logits, tokens) = (make.logits(rows)?, make.ints(&vec![7; rows], &[rows])?);
        let mut values = make.zeros(DType::F32, &[rows, 1 + TOP])?;
        let mut ids = make.zeros(DType::I32, &[rows, 1 + TOP])?;
        let shape = format!("top {TOP}/{vocab} tokens/{rows} rows");
        visitor.shape::<Logprobs>(&shape, Per::Bytes, table, &mut |_, f| {
            f(LogprobsArgs {
                logits: logits.view(),
                tokens: tokens.view(),
                softcap: None,
                values: values.view_mut(),
                ids: ids.view_mut(),
            })
        })?;
    }
    Ok(())
}

fn sample<D: Device>(
    make: &Make<'_, D>,
    table: &Table<Sample, D>,
    visitor: &mut impl Visit<D>,
) -> Result<()> {
    if !visitor.wants(Sample::NAME) {
        return Ok(());
    }
    let vocab = make.model.vocab;
    for (what, greedy, top_k, tail) in [
        ("greedy", 1, 0, 0.0f32),
        ("plain", 0, 0, 0.0),
        ("top-p 0.9", 0, 0, 0.1),
        ("top-k 50, top-p 0.9", 0, 50, 0.1),
    ] {
        for &rows in make.sampled() {
            let logits = make.logits(rows)?;
            let temperature = Tensor::from_slice(make.dev, &vec![0.6f32; rows], &[rows])?;
            let tails = Tensor::from_slice(make.dev, &vec![tail; rows], &[rows])?;
            let params: Vec<i32> = (0..rows as i32).flat_map(|r| [greedy, top_k, r, 0, 9]).collect();
            let params = make.ints(&params, &[rows, 5])?;
            let mut out = make.zeros(DType::I32, &[rows])?;
            let shape = format!("{what}/{vocab} tokens/{rows} rows");
            visitor.shape::<Sample>(&shape, Per::Bytes, table, &mut |_, f| {
                f(SampleArgs {
                    logits: logits.view(),
                    temperature: temperature.view(),
                    top_p_tail: tails.view(),
                    params: params.view(),
                    spec: SampleSpec { random: greedy == 0, truncated: tail > 0.0 },
                    out: out.view_mut(),
                })
            })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Cpu;

    /// Notes what it is shown, and runs it once.
    struct Seen(Queue<Cpu>, Vec<&'static str>);

    impl Visit<Cpu> for Seen {
        fn wants(&self, _: &str) -> bool {
            true
        }

        fn shape<O: Op>(
            &mut self,
            shape: &str,
            _: Per,
            table: &Table<O, Cpu>,
            with_args: &mut WithArgs<'_, O, Cpu>,
        ) -> Result<()> {
            assert!(shape.contains("Qwen3-0.6B") || shape.contains("151936"), "{shape}");
            self.1.push(O::NAME);
            with_args(0, &mut |args| run(&*table[0], &mut self.0, args))
        }
    }

    #[test]
    fn every_operation_has_a_shape() {
        let (dev, registry) = (Cpu::new(Some(1)), Registry::cpu());
        let mut seen = Seen(Queue::new(&dev).unwrap(), Vec::new());
        each_shape(&dev, &registry, Shapes::Small, &mut seen).unwrap();
        for row in registry.rows(&registry.select(&Default::default(), false).unwrap()) {
            assert!(seen.1.contains(&row.op), "{}", row.op);
        }
    }
}
