//! RMSNorm and residual addition + RMSNorm: one pass over a row for the sum, one for the result.

use half::{bf16, f16};

use super::{
    super::{AddRmsNorm, AddRmsNormArgs, Kernel, RmsNorm, RmsNormArgs, Unsupported},
    RowsMut,
    simd::{Float, Isa, Job, LANES, dispatch},
    split,
};
use crate::{
    device::{Cpu, CpuBuffer, DType},
    error::Result,
};

/// Vectorised rows.
pub struct Simd;

impl Kernel<RmsNorm, Cpu> for Simd {
    fn name(&self) -> &'static str {
        "simd"
    }

    fn about(&self) -> &'static str {
        "vectorised rows, split over the threads"
    }

    fn supports(&self, _: &DType) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cpu, args: RmsNormArgs<'_, Cpu>, _: &mut CpuBuffer) -> Result<()> {
        match args.x.dtype() {
            DType::F32 => norm::<f32>(dev, args),
            DType::Bf16 => norm::<bf16>(dev, args),
            DType::F16 => norm::<f16>(dev, args),
            DType::I32 => unreachable!("checked"),
        }
        Ok(())
    }
}

impl Kernel<AddRmsNorm, Cpu> for Simd {
    fn name(&self) -> &'static str {
        "simd"
    }

    fn about(&self) -> &'static str {
        "vectorised rows, split over the threads"
    }

    fn supports(&self, _: &DType) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cpu, args: AddRmsNormArgs<'_, Cpu>, _: &mut CpuBuffer) -> Result<()> {
        match args.x.dtype() {
            DType::F32 => add_norm::<f32>(dev, args),
            DType::Bf16 => add_norm::<bf16>(dev, args),
            DType::F16 => add_norm::<f16>(dev, args),
            DType::I32 => unreachable!("checked"),
        }
        Ok(())
    }
}

fn norm<T: Float>(dev: &Cpu, mut a: RmsNormArgs<'_, Cpu>) {
    let (rows, dim) = (a.x.shape()[0], a.x.shape()[1]);
    let weight = a.weight.slice::<T>();
    let out = RowsMut::<T>::new(&mut a.out);
    split(dev.pool(), rows, 2 * dim * size_of::<T>(), |rows| {
        for r in rows {
            // SAFETY: `split` gives each row to one task.
            let out = unsafe { out.row(r) };
            dispatch(dev.simd(), Row { x: a.x.row::<T>(r), weight, eps: a.eps, offset: a.offset, out });
        }
    });
}

fn add_norm<T: Float>(dev: &Cpu, mut a: AddRmsNormArgs<'_, Cpu>) {
    let (rows, dim) = (a.x.shape()[0], a.x.shape()[1]);
    let weight = a.weight.slice::<T>();
    let residual = RowsMut::<T>::new(&mut a.residual);
    let out = RowsMut::<T>::new(&mut a.out);
    split(dev.pool(), rows, 4 * dim * size_of::<T>(), |rows| {
        for r in rows {
            // SAFETY: `split` gives each row to one task.
            let (x, residual, out) = (a.x.row::<T>(r), unsafe { residual.row(r) }, unsafe { out.row(r) });
            dispatch(dev.simd(), Add { x, residual });
            dispatch(dev.simd(), Row { x: residual, weight, eps: a.eps, offset: a.offset, out });
        }
    });
}

/// `residual += x`, rounded.
struct Add<'a, T> {
    x: &'a [T],
    residual: &'a mut [T],
}

impl<T: Float> Job for Add<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        for (r, &x) in self.residual.iter_mut().zip(self.x) {
            *r = T::from_f32(r.to_f32() + x.to_f32());
        }
    }
}

/// `out = x * scale * (weight + offset)` with the row's `scale`.
struct Row<'a, T> {
    x: &'a [T],
    weight: &'a [T],
    eps: f32,
    offset: f32,
    out: &'a mut [T],
}

impl<T: Float> Job for Row<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let scale = norm_scale::<I, T>(self.x, self.eps);
        for ((o, &x), &w) in self.out.iter_mut().zip(self.x).zip(self.weight) {
            *o = T::from_f32(x.to_f32() * scale * (w.to_f32() + self.offset));
        }
    }
}

/// `1 / sqrt(mean(x²) + eps)`, by 32 partial sums in f32.
#[inline(always)]
pub fn norm_scale<I: Isa, T: Float>(x: &[T], eps: f32) -> f32 {
    let mut sums = [I::splat(0.0); 4];
    let chunks = x.chunks_exact(4 * LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (i, s) in sums.iter_mut().enumerate() {
            // SAFETY: a chunk has four times `LANES` elements.
            let v = unsafe { T::load::<I>(chunk.as_ptr().add(i * LANES)) };
            *s = I::fma(v, v, *s);
        }
    }
    let mut total = 0.0;
    for &v in rest {
        total = I::mul_add(v.to_f32(), v.to_f32(), total);
    }
    total += (I::sum(sums[0]) + I::sum(sums[1])) + (I::sum(sums[2]) + I::sum(sums[3]));
    1.0 / (total / x.len() as f32 + eps).sqrt()
}
