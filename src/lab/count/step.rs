//! A whole decode step: every launch of the decoder, the logits and the sampler.

use std::collections::BTreeMap;

use super::{Bounds, Least};
use crate::{
    device::{DType, Device, Tensor},
    error::Result,
    kernels::{Queue, Registry, SampleArgs, SampleSpec, SeqLen, run},
    model::{
        Decoder, ModelFiles,
        decoder::{Activations, AttentionGroup, KvCache, StepInput, dtype_of},
    },
    open::OnDevice,
};

/// What the bytes of a step may be: over the weights and the keys and values that it cannot do without.
pub const STEP: Bounds = Bounds { moved: Some(1.05), sectors: None, wavefronts: None, tensor: None };

/// One greedy decode step of `seqs` sequences with `keys` keys each, the new token's included. The cache holds zeros:
/// what is counted does not depend on its values.
pub struct DecodeStep<'a> {
    /// The model.
    pub files: &'a ModelFiles,
    /// Sequences.
    pub seqs: usize,
    /// Keys of each.
    pub keys: usize,
}

/// Tokens of a cache block.
const BLOCK: usize = 256;

impl OnDevice for DecodeStep<'_> {
    type Out = Least;

    fn run<D: Device>(self, dev: &D, registry: &Registry<D>) -> Result<Least> {
        let Self { files, seqs, keys } = self;
        let dtype = dtype_of(files.checkpoint_dtype()?);
        let kernels = registry.select(&BTreeMap::new(), false)?;
        let strips = kernels.read_strips(dev, dtype);
        let decoder = Decoder::load(dev, &files.config, &files.weights, dtype, strips, keys)?;
        let model = decoder.config();
        let blocks = keys.div_ceil(BLOCK);
        let mut kv = KvCache::new(dev, model, dtype, seqs * blocks, BLOCK)?;
        let mut act = Activations::new(dev, model, dtype, seqs, seqs)?;

        let ints = |values: Vec<usize>, shape: &[usize]| {
            Tensor::from_slice(dev, &values.into_iter().map(|v| v as i32).collect::<Vec<_>>(), shape)
        };
        // Blocks in no order that a kernel could profit from.
        let table = |i: usize| seqs * blocks - 1 - i;
        let slot = |seq: usize| table(seq * blocks + (keys - 1) / BLOCK) * BLOCK + (keys - 1) % BLOCK;
        let ids = ints((0..seqs).map(|i| 100 + i).collect(), &[seqs])?;
        let positions = ints(vec![keys - 1; seqs], &[seqs])?;
        let slots = ints((0..seqs).map(slot).collect(), &[seqs])?;
        let block_table = ints((0..seqs * blocks).map(table).collect(), &[seqs, blocks])?;
        let q_start = ints((0..=seqs).collect(), &[seqs + 1])?;
        let kv_len = ints(vec![keys; seqs], &[seqs])?;
        let lens = vec![SeqLen { q: 1, kv: keys }; seqs];
        let group = |lens| AttentionGroup {
            lens,
            block_table: block_table.view(),
            q_start: q_start.view(),
            kv_len: kv_len.view(),
        };
        let input = StepInput {
            ids: ids.view(),
            positions: positions.view(),
            slots: slots.view(),
            decode: group(&lens),
            prefill: group(&[]),
        };
        let rows = ints((0..seqs).collect(), &[seqs])?;
        let greedy = ints([1, 0, 0, 0, keys].repeat(seqs), &[seqs, 5])?;
        let zeros = Tensor::zeros(dev, DType::F32, &[seqs])?;
        let mut out = Tensor::zeros(dev, DType::I32, &[seqs])?;

        let mut queue = Queue::new(dev)?;
        decoder.forward(&mut queue, &kernels, &input, &mut kv, &mut act)?;
        let logits = decoder.logits(&mut queue, &kernels, rows.view(), &mut act)?;
        let args = SampleArgs {
            logits: logits.as_view(),
            temperature: zeros.view(),
            top_p_tail: zeros.view(),
            params: greedy.view(),
            spec: SampleSpec::default(),
            out: out.view_mut(),
        };
        run(&*kernels.sample, &mut queue, args)?;
        dev.synchronize()?;
        let cached = KvCache::<D>::block_bytes(model, dtype, 1) * seqs * keys;
        Ok(Least { bytes: (decoder.step_bytes() + cached) as u64, flops: 0 })
    }
}
