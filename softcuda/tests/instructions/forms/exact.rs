//! Whether a result is the correctly rounded one, decided by exact comparisons of big integers.
//!
//! A finite float is `m * 2^e`. Everything is scaled to integers by one power of two, so that "the result is the
//! neighbour on the right side" becomes two comparisons.

use std::cmp::Ordering;

/// How a result is rounded.
#[derive(Clone, Copy, PartialEq)]
pub enum Direction {
    /// To nearest, ties to even.
    Nearest,
    Zero,
    Down,
    Up,
}

/// `rn`, `rz`, `rm`, `rp`.
pub const DIRECTIONS: [(&str, Direction); 4] =
    [("rn", Direction::Nearest), ("rz", Direction::Zero), ("rm", Direction::Down), ("rp", Direction::Up)];

/// A binary floating-point format.
#[derive(Clone, Copy, PartialEq)]
pub struct Format {
    exponent: u32,
    mantissa: u32,
}

impl Format {
    pub const F16: Self = Self { exponent: 5, mantissa: 10 };
    pub const BF16: Self = Self { exponent: 8, mantissa: 7 };
    pub const TF32: Self = Self { exponent: 8, mantissa: 10 };
    pub const F32: Self = Self { exponent: 8, mantissa: 23 };
    pub const F64: Self = Self { exponent: 11, mantissa: 52 };

    fn sign(self) -> u64 {
        1 << (self.exponent + self.mantissa)
    }

    fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << self.mantissa
    }

    /// The canonical NaN: all bits but the sign.
    pub fn nan(self) -> u64 {
        self.sign() - 1
    }

    pub fn is_subnormal(self, bits: u64) -> bool {
        bits & self.infinity() == 0 && bits & !self.sign() != 0
    }

    /// The value of the bits of a format.
    pub fn value(self, bits: u64) -> f64 {
        if self == Self::F64 {
            return f64::from_bits(bits);
        }
        let magnitude = bits & (self.sign() - 1);
        let (e, m) = ((magnitude >> self.mantissa) as i32, magnitude & ((1 << self.mantissa) - 1));
        let least = 2 - (1 << (self.exponent - 1)) - self.mantissa as i32;
        let value = match magnitude.cmp(&self.infinity()) {
            Ordering::Greater => f64::NAN,
            Ordering::Equal => f64::INFINITY,
            Ordering::Less if e == 0 => m as f64 * 2f64.powi(least),
            Ordering::Less => (m | 1 << self.mantissa) as f64 * 2f64.powi(e - 1 + least),
        };
        if bits & self.sign() != 0 { -value } else { value }
    }

    /// The bits of the one result for which `rounded` holds, searched from the nearest f64.
    pub fn find(self, near: f64, rounded: impl Fn(u64) -> bool) -> u64 {
        if near.is_nan() {
            return self.nan();
        }
        let sign = if near.is_sign_negative() { self.sign() } else { 0 };
        // Magnitudes are ordered as their bits are: the largest that is not above, and its neighbours.
        let (mut low, mut high) = (0, self.infinity());
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if self.value(middle) <= near.abs() { low = middle } else { high = middle - 1 }
        }
        // The likely ones first. Where everything cancels the sign may differ.
        let steps = [0, 1, -1, 2, -2].map(|step| low.saturating_add_signed(step).min(self.infinity()));
        let of_sign = |sign: u64| steps.into_iter().map(move |m| m | sign);
        let found = of_sign(sign).chain(of_sign(sign ^ self.sign())).find(|&bits| rounded(bits));
        found.expect("some neighbour is the rounded result")
    }
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
    fn cmp_abs(&self, o: &Self) -> Ordering {
        let n = self.limbs.len().max(o.limbs.len());
        let at = |v: &[u32], i: usize| v.get(i).copied().unwrap_or(0);
        (0..n)
            .rev()
            .map(|i| at(&self.limbs, i).cmp(&at(&o.limbs, i)))
            .find(|c| c.is_ne())
            .unwrap_or(Ordering::Equal)
    }

    fn is_zero(&self) -> bool {
        self.limbs.iter().all(|&l| l == 0)
    }

    fn cmp(&self, o: &Self) -> Ordering {
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
            Ordering::Equal if sign(self) < 0 => o.cmp_abs(self),
            Ordering::Equal => self.cmp_abs(o),
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

/// Whether `bits` are what the exact value, whose sign is known and which is not zero, rounds to; `cmp(y)` compares the
/// exact value with a finite `y`, `cmp_twice(a, b)` twice the exact value with `a + b`.
fn rounded(
    bits: u64,
    format: Format,
    way: Direction,
    negative: bool,
    cmp: impl Fn(f64) -> Ordering,
    cmp_twice: impl Fn(f64, f64) -> Ordering,
) -> bool {
    let (sign, infinity) = (format.sign(), format.infinity());
    let magnitude = bits & (sign - 1);
    if magnitude > infinity || (bits & sign != 0) != negative {
        return false;
    }
    // Of magnitudes from here on.
    let signed = |y: f64| if negative { -y } else { y };
    let order = |o: Ordering| if negative { o.reverse() } else { o };
    let at = |m: u64| signed(format.value(m));
    let ge = |m: u64| m != infinity && order(cmp(at(m))).is_ge();
    let le = |m: u64| m == infinity || order(cmp(at(m))).is_le();
    let away = match way {
        Direction::Zero => false,
        Direction::Down => negative,
        Direction::Up => !negative,
        Direction::Nearest => {
            // Twice the value lies between the sums of the result with its neighbours; on an edge the result is even.
            // The step after the largest finite one is where infinity would be.
            let edge = |m: u64| {
                let upper = match m + 1 == infinity {
                    true => 2.0 * format.value(m) - format.value(m - 1),
                    false => format.value(m + 1),
                };
                order(cmp_twice(at(m), signed(upper)))
            };
            let even = magnitude & 1 == 0;
            let above = magnitude == 0 || edge(magnitude - 1).is_gt() || edge(magnitude - 1).is_eq() && even;
            let below = magnitude == infinity || edge(magnitude).is_lt() || edge(magnitude).is_eq() && even;
            return above && below;
        }
    };
    if away {
        le(magnitude) && (magnitude == 0 || !le(magnitude - 1))
    } else {
        ge(magnitude) && !ge(magnitude + 1)
    }
}

/// The cases that IEEE arithmetic decides without rounding: NaN, infinities, zeros.
fn special(want: f64, bits: u64, format: Format) -> bool {
    let r = format.value(bits);
    if want.is_nan() { r.is_nan() } else { r == want && r.is_sign_negative() == want.is_sign_negative() }
}

/// Whether `r` is `a * b + c` rounded.
pub fn rounds_fma(a: f64, b: f64, c: f64, r: u64, format: Format, way: Direction) -> bool {
    if ![a, b, c].iter().all(|x| x.is_finite()) {
        return special(a.mul_add(b, c), r, format);
    }
    let exact = big(a, BASE).mul(&big(b, BASE)).add(&big(c, 2 * BASE));
    if exact.is_zero() {
        // Zeros of different signs, and cancellation, give +0 but for rounding down.
        let product_negative = a.is_sign_negative() != b.is_sign_negative();
        let zeros = (a == 0.0 || b == 0.0) && c == 0.0 && product_negative == c.is_sign_negative();
        let negative = if zeros { product_negative } else { way == Direction::Down };
        return special(if negative { -0.0 } else { 0.0 }, r, format);
    }
    let twice = exact.add(&exact);
    let cmp = |y: f64| exact.cmp(&big(y, 2 * BASE));
    let cmp_twice = |a: f64, b: f64| twice.cmp(&big(a, 2 * BASE).add(&big(b, 2 * BASE)));
    rounded(r, format, way, exact.negative, cmp, cmp_twice)
}

/// Whether `r` is `a * b` rounded.
pub fn rounds_mul(a: f64, b: f64, r: u64, format: Format, way: Direction) -> bool {
    // A zero of the product's sign leaves it as it is.
    let zero = if a.is_sign_negative() == b.is_sign_negative() { 0.0 } else { -0.0 };
    rounds_fma(a, b, zero, r, format, way)
}

/// Whether `r` is `x` rounded.
pub fn rounds(x: f64, r: u64, format: Format, way: Direction) -> bool {
    rounds_mul(x, 1.0, r, format, way)
}

/// Whether `r` is `a / b` rounded.
pub fn rounds_div(a: f64, b: f64, r: u64, format: Format, way: Direction) -> bool {
    if !a.is_finite() || !b.is_finite() || a == 0.0 || b == 0.0 {
        return special(a / b, r, format);
    }
    let negative = a.is_sign_negative() != b.is_sign_negative();
    // With b made positive: a against y |b|.
    let dividend = Big { negative, ..big(a, 2 * BASE) };
    let twice = dividend.add(&dividend);
    let divisor = big(b.abs(), BASE);
    let cmp = |y: f64| dividend.cmp(&big(y, BASE).mul(&divisor));
    let cmp_twice = |x: f64, y: f64| twice.cmp(&big(x, BASE).add(&big(y, BASE)).mul(&divisor));
    rounded(r, format, way, negative, cmp, cmp_twice)
}

/// Whether `r` is the square root of `a` rounded.
pub fn rounds_sqrt(a: f64, r: u64, format: Format, way: Direction) -> bool {
    if !(a > 0.0 && a.is_finite()) {
        return special(a.sqrt(), r, format);
    }
    let square = big(a, 2 * BASE);
    let four = square.add(&square).add(&square).add(&square);
    let cmp = |y: f64| square.cmp(&big(y, BASE).mul(&big(y, BASE)));
    let cmp_twice = |x: f64, y: f64| {
        let sum = big(x, BASE).add(&big(y, BASE));
        four.cmp(&sum.mul(&sum))
    };
    rounded(r, format, way, false, cmp, cmp_twice)
}
