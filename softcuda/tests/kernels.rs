//! Kernels that NVRTC compiled (`ptx/basic.cu`), against plain Rust.

mod gpu;

use gpu::Gpu;
use softcuda::fault::FaultKind;

fn gpu() -> Gpu {
    Gpu::new(include_str!("ptx/basic.ptx"))
}

#[test]
fn saxpy_of_a_ragged_length() {
    let mut gpu = gpu();
    for n in [1usize, 31, 32, 33, 1000] {
        let x: Vec<f32> = (0..n).map(|i| i as f32 * 0.5).collect();
        let y: Vec<f32> = (0..n).map(|i| 3.0 - i as f32).collect();
        let (dx, dy) = (gpu.put(&x), gpu.put(&y));
        gpu.run("saxpy", n.div_ceil(64) as u32, 64, &[2.5f32.to_bits().into(), dx, dy, n as u64]).unwrap();
        let want: Vec<f32> = x.iter().zip(&y).map(|(x, y)| 2.5f32.mul_add(*x, *y)).collect();
        assert_eq!(gpu.get::<f32>(dy, n), want);
    }
}

#[test]
fn block_sums_are_exact_for_small_integers() {
    let mut gpu = gpu();
    let x: Vec<f32> = (0..5000).map(|i| (i % 17) as f32).collect();
    let (dx, out) = (gpu.put(&x), gpu.put(&[0f32; 4]));
    gpu.run("block_sums", 4, 256, &[dx, out, 5000]).unwrap();
    let got = gpu.get::<f32>(out, 4);
    for (block, got) in got.iter().enumerate() {
        let want: f32 = (0..5000).filter(|i| i / 256 % 4 == block).map(|i| x[i]).sum();
        assert_eq!(*got, want, "block {block}");
    }
}

#[test]
fn lanes_leave_a_loop_one_by_one() {
    let mut gpu = gpu();
    let x: Vec<u32> = (1..=100).collect();
    let (dx, out) = (gpu.put(&x), gpu.put(&[0u32; 100]));
    gpu.run("collatz", 2, 64, &[dx, out, 100]).unwrap();
    let steps = |mut v: u32| {
        let mut k = 0;
        while v != 1 {
            v = if v % 2 == 1 { 3 * v + 1 } else { v / 2 };
            k += 1;
        }
        k
    };
    assert_eq!(gpu.get::<u32>(out, 100), x.iter().map(|&v| steps(v)).collect::<Vec<u32>>());
}

#[test]
fn histogram_by_atomics() {
    let mut gpu = gpu();
    let x: Vec<u8> = (0..10_000u32).map(|i| (i * i % 251) as u8).collect();
    let (dx, bins) = (gpu.put(&x), gpu.put(&[0u32; 256]));
    gpu.run("histogram", 3, 128, &[dx, bins, 10_000]).unwrap();
    let mut want = vec![0u32; 256];
    x.iter().for_each(|&b| want[usize::from(b)] += 1);
    assert_eq!(gpu.get::<u32>(bins, 256), want);
}

#[test]
fn calls_local_arrays_and_switches() {
    let mut gpu = gpu();
    let out = gpu.put(&[0f32; 32]);
    let v = [1.5f32, -2.0, 3.25, 0.5, 4.0];
    let mut params: Vec<u8> = v.iter().flat_map(|x| x.to_le_bytes()).collect();
    params.extend(3i32.to_le_bytes());
    params.extend(out.to_le_bytes());
    gpu.run_raw("calls", 1, 32, &params).unwrap();
    let got = gpu.get::<f32>(out, 32);
    for (t, got) in got.into_iter().enumerate() {
        let mut local = [0f32; 8];
        (0..8).for_each(|k| local[(k + t) % 8] = v[(k + t) % 5] * 3.0);
        let s = (0..8).fold(0f32, |s, k| local[k].mul_add((k + 1) as f32, s));
        let want = match t % 7 {
            0 => s + 1.0,
            1 => s * 2.0,
            2 => s - 5.0,
            3 => -s,
            4 => s * s,
            5 => 7.0,
            _ => s,
        };
        assert_eq!(got, want, "thread {t}");
    }
}

#[test]
fn a_tile_through_the_tensor_core() {
    let mut gpu = gpu();
    let half = |x: f32| half::f16::from_f32(x).to_bits();
    let a: Vec<f32> = (0..256).map(|i| ((i * 7) % 23) as f32 - 11.0).collect();
    let b: Vec<f32> = (0..128).map(|i| ((i * 5) % 19) as f32 * 0.25).collect();
    let da = gpu.put(&a.iter().map(|&x| half(x)).collect::<Vec<u16>>());
    let db = gpu.put(&b.iter().map(|&x| half(x)).collect::<Vec<u16>>());
    let dc = gpu.put(&[0f32; 128]);
    gpu.run("tile", 1, 32, &[da, db, dc]).unwrap();
    let got = gpu.get::<f32>(dc, 128);
    for row in 0..16 {
        for col in 0..8 {
            // Quarters of small integers: the sum is exact.
            let want: f32 = (0..16).map(|k| a[row * 16 + k] * b[k * 8 + col]).sum();
            assert_eq!(got[row * 8 + col], want, "row {row} column {col}");
        }
    }
}

#[test]
fn out_of_bounds_names_thread_line_and_allocation() {
    let mut gpu = gpu();
    let (x, y) = (gpu.put(&[1f32; 40]), gpu.put(&[1f32; 64]));
    let fault = gpu.run("saxpy", 2, 32, &[0, x, y, 64]).unwrap_err();
    assert_eq!(fault.kind, FaultKind::IllegalAddress);
    assert_eq!((fault.block, fault.thread), ([1, 0, 0], [8, 0, 0]));
    assert_eq!(fault.addr, Some(x + 160));
    assert_eq!(fault.source, Some(("basic.cu".to_string(), 7)));
    let place = fault.place.unwrap();
    assert_eq!((place.allocation.base, place.offset), (x, 160));
    gpu.memory.free(x).unwrap();
    let fault = gpu.run("saxpy", 1, 32, &[0, x, y, 64]).unwrap_err();
    assert!(fault.place.unwrap().allocation.freed, "{fault}");
    let fault = gpu.run("saxpy", 1, 32, &[0, y + 2, y, 8]).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Misaligned);
}
