//! Rotary position embedding, rotate-half form, and its frequency tables.
//!
//! Source: RoFormer, arXiv:2104.09864; the rotate-half layout (pairs `i, i + head_dim/2`, not `2i, 2i + 1`) of
//! GPT-NeoX and Hugging Face; the tables as in transformers' `modeling_rope_utils.py`, whose arithmetic is f32
//! step by step, and so is this: the tables agree to one unit in the last place, which is torch's `pow`.

/// Rotates every head of every token in place by its position.
///
/// - `x`: `[tokens, heads, head_dim]`; `positions`: `[tokens]`; `inv_freq`: `[head_dim / 2]`, radians a token
///
/// The angle is the f32 product `position * inv_freq`, because that is the angle models were trained with (at
/// position 80,000 its rounding moves it by up to 4e-3); sine, cosine and the rotation are f64. Against
/// transformers, which takes sine and cosine in f32, the difference is below 1e-6 for values of unit scale.
pub fn rope(x: &mut [f32], positions: &[i32], inv_freq: &[f32]) {
    let half = inv_freq.len();
    let token = x.len() / positions.len();
    for (x, &position) in x.chunks_exact_mut(token).zip(positions) {
        for head in x.chunks_exact_mut(2 * half) {
            rotate(head, |i| {
                let angle = position as f32 * inv_freq[i];
                f64::from(angle).sin_cos()
            });
        }
    }
}

/// As [`rope`], with the cosines and sines rounded to f32 in a table, as engines keep them.
///
/// - `x`: `[tokens, heads, head_dim]`; `positions`: `[tokens]`, each below `max_positions`
/// - `cos_sin`: `[max_positions, head_dim]`, a position's `head_dim / 2` cosines, then the sines
pub fn rope_from_table(x: &mut [f32], positions: &[i32], cos_sin: &[f32], head_dim: usize) {
    let token = x.len() / positions.len();
    for (x, &position) in x.chunks_exact_mut(token).zip(positions) {
        let (cos, sin) = cos_sin[position as usize * head_dim..][..head_dim].split_at(head_dim / 2);
        for head in x.chunks_exact_mut(head_dim) {
            rotate(head, |i| (sin[i].into(), cos[i].into()));
        }
    }
}

/// Turns the pairs `i, i + head_dim/2` of one head by angles whose sine and cosine are `sin_cos(i)`.
fn rotate(head: &mut [f32], sin_cos: impl Fn(usize) -> (f64, f64)) {
    let half = head.len() / 2;
    for i in 0..half {
        let (sin, cos) = sin_cos(i);
        let (a, b) = (f64::from(head[i]), f64::from(head[i + half]));
        head[i] = (a * cos - b * sin) as f32;
        head[i + half] = (b * cos + a * sin) as f32;
    }
}

/// Rope type `default`: `inv_freq[i] = theta^(-2i / head_dim)`. Shape `[head_dim / 2]`.
pub fn inv_freq_default(head_dim: usize, theta: f64) -> Vec<f32> {
    let theta = f64::from(theta as f32);
    (0..head_dim / 2)
        .map(|i| {
            let exponent = (2 * i) as f32 / head_dim as f32;
            1.0 / (theta.powf(exponent.into()) as f32)
        })
        .collect()
}

/// Rope type `linear`: every frequency divided by `factor`. Shape `[head_dim / 2]`.
///
/// Source: position interpolation, arXiv:2306.15595.
pub fn inv_freq_linear(head_dim: usize, theta: f64, factor: f64) -> Vec<f32> {
    inv_freq_default(head_dim, theta).into_iter().map(|f| f / factor as f32).collect()
}

/// Parameters of rope type `llama3`, named as in `config.json`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3 {
    /// What the lowest frequencies are divided by.
    pub factor: f64,
    /// Wavelengths over `original_max_position_embeddings / low_freq_factor` are divided by `factor`.
    pub low_freq_factor: f64,
    /// Wavelengths under `original_max_position_embeddings / high_freq_factor` stay.
    pub high_freq_factor: f64,
    /// Context length before scaling, in tokens.
    pub original_max_position_embeddings: usize,
}

