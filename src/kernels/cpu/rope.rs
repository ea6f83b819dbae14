//! q/k-norm and rotary embedding of a token's heads in one pass over them.

use half::{bf16, f16};

use super::{
    super::{Kernel, KvStore, Rope, RopeArgs, RopeStore, RopeStoreArgs, Unsupported},
    RowsMut,
    elementwise::CopyRows,
    norm::norm_scale,
    simd::{Float, Isa, Job, dispatch},
    split,
};
use crate::{
    device::{Cpu, CpuBuffer, DType},
    error::Result,
};

/// Vectorised over half a head.
pub struct Simd;

impl Kernel<Rope, Cpu> for Simd {
    fn name(&self) -> &'static str {
        "simd"
    }

    fn about(&self) -> &'static str {
        "norm and rotation of a head in one pass, tokens split over the threads"
    }

    fn supports(&self, _: &(DType, bool)) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cpu, args: RopeArgs<'_, Cpu>, _: &mut CpuBuffer) -> Result<()> {
        match args.qkv.dtype() {
            DType::F32 => rope::<f32>(dev, args),
            DType::Bf16 => rope::<bf16>(dev, args),
            DType::F16 => rope::<f16>(dev, args),
            DType::I32 => unreachable!("checked"),
        }
        Ok(())
    }
}

impl Kernel<RopeStore, Cpu> for Simd {
    fn name(&self) -> &'static str {
        "simd"
    }

    fn about(&self) -> &'static str {
        "rope, then kv_store's copy per token"
    }

    fn supports(&self, _: &(DType, bool)) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cpu, mut args: RopeStoreArgs<'_, Cpu>, scratch: &mut CpuBuffer) -> Result<()> {
        Kernel::<Rope, Cpu>::launch(self, dev, args.rope(), scratch)?;
        Kernel::<KvStore, Cpu>::launch(&CopyRows, dev, args.store(), scratch)
    }
}

fn rope<T: Float>(dev: &Cpu, mut a: RopeArgs<'_, Cpu>) {
    let &[tokens, _, dim] = a.qkv.shape() else { unreachable!("checked") };
    let positions = a.positions.slice::<i32>();
    let qkv = RowsMut::<T>::new(&mut a.qkv);
    let norms = a.qk_norm.map(|norms| norms.map(|w| w.slice::<T>()));
    split(dev.pool(), tokens, 2 * (a.heads + a.kv_heads) * dim * size_of::<T>(), |tokens| {
        for t in tokens {
            let cos_sin = a.cos_sin.row::<f32>(positions[t] as usize);
            // SAFETY: `split` gives each token to one task.
            let (q, kv) = unsafe { qkv.row(t) }.split_at_mut(a.heads * dim);
            for (part, heads) in [q, &mut kv[..a.kv_heads * dim]].into_iter().enumerate() {
                let weight = norms.map(|n| n[part]);
                dispatch(dev.simd(), Heads { heads, weight, eps: a.eps, offset: a.offset, cos_sin });
            }
        }
    });
}

/// The query heads or the key heads of one token.
struct Heads<'a, T> {
    heads: &'a mut [T],
    weight: Option<&'a [T]>,
    eps: f32,
    offset: f32,
    cos_sin: &'a [f32],
}

impl<T: Float> Job for Heads<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let half = self.cos_sin.len() / 2;
        let (cos, sin) = self.cos_sin.split_at(half);
        for head in self.heads.chunks_exact_mut(2 * half) {
            let scale = self.weight.map(|_| norm_scale::<I, T>(head, self.eps));
            let (low, high) = head.split_at_mut(half);
            let pairs = low.iter_mut().zip(high).zip(cos.iter().zip(sin));
            match self.weight.zip(scale) {
                None => {
                    for ((l, h), (&c, &s)) in pairs {
                        (*l, *h) = rotate::<I, T>(l.to_f32(), h.to_f32(), c, s);
                    }
                }
                Some((weight, scale)) => {
                    let (low, high) = weight.split_at(half);
                    for (((l, h), (&c, &s)), (wl, wh)) in pairs.zip(low.iter().zip(high)) {
                        let a = l.to_f32() * scale * (wl.to_f32() + self.offset);
                        let b = h.to_f32() * scale * (wh.to_f32() + self.offset);
                        (*l, *h) = rotate::<I, T>(a, b, c, s);
                    }
                }
            }
        }
    }
}

/// The pair `(a, b)` turned by an angle.
#[inline(always)]
fn rotate<I: Isa, T: Float>(a: f32, b: f32, cos: f32, sin: f32) -> (T, T) {
    (T::from_f32(I::mul_add(a, cos, -(b * sin))), T::from_f32(I::mul_add(b, cos, a * sin)))
}
