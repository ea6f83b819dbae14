//! What a device can at most do: the roof that kernels are held against.

use std::{hint::black_box, time::Instant};

use super::{Cpu, Device, Simd};
use crate::error::Result;

/// A device's limits.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Peaks {
    /// Bytes a second that it reads from its memory.
    pub bandwidth: f64,
    /// Floating-point operations a second, multiply and add counted apart, of its fastest instruction for bf16.
    pub flops: f64,
    /// Where the two come from.
    pub source: String,
}

impl Peaks {
    /// Floating-point operations a second that work of this many operations a byte can reach.
    pub fn roof(&self, flops_per_byte: f64) -> f64 {
        self.flops.min(self.bandwidth * flops_per_byte)
    }

    /// The least time in seconds for moving these bytes and doing these operations.
    pub fn seconds(&self, bytes: u64, flops: u64) -> f64 {
        (bytes as f64 / self.bandwidth).max(flops as f64 / self.flops)
    }
}

/// Larger than the last cache of most machines.
const WORKING_SET: usize = 256 << 20;
/// The best of so many runs: a peak is what nothing disturbed.
const RUNS: usize = 7;
/// Multiply-adds of a run on each register.
const STEPS: usize = 1 << 19;
/// Registers: more than the latency times the units of any CPU so far.
const CHAINS: usize = 12;

/// Measures this machine, as its kernels may use it: all threads of the pool, its vector instructions.
///
/// # Errors
/// [`crate::Error::Device`] when 256 MiB are not there.
pub(super) fn measure(cpu: &Cpu) -> Result<Peaks> {
    let (pool, simd) = (cpu.pool(), cpu.simd());
    let mut buffer = cpu.alloc(WORKING_SET)?;
    // Pages that were never written are all the same one.
    buffer.bytes_mut().fill(1);
    let data: &[f32] = bytemuck::cast_slice(buffer.bytes());
    let parts: Vec<&[f32]> = data.chunks(16 << 10).collect();
    let best = |work: &(dyn Fn(usize) + Sync), tasks: usize| {
        let run = |_| {
            let start = Instant::now();
            pool.run(tasks, work);
            start.elapsed().as_secs_f64()
        };
        (0..RUNS).map(run).fold(f64::INFINITY, f64::min)
    };
    let reading = best(&|task| _ = black_box(read(simd, parts[task])), parts.len());
    let computing = best(&|_| _ = black_box(multiply_add(simd)), pool.threads());
    let operations = (pool.threads() * STEPS * CHAINS * per_step(simd)) as f64;
    let instruction = match simd {
        Simd::Avx512Bf16 => "vdpbf16ps",
        Simd::Avx512 => "AVX-512 FMA",
        Simd::Avx2 => "AVX2 FMA",
        Simd::Portable => "scalar multiply and add",
    };
    let source = format!(
        "measured in this run on {} threads: reads of 256 MiB, and {instruction} on registers",
        pool.threads()
    );
    Ok(Peaks { bandwidth: WORKING_SET as f64 / reading, flops: operations / computing, source })
}

/// Floating-point operations of one instruction.
fn per_step(simd: Simd) -> usize {
    match simd {
        Simd::Portable => 2 * PORTABLE,
        Simd::Avx2 => 2 * 8,
        Simd::Avx512 => 2 * 16,
        Simd::Avx512Bf16 => 2 * 32,
    }
}

fn read(simd: Simd, data: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if simd >= Simd::Avx2 {
        // SAFETY: the CPU has AVX2, as `simd` says.
        return unsafe { x86::sum(data) };
    }
    let _ = simd;
    sum(data)
}

fn multiply_add(simd: Simd) -> f32 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the CPU has what `simd` says.
    unsafe {
        match simd {
            Simd::Avx512Bf16 => return x86::dot_512(),
            Simd::Avx512 => return x86::fma_512(),
            Simd::Avx2 => return x86::fma_256(),
            Simd::Portable => {}
        }
    }
    let _ = simd;
    let (a, b) = black_box((0.999f32, 0.001f32));
    let mut sums = [[1.0f32; PORTABLE]; CHAINS];
    for _ in 0..STEPS {
        sums.as_flattened_mut().iter_mut().for_each(|s| *s = *s * a + b);
    }
    sums.as_flattened().iter().sum()
}

