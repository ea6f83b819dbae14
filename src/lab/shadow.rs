//! Shadow mode: a second kernel computes every call of the first again, on the same live tensors.
//!
//! The model goes on with the first kernel's results, so that each difference is one kernel's alone and not what
//! earlier ones led to.

use std::sync::{Arc, Mutex};

use serde::Serialize;

use super::{
    cases::{format, sum_error},
    loaded::element,
};
use crate::{
    device::{DType, Device, ViewMut},
    error::Result,
    kernels::{
        ActivationArgs, AddRmsNorm, AddRmsNormArgs, Attention, AttentionArgs, Embedding, EmbeddingArgs,
        GatedActivation, Kernel, KernelSet, KvStore, KvStoreArgs, Linear, LinearArgs, Logits, LogitsArgs,
        Logprobs, LogprobsArgs, Op, RmsNorm, RmsNormArgs, Rope, RopeArgs, RopeStore, RopeStoreArgs, Sample,
        SampleArgs, Slot, Unsupported,
    },
};

/// An operation whose arguments can be used twice.
trait Twice: Op {
    /// Whether right kernels may round to the dtype on their way, as those of attention round softmax's weights.
    const ROUNDS_INSIDE: bool = false;
    /// A shorter borrow of the same arguments.
    fn again<'s, D: Device>(args: &'s mut Self::Args<'_, D>) -> Self::Args<'s, D>;
    /// What a call writes.
    fn written<'s, D: Device>(args: &'s mut Self::Args<'_, D>) -> Vec<(&'static str, ViewMut<'s, D>)>;
    /// Whether the operation says what element `i` of that tensor holds afterwards.
    fn says<D: Device>(_args: &Self::Args<'_, D>, _tensor: &str, _i: usize) -> bool {
        true
    }
}

/// A call whose results were compared.
#[derive(Clone, Debug, Serialize)]
pub struct Call {
    /// The slot.
    pub slot: &'static str,
    /// The kernels.
    pub kernels: [&'static str; 2],
    /// The output with the largest difference.
    pub tensor: &'static str,
    /// Which pass over the model it was in; see [`Log::next_pass`].
    pub pass: usize,
    /// The largest difference.
    pub difference: f64,
    /// That difference as a share of what two right kernels may differ by: a unit in the last place of the dtype (half
    /// of one each), and the rounding of sums of 4096 terms as large as the tensor's root mean square. In attention also
    /// a unit in the last place of the tensor's largest element: softmax's weights may be rounded to the dtype.
    pub share: f64,
}

/// The calls so far, in their order.
#[derive(Debug, Default)]
pub struct Log {
    calls: Vec<Call>,
    pass: usize,
}

impl Log {
    /// From here on calls belong to another pass.
    pub fn next_pass(&mut self) {
        self.pass += 1;
    }

    /// All calls.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// The first call with a difference beyond the budget, and its layer of `layers`, where its slot is called as often
    /// in every layer. `steps` tells how many steps a pass has.
    pub fn first_beyond(
        &self,
        layers: usize,
        steps: impl Fn(usize) -> usize,
    ) -> Option<(&Call, Option<usize>)> {
        let at = self.calls.iter().position(|c| c.share > 1.0)?;
        let call = &self.calls[at];
        let alike = |c: &&Call| c.slot == call.slot && c.pass == call.pass;
        let in_pass = self.calls.iter().filter(alike).count();
        let before = self.calls[..at].iter().filter(alike).count();
        let in_step = in_pass / steps(call.pass).max(1);
        let layer = (in_step >= layers).then(|| (before % in_step) * layers / in_step);
        Some((call, layer))
    }
}

/// Runs `b`, then `a`, whose results stay.
struct Shadow<O: Op, D: Device> {
    slot: &'static str,
    a: Slot<O, D>,
    b: Slot<O, D>,
    log: Arc<Mutex<Log>>,
}

impl<O: Twice, D: Device> Kernel<O, D> for Shadow<O, D> {
    fn name(&self) -> &'static str {
        self.a.name()
    }

