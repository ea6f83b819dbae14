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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divides_by_the_root_mean_square() {
        // mean(3², 4², 0², 0²) + 0 = 6.25, root 2.5
        let mut out = [f32::NAN; 4];
        rms_norm(&[3.0, 4.0, 0.0, 0.0], &[1.0, 2.0, 1.0, 1.0], 0.0, 0.0, &mut out);
        assert_eq!(out, [1.2, 3.2, 0.0, 0.0]);
    }

    #[test]
    fn eps_is_inside_the_root_and_offset_is_added_to_the_weight() {
        // mean = 1, eps = 3: root 2; weights -0.5 + 1 and 3 + 1
        let mut out = [f32::NAN; 2];
        rms_norm(&[1.0, -1.0], &[-0.5, 3.0], 3.0, 1.0, &mut out);
        assert_eq!(out, [0.25, -2.0]);
    }

    #[test]
    fn rows_are_independent() {
        let mut out = [f32::NAN; 4];
        rms_norm(&[1.0, 1.0, -7.0, 7.0], &[1.0, 1.0], 0.0, 0.0, &mut out);
        assert_eq!(out, [1.0, 1.0, -1.0, 1.0]);
    }
}
