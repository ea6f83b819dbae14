//! A sampler from outside the crate: one random number a row, and a walk along the distribution function.

use std::{sync::Arc, time::Instant};

use lathe::{
    device::{Cpu, CpuBuffer, Tensor},
    kernels::{self, Kernel, Queue, Registry, Sample, SampleArgs, SampleSpec, Slot, Unsupported},
    lab::{cases::Kind, certificate::Certificate},
};

/// Draws by inversion: the first token at which the running sum of `e^((l - max) / temperature)` passes `u` times the total. The seam's
/// samplers draw one noise value a token instead. No top-k or top-p.
struct Inverse;

impl Kernel<Sample, Cpu> for Inverse {
    fn name(&self) -> &'static str {
        "inverse"
    }

    fn about(&self) -> &'static str {
        "one random number a row; two passes of exponentials"
    }

    fn supports(&self, spec: &SampleSpec) -> Result<(), Unsupported> {
        if spec.truncated { Err(Unsupported("top-k or top-p".into())) } else { Ok(()) }
    }

    fn launch(&self, _: &Cpu, mut a: SampleArgs<'_, Cpu>, _: &mut CpuBuffer) -> lathe::Result<()> {
        for r in 0..a.logits.shape()[0] {
            let logits = a.logits.row::<f32>(r);
            let &[greedy, _, low, high, position] = a.params.row::<i32>(r) else { unreachable!("checked") };
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let unusable = !max.is_finite() || logits.iter().any(|l| l.is_nan());
            let token = if unusable {
                None
            } else if greedy != 0 {
                logits.iter().position(|&l| l == max)
            } else {
                let temperature = a.temperature.slice::<f32>()[r];
                let weight = |l: &f32| ((l - max) / temperature).exp();
                let total: f32 = logits.iter().map(weight).sum();
                let mut left = uniform(low as u32, high as u32, position as u32) * total;
                let crosses = |l: &f32| {
                    left -= weight(l);
                    left < 0.0
                };
                // Rounding may leave a little at the end.
                logits.iter().position(crosses).or_else(|| logits.iter().rposition(|l| l.is_finite()))
            };
            a.out.slice_mut::<i32>()[r] = token.map_or(-1, |t| t as i32);
        }
        Ok(())
    }
}

/// In 0..1, of a seed and a position. Source: the finaliser of SplitMix64, Steele et al., OOPSLA 2014, twice.
fn uniform(low: u32, high: u32, position: u32) -> f32 {
    let mix = |mut z: u64| {
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    };
    let seed = mix((u64::from(high) << 32 | u64::from(low)).wrapping_add(0x9e37_79b9_7f4a_7c15));
    (mix(seed ^ u64::from(position)) >> 40) as f32 / (1 << 24) as f32
}

/// Microseconds a row over a vocabulary of 151,936.
fn time(dev: &Cpu, kernel: &Slot<Sample, Cpu>) -> anyhow::Result<f64> {
    let (rows, vocab, calls) = (8, 151_936, 10);
    let logits = Tensor::from_slice(dev, &Kind::Wide.logits(vocab, 1).repeat(rows), &[rows, vocab])?;
    let temperature = Tensor::from_slice(dev, &vec![0.6f32; rows], &[rows])?;
    let tails = Tensor::from_slice(dev, &vec![0.0f32; rows], &[rows])?;
    let params: Vec<i32> = (0..rows as i32).flat_map(|r| [0, 0, r, 0, 7]).collect();
    let params = Tensor::from_slice(dev, &params, &[rows, 5])?;
    let mut out = Tensor::from_slice(dev, &vec![-1; rows], &[rows])?;
    let mut queue = Queue::new(dev)?;
    let start = Instant::now();
    for _ in 0..calls {
        let args = SampleArgs {
            logits: logits.view(),
            temperature: temperature.view(),
            top_p_tail: tails.view(),
            params: params.view(),
            spec: SampleSpec { random: true, truncated: false },
            out: out.view_mut(),
        };
        kernels::run(&**kernel, &mut queue, args)?;
    }
    Ok(start.elapsed().as_secs_f64() / f64::from(calls) / rows as f64 * 1e6)
}

fn main() -> anyhow::Result<()> {
    // One thread: the default kernel would split rows over more.
    let dev = Cpu::new(Some(1));
    let ours: Slot<Sample, Cpu> = Arc::new(Inverse);
    let c = Certificate::of(&dev, &ours)?;
    println!(
        "{} draws, {} tests: smallest p {:.1e} (bound {:.1e}), p of their uniformity {:.1e}",
        c.draws, c.tests, c.smallest_p, c.bonferroni, c.uniform_p
    );
    anyhow::ensure!(
        c.fault.is_none(),
        "inverse does not draw from the distribution: {}",
        c.fault.unwrap_or_default()
    );
    for round in 1..=3 {
        let default = Registry::cpu().sample.remove(0);
        let (ours, theirs) = (time(&dev, &ours)?, time(&dev, &default)?);
        println!("round {round}: inverse {ours:.0} µs a row, {} {theirs:.0} µs", default.name());
    }
    Ok(())
}
