//! Every kernel of the registry, side by side, by operation and shape.
//!
//! `cargo bench --bench kernels` takes the shapes of Qwen3-0.6B and a few contexts. `ALL_SHAPES=1` adds Qwen3-8B,
//! Llama-3-8B and contexts to 8k; `DEVICE=cuda` measures a GPU; `THREADS=1` limits the CPU; criterion's filters
//! choose: `cargo bench --bench kernels -- attention/decode`.
//!
//! Throughput is in the bytes that the operation must at least move, or, for prefill and large products, in its
//! floating-point operations ("elements"). Inputs rotate over copies that together exceed the last cache, as weights
//! and KV blocks do in a decoder. Times are from the first launch to the device's being idle, over as many launches as
//! criterion asks for, so that on a GPU the launches overlap the work. A kernel that needs more than [`PATIENCE`] for
//! one call is left out, and this is said.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use lathe::{
    Result,
    config::EngineConfig,
    device::{DType, Device, Tensor},
    kernels::{self, *},
    open::{self, OnDevice},
};

/// The longest that one call may take.
const PATIENCE: Duration = Duration::from_millis(300);
/// More than the last cache of most machines.
const WORKING_SET: usize = 128 << 20;
/// What models store.
const DTYPE: DType = DType::Bf16;

/// The extents of a model that its kernels see.
#[derive(Clone, Copy)]
struct Model {
    name: &'static str,
    hidden: usize,
    inter: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    vocab: usize,
    qk_norm: bool,
}

const MODELS: [Model; 3] = [
    Model {
        name: "Qwen3-0.6B",
        hidden: 1024,
        inter: 3072,
        heads: 16,
        kv_heads: 8,
        dim: 128,
        vocab: 151_936,
        qk_norm: true,
    },
    Model {
        name: "Qwen3-8B",
        hidden: 4096,
        inter: 12_288,
        heads: 32,
        kv_heads: 8,
        dim: 128,
        vocab: 151_936,
        qk_norm: true,
    },
    Model {
        name: "Llama-3-8B",
        hidden: 4096,
        inter: 14_336,
        heads: 32,
        kv_heads: 8,
        dim: 128,
        vocab: 128_256,
        qk_norm: false,
    },
];

/// What throughput counts.
#[derive(Clone, Copy)]
enum Per {
    Bytes,
    Flops,
}

/// One criterion run on one device.
struct Bench<'a, D: Device> {
    criterion: &'a mut Criterion,
    dev: &'a D,
    queue: Queue<D>,
}

