//! Token embedding: a gather of rows. Source: `nn.Embedding`; the scale as in Gemma, arXiv:2403.08295.

/// `out[t] = table[ids[t]] * scale`.
///
/// - `table`: `[vocab, dim]`; `ids`: `[tokens]`, each below `vocab`, 0 instead of negative ones; `out`: `[tokens, dim]`
/// - `scale`: 1 for most models; for Gemma `sqrt(dim)` *rounded to the storage dtype of `table`*, as in
///   Hugging Face
pub fn embedding(table: &[f32], ids: &[i32], dim: usize, scale: f32, out: &mut [f32]) {
    assert_eq!(out.len(), ids.len() * dim, "embedding: out");
    for (&id, out) in ids.iter().zip(out.chunks_exact_mut(dim)) {
        let row = &table[id.max(0) as usize * dim..][..dim];
        for (o, &v) in out.iter_mut().zip(row) {
            *o = (f64::from(v) * f64::from(scale)) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathers_and_scales_rows() {
        let table = [0.0, 1.0, 10.0, 11.0, 20.0, 21.0];
        let mut out = [f32::NAN; 8];
        embedding(&table, &[2, -1, 2, 1], 2, 0.5, &mut out);
        assert_eq!(out, [10.0, 10.5, 0.0, 0.5, 10.0, 10.5, 5.0, 5.5]);
    }
}
