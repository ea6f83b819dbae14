//! The oracle behind the seam: each operation widened to f32, computed by `lathe-reference`, rounded back.
//!
//! It allocates and runs on one thread. Of tables and caches it widens only the rows in use.

use std::sync::Arc;

use half::{bf16, f16};
use lathe_reference as oracle;

use super::{super::*, simd::Float};
use crate::device::{Cpu, CpuBuffer, Element, ViewMut};

/// The oracle as a kernel of every operation.
struct Reference;

/// A registry with the reference kernels alone.
pub fn registry() -> Registry<Cpu> {
    Registry {
        embedding: vec![Arc::new(Reference)],
        linear: vec![Arc::new(Reference)],
        rms_norm: vec![Arc::new(Reference)],
        add_rms_norm: vec![Arc::new(Reference)],
        rope: vec![Arc::new(Reference)],
        kv_store: vec![Arc::new(Reference)],
        rope_store: vec![Arc::new(Reference)],
        attention: vec![Arc::new(Reference)],
        activation: vec![Arc::new(Reference)],
        logits: vec![Arc::new(Reference)],
        sample: vec![Arc::new(Reference)],
        logprobs: vec![Arc::new(Reference)],
    }
}

/// An operation that the oracle knows.
trait Oracle: Op {
    fn compute(args: Self::Args<'_, Cpu>);
}

impl<O: Oracle> Kernel<O, Cpu> for Reference {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn about(&self) -> &'static str {
        "the oracle in f64: slow, to compare with"
    }

    fn supports(&self, _: &O::Spec) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, _: &Cpu, args: O::Args<'_, Cpu>, _: &mut CpuBuffer) -> Result<()> {
        O::compute(args);
        Ok(())
    }
}

impl Oracle for Embedding {
    fn compute(mut a: EmbeddingArgs<'_, Cpu>) {
        let ids: Vec<i32> = ints(&a.ids).into_iter().map(|id| id.max(0)).collect();
        let (used, ids) = compact(&ids);
        let table = widen_rows(&a.table, &used);
        let dim = a.table.shape()[1];
        let mut out = vec![0.0; ids.len() * dim];
        oracle::embedding::embedding(&table, &ids, dim, a.scale, &mut out);
        narrow(&mut a.out, &out);
    }
}

impl Oracle for Linear {
    fn compute(mut a: LinearArgs<'_, Cpu>) {
        let bias = a.bias.as_ref().map(widen);
        let mut out = vec![0.0; a.out.elements()];
        let k = a.weight.shape()[1];
        oracle::linear::linear(&widen(&a.x), &widen(&a.weight), bias.as_deref(), k, &mut out);
        narrow(&mut a.out, &out);
    }
}

impl Oracle for RmsNorm {
    fn compute(mut a: RmsNormArgs<'_, Cpu>) {
        let mut out = vec![0.0; a.out.elements()];
        oracle::rms_norm::rms_norm(&widen(&a.x), &widen(&a.weight), a.eps, a.offset, &mut out);
        narrow(&mut a.out, &out);
    }
}

impl Oracle for AddRmsNorm {
    fn compute(mut a: AddRmsNormArgs<'_, Cpu>) {
        let mut residual = widen(&a.residual.as_view());
        let mut out = vec![0.0; a.out.elements()];
        let dtype = a.x.dtype();
        oracle::add_rms_norm::add_rms_norm(
            &widen(&a.x),
            &mut residual,
            &widen(&a.weight),
            a.eps,
            a.offset,
            |v| round(dtype, v),
            &mut out,
        );
        narrow(&mut a.residual, &residual);
        narrow(&mut a.out, &out);
    }
}

impl Oracle for Rope {
    fn compute(mut a: RopeArgs<'_, Cpu>) {
        let &[_, all, dim] = a.qkv.shape() else { unreachable!("checked") };
        let norms = a.qk_norm.map(|norms| norms.map(|w| widen(&w)));
        let (used, positions) = compact(&ints(&a.positions));
        let cos_sin = widen_rows(&a.cos_sin, &used);
        let mut qkv = widen(&a.qkv.as_view());
        for (t, token) in qkv.chunks_exact_mut(all * dim).enumerate() {
            let (q, kv) = token.split_at_mut(a.heads * dim);
            for (part, x) in [q, &mut kv[..a.kv_heads * dim]].into_iter().enumerate() {
                if let Some(norms) = &norms {
                    let before = x.to_vec();
                    oracle::rms_norm::rms_norm(&before, &norms[part], a.eps, a.offset, x);
                }
                oracle::rope::rope_from_table(x, &positions[t..=t], &cos_sin, dim);
            }
        }
        // The v heads come back as they were: widening is exact.
        narrow(&mut a.qkv, &qkv);
    }
}

