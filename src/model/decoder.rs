//! The one decoder: every family's forward pass, described by [`ModelConfig`].
//!
//! Activations are `[tokens, …]` with all sequences of the step concatenated, decodes first. The KV cache is paged;
//! a step's tensors tell where each token's keys go and what each sequence may see.

use std::sync::Arc;

use half::{bf16, f16};
use lathe_reference::rope;

use super::{
    config::{ModelConfig, Rope as RopeConfig, RopeScaling},
    weights::{Dtype, WeightView, Weights},
};
use crate::{
    device::{DType, Device, HostBytes, Tensor, View, ViewMut},
    error::Result,
    kernels::{
        ActivationArgs, AddRmsNormArgs, AttentionArgs, EmbeddingArgs, Kernel, KernelSet, Linear, LinearArgs,
        Queue, RmsNormArgs, RopeArgs, RopeStoreArgs, SMALL_ROWS, SeqLen, run, strips,
    },
};

/// A model's weights on `D`, in one storage dtype.
pub struct Decoder<D: Device> {
    config: ModelConfig,
    dtype: DType,
    embedding: Tensor<D>,
    /// `None`: the embedding's table.
    lm_head: Option<Tensor<D>>,
    final_norm: Tensor<D>,
    layers: Vec<LayerWeights<D>>,
    /// By [`super::config::Layer::rope`]: `[max_positions, head_dim]` f32, cosines then sines.
    ropes: Vec<Tensor<D>>,
}

/// A projection, with its bias if it has one.
struct Projection<D: Device> {
    /// `[out, in]`, or that in strips.
    weight: Tensor<D>,
    bias: Option<Tensor<D>>,
}

struct LayerWeights<D: Device> {
    input_norm: Tensor<D>,
    /// q, k and v, one after the other.
    qkv: Projection<D>,
    qk_norm: Option<[Tensor<D>; 2]>,
    o: Projection<D>,
    /// Only with sandwich norms: of attention's and of the MLP's output, before each joins the residual.
    output_norms: Option<[Tensor<D>; 2]>,
    mlp_norm: Tensor<D>,
    /// gate and up, one after the other.
    gate_up: Projection<D>,
    down: Projection<D>,
}

/// The paged keys and values of every layer.
pub struct KvCache<D: Device> {
    /// By layer: keys and values, `[blocks, block_size, kv_heads, head_dim]`.
    layers: Vec<[Tensor<D>; 2]>,
}

impl<D: Device> KvCache<D> {
    /// Zeros.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the memory is not there.
    pub fn new(
        dev: &D,
        config: &ModelConfig,
        dtype: DType,
        blocks: usize,
        block_size: usize,
    ) -> Result<Self> {
        let shape = [blocks, block_size, config.kv_heads, config.head_dim];
        let layer = |_| Ok([Tensor::zeros(dev, dtype, &shape)?, Tensor::zeros(dev, dtype, &shape)?]);
        Ok(Self { layers: config.layers.iter().map(layer).collect::<Result<_>>()? })
    }

    /// [`Device::touch`]es the first `blocks`.
    pub fn touch(&self, dev: &D, blocks: usize) {
        for tensor in self.layers.iter().flatten() {
            dev.touch(tensor.view().buffer(), blocks * (tensor.bytes() / tensor.shape()[0]));
        }
    }

    /// Bytes that a block takes over all layers.
    pub fn block_bytes(config: &ModelConfig, dtype: DType, block_size: usize) -> usize {
        2 * config.layers.len() * block_size * config.kv_heads * config.head_dim * dtype.size()
    }
}

/// The sequences of a step that attention takes together.
#[derive(Clone, Copy)]
pub struct AttentionGroup<'a, D: Device> {
    /// The lengths on the host.
    pub lens: &'a [SeqLen],
    /// `[seqs, max_blocks]` i32.
    pub block_table: View<'a, D>,
    /// `[seqs + 1]` i32.
    pub q_start: View<'a, D>,
    /// `[seqs]` i32.
    pub kv_len: View<'a, D>,
}

/// What a step computes: the tokens of the decodes, then those of the longer chunks.
#[derive(Clone, Copy)]
pub struct StepInput<'a, D: Device> {
    /// `[tokens]` i32.
    pub ids: View<'a, D>,
    /// `[tokens]` i32.
    pub positions: View<'a, D>,
    /// `[tokens]` i32: where each token's keys and values go.
    pub slots: View<'a, D>,
    /// Sequences with one new token.
    pub decode: AttentionGroup<'a, D>,
    /// Sequences with more.
    pub prefill: AttentionGroup<'a, D>,
}

