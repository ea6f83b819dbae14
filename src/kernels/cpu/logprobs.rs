//! Log-probabilities: two passes over the row, the likeliest tokens in a heap that lies in the output.

use super::{
    super::{Kernel, Logprobs, LogprobsArgs, Unsupported},
    RowsMut,
    logits::largest,
    simd::{Isa, Job, LANES, dispatch, exp64, sum64},
    split,
};
use crate::{
    device::{Cpu, CpuBuffer},
    error::Result,
};

/// Allocates nothing; a row is one thread's.
pub struct Heap;

impl Kernel<Logprobs, Cpu> for Heap {
    fn name(&self) -> &'static str {
        "heap"
    }

    fn about(&self) -> &'static str {
        "vectorised sum in f64; the likeliest in a heap, rows split over the threads"
    }

    fn supports(&self, (): &()) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn launch(&self, dev: &Cpu, mut a: LogprobsArgs<'_, Cpu>, _: &mut CpuBuffer) -> Result<()> {
        let &[rows, vocab] = a.logits.shape() else { unreachable!("checked") };
        let (values, ids) = (RowsMut::<f32>::new(&mut a.values), RowsMut::<i32>::new(&mut a.ids));
        split(dev.pool(), rows, 8 * vocab * size_of::<f32>(), |rows| {
            for r in rows {
                // SAFETY: `split` gives each row to one task.
                let (values, ids) = unsafe { (values.row(r), ids.row(r)) };
                let logits = a.logits.row::<f32>(r);
                let norm = dispatch(dev.simd(), Norm { logits, softcap: a.softcap });
                let logprob = |l: f32| (f64::from(capped(l, a.softcap)) - norm) as f32;
                let own = logits.get(a.tokens.slice::<i32>()[r] as usize).copied();
                values[0] = own.map_or(f32::NEG_INFINITY, logprob);
                ids[0] = own.map_or(0, |own| logits.iter().filter(|&&l| l >= own).count() as i32);
                likeliest(logits, &mut ids[1..]);
                for (value, &id) in values[1..].iter_mut().zip(&ids[1..]) {
                    *value = logprob(logits[id as usize]);
                }
            }
        });
        Ok(())
    }
}

fn capped(l: f32, softcap: Option<f32>) -> f32 {
    softcap.map_or(l, |cap| cap * (l / cap).tanh())
}

/// The logarithm of the sum of `e^(capped logit)`.
struct Norm<'a> {
    logits: &'a [f32],
    softcap: Option<f32>,
}

impl Job for Norm<'_> {
    type Out = f64;
    #[inline(always)]
    fn run<I: Isa>(self) -> f64 {
        let max = f64::from(capped(largest(self.logits), self.softcap));
        let mut sums = [0.0; LANES];
        for part in self.logits.chunks(LANES) {
            for (sum, &l) in sums.iter_mut().zip(part) {
                *sum += exp64::<I>(f64::from(capped(l, self.softcap)) - max);
            }
        }
        max + sum64(sums).ln()
    }
}

/// The ids of the `out.len()` largest logits, of equal ones the lowest, in ascending order.
fn likeliest(logits: &[f32], out: &mut [i32]) {
    // The heap's root is the least likely of those kept: the smallest logit, of equal ones the highest id.
    let less = |a: i32, b: i32| {
        let of = |id: i32| logits[id as usize] + 0.0; // -0 is 0
        of(a).total_cmp(&of(b)).then(b.cmp(&a)).is_lt()
    };
    let sift = |heap: &mut [i32], mut at: usize| loop {
        let children = 2 * at + 1..(2 * at + 3).min(heap.len());
        let Some(child) = children.reduce(|x, y| if less(heap[y], heap[x]) { y } else { x }) else { break };
        if !less(heap[child], heap[at]) {
            break;
        }
        heap.swap(child, at);
        at = child;
    };
    out.iter_mut().enumerate().for_each(|(i, id)| *id = i as i32);
    (0..out.len() / 2).rev().for_each(|at| sift(out, at));
    for id in out.len() as i32..logits.len() as i32 {
        if let Some(&root) = out.first()
            && less(root, id)
        {
            out[0] = id;
            sift(out, 0);
        }
    }
    out.sort_unstable();
}
