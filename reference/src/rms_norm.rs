//! RMSNorm. Source: arXiv:1910.07467; `eps` inside the root as in Hugging Face.

/// `out[r] = x[r] / sqrt(mean(x[r]²) + eps) * (weight + offset)` for each row `r` of `dim` values.
///
/// - `x`, `out`: `[rows, dim]`; `weight`: `[dim]`
/// - `offset`: 0 for most models; 1 for Gemma, which stores `weight - 1`
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, offset: f32, out: &mut [f32]) {
    let dim = weight.len();
    for (x, out) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
        let sum_sq: f64 = x.iter().map(|&v| f64::from(v).powi(2)).sum();
        let scale = 1.0 / (sum_sq / dim as f64 + f64::from(eps)).sqrt();
        for ((o, &x), &w) in out.iter_mut().zip(x).zip(weight) {
            *o = (f64::from(x) * scale * (f64::from(w) + f64::from(offset))) as f32;
        }
    }
}
