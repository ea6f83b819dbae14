//! Gumbel noise in f32 arithmetic that every device reproduces bit for bit.
//!
//! `argmax(logit + Gumbel noise)` is a draw from the softmax (Gumbel 1954; it is the exponential race
//! `argmax p_i / e_i` in the log domain). Library logarithms differ in their last bit from device to device,
//! which flips near-ties; so the logarithm here is spelled out in IEEE add, multiply and fused multiply-add,
//! each rounded to nearest even. A kernel that does the same operations in the same order gets the same bits:
//! in CUDA `fmaf` for `mul_add`, `__fmul_rn` and `__fadd_rn` for the rest, so that nothing else is contracted.

/// `q(f)` with `ln(1 + f) ≈ f + f² q(f)` for f in `[sqrt(1/2) - 1, sqrt(2) - 1]`, lowest power first.
///
/// A degree-8 minimax fit (Lawson's iteration), rounded to f32: relative error below 2^-27.
#[rustfmt::skip]
const Q: [f32; 9] = [
    -0.499_999_88, 0.333_333_25, -0.250_015_83, 0.200_019_75, -0.166_090_82,
    0.141_818_14, -0.132_429_85, 0.129_044_94, -0.076_218_56,
];

/// `ln(1 + f)` for f in `[sqrt(1/2) - 1, sqrt(2) - 1]`.
fn ln_1p(f: f32) -> f32 {
    let mut q = Q[8];
    for &c in Q[..8].iter().rev() {
        q = q.mul_add(f, c);
    }
    q.mul_add(f * f, f)
}

/// `ln(x)` for normal positive x: `k ln 2 + ln(m)` with `x = 2^k m` and m in `[sqrt(1/2), sqrt(2))`.
fn ln(x: f32) -> f32 {
    const SQRT_HALF: u32 = std::f32::consts::FRAC_1_SQRT_2.to_bits();
    let above = x.to_bits().wrapping_sub(SQRT_HALF);
    let k = above as i32 >> 23;
    let m = f32::from_bits((above & 0x007f_ffff) + SQRT_HALF);
    (k as f32).mul_add(std::f32::consts::LN_2, ln_1p(m - 1.0))
}

/// `-ln(u)` with `u = (x + 0.5) * 2^-32`: exponentially distributed, always positive.
///
/// `x as f32` rounds to nearest even. Near u = 1 it starts from `1 - u`, whose word is `!x`, because u itself
/// has too few bits there.
pub fn exponential(x: u32) -> f32 {
    const SCALE: f32 = 1.0 / 4_294_967_296.0;
    if x >= 0xC000_0000 {
        let one_minus_u = (!x as f32 + 0.5) * SCALE;
        -ln_1p(-one_minus_u)
    } else {
        let u = (x as f32 + 0.5) * SCALE;
        -ln(u)
    }
}

/// `-ln(exponential(x))`: Gumbel noise, between -3.2 and 22.9.
pub fn gumbel(x: u32) -> f32 {
    -ln(exponential(x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox::uniform;
    use crate::rounding::F32;

    /// Words at both ends, around the branch, and spread over the whole range.
    fn words() -> impl Iterator<Item = u32> {
        let ends = (0..2000).flat_map(|i| [i, !i, 0xC000_0000 - i, 0xC000_0000 + i]);
        ends.chain((0..u32::MAX / 9973).map(|i| i * 9973))
    }

    #[test]
    fn exponentials_are_accurate_to_a_few_units_in_the_last_place() {
        let worst = words()
            .map(|x| {
                // ln_1p of 1 - u, which is exact, keeps the f64 side accurate near u = 1.
                F32.ulps(exponential(x), -(-uniform(!x)).ln_1p())
            })
            .fold(0.0, f64::max);
        assert!(worst < 2.5, "worst error {worst} ulp");
    }

    #[test]
    fn noise_is_accurate_to_a_few_parts_in_ten_million() {
        let worst = words()
            .map(|x| {
                let want = -(-(-uniform(!x)).ln_1p()).ln();
                (f64::from(gumbel(x)) - want).abs() / want.abs().max(1.0)
            })
            .fold(0.0, f64::max);
        assert!(worst < 4e-7, "worst error {worst}");
    }

    #[test]
    fn the_ends_are_finite() {
        assert_eq!(exponential(u32::MAX), 2f32.powi(-33));
        assert!((exponential(0) - 22.873_857).abs() < 2e-6, "{}", exponential(0));
        assert!((gumbel(0) + 3.129_995).abs() < 1e-6, "{}", gumbel(0));
        assert!((gumbel(u32::MAX) - 22.873_857).abs() < 2e-6, "{}", gumbel(u32::MAX));
    }

    /// These bits are the contract with kernels: they may not change.
    #[test]
    fn known_bits() {
        for (x, bits) in [
            (0, 0xc048_51d5),
            (1, 0xc045_2b66),
            (0x3fff_ffff, 0xbea7_3c9b),
            (0x8000_0000, 0x3ebb_a795),
            (0xbfff_ffff, 0x3f9f_79a2),
            (0xc000_0000, 0x3f9f_79a2),
            (0xffff_fffe, 0x41ae_33b4),
            (0xffff_ffff, 0x41b6_fda9),
        ] {
            assert_eq!(gumbel(x).to_bits(), bits, "{x:#010x}");
        }
    }
}
