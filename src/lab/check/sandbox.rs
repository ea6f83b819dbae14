//! Where a kernel runs: a thread of its own, so that one that panics or never returns is found out.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use super::{
    Entry,
    judge::{Finding, Outcome, judge},
    report::Verdict,
};
use crate::{
    device::Device,
    error::{Error, Result},
    kernels::{self, Kernel, Queue, Slot},
    lab::{
        cases::{Cases, Problem},
        loaded::{Loaded, bind},
    },
};

/// A thread that runs one kernel on the cases it is sent. A thread that does not come back is left behind.
pub struct Sandbox<O: Cases> {
    cases: mpsc::Sender<Arc<Entry<O>>>,
    outcomes: mpsc::Receiver<Outcome>,
    timeout: Duration,
}

impl<O: Cases> Sandbox<O> {
    /// For `kernel` on `dev`, with `timeout` for each case.
    pub fn new<D: Device>(dev: D, kernel: Slot<O, D>, timeout: Duration) -> Self {
        let (cases, inbox) = mpsc::channel::<Arc<Entry<O>>>();
        let (outbox, outcomes) = mpsc::channel();
        thread::spawn(move || {
            let mut queue = None;
            for entry in inbox {
                let run = || attempt(&dev, &*kernel, &mut queue, &entry);
                let outcome = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
                    let message = format!("panicked: {}", text_of(&*panic));
                    Outcome::failed(Verdict::RuntimeError, message)
                });
                if outbox.send(outcome).is_err() {
                    return;
                }
            }
        });
        Self { cases, outcomes, timeout }
    }

    /// Runs one case.
    pub fn run(&self, entry: &Arc<Entry<O>>) -> Outcome {
        let ended = || Outcome::failed(Verdict::RuntimeError, "its thread ended".into());
        if self.cases.send(Arc::clone(entry)).is_err() {
            return ended();
        }
        match self.outcomes.recv_timeout(self.timeout) {
            Ok(outcome) => outcome,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let message = format!("not finished after {:.0} s", self.timeout.as_secs_f64());
                Outcome::failed(Verdict::Timeout, message)
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => ended(),
        }
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

fn attempt<O: Cases, D: Device>(
    dev: &D,
    kernel: &dyn Kernel<O, D>,
    queue: &mut Option<Queue<D>>,
    entry: &Entry<O>,
) -> Outcome {
    run_case(dev, kernel, queue, entry).unwrap_or_else(|error| match error {
        Error::Unsupported { reason, .. } => Outcome::Unsupported(reason),
        Error::Shape { .. } | Error::Argument { .. } => {
            Outcome::failed(Verdict::IncorrectShape, format!("refused a case within the contract: {error}"))
        }
        Error::Compile { .. } => Outcome::failed(Verdict::CompileError, error.to_string()),
        error => Outcome::failed(Verdict::RuntimeError, error.to_string()),
    })
}

/// Twice on the case's data, then on its twin's in the same memory. Scratch memory holds what earlier calls left.
fn run_case<O: Cases, D: Device>(
    dev: &D,
    kernel: &dyn Kernel<O, D>,
    queue: &mut Option<Queue<D>>,
    entry: &Entry<O>,
) -> Result<Outcome> {
    let queue = match queue {
        Some(queue) => queue,
        None => queue.insert(Queue::new(dev)?),
    };
    let mut loaded = Loaded::all(dev, &entry.problem)?;
    let mut run = |case: &O::Case, loaded: &mut [Loaded<D>]| -> Result<Vec<Vec<u8>>> {
        kernels::run(kernel, queue, O::args(case, bind(loaded)))?;
        dev.synchronize()?;
        loaded.iter().map(|l| l.read(dev)).collect()
    };
    let first = run(&entry.case, &mut loaded)?;
    for l in &mut loaded {
        l.reset(dev)?;
    }
    let second = run(&entry.case, &mut loaded)?;
    let outcome = judge(&entry.problem, &loaded, &first, Some(&second));
    let (Outcome::Passed(_), Some((case, problem))) = (&outcome, &entry.twin) else { return Ok(outcome) };
    reload(dev, &mut loaded, problem)?;
    let other = run(case, &mut loaded)?;
    Ok(match judge(problem, &loaded, &other, None) {
        Outcome::Failed(f) => {
            let message =
                format!("right on one set of data, wrong on the next in the same memory: {}", f.message);
            Outcome::Failed(Box::new(Finding { message, ..*f }))
        }
        _ => outcome,
    })
}

fn reload<D: Device>(dev: &D, loaded: &mut [Loaded<D>], problem: &Problem) -> Result<()> {
    loaded.iter_mut().zip(&problem.tensors).try_for_each(|(l, host)| l.load(dev, host))
}
