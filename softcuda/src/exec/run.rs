//! The blocks of a launch, spread over the host's cores.
//!
//! A block runs on one core from beginning to end. Kernels whose results depend on the order of their blocks (global
//! atomics that return a value or sum floats) run on one core, in order: every launch gives the same bits everywhere.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{
    Checks, Launch, Options, Profile,
    barrier::Barrier,
    code::{Code, Origin, Row},
    machine::{Machine, Stop, Wrong},
    observe::{Nothing, Observer, Watch},
    space::Space,
    warp::Warp,
};
use crate::{
    check::Sanitizer,
    count::Counter,
    fault::{Fault, at},
    memory::Memory,
    module::{KernelInfo, Module},
};

/// A block that went wrong.
#[derive(Debug)]
pub struct Failed {
    /// Its number.
    number: u64,
    block: [u32; 3],
    thread: [u32; 3],
    wrong: Box<Wrong>,
}

impl Failed {
    /// With the names that its reader needs.
    pub fn dress(self, memory: &Memory, module: &Module, info: &KernelInfo, code: &Code) -> Fault {
        let Wrong { kind, pc, mut message, addr, global, other, .. } = *self.wrong;
        let origin = code.origins[pc as usize];
        let source = |origin: &Origin| {
            origin.loc.map(|loc| (module.file(loc.file).unwrap_or("?").to_string(), loc.line))
        };
        if let Some(other) = other.map(|pc| &code.origins[pc as usize]) {
            message += &format!(" at {}", at(&source(other), other.ptx_line));
        }
        let source = source(&origin);
        Fault {
            kind,
            message,
            kernel: info.name.clone(),
            block: self.block,
            thread: self.thread,
            addr,
            place: addr.filter(|_| global).and_then(|addr| memory.nearest(addr)),
            source,
            ptx_line: origin.ptx_line,
        }
    }
}

/// Runs all blocks; the first that goes wrong, in their order, is the error. What was counted, if anything was.
pub fn all(launch: &Launch<'_>, blocks: u64, threads: u32) -> Result<Option<Counter>, Failed> {
    let Options { checks, profile, .. } = *launch.options;
    if checks == Checks::default() && profile == Profile::Off {
        return spread(launch, blocks, threads).map(|()| None);
    }
    // Checks and the model of the L2 see the blocks one after the other, for the same findings and counts everywhere.
    let mut watch = Watch {
        check: (checks != Checks::default()).then(|| Sanitizer::new(checks, launch.views)),
        count: (profile != Profile::Off).then(|| Counter::new(launch.code.insts.len())),
    };
    let mut worker = Worker::new(launch, threads);
    (0..blocks).try_for_each(|number| worker.block(number, &mut watch))?;
    Ok(watch.count)
}

/// Blocks with nobody watching, on all cores.
fn spread(launch: &Launch<'_>, blocks: u64, threads: u32) -> Result<(), Failed> {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let workers = match launch.code.ordered {
        true => 1,
        false => {
            launch.options.threads.unwrap_or_else(cores).min(usize::try_from(blocks).unwrap_or(usize::MAX))
        }
    };
    let next = AtomicU64::new(0);
    let failed: Mutex<Option<Failed>> = Mutex::new(None);
    // Blocks are handed out in order, so all before a failed one are at least running: the first failure is the same
    // whatever the number of workers.
    let limit = AtomicU64::new(blocks);
    let work = || {
        let mut worker = Worker::new(launch, threads);
        loop {
            let number = next.fetch_add(1, Relaxed);
            if number >= limit.load(Relaxed) {
                return;
            }
            if let Err(failure) = worker.block(number, &mut Nothing) {
                limit.fetch_min(number, Relaxed);
                let mut first = failed.lock().unwrap_or_else(|e| e.into_inner());
                if first.as_ref().is_none_or(|f| f.number > number) {
                    *first = Some(failure);
                }
            }
        }
    };
    if workers <= 1 {
        work();
    } else {
        std::thread::scope(|scope| {
            (1..workers).for_each(|_| {
                scope.spawn(work);
            });
            work();
        });
    }
    match failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

/// What one core needs to run a block at a time.
struct Worker<'a> {
    launch: &'a Launch<'a>,
    warps: Vec<Warp>,
    regs: Vec<Row>,
    preds: Vec<u32>,
    /// In units of 16 bytes, for its alignment.
    shared: Vec<u128>,
    shared_bytes: u64,
    local: Vec<u128>,
}

/// Memory that nobody wrote reads as this byte: NaN as f32, −1 as an integer.
const POISON: u128 = u128::MAX;

