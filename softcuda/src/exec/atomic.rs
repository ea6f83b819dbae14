//! Atomic read-modify-write.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::{
    code::{Atom, AtomOp},
    float::{self as fp, HalfOp},
};
use crate::{exec::code::float_mods, ptx::Type};

/// The new value from the old one and an operand.
pub fn combine(op: AtomOp, ty: Type, old: u64, b: u64) -> u64 {
    let (f, g) = (f32::from_bits(old as u32), f32::from_bits(b as u32));
    let half = |mods: u16| u64::from(fp::half(HalfOp::Add, old as u32, b as u32, 0, mods));
    match (op, ty) {
        (AtomOp::And, _) => old & b,
        (AtomOp::Or, _) => old | b,
        (AtomOp::Xor, _) => old ^ b,
        (AtomOp::Add, Type::F32) => u64::from(fp::canon(f + g).to_bits()),
        (AtomOp::Add, Type::F64) => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        (AtomOp::Add, Type::F16) => half(0),
        (AtomOp::Add, Type::F16x2) => half(float_mods::PACKED),
        (AtomOp::Add, Type::Bf16) => half(float_mods::BF16),
        (AtomOp::Add, Type::Bf16x2) => half(float_mods::BF16 | float_mods::PACKED),
        (AtomOp::Add, Type::U64 | Type::S64) => old.wrapping_add(b),
        (AtomOp::Add, _) => u64::from((old as u32).wrapping_add(b as u32)),
        // Counters that wrap at b.
        (AtomOp::Inc, _) => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        (AtomOp::Dec, _) => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        (AtomOp::Min, Type::S32) => {
            if (old as i32) < b as i32 {
                old
            } else {
                b
            }
        }
        (AtomOp::Max, Type::S32) => {
            if old as i32 > b as i32 {
                old
            } else {
                b
            }
        }
        (AtomOp::Min, Type::S64) => (old as i64).min(b as i64) as u64,
        (AtomOp::Max, Type::S64) => (old as i64).max(b as i64) as u64,
        (AtomOp::Min, _) => old.min(b),
        (AtomOp::Max, _) => old.max(b),
        (AtomOp::Exch | AtomOp::Cas, _) => b,
    }
}

/// Applies an atomic to the element at `p` and returns the old value. For `cas`, `b` is compared and `c` written.
///
/// # Safety
/// As for [`super::space::write`].
pub unsafe fn apply(p: usize, atom: &Atom, b: u64, c: u64) -> u64 {
    let next = |old: u64| match atom.op {
        AtomOp::Cas if old == b => Some(c),
        AtomOp::Cas => None,
        op => Some(combine(op, atom.ty, old, b)),
    };
    // SAFETY: by the caller's promise.
    unsafe {
        match atom.ty.bytes() {
            2 => {
                let cell = AtomicU16::from_ptr(p as *mut u16);
                let update = |x: u16| next(x.into()).map(|x| x as u16);
                cell.fetch_update(Relaxed, Relaxed, update).unwrap_or_else(|x| x).into()
            }
            4 => {
                let cell = AtomicU32::from_ptr(p as *mut u32);
                let update = |x: u32| next(x.into()).map(|x| x as u32);
                cell.fetch_update(Relaxed, Relaxed, update).unwrap_or_else(|x| x).into()
            }
            _ => {
                AtomicU64::from_ptr(p as *mut u64).fetch_update(Relaxed, Relaxed, next).unwrap_or_else(|x| x)
            }
        }
    }
}