/// Lanes that every 64-bit CPU has.
const PORTABLE: usize = 4;

/// Sums four streams: one stream alone reaches less on some machines.
#[inline(always)]
fn sum(data: &[f32]) -> f32 {
    let quarter = data.len() / 4;
    let mut sums = [[0.0f32; 16]; 4];
    for i in (0..quarter / 16 * 16).step_by(16) {
        for (stream, sums) in sums.iter_mut().enumerate() {
            for (s, v) in sums.iter_mut().zip(&data[stream * quarter + i..][..16]) {
                *s += v;
            }
        }
    }
    sums.as_flattened().iter().sum()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::{arch::x86_64::*, hint::black_box};

    use super::{CHAINS, STEPS};

    #[target_feature(enable = "avx2,fma")]
    pub fn sum(data: &[f32]) -> f32 {
        super::sum(data)
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn fma_256() -> f32 {
        let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
        let mut sums = [_mm256_set1_ps(1.0); CHAINS];
        for _ in 0..STEPS {
            sums.iter_mut().for_each(|s| *s = _mm256_fmadd_ps(*s, a, b));
        }
        let sum = sums.into_iter().reduce(|a, b| _mm256_add_ps(a, b)).expect("chains");
        _mm256_cvtss_f32(sum)
    }

    #[target_feature(enable = "avx512f")]
    pub fn fma_512() -> f32 {
        let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
        let mut sums = [_mm512_set1_ps(1.0); CHAINS];
        for _ in 0..STEPS {
            sums.iter_mut().for_each(|s| *s = _mm512_fmadd_ps(*s, a, b));
        }
        let sum = sums.into_iter().reduce(|a, b| _mm512_add_ps(a, b)).expect("chains");
        _mm512_cvtss_f32(sum)
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn dot_512() -> f32 {
        let ones = _mm512_set1_ps(black_box(0.5));
        let a = _mm512_cvtne2ps_pbh(ones, ones);
        let mut sums = [_mm512_set1_ps(1.0); CHAINS];
        for _ in 0..STEPS {
            sums.iter_mut().for_each(|s| *s = _mm512_dpbf16_ps(*s, a, a));
        }
        let sum = sums.into_iter().reduce(|a, b| _mm512_add_ps(a, b)).expect("chains");
        _mm512_cvtss_f32(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_runs_as_often_as_it_is_counted() {
        // A chain stays where it is: 1 times 0.999 plus 0.001. The dot product adds two quarters a step.
        let chains = CHAINS as f32;
        let dot = chains * (1.0 + 0.5 * STEPS as f32);
        for (simd, sum) in [
            (Simd::Portable, chains * PORTABLE as f32),
            (Simd::Avx2, chains),
            (Simd::Avx512, chains),
            (Simd::Avx512Bf16, dot),
        ] {
            if simd <= Simd::detect() {
                let got = multiply_add(simd);
                assert!((got / sum - 1.0).abs() < 0.01, "{simd}: {got}, expected {sum}");
            }
        }
        assert_eq!(read(Simd::Portable, &vec![1.0; 4096]), 4096.0);
        assert_eq!(read(Simd::detect(), &vec![1.0; 4096]), 4096.0);
    }

    #[test]
    fn the_roof_is_the_lower_of_the_two() {
        let peaks = Peaks { bandwidth: 10.0, flops: 100.0, source: String::new() };
        assert_eq!([1.0, 10.0, 50.0].map(|i| peaks.roof(i)), [10.0, 100.0, 100.0]);
        assert_eq!((peaks.seconds(20, 100), peaks.seconds(1, 1000)), (2.0, 10.0));
    }
}
