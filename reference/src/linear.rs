//! Linear layer. Source: `nn.Linear`, weights stored `[out_features, in_features]`.

/// `out[m, n] = Σ_k x[m, k] * w[n, k] + bias[n]`.
///
/// - `x`: `[rows, k]`; `w`: `[n, k]`; `bias`: `[n]`; `out`: `[rows, n]`
pub fn linear(x: &[f32], w: &[f32], bias: Option<&[f32]>, k: usize, out: &mut [f32]) {
    let n = w.len() / k;
    assert_eq!(out.len(), x.len() / k * n, "linear: out");
    for (x, out) in x.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
        for (j, o) in out.iter_mut().enumerate() {
            let dot: f64 = x.iter().zip(&w[j * k..][..k]).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            *o = (dot + bias.map_or(0.0, |b| f64::from(b[j]))) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiplies_by_the_transpose_and_adds_the_bias() {
        let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]; // [2, 3]
        let w = [1.0, 0.0, 0.0, 0.0, 1.0, -1.0]; // [2, 3]
        let mut out = [f32::NAN; 4];
        linear(&x, &w, None, 3, &mut out);
        assert_eq!(out, [1.0, -1.0, 4.0, -1.0]);
        linear(&x, &w, Some(&[10.0, 20.0]), 3, &mut out);
        assert_eq!(out, [11.0, 19.0, 14.0, 19.0]);
    }

    #[test]
    fn sums_in_f64() {
        // In f32 the ones vanish beside 2^24.
        let mut out = [f32::NAN];
        linear(&[16_777_216.0, 1.0, 1.0, -16_777_216.0], &[1.0; 4], None, 4, &mut out);
        assert_eq!(out, [2.0]);
    }
}
