//! What a launch costs on a GPU: `cargo bench --bench launch`, with an empty kernel of one block.
//!
//! For launches one by one, the time until the host has enqueued all, and until the device is idle; for a CUDA graph of
//! as many nodes, the time until the device is idle. Each as a mean over the launches, the median of [`ROUNDS`]; for
//! kernels that wait for the one before as usual, and for kernels launched early.

use std::time::Instant;

use lathe::Result;
use lathe::device::cuda::{Launch, Program};
use lathe::device::{Cuda, Device};

const LAUNCHES: usize = 1000;
const ROUNDS: usize = 21;

/// The median of [`ROUNDS`] results, in microseconds a launch.
fn median(mut round: impl FnMut() -> Result<f64>) -> Result<f64> {
    let mut times = (0..ROUNDS).map(|_| round()).collect::<Result<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[ROUNDS / 2] * 1e6 / LAUNCHES as f64)
}

fn main() -> Result<()> {
    let dev = Cuda::open(0, false)?;
    dev.compiler().sources.add(
        "empty.cu",
        "#include \"common.cuh\"\nextern \"C\" __global__ void empty() { wait_for_previous(); }\n",
    );
    let program = Program::new("empty.cu");
    let launch = Launch { program, function: "empty", grid: [1, 1, 1], block: 32, shared: 0 };
    println!("{}; {LAUNCHES} launches, median of {ROUNDS}; microseconds a launch", dev.describe());
    for early in [false, true] {
        let launch_all = || {
            (0..LAUNCHES).try_for_each(|_| {
                // SAFETY: the kernel has no parameters, touches no memory, and begins with `wait_for_previous`.
                unsafe { if early { dev.launch_early(&launch, &[]) } else { dev.launch(&launch, &[]) } }
            })
        };
        let timed = |wait: bool, work: &dyn Fn() -> Result<()>| {
            let start = Instant::now();
            work()?;
            let enqueued = start.elapsed();
            dev.synchronize()?;
            Ok(if wait { start.elapsed() } else { enqueued }.as_secs_f64())
        };
        timed(true, &launch_all)?; // compiles
        let graph = dev.record(&mut || launch_all())?;
        let replay = || dev.replay(&graph);
        timed(true, &replay)?;
        println!(
            "{}: enqueued {:.2}, run {:.2}; in a graph {:.2}",
            if early { "early" } else { "plain" },
            median(|| timed(false, &launch_all))?,
            median(|| timed(true, &launch_all))?,
            median(|| timed(true, &replay))?,
        );
    }
    Ok(())
}
