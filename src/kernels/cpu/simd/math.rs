//! Elementary functions, branch-free, so that loops over them vectorise.

use super::Isa;

/// Adding this rounds a float of magnitude below 2^22 to an integer, which then stands in the low bits.
const ROUND: f32 = 1.5 * (1 << 23) as f32;

/// `x = n ln 2 + r` with integer `n` and `|r| < 0.35`; returns `(n, e^r - 1)`.
///
/// ln 2 is split so that `n` times its upper part is exact. The series stops at r^7 / 7!: 5e-9 relative.
#[inline(always)]
fn exp_parts<I: Isa>(x: f32) -> (i32, f32) {
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = (std::f64::consts::LN_2 - 355.0 / 512.0) as f32;
    let shifted = I::mul_add(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = I::mul_add(n, -LN2_LOW, I::mul_add(n, -LN2_HIGH, x));
    let mut q = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
        q = I::mul_add(q, r, c);
    }
    ((shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32), I::mul_add(q, r * r, r))
}

/// `2^n` for n in -126..=127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `e^x` within 2 units in the last place; 0 for minus infinity, subnormal results included. NaN stays.
#[inline(always)]
pub fn exp<I: Isa>(x: f32) -> f32 {
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let (n, m) = exp_parts::<I>(x);
    // Two factors, because 2^n itself may be subnormal or infinite.
    let half = n >> 1;
    (m + 1.0) * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// `tanh x`, to a few units in the last place: by `e^(2x) - 1`, which does not cancel near 0.
#[inline(always)]
pub fn tanh<I: Isa>(x: f32) -> f32 {
    let y = x.abs();
    let y = if y > 10.0 { 10.0 } else { y };
    let (n, m) = exp_parts::<I>(2.0 * y);
    let scale = power_of_two(n);
    let less_one = I::mul_add(m, scale, scale - 1.0);
    (less_one / (less_one + 2.0)).copysign(x)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid<I: Isa>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<I>(-x))
}

/// `0.5 erfc(-x / sqrt 2)`: the normal distribution function, accurate in its lower tail too.
///
/// `erfc z = e^(-z²) t R(t)` for z >= 0 with `t = 1 / (1 + z/2)`; R is a Chebyshev fit on 1/6..1 (z up to 10), to
/// 5e-8, in powers of the interval's own coordinate.
#[inline(always)]
pub fn normal_cdf<I: Isa>(x: f32) -> f32 {
    #[rustfmt::skip]
    const R: [f32; 9] = [
        0.572_011_95, 0.326_222_24, 0.102_029_6, 0.005_966_061_7, -0.006_151_694_3,
        -0.000_631_151_7, 0.000_587_326_3, 1.983_81e-5, -5.424_915e-5,
    ];
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / I::mul_add(0.5, z, 1.0);
    let s = I::mul_add(t, 2.4, -1.4);
    let mut r = R[8];
    for c in [R[7], R[6], R[5], R[4], R[3], R[2], R[1], R[0]] {
        r = I::mul_add(r, s, c);
    }
    // x² / 2 without the rounding of z.
    let tail = 0.5 * exp::<I>(-0.5 * x * x) * t * r;
    if x < 0.0 { tail } else { 1.0 - tail }
}

/// `e^x` in f64 for x in -700..=0, to 1e-15; e^0 is exactly 1. Below, 0. The series stops at r^13 / 13!: 4e-18.
#[inline(always)]
pub fn exp64<I: Isa>(x: f64) -> f64 {
    const ROUND: f64 = 1.5 * (1u64 << 52) as f64;
    const LN2_HIGH: f64 = f64::from_bits(std::f64::consts::LN_2.to_bits() & !0xffff_ffff);
    /// `ln 2 - LN2_HIGH`, whose second term is what f64's ln 2 lacks.
    const LN2_LOW: f64 = (std::f64::consts::LN_2 - LN2_HIGH) + 2.319_046_813_846_299_6e-17;
    let y = if x < -700.0 { -700.0 } else { x };
    let shifted = I::mul_add64(y, std::f64::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = I::mul_add64(n, -LN2_LOW, I::mul_add64(n, -LN2_HIGH, y));
    let mut q = 1.0 / 6_227_020_800.0;
    for c in [
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        q = I::mul_add64(q, r, c);
    }
    let scale = f64::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(1023) << 52);
    if x < -700.0 { 0.0 } else { q * scale }
}

#[cfg(test)]
mod tests {
    use lathe_reference::{activation, rounding::F32};

