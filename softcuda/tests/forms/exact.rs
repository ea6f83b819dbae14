//! Whether a result is the correctly rounded one, decided by exact comparisons of big integers.
//!
//! A finite float is `m * 2^e`. Everything is scaled to integers by one power of two, so that "the result is the
//! neighbour on the right side" becomes two comparisons.

use half::{bf16, f16};

/// A directed rounding.
#[derive(Clone, Copy, PartialEq)]
pub enum Direction {
    Zero,
    Down,
    Up,
}

/// A signed integer of any size: limbs of 32 bits, least first.
#[derive(Clone, Debug)]
struct Big {
    negative: bool,
    limbs: Vec<u32>,
}

/// The least power of two in use is 2^-BASE: products of two f64, and squares.
const BASE: i32 = 2 * 1100;

impl Big {
    fn cmp_abs(&self, o: &Self) -> std::cmp::Ordering {
        let n = self.limbs.len().max(o.limbs.len());
        let at = |v: &[u32], i: usize| v.get(i).copied().unwrap_or(0);
        (0..n)
            .rev()
            .map(|i| at(&self.limbs, i).cmp(&at(&o.limbs, i)))
            .find(|c| c.is_ne())
            .unwrap_or(std::cmp::Ordering::Equal)
    }

    fn is_zero(&self) -> bool {
        self.limbs.iter().all(|&l| l == 0)
    }

    fn cmp(&self, o: &Self) -> std::cmp::Ordering {
        let sign = |b: &Self| {
            if b.is_zero() {
                0
            } else if b.negative {
                -1
            } else {
                1
            }
        };
        match sign(self).cmp(&sign(o)) {
            std::cmp::Ordering::Equal if sign(self) < 0 => o.cmp_abs(self),
            std::cmp::Ordering::Equal => self.cmp_abs(o),
            other => other,
        }
    }

    fn add(&self, o: &Self) -> Self {
        let n = self.limbs.len().max(o.limbs.len()) + 1;
        let at = |v: &[u32], i: usize| i64::from(v.get(i).copied().unwrap_or(0));
        let (big, small) = if self.cmp_abs(o).is_ge() { (self, o) } else { (o, self) };
        let factor = if big.negative == small.negative { 1 } else { -1 };
        let mut carry = 0i64;
        let limbs = (0..n)
            .map(|i| {
                let sum = at(&big.limbs, i) + factor * at(&small.limbs, i) + carry;
                carry = sum >> 32;
                sum as u32
            })
            .collect();
        Self { negative: big.negative, limbs }
    }

    fn mul(&self, o: &Self) -> Self {
        let mut limbs = vec![0u32; self.limbs.len() + o.limbs.len()];
        for (i, &a) in self.limbs.iter().enumerate() {
            if a == 0 {
                continue;
            }
            let mut carry = 0u64;
            for (j, &b) in o.limbs.iter().enumerate() {
                let t = u64::from(a) * u64::from(b) + u64::from(limbs[i + j]) + carry;
                limbs[i + j] = t as u32;
                carry = t >> 32;
            }
            limbs[i + o.limbs.len()] = carry as u32;
        }
        Self { negative: self.negative != o.negative, limbs }
    }

    fn shifted(mantissa: u64, negative: bool, shift: i32) -> Self {
        let (word, bit) = (shift as usize / 32, shift as usize % 32);
        let wide = u128::from(mantissa) << bit;
        let mut limbs = vec![0; word];
        limbs.extend([wide as u32, (wide >> 32) as u32, (wide >> 64) as u32]);
        Self { negative, limbs }
    }
}

/// Mantissa and exponent of a finite f64.
fn parts(x: f64) -> (u64, i32) {
    let biased = (x.to_bits() >> 52 & 0x7ff) as i32;
    let fraction = x.to_bits() & ((1 << 52) - 1);
    if biased == 0 { (fraction, -1074) } else { (fraction | 1 << 52, biased - 1075) }
}

/// `x * 2^scale` as an integer.
fn big(x: f64, scale: i32) -> Big {
    let (m, e) = parts(x);
    Big::shifted(m, x.is_sign_negative(), e + scale)
}

/// The result's value, and its neighbours below and above; infinite beyond the largest.
fn value(bits: u64, wide: bool) -> f64 {
    if wide { f64::from_bits(bits) } else { f64::from(f32::from_bits(bits as u32)) }
}

fn up(x: f64, wide: bool) -> f64 {
    if wide { x.next_up() } else { f64::from((x as f32).next_up()) }
}

fn down(x: f64, wide: bool) -> f64 {
    if wide { x.next_down() } else { f64::from((x as f32).next_down()) }
}