/// Buffers of a forward pass, allocated once for the largest step.
pub struct Activations<D: Device> {
    residual: Tensor<D>,
    normed: Tensor<D>,
    qkv: Tensor<D>,
    attention: Tensor<D>,
    projected: Tensor<D>,
    /// Only with sandwich norms.
    block_normed: Tensor<D>,
    gate_up: Tensor<D>,
    activated: Tensor<D>,
    rows: Tensor<D>,
    logits: Tensor<D>,
}

impl<D: Device> Activations<D> {
    /// For steps of at most `tokens` tokens and logits of at most `rows` rows at a time.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the memory is not there.
    pub fn new(dev: &D, config: &ModelConfig, dtype: DType, tokens: usize, rows: usize) -> Result<Self> {
        let c = config;
        let heads = c.heads + 2 * c.kv_heads;
        let of = |shape: &[usize]| Tensor::zeros(dev, dtype, shape);
        Ok(Self {
            residual: of(&[tokens, c.hidden])?,
            normed: of(&[tokens, c.hidden])?,
            qkv: of(&[tokens, heads, c.head_dim])?,
            attention: of(&[tokens, c.heads, c.head_dim])?,
            projected: of(&[tokens, c.hidden])?,
            block_normed: of(&[if c.sandwich_norms { tokens } else { 0 }, c.hidden])?,
            gate_up: of(&[tokens, 2 * c.intermediate])?,
            activated: of(&[tokens, c.intermediate])?,
            rows: of(&[rows, c.hidden])?,
            logits: Tensor::zeros(dev, DType::F32, &[rows, c.vocab_size])?,
        })
    }
}

