//! How long a kernel takes: every kernel of an operation side by side at the shapes of real models.
//!
//! The kernels take turns, so that a machine that gets slower does so for all of them. A device in software is not
//! timed.

mod shapes;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use shapes::{MODELS, Model, Per, Shapes, Visit, WithArgs, each_shape};

use super::{
    cases::Cases,
    loaded::{Loaded, bind},
    simulate::metrics::mean_ci,
};
use crate::{
    device::Device,
    error::Result,
    kernels::{self, Op, Queue, Slot, Table},
};

/// The longest that one call may take.
pub const PATIENCE: Duration = Duration::from_millis(500);
/// Samples of a kernel.
const SAMPLES: usize = 12;
/// What a sample takes at least, unless one call takes longer.
const SAMPLE: Duration = Duration::from_millis(10);

/// A kernel's time at a shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timed {
    /// The operation.
    pub op: String,
    /// Model, and extents.
    pub shape: String,
    /// The kernel.
    pub kernel: String,
    /// What throughput counts.
    pub per: Per,
    /// Bytes that any kernel must move.
    pub bytes: u64,
    /// Floating-point operations of the definition.
    pub flops: u64,
    /// Mean seconds of a call.
    pub seconds: f64,
    /// Half of the mean's 95% confidence interval (Student's t over the samples).
    pub half: f64,
}

/// Bytes and floating-point operations of the shape that `with_args` has.
///
/// # Errors
/// What `with_args` reports.
pub fn count<O: Op, D: Device>(with_args: &mut WithArgs<'_, O, D>) -> Result<(u64, u64)> {
    let mut counts = (0, 0);
    with_args(0, &mut |args| {
        counts = (O::bytes(&args), O::flops(&args));
        Ok(())
    })?;
    Ok(counts)
}

/// How long `calls` calls take together, each on other inputs.
///
/// # Errors
/// What the kernel reports.
pub fn time<O: Op, D: Device>(
    queue: &mut Queue<D>,
    kernel: &Slot<O, D>,
    calls: usize,
    with_args: &mut WithArgs<'_, O, D>,
) -> Result<Duration> {
    let dev = queue.dev().clone();
    dev.time(&mut || {
        (0..calls).try_for_each(|i| with_args(i, &mut |args| kernels::run(&**kernel, queue, args)))
    })
}

/// The time of one call after a first one, which compiles and reserves; or why there is none: the kernel refuses the
/// shape, fails, or takes longer than [`PATIENCE`].
pub fn rehearse<O: Op, D: Device>(
    queue: &mut Queue<D>,
    kernel: &Slot<O, D>,
    with_args: &mut WithArgs<'_, O, D>,
) -> std::result::Result<Duration, String> {
    let first = time(queue, kernel, 1, with_args).map_err(|error| error.to_string())?;
    // A slow call need not be repeated to know that it is slow.
    let once = if first > 4 * PATIENCE { Ok(first) } else { time(queue, kernel, 1, with_args) };
    match once.map_err(|error| error.to_string())? {
        once if once > PATIENCE => Err(format!("one call takes {once:.1?}")),
        once => Ok(once),
    }
}

/// Times the kernels of `table` that `wants` names, in turns. `left_out` hears which are not timed, and why.
///
/// # Errors
/// What a kernel reports after it ran once.
pub fn side_by_side<O: Op, D: Device>(
    queue: &mut Queue<D>,
    shape: &str,
    per: Per,
    table: &Table<O, D>,
    wants: impl Fn(&str) -> bool,
    with_args: &mut WithArgs<'_, O, D>,
    mut left_out: impl FnMut(&str, String),
) -> Result<Vec<Timed>> {
    let (bytes, flops) = count(with_args)?;
    let mut timed: Vec<(&Slot<O, D>, usize, Vec<f64>)> = Vec::new();
    for kernel in table.iter().filter(|k| wants(k.name())) {
        match rehearse(queue, kernel, with_args) {
            Ok(once) => {
                let calls = (SAMPLE.as_secs_f64() / once.as_secs_f64().max(1e-9)).clamp(1.0, 1e5) as usize;
                timed.push((kernel, calls, Vec::with_capacity(SAMPLES)));
            }
            Err(why) => left_out(kernel.name(), why),
        }
    }
    for _ in 0..SAMPLES {
        for (kernel, calls, samples) in &mut timed {
            let took = time(queue, kernel, *calls, with_args)?;
            samples.push(took.as_secs_f64() / *calls as f64);
        }
    }
    let of = |(kernel, _, samples): (&Slot<O, D>, usize, Vec<f64>)| {
        let (seconds, half) = mean_ci(&samples);
        let (op, kernel, shape) = (O::NAME.into(), kernel.name().into(), shape.into());
        Timed { op, shape, kernel, per, bytes, flops, seconds, half: half.unwrap_or_default() }
    };
    Ok(timed.into_iter().map(of).collect())
}

/// Mean seconds of a kernel on one case of the check, on the same tensors again and again.
///
/// # Errors
/// What the kernel reports.
pub fn of_case<O: Cases, D: Device>(dev: &D, kernel: &Slot<O, D>, case: &O::Case) -> Result<f64> {
    let mut queue = Queue::new(dev)?;
    let mut loaded = Loaded::all(dev, &O::problem(case))?;
    let mut run =
        |calls: usize| time(&mut queue, kernel, calls, &mut |_, f| f(O::args(case, bind(&mut loaded))));
    run(1)?;
    let once = run(1)?.as_secs_f64().max(1e-9);
    let calls = (SAMPLE.as_secs_f64() / once).clamp(1.0, 1e5) as usize;
    let samples =
        (0..3).map(|_| Ok(run(calls)?.as_secs_f64() / calls as f64)).collect::<Result<Vec<f64>>>()?;
    Ok(mean_ci(&samples).0)
}