/// Whether `r` is the neighbour that the direction asks for, where `cmp(y)` compares the exact value with a finite `y`.
fn neighbour(
    r: f64,
    wide: bool,
    way: Direction,
    negative: bool,
    cmp: impl Fn(f64) -> std::cmp::Ordering,
) -> bool {
    let floor = match way {
        Direction::Zero => !negative,
        Direction::Down => true,
        Direction::Up => false,
    };
    let ge = |y: f64| if y.is_infinite() { y < 0.0 } else { cmp(y).is_ge() };
    let le = |y: f64| if y.is_infinite() { y > 0.0 } else { cmp(y).is_le() };
    if floor { ge(r) && !ge(up(r, wide)) } else { le(r) && !le(down(r, wide)) }
}

/// The cases that IEEE arithmetic decides without rounding: NaN, infinities.
fn special(want: f64, r: f64) -> bool {
    if want.is_nan() { r.is_nan() } else { r == want }
}

/// Whether `r` is `a * b + c` rounded.
pub fn rounds_fma(a: f64, b: f64, c: f64, r: u64, wide: bool, way: Direction) -> bool {
    let r = value(r, wide);
    if ![a, b, c].iter().all(|x| x.is_finite()) {
        return special(a.mul_add(b, c), r);
    }
    let exact = big(a, BASE).mul(&big(b, BASE)).add(&big(c, 2 * BASE));
    if exact.is_zero() {
        // Zeros of different signs, and cancellation, give +0 but for rounding down.
        let product_negative = a.is_sign_negative() != b.is_sign_negative();
        let zeros = (a == 0.0 || b == 0.0) && c == 0.0 && product_negative == c.is_sign_negative();
        let negative = if zeros { product_negative } else { way == Direction::Down };
        return r == 0.0 && r.is_sign_negative() == negative;
    }
    neighbour(r, wide, way, exact.negative, |y| exact.cmp(&big(y, 2 * BASE)))
}

/// Whether `r` is `a / b` rounded.
pub fn rounds_div(a: f64, b: f64, r: u64, wide: bool, way: Direction) -> bool {
    let r = value(r, wide);
    if !a.is_finite() || !b.is_finite() || a == 0.0 || b == 0.0 {
        return special(a / b, r);
    }
    let negative = a.is_sign_negative() != b.is_sign_negative();
    let (dividend, divisor) = (big(a.abs(), 2 * BASE), big(b.abs(), BASE));
    neighbour(r, wide, way, negative, |y| {
        // |a| against |y| |b|, with the sign of the quotient.
        let order = dividend.cmp(&big(y.abs(), BASE).mul(&divisor));
        match (negative, y.is_sign_negative()) {
            _ if y == 0.0 => {
                if negative {
                    std::cmp::Ordering::Less
                } else {
                    std::cmp::Ordering::Greater
                }
            }
            (false, false) => order,
            (true, true) => order.reverse(),
            (true, false) => std::cmp::Ordering::Less,
            (false, true) => std::cmp::Ordering::Greater,
        }
    })
}

/// Whether `r` is the square root of `a` rounded.
pub fn rounds_sqrt(a: f64, r: u64, wide: bool, way: Direction) -> bool {
    let r = value(r, wide);
    if !(a > 0.0 && a.is_finite()) {
        return special(a.sqrt(), r);
    }
    let square = big(a, 2 * BASE);
    neighbour(r, wide, way, false, |y| match y < 0.0 {
        true => std::cmp::Ordering::Greater,
        false => square.cmp(&big(y, BASE).mul(&big(y, BASE))),
    })
}

/// Whether `r` is `a * b + c` in a half format, to nearest even.
pub fn rounds_half_fma(a: f64, b: f64, c: f64, r: u64, bf: bool) -> bool {
    let of = |bits: u64| {
        if bf { bf16::from_bits(bits as u16).to_f64() } else { f16::from_bits(bits as u16).to_f64() }
    };
    let got = of(r);
    if ![a, b, c].iter().all(|x| x.is_finite()) {
        return special(a.mul_add(b, c), got);
    }
    let exact = big(a, BASE).mul(&big(b, BASE)).add(&big(c, 2 * BASE));
    if exact.is_zero() {
        return got == 0.0;
    }
    if got.is_nan() || got != 0.0 && exact.negative != got.is_sign_negative() {
        return false;
    }
    // Twice the exact value lies between the sums of the result with its neighbours; on an edge the result is even.
    let magnitude = r & 0x7fff;
    let inf = if bf { 0x7f80 } else { 0x7c00 };
    let abs = |m: u64| match m {
        // The step after the largest finite one is where infinity would be.
        m if m == inf => {
            if bf {
                2f64.powi(128)
            } else {
                65536.0
            }
        }
        m => of(m),
    };
    let twice = Big { negative: false, ..exact.add(&exact) };
    let edge = |m: u64, n: u64| big(abs(m), 2 * BASE).add(&big(abs(n), 2 * BASE));
    let even = magnitude & 1 == 0;
    let above = magnitude == 0
        || match twice.cmp(&edge(magnitude - 1, magnitude)) {
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal => even,
            std::cmp::Ordering::Less => false,
        };
    let below = magnitude == inf
        || match twice.cmp(&edge(magnitude, magnitude + 1)) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Equal => even,
            std::cmp::Ordering::Greater => false,
        };
    above && below
}