impl<D: Device> Decoder<D> {
    /// Puts the weights on the device in `dtype`, those of the products in [`strips`] if the kernels want that.
    /// `weights` were checked against `config`.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the memory is not there; [`crate::Error::Model`] for a missing tensor.
    pub fn load(
        dev: &D,
        config: &ModelConfig,
        weights: &Weights,
        dtype: DType,
        strips: bool,
        max_positions: usize,
    ) -> Result<Self> {
        let load = Load { dev, weights, dtype, strips };
        let c = config;
        let layer = |i: usize| -> Result<LayerWeights<D>> {
            let name = |part: &str| format!("model.layers.{i}.{part}");
            let norm = |part: &str| load.one(&name(&format!("{part}.weight")));
            let projection = |parts: &[&str], bias: bool| -> Result<Projection<D>> {
                let all = |what: &str| -> Vec<String> {
                    parts.iter().map(|p| name(&format!("{p}.{what}"))).collect()
                };
                let bias = if bias { Some(load.joined(&all("bias"))?) } else { None };
                Ok(Projection { weight: load.product(&all("weight"))?, bias })
            };
            let (output_norms, mlp_norm) = if c.sandwich_norms {
                let norms = [norm("post_attention_layernorm")?, norm("post_feedforward_layernorm")?];
                (Some(norms), norm("pre_feedforward_layernorm")?)
            } else {
                (None, norm("post_attention_layernorm")?)
            };
            let qk_norm =
                if c.qk_norm { Some([norm("self_attn.q_norm")?, norm("self_attn.k_norm")?]) } else { None };
            Ok(LayerWeights {
                input_norm: norm("input_layernorm")?,
                qkv: projection(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], c.qkv_bias)?,
                qk_norm,
                o: projection(&["self_attn.o_proj"], c.o_bias)?,
                output_norms,
                mlp_norm,
                gate_up: projection(&["mlp.gate_proj", "mlp.up_proj"], c.mlp_bias)?,
                down: projection(&["mlp.down_proj"], c.mlp_bias)?,
            })
        };
        Ok(Self {
            dtype,
            embedding: load.one("model.embed_tokens.weight")?,
            lm_head: match (c.tie_embeddings, strips) {
                (false, _) => Some(load.product(&["lm_head.weight".into()])?),
                (true, true) => Some(load.product(&["model.embed_tokens.weight".into()])?),
                (true, false) => None,
            },
            final_norm: load.one("model.norm.weight")?,
            layers: (0..c.layers.len()).map(layer).collect::<Result<_>>()?,
            ropes: c
                .ropes
                .iter()
                .map(|r| {
                    Tensor::from_slice(
                        dev,
                        &cos_sin(r, c.head_dim, max_positions),
                        &[max_positions, c.head_dim],
                    )
                })
                .collect::<Result<_>>()?,
            config: config.clone(),
        })
    }

    /// What it is made for.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The storage dtype.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes of the weights that every step reads: all but the embedding table, unless it is the output projection.
    pub fn step_bytes(&self) -> usize {
        let of = |p: &Projection<D>| p.weight.bytes() + p.bias.as_ref().map_or(0, Tensor::bytes);
        let layer = |l: &LayerWeights<D>| of(&l.qkv) + of(&l.o) + of(&l.gate_up) + of(&l.down);
        self.layers.iter().map(layer).sum::<usize>()
            + self.lm_head.as_ref().unwrap_or(&self.embedding).bytes()
    }

    /// Computes the step's tokens: their keys and values go to `kv`, their final hidden states to `act`.
    ///
    /// # Errors
    /// What the kernels' contracts and launches report.
    pub fn forward(
        &self,
        queue: &mut Queue<D>,
        kernels: &KernelSet<D>,
        input: &StepInput<'_, D>,
        kv: &mut KvCache<D>,
        act: &mut Activations<D>,
    ) -> Result<()> {
        let (c, n) = (&self.config, input.ids.elements());
        let scale = c.embed_scale_in(match self.dtype {
            DType::Bf16 => Dtype::BF16,
            DType::F16 => Dtype::F16,
            DType::F32 | DType::I32 => Dtype::F32,
        });
        let embed = EmbeddingArgs {
            ids: input.ids,
            table: self.embedding.view(),
            scale,
            out: act.residual.rows_mut(0..n),
        };
        run(&*kernels.embedding, queue, embed)?;
        let first = RmsNormArgs {
            x: act.residual.rows(0..n),
            weight: self.layers[0].input_norm.view(),
            eps: c.norm_eps,
            offset: c.norm_offset,
            out: act.normed.rows_mut(0..n),
        };
        run(&*kernels.rms_norm, queue, first)?;
        for (i, layer) in self.layers.iter().enumerate() {
            self.attention(queue, kernels, input, i, &mut kv.layers[i], act)?;
            let [attention_norm, mlp_output_norm] = match &layer.output_norms {
                Some([a, m]) => [Some(a), Some(m)],
                None => [None, None],
            };
            self.join(queue, kernels, n, attention_norm, &layer.mlp_norm, act)?;
            let linear = if n > SMALL_ROWS { &*kernels.linear_prefill } else { &*kernels.linear_decode };
            project(linear, queue, &layer.gate_up, act.normed.rows(0..n), act.gate_up.rows_mut(0..n))?;
            let gated = ActivationArgs {
                x: act.gate_up.rows(0..n),
                activation: c.activation,
                out: act.activated.rows_mut(0..n),
            };
            run(&*kernels.activation, queue, gated)?;
            project(linear, queue, &layer.down, act.activated.rows(0..n), act.projected.rows_mut(0..n))?;
            let next = self.layers.get(i + 1).map_or(&self.final_norm, |l| &l.input_norm);
            self.join(queue, kernels, n, mlp_output_norm, next, act)?;
        }
        Ok(())
    }

    /// From the normed hidden states to the projected output of attention.
    fn attention(
        &self,
        queue: &mut Queue<D>,
        kernels: &KernelSet<D>,
        input: &StepInput<'_, D>,
        layer: usize,
        [k_cache, v_cache]: &mut [Tensor<D>; 2],
        act: &mut Activations<D>,
    ) -> Result<()> {
        let (c, n, w) = (&self.config, input.ids.elements(), &self.layers[layer]);
        let all = c.heads + 2 * c.kv_heads;
        let linear = if n > SMALL_ROWS { &*kernels.linear_prefill } else { &*kernels.linear_decode };
        let packed = act.qkv.rows_mut(0..n).reshape(&[n, all * c.head_dim]);
        project(linear, queue, &w.qkv, act.normed.rows(0..n), packed)?;
        let rope = RopeArgs {
            qkv: act.qkv.rows_mut(0..n),
            heads: c.heads,
            kv_heads: c.kv_heads,
            qk_norm: w.qk_norm.as_ref().map(|[q, k]| [q.view(), k.view()]),
            eps: c.norm_eps,
            offset: c.norm_offset,
            cos_sin: self.ropes[c.layers[layer].rope].view(),
            positions: input.positions,
        };
        let slots = input.slots;
        let mut both =
            RopeStoreArgs { rope, slots, k_cache: k_cache.view_mut(), v_cache: v_cache.view_mut() };
        match &kernels.rope_store {
            Some(kernel) => run(&**kernel, queue, both)?,
            None => {
                run(&*kernels.rope, queue, both.rope())?;
                run(&*kernels.kv_store, queue, both.store())?;
            }
        }
        let qkv = act.qkv.rows(0..n);
        let decodes = input.decode.lens.len();
        for (kernel, group, rows) in [
            (&kernels.attention_decode, &input.decode, 0..decodes),
            (&kernels.attention_prefill, &input.prefill, decodes..n),
        ] {
            if group.lens.is_empty() {
                continue;
            }
            let args = AttentionArgs {
                q: qkv.rows(rows.clone()).columns(0..c.heads),
                k_cache: k_cache.view(),
                v_cache: v_cache.view(),
                block_table: group.block_table,
                q_start: group.q_start,
                kv_len: group.kv_len,
                lens: group.lens,
                scale: c.attn_scale,
                window: c.layers[layer].window,
                softcap: c.attn_softcap,
                out: act.attention.rows_mut(rows),
            };
            run(&**kernel, queue, args)?;
        }
        let heads = act.attention.rows(0..n).reshape(&[n, c.heads * c.head_dim]);
        project(linear, queue, &w.o, heads, act.projected.rows_mut(0..n))
    }

    /// Adds what a block projected (normed first, with sandwich norms) to the residual, and norms for the next block.
    fn join(
        &self,
        queue: &mut Queue<D>,
        kernels: &KernelSet<D>,
        n: usize,
        output_norm: Option<&Tensor<D>>,
        next_norm: &Tensor<D>,
        act: &mut Activations<D>,
    ) -> Result<()> {
        let (eps, offset) = (self.config.norm_eps, self.config.norm_offset);
        if let Some(weight) = output_norm {
            let (x, out) = (act.projected.rows(0..n), act.block_normed.rows_mut(0..n));
            run(&*kernels.rms_norm, queue, RmsNormArgs { x, weight: weight.view(), eps, offset, out })?;
        }
        let block = if output_norm.is_some() { &act.block_normed } else { &act.projected };
        let args = AddRmsNormArgs {
            x: block.rows(0..n),
            residual: act.residual.rows_mut(0..n),
            weight: next_norm.view(),
            eps,
            offset,
            out: act.normed.rows_mut(0..n),
        };
        run(&*kernels.add_rms_norm, queue, args)
    }

    /// The unprocessed logits of the tokens `rows` (i32, indices into the last step's tokens), in their order.
    ///
    /// # Errors
    /// What the kernels' contracts and launches report.
    pub fn logits<'a>(
        &self,
        queue: &mut Queue<D>,
        kernels: &KernelSet<D>,
        rows: View<'_, D>,
        act: &'a mut Activations<D>,
    ) -> Result<ViewMut<'a, D>> {
        let n = rows.elements();
        let gather =
            EmbeddingArgs { ids: rows, table: act.normed.view(), scale: 1.0, out: act.rows.rows_mut(0..n) };
        run(&*kernels.embedding, queue, gather)?;
        let args = LinearArgs {
            x: act.rows.rows(0..n),
            weight: self.lm_head.as_ref().unwrap_or(&self.embedding).view(),
            bias: None,
            out: act.logits.rows_mut(0..n),
        };
        run(&*kernels.linear_logits, queue, args)?;
        Ok(act.logits.rows_mut(0..n))
    }
}