    fn about(&self) -> &'static str {
        self.a.about()
    }

    fn supports(&self, spec: &O::Spec) -> std::result::Result<(), Unsupported> {
        self.a.supports(spec)?;
        self.b.supports(spec)
    }

    fn scratch(&self, args: &O::Args<'_, D>) -> usize {
        self.a.scratch(args).max(self.b.scratch(args))
    }

    fn launch(&self, dev: &D, mut args: O::Args<'_, D>, scratch: &mut D::Buffer) -> Result<()> {
        let before = read::<O, D>(dev, &mut args)?;
        self.b.launch(dev, O::again(&mut args), scratch)?;
        let theirs = read::<O, D>(dev, &mut args)?;
        for ((_, mut out), bytes) in O::written(&mut args).into_iter().zip(&before) {
            write(dev, &mut out, &bytes.2)?;
        }
        self.a.launch(dev, O::again(&mut args), scratch)?;
        let ours = read::<O, D>(dev, &mut args)?;
        let mut log = self.log.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (slot, kernels, pass) = (self.slot, [self.a.name(), self.b.name()], log.pass);
        let calls = ours.iter().zip(&theirs).map(|((tensor, dtype, ours), (_, _, theirs))| {
            let says = |i| O::says(&args, tensor, i);
            let (difference, share) = differ(*dtype, ours, theirs, O::ROUNDS_INSIDE, says);
            Call { slot, kernels, tensor, pass, difference, share }
        });
        log.calls.extend(calls.max_by(|x, y| x.share.total_cmp(&y.share)));
        Ok(())
    }
}

/// Name, dtype and bytes of everything that a call writes.
type Written = Vec<(&'static str, DType, Vec<u8>)>;

fn read<O: Twice, D: Device>(dev: &D, args: &mut O::Args<'_, D>) -> Result<Written> {
    O::written(args)
        .into_iter()
        .map(|(name, out)| {
            let mut bytes = vec![0; out.elements() * out.dtype().size()];
            for (row, (at, len)) in rows(&out).into_iter().enumerate() {
                dev.read(out.as_view().buffer(), at, &mut bytes[row * len..][..len])?;
            }
            Ok((name, out.dtype(), bytes))
        })
        .collect()
}

fn write<D: Device>(dev: &D, out: &mut ViewMut<'_, D>, bytes: &[u8]) -> Result<()> {
    for (row, (at, len)) in rows(out).into_iter().enumerate() {
        dev.write(out.buffer_mut(), at, &bytes[row * len..][..len])?;
    }
    Ok(())
}

/// Where rows begin in the buffer and how long they are, in bytes; one row if they follow each other.
fn rows<D: Device>(out: &ViewMut<'_, D>) -> Vec<(usize, usize)> {
    let (size, all) = (out.dtype().size(), out.elements());
    let count = if out.as_view().is_contiguous() { 1 } else { out.shape()[0] };
    (0..count).map(|r| ((out.offset() + r * out.stride()) * size, all / count * size)).collect()
}

/// The largest difference of the elements that count, and its share of the budget.
fn differ(
    dtype: DType,
    ours: &[u8],
    theirs: &[u8],
    rounds_inside: bool,
    counts: impl Fn(usize) -> bool,
) -> (f64, f64) {
    let n = ours.len() / dtype.size();
    if dtype == DType::I32 {
        let wrong = (0..n).any(|i| element(dtype, ours, i).1 != element(dtype, theirs, i).1);
        return if wrong { (1.0, f64::INFINITY) } else { (0.0, 0.0) };
    }
    let value = |bytes, i| f64::from(element(dtype, bytes, i).0);
    let finite = || (0..n).map(|i| value(ours, i)).filter(|v| v.is_finite());
    let rms = (finite().map(|v| v * v).sum::<f64>() / n.max(1) as f64).sqrt();
    let inside =
        if rounds_inside { format(dtype).ulp(finite().map(f64::abs).fold(0.0, f64::max)) } else { 0.0 };
    let (mut largest, mut share) = (0.0f64, 0.0f64);
    for i in 0..n {
        let (a, b) = (value(ours, i), value(theirs, i));
        if a == b || (a.is_nan() && b.is_nan()) || !counts(i) {
            continue;
        }
        let difference = if (a - b).is_finite() { (a - b).abs() } else { f64::INFINITY };
        let budget = format(dtype).ulp(a.abs().max(b.abs())) + sum_error(4096) * rms + inside;
        largest = largest.max(difference);
        share = share.max(difference / budget);
    }
    (largest, share)
}

/// The kernels of `a`, with those of `b` in the shadow of every slot where they differ.
pub fn shadow<D: Device>(a: KernelSet<D>, b: &KernelSet<D>, log: &Arc<Mutex<Log>>) -> KernelSet<D> {
    fn slot<O: Twice, D: Device>(
        slot: &'static str,
        a: Slot<O, D>,
        b: &Slot<O, D>,
        log: &Arc<Mutex<Log>>,
    ) -> Slot<O, D> {
        if a.name() == b.name() {
            return a;
        }
        Arc::new(Shadow { slot, a, b: Arc::clone(b), log: Arc::clone(log) })
    }
    KernelSet {
        embedding: slot("embedding", a.embedding, &b.embedding, log),
        linear_prefill: slot("linear.prefill", a.linear_prefill, &b.linear_prefill, log),
        linear_decode: slot("linear.decode", a.linear_decode, &b.linear_decode, log),
        linear_logits: slot("linear.logits", a.linear_logits, &b.linear_logits, log),
        rms_norm: slot("rms_norm", a.rms_norm, &b.rms_norm, log),
        add_rms_norm: slot("add_rms_norm", a.add_rms_norm, &b.add_rms_norm, log),
        rope: slot("rope", a.rope, &b.rope, log),
        kv_store: slot("kv_store", a.kv_store, &b.kv_store, log),
        // A kernel of both has no call that it shares with its parts.
        rope_store: match (a.rope_store, &b.rope_store) {
            (Some(a), Some(b)) => Some(slot("rope_store", a, b, log)),
            (a, _) => a,
        },
        attention_prefill: slot("attention.prefill", a.attention_prefill, &b.attention_prefill, log),
        attention_decode: slot("attention.decode", a.attention_decode, &b.attention_decode, log),
        activation: slot("activation", a.activation, &b.activation, log),
        logits: slot("logits", a.logits, &b.logits, log),
        sample: slot("sample", a.sample, &b.sample, log),
        logprobs: slot("logprobs", a.logprobs, &b.logprobs, log),
    }
}

impl Twice for Embedding {
    fn again<'s, D: Device>(a: &'s mut EmbeddingArgs<'_, D>) -> EmbeddingArgs<'s, D> {
        EmbeddingArgs { ids: a.ids, table: a.table, scale: a.scale, out: a.out.reborrow() }
    }

    fn written<'s, D: Device>(a: &'s mut EmbeddingArgs<'_, D>) -> Vec<(&'static str, ViewMut<'s, D>)> {
        vec![("out", a.out.reborrow())]
    }
}

