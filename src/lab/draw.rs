//! Random choices and random values from a seed, the same on every machine.

use lathe_reference::{
    philox::philox,
    rounding::{BF16, F16, F32, Format},
};

use crate::device::DType;

/// A stream of choices.
#[derive(Clone, Debug)]
pub struct Draw {
    seed: u64,
    next: u32,
}

impl Draw {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, next: 0 }
    }

    fn word(&mut self) -> u32 {
        self.next += 1;
        philox(self.seed, [self.next / 4, 0, 8, 8])[self.next as usize % 4]
    }

    /// One of `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.word()) * n as u64) >> 32) as usize
    }

    /// One of these.
    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// True once in `n`.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// A seed for values.
    pub fn seed(&mut self) -> u64 {
        self.word().into()
    }

    /// An extent of `1..=most`: half of the time next to a power of two (where vectors, warps, blocks and tiles end),
    /// else any, short ones as likely as long ones.
    pub fn size(&mut self, most: usize) -> usize {
        let octave = self.below(most.ilog2() as usize + 1);
        let begin = 1usize << octave;
        let size = if self.one_in(2) { begin + self.below(3) - 1 } else { begin + self.below(begin) };
        size.clamp(1, most)
    }
}

/// The rounding of a dtype.
pub fn format(dtype: DType) -> Format {
    match dtype {
        DType::F32 | DType::I32 => F32,
        DType::Bf16 => BF16,
        DType::F16 => F16,
    }
}

/// `n` values of a stream, about normal with standard deviation `deviation`, rounded to `dtype`.
pub fn noise(dtype: DType, seed: u64, n: usize, deviation: f64) -> Vec<f32> {
    let format = format(dtype);
    // The sum of four uniforms of 16 bits has the variance 4 / 12.
    let normal = |word: [u32; 2]| {
        let sum: u32 = word.iter().map(|w| (w >> 16) + (w & 0xffff)).sum();
        format.round((f64::from(sum) / 65_535.0 - 2.0) * 3f64.sqrt() * deviation)
    };
    (0..n.div_ceil(2) as u32)
        .flat_map(|i| {
            let [a, b, c, d] = philox(seed, [i, 0, 7, 7]);
            [normal([a, b]), normal([c, d])]
        })
        .take(n)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_normal_enough_and_exact_in_its_dtype() {
        let values = noise(DType::Bf16, 3, 10_001, 2.0);
        let mean = values.iter().sum::<f32>() / 10_001.0;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 10_001.0;
        assert!(mean.abs() < 0.1 && (variance - 4.0).abs() < 0.2, "{mean} {variance}");
        assert!(values.iter().all(|&v| half::bf16::from_f32(v).to_f32() == v));
        assert_ne!(values[..100], noise(DType::Bf16, 4, 100, 2.0)[..]);
    }

    #[test]
    fn sizes_reach_both_ends_and_every_edge() {
        let mut draw = Draw::new(1);
        let sizes: std::collections::BTreeSet<usize> = (0..3000).map(|_| draw.size(130)).collect();
        for edge in [1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65, 127, 128, 129] {
            assert!(sizes.contains(&edge), "{edge}");
        }
        assert!(sizes.iter().all(|s| (1..=130).contains(s)));
    }
}
