//! Counters and scheduling on small kernels (`ptx/watch.cu`): counts are what a count by hand gives. What the checks
//! find is in `broken/`.

mod gpu;

use gpu::Gpu;
use softcuda::{
    count::{Class, Counters},
    exec::{Checks, Profile},
    fault::{Fault, FaultKind},
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

/// A kernel with one block of `threads`, all checks on: what each thread left at `[%d1]`.
fn meet(threads: u32, body: &str) -> Result<Vec<u32>, Box<Fault>> {
    let mut gpu = Gpu::new(&format!(
        ".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out) {{
.reg .pred %p<9>; .reg .b32 %r<40>; .reg .b64 %d<9>;
ld.param.u64 %d1, [out]; mov.u32 %r0, %tid.x; mad.wide.u32 %d1, %r0, 4, %d1;\n{body}\nret;\n}}\n"
    ));
    gpu.options.checks = Checks { init: true, race: true, sync: true };
    gpu.options.max_loops = 1000;
    let out = gpu.put(&vec![0u32; threads as usize]);
    gpu.run("k", 1, threads, &[out])?;
    Ok(gpu.get(out, threads as usize))
}

/// The code of a branch lies behind what all lanes of the warp then do together, as compilers may place it: lanes that
/// come first wait for it.
#[test]
fn a_warp_meets_where_code_of_a_branch_lies_behind() {
    let branch = |together: &str| {
        format!(
            "setp.lt.u32 %p1, %r0, 16; mov.u32 %r1, 5; @%p1 bra BEHIND;
BACK: {together} st.global.u32 [%d1], %r1; ret; BEHIND: add.u32 %r1, %r1, 2; bra.uni BACK;"
        )
    };
    let want: Vec<u32> = (0..64).map(|i| if i < 16 { 7 } else { 5 }).collect();
    for together in ["bar.sync 0;", "bar.sync 1, 64;", "barrier.sync.aligned 0;", "bar.arrive 1, 128;"] {
        let threads = if together.contains("128") { 128 } else { 64 };
        let got = meet(threads, &branch(together)).unwrap();
        assert_eq!(got[..64], want, "{together}");
    }
    // A row of ones by a column of ones.
    let mma = "mov.u32 %r2, 0x3c003c00; mov.u32 %r3, 0; mov.u32 %r4, 0; mov.u32 %r5, 0; mov.u32 %r6, 0;
mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%r3, %r4, %r5, %r6}, {%r2, %r2, %r2, %r2}, {%r2, %r2}, {%r3, %r4, %r5, %r6}; mov.b32 %r1, %r3;";
    assert_eq!(meet(32, &branch(mma)).unwrap(), [16f32.to_bits(); 32]);
    let ldmatrix = ".shared .align 16 .b8 s[512]; mov.u64 %d2, s; mad.wide.u32 %d2, %r0, 16, %d2; mov.u32 %r2, 0x00090009;
st.shared.v4.u32 [%d2], {%r2, %r2, %r2, %r2}; bar.warp.sync -1; ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1, %r2, %r3, %r4}, [%d2];";
    assert_eq!(meet(32, &branch(ldmatrix)).unwrap(), [0x0009_0009; 32]);
    // Lanes that do something else and are gone are not among those who meet.
    for together in ["bar.sync 0;", mma] {
        let body = format!(
            "setp.lt.u32 %p1, %r0, 16; @%p1 bra BEHIND; {together} ret; BEHIND: st.global.u32 [%d1], %r0; ret;"
        );
        let fault = meet(32, &body).unwrap_err();
        assert!(fault.kind == FaultKind::Sync && fault.thread == [16, 0, 0], "{fault}");
        assert!(fault.message.contains("lane 0 of its warp, which has exited"), "{fault}");
    }
}

