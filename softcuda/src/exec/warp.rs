//! The interpreter: one warp until it ends, waits or has run for a while.
//!
//! Every lane has its own program counter. The lanes at the lowest one run; where it reaches that of other lanes they
//! join (min-PC scheduling), so divergence and reconvergence need no knowledge of the control flow. As long as all lanes
//! are together there is one comparison per instruction to pay for this.

use super::{
    atomic,
    code::{
        Access, Bar, BarMode, Code, Extra, FULL, Inst, LANES, Op, Row, ShflMode, Special, VoteMode, Window,
    },
    frame::Frame,
    level::Level,
    mma::Fragments,
    observe::{AccessKind, Event, Finding, Observer},
    space::{self, Bad, Pointers, Space, generic},
};
use crate::fault::FaultKind;

/// Instructions that a warp runs before another gets its turn.
const QUANTUM: u32 = 4096;
/// Instructions that lanes which are not at the lowest program counter run when their turn comes.
const FAIR: u32 = 512;
/// No program counter.
const NONE: u32 = u32::MAX;

/// Why a warp stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// All its lanes have exited.
    Done,
    /// It waits for other warps, or for ever.
    Blocked,
    /// It has run for a while.
    Yield,
}

/// What went wrong, before it is dressed with names.
#[derive(Debug, Clone)]
pub struct Wrong {
    pub kind: FaultKind,
    pub lane: u32,
    pub pc: u32,
    pub message: String,
    pub addr: Option<u64>,
    /// The address is one of [`crate::memory`].
    pub global: bool,
    /// The instruction that it collides with.
    pub other: Option<u32>,
}

type Result<T> = std::result::Result<T, Box<Wrong>>;

/// A copy of `cp.async` that no wait has completed.
#[derive(Debug, Clone)]
struct Pending {
    mask: u32,
    to: [u64; LANES],
    data: [[u8; 16]; LANES],
    bytes: u32,
    /// The group of each lane.
    group: [u32; LANES],
}

/// A warp.
#[derive(Debug)]
pub struct Warp {
    /// Its number in the block.
    pub id: u32,
    /// Lanes that exist: the last warp of a block may have fewer than 32.
    pub exists: u32,
    /// Lanes that have not exited.
    pub live: u32,
    /// Lanes that wait at a barrier of the block.
    pub barred: u32,
    /// The number of that barrier.
    pub barrier: [u8; LANES],
    /// Instructions run so far.
    pub clock: u64,
    /// `threadIdx` of each lane.
    pub tid: [[u32; LANES]; 3],
    /// Program counter of the lanes that run.
    pc: u32,
    /// Lanes that run.
    active: u32,
    /// The lowest program counter of `ready`.
    next: u32,
    /// Lanes that could run.
    ready: u32,
    /// Lanes that wait for others of the warp.
    waiting: u32,
    /// Program counters of the lanes that do not run.
    pub lane_pc: [u32; LANES],
    /// For whom a waiting lane waits.
    members: [u32; LANES],
    /// The lanes that run are not those with the lowest program counter.
    fair: bool,
    copies: Vec<Pending>,
    committed: [u32; LANES],
}

/// Lanes of a mask, from the lowest.
pub fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (lane < LANES).then_some(lane)
    })
}

impl Warp {
    pub fn new(id: u32, exists: u32) -> Self {
        Self {
            id,
            exists,
            live: exists,
            barred: 0,
            barrier: [0; LANES],
            clock: 0,
            tid: [[0; LANES]; 3],
            pc: 0,
            active: exists,
            next: NONE,
            ready: 0,
            waiting: 0,
            lane_pc: [0; LANES],
            members: [0; LANES],
            fair: false,
            copies: Vec::new(),
            committed: [0; LANES],
        }
    }

    /// Back to the start of a kernel.
    pub fn reset(&mut self) {
        (self.live, self.active) = (self.exists, self.exists);
        (self.barred, self.ready, self.waiting, self.pc, self.next) = (0, 0, 0, 0, NONE);
        (self.fair, self.clock) = (false, 0);
        self.copies.clear();
        self.committed = [0; LANES];
    }

    /// Whether some lane can go on.
    pub fn can_run(&self) -> bool {
        self.active | self.ready != 0
    }

    fn park(&mut self, mask: u32, pc: u32) {
        for lane in lanes(mask) {
            self.lane_pc[lane] = pc;
        }
    }

    /// Makes lanes that waited ready to run at their program counters.
    pub fn wake(&mut self, mask: u32) {
        self.ready |= mask;
        for lane in lanes(mask) {
            self.next = self.next.min(self.lane_pc[lane]);
        }
    }

    fn lowest_ready(&self) -> u32 {
        lanes(self.ready).map(|lane| self.lane_pc[lane]).min().unwrap_or(NONE)
    }

    /// Runs the lanes at `pc`.
    fn take(&mut self, pc: u32) {
        for lane in lanes(self.ready) {
            if self.lane_pc[lane] == pc {
                self.active |= 1 << lane;
            }
        }
        self.ready &= !self.active;
        self.pc = pc;
    }

    /// Picks the lanes with the lowest program counter; false if none can run.
    fn regroup(&mut self) -> bool {
        self.park(self.active, self.pc);
        self.ready |= self.active;
        (self.active, self.fair) = (0, false);
        let lowest = self.lowest_ready();
        if lowest == NONE {
            self.next = NONE;
            return false;
        }
        self.take(lowest);
        self.next = self.lowest_ready();
        true
    }

    /// Lets lanes run that are not at the lowest program counter: they may hold what those wait for.
    fn be_fair(&mut self) {
        let here = self.pc;
        self.park(self.active, self.pc);
        self.ready |= self.active;
        self.active = 0;
        let later = lanes(self.ready).map(|lane| self.lane_pc[lane]).filter(|&pc| pc > here).min();
        self.take(later.unwrap_or_else(|| self.lowest_ready()));
        (self.next, self.fair) = (NONE, true);
    }
}

/// What is the same for all warps of a block.
#[derive(Debug)]
pub struct Machine<'a, O> {
    pub code: &'a Code,
    pub level: Level,
    pub space: Space<'a>,
    pub observer: &'a mut O,
    pub grid: [u32; 3],
    pub block_dim: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    /// Threads of the block that have not exited.
    pub live: u32,
    pub barriers: [Barrier; 16],
    /// Barriers that are complete.
    pub complete: u16,
    /// Instructions this worker may still run.
    pub allowance: u64,
}