    use super::{
        super::{Job, Plain, dispatch, x86::Fused},
        *,
    };
    use crate::device::{Cpu, Simd};

    /// Every instruction set of this machine.
    fn levels() -> impl Iterator<Item = Simd> {
        [Simd::Portable, Simd::Avx2, Simd::Avx512, Simd::Avx512Bf16]
            .into_iter()
            .filter(|&s| Cpu::new(Some(1)).with_simd(s).is_ok())
    }

    /// The worst error in units in the last place of `f` on `xs`, by a loop that vectorises.
    struct Worst<'a, F, G>(&'a [f32], F, G);
    impl<F: Fn(f64) -> f64, G: Function> Job for Worst<'_, F, G> {
        type Out = (f64, f32);
        #[inline(always)]
        fn run<I: Isa>(self) -> (f64, f32) {
            let got: Vec<f32> = self.0.iter().map(|&x| self.2.at::<I>(x)).collect();
            let errors = self.0.iter().zip(got).map(|(&x, got)| {
                let want = self.1(x.into());
                // What f32 cannot hold must be infinite.
                let want = if (want as f32).is_infinite() { f64::INFINITY } else { want };
                (F32.ulps(got, want), x)
            });
            errors.fold((0.0, 0.0), |a, b| if b.0 > a.0 { b } else { a })
        }
    }

    trait Function: Copy {
        fn at<I: Isa>(self, x: f32) -> f32;
    }
    #[derive(Clone, Copy)]
    struct Exp;
    impl Function for Exp {
        #[inline(always)]
        fn at<I: Isa>(self, x: f32) -> f32 {
            exp::<I>(x)
        }
    }
    #[derive(Clone, Copy)]
    struct Tanh;
    impl Function for Tanh {
        #[inline(always)]
        fn at<I: Isa>(self, x: f32) -> f32 {
            tanh::<I>(x)
        }
    }

    /// Every 997th float of either sign, infinities included.
    fn floats() -> Vec<f32> {
        let positive = (0..=f32::INFINITY.to_bits()).step_by(997).chain([f32::INFINITY.to_bits()]);
        positive.flat_map(|b| [f32::from_bits(b), -f32::from_bits(b)]).collect()
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place_everywhere() {
        let xs = floats();
        for simd in levels() {
            let (worst, x) = dispatch(simd, Worst(&xs, f64::exp, Exp));
            assert!(worst <= 2.0, "{simd}: {worst} ulp at {x}");
        }
        // The whole range where the result is neither 0 nor infinite, densely.
        let dense: Vec<f32> = (-1_040_000..=890_000).map(|i| i as f32 * 1e-4).collect();
        for simd in levels() {
            let (worst, x) = dispatch(simd, Worst(&dense, f64::exp, Exp));
            assert!(worst <= 2.0, "{simd}: {worst} ulp at {x}");
        }
        assert_eq!(exp::<Plain>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<Plain>(0.0), 1.0);
        assert!(exp::<Plain>(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_is_within_four_units_in_the_last_place_everywhere() {
        let xs = floats();
        for simd in levels() {
            let (worst, x) = dispatch(simd, Worst(&xs, f64::tanh, Tanh));
            assert!(worst <= 4.0, "{simd}: {worst} ulp at {x}");
        }
        assert!(tanh::<Plain>(f32::NAN).is_nan());
    }

    #[test]
    fn the_normal_distribution_function_keeps_its_digits_in_the_tail() {
        for i in -1200..=1200 {
            let x = i as f32 * 0.01;
            let want = activation::Activation::GeluErf.apply(x.into()) / f64::from(x);
            let want = if x == 0.0 { 0.5 } else { want };
            let got = f64::from(normal_cdf::<Plain>(x));
            // The oracle's own sum cancels to some 1e-16 in the lower tail.
            assert!((got - want).abs() < 1e-6 * want + 1e-15, "{x}: {got} {want}");
        }
    }

    #[test]
    fn exp64_is_accurate_and_exact_at_zero() {
        for i in 0..200_000 {
            let x = -f64::from(i) * 0.0035;
            for got in [exp64::<Plain>(x), exp64::<Fused>(x)] {
                assert!((got / x.exp() - 1.0).abs() < 1e-15 || x < -699.9, "{x}: {got} {}", x.exp());
            }
        }
        assert_eq!(exp64::<Plain>(0.0), 1.0);
        assert_eq!(exp64::<Plain>(f64::NEG_INFINITY), 0.0);
    }
}