impl<'a> Worker<'a> {
    fn new(launch: &'a Launch<'a>, threads: u32) -> Self {
        let code = launch.code;
        let count = threads.div_ceil(32);
        let [dx, dy, _] = launch.config.block;
        let mut warps = Vec::new();
        for id in 0..count {
            let here = (threads - 32 * id).min(32);
            let mut warp = Warp::new(id, u32::MAX >> (32 - here));
            for lane in 0..32 {
                let t = 32 * id + lane as u32;
                warp.tid[0][lane] = t % dx;
                warp.tid[1][lane] = t / dx % dy;
                warp.tid[2][lane] = t / dx / dy;
            }
            warps.push(warp);
        }
        let dynamic = launch.config.dynamic_shared;
        let static_shared = launch.info.static_shared;
        let shared_bytes = match dynamic {
            0 => u64::from(static_shared),
            _ => u64::from(launch.info.dynamic_offset) + u64::from(dynamic),
        };
        let local_words = local_stride(launch.info) as usize / 16 * 32;
        Self {
            launch,
            regs: vec![Row([0; 32]); (count * code.rows) as usize],
            preds: vec![0; (count * code.preds) as usize],
            shared: vec![POISON; shared_bytes.div_ceil(16) as usize],
            shared_bytes,
            local: vec![POISON; local_words * count as usize],
            warps,
        }
    }

    fn block<O: Observer>(&mut self, number: u64, observer: &mut O) -> Result<(), Failed> {
        let Launch { code, config, options, .. } = *self.launch;
        let [gx, gy, _] = config.grid.map(u64::from);
        let block = [number % gx, number / gx % gy, number / gx / gy].map(|x| x as u32);
        self.warps.iter_mut().for_each(Warp::reset);
        self.regs.fill(Row([0; 32]));
        self.preds.fill(0);
        self.preds.iter_mut().step_by(code.preds as usize).for_each(|always| *always = u32::MAX);
        self.shared.fill(POISON);
        self.local.fill(POISON);
        observer.begin(number, self.shared_bytes as u32, self.warps.len() as u32);
        let mut machine = Machine {
            code,
            level: self.launch.level,
            space: Space {
                views: self.launch.views,
                last: 0,
                shared: self.shared.as_mut_ptr().cast(),
                shared_bytes: self.shared_bytes,
                local: self.local.as_mut_ptr().cast(),
                local_bytes: local_stride(self.launch.info),
                params: self.launch.params,
            },
            observer,
            grid: config.grid,
            block_dim: config.block,
            block,
            dynamic_shared: config.dynamic_shared,
            live: config.block.iter().product(),
            barriers: [Barrier::default(); 16],
            complete: 0,
            allowance: options.max_loops,
        };
        let (regs, preds) = (self.regs.as_mut_ptr(), self.preds.as_mut_ptr());
        let place = |id: usize| {
            // SAFETY: each warp has its own rows and predicates in these vectors.
            unsafe { (regs.add(id * code.rows as usize), preds.add(id * code.preds as usize)) }
        };
        let local = machine.space.local;
        let local_bytes = machine.space.local_bytes as usize * 32;
        let failed = |warp: &Warp, wrong: Box<Wrong>| {
            let thread = [0, 1, 2].map(|axis| warp.tid[axis][wrong.lane as usize % 32]);
            Failed { number, block, thread, wrong }
        };
        let mut running = self.warps.len();
        while running > 0 {
            let mut progress = false;
            for i in 0..self.warps.len() {
                let warp = &mut self.warps[i];
                if !warp.can_run() {
                    continue;
                }
                progress = true;
                let live = machine.live;
                let (regs, preds) = place(i);
                // SAFETY: each warp has its own 32 threads' local memory.
                machine.space.local = unsafe { local.add(i * local_bytes) };
                match machine.run(warp, regs, preds) {
                    Ok(Stop::Done) => running -= 1,
                    Ok(Stop::Blocked | Stop::Yield) => {}
                    Err(wrong) => return Err(failed(warp, wrong)),
                }
                if machine.live != live {
                    // Those who have exited are not waited for.
                    for (id, b) in machine.barriers.iter().enumerate() {
                        if b.is_complete(machine.live) {
                            machine.complete |= 1 << id;
                        }
                    }
                }
                while machine.complete != 0 {
                    let id = machine.complete.trailing_zeros() as usize;
                    machine.complete &= machine.complete - 1;
                    let barrier = std::mem::take(&mut machine.barriers[id]);
                    machine.observer.released(id as u32);
                    for (j, warp) in self.warps.iter_mut().enumerate() {
                        let (regs, preds) = place(j);
                        machine.release(warp, id as u8, barrier, regs, preds);
                    }
                }
            }
            if !progress {
                let stuck = self.warps.iter().find_map(|w| machine.stuck(w).map(|wrong| failed(w, wrong)));
                return match stuck {
                    Some(failure) => Err(failure),
                    None => Ok(()),
                };
            }
        }
        Ok(())
    }
}

/// Bytes of local memory of a thread, a multiple of what any access is aligned to.
fn local_stride(info: &KernelInfo) -> u64 {
    u64::from(info.local_bytes).next_multiple_of(16)
}
