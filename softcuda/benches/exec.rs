//! Speed of the interpreter on one core and two, and of each check: `cargo bench -p softcuda --bench exec`.
//!
//! Throughput is in lane operations (32 for each warp instruction) or floating-point operations. These are times of the
//! simulation on this CPU; they say nothing about a GPU. Bounds of every access are always checked. What runs on one
//! core is measured in its CPU time, which other programs disturb little; two cores by the clock on the wall.

use std::{hint::black_box, time::Duration};

use criterion::{Bencher, Criterion, Throughput, criterion_group, criterion_main};
use softcuda::{
    exec::{Checks, LaunchConfig, Options, Profile, launch},
    memory::Memory,
    module::Module,
};

const BLOCKS: u32 = 8;
const THREADS: u32 = 256;

/// A kernel, its scalar arguments, and what one thread does.
struct Case {
    kernel: &'static str,
    reads_input: bool,
    args: &'static [u32],
    /// Lane operations of a thread: instructions of the PTX loop by its steps.
    work: u64,
}

const CASES: [Case; 4] = [
    Case { kernel: "fma_loop", reads_input: false, args: &[0x3f7f_0000, 0x3a80_0000, 500], work: 500 * 19 },
    Case { kernel: "mixed", reads_input: true, args: &[65536, 500], work: 500 * 15 },
    Case { kernel: "shared_loads", reads_input: false, args: &[200], work: 200 * 50 },
    // FLOPs: 4 mma of 4096 by 32 threads.
    Case { kernel: "mma_loop", reads_input: false, args: &[100], work: 100 * 4 * 4096 / 32 },
];

/// Everything that a launch needs.
struct Bench {
    memory: Memory,
    module: Module,
    input: u64,
    out: u64,
}

impl Bench {
    /// `tracked`: memory remembers what was written, which the check for uninitialised reads needs.
    fn new(tracked: bool) -> Self {
        let mut memory = Memory::new(&[1 << 30], tracked);
        let module =
            Module::load(&mut memory, 0, include_str!("../tests/ptx/speed.ptx"), 80).expect("it loads");
        let values: Vec<u8> =
            (0..65536u32).flat_map(|i| ((i * 7919 % 1000) as f32 / 1000.0).to_le_bytes()).collect();
        let input = memory.alloc(0, values.len() as u64).expect("it fits");
        memory.write(input, &values).expect("it fits");
        let out = memory.alloc(0, 4 * u64::from(BLOCKS * THREADS)).expect("it fits");
        Self { memory, module, input, out }
    }

    fn run(&mut self, case: &Case, options: &Options) {
        let mut params = Vec::new();
        if case.reads_input {
            params.extend(self.input.to_le_bytes());
        }
        params.extend(self.out.to_le_bytes());
        case.args.iter().for_each(|a| params.extend(a.to_le_bytes()));
        let config = LaunchConfig { grid: [BLOCKS, 1, 1], block: [THREADS, 1, 1], dynamic_shared: 0 };
        launch(&mut self.memory, &self.module, case.kernel, config, black_box(&params), options)
            .expect("it runs");
    }
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is valid for the write.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    assert_eq!(status, 0, "Linux has this clock");
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// Times `f`, which runs on this thread alone, in CPU time.
fn on_one_core(b: &mut Bencher<'_>, mut f: impl FnMut()) {
    b.iter_custom(|times| {
        let start = cpu_time();
        (0..times).for_each(|_| f());
        cpu_time() - start
    });
}

fn throughput(case: &Case) -> Throughput {
    Throughput::Elements(case.work * u64::from(BLOCKS * THREADS))
}

/// Each kernel on one core and two.
fn speed(c: &mut Criterion) {
    let mut bench = Bench::new(false);
    let mut group = c.benchmark_group("speed");
    for case in &CASES {
        group.throughput(throughput(case));
        let on = |threads| Options { threads: Some(threads), ..Options::default() };
        group
            .bench_function(format!("{}/1 cpu", case.kernel), |b| on_one_core(b, || bench.run(case, &on(1))));
        for threads in [1, 2] {
            let name = format!("{}/{threads}", case.kernel);
            group.bench_function(name, |b| b.iter(|| bench.run(case, &on(threads))));
        }
    }
    group.finish();
}

/// What watches a launch, one at a time, on one core.
fn checks(c: &mut Criterion) {
    let mut bench = Bench::new(true);
    let mut group = c.benchmark_group("checks");
    let off = Checks::default();
    let watched = [
        ("none", off, Profile::Off),
        ("init", Checks { init: true, ..off }, Profile::Off),
        ("race", Checks { race: true, ..off }, Profile::Off),
        ("sync", Checks { sync: true, ..off }, Profile::Off),
        ("all", Checks { init: true, race: true, sync: true }, Profile::Off),
        ("profile", off, Profile::Kernel),
    ];
    for case in &CASES {
        group.throughput(throughput(case));
        for (name, checks, profile) in watched {
            let options = Options { threads: Some(1), checks, profile, ..Options::default() };
            group.bench_function(format!("{}/{name}", case.kernel), |b| {
                on_one_core(b, || bench.run(case, &options))
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = speed, checks
}
criterion_main!(benches);
