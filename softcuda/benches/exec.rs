//! Speed of the interpreter on one core and two: `cargo bench -p softcuda`.
//!
//! Throughput is in lane operations (32 for each warp instruction) or floating-point operations. These are times of the
//! simulation on this CPU; they say nothing about a GPU.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use softcuda::{
    exec::{LaunchConfig, Options, launch},
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

fn exec(c: &mut Criterion) {
    let mut memory = Memory::new(&[1 << 30], false);
    let module = Module::load(&mut memory, 0, include_str!("../tests/ptx/speed.ptx"), 80).expect("it loads");
    let input: Vec<u8> =
        (0..65536u32).flat_map(|i| ((i * 7919 % 1000) as f32 / 1000.0).to_le_bytes()).collect();
    let x = memory.alloc(0, input.len() as u64).expect("it fits");
    memory.write(x, &input).expect("it fits");
    let out = memory.alloc(0, 4 * u64::from(BLOCKS * THREADS)).expect("it fits");
    let mut group = c.benchmark_group("exec");
    group.sample_size(10);
    for case in CASES {
        let mut params = Vec::new();
        if case.reads_input {
            params.extend(x.to_le_bytes());
        }
        params.extend(out.to_le_bytes());
        case.args.iter().for_each(|a| params.extend(a.to_le_bytes()));
        group.throughput(Throughput::Elements(case.work * u64::from(BLOCKS * THREADS)));
        for threads in [1, 2] {
            let options = Options { threads: Some(threads), ..Options::default() };
            let config = LaunchConfig { grid: [BLOCKS, 1, 1], block: [THREADS, 1, 1], dynamic_shared: 0 };
            group.bench_function(format!("{}/{threads}", case.kernel), |b| {
                b.iter(|| {
                    let report =
                        launch(&mut memory, &module, case.kernel, config, black_box(&params), &options);
                    report.expect("it runs")
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, exec);
criterion_main!(benches);