fn project<D: Device>(
    kernel: &dyn Kernel<Linear, D>,
    queue: &mut Queue<D>,
    p: &Projection<D>,
    x: View<'_, D>,
    out: ViewMut<'_, D>,
) -> Result<()> {
    let args = LinearArgs { x, weight: p.weight.view(), bias: p.bias.as_ref().map(Tensor::view), out };
    run(kernel, queue, args)
}

/// How weights come to the device.
struct Load<'a, D: Device> {
    dev: &'a D,
    weights: &'a Weights,
    dtype: DType,
    strips: bool,
}

impl<D: Device> Load<'_, D> {
    fn one(&self, name: &str) -> Result<Tensor<D>> {
        let view = self.weights.get(name)?;
        if dtype_of(view.dtype) != self.dtype {
            return self.joined(&[name.into()]);
        }
        let (shape, len) = (view.shape.clone(), view.bytes().len());
        let bytes: HostBytes = Arc::new(view);
        Ok(Tensor::from_buffer(self.dev.adopt(&bytes, 0..len)?, self.dtype, &shape))
    }

    /// As [`Self::joined`], in strips if the kernels want that.
    fn product(&self, names: &[String]) -> Result<Tensor<D>> {
        if !self.strips {
            return self.joined(names);
        }
        let views = names.iter().map(|n| self.weights.get(n)).collect::<Result<Vec<_>>>()?;
        let (n, k) = (views.iter().map(|v| v.shape[0]).sum(), views[0].shape[1]);
        let converted: Vec<_> = views.iter().map(|view| convert(view, self.dtype)).collect();
        let bytes = converted.iter().zip(&views).map(|(new, view)| new.as_deref().unwrap_or(view.bytes()));
        let rows: Vec<&[u8]> = bytes.flat_map(|bytes| bytes.chunks_exact(k * self.dtype.size())).collect();
        let shape = strips::shape(n, k);
        let mut strip = vec![0; shape[1..].iter().product::<usize>() * self.dtype.size()];
        let mut buffer = self.dev.alloc(shape[0] * strip.len())?;
        for (i, rows) in rows.chunks(strips::ROWS).enumerate() {
            if rows.len() < strips::ROWS {
                strip.fill(0);
            }
            rows.iter().enumerate().for_each(|(r, row)| strips::place(row, r, &mut strip));
            self.dev.write(&mut buffer, i * strip.len(), &strip)?;
        }
        Ok(Tensor::from_buffer(buffer, self.dtype, &shape))
    }

    /// The tensors one after the other along their first extent.
    fn joined(&self, names: &[String]) -> Result<Tensor<D>> {
        let views = names.iter().map(|n| self.weights.get(n)).collect::<Result<Vec<_>>>()?;
        let mut shape = views[0].shape.clone();
        shape[0] = views.iter().map(|v| v.shape[0]).sum();
        let mut buffer = self.dev.alloc(shape.iter().product::<usize>() * self.dtype.size())?;
        let mut at = 0;
        for view in &views {
            let converted = convert(view, self.dtype);
            let bytes = converted.as_deref().unwrap_or(view.bytes());
            self.dev.write(&mut buffer, at, bytes)?;
            at += bytes.len();
        }
        Ok(Tensor::from_buffer(buffer, self.dtype, &shape))
    }
}