impl Oracle for KvStore {
    fn compute(mut a: KvStoreArgs<'_, Cpu>) {
        let &[_, block_size, kv_heads, dim] = a.k_cache.shape() else { unreachable!("checked") };
        let row = kv_heads * dim;
        let (used, slots) = compact(&ints(&a.slots));
        let mut k_rows = vec![0.0; used.len() * row];
        let mut v_rows = k_rows.clone();
        oracle::kv_store::kv_store(&widen(&a.k), &widen(&a.v), &slots, row, &mut k_rows, &mut v_rows);
        for (cache, rows) in [(&mut a.k_cache, &k_rows), (&mut a.v_cache, &v_rows)] {
            for (&slot, values) in used.iter().zip(rows.chunks_exact(row)) {
                let mut block = cache.reborrow().rows(slot / block_size..slot / block_size + 1);
                narrow_at(&mut block, slot % block_size * row, values);
            }
        }
    }
}

impl Oracle for RopeStore {
    fn compute(mut a: RopeStoreArgs<'_, Cpu>) {
        Rope::compute(a.rope());
        KvStore::compute(a.store());
    }
}

impl Oracle for Attention {
    fn compute(mut a: AttentionArgs<'_, Cpu>) {
        let spec = Self::spec(&a);
        let max_blocks = a.block_table.shape()[1];
        let mut table = vec![-1; a.lens.len() * max_blocks];
        for (s, lens) in a.lens.iter().enumerate() {
            let used = lens.kv.div_ceil(spec.block_size);
            table[s * max_blocks..][..used].copy_from_slice(&a.block_table.row::<i32>(s)[..used]);
        }
        let (used, table) = compact(&table);
        let starts = ints(&a.q_start);
        let cu_q: Vec<i32> = starts.iter().map(|s| s - starts[0]).collect();
        let mut out = vec![0.0; a.out.elements()];
        oracle::attention::attention(
            &oracle::attention::AttentionSpec {
                heads: spec.heads,
                kv_heads: spec.kv_heads,
                head_dim: spec.head_dim,
                block_size: spec.block_size,
                scale: a.scale,
                window: a.window,
                softcap: a.softcap,
            },
            &widen(&a.q),
            &widen_rows(&a.k_cache, &used),
            &widen_rows(&a.v_cache, &used),
            &cu_q,
            &table,
            &ints(&a.kv_len),
            &mut out,
        );
        narrow(&mut a.out, &out);
    }
}

impl Oracle for GatedActivation {
    fn compute(mut a: ActivationArgs<'_, Cpu>) {
        use oracle::activation::Activation as Gate;
        let gate = match a.activation {
            Activation::Silu => Gate::Silu,
            Activation::GeluTanh => Gate::GeluTanh,
            Activation::GeluErf => Gate::GeluErf,
        };
        let mut out = vec![0.0; a.out.elements()];
        oracle::activation::gated(gate, &widen(&a.x), a.out.shape()[1], &mut out);
        narrow(&mut a.out, &out);
    }
}

impl Oracle for Logits {
    fn compute(mut a: LogitsArgs<'_, Cpu>) {
        let (history_start, bias_start) = (ints(&a.history_start), ints(&a.bias_start));
        let (history_ids, history_counts) = (ints(&a.history_ids), ints(&a.history_counts));
        let biases: Vec<(i32, f32)> = ints(&a.bias_ids).into_iter().zip(widen(&a.bias_values)).collect();
        let params = widen(&a.params);
        let (rows, vocab) = (a.logits.shape()[0], a.logits.shape()[1]);
        for r in 0..rows {
            let history = history_start[r] as usize..history_start[r + 1] as usize;
            let prompt = &history_ids[history.clone()];
            let counts = &history_counts[history];
            let output: Vec<i32> =
                prompt.iter().zip(counts).flat_map(|(&id, &n)| std::iter::repeat_n(id, n as usize)).collect();
            let p = oracle::logits::LogitsParams {
                softcap: a.softcap,
                logit_bias: &biases[bias_start[r] as usize..bias_start[r + 1] as usize],
                suppress: &[],
                prompt,
                output: &output,
                temperature: params[5 * r],
                min_p: params[5 * r + 1],
                repetition_penalty: params[5 * r + 2],
                frequency_penalty: params[5 * r + 3],
                presence_penalty: params[5 * r + 4],
            };
            oracle::logits::process(&mut a.logits.slice_mut::<f32>()[r * vocab..][..vocab], &p);
        }
    }
}

