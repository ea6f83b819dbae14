//! The CUDA driver API.
//!
//! One lock guards all state ([`Driver`]); every entry point goes through [`call`] or [`in_context`], which take it,
//! find the current context and turn errors into codes. Work is deferred: [`queue`] says what comes after what, and
//! whoever waits runs what is needed ([`Locked::wait`]). In reading order: [`ffi`] is the border to C, [`queue`] and
//! [`work`] the deferred work, this file the state, then one file per group of the API.

#![allow(non_snake_case, reason = "entry points have the names of the CUDA driver API")]

mod capture;
mod config;
mod context;
mod copy;
mod device;
mod entry;
mod error;
mod event;
mod ffi;
mod graph;
mod graph_exec;
mod graph_node;
mod launch;
mod memory;
mod module;
mod pool;
mod profile;
mod queue;
mod stream;
mod work;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    ops::{Deref, DerefMut},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Instant,
};

use self::{
    capture::Capture,
    config::Config,
    context::Context,
    device::Device,
    error::{CUresult, Result},
    event::Event,
    graph::Graph,
    graph_exec::Exec,
    module::{Function, LoadedModule},
    pool::{GraphMemory, Pool},
    queue::{Origin, Point, Queue, Started},
    stream::Stream,
    work::{Launch, Work},
};
use crate::{
    check::history::{Actor, Clock},
    exec::{self, Options},
    memory::Memory,
    module::Module,
};

