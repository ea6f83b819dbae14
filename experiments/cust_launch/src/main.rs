//! What a kernel launch costs the host through cust and through cudarc: the same PTX, device, context and arguments.
//!
//! A round is `LAUNCHES` launches in a row without waiting; then the stream is drained, which is not timed. The ways take
//! turns, so that whatever slows the machine down slows all of them, and the median of the rounds counts.

use std::{error::Error, sync::Arc, time::Instant};

use cudarc::{
    driver::{CudaContext, CudaFunction, CudaSlice, CudaStream, LaunchConfig, PushKernelArg, sys},
    nvrtc::Ptx,
};
use cust::{launch, prelude as c};

const PTX: &str = include_str!("kernels.ptx");
const LAUNCHES: u32 = 2_000;
const ROUNDS: usize = 15;
/// Words that `add` adds to, a thread each.
const N: u32 = 32;

/// The way whose buffers carry events.
const TRACKED: usize = 5;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Both libraries in the primary context of device 0, each with a stream, a buffer and the two kernels of its own.
struct Cust {
    stream: c::Stream,
    add: c::Module,
    x: c::DeviceBuffer<u32>,
}

struct Cudarc {
    stream: Arc<CudaStream>,
    add: CudaFunction,
    nothing: CudaFunction,
    x: CudaSlice<u32>,
}

const ONE_BLOCK: LaunchConfig =
    LaunchConfig { grid_dim: (1, 1, 1), block_dim: (N, 1, 1), shared_mem_bytes: 0 };

impl Cust {
    fn new() -> Outcome<Self> {
        Ok(Self {
            stream: c::Stream::new(c::StreamFlags::NON_BLOCKING, None)?,
            add: c::Module::from_ptx(PTX, &[])?,
            x: c::DeviceBuffer::from_slice(&[0; N as usize])?,
        })
    }

    fn add(&mut self, times: u32) -> Outcome<()> {
        let (stream, add) = (&self.stream, self.add.get_function("add")?);
        for _ in 0..times {
            // SAFETY: the arguments are those of `add`, which stays within N words.
            unsafe { launch!(add<<<1, N, 0, stream>>>(self.x.as_device_ptr(), N, 1u32)) }?;
        }
        Ok(())
    }

    fn nothing(&mut self, times: u32) -> Outcome<()> {
        let (stream, nothing) = (&self.stream, self.add.get_function("nothing")?);
        for _ in 0..times {
            // SAFETY: the kernel has no parameters and does nothing.
            unsafe { launch!(nothing<<<1, N, 0, stream>>>()) }?;
        }
        Ok(())
    }
}

impl Cudarc {
    fn new(context: &Arc<CudaContext>) -> Outcome<Self> {
        let (module, stream) = (context.load_module(Ptx::from_src(PTX))?, context.new_stream()?);
        let (add, nothing) = (module.load_function("add")?, module.load_function("nothing")?);
        let x = stream.alloc_zeros(N as usize)?;
        Ok(Self { stream, add, nothing, x })
    }

    fn add(&mut self, times: u32) -> Outcome<()> {
        for _ in 0..times {
            let mut builder = self.stream.launch_builder(&self.add);
            // SAFETY: the arguments are those of `add`, which stays within N words.
            unsafe { builder.arg(&mut self.x).arg(&N).arg(&1u32).launch(ONE_BLOCK) }?;
        }
        Ok(())
    }

    fn nothing(&mut self, times: u32) -> Outcome<()> {
        for _ in 0..times {
            // SAFETY: the kernel has no parameters and does nothing.
            unsafe { self.stream.launch_builder(&self.nothing).launch(ONE_BLOCK) }?;
        }
        Ok(())
    }

    /// The driver's own function: what neither library can be faster than.
    fn driver(&mut self, times: u32) -> Outcome<()> {
        let (f, stream) = (self.nothing.cu_function(), self.stream.cu_stream());
        let none = std::ptr::null_mut();
        for _ in 0..times {
            // SAFETY: the kernel has no parameters; its handle and the stream's live.
            unsafe { sys::cuLaunchKernel(f, 1, 1, 1, N, 1, 1, 0, stream, none, none) }.result()?;
        }
        Ok(())
    }
}

fn main() -> Outcome<()> {
    cust::init(c::CudaFlags::empty())?;
    let _cust = c::Context::new(c::Device::get_device(0)?)?;
    let context = CudaContext::new(0)?;
    let (mut cust, mut tracked) = (Cust::new()?, Cudarc::new(&context)?);
    // A buffer has events if it is made while tracking is on; the engine, like `plain`, does without.
    // SAFETY: each buffer is used in one stream alone.
    unsafe { context.disable_event_tracking() };
    let mut plain = Cudarc::new(&context)?;

    let names = ["cuLaunchKernel", "cust, no arguments", "cudarc, no arguments", "cust, 3 arguments"];
    let names = [&names[..], &["cudarc, 3 arguments", "cudarc, 3 arguments, event tracking"]].concat();
    let mut rounds: Vec<Vec<f64>> = vec![Vec::new(); names.len()];
    for round in 0..=ROUNDS {
        for (way, times) in rounds.iter_mut().enumerate() {
            if way == TRACKED {
                // SAFETY: as above, here and below.
                unsafe { context.enable_event_tracking() };
            }
            let start = Instant::now();
            match way {
                0 => plain.driver(LAUNCHES)?,
                1 => cust.nothing(LAUNCHES)?,
                2 => plain.nothing(LAUNCHES)?,
                3 => cust.add(LAUNCHES)?,
                4 => plain.add(LAUNCHES)?,
                TRACKED => tracked.add(LAUNCHES)?,
                _ => unreachable!("six ways"),
            }
            let time = start.elapsed().as_secs_f64();
            // SAFETY: as above.
            unsafe { context.disable_event_tracking() };
            context.synchronize()?;
            // The first round warms up.
            if round > 0 {
                times.push(time / f64::from(LAUNCHES) * 1e9);
            }
        }
    }
    let added = (ROUNDS as u32 + 1) * LAUNCHES;
    let mut host = [0; N as usize];
    c::CopyDestination::copy_to(&*cust.x, &mut host)?;
    let others = [plain.stream.clone_dtoh(&plain.x)?, tracked.stream.clone_dtoh(&tracked.x)?];
    for sums in [&host[..], &others[0], &others[1]] {
        assert_eq!(sums, [added; N as usize], "every launch added 1 to each word");
    }

    println!("{}: {ROUNDS} rounds of {LAUNCHES} launches, host time a launch (median)", context.name()?);
    let medians: Vec<f64> = rounds.iter_mut().map(|times| median(times)).collect();
    for (name, ns) in names.iter().zip(&medians) {
        println!("{name:36} {ns:7.0} ns");
    }
    println!("cust / cudarc, no arguments          {:7.2}", medians[1] / medians[2]);
    println!("cust / cudarc, 3 arguments           {:7.2}", medians[3] / medians[4]);
    println!("event tracking / without             {:7.2}", medians[5] / medians[4]);
    if context.name()?.starts_with("softcuda") {
        println!("modelled: softcuda's launch only fills a queue; a driver's cost is another");
    }
    Ok(())
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
