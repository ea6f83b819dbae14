//! Writing new keys and values into the paged cache. Source: PagedAttention, arXiv:2309.06180.

/// Copies row `t` of `k` and `v` to slot `slots[t]` of the caches; a negative slot skips the row.
///
/// - `k`, `v`: `[tokens, kv_heads, head_dim]`
/// - `slots`: `[tokens]`, each `block * block_size + offset` or negative
/// - `row`: `kv_heads * head_dim`
/// - `k_cache`, `v_cache`: `[blocks, block_size, kv_heads, head_dim]`, so slot `s` begins at `s * row`
pub fn kv_store(k: &[f32], v: &[f32], slots: &[i32], row: usize, k_cache: &mut [f32], v_cache: &mut [f32]) {
    for (t, &slot) in slots.iter().enumerate() {
        if let Ok(slot) = usize::try_from(slot) {
            k_cache[slot * row..][..row].copy_from_slice(&k[t * row..][..row]);
            v_cache[slot * row..][..row].copy_from_slice(&v[t * row..][..row]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scatters_rows_and_skips_negative_slots() {
        // 3 blocks of 2 slots, rows of 2 values
        let k = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let v = k.map(|v| -v);
        let (mut k_cache, mut v_cache) = ([0.0; 12], [0.0; 12]);
        kv_store(&k, &v, &[5, -1, 2], 2, &mut k_cache, &mut v_cache);
        assert_eq!(k_cache, [0.0, 0.0, 0.0, 0.0, 5.0, 6.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0]);
        assert_eq!(v_cache, k_cache.map(|v| if v == 0.0 { 0.0 } else { -v }));
    }
}
