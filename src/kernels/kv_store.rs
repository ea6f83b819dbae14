//! New keys and values into the paged cache.

use super::{Op, argument, size, want_dtype, want_float, want_shape};
use crate::{
    device::{DType, Device, View, ViewMut},
    error::Result,
};

/// `cache[slots[t]] = row t`, for keys and values; a negative slot is skipped. Oracle: `reference/src/kv_store.rs`.
pub struct KvStore;

/// Arguments of [`KvStore`].
pub struct KvStoreArgs<'a, D: Device> {
    /// `[tokens, kv_heads, head_dim]`; rows may lie apart.
    pub k: View<'a, D>,
    /// As `k`.
    pub v: View<'a, D>,
    /// `[tokens]` i32: block · block_size + offset, or negative.
    pub slots: View<'a, D>,
    /// `[blocks, block_size, kv_heads, head_dim]`.
    pub k_cache: ViewMut<'a, D>,
    /// As `k_cache`.
    pub v_cache: ViewMut<'a, D>,
}

impl Op for KvStore {
    const NAME: &'static str = "kv_store";
    type Args<'a, D: Device> = KvStoreArgs<'a, D>;
    type Spec = DType;

    fn spec<D: Device>(a: &KvStoreArgs<'_, D>) -> DType {
        a.k.dtype()
    }

    fn check<D: Device>(a: &KvStoreArgs<'_, D>) -> Result<()> {
        check_store(Self::NAME, a.k, a.v, a.slots, a.k_cache.as_view(), a.v_cache.as_view())
    }

    fn bytes<D: Device>(a: &KvStoreArgs<'_, D>) -> u64 {
        2 * (size(&a.k) + size(&a.v)) + size(&a.slots)
    }

    fn flops<D: Device>(_: &KvStoreArgs<'_, D>) -> u64 {
        0
    }
}

/// [`Op::check`] of [`KvStore`], for whoever stores.
pub fn check_store<D: Device>(
    op: &'static str,
    k: View<'_, D>,
    v: View<'_, D>,
    slots: View<'_, D>,
    k_cache: View<'_, D>,
    v_cache: View<'_, D>,
) -> Result<()> {
    let &[tokens, kv_heads, dim] = k.shape() else {
        return argument(op, false, "rank of k", || {
            (format!("{:?}", k.shape()), "[tokens, kv_heads, head_dim]".into())
        });
    };
    want_float(op, "k", k.dtype())?;
    want_dtype(op, "v", v.dtype(), k.dtype())?;
    want_shape(op, "v", v.shape(), k.shape())?;
    want_dtype(op, "slots", slots.dtype(), DType::I32)?;
    want_shape(op, "slots", slots.shape(), &[tokens])?;
    let cache = k_cache.shape();
    argument(op, cache.len() == 4, "rank of k_cache", || {
        (format!("{cache:?}"), "[blocks, block_size, kv_heads, head_dim]".into())
    })?;
    want_shape(op, "k_cache", cache, &[cache[0], cache[1], kv_heads, dim])?;
    want_shape(op, "v_cache", v_cache.shape(), cache)?;
    want_dtype(op, "k_cache", k_cache.dtype(), k.dtype())?;
    want_dtype(op, "v_cache", v_cache.dtype(), k.dtype())
}