impl Twice for Linear {
    fn again<'s, D: Device>(a: &'s mut LinearArgs<'_, D>) -> LinearArgs<'s, D> {
        LinearArgs { x: a.x, weight: a.weight, bias: a.bias, out: a.out.reborrow() }
    }

    fn written<'s, D: Device>(a: &'s mut LinearArgs<'_, D>) -> Vec<(&'static str, ViewMut<'s, D>)> {
        vec![("out", a.out.reborrow())]
    }
}

impl Twice for RmsNorm {
    fn again<'s, D: Device>(a: &'s mut RmsNormArgs<'_, D>) -> RmsNormArgs<'s, D> {
        RmsNormArgs { x: a.x, weight: a.weight, eps: a.eps, offset: a.offset, out: a.out.reborrow() }
    }

    fn written<'s, D: Device>(a: &'s mut RmsNormArgs<'_, D>) -> Vec<(&'static str, ViewMut<'s, D>)> {
        vec![("out", a.out.reborrow())]
    }
}

impl Twice for AddRmsNorm {
    fn again<'s, D: Device>(a: &'s mut AddRmsNormArgs<'_, D>) -> AddRmsNormArgs<'s, D> {
        AddRmsNormArgs {
            x: a.x,
            residual: a.residual.reborrow(),
            weight: a.weight,
            eps: a.eps,
            offset: a.offset,
            out: a.out.reborrow(),
        }
    }

    fn written<'s, D: Device>(a: &'s mut AddRmsNormArgs<'_, D>) -> Vec<(&'static str, ViewMut<'s, D>)> {
        vec![("residual", a.residual.reborrow()), ("out", a.out.reborrow())]
    }
}

impl Twice for Rope {
    fn again<'s, D: Device>(a: &'s mut RopeArgs<'_, D>) -> RopeArgs<'s, D> {
        a.reborrow()
    }

    fn written<'s, D: Device>(a: &'s mut RopeArgs<'_, D>) -> Vec<(&'static str, ViewMut<'s, D>)> {
        vec![("qkv", a.qkv.reborrow())]
    }
}

impl Twice for KvStore {
    fn again<'s, D: Device>(a: &'s mut KvStoreArgs<'_, D>) -> KvStoreArgs<'s, D> {
        let (k_cache, v_cache) = (a.k_cache.reborrow(), a.v_cache.reborrow());
        KvStoreArgs { k: a.k, v: a.v, slots: a.slots, k_cache, v_cache }
    }

