//! The seam: what an operation is, what a kernel is, and the one path by which the engine calls them.
//!
//! An operation lives in three places: its contract (`src/kernels/x.rs`), its mathematics
//! (`reference/src/x.rs`) and its device code (`src/kernels/cpu/x.rs`, `cuda/x.cu`). A kernel is one way to run
//! it on one device. Names become typed slots once, in [`Registry::select`]; a kernel from another crate is
//! pushed to the registry's list like any of ours.

mod activation;
mod attention;
mod cpu;
mod cuda;
mod embedding;
mod kv_store;
mod linear;
mod logits;
mod logprobs;
mod rms_norm;
mod rope;
mod rope_store;
mod sample;

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

pub use activation::{Activation, ActivationArgs, GatedActivation};
pub use attention::{Attention, AttentionArgs, AttentionSpec, SeqLen};
pub use embedding::{Embedding, EmbeddingArgs};
pub use kv_store::{KvStore, KvStoreArgs};
pub use linear::{Linear, LinearArgs, LinearSpec, strips};
pub use logits::{Logits, LogitsArgs};
pub use logprobs::{Logprobs, LogprobsArgs};
pub use rms_norm::{AddRmsNorm, AddRmsNormArgs, RmsNorm, RmsNormArgs};
pub use rope::{Rope, RopeArgs};
pub use rope_store::{RopeStore, RopeStoreArgs};
pub use sample::{Sample, SampleArgs, SampleSpec};

use crate::{
    device::{DType, Device, View},
    error::{Error, Result},
};

