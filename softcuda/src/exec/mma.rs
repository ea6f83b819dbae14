//! `mma.sync`: the fragments of a warp to matrices, the product, and back.
//!
//! Layouts: PTX ISA, "Matrix fragments for mma.m16n8k…". In all of them lane `l` has group `g = l / 4` and position
//! `t = l % 4`; register `r` of a holds row `g + 8 (r % 2)` and the columns that `t` names in the half `r / 2` of k.

use super::{
    code::{Mma, MmaType},
    float::{f16_to_f32, f32_to_f16},
};

/// Registers of a warp by register, then lane.
#[derive(Debug)]
pub struct Fragments {
    /// Matrix a, 2 or 4 registers.
    pub a: [[u32; 32]; 4],
    /// Matrix b, 1 or 2.
    pub b: [[u32; 32]; 2],
    /// Matrix c, 2 or 4.
    pub c: [[u32; 32]; 4],
}

const M: usize = 16;
const N: usize = 8;

/// The registers of d.
///
/// Sums are in f32, in the order of k, starting from c. Products of f16, bf16 and tf32 are exact in f32.
#[inline(always)]
pub fn mma(shape: &Mma, f: &Fragments) -> [[u32; 32]; 4] {
    match shape.a {
        MmaType::S8 | MmaType::U8 => integer(shape, f),
        MmaType::Tf32 => float::<1>(shape, f),
        _ => float::<2>(shape, f),
    }
}

/// Element `e` of a register, in every lane.
#[inline(always)]
fn elements(ty: MmaType, bits: &[u32; 32], e: usize) -> [f32; 32] {
    let mut out = [0f32; 32];
    match ty {
        MmaType::F16 => (0..32).for_each(|i| out[i] = f16_to_f32((bits[i] >> (16 * e)) as u16)),
        MmaType::Bf16 => (0..32).for_each(|i| out[i] = f32::from_bits(bits[i] >> (16 * e) << 16)),
        // TF32 reads the upper 19 bits.
        _ => (0..32).for_each(|i| out[i] = f32::from_bits(bits[i] & 0xffff_e000)),
    }
    out
}

/// `PACKED` elements of a and b share a register.
///
/// Rows of sums are vectors, in the order in which c holds the columns: the even ones, then the odd ones. So c, d and
/// the elements of a stay where the registers have them; b alone is turned.
#[inline(always)]
fn float<const PACKED: usize>(shape: &Mma, f: &Fragments) -> [[u32; 32]; 4] {
    // Four positions, and so 4 PACKED steps of k, in two registers of a and one of b.
    let halves = usize::from(shape.k) / (4 * PACKED);
    let mut a = [[[0f32; 32]; 4]; PACKED];
    let mut b = [[0f32; N]; 16];
    for half in 0..halves {
        for e in 0..PACKED {
            for r in [2 * half, 2 * half + 1] {
                a[e][r] = elements(shape.a, &f.a[r], e);
            }
            let turned = elements(shape.a, &f.b[half], e);
            for t in 0..4 {
                for n in 0..N {
                    b[PACKED * (4 * half + t) + e][place(n)] = turned[4 * n + t];
                }
            }
        }
    }
    let mut sums = [[0f32; N]; M];
    for r in 0..4 {
        let c = match shape.half_sums {
            true => elements(MmaType::F16, &f.c[r / 2], r % 2),
            false => f.c[r].map(f32::from_bits),
        };
        for g in 0..8 {
            sums[g + 8 * (r / 2)][4 * (r % 2)..][..4].copy_from_slice(&c[4 * g..][..4]);
        }
    }
    for (m, sums) in sums.iter_mut().enumerate() {
        let mut row = *sums;
        for half in 0..halves {
            for t in 0..4 {
                for e in 0..PACKED {
                    let scale = a[e][2 * half + m / 8][4 * (m % 8) + t];
                    let b = &b[PACKED * (4 * half + t) + e];
                    for n in 0..N {
                        row[n] += scale * b[n];
                    }
                }
            }
        }
        *sums = row;
    }
    let mut d = [[0; 32]; 4];
    for r in 0..4 {
        let mut out = [0f32; 32];
        for g in 0..8 {
            out[4 * g..][..4].copy_from_slice(&sums[g + 8 * (r / 2)][4 * (r % 2)..][..4]);
        }
        for lane in 0..32 {
            if shape.half_sums {
                d[r / 2][lane] |= u32::from(f32_to_f16(out[lane])) << (16 * (r % 2));
            } else {
                d[r][lane] = super::float::canon(out[lane]).to_bits();
            }
        }
    }
    d
}

/// Where column `n` is in a row of sums.
#[inline(always)]
fn place(n: usize) -> usize {
    4 * (n % 2) + n / 2
}

#[inline(always)]
fn integer(shape: &Mma, f: &Fragments) -> [[u32; 32]; 4] {
    let k = usize::from(shape.k);
    let value = |ty: MmaType, bits: u32, e: usize| {
        let byte = (bits >> (8 * e)) as u8;
        if ty == MmaType::S8 { i32::from(byte as i8) } else { i32::from(byte) }
    };
    let mut a = [[0i32; M]; 32];
    let mut b = [[0i32; N]; 32];
    let a_regs = k / 8;
    for lane in 0..32 {
        for e in 0..4 {
            for r in 0..a_regs {
                a[(lane % 4) * 4 + e + 16 * (r / 2)][lane / 4 + 8 * (r % 2)] =
                    value(shape.a, f.a[r][lane], e);
            }
            for r in 0..a_regs / 2 {
                b[(lane % 4) * 4 + e + 16 * r][lane / 4] = value(shape.b, f.b[r][lane], e);
            }
        }
    }
    let mut d = [[0; 32]; 4];
    for lane in 0..32 {
        for r in 0..4 {
            let (row, column) = (lane / 4 + 8 * (r / 2), (lane % 4) * 2 + r % 2);
            // At most 32 products of 16 bits: i64 holds the sum for clamping.
            let dot: i64 = (0..k).map(|k| i64::from(a[k][row] * b[k][column])).sum();
            let sum = dot + i64::from(f.c[r][lane] as i32);
            d[r][lane] = if shape.satfinite {
                sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as u32
            } else {
                sum as u32
            };
        }
    }
    d
}
