//! Rotary embedding and the KV store in one: the cases of [`Rope`], and where their keys and values go.

use serde::{Deserialize, Serialize};

use super::{Bound, Cases, Draw, HostTensor, Problem, RopeCase, Target, Want, noise, rows::slots};
use crate::{
    device::Device,
    kernels::{Rope, RopeStore, RopeStoreArgs},
};

/// A case of [`RopeStore`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RopeStoreCase {
    /// What is normed and rotated.
    pub rope: RopeCase,
    /// Slots of a block.
    pub block_size: usize,
    /// Blocks of the cache.
    pub blocks: usize,
    /// Whether every fifth token or so has no place.
    pub padding: bool,
}

impl RopeStoreCase {
    /// With room for twice as many tokens as there are.
    pub fn of(rope: RopeCase, block_size: usize, padding: bool) -> Self {
        Self { blocks: (2 * rope.tokens).div_ceil(block_size) + 1, rope, block_size, padding }
    }
}

impl Cases for RopeStore {
    type Case = RopeStoreCase;

    fn fixed() -> Vec<RopeStoreCase> {
        let places = [(16, true), (48, false), (256, true), (16, false)].into_iter().cycle();
        let cases = Rope::fixed().into_iter().zip(places);
        cases.map(|(rope, (block_size, padding))| RopeStoreCase::of(rope, block_size, padding)).collect()
    }

    fn random(draw: &mut Draw) -> RopeStoreCase {
        RopeStoreCase::of(Rope::random(draw), draw.pick(&[16, 32, 48, 256]), draw.one_in(2))
    }

    fn fits(c: &RopeStoreCase) -> bool {
        Rope::fits(&c.rope)
            && c.block_size > 0
            && c.block_size.is_multiple_of(16)
            && c.blocks * c.block_size >= c.rope.tokens
    }

    fn seed(case: &mut RopeStoreCase) -> &mut u64 {
        &mut case.rope.seed
    }

    fn problem(c: &RopeStoreCase) -> Problem {
        let RopeCase { dtype, tokens, heads, kv_heads, dim, seed, .. } = c.rope;
        let (all, row) = (heads + 2 * kv_heads, kv_heads * dim);
        let slots = slots(seed + 4, tokens, c.blocks * c.block_size, c.padding);
        let mut problem = Rope::problem(&c.rope);
        let qkv = problem.tensors.iter_mut().find(|t| t.name == "qkv").expect("a tensor of rope");
        let Some(Want::Float(target)) = &mut qkv.want else { unreachable!("qkv is written") };
        let shape = [c.blocks, c.block_size, kv_heads, dim];
        // A cache holds what it held, and in the tokens' slots their heads from `first` on.
        let cache = |name, seed, first: usize, target: &Target| {
            let before = noise(dtype, seed, shape.iter().product(), 1.0);
            let mut want = Target::exact(before.clone());
            for (t, &slot) in slots.iter().enumerate() {
                let Ok(slot) = usize::try_from(slot) else { continue };
                let (from, to) = ((t * all + first) * dim, slot * row);
                want.values[to..to + row].copy_from_slice(&target.values[from..from + row]);
                want.budget[to..to + row].copy_from_slice(&target.budget[from..from + row]);
            }
            HostTensor::float(name, dtype, before, &shape).wanted(Want::Float(want))
        };
        let caches =
            [cache("k_cache", seed + 5, heads, target), cache("v_cache", seed + 6, heads + kv_heads, target)];
        for token in target.budget.chunks_exact_mut(all * dim) {
            token[heads * dim..][..row].fill(f64::INFINITY);
        }
        problem.tensors.extend(caches);
        problem.tensors.push(HostTensor::int("slots", slots));
        problem
    }

    fn args<'a, D: Device>(c: &'a RopeStoreCase, mut t: Bound<'a, D>) -> RopeStoreArgs<'a, D> {
        let (slots, k_cache, v_cache) = (t.view("slots"), t.out("k_cache"), t.out("v_cache"));
        RopeStoreArgs { rope: Rope::args(&c.rope, t), slots, k_cache, v_cache }
    }
}
