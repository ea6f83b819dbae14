//! ggml's block formats, turned into bf16 by rounding to nearest even.
//!
//! Source: the block structs of ggml (`ggml-common.h`): scales are little-endian f16.

use half::{bf16, f16};

/// The formats that occur in the models made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Little-endian f32.
    F32,
    /// 32 values `d * q + m`: f16 `d`, f16 `m`, then 16 bytes whose low nibbles are the first 16 `q` and whose
    /// high nibbles are the last 16.
    Q4_1,
    /// 32 values `d * q`: f16 `d`, then 32 signed bytes `q`.
    Q8_0,
}

impl Format {
    /// By ggml's type number; `None` for a format not handled here.
    pub fn from_ggml(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::F32),
            3 => Some(Self::Q4_1),
            8 => Some(Self::Q8_0),
            _ => None,
        }
    }

    /// Values and bytes of one block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::Q4_1 => (32, 20),
            Self::Q8_0 => (32, 34),
        }
    }

    /// Whole `blocks` as little-endian bf16, two bytes a value.
    pub fn to_bf16(self, blocks: &[u8]) -> Vec<u8> {
        let (block_values, block_bytes) = self.block();
        assert_eq!(blocks.len() % block_bytes, 0, "{self:?}: whole blocks only");
        let mut out = Vec::with_capacity(blocks.len() / block_bytes * block_values * 2);
        let mut push = |value: f32| out.extend_from_slice(&bf16::from_f32(value).to_le_bytes());
        match self {
            Self::F32 => blocks.as_chunks().0.iter().for_each(|&bytes| push(f32::from_le_bytes(bytes))),
            Self::Q4_1 => {
                for [d0, d1, m0, m1, q @ ..] in blocks.as_chunks::<20>().0 {
                    let (d, m) = (f16_to_f32([*d0, *d1]), f16_to_f32([*m0, *m1]));
                    q.iter().for_each(|q| push(d * f32::from(q & 15) + m));
                    q.iter().for_each(|q| push(d * f32::from(q >> 4) + m));
                }
            }
            Self::Q8_0 => {
                for [d0, d1, q @ ..] in blocks.as_chunks::<34>().0 {
                    let d = f16_to_f32([*d0, *d1]);
                    q.iter().for_each(|q| push(d * f32::from(q.cast_signed())));
                }
            }
        }
        out
    }
}

fn f16_to_f32(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dequantised(format: Format, blocks: &[u8]) -> Vec<f32> {
        let bytes = format.to_bf16(blocks);
        bytes.as_chunks().0.iter().map(|&pair| bf16::from_le_bytes(pair).to_f32()).collect()
    }

    fn scale(value: f32) -> [u8; 2] {
        f16::from_f32(value).to_le_bytes()
    }

    #[test]
    fn f32_rounds_ties_to_even() {
        // bf16 keeps 8 significant bits: steps of 2^-7 in [1, 2).
        let step = 2f32.powi(-7);
        let cases = [
            (1.0, 1.0),
            (1.0 + 0.5 * step, 1.0),                         // tie, down to even
            (1.0 + 1.5 * step, 1.0 + 2.0 * step),            // tie, up to even
            (1.0 + 0.5 * step + 2f32.powi(-23), 1.0 + step), // just above the tie
            (-3.0, -3.0),
        ];
        let bytes: Vec<u8> = cases.iter().flat_map(|(from, _)| f32::to_le_bytes(*from)).collect();
        assert_eq!(dequantised(Format::F32, &bytes), cases.map(|(_, to)| to));
    }

    #[test]
    fn q4_1_low_nibbles_come_first() {
        let mut blocks = [scale(0.5), scale(-2.0)].concat();
        blocks.extend((0..16).map(|i| i | (15 - i) << 4));
        blocks.extend([scale(2.0), scale(1.0)].concat()); // a second block with its own scales
        blocks.extend([0xf0; 16]);
        let mut wanted: Vec<f32> = (0..16).map(|q| 0.5 * q as f32 - 2.0).collect();
        wanted.extend((0..16).rev().map(|q| 0.5 * q as f32 - 2.0));
        wanted.extend([1.0; 16]);
        wanted.extend([31.0; 16]);
        assert_eq!(dequantised(Format::Q4_1, &blocks), wanted);
    }

    #[test]
    fn q4_1_multiplies_and_adds_in_f32() {
        // d * q is not exact in bf16: 3 * 0.0999756 + 1 = 1.2999268, of which bf16 keeps 1.296875.
        let mut block = [scale(0.1), scale(1.0)].concat();
        block.extend([3; 16]);
        assert_eq!(dequantised(Format::Q4_1, &block)[0], 1.296_875);
    }

    #[test]
    fn q8_0_is_signed() {
        let mut block = scale(0.25).to_vec();
        block.extend([0x80, 0xff, 0x00, 0x7f]);
        block.extend([4; 28]);
        let mut wanted = vec![-32.0, -0.25, 0.0, 31.75];
        wanted.extend([1.0; 28]);
        assert_eq!(dequantised(Format::Q8_0, &block), wanted);
    }
}