/// Rope type `llama3`: low frequencies divided, high ones kept, a ramp between. Shape `[head_dim / 2]`.
///
/// Source: Llama 3.1, arXiv:2407.21783; transformers' `_compute_llama3_parameters`.
pub fn inv_freq_llama3(head_dim: usize, theta: f64, p: Llama3) -> Vec<f32> {
    let context = p.original_max_position_embeddings as f64;
    let low_freq_wavelen = (context / p.low_freq_factor) as f32;
    let high_freq_wavelen = (context / p.high_freq_factor) as f32;
    let (factor, low) = (p.factor as f32, p.low_freq_factor as f32);
    inv_freq_default(head_dim, theta)
        .into_iter()
        .map(|f| {
            // torch divides a scalar by a tensor as reciprocal times scalar, twice here.
            let wavelen = 1.0 / f * std::f32::consts::TAU;
            if wavelen < high_freq_wavelen {
                f
            } else if wavelen > low_freq_wavelen {
                f / factor
            } else {
                let smooth = (1.0 / wavelen * context as f32 - low)
                    / ((p.high_freq_factor - p.low_freq_factor) as f32);
                (1.0 - smooth) * f / factor + smooth * f
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn_moves_the_first_half_into_the_second() {
        // Pairs are (0, 2) and (1, 3); only the first pair turns, by π/2.
        let mut x = [1.0, 2.0, 3.0, 4.0];
        rope(&mut x, &[1], &[std::f32::consts::FRAC_PI_2, 0.0]);
        for (got, want) in x.iter().zip([-3.0, 2.0, 1.0, 4.0]) {
            assert!((got - want).abs() < 1e-6, "{x:?}");
        }
    }

    #[test]
    fn position_zero_is_the_identity_and_heads_share_the_angle() {
        let mut x = [1.0, 2.0, 3.0, 4.0, 1.0, 0.0, 1.0, 0.0]; // [2 tokens, 2 heads, 2]
        rope(&mut x, &[0, 2], &[0.5]);
        let (sin, cos) = 1.0f64.sin_cos();
        assert_eq!(x, [1.0, 2.0, 3.0, 4.0, cos as f32, sin as f32, cos as f32, sin as f32]);
    }

    #[test]
    fn preserves_norms_and_depends_on_relative_position_only() {
        let inv_freq = inv_freq_default(8, 1e4);
        let q: Vec<f32> = (0..8).map(|i| (i as f32 * 0.7).sin()).collect();
        let k: Vec<f32> = (0..8).map(|i| (i as f32 * 1.3).cos()).collect();
        let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a * b)).sum() };
        let at = |x: &[f32], position: i32| {
            let mut x = x.to_vec();
            rope(&mut x, &[position], &inv_freq);
            x
        };
        for position in [1, 7, 33, 1000] {
            let turned = at(&q, position);
            assert!((dot(&turned, &turned) - dot(&q, &q)).abs() < 1e-6);
            assert!((dot(&turned, &at(&k, position + 5)) - dot(&q, &at(&k, 5))).abs() < 1e-4);
        }
    }

    #[test]
    fn a_table_of_cosines_and_sines_turns_the_same() {
        let inv_freq = [1.0, 0.25];
        let table: Vec<f32> = (0..5)
            .flat_map(|p| {
                let angles = inv_freq.map(|f: f32| p as f32 * f);
                [angles.map(f32::cos), angles.map(f32::sin)].concat()
            })
            .collect();
        let mut x: Vec<f32> = (0..16).map(|i| (i as f32 * 0.7).sin()).collect(); // [2 tokens, 2 heads, 4]
        let mut y = x.clone();
        rope(&mut x, &[3, 1], &inv_freq);
        rope_from_table(&mut y, &[3, 1], &table, 4);
        for (x, y) in x.iter().zip(y) {
            assert!((x - y).abs() < 2e-7, "{x} {y}");
        }
    }

    #[test]
    fn default_and_linear_tables() {
        assert_eq!(inv_freq_default(4, 1e4), [1.0, 0.01]);
        assert_eq!(inv_freq_default(8, 1e4), [1.0, 0.1, 0.01, 0.001]);
        assert_eq!(inv_freq_linear(4, 1e4, 8.0), [0.125, 0.00125]);
    }

    #[test]
    fn llama3_keeps_high_divides_low_and_blends_between() {
        let p = Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 64,
        };
        let plain = inv_freq_default(16, 5e5);
        let scaled = inv_freq_llama3(16, 5e5, p);
        // Wavelengths 6.28, 32.4, 167, …: kept under 16, divided over 64, blended between.
        assert_eq!(scaled[0], plain[0]);
        for i in 2..8 {
            assert_eq!(scaled[i], plain[i] / 8.0, "frequency {i}");
        }
        let smooth = (64.0 * f64::from(plain[1]) / std::f64::consts::TAU - 1.0) / 3.0;
        let want = f64::from(plain[1]) * ((1.0 - smooth) / 8.0 + smooth);
        assert!((f64::from(scaled[1]) / want - 1.0).abs() < 1e-6, "{} {want}", scaled[1]);
    }

    #[test]
    fn llama3_table_of_llama_3_2_1b() {
        // Bits that transformers 5.23.0 gives for head_dim 64, theta 5e5.
        #[rustfmt::skip]
        let want: [u32; 32] = [
            0x3f80_0000, 0x3f29_e1c6, 0x3ee1_77bc, 0x3e95_9ee3, 0x3e46_93b0, 0x3e03_c6a0,
            0x3dae_e4ad, 0x3d68_1e67, 0x3d1a_08c8, 0x3ccc_6f49, 0x3c87_a9c3, 0x3c34_0d6d,
            0x3bee_f74f, 0x3b9e_9402, 0x3b52_7720, 0x3aa9_279b, 0x39e1_3620, 0x38cb_98f7,
            0x37a3_418d, 0x3758_ac81, 0x370f_c8f8, 0x36be_d4f4, 0x367d_45c3, 0x3628_126b,
            0x35df_10c4, 0x3594_06cb, 0x3544_7610, 0x3502_5f34, 0x34ad_07a7, 0x3465_a54d,
            0x3418_64a7, 0x33ca_41b0,
        ];
        let p = Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        for (i, (got, want)) in inv_freq_llama3(64, 5e5, p).into_iter().zip(want).enumerate() {
            assert!(got.to_bits().abs_diff(want) <= 1, "frequency {i}: {got} {}", f32::from_bits(want));
        }
    }
}