    fn written<'s, D: Device>(a: &'s mut KvStoreArgs<'_, D>) -> Vec<(&'static str, ViewMut<'s, D>)> {
        vec![("k_cache", a.k_cache.reborrow()), ("v_cache", a.v_cache.reborrow())]
    }
}

impl Twice for RopeStore {
    fn again<'s, D: Device>(a: &'s mut RopeStoreArgs<'_, D>) -> RopeStoreArgs<'s, D> {
        let RopeStoreArgs { rope, slots, k_cache, v_cache } = a;
        let (k_cache, v_cache) = (k_cache.reborrow(), v_cache.reborrow());
        RopeStoreArgs { rope: rope.reborrow(), slots: *slots, k_cache, v_cache }
    }

    fn written<'s, D: Device>(a: &'s mut RopeStoreArgs<'_, D>) -> Vec<(&'static str, ViewMut<'s, D>)> {
        let RopeStoreArgs { rope, k_cache, v_cache, .. } = a;
        vec![("qkv", rope.qkv.reborrow()), ("k_cache", k_cache.reborrow()), ("v_cache", v_cache.reborrow())]
    }

    fn says<D: Device>(a: &RopeStoreArgs<'_, D>, tensor: &str, i: usize) -> bool {
        let &[_, all, dim] = a.rope.qkv.shape() else { unreachable!("checked") };
        tensor != "qkv" || !(a.rope.heads..a.rope.heads + a.rope.kv_heads).contains(&(i / dim % all))
    }
}

impl Twice for Attention {
    const ROUNDS_INSIDE: bool = true;

    fn again<'s, D: Device>(a: &'s mut AttentionArgs<'_, D>) -> AttentionArgs<'s, D> {
        let AttentionArgs {
            q,
            k_cache,
            v_cache,
            block_table,
            q_start,
            kv_len,
            lens,
            scale,
            window,
            softcap,
            ..
        } = *a;
        let out = a.out.reborrow();
        AttentionArgs { q, k_cache, v_cache, block_table, q_start, kv_len, lens, scale, window, softcap, out }
    }

    fn written<'s, D: Device>(a: &'s mut AttentionArgs<'_, D>) -> Vec<(&'static str, ViewMut<'s, D>)> {
        vec![("out", a.out.reborrow())]
    }
}

impl Twice for GatedActivation {
    fn again<'s, D: Device>(a: &'s mut ActivationArgs<'_, D>) -> ActivationArgs<'s, D> {
        ActivationArgs { x: a.x, activation: a.activation, out: a.out.reborrow() }
    }

    fn written<'s, D: Device>(a: &'s mut ActivationArgs<'_, D>) -> Vec<(&'static str, ViewMut<'s, D>)> {
        vec![("out", a.out.reborrow())]
    }
}

impl Twice for Logits {
    fn again<'s, D: Device>(a: &'s mut LogitsArgs<'_, D>) -> LogitsArgs<'s, D> {
        LogitsArgs {
            logits: a.logits.reborrow(),
            params: a.params,
            history_start: a.history_start,
            history_ids: a.history_ids,
            history_counts: a.history_counts,
            bias_start: a.bias_start,
            bias_ids: a.bias_ids,
            bias_values: a.bias_values,
            softcap: a.softcap,
        }
    }

    fn written<'s, D: Device>(a: &'s mut LogitsArgs<'_, D>) -> Vec<(&'static str, ViewMut<'s, D>)> {
        vec![("logits", a.logits.reborrow())]
    }
}

impl Twice for Logprobs {
    fn again<'s, D: Device>(a: &'s mut LogprobsArgs<'_, D>) -> LogprobsArgs<'s, D> {
        let (values, ids) = (a.values.reborrow(), a.ids.reborrow());
        LogprobsArgs { logits: a.logits, tokens: a.tokens, softcap: a.softcap, values, ids }
    }

    fn written<'s, D: Device>(a: &'s mut LogprobsArgs<'_, D>) -> Vec<(&'static str, ViewMut<'s, D>)> {
        vec![("values", a.values.reborrow()), ("ids", a.ids.reborrow())]
    }
}

impl Twice for Sample {
    fn again<'s, D: Device>(a: &'s mut SampleArgs<'_, D>) -> SampleArgs<'s, D> {
        let (logits, temperature, top_p_tail, params) = (a.logits, a.temperature, a.top_p_tail, a.params);
        SampleArgs { logits, temperature, top_p_tail, params, spec: a.spec, out: a.out.reborrow() }
    }

    fn written<'s, D: Device>(a: &'s mut SampleArgs<'_, D>) -> Vec<(&'static str, ViewMut<'s, D>)> {
        vec![("out", a.out.reborrow())]
    }
}
