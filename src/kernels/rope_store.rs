//! Rotary position embedding of queries and keys, and the new keys and values into the paged cache, in one pass.

use super::{KvStoreArgs, Op, Rope, RopeArgs, kv_store::check_store, size};
use crate::{
    device::{DType, Device, View, ViewMut},
    error::Result,
};

/// [`Rope`], then [`KvStore`](super::KvStore) of the rotated keys and of the values.
///
/// A kernel that does both reads each head once, and need not write the keys back where only the cache is read from:
/// what the key heads of `qkv` hold afterwards is not said. Oracle: those of the two.
pub struct RopeStore;

/// Arguments of [`RopeStore`].
pub struct RopeStoreArgs<'a, D: Device> {
    /// What to norm and rotate.
    pub rope: RopeArgs<'a, D>,
    /// `[tokens]` i32: block · block_size + offset, or negative: not stored.
    pub slots: View<'a, D>,
    /// `[blocks, block_size, kv_heads, head_dim]`.
    pub k_cache: ViewMut<'a, D>,
    /// As `k_cache`.
    pub v_cache: ViewMut<'a, D>,
}

impl<D: Device> RopeStoreArgs<'_, D> {
    /// The first of the two operations.
    pub fn rope(&mut self) -> RopeArgs<'_, D> {
        self.rope.reborrow()
    }

    /// The second, to follow the first.
    pub fn store(&mut self) -> KvStoreArgs<'_, D> {
        let RopeArgs { heads, kv_heads, .. } = self.rope;
        let qkv = self.rope.qkv.as_view();
        KvStoreArgs {
            k: qkv.columns(heads..heads + kv_heads),
            v: qkv.columns(heads + kv_heads..heads + 2 * kv_heads),
            slots: self.slots,
            k_cache: self.k_cache.reborrow(),
            v_cache: self.v_cache.reborrow(),
        }
    }
}

impl Op for RopeStore {
    const NAME: &'static str = "rope_store";
    type Args<'a, D: Device> = RopeStoreArgs<'a, D>;
    type Spec = (DType, bool);

    fn spec<D: Device>(a: &RopeStoreArgs<'_, D>) -> (DType, bool) {
        Rope::spec(&a.rope)
    }

    fn check<D: Device>(a: &RopeStoreArgs<'_, D>) -> Result<()> {
        Rope::check(&a.rope)?;
        let RopeArgs { heads, kv_heads, .. } = a.rope;
        let qkv = a.rope.qkv.as_view();
        let (k, v) =
            (qkv.columns(heads..heads + kv_heads), qkv.columns(heads + kv_heads..heads + 2 * kv_heads));
        check_store(Self::NAME, k, v, a.slots, a.k_cache.as_view(), a.v_cache.as_view())
    }

    fn bytes<D: Device>(a: &RopeStoreArgs<'_, D>) -> u64 {
        // Every head is read, and written: queries in place, keys and values to the cache.
        let values = a.rope.qkv.shape()[0] * a.rope.kv_heads * a.rope.qkv.shape()[2];
        Rope::bytes(&a.rope) + (2 * values * a.rope.qkv.dtype().size()) as u64 + size(&a.slots)
    }

    fn flops<D: Device>(a: &RopeStoreArgs<'_, D>) -> u64 {
        Rope::flops(&a.rope)
    }
}