/// A barrier of a block.
#[derive(Debug, Clone, Copy, Default)]
pub struct Barrier {
    /// Threads that arrived.
    pub arrived: u32,
    /// How many are expected; 0 for all.
    pub expected: u32,
    /// Predicates of `bar.red`: how many are true.
    pub trues: u32,
}

impl Barrier {
    /// Whether all have arrived, with so many threads alive.
    pub fn is_complete(&self, live: u32) -> bool {
        self.arrived > 0 && self.arrived >= if self.expected == 0 { live } else { self.expected }
    }
}

fn wrong<T>(kind: FaultKind, pc: u32, lane: usize, message: String) -> Result<T> {
    Err(Box::new(Wrong { kind, lane: lane as u32, pc, message, addr: None, global: false, other: None }))
}

/// The name of a window in messages.
fn window_name(window: Window) -> &'static str {
    match window {
        Window::Global => "global",
        Window::Shared => "shared",
        Window::Local => "local",
        Window::Param => "parameter",
        Window::Generic => "generic",
    }
}

impl<O: Observer> Machine<'_, O> {
    /// Runs a warp. Its registers are zero at the start of a block.
    ///
    /// # Errors
    /// What a lane did wrong.
    pub fn run(&mut self, w: &mut Warp, regs: *mut Row, preds: *mut u32) -> Result<Stop> {
        let code = self.code;
        // SAFETY: the block allocated rows and predicates for this code, and nobody else uses those of this warp.
        let frame = unsafe { Frame::new(code, regs, preds) };
        let mut left = QUANTUM;
        if w.active == 0 && !w.regroup() {
            return Ok(if w.live == 0 { Stop::Done } else { Stop::Blocked });
        }
        loop {
            if w.pc >= w.next && !w.regroup() {
                return Ok(if w.live == 0 { Stop::Done } else { Stop::Blocked });
            }
            if left == 0 {
                if w.fair {
                    w.regroup();
                    return Ok(Stop::Yield);
                }
                if w.ready == 0 {
                    return Ok(Stop::Yield);
                }
                w.be_fair();
                left = FAIR;
            }
            left -= 1;
            let pc = w.pc;
            let inst = &code.insts[pc as usize];
            let guard = frame.pred(inst.guard.into()) ^ u32::from(inst.guard_not).wrapping_neg();
            let mask = w.active & guard;
            w.clock += 1;
            self.observer.instruction(w.id, pc, inst, mask);
            if inst.op == Op::Bra {
                self.branch(w, inst.a, mask)?;
                continue;
            }
            w.pc = pc + 1;
            if mask == 0 {
                continue;
            }
            match inst.op {
                Op::Ld => self.load(w, inst, &frame, mask, pc)?,
                Op::St => self.store(w, inst, &frame, mask, pc)?,
                Op::LdParam => self.load_param(inst, &frame, mask),
                Op::Special => self.special(w, inst, &frame, mask),
                Op::Atom => self.atom(w, inst, &frame, mask, pc)?,
                Op::Ldmatrix | Op::Stmatrix => self.matrix(w, inst, &frame, mask, pc)?,
                Op::Mma => self.mma(w, inst, &frame, mask, pc)?,
                Op::CpAsync => self.cp_async(w, inst, &frame, mask, pc)?,
                Op::CpAsyncCommit => {
                    lanes(mask).for_each(|lane| w.committed[lane] += 1);
                }
                Op::CpAsyncWait => self.cp_wait(w, inst.imm, mask, pc)?,
                Op::Shfl | Op::Vote | Op::MatchAny | Op::MatchAll | Op::Redux | Op::Elect | Op::WarpBar => {
                    self.exchange(w, inst, &frame, mask, pc)?
                }
                Op::Activemask => frame.store::<u32>(inst.d, mask, [w.active; LANES]),
                Op::IsSpace => {
                    let a = frame.load::<u64>(inst.a);
                    let want = Window::from_bits(inst.mods);
                    let bits = lanes(FULL).fold(0, |m, i| m | u32::from(generic(a[i]) == want) << i);
                    frame.set_pred(inst.d, mask, bits);
                }
                Op::Fence | Op::Nanosleep => {}
                Op::Brx => {
                    let index = frame.load::<u32>(inst.a);
                    let mut rest = mask;
                    // The lanes that the guard excludes go on; each target takes its lanes.
                    for lane in lanes(mask) {
                        if rest >> lane & 1 == 0 {
                            continue;
                        }
                        if index[lane] >= inst.b {
                            let m = format!("brx.idx has {} targets, the index is {}", inst.b, index[lane]);
                            return wrong(FaultKind::IllegalAddress, pc, lane, m);
                        }
                        let same = lanes(rest).fold(0, |m, l| m | u32::from(index[l] == index[lane]) << l);
                        rest &= !same;
                        w.park(same, code.lists[(inst.imm + u64::from(index[lane])) as usize]);
                    }
                    w.park(w.active & !mask, pc + 1);
                    w.ready |= w.active;
                    w.active = 0;
                    (w.next, w.pc) = (0, 0);
                    self.spend(pc)?;
                }
                Op::Exit => {
                    w.live &= !mask;
                    w.active &= !mask;
                    self.live -= mask.count_ones();
                    for lane in lanes(w.waiting) {
                        if w.members[lane] & mask != 0 {
                            let m = format!(
                                "waits for lane {} of its warp, which has exited",
                                (w.members[lane] & mask).trailing_zeros()
                            );
                            return wrong(FaultKind::Sync, w.lane_pc[lane], lane, m);
                        }
                    }
                    if w.active == 0 && !w.regroup() {
                        return Ok(if w.live == 0 { Stop::Done } else { Stop::Blocked });
                    }
                }
                Op::Bar => {
                    self.barrier(w, inst, &frame, mask, pc)?;
                    if w.active == 0 && !w.regroup() {
                        return Ok(Stop::Blocked);
                    }
                }
                Op::Trap => return wrong(FaultKind::Trap, pc, mask.trailing_zeros() as usize, "trap".into()),
                Op::Assert => return self.assert(inst, &frame, mask, pc),
                // SAFETY: the level was chosen by what this machine has.
                _ => unsafe { (self.level.alu)(code, inst, &frame, mask) },
            }
            if w.active == 0 && !w.regroup() {
                return Ok(Stop::Blocked);
            }
        }
    }

    /// Counts down the allowance at backward branches: no loop is without one.
    #[inline(always)]
    fn spend(&mut self, pc: u32) -> Result<()> {
        match self.allowance.checked_sub(1) {
            Some(left) => {
                self.allowance = left;
                Ok(())
            }
            None => wrong(FaultKind::Timeout, pc, 0, "the kernel has run for too long".into()),
        }
    }

    #[inline(always)]
    fn branch(&mut self, w: &mut Warp, target: u32, taken: u32) -> Result<()> {
        let here = w.pc;
        if target <= here {
            self.spend(here)?;
        }
        if taken == w.active {
            w.pc = target;
        } else if taken == 0 {
            w.pc = here + 1;
        } else {
            let (stay, go) = (w.active & !taken, taken);
            let (low, low_pc, high, high_pc) = match target <= here {
                true => (go, target, stay, here + 1),
                false => (stay, here + 1, go, target),
            };
            w.park(high, high_pc);
            w.ready |= high;
            (w.active, w.pc) = (low, low_pc);
            if !w.fair {
                w.next = w.next.min(high_pc);
            }
        }
        Ok(())
    }

    // ---- memory ----

    #[cold]
    fn bad_access(&self, bad: Bad, what: &str, bytes: u64, pc: u32) -> Box<Wrong> {
        let window = window_name(bad.window);
        let message = match bad.kind {
            FaultKind::Misaligned => {
                format!("{what} of {bytes} bytes at the misaligned {window} address {:#x}", bad.addr)
            }
            _ => {
                let size = match bad.window {
                    Window::Shared => format!(" (the block has {} bytes)", self.space.shared_bytes),
                    Window::Local => format!(" (a thread has {} bytes)", self.space.local_bytes),
                    _ => String::new(),
                };
                format!("{what} of {bytes} bytes at the {window} address {:#x} out of bounds{size}", bad.addr)
            }
        };
        let global = matches!(bad.window, Window::Global | Window::Generic);
        Box::new(Wrong {
            kind: bad.kind,
            lane: bad.lane as u32,
            pc,
            message,
            addr: Some(bad.addr),
            global,
            other: None,
        })
    }

    #[cold]
    fn found(f: Finding, pc: u32) -> Box<Wrong> {
        let global = f.addr.is_some();
        let Finding { kind, lane, message, addr, other } = f;
        Box::new(Wrong { kind, lane, pc, message, addr, global, other })
    }

    /// Resolves an access and shows it to the observer.
    #[inline(always)]
    fn reach(
        &mut self,
        w: &Warp,
        window: Window,
        addrs: &mut [u64; LANES],
        mask: u32,
        bytes: u64,
        align: u64,
        kind: AccessKind,
        strong: bool,
        pc: u32,
    ) -> Result<Pointers> {
        let (pointers, found) = match self.space.resolve(window, addrs, mask, bytes, align) {
            Ok(ok) => ok,
            Err(bad) => {
                let what = match kind {
                    AccessKind::Load => "load",
                    AccessKind::Store => "store",
                    AccessKind::Atomic => "atomic",
                    AccessKind::AsyncRead | AccessKind::AsyncWrite => "cp.async",
                };
                return Err(self.bad_access(bad, what, bytes, pc));
            }
        };
        if O::ACCESSES {
            self.observe(w, found, addrs, mask, bytes, kind, strong, pc)?;
        }
        Ok(pointers)
    }

    fn observe(
        &mut self,
        w: &Warp,
        window: Window,
        addrs: &[u64; LANES],
        mask: u32,
        bytes: u64,
        kind: AccessKind,
        strong: bool,
        pc: u32,
    ) -> Result<()> {
        let mut event = Event { window, kind, addrs, mask, bytes: bytes as u32, strong, pc, warp: w.id };
        if window != Window::Generic {
            return self.observer.access(&event).map_err(|f| Self::found(f, pc));
        }
        // Lanes of one generic access may be in several windows.
        for (window, base) in [
            (Window::Global, 0),
            (Window::Shared, super::code::SHARED_BASE),
            (Window::Local, super::code::LOCAL_BASE),
        ] {
            let mask = lanes(mask).fold(0, |m, i| m | u32::from(generic(addrs[i]) == window) << i);
            if mask != 0 {
                let own = addrs.map(|a| a.wrapping_sub(base));
                (event.window, event.mask) = (window, mask);
                let event = Event { addrs: &own, ..event };
                self.observer.access(&event).map_err(|f| Self::found(f, pc))?;
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn addresses(frame: &Frame, base: u32, offset: u64, short: bool) -> [u64; LANES] {
        let mut addrs = [0; LANES];
        if short {
            let base = frame.load::<u32>(base);
            for i in 0..LANES {
                addrs[i] = u64::from(base[i].wrapping_add(offset as u32));
            }
        } else {
            let base = frame.load::<u64>(base);
            for i in 0..LANES {
                addrs[i] = base[i].wrapping_add(offset);
            }
        }
        addrs
    }

    #[inline(always)]
    fn load(&mut self, w: &Warp, inst: &Inst, frame: &Frame, mask: u32, pc: u32) -> Result<()> {
        let access = Access::unpack(inst.mods);
        let list = &self.code.lists;
        let (base, count) = match access.count {
            1 => (inst.a, 1),
            n => (list[inst.a as usize + usize::from(n)], n),
        };
        let mut addrs = Self::addresses(frame, base, inst.imm, access.short);
        let bytes = u64::from(access.bytes) * u64::from(count);
        let p = self.reach(
            w,
            access.window,
            &mut addrs,
            mask,
            bytes,
            bytes,
            AccessKind::Load,
            access.strong,
            pc,
        )?;
        for i in 0..count {
            let d = if count == 1 { inst.d } else { list[inst.a as usize + usize::from(i)] };
            let at = usize::from(i) * usize::from(access.bytes);
            // SAFETY: `reach` checked `bytes` bytes and their alignment in the lanes of the mask.
            unsafe {
                match (access.bytes, access.reg) {
                    (4, 16 | 32) => read_row::<4, u32>(frame.lanes(d), &p, at, mask),
                    (8, _) => read_row::<8, u64>(frame.lanes(d), &p, at, mask),
                    (2, 16 | 32) if !access.signed => read_row::<2, u32>(frame.lanes(d), &p, at, mask),
                    _ => read_extended(frame, d, &p, at, mask, access),
                }
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn store(&mut self, w: &Warp, inst: &Inst, frame: &Frame, mask: u32, pc: u32) -> Result<()> {
        let access = Access::unpack(inst.mods);
        let count = access.count;
        // Two values still fit into the instruction.
        let in_list = count > 2;
        let base = if in_list { self.code.lists[inst.a as usize] } else { inst.a };
        let mut addrs = Self::addresses(frame, base, inst.imm, access.short);
        let bytes = u64::from(access.bytes) * u64::from(count);
        let p = self.reach(
            w,
            access.window,
            &mut addrs,
            mask,
            bytes,
            bytes,
            AccessKind::Store,
            access.strong,
            pc,
        )?;
        for i in 0..count {
            let s = match (in_list, i) {
                (true, _) => self.code.lists[inst.a as usize + 1 + usize::from(i)],
                (false, 0) => inst.b,
                (false, _) => inst.c,
            };
            let at = usize::from(i) * usize::from(access.bytes);
            // SAFETY: `reach` checked `bytes` bytes and their alignment in the lanes of the mask; parameters are not
            // stored to.
            unsafe {
                match (access.bytes, access.reg) {
                    (1, 64) => write_row::<1, u64>(frame.load::<u64>(s), &p, at, mask),
                    (2, 64) => write_row::<2, u64>(frame.load::<u64>(s), &p, at, mask),
                    (4, 64) => write_row::<4, u64>(frame.load::<u64>(s), &p, at, mask),
                    (8, _) => write_row::<8, u64>(frame.load::<u64>(s), &p, at, mask),
                    (1, _) => write_row::<1, u32>(frame.load::<u32>(s), &p, at, mask),
                    (2, _) => write_row::<2, u32>(frame.load::<u32>(s), &p, at, mask),
                    _ => write_row::<4, u32>(frame.load::<u32>(s), &p, at, mask),
                }
            }
        }
        Ok(())
    }

    fn load_param(&self, inst: &Inst, frame: &Frame, mask: u32) {
        let access = Access::unpack(inst.mods);
        // The lowering checked the place against the parameter; launches without all parameters are refused.
        let at = inst.imm as usize;
        let mut bytes = [0; 8];
        let n = usize::from(access.bytes);
        bytes[..n].copy_from_slice(&self.space.params[at..at + n]);
        let value = extend(u64::from_le_bytes(bytes), access);
        if access.reg == 64 {
            frame.store::<u64>(inst.d, mask, [value; LANES]);
        } else {
            frame.store::<u32>(inst.d, mask, [value as u32; LANES]);
        }
    }

    fn atom(&mut self, w: &Warp, inst: &Inst, frame: &Frame, mask: u32, pc: u32) -> Result<()> {
        let access = Access::unpack(inst.mods);
        let Extra::Atom(atom) = self.code.extras[inst.imm as usize] else { return Ok(()) };
        let results = usize::from(inst.results);
        let start = inst.a as usize;
        let list = &self.code.lists[start..start + results + inst.b as usize];
        let (results, uses) = list.split_at(results);
        let mut addrs = frame.load::<u64>(uses[0]);
        let bytes = u64::from(access.bytes) * u64::from(atom.count);
        let p = self.reach(w, access.window, &mut addrs, mask, bytes, bytes, AccessKind::Atomic, true, pc)?;
        for i in 0..usize::from(atom.count) {
            let at = i * usize::from(access.bytes);
            let value = |row: u32| match access.reg {
                64 => frame.load::<u64>(row),
                _ => frame.load::<u32>(row).map(u64::from),
            };
            let b = value(uses[1 + i]);
            let c = if uses.len() > 2 && atom.count == 1 { value(uses[2]) } else { [0; LANES] };
            let mut old = [0; LANES];
            // Lanes take turns from the lowest, which makes floating-point sums repeatable.
            for lane in lanes(mask) {
                // SAFETY: `reach` checked the lane's bytes and their alignment.
                old[lane] = unsafe { atomic::apply(p[lane] + at, &atom, b[lane], c[lane]) };
            }
            if let Some(&d) = results.get(i) {
                if access.reg == 64 {
                    frame.store::<u64>(d, mask, old);
                } else {
                    frame.store::<u32>(d, mask, old.map(|x| x as u32));
                }
            }
        }
        Ok(())
    }

    fn cp_async(&mut self, w: &mut Warp, inst: &Inst, frame: &Frame, mask: u32, pc: u32) -> Result<()> {
        let bytes = u64::from(inst.mods);
        let (mut to, mut from) = (frame.load::<u64>(inst.a), frame.load::<u64>(inst.b));
        let size = frame.load::<u32>(inst.c);
        self.reach(w, Window::Shared, &mut to, mask, bytes, bytes, AccessKind::AsyncWrite, false, pc)?;
        let mut data = [[0; 16]; LANES];
        // Lanes that ask for fewer bytes read only those; the rest becomes zero.
        let whole = lanes(mask).fold(0, |m, i| m | u32::from(u64::from(size[i]) >= bytes) << i);
        if whole != 0 {
            let p = self.reach(
                w,
                Window::Global,
                &mut from,
                whole,
                bytes,
                bytes,
                AccessKind::AsyncRead,
                false,
                pc,
            )?;
            for lane in lanes(whole) {
                for word in 0..bytes as usize / 4 {
                    // SAFETY: `reach` checked the lane's bytes; they are aligned to 4.
                    let x = unsafe { space::read::<4>(p[lane] + 4 * word) };
                    data[lane][4 * word..4 * word + 4].copy_from_slice(&(x as u32).to_le_bytes());
                }
            }
        }
        for lane in lanes(mask & !whole) {
            let n = u64::from(size[lane]);
            if n == 0 {
                continue;
            }
            let p =
                self.reach(w, Window::Global, &mut from, 1 << lane, n, 1, AccessKind::AsyncRead, false, pc)?;
            for (i, byte) in data[lane][..n as usize].iter_mut().enumerate() {
                // SAFETY: as above, byte by byte.
                *byte = unsafe { space::read::<1>(p[lane] + i) } as u8;
            }
        }
        w.copies.push(Pending { mask, to, data, bytes: bytes as u32, group: w.committed });
        Ok(())
    }

    /// Completes the copies of all but the last `pending` groups.
    fn cp_wait(&mut self, w: &mut Warp, pending: u64, mask: u32, pc: u32) -> Result<()> {
        let mut copies = std::mem::take(&mut w.copies);
        for copy in &mut copies {
            let done = lanes(copy.mask & mask).fold(0, |m, i| {
                m | u32::from(u64::from(copy.group[i]) + pending < u64::from(w.committed[i])) << i
            });
            if done == 0 {
                continue;
            }
            copy.mask &= !done;
            let bytes = u64::from(copy.bytes);
            let (p, _) = self
                .space
                .resolve(Window::Shared, &mut copy.to, done, bytes, bytes)
                .map_err(|bad| self.bad_access(bad, "cp.async", bytes, pc))?;
            for lane in lanes(done) {
                for word in 0..copy.bytes as usize / 4 {
                    let x = u32::from_le_bytes(
                        copy.data[lane][4 * word..4 * word + 4].try_into().expect("4 bytes"),
                    );
                    // SAFETY: `resolve` checked the lane's bytes.
                    unsafe { space::write::<4>(p[lane] + 4 * word, x.into()) };
                }
            }
            self.observer.copied(w.id, &copy.to, done, copy.bytes);
        }
        copies.retain(|copy| copy.mask != 0);
        w.copies = copies;
        Ok(())
    }

    /// All lanes that exist must run an instruction that moves matrices.
    fn converged(&self, w: &Warp, mask: u32, pc: u32, what: &str) -> Result<()> {
        match mask == FULL {
            true => Ok(()),
            false => {
                let m = format!("{what} is executed by lanes {mask:#010x} of its warp, not by all 32");
                wrong(FaultKind::Sync, pc, (w.active & mask).trailing_zeros() as usize, m)
            }
        }
    }

    fn matrix(&mut self, w: &Warp, inst: &Inst, frame: &Frame, mask: u32, pc: u32) -> Result<()> {
        let load = inst.op == Op::Ldmatrix;
        self.converged(w, mask, pc, if load { "ldmatrix" } else { "stmatrix" })?;
        let count = usize::from(inst.mods & 7);
        let trans = inst.mods >> 3 & 1 != 0;
        let window = Window::from_bits(inst.mods >> 4);
        let start = inst.a as usize;
        let (base, regs) = match load {
            true => (self.code.lists[start + count], start..start + count),
            false => (self.code.lists[start], start + 1..start + 1 + count),
        };
        let mut addrs = frame.load::<u64>(base);
        // Lane i of the first 8 * count gives the address of row i % 8 of matrix i / 8.
        let givers = (u64::from(FULL) >> (32 - 8 * count)) as u32;
        let kind = if load { AccessKind::Load } else { AccessKind::Store };
        let p = self.reach(w, window, &mut addrs, givers, 16, 16, kind, false, pc)?;
        for m in 0..count {
            let reg = self.code.lists[regs.start + m];
            let mut row = if load { [0; LANES] } else { frame.load::<u32>(reg) };
            for lane in 0..LANES {
                // A lane holds two neighbours of a row, or of a column when transposed.
                for half in 0..2 {
                    let (r, c) = (lane / 4, lane % 4 * 2 + half);
                    let (r, c) = if trans { (c, r) } else { (r, c) };
                    let at = p[8 * m + r] + 2 * c;
                    // SAFETY: `reach` checked 16 bytes of each row.
                    unsafe {
                        if load {
                            row[lane] |= (space::read::<2>(at) as u32) << (16 * half);
                        } else {
                            space::write::<2>(at, u64::from(row[lane] >> (16 * half)));
                        }
                    }
                }
            }
            if load {
                frame.store::<u32>(reg, FULL, row);
            }
        }
        Ok(())
    }

    fn mma(&mut self, w: &Warp, inst: &Inst, frame: &Frame, mask: u32, pc: u32) -> Result<()> {
        self.converged(w, mask, pc, "mma")?;
        let Extra::Mma(shape) = self.code.extras[inst.imm as usize] else { return Ok(()) };
        let results = usize::from(inst.results);
        let start = inst.a as usize;
        let list = &self.code.lists[start..start + results + inst.b as usize];
        let (d, uses) = list.split_at(results);
        let a_regs = (uses.len() - results) * 2 / 3;
        let mut f = Fragments { a: [[0; 32]; 4], b: [[0; 32]; 2], c: [[0; 32]; 4] };
        for (to, &from) in f.a.iter_mut().zip(&uses[..a_regs]) {
            *to = frame.load::<u32>(from);
        }
        for (to, &from) in f.b.iter_mut().zip(&uses[a_regs..uses.len() - results]) {
            *to = frame.load::<u32>(from);
        }
        for (to, &from) in f.c.iter_mut().zip(&uses[uses.len() - results..]) {
            *to = frame.load::<u32>(from);
        }
        // SAFETY: the level was chosen by what this machine has.
        let out = unsafe { (self.level.mma)(&shape, &f) };
        for (&d, row) in d.iter().zip(out) {
            frame.store::<u32>(d, FULL, row);
        }
        Ok(())
    }

    // ---- between the lanes of a warp ----

    /// Lanes arrive at an operation for `members`; those that wait stop running. The groups that are complete come back.
    fn gather(
        &mut self,
        w: &mut Warp,
        inst: &Inst,
        members: &[u32; LANES],
        mask: u32,
        pc: u32,
    ) -> Result<Vec<u32>> {
        let mut groups = Vec::new();
        let mut todo = mask;
        while todo != 0 {
            let lane = todo.trailing_zeros() as usize;
            let named = members[lane];
            let want = named & w.exists;
            let mut group = lanes(todo).fold(0, |m, i| m | u32::from(members[i] == named) << i);
            todo &= !group;
            if group & !want != 0 {
                let lane = (group & !want).trailing_zeros() as usize;
                let m = format!("the mask {named:#010x} does not name the lane that executes it");
                return wrong(FaultKind::Sync, pc, lane, m);
            }
            let gone = want & !w.live;
            if gone != 0 {
                let m =
                    format!("the mask {named:#010x} names lane {}, which has exited", gone.trailing_zeros());
                return wrong(FaultKind::Sync, pc, lane, m);
            }
            // A warp barrier meets any other with the same mask; the rest must be the same instruction.
            let meets = |i: usize| {
                w.members[i] == want
                    && (w.lane_pc[i] == pc
                        || inst.op == Op::WarpBar && self.code.insts[w.lane_pc[i] as usize].op == Op::WarpBar)
            };
            group |= lanes(w.waiting).fold(0, |m, i| m | u32::from(meets(i)) << i);
            if group == want {
                groups.push(group);
                let waited = group & w.waiting;
                w.waiting &= !waited;
                for lane in lanes(waited) {
                    w.lane_pc[lane] += 1;
                }
                w.wake(waited);
                if !w.fair {
                    // They are at the next instruction, as are the lanes that run.
                    w.next = w.lowest_ready();
                }
            } else {
                let arrived = group & mask;
                w.park(arrived, pc);
                lanes(arrived).for_each(|lane| w.members[lane] = want);
                w.waiting |= arrived;
                w.active &= !arrived;
            }
        }
        Ok(groups)
    }

    fn exchange(&mut self, w: &mut Warp, inst: &Inst, frame: &Frame, mask: u32, pc: u32) -> Result<()> {
        let start = inst.a as usize;
        let list = &self.code.lists;
        let results = usize::from(inst.results);
        let members_row = match inst.op {
            Op::WarpBar => inst.a,
            _ => list[start + results + inst.b as usize - 1],
        };
        let members = frame.load::<u32>(members_row);
        if mask == FULL && members == [FULL; LANES] {
            self.exchange_group(inst, frame, FULL);
            return Ok(());
        }
        for group in self.gather(w, inst, &members, mask, pc)? {
            self.exchange_group(inst, frame, group);
        }
        Ok(())
    }

    /// What the lanes of a group exchange.
    fn exchange_group(&self, inst: &Inst, frame: &Frame, group: u32) {
        if inst.op == Op::WarpBar {
            return;
        }
        let start = inst.a as usize;
        let results = usize::from(inst.results);
        let list = &self.code.lists[start..start + results + inst.b as usize];
        let (d, uses) = list.split_at(results);
        match inst.op {
            Op::Shfl => {
                let (a, b, c) =
                    (frame.load::<u32>(uses[0]), frame.load::<u32>(uses[1]), frame.load::<u32>(uses[2]));
                let (mut out, mut valid) = ([0; LANES], 0);
                for lane in 0..LANES {
                    let (from, ok) = shuffle(inst.mods, lane as u32, b[lane], c[lane]);
                    // A source outside of the group is undefined on a device; its register is what there is.
                    out[lane] = a[from as usize];
                    valid |= u32::from(ok) << lane;
                }
                frame.store::<u32>(d[0], group, out);
                frame.set_pred(d[1], group, valid);
            }
            Op::Vote => {
                let p = frame.pred(uses[0]) & group;
                if inst.mods == VoteMode::Ballot as u16 {
                    frame.store::<u32>(d[0], group, [p; LANES]);
                    return;
                }
                let yes = match inst.mods {
                    m if m == VoteMode::All as u16 => p == group,
                    m if m == VoteMode::Any as u16 => p != 0,
                    _ => p == 0 || p == group,
                };
                frame.set_pred(d[0], group, u32::from(yes).wrapping_neg());
            }
            Op::MatchAny | Op::MatchAll => {
                let a = match inst.mods {
                    1 => frame.load::<u64>(uses[0]),
                    _ => frame.load::<u32>(uses[0]).map(u64::from),
                };
                if inst.op == Op::MatchAny {
                    let mut out = [0; LANES];
                    for lane in lanes(group) {
                        out[lane] = lanes(group).fold(0, |m, i| m | u32::from(a[i] == a[lane]) << i);
                    }
                    frame.store::<u32>(d[0], group, out);
                } else {
                    let first = a[group.trailing_zeros() as usize % LANES];
                    let same = lanes(group).all(|i| a[i] == first);
                    frame.store::<u32>(d[0], group, [if same { group } else { 0 }; LANES]);
                    frame.set_pred(d[1], group, u32::from(same).wrapping_neg());
                }
            }
            Op::Redux => {
                let Extra::Redux(op, ty) = self.code.extras[inst.imm as usize] else { return };
                let a = frame.load::<u32>(uses[0]);
                let values = lanes(group).map(|i| u64::from(a[i]));
                let out = values.reduce(|x, y| atomic::combine(op, ty, x, y)).unwrap_or(0);
                frame.store::<u32>(d[0], group, [out as u32; LANES]);
            }
            _ => {
                let leader = group.trailing_zeros();
                frame.store::<u32>(d[0], group, [leader; LANES]);
                frame.set_pred(d[1], group, 1u32.checked_shl(leader).unwrap_or(0));
            }
        }
    }

    // ---- between the warps of a block ----

    fn barrier(&mut self, w: &mut Warp, inst: &Inst, frame: &Frame, mask: u32, pc: u32) -> Result<()> {
        let Extra::Bar(bar) = self.code.extras[inst.imm as usize] else { return Ok(()) };
        let uses = &self.code.lists[inst.a as usize + usize::from(inst.results)..];
        let (ids, counts) = (frame.load::<u32>(uses[0]), frame.load::<u32>(uses[1]));
        let first = mask.trailing_zeros() as usize;
        if let Err(f) = self.observer.arrive(w.id, pc, mask, w.live, bar.aligned, ids[first]) {
            return Err(Self::found(f, pc));
        }
        for lane in lanes(mask) {
            if ids[lane] > 15 {
                return wrong(
                    FaultKind::Sync,
                    pc,
                    lane,
                    format!("there is no barrier {}, only 0 to 15", ids[lane]),
                );
            }
            if ids[lane] != ids[first] || counts[lane] != counts[first] {
                let m = "lanes of one warp name different barriers or numbers of threads".to_string();
                return wrong(FaultKind::Sync, pc, lane, m);
            }
        }
        let (id, count) = (ids[first] as usize, counts[first]);
        let threads: u32 = self.block_dim.iter().product();
        if bar.counted && (count == 0 || !count.is_multiple_of(32) || count > threads.next_multiple_of(32)) {
            let m = format!(
                "a barrier of {count} threads in a block of {threads}: not a multiple of 32 in its range"
            );
            return wrong(FaultKind::Sync, pc, first, m);
        }
        let expected = if bar.counted { count } else { 0 };
        let b = &mut self.barriers[id];
        if b.arrived > 0 && b.expected != expected {
            let m = format!(
                "barrier {id} is used at once for {} and for {expected} threads (0 is all)",
                b.expected
            );
            return wrong(FaultKind::Sync, pc, first, m);
        }
        b.expected = expected;
        // A barrier with a count works on whole warps: lanes that do not exist count as arrived.
        let missing = if bar.counted && mask == w.live { (!w.exists).count_ones() } else { 0 };
        b.arrived += mask.count_ones() + missing;
        if matches!(bar.mode, BarMode::RedPopc | BarMode::RedAnd | BarMode::RedOr) {
            b.trues += (frame.pred(uses[2]) & mask).count_ones();
        }
        if bar.mode != BarMode::Arrive {
            w.park(mask, pc + 1);
            lanes(mask).for_each(|lane| w.barrier[lane] = id as u8);
            w.barred |= mask;
            w.active &= !mask;
        }
        if self.barriers[id].is_complete(self.live) {
            self.complete |= 1 << id;
        }
        Ok(())
    }

    /// Lets the lanes of a warp go on that wait at a barrier, with the results of a reduction.
    pub fn release(&self, w: &mut Warp, id: u8, barrier: Barrier, regs: *mut Row, preds: *mut u32) {
        let mask = lanes(w.barred).fold(0, |m, i| m | u32::from(w.barrier[i] == id) << i);
        // SAFETY: as in `run`.
        let frame = unsafe { Frame::new(self.code, regs, preds) };
        let mut todo = mask;
        while todo != 0 {
            let pc = w.lane_pc[todo.trailing_zeros() as usize];
            let group = lanes(todo).fold(0, |m, i| m | u32::from(w.lane_pc[i] == pc) << i);
            todo &= !group;
            let inst = &self.code.insts[pc as usize - 1];
            let Extra::Bar(Bar { mode, .. }) = self.code.extras[inst.imm as usize] else { continue };
            let d = || self.code.lists[inst.a as usize];
            let all = |yes: bool| u32::from(yes).wrapping_neg();
            match mode {
                BarMode::RedPopc => frame.store::<u32>(d(), group, [barrier.trues; LANES]),
                BarMode::RedAnd => frame.set_pred(d(), group, all(barrier.trues == barrier.arrived)),
                BarMode::RedOr => frame.set_pred(d(), group, all(barrier.trues > 0)),
                BarMode::Sync | BarMode::Arrive => {}
            }
        }
        w.barred &= !mask;
        w.wake(mask);
    }

    // ---- the rest ----

    fn special(&self, w: &Warp, inst: &Inst, frame: &Frame, mask: u32) {
        let lane = |f: fn(u32) -> u32| {
            let mut out = [0; LANES];
            for (i, x) in out.iter_mut().enumerate() {
                *x = f(i as u32);
            }
            out
        };
        let uniform = |x: u32| [x; LANES];
        let block = || {
            let [gx, gy, _] = self.grid;
            let [x, y, z] = self.block;
            u64::from(x) + u64::from(gx) * (u64::from(y) + u64::from(gy) * u64::from(z))
        };
        // Multiprocessors of an A100; blocks are dealt to them in turn.
        const SMS: u32 = 108;
        const ALL: [Special; 33] = {
            use Special::*;
            [
                TidX,
                TidY,
                TidZ,
                NtidX,
                NtidY,
                NtidZ,
                CtaidX,
                CtaidY,
                CtaidZ,
                NctaidX,
                NctaidY,
                NctaidZ,
                Laneid,
                Warpid,
                Nwarpid,
                LanemaskEq,
                LanemaskLe,
                LanemaskLt,
                LanemaskGe,
                LanemaskGt,
                Smid,
                Nsmid,
                Gridid,
                Clock,
                ClockHi,
                Clock64,
                Globaltimer,
                GlobaltimerLo,
                GlobaltimerHi,
                DynamicSmemSize,
                TotalSmemSize,
                Zero,
                One,
            ]
        };
        let row = match ALL[inst.imm as usize] {
            Special::TidX => w.tid[0],
            Special::TidY => w.tid[1],
            Special::TidZ => w.tid[2],
            Special::NtidX => uniform(self.block_dim[0]),
            Special::NtidY => uniform(self.block_dim[1]),
            Special::NtidZ => uniform(self.block_dim[2]),
            Special::CtaidX => uniform(self.block[0]),
            Special::CtaidY => uniform(self.block[1]),
            Special::CtaidZ => uniform(self.block[2]),
            Special::NctaidX => uniform(self.grid[0]),
            Special::NctaidY => uniform(self.grid[1]),
            Special::NctaidZ => uniform(self.grid[2]),
            Special::Laneid => lane(|i| i),
            Special::Warpid => uniform(w.id),
            Special::Nwarpid => uniform(self.block_dim.iter().product::<u32>().div_ceil(32)),
            Special::LanemaskEq => lane(|i| 1 << i),
            Special::LanemaskLt => lane(|i| (1 << i) - 1),
            Special::LanemaskLe => lane(|i| u32::MAX >> (31 - i)),
            Special::LanemaskGe => lane(|i| u32::MAX << i),
            Special::LanemaskGt => lane(|i| u32::MAX.checked_shl(i + 1).unwrap_or(0)),
            Special::Smid => uniform((block() % u64::from(SMS)) as u32),
            Special::Nsmid => uniform(SMS),
            Special::Gridid | Special::Zero => uniform(0),
            Special::One => uniform(1),
            // Time is counted in instructions of the warp.
            Special::Clock | Special::GlobaltimerLo => uniform(w.clock as u32),
            Special::ClockHi | Special::GlobaltimerHi => uniform((w.clock >> 32) as u32),
            Special::Clock64 | Special::Globaltimer => {
                return frame.store::<u64>(inst.d, mask, [w.clock; LANES]);
            }
            Special::DynamicSmemSize => uniform(self.dynamic_shared),
            Special::TotalSmemSize => uniform(self.space.shared_bytes as u32),
        };
        frame.store::<u32>(inst.d, mask, row);
    }

    /// The message of `__assertfail`, read from the module's constants.
    fn assert(&mut self, inst: &Inst, frame: &Frame, mask: u32, pc: u32) -> Result<Stop> {
        let lane = mask.trailing_zeros() as usize;
        let uses: Vec<u32> = self.code.lists[inst.a as usize..][..4].to_vec();
        let mut text = |row: u32| {
            let mut out = String::new();
            let mut addr = frame.load::<u64>(row)[lane];
            while out.len() < 1024 {
                let Ok((p, _)) = self.space.resolve(Window::Generic, &mut [addr; LANES], 1 << lane, 1, 1)
                else {
                    break;
                };
                // SAFETY: `resolve` checked the byte.
                match unsafe { space::read::<1>(p[lane]) } as u8 {
                    0 => break,
                    byte => out.push(char::from(byte)),
                }
                addr += 1;
            }
            out
        };
        let (message, file, function) = (text(uses[0]), text(uses[1]), text(uses[3]));
        let line = frame.load::<u32>(uses[2])[lane];
        let m = format!("assertion `{message}` failed at {file}:{line} in {function}");
        wrong(FaultKind::Assert, pc, lane, m)
    }

    /// A lane that waits for ever in a warp where nothing can run, with the reason.
    pub fn stuck(&self, w: &Warp) -> Option<Box<Wrong>> {
        let lane = w.waiting | w.barred;
        if lane == 0 {
            return None;
        }
        let (lane, pc, message) = if w.waiting != 0 {
            let lane = w.waiting.trailing_zeros() as usize;
            let absent = w.members[lane] & !w.waiting;
            let m = match absent {
                0 => "lanes of one mask wait at different instructions".to_string(),
                _ => format!("waits for lane {} of its warp, which never comes", absent.trailing_zeros()),
            };
            (lane, w.lane_pc[lane], m)
        } else {
            let lane = w.barred.trailing_zeros() as usize;
            let id = usize::from(w.barrier[lane]);
            let b = self.barriers[id];
            let want = if b.expected == 0 { self.live } else { b.expected };
            let m = format!(
                "waits at barrier {id}, where {} of {want} threads have arrived and no more come",
                b.arrived
            );
            (lane, w.lane_pc[lane] - 1, m)
        };
        let kind = FaultKind::Sync;
        Some(Box::new(Wrong { kind, lane: lane as u32, pc, message, addr: None, global: false, other: None }))
    }
}

/// The source lane of a shuffle, and whether it is in range.
#[inline(always)]
fn shuffle(mode: u16, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (b, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
    let max = (lane & segment) | (clamp & !segment);
    let min = lane & segment;
    let (from, ok) = match mode {
        m if m == ShflMode::Up as u16 => (lane.wrapping_sub(b), lane as i32 - b as i32 >= max as i32),
        m if m == ShflMode::Down as u16 => (lane + b, lane + b <= max),
        m if m == ShflMode::Bfly as u16 => (lane ^ b, lane ^ b <= max),
        _ => (min | (b & !segment), min | (b & !segment) <= max),
    };
    (if ok { from & 31 } else { lane }, ok)
}

/// A value that was read, extended to its register.
#[inline(always)]
fn extend(x: u64, access: Access) -> u64 {
    let shift = 64 - 8 * u32::from(access.bytes);
    let x = if access.signed { ((x << shift) as i64 >> shift) as u64 } else { x };
    x & (u64::MAX >> (64 - access.reg))
}

trait Slot: Copy {
    fn from_bits(x: u64) -> Self;
    fn bits(self) -> u64;
}
impl Slot for u32 {
    #[inline(always)]
    fn from_bits(x: u64) -> Self {
        x as u32
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        self.into()
    }
}
impl Slot for u64 {
    #[inline(always)]
    fn from_bits(x: u64) -> Self {
        x
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        self
    }
}

/// Reads an element for each lane of a mask into a row.
///
/// # Safety
/// `d` is a row of `T`; `p + at` is readable as [`space::read`] wants in the lanes of the mask.
#[inline(always)]
unsafe fn read_row<const BYTES: u8, T: Slot>(d: *mut T, p: &Pointers, at: usize, mask: u32) {
    // SAFETY: by the caller's promise.
    unsafe {
        if mask == FULL {
            for lane in 0..LANES {
                *d.add(lane) = T::from_bits(space::read::<BYTES>(p[lane] + at));
            }
        } else {
            for lane in lanes(mask) {
                *d.add(lane) = T::from_bits(space::read::<BYTES>(p[lane] + at));
            }
        }
    }
}

/// As [`read_row`] for elements that are narrower than their registers.
///
/// # Safety
/// As for [`read_row`].
unsafe fn read_extended(frame: &Frame, d: u32, p: &Pointers, at: usize, mask: u32, access: Access) {
    for lane in lanes(mask) {
        // SAFETY: by the caller's promise.
        unsafe {
            let x = match access.bytes {
                1 => space::read::<1>(p[lane] + at),
                2 => space::read::<2>(p[lane] + at),
                4 => space::read::<4>(p[lane] + at),
                _ => space::read::<8>(p[lane] + at),
            };
            let x = extend(x, access);
            if access.reg == 64 {
                *frame.lanes::<u64>(d).add(lane) = x;
            } else {
                *frame.lanes::<u32>(d).add(lane) = x as u32;
            }
        }
    }
}

/// Writes an element for each lane of a mask; of lanes with the same address the highest wins.
///
/// # Safety
/// `p + at` is writable as [`space::write`] wants in the lanes of the mask.
#[inline(always)]
unsafe fn write_row<const BYTES: u8, T: Slot>(values: [T; LANES], p: &Pointers, at: usize, mask: u32) {
    // SAFETY: by the caller's promise.
    unsafe {
        if mask == FULL {
            for lane in 0..LANES {
                space::write::<BYTES>(p[lane] + at, values[lane].bits());
            }
        } else {
            for lane in lanes(mask) {
                space::write::<BYTES>(p[lane] + at, values[lane].bits());
            }
        }
    }
}
