//! One binary for every x86-64: the vector parts compiled for several instruction sets, chosen at run time.
//!
//! Other architectures use what the compiler's target has.

use super::{
    alu::alu,
    code::{Code, Inst, Mma},
    frame::Frame,
    mma::{Fragments, mma},
};

/// The vector parts for one instruction set.
#[derive(Debug, Clone, Copy)]
pub struct Level {
    /// [`alu`].
    pub alu: unsafe fn(&Code, &Inst, &Frame, u32),
    /// [`mma`].
    pub mma: unsafe fn(&Mma, &Fragments) -> [[u32; 32]; 4],
}

impl Level {
    /// The best that this machine has.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let bits = is_x86_feature_detected!("bmi2") && is_x86_feature_detected!("lzcnt");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512cd")
                && is_x86_feature_detected!("avx512vpopcntdq");
            if avx2 && bits && avx512 {
                return Self { alu: alu_avx512, mma: mma_avx512 };
            }
            if avx2 && bits {
                return Self { alu: alu_avx2, mma: mma_avx2 };
            }
        }
        Self { alu, mma }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512vpopcntdq,avx2,fma,bmi1,bmi2,lzcnt,popcnt"
)]
fn alu_avx512(code: &Code, inst: &Inst, r: &Frame, mask: u32) {
    alu(code, inst, r, mask);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
fn alu_avx2(code: &Code, inst: &Inst, r: &Frame, mask: u32) {
    alu(code, inst, r, mask);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn mma_avx512(shape: &Mma, f: &Fragments) -> [[u32; 32]; 4] {
    mma(shape, f)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn mma_avx2(shape: &Mma, f: &Fragments) -> [[u32; 32]; 4] {
    mma(shape, f)
}
