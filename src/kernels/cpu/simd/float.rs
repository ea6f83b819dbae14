//! Elements that stand for real numbers.

use half::{bf16, f16};

use super::Isa;
use crate::device::Element;

/// An element that stands for a real number. Conversions are branch-free, so that loops over them vectorise.
pub trait Float: Element {
    /// Exact.
    fn to_f32(self) -> f32;
    /// Rounded to nearest, ties to even; too large becomes infinite, NaN stays NaN.
    fn from_f32(v: f32) -> Self;
    /// Eight, widened.
    ///
    /// # Safety
    /// `from` points to [`LANES`] elements.
    unsafe fn load<I: Isa>(from: *const Self) -> I::V;
}

impl Float for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(v: f32) -> Self {
        v
    }
    #[inline(always)]
    unsafe fn load<I: Isa>(from: *const Self) -> I::V {
        // SAFETY: the caller's.
        unsafe { I::load(from) }
    }
}

impl Float for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn from_f32(v: f32) -> Self {
        let bits = v.to_bits();
        let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1))) >> 16;
        let nan = bits >> 16 | 0x40;
        Self::from_bits(if v.is_nan() { nan } else { rounded } as u16)
    }
    #[inline(always)]
    unsafe fn load<I: Isa>(from: *const Self) -> I::V {
        // SAFETY: the caller's.
        unsafe { I::load_bf16(from) }
    }
}

impl Float for f16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        let bits = u32::from(self.to_bits());
        // The exponent's bias grows from 15 to 127; the product also normalises subnormals.
        let finite = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
        let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
        f32::from_bits(finite.to_bits() | special | (bits & 0x8000) << 16)
    }
    #[inline(always)]
    fn from_f32(v: f32) -> Self {
        let sign = v.to_bits() >> 16 & 0x8000;
        let magnitude = v.to_bits() & 0x7fff_ffff;
        // Subnormal: adding 0.5 puts the result's last bit at f32's, and the addition rounds.
        let small = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
        // Normal: the bias shrinks by 112, and a carry out of the fraction is the next exponent.
        let odd = magnitude >> 13 & 1;
        let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + odd) >> 13;
        let finite = if magnitude < 113 << 23 { small } else { normal };
        // From halfway past the largest, 65,520: infinite.
        let large = if magnitude > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
        let bits = if magnitude >= 65_520f32.to_bits() { large } else { finite };
        Self::from_bits((sign | bits) as u16)
    }
    #[inline(always)]
    unsafe fn load<I: Isa>(from: *const Self) -> I::V {
        // SAFETY: the caller's.
        unsafe { I::load_f16(from) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_are_those_of_half() {
        for bits in 0..=u16::MAX {
            let (b, h) = (bf16::from_bits(bits), f16::from_bits(bits));
            assert!(Float::to_f32(b).to_bits() == b.to_f32().to_bits() || b.is_nan(), "{bits:#x}");
            assert!(Float::to_f32(h) == h.to_f32_const() || h.is_nan(), "{bits:#x}");
            assert_eq!(Float::to_f32(h).is_sign_negative(), h.is_sign_negative(), "{bits:#x}");
            assert_eq!(Float::to_f32(h).is_nan(), h.is_nan());
        }
        for bits in (0..=u32::MAX).step_by(4099) {
            let v = f32::from_bits(bits);
            let (b, h): (bf16, f16) = (Float::from_f32(v), Float::from_f32(v));
            assert_eq!(b.is_nan(), v.is_nan());
            assert_eq!(h.is_nan(), v.is_nan());
            if !v.is_nan() {
                assert_eq!(b, bf16::from_f32(v), "{v}");
                assert_eq!(h, f16::from_f32_const(v), "{v}");
            }
        }
        // Ties, the subnormals' edge and the overflow of f16.
        for v in [2f32.powi(-24), 1.5 * 2f32.powi(-24), 2f32.powi(-25), 6.1e-5, 65_519.9, 65_520.0, 2049.0] {
            assert_eq!(<f16 as Float>::from_f32(v), f16::from_f32_const(v), "{v}");
        }
    }
}
