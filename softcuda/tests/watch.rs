//! Counters and scheduling on small kernels (`ptx/watch.cu`): counts are what a count by hand gives. What the checks
//! find is in `broken/`.

mod gpu;

use gpu::Gpu;
use softcuda::{
    count::{Class, Counters},
    exec::{Checks, Profile},
    fault::FaultKind,
};

fn gpu() -> Gpu {
    let mut gpu = Gpu::new(include_str!("ptx/watch.ptx"));
    gpu.options.checks = Checks { init: true, race: true, sync: true };
    gpu
}

#[test]
fn asynchronous_copies_before_their_wait() {
    let mut gpu = gpu();
    let (x, y) = (gpu.put(&[3f32; 32]), gpu.put(&[0f32; 32]));
    gpu.run("async_copy", 1, 32, &[x, y, 1]).unwrap();
    assert_eq!(gpu.get::<f32>(y, 32), [3.0; 32]);
    // With the check off the data is simply not there.
    gpu.options.checks = Checks::default();
    gpu.run("async_copy", 1, 32, &[x, y, 0]).unwrap();
    assert!(gpu.get::<f32>(y, 32).iter().all(|x| x.is_nan()));
}

#[test]
fn members_of_a_mask_that_never_come() {
    let mut gpu = gpu();
    let x = gpu.put(&[0i32; 32]);
    gpu.run("shuffle_half", 1, 32, &[x, 0xffff]).unwrap();
    assert_eq!(gpu.get::<i32>(x, 16), (0..16).map(|i| i ^ 1).collect::<Vec<_>>());
    let fault = gpu.run("shuffle_half", 1, 32, &[x, 0xffff_ffff]).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Sync);
    assert!(fault.message.contains("lane 16"), "{fault}");
}

#[test]
fn a_lock_within_a_warp_makes_progress() {
    let mut gpu = gpu();
    let (lock, value) = (gpu.put(&[0u32]), gpu.put(&[0u32]));
    gpu.options.checks = Checks::default();
    gpu.run("spin_lock", 2, 64, &[lock, value]).unwrap();
    assert_eq!(gpu.get::<u32>(value, 1), [2 * 63 * 32]);
    gpu.options.max_loops = 1000;
    gpu.memory.write(lock, &1u32.to_le_bytes()).unwrap();
    let fault = gpu.run("spin_lock", 1, 32, &[lock, value]).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Timeout);
}

fn counters(gpu: &mut Gpu, kernel: &str, grid: u32, block: u32, args: &[u64]) -> Counters {
    gpu.options.checks = Checks::default();
    gpu.options.profile = Profile::Lines;
    gpu.run(kernel, grid, block, args).unwrap().counters.unwrap()
}

#[test]
fn sectors_and_bytes() {
    let mut gpu = gpu();
    let (x, y) = (gpu.put(&vec![1f32; 4096]), gpu.put(&vec![0f32; 256]));
    let c = counters(&mut gpu, "copy", 2, 128, &[x, y]);
    assert_eq!((c.total.global_load_bytes, c.total.global_load_sectors), (1024, 32));
    assert_eq!((c.total.global_store_bytes, c.total.global_store_sectors), (1024, 32));
    assert_eq!(
        (c.total.global_load_requests, c.distinct_read_bytes, c.distinct_written_bytes),
        (8, 1024, 1024)
    );
    assert_eq!((c.dram_read_bytes, c.dram_write_bytes, c.l2_sectors), (1024, 1024, 64));
    assert_eq!(c.total.active_lanes(), 32.0);
    // A stride of 4 words touches a sector for every two lanes.
    let c = counters(&mut gpu, "copy_strided", 2, 128, &[x, y, 4]);
    assert_eq!((c.total.global_load_bytes, c.total.global_load_sectors), (1024, 128));
    assert_eq!((c.distinct_read_bytes, c.dram_read_bytes), (1024, 4096));
    assert_eq!((c.total.global_load_distinct_bytes, c.total.global_store_distinct_bytes), (1024, 1024));
    // All lanes the same word: one sector a warp, 4 distinct bytes.
    let c = counters(&mut gpu, "copy_strided", 2, 128, &[x, y, 0]);
    assert_eq!((c.total.global_load_sectors, c.distinct_read_bytes), (8, 4));
    assert_eq!((c.total.global_load_bytes, c.total.global_load_distinct_bytes), (1024, 8 * 4));
    let line = c.lines.iter().find(|l| l.counts.global_load_bytes > 0).unwrap();
    assert_eq!((line.file.as_str(), line.line, line.counts.global_load_bytes), ("watch.cu", 10, 1024));
    let by_line: u64 = c.lines.iter().map(|l| l.counts.instructions).sum();
    assert_eq!(by_line, c.total.instructions);
}

#[test]
fn bank_conflicts_and_divergence() {
    let mut gpu = gpu();
    let y = gpu.put(&[0f32; 32]);
    // 32 stores without conflicts, and one load with as many passes as lanes share a bank.
    for (stride, passes) in [(1, 1), (2, 2), (8, 8), (31, 1), (32, 32), (0, 1)] {
        let c = counters(&mut gpu, "banks", 1, 32, &[y, stride]);
        assert_eq!(c.total.shared_wavefronts, 32 + passes, "stride {stride}");
        assert_eq!(c.total.shared_wavefronts_ideal, 33, "stride {stride}");
    }
    let c = counters(&mut gpu, "half_active", 1, 32, &[y]);
    assert_eq!((c.total.global_load_bytes, c.total.flops), (64, 16));
    assert!(c.total.active_lanes() < 32.0);
}

#[test]
fn tensor_flops_and_classes() {
    let mut gpu = Gpu::new(include_str!("ptx/speed.ptx"));
    let out = gpu.memory.alloc(0, 4 * 64).unwrap();
    let c = counters(&mut gpu, "mma_loop", 1, 64, &[out, 10]);
    assert_eq!(c.total.tensor_flops, 2 * 10 * 4 * 4096);
    assert_eq!(c.instructions_by_class[&Class::Tensor], 80);
    let json = serde_json::to_value(&c).unwrap();
    assert_eq!(json["smsp__inst_executed.sum"], c.total.instructions);
    assert_eq!(json["instructions_by_class"]["tensor"], 80);
}
