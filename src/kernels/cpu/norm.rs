//! RMSNorm and residual addition + RMSNorm: one pass over a row for the sum, one for the result.

use half::{bf16, f16};

use super::{
    super::{AddRmsNorm, AddRmsNormArgs, Kernel, RmsNorm, RmsNormArgs, Unsupported},
    RowsMut,
    simd::{Float, Isa, Job, LANES, dispatch},
    split,
};
use crate::{
    device::{Cpu, CpuBuffer, DType, View, ViewMut},
    error::Result,
};

/// Vectorised rows.
pub struct Simd;

const ABOUT: &str = "vectorised rows, split over the threads";

impl Kernel<RmsNorm, Cpu> for Simd {
    fn name(&self) -> &'static str {
        "simd"
    }

    fn about(&self) -> &'static str {
        ABOUT
    }

    fn supports(&self, _: &DType) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cpu, a: RmsNormArgs<'_, Cpu>, _: &mut CpuBuffer) -> Result<()> {
        Norm { x: a.x, residual: None, weight: a.weight, eps: a.eps, offset: a.offset, out: a.out }
            .launch(dev);
        Ok(())
    }
}

impl Kernel<AddRmsNorm, Cpu> for Simd {
    fn name(&self) -> &'static str {
        "simd"
    }

    fn about(&self) -> &'static str {
        ABOUT
    }

    fn supports(&self, _: &DType) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cpu, a: AddRmsNormArgs<'_, Cpu>, _: &mut CpuBuffer) -> Result<()> {
        let residual = Some(a.residual);
        Norm { x: a.x, residual, weight: a.weight, eps: a.eps, offset: a.offset, out: a.out }.launch(dev);
        Ok(())
    }
}

/// Both operations: the norm of x, or of what the residual is once x was added to it.
struct Norm<'a> {
    x: View<'a, Cpu>,
    residual: Option<ViewMut<'a, Cpu>>,
    weight: View<'a, Cpu>,
    eps: f32,
    offset: f32,
    out: ViewMut<'a, Cpu>,
}

impl Norm<'_> {
    fn launch(self, dev: &Cpu) {
        match self.x.dtype() {
            DType::F32 => self.rows::<f32>(dev),
            DType::Bf16 => self.rows::<bf16>(dev),
            DType::F16 => self.rows::<f16>(dev),
            DType::I32 => unreachable!("checked"),
        }
    }

    fn rows<T: Float>(mut self, dev: &Cpu) {
        let (rows, dim) = (self.x.shape()[0], self.x.shape()[1]);
        let (x, weight, eps, offset) = (self.x, self.weight.slice::<T>(), self.eps, self.offset);
        let residual = self.residual.as_mut().map(RowsMut::<T>::new);
        let out = RowsMut::<T>::new(&mut self.out);
        let passes = if residual.is_some() { 4 } else { 2 };
        split(dev.pool(), rows, passes * dim * size_of::<T>(), |rows| {
            for r in rows {
                // SAFETY: `split` gives each row to one task.
                let (residual, out) = unsafe { (residual.as_ref().map(|rows| rows.row(r)), out.row(r)) };
                let x = match residual {
                    Some(residual) => {
                        dispatch(dev.simd(), Add { x: x.row::<T>(r), residual: &mut *residual });
                        residual
                    }
                    None => x.row::<T>(r),
                };
                dispatch(dev.simd(), Row { x, weight, eps, offset, out });
            }
        });
    }
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