/// The device's name for a checkpoint's dtype.
pub fn dtype_of(dtype: Dtype) -> DType {
    match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::Bf16,
    }
}

/// The view's elements rounded to `to`, or `None` if they are of that dtype already.
fn convert(view: &WeightView, to: DType) -> Option<Vec<u8>> {
    if dtype_of(view.dtype) == to {
        return None;
    }
    let size = view.dtype.size();
    let wide = view.bytes().chunks_exact(size).map(|b| match view.dtype {
        Dtype::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        Dtype::F16 => f16::from_le_bytes([b[0], b[1]]).to_f32(),
        Dtype::BF16 => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
    });
    Some(match to {
        DType::Bf16 => wide.flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect(),
        DType::F16 => wide.flat_map(|v| f16::from_f32(v).to_le_bytes()).collect(),
        DType::F32 | DType::I32 => wide.flat_map(f32::to_le_bytes).collect(),
    })
}

/// `[positions, head_dim]`: the cosines of a position's angles, then the sines. Angles are f32 products, as in the
/// oracle, which says why.
fn cos_sin(config: &RopeConfig, head_dim: usize, positions: usize) -> Vec<f32> {
    let inv_freq = match config.scaling {
        RopeScaling::Default => rope::inv_freq_default(head_dim, config.theta),
        RopeScaling::Linear { factor } => rope::inv_freq_linear(head_dim, config.theta, factor),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
            let llama3 = rope::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: original_max_position,
            };
            rope::inv_freq_llama3(head_dim, config.theta, llama3)
        }
    };
    let angles = |p: usize| inv_freq.iter().map(move |f| f64::from(p as f32 * f));
    let row = |p| angles(p).map(|a| a.cos() as f32).chain(angles(p).map(|a| a.sin() as f32));
    (0..positions).flat_map(row).collect()
}
