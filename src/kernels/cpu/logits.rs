//! Logits processing: single tokens first, then passes over the row for what it asks for and no others.

use super::{
    super::{Kernel, Logits, LogitsArgs, Unsupported},
    RowsMut,
    simd::{Isa, Job, LANES, dispatch, larger, max, tanh},
    split,
};
use crate::{
    device::{Cpu, CpuBuffer, Simd},
    error::Result,
};

/// Touches only what a row asks for.
pub struct Sparse;

impl Kernel<Logits, Cpu> for Sparse {
    fn name(&self) -> &'static str {
        "sparse"
    }

    fn about(&self) -> &'static str {
        "touches only what a row asks for; nothing without penalties and min-p"
    }

    fn supports(&self, (): &()) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cpu, mut args: LogitsArgs<'_, Cpu>, _: &mut CpuBuffer) -> Result<()> {
        let &[rows, vocab] = args.logits.shape() else { unreachable!("checked") };
        let out = RowsMut::<f32>::new(&mut args.logits);
        let dense = (0..rows).any(|r| {
            let p = args.params.row::<f32>(r);
            args.softcap.is_some() || (p[0] > 0.0 && p[1] > 0.0)
        });
        let bytes = if dense { 3 * vocab * size_of::<f32>() } else { 64 };
        split(dev.pool(), rows, bytes, |rows| {
            for r in rows {
                // SAFETY: `split` gives each row to one task.
                process(dev.simd(), &args, r, unsafe { out.row(r) });
            }
        });
        Ok(())
    }
}

fn process(simd: Simd, a: &LogitsArgs<'_, Cpu>, r: usize, row: &mut [f32]) {
    let &[temperature, min_p, repetition, frequency, presence] = a.params.row::<f32>(r) else {
        unreachable!("checked")
    };
    if let Some(cap) = a.softcap {
        dispatch(simd, Softcap { row, cap });
    }
    let range = |starts: &[i32]| starts[r] as usize..starts[r + 1] as usize;
    let biases = range(a.bias_start.slice());
    for (&id, &bias) in
        a.bias_ids.slice::<i32>()[biases.clone()].iter().zip(&a.bias_values.slice::<f32>()[biases])
    {
        row[id as usize] += bias;
    }
    let history = range(a.history_start.slice());
    let counts = &a.history_counts.slice::<i32>()[history.clone()];
    for (&id, &count) in a.history_ids.slice::<i32>()[history].iter().zip(counts) {
        let l = &mut row[id as usize];
        *l = if *l > 0.0 { *l / repetition } else { *l * repetition };
        if count > 0 {
            *l -= frequency * count as f32;
            *l -= presence;
        }
    }
    if temperature > 0.0 && min_p > 0.0 {
        dispatch(simd, MinP { row, temperature, floor: f64::from(min_p).ln() as f32 });
    }
}

/// `cap * tanh(l / cap)`.
struct Softcap<'a> {
    row: &'a mut [f32],
    cap: f32,
}

impl Job for Softcap<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        for l in self.row {
            *l = self.cap * tanh::<I>(*l / self.cap);
        }
    }
}

/// Masks what is more than `-floor` below the largest after the temperature. NaN stays.
struct MinP<'a> {
    row: &'a mut [f32],
    temperature: f32,
    floor: f32,
}

impl Job for MinP<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        // Division keeps the order, so the largest stays the largest.
        let top = largest(self.row) / self.temperature;
        for l in self.row {
            *l = if *l / self.temperature - top < self.floor { f32::NEG_INFINITY } else { *l };
        }
    }
}

/// The largest value; NaN does not count.
#[inline(always)]
pub fn largest(row: &[f32]) -> f32 {
    let mut top = [f32::NEG_INFINITY; 32];
    let chunks = row.chunks_exact(32);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (t, &l) in top.iter_mut().zip(chunk) {
            *t = larger(*t, l);
        }
    }
    rest.iter().copied().fold(largest_of(&top), larger)
}

/// [`largest`] of a block, by halves.
#[inline(always)]
pub fn largest_of(block: &[f32; 32]) -> f32 {
    let mut top = [f32::NEG_INFINITY; LANES];
    for (i, t) in top.iter_mut().enumerate() {
        *t = larger(larger(*t, larger(block[i], block[i + 8])), larger(block[i + 16], block[i + 24]));
    }
    max(top)
}