impl<D: Device> Bench<'_, D> {
    /// Times every kernel of `table` that supports the shape. `with_args(i, f)` calls `f` with arguments on copy `i` of
    /// the inputs.
    fn each<O: Op>(
        &mut self,
        shape: &str,
        table: &Table<O, D>,
        per: Per,
        mut with_args: impl FnMut(usize, &mut dyn FnMut(O::Args<'_, D>) -> Result<()>) -> Result<()>,
    ) {
        let mut group = self.criterion.benchmark_group(format!("{}/{shape}", O::NAME));
        let mut count = Throughput::Bytes(0);
        let counted = with_args(0, &mut |args| {
            count = match per {
                Per::Bytes => Throughput::Bytes(O::bytes(&args)),
                Per::Flops => Throughput::Elements(O::flops(&args)),
            };
            Ok(())
        });
        counted.expect("counting does not fail");
        group.throughput(count);
        let (dev, queue) = (self.dev, &mut self.queue);
        for kernel in table {
            let mut time = |calls: usize| -> Result<Duration> {
                let start = Instant::now();
                for i in 0..calls {
                    with_args(i, &mut |args| kernels::run(&**kernel, queue, args))?;
                }
                dev.synchronize()?;
                Ok(start.elapsed())
            };
            // The first call compiles and reserves.
            match time(1).and_then(|_| time(1)) {
                Err(error) => eprintln!("{}/{shape}/{}: left out: {error}", O::NAME, kernel.name()),
                Ok(once) if once > PATIENCE => {
                    eprintln!("{}/{shape}/{}: left out: one call takes {once:.0?}", O::NAME, kernel.name());
                }
                Ok(_) => {
                    group.bench_function(kernel.name(), |b| {
                        b.iter_custom(|calls| time(calls as usize).expect("it ran before"));
                    });
                }
            }
        }
        group.finish();
    }

    /// `copies` tensors one after the other along the first extent, of small values that are not all equal.
    fn tensor(&self, copies: usize, shape: &[usize]) -> Tensor<D> {
        let mut outer = shape.to_vec();
        outer[0] *= copies;
        let pattern: Vec<half::bf16> =
            (0..4096u32).map(|i| half::bf16::from_f32(((i * 37 % 101) as f32 - 50.0) / 400.0)).collect();
        let elements = outer.iter().product();
        let values: Vec<half::bf16> = pattern.iter().copied().cycle().take(elements).collect();
        Tensor::from_slice(self.dev, &values, &outer).expect("memory")
    }

    fn zeros(&self, dtype: DType, shape: &[usize]) -> Tensor<D> {
        Tensor::zeros(self.dev, dtype, shape).expect("memory")
    }

    fn ints(&self, values: &[i32], shape: &[usize]) -> Tensor<D> {
        Tensor::from_slice(self.dev, values, shape).expect("memory")
    }
}

/// Copies of something of `bytes` that exceed the caches.
fn copies(bytes: usize) -> usize {
    WORKING_SET.div_ceil(bytes.max(1)).clamp(1, 64)
}

fn linear<D: Device>(b: &mut Bench<'_, D>, table: &Table<Linear, D>, m: Model, all: bool) {
    let qkv = (m.heads + 2 * m.kv_heads) * m.dim;
    let shapes = [
        ("qkv", qkv, m.hidden),
        ("o", m.hidden, m.heads * m.dim),
        ("gate_up", 2 * m.inter, m.hidden),
        ("down", m.hidden, m.inter),
    ];
    for (what, n, k) in shapes {
        let batches: &[usize] = if all { &[1, 8, 64, 256, 2048] } else { &[1, 64] };
        let copies = copies(n * k * 2);
        let weights = b.tensor(copies, &[n, k]);
        for &rows in batches {
            let (x, mut out) = (b.tensor(1, &[rows, k]), b.zeros(DTYPE, &[rows, n]));
            let per = if rows > SMALL_ROWS { Per::Flops } else { Per::Bytes };
            let shape = format!("{}/{what} {n}x{k}/{rows} rows", m.name);
            b.each(&shape, table, per, |i, f| {
                let weight = weights.rows(i % copies * n..(i % copies + 1) * n);
                f(LinearArgs { x: x.view(), weight, bias: None, out: out.view_mut() })
            });
        }
    }
}

fn norms<D: Device>(b: &mut Bench<'_, D>, registry: &Registry<D>, m: Model) {
    for rows in [1, 64, 1024] {
        let copies = copies(rows * m.hidden * 8);
        let (x, weight) = (b.tensor(copies, &[rows, m.hidden]), b.tensor(1, &[m.hidden]));
        let mut residual = b.tensor(copies, &[rows, m.hidden]);
        let mut out = b.zeros(DTYPE, &[rows, m.hidden]);
        let shape = format!("{}/{rows} rows", m.name);
        let (eps, offset) = (1e-6, 0.0);
        let at = |i: usize| i % copies * rows..(i % copies + 1) * rows;
        b.each(&shape, &registry.rms_norm, Per::Bytes, |i, f| {
            let (x, weight, out) = (x.rows(at(i)), weight.view(), out.view_mut());
            f(RmsNormArgs { x, weight, eps, offset, out })
        });
        b.each(&shape, &registry.add_rms_norm, Per::Bytes, |i, f| {
            let (x, residual) = (x.rows(at(i)), residual.rows_mut(at(i)));
            f(AddRmsNormArgs { x, residual, weight: weight.view(), eps, offset, out: out.view_mut() })
        });
    }
}

fn rest_of_a_layer<D: Device>(b: &mut Bench<'_, D>, registry: &Registry<D>, m: Model) {
    for rows in [1, 64, 1024] {
        let shape = format!("{}/{rows} tokens", m.name);
        let all = m.heads + 2 * m.kv_heads;
        let mut qkv = b.tensor(1, &[rows, all, m.dim]);
        let norm = b.tensor(1, &[m.dim]);
        let table = b.zeros(DType::F32, &[8192, m.dim]);
        let positions: Vec<i32> = (0..rows as i32).collect();
        let at = b.ints(&positions, &[rows]);
        b.each(&shape, &registry.rope, Per::Bytes, |_, f| {
            f(RopeArgs {
                qkv: qkv.view_mut(),
                heads: m.heads,
                kv_heads: m.kv_heads,
                qk_norm: m.qk_norm.then(|| [norm.view(), norm.view()]),
                eps: 1e-6,
                offset: 0.0,
                cos_sin: table.view(),
                positions: at.view(),
            })
        });

        let blocks = rows.div_ceil(256) * 4;
        let new = b.tensor(1, &[rows, 2 * m.kv_heads, m.dim]);
        let mut caches = [0, 1].map(|_| b.zeros(DTYPE, &[blocks, 256, m.kv_heads, m.dim]));
        let [k_cache, v_cache] = &mut caches;
        b.each(&shape, &registry.kv_store, Per::Bytes, |_, f| {
            f(KvStoreArgs {
                k: new.view().columns(0..m.kv_heads),
                v: new.view().columns(m.kv_heads..2 * m.kv_heads),
                slots: at.view(),
                k_cache: k_cache.view_mut(),
                v_cache: v_cache.view_mut(),
            })
        });

        let (x, mut out) = (b.tensor(1, &[rows, 2 * m.inter]), b.zeros(DTYPE, &[rows, m.inter]));
        b.each(&shape, &registry.activation, Per::Bytes, |_, f| {
            f(ActivationArgs { x: x.view(), activation: Activation::Silu, out: out.view_mut() })
        });
    }
}

fn attention<D: Device>(b: &mut Bench<'_, D>, table: &Table<Attention, D>, m: Model, all: bool) {
    let contexts: &[usize] = if all { &[128, 512, 2048, 8192] } else { &[128, 2048] };
    let batches: &[usize] = if all { &[1, 8, 64, 256] } else { &[1, 64] };
    for &kv in contexts {
        for &seqs in batches {
            one_attention(b, table, m, "decode", &vec![SeqLen { q: 1, kv }; seqs], Per::Bytes);
        }
        one_attention(b, table, m, "prefill", &[SeqLen { q: kv, kv }], Per::Flops);
    }
}

fn one_attention<D: Device>(
    b: &mut Bench<'_, D>,
    table: &Table<Attention, D>,
    m: Model,
    what: &str,
    lens: &[SeqLen],
    per: Per,
) {
    const BLOCK: usize = 256;
    let (seqs, kv) = (lens.len(), lens[0].kv);
    let (width, tokens) = (kv.div_ceil(BLOCK), lens.iter().map(|l| l.q).sum::<usize>());
    let block_bytes = BLOCK * m.kv_heads * m.dim * 2;
    // Sequences share blocks where there are more than the working set asks for, so that memory suffices.
    let blocks = (seqs * width).min((4 * WORKING_SET / block_bytes).max(width));
    let ids: Vec<i32> = (0..seqs * width).map(|i| (i * 7919 % blocks) as i32).collect();
    let (k, v) =
        (b.tensor(blocks, &[1, BLOCK, m.kv_heads, m.dim]), b.tensor(blocks, &[1, BLOCK, m.kv_heads, m.dim]));
    let q = b.tensor(1, &[tokens, m.heads, m.dim]);
    let mut out = b.zeros(DTYPE, &[tokens, m.heads, m.dim]);
    let block_table = b.ints(&ids, &[seqs, width]);
    let starts: Vec<i32> = (0..=seqs).map(|s| (s * lens[0].q) as i32).collect();
    let q_start = b.ints(&starts, &[seqs + 1]);
    let kv_len = b.ints(&vec![kv as i32; seqs], &[seqs]);
    let shape = format!("{what}/{}/batch {seqs}, context {kv}", m.name);
    b.each(&shape, table, per, |_, f| {
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
    });
}

fn sample<D: Device>(b: &mut Bench<'_, D>, table: &Table<Sample, D>, m: Model) {
    for (what, greedy, top_k, tail) in [
        ("greedy", 1, 0, 0.0),
        ("plain", 0, 0, 0.0),
        ("top-p 0.9", 0, 0, 0.1),
        ("top-k 50, top-p 0.9", 0, 50, 0.1),
    ] {
        for rows in [1, 64] {
            let values: Vec<f32> =
                (0..rows * m.vocab).map(|i| ((i * 7919) % 10_007) as f32 / 800.0).collect();
            let logits = Tensor::from_slice(b.dev, &values, &[rows, m.vocab]).expect("memory");
            let tails = Tensor::from_slice(b.dev, &vec![tail; rows], &[rows]).expect("memory");
            let params: Vec<i32> = (0..rows as i32).flat_map(|r| [greedy, top_k, r, 0, 9]).collect();
            let params = b.ints(&params, &[rows, 5]);
            let mut out = b.zeros(DType::I32, &[rows]);
            let shape = format!("{what}/{} tokens/{rows} rows", m.vocab);
            b.each(&shape, table, Per::Bytes, |_, f| {
                f(SampleArgs {
                    logits: logits.view(),
                    top_p_tail: tails.view(),
                    params: params.view(),
                    spec: SampleSpec { random: greedy == 0, truncated: tail > 0.0 },
                    out: out.view_mut(),
                })
            });
        }
    }
}

struct All<'a>(&'a mut Criterion);

impl OnDevice for All<'_> {
    type Out = ();

    fn run<D: Device>(self, dev: &D, registry: &Registry<D>) -> Result<()> {
        let all = std::env::var_os("ALL_SHAPES").is_some();
        eprintln!("{}", dev.describe());
        let mut b = Bench { criterion: self.0, dev, queue: Queue::new(dev)? };
        for m in MODELS.into_iter().take(if all { 3 } else { 1 }) {
            attention(&mut b, &registry.attention, m, all);
            linear(&mut b, &registry.linear, m, all);
            norms(&mut b, registry, m);
            rest_of_a_layer(&mut b, registry, m);
            sample(&mut b, &registry.sample, m);
        }
        Ok(())
    }
}

fn main() {
    let var = |name: &str| std::env::var(name).ok();
    let threads = var("THREADS").map(|t| t.parse().expect("THREADS is a number"));
    let device = var("DEVICE").unwrap_or_else(|| "cpu".into());
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .configure_from_args();
    let config = EngineConfig { device, threads, ..EngineConfig::default() };
    if let Err(error) = open::on_device(&config, All(&mut criterion)) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
    criterion.final_summary();
}
