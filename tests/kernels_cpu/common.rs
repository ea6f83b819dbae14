//! Tensors with canaries, noise, budgets.

use half::{bf16, f16};
use lathe::device::{Cpu, DType, Element, Simd, Tensor, View, ViewMut};
use lathe_reference::{
    philox::philox,
    rounding::{BF16, F16, F32, Format},
};

/// 2^-24: half a unit in the last place of f32, relative.
pub const EPS: f64 = 1.0 / 16_777_216.0;

pub const FLOATS: [DType; 3] = [DType::F32, DType::Bf16, DType::F16];

/// The device at every instruction set that this machine has, with two threads.
pub fn devices() -> Vec<Cpu> {
    let cpu = Cpu::new(Some(2));
    [Simd::Portable, Simd::Avx2, Simd::Avx512, Simd::Avx512Bf16]
        .into_iter()
        .filter_map(|s| cpu.with_simd(s).ok())
        .collect()
}

pub fn format(dtype: DType) -> Format {
    match dtype {
        DType::F32 => F32,
        DType::Bf16 => BF16,
        DType::F16 => F16,
        DType::I32 => panic!("not a float"),
    }
}

/// About normal, of standard deviation 1, rounded to `dtype`.
pub fn noise(dtype: DType, seed: u64, n: usize) -> Vec<f32> {
    let round = |v: f64| format(dtype).round(v);
    let normal = |i: usize| {
        let words = philox(seed, [i as u32, 0, 7, 7]);
        let sum: f64 = words.iter().map(|&w| f64::from(w) / f64::from(u32::MAX)).sum();
        (sum - 2.0) * 3f64.sqrt()
    };
    (0..n).map(|i| round(normal(i))).collect()
}

/// A tensor of `dtype` with these values, which must be exact in it.
pub fn tensor(dev: &Cpu, dtype: DType, values: &[f32], shape: &[usize]) -> Tensor<Cpu> {
    match dtype {
        DType::F32 => Tensor::from_slice(dev, values, shape).unwrap(),
        DType::Bf16 => {
            let values: Vec<bf16> = values.iter().map(|&v| bf16::from_f32(v)).collect();
            Tensor::from_slice(dev, &values, shape).unwrap()
        }
        DType::F16 => {
            let values: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
            Tensor::from_slice(dev, &values, shape).unwrap()
        }
        DType::I32 => panic!("not a float"),
    }
}

pub fn ints(dev: &Cpu, values: &[i32]) -> Tensor<Cpu> {
    Tensor::from_slice(dev, values, &[values.len()]).unwrap()
}

/// The values of a view as f32, row after row.
pub fn widen(dev: &Cpu, v: &View<'_, Cpu>) -> Vec<f32> {
    match v.dtype() {
        DType::F32 => v.to_vec::<f32>(dev).unwrap(),
        DType::Bf16 => v.to_vec::<bf16>(dev).unwrap().into_iter().map(bf16::to_f32).collect(),
        DType::F16 => v.to_vec::<f16>(dev).unwrap().into_iter().map(f16::to_f32).collect(),
        DType::I32 => panic!("not a float"),
    }
}

const CANARY: f32 = -77.0;

/// An output: rows between a row of canaries before and one after.
pub struct Guarded {
    tensor: Tensor<Cpu>,
    rows: usize,
    row: usize,
}

impl Guarded {
    /// NaN everywhere.
    pub fn new(dev: &Cpu, dtype: DType, shape: &[usize]) -> Self {
        let n = shape.iter().product();
        Self::with(dev, dtype, &vec![f32::NAN; n], shape)
    }

    /// These values, for what a kernel reads and writes.
    pub fn with(dev: &Cpu, dtype: DType, values: &[f32], shape: &[usize]) -> Self {
        let row: usize = shape[1..].iter().product();
        let canaries = vec![CANARY; row];
        let all = [&canaries[..], values, &canaries[..]].concat();
        let mut outer = shape.to_vec();
        outer[0] += 2;
        Self { tensor: tensor(dev, dtype, &all, &outer), rows: shape[0], row }
    }

    pub fn view_mut(&mut self) -> ViewMut<'_, Cpu> {
        self.tensor.rows_mut(1..self.rows + 1)
    }

    /// The rows. Panics if a canary is gone.
    pub fn values(&self, dev: &Cpu) -> Vec<f32> {
        let all = widen(dev, &self.tensor.view());
        let (before, rest) = all.split_at(self.row);
        let (inside, after) = rest.split_at(rest.len() - self.row);
        assert!(before.iter().chain(after).all(|&c| c == CANARY), "canaries");
        inside.to_vec()
    }
}

/// Every bit of a tensor, to see that it did not change.
pub fn bits(dev: &Cpu, t: &Tensor<Cpu>) -> Vec<u8> {
    fn of<T: Element>(dev: &Cpu, t: &Tensor<Cpu>) -> Vec<u8> {
        bytemuck::cast_slice(&t.to_vec::<T>(dev).unwrap()).to_vec()
    }
    match t.dtype() {
        DType::F32 => of::<f32>(dev, t),
        DType::Bf16 => of::<bf16>(dev, t),
        DType::F16 => of::<f16>(dev, t),
        DType::I32 => of::<i32>(dev, t),
    }
}

/// Fails unless each value is within `budget(i)` of the oracle's after half a unit in the last place of `dtype`.
pub fn close(what: &str, dtype: DType, got: &[f32], want: &[f32], budget: impl Fn(usize) -> f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let (g, w, budget) = (f64::from(g), f64::from(w), budget(i));
        // Rounding where the budget moves the value past a power of two has the larger ulp.
        let rounding = 0.5 * format(dtype).ulp(w.abs() + budget);
        assert!((g - w).abs() <= budget + rounding, "{what}: {i}: {g} for {w}, {} over", (g - w).abs());
    }
}
