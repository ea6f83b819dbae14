//! Every kernel of the registry, side by side, by operation and shape.
//!
//! `cargo bench --bench kernels` takes the shapes of Qwen3-0.6B at a few batches and contexts. `SHAPES=all` adds
//! Qwen3-8B, Llama-3-8B, and contexts to 8k; `SHAPES=small` only shows that everything runs. `DEVICE=cuda` measures a
//! GPU, by events on its stream; `THREADS=1` limits the CPU; criterion's filters choose: `cargo bench --bench kernels --
//! attention/decode`.
//!
//! Throughput is in the bytes that the operation must at least move, or, for prefill and large products, in its
//! floating-point operations ("elements"). Inputs rotate over copies that together exceed the last cache. A kernel that
//! needs more than 0.5 s for one call is left out, and this is said. What the device can at most do is printed first; on
//! the CPU, `gemm crate` is another library's matrix product, beside `linear` in f32 at the same shapes.
//!
//! Compare within a run only. On softcuda it is a rehearsal: nothing that it prints is a GPU's time.

use std::time::Duration;

use criterion::{Criterion, Throughput};
use gemm::Parallelism;
use lathe::{
    Result,
    config::EngineConfig,
    device::{Cpu, Device, Tensor},
    kernels::{self, LinearArgs, Op, Queue, Registry, Table},
    lab::timing::{self, Per, Shapes, Visit, WithArgs, each_shape},
    open::{self, OnDevice},
};

/// One criterion run on one device.
struct Bench<'a, D: Device> {
    criterion: &'a mut Criterion,
    queue: Queue<D>,
    /// Criterion's filter, if it begins with an operation.
    filter: Option<String>,
}

impl<D: Device> Bench<'_, D> {
    /// Whether the filter, which is a regular expression or the beginning of a name, can match one of this group.
    fn matches(&self, group: &str) -> bool {
        let fits = |f: &str| {
            f.contains(|c| r"\^$|?*+()[]{}".contains(c)) || f.starts_with(group) || group.starts_with(f)
        };
        self.filter.as_deref().is_none_or(fits)
    }
}

impl<D: Device> Visit<D> for Bench<'_, D> {
    fn wants(&self, op: &str) -> bool {
        self.filter.as_deref().is_none_or(|f| f.split('/').next() == Some(op))
    }

    fn shape<O: Op>(
        &mut self,
        shape: &str,
        per: Per,
        table: &Table<O, D>,
        with_args: &mut WithArgs<'_, O, D>,
    ) -> Result<()> {
        let name = format!("{}/{shape}", O::NAME);
        // Even one call of an oracle can take long.
        if !self.matches(&name) {
            return Ok(());
        }
        let (bytes, flops) = timing::count(with_args)?;
        let mut group = self.criterion.benchmark_group(&name);
        group.throughput(match per {
            Per::Bytes => Throughput::Bytes(bytes),
            Per::Flops => Throughput::Elements(flops),
        });
        for kernel in table {
            match timing::rehearse(&mut self.queue, kernel, with_args) {
                Err(why) => eprintln!("{name}/{}: left out: {why}", kernel.name()),
                Ok(_) => {
                    group.bench_function(kernel.name(), |b| {
                        b.iter_custom(|calls| {
                            let took = timing::time(&mut self.queue, kernel, calls as usize, with_args);
                            took.expect("it ran before")
                        });
                    });
                }
            }
        }
        group.finish();
        Ok(())
    }
}

struct All<'a>(&'a mut Criterion);

impl OnDevice for All<'_> {
    type Out = ();

    fn run<D: Device>(self, dev: &D, registry: &Registry<D>) -> Result<()> {
        let shapes = match std::env::var("SHAPES").as_deref() {
            Ok("small") => Shapes::Small,
            Ok("all") => Shapes::All,
            _ => Shapes::Usual,
        };
        eprintln!("{}", dev.describe());
        match dev.peaks()? {
            _ if !dev.is_timed() => eprintln!("a rehearsal: times of this device mean nothing"),
            Some(peaks) => {
                let (bandwidth, flops) = (peaks.bandwidth / 1e9, peaks.flops / 1e9);
                eprintln!("at most {bandwidth:.1} GB/s and {flops:.0} GFLOP/s ({})", peaks.source);
            }
            None => eprintln!("what it can at most do is not known"),
        }
        // The first argument that is no option, as criterion takes it; a name that is no operation may be anything.
        let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
        let known: Vec<&str> =
            registry.rows(&registry.select(&Default::default(), false)?).iter().map(|r| r.op).collect();
        let filter = filter.filter(|f| f.split('/').next().is_some_and(|op| known.contains(&op)));
        let queue = Queue::new(dev)?;
        each_shape(dev, registry, shapes, &mut Bench { criterion: self.0, queue, filter })
    }
}

/// `linear` in f32, and the same product by the `gemm` crate: an anchor from outside. The crate has no bf16.
fn anchors(criterion: &mut Criterion, cpu: &Cpu) {
    let kernel = Registry::cpu().linear.remove(0);
    let mut queue = Queue::new(cpu).expect("a queue");
    for (n, k) in [(1536, 576), (3072, 1024), (1024, 3072)] {
        for m in [8, 64, 512] {
            let mut group = criterion.benchmark_group(format!("gemm crate/{n}x{k}/{m} rows, f32"));
            group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
            let tensor = |shape: &[usize]| {
                Tensor::from_slice(cpu, &vec![0.01f32; shape.iter().product()], shape).expect("memory")
            };
            let (x, w, mut out) = (tensor(&[m, k]), tensor(&[n, k]), tensor(&[m, n]));
            group.bench_function(kernel.name(), |b| {
                b.iter(|| {
                    let args = LinearArgs { x: x.view(), weight: w.view(), bias: None, out: out.view_mut() };
                    kernels::run(&*kernel, &mut queue, args).expect("runs");
                });
            });
            let threads = cpu.pool().threads();
            let parallelism = if threads == 1 { Parallelism::None } else { Parallelism::Rayon(threads) };
            let (x, w, mut out) = (x.view(), w.view(), vec![0.0f32; m * n]);
            group.bench_function("gemm", |b| {
                b.iter(|| {
                    let (out, x, w) =
                        (out.as_mut_ptr(), x.slice::<f32>().as_ptr(), w.slice::<f32>().as_ptr());
                    let (n_, k_) = (n as isize, k as isize);
                    // SAFETY: out [m, n], x [m, k] and w [n, k], row-major, lie apart; w is passed transposed.
                    unsafe {
                        gemm::gemm(
                            m,
                            n,
                            k,
                            out,
                            1,
                            n_,
                            false,
                            x,
                            1,
                            k_,
                            w,
                            k_,
                            1,
                            0.0,
                            1.0,
                            false,
                            false,
                            false,
                            parallelism,
                        );
                    }
                });
            });
            group.finish();
        }
    }
}

fn main() {
    let var = |name: &str| std::env::var(name).ok();
    let threads = var("THREADS").map(|t| t.parse().expect("THREADS is a number"));
    let device = var("DEVICE").unwrap_or_else(|| "cpu".into());
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .configure_from_args();
    let config = EngineConfig { device, threads, ..EngineConfig::default() };
    if let Err(error) = open::on_device(&config, All(&mut criterion)) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
    if config.device == "cpu" {
        anchors(&mut criterion, &Cpu::new(threads));
    }
    criterion.final_summary();
}