/// A `return` before a barrier is a branch to the end of the kernel, behind the barrier.
#[test]
fn lanes_that_return_are_not_waited_for() {
    for barrier in ["bar.sync 0;", "bar.sync 1, 64;", "barrier.sync 0;", "bar.red.popc.u32 %r2, 0, %p2;"] {
        let body = format!(
            "setp.ge.u32 %p1, %r0, 40; setp.ge.u32 %p2, %r0, 0; @%p1 bra END;
{barrier} add.u32 %r1, %r0, 1; st.global.u32 [%d1], %r1; END: ret;"
        );
        let want: Vec<u32> = (0..64).map(|i| if i < 40 { i + 1 } else { 0 }).collect();
        assert_eq!(meet(64, &body).unwrap(), want, "{barrier}");
    }
}

/// Lanes of one mask meet at instructions with the same qualifiers, wherever these stand and whatever their registers.
#[test]
fn lanes_of_a_mask_meet_at_two_instructions() {
    let halves = |low: &str, high: &str| {
        format!("setp.lt.u32 %p1, %r0, 16; setp.lt.u32 %p2, %r0, 20; setp.lt.u32 %p3, %r0, 24; add.u32 %r2, %r0, 100; @%p1 bra LOW;
{high} bra.uni END; LOW: {low} END: st.global.u32 [%d1], %r1;")
    };
    let each = |f: fn(u32) -> u32| (0..32).map(f).collect::<Vec<u32>>();
    let other = |i: u32| if i < 16 { i ^ 16 } else { (i ^ 16) + 100 };
    let cases: [(&str, &str, Vec<u32>); 5] = [
        (
            "shfl.sync.bfly.b32 %r1, %r2, 16, 31, -1;",
            "shfl.sync.bfly.b32 %r5, %r0, 16, 31, -1; mov.u32 %r1, %r5;",
            each(other),
        ),
        ("vote.sync.ballot.b32 %r1, %p2, -1;", "vote.sync.ballot.b32 %r1, %p3, -1;", vec![0x00ff_ffff; 32]),
        (
            "redux.sync.add.u32 %r1, %r2, -1;",
            "redux.sync.add.u32 %r3, %r0, -1; mov.u32 %r1, %r3;",
            vec![16 * 31 + 1600; 32],
        ),
        (
            "match.any.sync.b32 %r1, 7, -1;",
            "mov.u32 %r4, 7; match.any.sync.b32 %r1, %r4, -1;",
            vec![u32::MAX; 32],
        ),
        ("mov.u32 %r1, 3; bar.warp.sync -1;", "mov.u32 %r1, 3; bar.warp.sync -1;", vec![3; 32]),
    ];
    for (low, high, want) in cases {
        assert_eq!(meet(32, &halves(low, high)).unwrap(), want, "{low} {high}");
    }
    for (low, high) in [
        ("shfl.sync.bfly.b32 %r1, %r2, 16, 31, -1;", "shfl.sync.idx.b32 %r1, %r2, 16, 31, -1;"),
        ("redux.sync.add.u32 %r1, %r2, -1;", "redux.sync.max.u32 %r1, %r2, -1;"),
        ("vote.sync.any.pred %p4, %p2, -1;", "bar.warp.sync -1;"),
    ] {
        let fault = meet(32, &halves(low, high)).unwrap_err();
        assert!(fault.kind == FaultKind::Sync && fault.message.contains("different operations"), "{fault}");
    }
}

#[test]
fn a_barrier_is_with_a_reduction_or_without() {
    let body = |second: &str| {
        format!(
            "setp.lt.u32 %p1, %r0, 32; mov.u32 %r1, 32; @%p1 bra FIRST; {second} bra END;
FIRST: bar.red.popc.u32 %r1, 1, 64, %p1; END: st.global.u32 [%d1], %r1;"
        )
    };
    assert_eq!(meet(64, &body("bar.red.popc.u32 %r1, 1, 64, %p1;")).unwrap(), [32; 64]);
    let fault = meet(64, &body("bar.sync 1, 64;")).unwrap_err();
    assert!(fault.kind == FaultKind::Sync && fault.message.contains("reduction"), "{fault}");
}
