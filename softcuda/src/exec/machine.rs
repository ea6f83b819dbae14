//! The interpreter: one warp until it ends, waits or has run for a while.
//!
//! What an instruction does is elsewhere: [`super::alu`] has the arithmetic, [`super::access`] loads, stores and
//! atomics, [`super::async_copy`], [`super::matrix`], [`super::exchange`], [`super::barrier`] and [`super::special`] the
//! rest.

use super::{
    barrier::Barrier,
    code::{Code, FULL, Inst, LANES, Op, Row, Window},
    frame::Frame,
    level::Level,
    observe::{Finding, Observer},
    space::{self, Space, generic},
    warp::{Warp, lanes},
};
use crate::fault::FaultKind;

/// Instructions that a warp runs before another gets its turn.
const QUANTUM: u32 = 4096;
/// Instructions that lanes which are not at the lowest program counter run when their turn comes.
const FAIR: u32 = 512;

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

pub type Result<T> = std::result::Result<T, Box<Wrong>>;

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

/// The error of a lane at an instruction.
pub fn wrong<T>(kind: FaultKind, pc: u32, lane: usize, message: String) -> Result<T> {
    Err(Box::new(Wrong { kind, lane: lane as u32, pc, message, addr: None, global: false, other: None }))
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
}

/// What an observer found, as an error of this instruction.
#[cold]
pub fn found(f: Finding, pc: u32) -> Box<Wrong> {
    let global = f.addr.is_some();
    let Finding { kind, lane, message, addr, other } = f;
    Box::new(Wrong { kind, lane, pc, message, addr, global, other })
}