/// What an operation takes, must satisfy, and must at least move. No device code.
pub trait Op: 'static {
    /// The name in tables and messages.
    const NAME: &'static str;
    /// Tensors and scalars of one call.
    type Args<'a, D: Device>;
    /// What a kernel may depend on at compile time or refuse: dtypes, head sizes, options. Never batch sizes.
    type Spec: Copy + Debug + Send + Sync;
    /// The spec of a call.
    fn spec<D: Device>(args: &Self::Args<'_, D>) -> Self::Spec;
    /// Whether the arguments fit together.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Argument`], naming the tensor, what it is and what was wanted.
    fn check<D: Device>(args: &Self::Args<'_, D>) -> Result<()>;
    /// Bytes of device memory that any correct kernel reads and writes, each once.
    fn bytes<D: Device>(args: &Self::Args<'_, D>) -> u64;
    /// Floating-point operations that the definition asks for.
    fn flops<D: Device>(args: &Self::Args<'_, D>) -> u64;
}

/// The reason why a kernel cannot run a spec, to follow "does not support".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsupported(pub String);

/// One way to run `O` on `D`. Enqueues; never synchronises, never allocates.
pub trait Kernel<O: Op, D: Device>: Send + Sync {
    /// An idea, not a number: `naive`, `split_kv`, `warp_per_row`.
    fn name(&self) -> &'static str;

    /// What it is good for, in a few words.
    fn about(&self) -> &'static str;

    /// Whether it can run such calls at all.
    ///
    /// # Errors
    /// The reason if it cannot. Nothing falls back silently to another kernel.
    fn supports(&self, spec: &O::Spec) -> std::result::Result<(), Unsupported>;

    /// Whether a row's bits are the same in any batch: alone or among others, wherever it stands, and for attention
    /// whether its token comes alone or in a longer chunk. A kernel that chooses what it does by the number of rows is
    /// not; one that takes decodes only is not either, because a chunk's tokens then come from another.
    /// `--deterministic` takes no others.
    fn batch_invariant(&self) -> bool {
        true
    }

    /// Whether it wants bf16 weights in [`strips`]; of interest to [`Linear`] alone.
    fn reads_strips(&self, _dev: &D) -> bool {
        false
    }

    /// Bytes of scratch memory that a call with these arguments needs.
    fn scratch(&self, _args: &O::Args<'_, D>) -> usize {
        0
    }

    /// Enqueues the work. The arguments were checked; `scratch` has at least [`Self::scratch`] bytes.
    ///
    /// # Errors
    /// [`Error::Device`] when the launch fails.
    fn launch(&self, dev: &D, args: O::Args<'_, D>, scratch: &mut D::Buffer) -> Result<()>;
}

/// A device with the scratch memory that its kernels share, one after the other.
#[derive(Debug)]
pub struct Queue<D: Device> {
    dev: D,
    scratch: D::Buffer,
    scratch_bytes: usize,
    rehearsing: bool,
}

impl<D: Device> Queue<D> {
    /// A queue with no scratch memory yet: calls reserve it, best in a rehearsal of the largest step.
    ///
    /// # Errors
    /// [`Error::Device`] when there is no memory at all.
    pub fn new(dev: &D) -> Result<Self> {
        Ok(Self { dev: dev.clone(), scratch: dev.alloc(0)?, scratch_bytes: 0, rehearsing: false })
    }

    /// The device.
    pub fn dev(&self) -> &D {
        &self.dev
    }

    /// Bytes of scratch memory; it moves when they grow, which no call does that was rehearsed.
    pub fn scratch_bytes(&self) -> usize {
        self.scratch_bytes
    }

    /// While on, calls are checked, their scratch memory is reserved and their kernels prepared, but nothing is
    /// computed.
    ///
    /// # Errors
    /// [`Error::Device`] when a kernel does not compile: told at the end, for all that were asked for.
    pub fn rehearse(&mut self, on: bool) -> Result<()> {
        self.rehearsing = on;
        self.dev.rehearse(on)
    }

    fn reserve(&mut self, bytes: usize) -> Result<()> {
        if bytes > self.scratch_bytes {
            self.dev.synchronize()?;
            self.scratch = self.dev.alloc(bytes)?;
            self.scratch_bytes = bytes;
        }
        Ok(())
    }
}

/// The only call path: check, then launch.
///
/// # Errors
/// What [`Op::check`] finds; [`Error::Unsupported`]; what the launch reports.
pub fn run<O: Op, D: Device>(
    kernel: &dyn Kernel<O, D>,
    queue: &mut Queue<D>,
    args: O::Args<'_, D>,
) -> Result<()> {
    O::check(&args)?;
    supported(kernel, &O::spec(&args))?;
    queue.reserve(kernel.scratch(&args))?;
    if queue.rehearsing && !D::LAUNCHES_IN_REHEARSAL {
        return Ok(());
    }
    kernel.launch(&queue.dev, args, &mut queue.scratch)
}

/// [`Kernel::supports`] as an [`Error::Unsupported`] that names the kernel.
///
/// # Errors
/// See there.
pub fn supported<O: Op, D: Device>(kernel: &dyn Kernel<O, D>, spec: &O::Spec) -> Result<()> {
    kernel.supports(spec).map_err(|Unsupported(reason)| Error::Unsupported {
        op: O::NAME,
        kernel: kernel.name(),
        reason,
    })
}

/// The kernels of one operation on one device; the first is the default.
pub type Table<O, D> = Vec<Arc<dyn Kernel<O, D>>>;

/// A shared kernel of `O`.
pub type Slot<O, D> = Arc<dyn Kernel<O, D>>;

/// Every kernel of a device, by operation.
pub struct Registry<D: Device> {
    /// Rows of a table by id.
    pub embedding: Table<Embedding, D>,
    /// Matrix products with a weight.
    pub linear: Table<Linear, D>,
    /// RMSNorm.
    pub rms_norm: Table<RmsNorm, D>,
    /// Residual addition and RMSNorm in one.
    pub add_rms_norm: Table<AddRmsNorm, D>,
    /// q/k-norm (where the model has it) and rotary embedding.
    pub rope: Table<Rope, D>,
    /// New keys and values into the paged cache.
    pub kv_store: Table<KvStore, D>,
    /// The two in one.
    pub rope_store: Table<RopeStore, D>,
    /// Causal attention over the paged cache.
    pub attention: Table<Attention, D>,
    /// SiLU·mul and GELU·mul.
    pub activation: Table<GatedActivation, D>,
    /// Penalties, bias, temperature, min-p.
    pub logits: Table<Logits, D>,
    /// Top-k, top-p and the draw.
    pub sample: Table<Sample, D>,
    /// Log-probabilities of tokens.
    pub logprobs: Table<Logprobs, D>,
}

/// The kernels that a model runs with: one typed slot per use.
pub struct KernelSet<D: Device> {
    /// Token embedding, and the gathering of rows.
    pub embedding: Slot<Embedding, D>,
    /// Projections of more than [`SMALL_ROWS`] rows.
    pub linear_prefill: Slot<Linear, D>,
    /// Projections of at most [`SMALL_ROWS`] rows: bound by the weight's bytes.
    pub linear_decode: Slot<Linear, D>,
    /// The output projection to the vocabulary.
    pub linear_logits: Slot<Linear, D>,
    /// RMSNorm.
    pub rms_norm: Slot<RmsNorm, D>,
    /// Residual addition and RMSNorm.
    pub add_rms_norm: Slot<AddRmsNorm, D>,
    /// q/k-norm and rotary embedding.
    pub rope: Slot<Rope, D>,
    /// New keys and values into the cache.
    pub kv_store: Slot<KvStore, D>,
    /// The two in one; `None`: one after the other.
    pub rope_store: Option<Slot<RopeStore, D>>,
    /// Attention of sequences with more than one new token.
    pub attention_prefill: Slot<Attention, D>,
    /// Attention of sequences with one new token.
    pub attention_decode: Slot<Attention, D>,
    /// The MLP's gated activation.
    pub activation: Slot<GatedActivation, D>,
    /// Logits processing.
    pub logits: Slot<Logits, D>,
    /// Sampling.
    pub sample: Slot<Sample, D>,
    /// Log-probabilities, where a request asks for them.
    pub logprobs: Slot<Logprobs, D>,
}

impl<D: Device> KernelSet<D> {
    /// Whether weights of this dtype should lie in [`strips`]: every linear has to read them.
    pub fn read_strips(&self, dev: &D, dtype: DType) -> bool {
        let linears = [&self.linear_prefill, &self.linear_decode, &self.linear_logits];
        dtype == DType::Bf16 && linears.iter().all(|kernel| kernel.reads_strips(dev))
    }
}

/// Up to this many rows a linear counts as decode.
pub const SMALL_ROWS: usize = 64;

/// The slots' names, as `--kernel SLOT=KERNEL` and [`Registry::select`] take them. `rope_store=apart` runs `rope` and
/// `kv_store` one after the other instead, and so does naming a kernel for one of them and none for `rope_store`.
pub const SLOTS: [&str; 15] = [
    "embedding",
    "linear.prefill",
    "linear.decode",
    "linear.logits",
    "rms_norm",
    "add_rms_norm",
    "rope",
    "kv_store",
    "rope_store",
    "attention.prefill",
    "attention.decode",
    "activation",
    "logits",
    "sample",
    "logprobs",
];

/// A line of `lathe kernels`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The operation.
    pub op: &'static str,
    /// The kernel.
    pub kernel: &'static str,
    /// What it is good for.
    pub about: &'static str,
    /// [`Kernel::batch_invariant`].
    pub batch_invariant: bool,
    /// The slots that it fills.
    pub chosen: Vec<&'static str>,
}

impl<D: Device> Registry<D> {
    /// The kernels by slot name; a slot that is not named gets its operation's first, or with `deterministic` the first
    /// that is [batch-invariant](Kernel::batch_invariant).
    ///
    /// # Errors
    /// [`Error::UnknownName`] for a slot or kernel that does not exist; [`Error::Config`] for a named kernel that is not
    /// batch-invariant but must be.
    pub fn select(&self, names: &BTreeMap<String, String>, deterministic: bool) -> Result<KernelSet<D>> {
        // An operation's name stands for all of its slots: `linear=reference`.
        let known = |name: &String| SLOTS.iter().any(|s| s == name || s.split('.').next() == Some(name));
        if let Some(name) = names.keys().find(|name| !known(name)) {
            let kind = "kernel slot".into();
            return Err(Error::UnknownName { kind, name: name.clone(), known: SLOTS.join(", ") });
        }
        let parts = ["rope", "kv_store"].iter().any(|part| names.contains_key(*part));
        let rope_store = match names.get("rope_store").map(String::as_str) {
            Some("apart") => None,
            None if parts => None,
            _ => Some(pick(&self.rope_store, "rope_store", &Choice { names, deterministic })?),
        };
        let names = &Choice { names, deterministic };
        Ok(KernelSet {
            embedding: pick(&self.embedding, "embedding", names)?,
            linear_prefill: pick(&self.linear, "linear.prefill", names)?,
            linear_decode: pick(&self.linear, "linear.decode", names)?,
            linear_logits: pick(&self.linear, "linear.logits", names)?,
            rms_norm: pick(&self.rms_norm, "rms_norm", names)?,
            add_rms_norm: pick(&self.add_rms_norm, "add_rms_norm", names)?,
            rope: pick(&self.rope, "rope", names)?,
            kv_store: pick(&self.kv_store, "kv_store", names)?,
            rope_store,
            attention_prefill: pick(&self.attention, "attention.prefill", names)?,
            attention_decode: pick(&self.attention, "attention.decode", names)?,
            activation: pick(&self.activation, "activation", names)?,
            logits: pick(&self.logits, "logits", names)?,
            sample: pick(&self.sample, "sample", names)?,
            logprobs: pick(&self.logprobs, "logprobs", names)?,
        })
    }

    /// Every kernel, with the slots that `set` gives it.
    pub fn rows(&self, set: &KernelSet<D>) -> Vec<Row> {
        let mut rows = Vec::new();
        list(&mut rows, &self.embedding, &[("embedding", &set.embedding)]);
        let linear = [
            ("linear.prefill", &set.linear_prefill),
            ("linear.decode", &set.linear_decode),
            ("linear.logits", &set.linear_logits),
        ];
        list(&mut rows, &self.linear, &linear);
        list(&mut rows, &self.rms_norm, &[("rms_norm", &set.rms_norm)]);
        list(&mut rows, &self.add_rms_norm, &[("add_rms_norm", &set.add_rms_norm)]);
        // These two run only where no kernel does both.
        let apart = usize::from(set.rope_store.is_none());
        list(&mut rows, &self.rope, &[("rope", &set.rope)][..apart]);
        list(&mut rows, &self.kv_store, &[("kv_store", &set.kv_store)][..apart]);
        let both: Vec<_> = set.rope_store.iter().map(|kernel| ("rope_store", kernel)).collect();
        list(&mut rows, &self.rope_store, &both);
        let attention =
            [("attention.prefill", &set.attention_prefill), ("attention.decode", &set.attention_decode)];
        list(&mut rows, &self.attention, &attention);
        list(&mut rows, &self.activation, &[("activation", &set.activation)]);
        list(&mut rows, &self.logits, &[("logits", &set.logits)]);
        list(&mut rows, &self.sample, &[("sample", &set.sample)]);
        list(&mut rows, &self.logprobs, &[("logprobs", &set.logprobs)]);
        rows
    }
}

/// What [`Registry::select`] was asked for.
struct Choice<'a> {
    names: &'a BTreeMap<String, String>,
    deterministic: bool,
}

fn pick<O: Op, D: Device>(
    table: &Table<O, D>,
    slot: &'static str,
    choice: &Choice<'_>,
) -> Result<Slot<O, D>> {
    let op = slot.split('.').next().unwrap_or(slot);
    let fits = |k: &&Slot<O, D>| !choice.deterministic || k.batch_invariant();
    let known = || table.iter().filter(fits).map(|k| k.name()).collect::<Vec<_>>().join(", ");
    let Some(name) = choice.names.get(slot).or_else(|| choice.names.get(op)) else {
        let first = table.iter().find(fits).cloned();
        return first.ok_or_else(|| Error::config("deterministic", slot, "an operation with such a kernel"));
    };
    let named = table.iter().find(|k| k.name() == name).ok_or_else(|| Error::UnknownName {
        kind: format!("kernel for {slot}"),
        name: name.clone(),
        known: known(),
    })?;
    if !fits(&named) {
        let want = format!("a batch-invariant kernel, because of deterministic: {}", known());
        return Err(Error::config(format!("kernel {slot}"), name, want));
    }
    Ok(Arc::clone(named))
}

fn list<O: Op, D: Device>(rows: &mut Vec<Row>, table: &Table<O, D>, slots: &[(&'static str, &Slot<O, D>)]) {
    rows.extend(table.iter().map(|k| Row {
        op: O::NAME,
        kernel: k.name(),
        about: k.about(),
        batch_invariant: k.batch_invariant(),
        chosen: slots.iter().filter(|(_, s)| Arc::ptr_eq(s, k)).map(|(n, _)| *n).collect(),
    }));
}

/// Fails unless `tensor` has the shape `want`.
fn want_shape(op: &'static str, tensor: &'static str, got: &[usize], want: &[usize]) -> Result<()> {
    if got == want {
        return Ok(());
    }
    Err(Error::Shape { op, tensor, got: got.to_vec(), want: want.to_vec() })
}

/// Fails unless `tensor` has the dtype `want`.
fn want_dtype(op: &'static str, tensor: &'static str, got: DType, want: DType) -> Result<()> {
    argument(op, got == want, tensor, || (got.to_string(), want.to_string()))
}

/// Fails unless `ok`, with what the argument is and what was wanted.
fn argument(
    op: &'static str,
    ok: bool,
    what: &'static str,
    got_want: impl FnOnce() -> (String, String),
) -> Result<()> {
    if ok {
        return Ok(());
    }
    let (got, want) = got_want();
    Err(Error::Argument { op, what, got, want })
}

/// Fails unless the tensor's values are bf16, f16 or f32.
fn want_float(op: &'static str, tensor: &'static str, got: DType) -> Result<()> {
    argument(op, got != DType::I32, tensor, || (got.to_string(), "bf16, f16 or f32".into()))
}

/// Bytes of a view's elements.
fn size<D: Device>(v: &View<'_, D>) -> u64 {
    (v.elements() * v.dtype().size()) as u64
}