/// Objects of one kind by the handle that the client holds.
///
/// Handles look like pointers, are never reused, and are looked up, so one that is stale or of another kind is
/// `CUDA_ERROR_INVALID_HANDLE` and not a crash.
#[derive(Debug)]
pub struct Table<T>(BTreeMap<usize, T>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Table<T> {
    fn get(&self, handle: usize) -> Result<&T> {
        self.0.get(&handle).ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
    }

    fn get_mut(&mut self, handle: usize) -> Result<&mut T> {
        self.0.get_mut(&handle).ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
    }

    fn remove(&mut self, handle: usize) -> Result<T> {
        self.0.remove(&handle).ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
    }
}

/// All state of the process.
#[derive(Debug)]
struct Driver {
    config: Config,
    memory: Memory,
    devices: Vec<Device>,
    contexts: Table<Context>,
    streams: Table<Stream>,
    events: Table<Event>,
    modules: Table<LoadedModule>,
    functions: Table<Function>,
    pools: Table<Pool>,
    allocations: BTreeMap<u64, memory::Owner>,
    graph_memory: BTreeMap<u64, GraphMemory>,
    captures: Table<Capture>,
    graphs: Table<Graph>,
    execs: Table<Exec>,
    queue: Queue,
    /// A function of the client runs, with the lock released: nothing else may run.
    host_function_runs: bool,
    handles: usize,
}

static DRIVER: OnceLock<std::result::Result<Mutex<Driver>, CUresult>> = OnceLock::new();
static HOST_FUNCTION_ENDED: Condvar = Condvar::new();

thread_local! {
    /// The thread's stack of contexts, the current one last.
    static CONTEXTS: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    /// The thread is inside a host function, where the driver may not be called.
    static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

/// The state, locked.
struct Locked(Option<MutexGuard<'static, Driver>>);

impl Deref for Locked {
    type Target = Driver;

    fn deref(&self) -> &Driver {
        self.0.as_ref().expect("the lock is only released inside `call_host`")
    }
}

impl DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut Driver {
        self.0.as_mut().expect("the lock is only released inside `call_host`")
    }
}

fn lock(driver: &'static Mutex<Driver>) -> MutexGuard<'static, Driver> {
    driver.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs an entry point that needs no context.
fn call(body: impl FnOnce(&mut Locked) -> Result<()>) -> CUresult {
    if IN_HOST_FUNCTION.get() {
        return CUresult::CUDA_ERROR_NOT_PERMITTED;
    }
    let driver = match DRIVER.get() {
        Some(Ok(driver)) => driver,
        Some(Err(code)) => return *code,
        None => return CUresult::CUDA_ERROR_NOT_INITIALIZED,
    };
    let body = AssertUnwindSafe(|| body(&mut Locked(Some(lock(driver)))));
    match catch_unwind(body) {
        Ok(Ok(())) => CUresult::CUDA_SUCCESS,
        Ok(Err(code)) => code,
        Err(_) => CUresult::CUDA_ERROR_UNKNOWN,
    }
}

/// Runs an entry point in the thread's current context. A context in which a kernel faulted answers every call with
/// that kernel's code.
fn in_context(body: impl FnOnce(&mut Locked, usize) -> Result<()>) -> CUresult {
    call(|driver| {
        let current = CONTEXTS.with_borrow(|stack| stack.last().copied());
        let context = current.filter(|&c| c != 0).ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
        driver.check(context)?;
        body(driver, context)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuInit(flags: u32) -> CUresult {
    if flags != 0 {
        return CUresult::CUDA_ERROR_INVALID_VALUE;
    }
    let driver = DRIVER.get_or_init(|| match Config::from_env() {
        Ok(config) => Ok(Mutex::new(Driver::new(config))),
        Err(message) => {
            eprintln!("softcuda: {message}");
            Err(CUresult::CUDA_ERROR_INVALID_VALUE)
        }
    });
    driver.as_ref().map_or_else(|code| *code, |_| CUresult::CUDA_SUCCESS)
}

/// The driver speaks CUDA 13.0.
const VERSION: i32 = 13000;

#[unsafe(no_mangle)]
extern "C" fn cuDriverGetVersion(version: ffi::Out<i32>) -> CUresult {
    version.put(VERSION).map_or_else(|code| code, |()| CUresult::CUDA_SUCCESS)
}

impl Driver {
    fn new(config: Config) -> Self {
        let memory = Memory::new(&vec![config.memory; config.devices as usize], config.checks.init);
        let memory = if config.checks.race { memory.with_history() } else { memory };
        let mut driver = Self {
            memory,
            devices: Vec::new(),
            contexts: Table::default(),
            streams: Table::default(),
            events: Table::default(),
            modules: Table::default(),
            functions: Table::default(),
            pools: Table::default(),
            allocations: BTreeMap::new(),
            graph_memory: BTreeMap::new(),
            captures: Table::default(),
            graphs: Table::default(),
            execs: Table::default(),
            queue: Queue::default(),
            host_function_runs: false,
            handles: 0,
            config,
        };
        driver.devices =
            (0..driver.config.devices).map(|ordinal| Device::new(&mut driver, ordinal)).collect();
        profile::at_exit(&driver.config);
        driver
    }

    /// A new handle: a multiple of 16 above the stream handles that CUDA defines, in no mapped page.
    fn handle(&mut self) -> usize {
        self.handles += 1;
        0x5c00_0000_0000_0000 + self.handles * 16
    }

    /// The code of the kernel that faulted in the context, if one did.
    fn check(&self, context: usize) -> Result<()> {
        let context = self.contexts.get(context).map_err(|_| CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED)?;
        context.fault.map_or(Ok(()), Err)
    }

    /// Adds work to a stream that is not capturing, after `more` too.
    fn enqueue(&mut self, stream: usize, more: &[Point], work: Work) -> Result<Point> {
        let mut after = self.before_next(stream)?;
        after.extend_from_slice(more);
        let context = self.streams.get(stream)?.context;
        let point = self.queue.push(Origin { context, stream, lane: stream }, &after, work);
        self.streams.get_mut(stream)?.last = Some(point.clone());
        Ok(point)
    }

    /// Adds work to a stream, or to the graph that it captures.
    fn submit(&mut self, stream: usize, work: Work) -> Result<()> {
        if self.streams.get(stream)?.capture.is_some() {
            return self.capture(stream, work);
        }
        self.enqueue(stream, &[], work).map(|_| ())
    }

    /// Runs one item. A fault stays with its context and drops what waits there.
    fn run_work(&mut self, item: u64, Started { origin, work, clock }: Started) {
        let context = origin.context;
        let done = match &work {
            Work::Kernel(launch) => {
                let actor = self.actor(origin, clock, launch.name.clone(), Some(&launch.module));
                self.run_kernel(context, launch, actor)
            }
            Work::Record(event) => {
                self.event_reached(*event, item, Instant::now());
                Ok(())
            }
            Work::Marker | Work::Host(_) | Work::Wait(_) | Work::Graph(_) => Ok(()),
            Work::Copy(_) | Work::Fill(_) | Work::Alloc(_) | Work::Free(_) => {
                let actor = self.actor(origin, clock, work.name().to_string(), None);
                let done = self.memory.act(actor, |memory| work.run_on(memory));
                if let Work::Alloc(new) = work {
                    self.own(context, new.address, 0);
                }
                done
            }
        };
        self.queue.finish(item);
        if let Err(code) = done {
            self.queue.discard(context);
            if let Ok(context) = self.contexts.get_mut(context) {
                context.fault = Some(code);
            }
        }
    }

    /// Who touches memory while this work runs, if races are looked for.
    fn actor(
        &self,
        origin: Origin,
        clock: Arc<Clock>,
        name: String,
        module: Option<&Arc<Module>>,
    ) -> Option<Actor> {
        let Origin { stream, lane, .. } = origin;
        let legacy = self.streams.get(stream).is_ok_and(|s| s.kind == stream::Kind::Legacy);
        let stream = match legacy {
            true => "the default stream".to_string(),
            false if lane == stream => format!("stream {stream:#x}"),
            false => format!("another branch of a graph in stream {stream:#x}"),
        };
        let module = module.map(Arc::downgrade);
        self.config.checks.race.then_some(Actor { name, stream, lane, clock, module })
    }

    fn run_kernel(&mut self, context: usize, launch: &Launch, actor: Option<Actor>) -> Result<()> {
        let options = Options {
            checks: self.config.checks,
            profile: self.config.counting(),
            peers: self.contexts.get(context).map_or(0, |c| c.peers),
            threads: self.config.threads,
            ..Options::default()
        };
        let Launch { module, name, config, params, .. } = launch;
        let run = |memory: &mut Memory| exec::launch(memory, module, name, *config, params, &options);
        match self.memory.act(actor, run) {
            Ok(report) => {
                profile::record(name, config, report);
                Ok(())
            }
            Err(fault) => {
                eprintln!("softcuda: {fault}");
                Err(error::of_fault(&fault))
            }
        }
    }
}

impl Locked {
    /// Runs what must run for `points` to be reached.
    fn run(&mut self, points: &[Point]) {
        for item in self.queue.needed(points) {
            self.run_item(item);
        }
    }

    /// Runs what `points` need and reports a fault of the context.
    fn wait(&mut self, context: usize, points: &[Point]) -> Result<()> {
        self.run(points);
        points.iter().for_each(|point| self.queue.host_waited(point));
        if self.config.checks.race && self.queue.is_settled() {
            self.memory.all_is_past();
        }
        self.check(context)
    }

    fn run_item(&mut self, item: u64) {
        while self.host_function_runs {
            let guard = self.0.take().expect("locked here");
            self.0 = Some(HOST_FUNCTION_ENDED.wait(guard).unwrap_or_else(PoisonError::into_inner));
        }
        // Another thread may have run it, or a fault dropped it.
        let Some(started) = self.queue.start(item) else { return };
        if let Work::Host(function) = &started.work {
            self.host_function_runs = true;
            self.0 = None;
            IN_HOST_FUNCTION.set(true);
            function.call();
            IN_HOST_FUNCTION.set(false);
            if let Some(Ok(driver)) = DRIVER.get() {
                self.0 = Some(lock(driver));
            }
            self.host_function_runs = false;
            HOST_FUNCTION_ENDED.notify_all();
        }
        self.run_work(item, started);
    }
}
