//! Copies of rows (embedding, KV store) and the gated activations.

use half::{bf16, f16};

use super::{
    super::{
        Activation, ActivationArgs, Embedding, EmbeddingArgs, GatedActivation, Kernel, KvStore, KvStoreArgs,
        Unsupported,
    },
    RowsMut,
    simd::{Float, Isa, Job, dispatch, normal_cdf, sigmoid},
    split,
};
use crate::{
    device::{Cpu, CpuBuffer, DType},
    error::Result,
};

/// Copies row by row.
pub struct CopyRows;

impl Kernel<Embedding, Cpu> for CopyRows {
    fn name(&self) -> &'static str {
        "copy_rows"
    }

    fn about(&self) -> &'static str {
        "a copy per row, scaled where the model asks for it"
    }

    fn supports(&self, _: &DType) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cpu, args: EmbeddingArgs<'_, Cpu>, _: &mut CpuBuffer) -> Result<()> {
        match args.table.dtype() {
            DType::F32 => embed::<f32>(dev, args),
            DType::Bf16 => embed::<bf16>(dev, args),
            DType::F16 => embed::<f16>(dev, args),
            DType::I32 => unreachable!("checked"),
        }
        Ok(())
    }
}

fn embed<T: Float>(dev: &Cpu, mut a: EmbeddingArgs<'_, Cpu>) {
    let (ids, dim) = (a.ids.slice::<i32>(), a.table.shape()[1]);
    let out = RowsMut::<T>::new(&mut a.out);
    split(dev.pool(), ids.len(), 2 * dim * size_of::<T>(), |tokens| {
        for t in tokens {
            // SAFETY: `split` gives each token to one task.
            let (row, out) = (a.table.row::<T>(ids[t].max(0) as usize), unsafe { out.row(t) });
            if a.scale == 1.0 {
                out.copy_from_slice(row);
            } else {
                dispatch(dev.simd(), Scale { row, scale: a.scale, out });
            }
        }
    });
}

struct Scale<'a, T> {
    row: &'a [T],
    scale: f32,
    out: &'a mut [T],
}

impl<T: Float> Job for Scale<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        for (o, &v) in self.out.iter_mut().zip(self.row) {
            *o = T::from_f32(v.to_f32() * self.scale);
        }
    }
}

impl Kernel<KvStore, Cpu> for CopyRows {
    fn name(&self) -> &'static str {
        "copy_rows"
    }

    fn about(&self) -> &'static str {
        "a copy per token"
    }

    fn supports(&self, _: &DType) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, _: &Cpu, args: KvStoreArgs<'_, Cpu>, _: &mut CpuBuffer) -> Result<()> {
        match args.k.dtype() {
            DType::F32 => store::<f32>(args),
            DType::Bf16 => store::<bf16>(args),
            DType::F16 => store::<f16>(args),
            DType::I32 => unreachable!("checked"),
        }
        Ok(())
    }
}

/// On one thread: two tokens may name the same slot, and the later one wins.
fn store<T: Float>(mut a: KvStoreArgs<'_, Cpu>) {
    let &[_, block_size, kv_heads, dim] = a.k_cache.shape() else { unreachable!("checked") };
    let row = kv_heads * dim;
    for (cache, new) in [(&mut a.k_cache, &a.k), (&mut a.v_cache, &a.v)] {
        let stride = cache.stride();
        let cache = cache.slice_mut::<T>();
        for (t, &slot) in a.slots.slice::<i32>().iter().enumerate() {
            if let Ok(slot) = usize::try_from(slot) {
                let at = slot / block_size * stride + slot % block_size * row;
                cache[at..at + row].copy_from_slice(new.row::<T>(t));
            }
        }
    }
}

/// Vectorised along the row.
pub struct Simd;

impl Kernel<GatedActivation, Cpu> for Simd {
    fn name(&self) -> &'static str {
        "simd"
    }

    fn about(&self) -> &'static str {
        "vectorised rows with its own exponential, split over the threads"
    }

    fn supports(&self, _: &(DType, Activation)) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cpu, args: ActivationArgs<'_, Cpu>, _: &mut CpuBuffer) -> Result<()> {
        match args.x.dtype() {
            DType::F32 => activate::<f32>(dev, args),
            DType::Bf16 => activate::<bf16>(dev, args),
            DType::F16 => activate::<f16>(dev, args),
            DType::I32 => unreachable!("checked"),
        }
        Ok(())
    }
}

fn activate<T: Float>(dev: &Cpu, mut a: ActivationArgs<'_, Cpu>) {
    let &[rows, inter] = a.out.shape() else { unreachable!("checked") };
    let out = RowsMut::<T>::new(&mut a.out);
    // An exponential costs several times what its bytes do.
    split(dev.pool(), rows, 12 * inter * size_of::<T>(), |rows| {
        for r in rows {
            let (gate, up) = a.x.row::<T>(r).split_at(inter);
            // SAFETY: `split` gives each row to one task.
            let out = unsafe { out.row(r) };
            dispatch(dev.simd(), Gated { activation: a.activation, gate, up, out });
        }
    });
}

struct Gated<'a, T> {
    activation: Activation,
    gate: &'a [T],
    up: &'a [T],
    out: &'a mut [T],
}

impl<T: Float> Job for Gated<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let rows = self.out.iter_mut().zip(self.gate).zip(self.up);
        match self.activation {
            Activation::Silu => {
                for ((o, &g), &u) in rows {
                    let g = g.to_f32();
                    *o = T::from_f32(g * sigmoid::<I>(g) * u.to_f32());
                }
            }
            // 0.5 (1 + tanh y) is sigmoid(2y), which does not cancel where the gate is negative.
            Activation::GeluTanh => {
                const TWICE_ROOT: f32 = 1.595_769; // 2 sqrt(2 / pi)
                for ((o, &g), &u) in rows {
                    let g = g.to_f32();
                    let y = TWICE_ROOT * g * I::mul_add(0.044_715 * g, g, 1.0);
                    *o = T::from_f32(g * sigmoid::<I>(y) * u.to_f32());
                }
            }
            Activation::GeluErf => {
                for ((o, &g), &u) in rows {
                    let g = g.to_f32();
                    *o = T::from_f32(g * normal_cdf::<I>(g) * u.to_f32());
                }
            }
        }
    }
}
