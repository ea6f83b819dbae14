//! What a fusion saves: the residual addition and RMSNorm in one kernel, against an addition and then RMSNorm.

use std::time::Instant;

use half::bf16;
use lathe::{
    device::{Cpu, DType, Tensor},
    kernels::{self, AddRmsNorm, AddRmsNormArgs, Op, Queue, Registry, RmsNorm, RmsNormArgs},
};

/// Of Qwen3-0.6B.
const DIM: usize = 1024;

/// `residual += x`, rounded to bf16 as the fused kernel does. Returns the bytes that it moves.
fn add(x: &[bf16], residual: &mut [bf16]) -> u64 {
    for (r, x) in residual.iter_mut().zip(x) {
        *r = bf16::from_f32(r.to_f32() + x.to_f32());
    }
    3 * size_of_val(x) as u64
}

fn main() -> anyhow::Result<()> {
    // One thread for both: the addition here has no more.
    let dev = Cpu::new(Some(1));
    let (mut queue, registry) = (Queue::new(&dev)?, Registry::cpu());
    for rows in [64, 1024, 16_384] {
        let values: Vec<bf16> =
            (0..rows * DIM).map(|i| bf16::from_f32(((i * 37 % 101) as f32 - 50.0) / 40.0)).collect();
        let (x, weight) = (
            Tensor::from_slice(&dev, &values, &[rows, DIM])?,
            Tensor::from_slice(&dev, &values[..DIM], &[DIM])?,
        );
        let mut out = Tensor::zeros(&dev, DType::Bf16, &[rows, DIM])?;
        let (mut best, mut bytes) = ([f64::INFINITY; 2], [0; 2]);
        let mut results: [Vec<bf16>; 2] = Default::default();
        for round in 0..20 {
            let mut residual = Tensor::from_slice(&dev, &values, &[rows, DIM])?;
            let (eps, offset, fused) = (1e-6, 0.0, round % 2);
            let start = Instant::now();
            if fused == 1 {
                let (x, weight, residual) = (x.view(), weight.view(), residual.view_mut());
                let args = AddRmsNormArgs { x, residual, weight, eps, offset, out: out.view_mut() };
                bytes[1] = AddRmsNorm::bytes(&args);
                kernels::run(&*registry.add_rms_norm[0], &mut queue, args)?;
            } else {
                bytes[0] = add(x.view().slice(), residual.view_mut().slice_mut());
                let (x, weight) = (residual.view(), weight.view());
                let args = RmsNormArgs { x, weight, eps, offset, out: out.view_mut() };
                bytes[0] += RmsNorm::bytes(&args);
                kernels::run(&*registry.rms_norm[0], &mut queue, args)?;
            }
            best[fused] = best[fused].min(start.elapsed().as_secs_f64());
            results[fused] = out.to_vec(&dev)?;
        }
        anyhow::ensure!(results[0] == results[1], "the two give different bits");
        let ([apart, fused], [apart_s, fused_s]) = (bytes.map(|b| b as f64 / 1e6), best);
        println!(
            "{rows:5} rows: apart {apart:6.2} MB, {:8.1} µs; fused {fused:6.2} MB, {:8.1} µs: {:.0}% of the bytes, {:.0}% of the time",
            apart_s * 1e6,
            fused_s * 1e6,
            fused / apart * 100.0,
            fused_s / apart_s * 100.0
        );
    }
    Ok(())
}