impl Oracle for Sample {
    fn compute(mut a: SampleArgs<'_, Cpu>) {
        let rows = a.logits.shape()[0];
        for r in 0..rows {
            let mut logits = a.logits.row::<f32>(r).to_vec();
            let tail = a.top_p_tail.slice::<f32>()[r];
            let &[greedy, top_k, seed_low, seed_high, position] = a.params.row::<i32>(r) else {
                unreachable!("checked")
            };
            let seed = u64::from(seed_high as u32) << 32 | u64::from(seed_low as u32);
            if greedy == 0 {
                oracle::sampling::temper(&mut logits, a.temperature.slice::<f32>()[r]);
            }
            a.out.slice_mut::<i32>()[r] = if oracle::logits::is_unusable(&logits) {
                -1
            } else if greedy != 0 {
                oracle::sampling::argmax(&logits) as i32
            } else {
                let probs = oracle::sampling::support(&logits, top_k as usize, 1.0 - f64::from(tail));
                oracle::sampling::draw_gumbel(&logits, &probs, seed, position as u32) as i32
            };
        }
    }
}

impl Oracle for Logprobs {
    fn compute(mut a: LogprobsArgs<'_, Cpu>) {
        let &[rows, told] = a.ids.shape() else { unreachable!("checked") };
        for r in 0..rows {
            let token = a.tokens.slice::<i32>()[r];
            let got = oracle::logprobs::logprobs(a.logits.row::<f32>(r), a.softcap, token, told - 1);
            let of = |all: Vec<(usize, f64)>| all.into_iter().map(|(id, l)| (id as i32, l as f32));
            let all = std::iter::once((got.rank as i32, got.logprob as f32)).chain(of(got.top));
            for (i, (id, value)) in all.enumerate() {
                a.ids.slice_mut::<i32>()[r * told + i] = id;
                a.values.slice_mut::<f32>()[r * told + i] = value;
            }
        }
    }
}

/// The i32 elements, row after row.
fn ints(v: &View<'_, Cpu>) -> Vec<i32> {
    gather(v)
}

/// The elements, row after row.
fn gather<T: Element>(v: &View<'_, Cpu>) -> Vec<T> {
    let rows = if v.elements() == 0 { 0 } else { v.shape()[0] };
    (0..rows).flat_map(|r| v.row::<T>(r).iter().copied()).collect()
}

/// The elements as f32, row after row.
fn widen(v: &View<'_, Cpu>) -> Vec<f32> {
    match v.dtype() {
        DType::F32 => gather(v),
        DType::Bf16 => gather::<bf16>(v).into_iter().map(bf16::to_f32).collect(),
        DType::F16 => gather::<f16>(v).into_iter().map(f16::to_f32).collect(),
        DType::I32 => unreachable!("checked"),
    }
}

/// [`widen`] of the given rows alone.
fn widen_rows(v: &View<'_, Cpu>, rows: &[usize]) -> Vec<f32> {
    rows.iter().flat_map(|&r| widen(&v.rows(r..r + 1))).collect()
}

/// The distinct indices that are not negative, ascending, and `indices` renumbered to places in that list.
fn compact(indices: &[i32]) -> (Vec<usize>, Vec<i32>) {
    let mut used: Vec<usize> = indices.iter().filter_map(|&i| usize::try_from(i).ok()).collect();
    used.sort_unstable();
    used.dedup();
    let place = |&i: &i32| usize::try_from(i).map_or(-1, |i| used.partition_point(|&u| u < i) as i32);
    let renumbered = indices.iter().map(place).collect();
    (used, renumbered)
}

/// `values` rounded to the dtype of `out`, row after row.
fn narrow(out: &mut ViewMut<'_, Cpu>, values: &[f32]) {
    let (rows, stride) = (out.shape()[0], out.stride());
    let row = values.len() / rows.max(1);
    for (r, values) in values.chunks_exact(row.max(1)).enumerate().take(rows) {
        narrow_at(out, r * stride, values);
    }
}

/// `values` rounded to the dtype of `out`, from element `at` on.
fn narrow_at(out: &mut ViewMut<'_, Cpu>, at: usize, values: &[f32]) {
    fn put<T: Float>(out: &mut ViewMut<'_, Cpu>, at: usize, values: &[f32]) {
        for (o, &v) in out.slice_mut::<T>()[at..].iter_mut().zip(values) {
            *o = T::from_f32(v);
        }
    }
    match out.dtype() {
        DType::F32 => put::<f32>(out, at, values),
        DType::Bf16 => put::<bf16>(out, at, values),
        DType::F16 => put::<f16>(out, at, values),
        DType::I32 => unreachable!("checked"),
    }
}

/// `v` rounded to `dtype`.
fn round(dtype: DType, v: f32) -> f32 {
    match dtype {
        DType::Bf16 => bf16::from_f32(v).to_f32(),
        DType::F16 => f16::from_f32(v).to_f32(),
        DType::F32 | DType::I32 => v,
    }
}
