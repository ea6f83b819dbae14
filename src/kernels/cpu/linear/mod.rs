//! `blocked`: matrix products on the CPU by strips of row-major weights and panels of x.
//!
//! - [`tile`]: the micro-kernels, and the rule of one summation order per SIMD level
//! - [`lanes`], [`x86`]: what a SIMD level offers; attention's scores use it and the tiles, too
//! - [`job`]: packing of x, and tasks
//! - this file: the kernel and its choice of level
//!
//! x is packed once a call (as f32, or as bf16 for `vdpbf16ps`), in panels as wide as a tile. A strip is four
//! vectors of weight rows: 16 rows with AVX-512. With `vdpbf16ps` the weights lie in strips from the start
//! ([`crate::kernels::strips`]), where all of a model's linears take them so. Row-major weights are read where they lie by
//! one panel of x, transposed in registers; with more, a task packs its strip of weights, a block of k at a time, into
//! 18 KiB of its stack, and lets all panels of x pass by.

mod job;
pub(super) mod lanes;
#[cfg(test)]
mod tests;
pub(super) mod tile;
#[cfg(target_arch = "x86_64")]
pub(super) mod x86;

use std::sync::Arc;

use half::{bf16, f16};

use self::{
    job::{CHUNK, multiply},
    lanes::{Dot, Portable},
};
use super::simd::Float;
use crate::{
    device::{Cpu, CpuBuffer, DType, Simd},
    error::Result,
    kernels::{Kernel, Linear, LinearArgs, LinearSpec, Table, Unsupported},
};

/// Any shape, any float dtype; every SIMD level.
struct Blocked;

/// Puts this kernel first in the table: the default of every slot.
pub(super) fn register(table: &mut Table<Linear, Cpu>) {
    table.insert(0, Arc::new(Blocked));
}

impl Kernel<Linear, Cpu> for Blocked {
    fn name(&self) -> &'static str {
        "blocked"
    }

    fn about(&self) -> &'static str {
        "strips of row-major weights by panels of x; same bits for a row in any batch"
    }

    fn supports(&self, spec: &LinearSpec) -> std::result::Result<(), Unsupported> {
        match (spec.dtype, spec.out) {
            (DType::F32 | DType::Bf16 | DType::F16, out) if out == spec.dtype || out == DType::F32 => Ok(()),
            (x, out) => Err(Unsupported(format!("x of {x} with out of {out}"))),
        }
    }

    /// They are what `vdpbf16ps` takes; other instructions have bf16 converted first.
    fn reads_strips(&self, dev: &Cpu) -> bool {
        dev.simd() == Simd::Avx512Bf16
    }

    fn scratch(&self, a: &LinearArgs<'_, Cpu>) -> usize {
        // The widest packing of all levels: f32, in steps of 32.
        a.x.shape()[0].min(CHUNK) * a.x.shape()[1].next_multiple_of(32) * size_of::<f32>()
    }

    fn launch(&self, dev: &Cpu, a: LinearArgs<'_, Cpu>, scratch: &mut CpuBuffer) -> Result<()> {
        match (a.x.dtype(), a.out.dtype()) {
            (DType::F32, _) => at_level::<f32, f32>(dev, a, scratch),
            (DType::Bf16, DType::Bf16) => at_level::<bf16, bf16>(dev, a, scratch),
            (DType::Bf16, _) => at_level::<bf16, f32>(dev, a, scratch),
            (DType::F16, DType::F16) => at_level::<f16, f16>(dev, a, scratch),
            (DType::F16, _) => at_level::<f16, f32>(dev, a, scratch),
            (DType::I32, _) => unreachable!("unsupported"),
        }
        Ok(())
    }
}

/// Runs the call at the device's SIMD level.
fn at_level<T: Value, O: Float>(dev: &Cpu, a: LinearArgs<'_, Cpu>, scratch: &mut CpuBuffer) {
    // SAFETY: `Cpu` offers no level that this machine lacks.
    unsafe {
        match dev.simd() {
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512Bf16 => multiply::<T::Avx512Bf16, T, O>(dev.pool(), a, scratch),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 => multiply::<T::Avx512, T, O>(dev.pool(), a, scratch),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2 => multiply::<T::Avx2, T, O>(dev.pool(), a, scratch),
            _ => multiply::<Portable, T, O>(dev.pool(), a, scratch),
        }
    }
}

/// An element of x and weight, with what multiplies it at each level.
trait Value: Float {
    #[cfg(target_arch = "x86_64")]
    type Avx2: Dot<Self>;
    #[cfg(target_arch = "x86_64")]
    type Avx512: Dot<Self>;
    #[cfg(target_arch = "x86_64")]
    type Avx512Bf16: Dot<Self>;
}

impl Value for f32 {
    #[cfg(target_arch = "x86_64")]
    type Avx2 = x86::Avx2;
    #[cfg(target_arch = "x86_64")]
    type Avx512 = x86::Avx512;
    #[cfg(target_arch = "x86_64")]
    type Avx512Bf16 = x86::Avx512;
}

impl Value for bf16 {
    #[cfg(target_arch = "x86_64")]
    type Avx2 = x86::Avx2;
    #[cfg(target_arch = "x86_64")]
    type Avx512 = x86::Avx512;
    #[cfg(target_arch = "x86_64")]
    type Avx512Bf16 = x86::Avx512Bf16;
}

impl Value for f16 {
    #[cfg(target_arch = "x86_64")]
    type Avx2 = x86::Avx2;
    #[cfg(target_arch = "x86_64")]
    type Avx512 = x86::Avx512;
    #[cfg(target_arch = "x86_64")]
    type Avx512Bf16 = x86::Avx512;
}
