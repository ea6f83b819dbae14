//! Between the warps of a block: barriers, and those who wait for ever.

use super::{
    code::{ALWAYS, Bar, BarMode, Extra, Inst, LANES, Op, Row},
    exchange::resume,
    frame::Frame,
    machine::{Machine, Result, Wrong, wrong},
    observe::Observer,
    warp::{Warp, lanes},
};
use crate::fault::FaultKind;

/// A barrier of a block.
#[derive(Debug, Clone, Copy, Default)]
pub struct Barrier {
    /// Threads that arrived.
    pub arrived: u32,
    /// How many are expected; 0 for all.
    pub expected: u32,
    /// Used by `bar.red`, which does not mix with the rest.
    pub red: bool,
    /// Predicates of `bar.red`: how many are true.
    pub trues: u32,
}

impl Barrier {
    /// Whether all have arrived, with so many threads alive.
    pub fn is_complete(&self, live: u32) -> bool {
        self.arrived > 0 && self.arrived >= if self.expected == 0 { live } else { self.expected }
    }
}

impl<O: Observer> Machine<'_, O> {
    pub(super) fn barrier(
        &mut self,
        w: &mut Warp,
        inst: &Inst,
        frame: &Frame,
        mask: u32,
        pc: u32,
    ) -> Result<()> {
        let Extra::Bar(bar) = self.code.extras[inst.imm as usize] else { return Ok(()) };
        let uses = &self.code.lists[inst.a as usize + usize::from(inst.results)..];
        let (ids, counts) = (frame.load::<u32>(uses[0]), frame.load::<u32>(uses[1]));
        // Lanes of the warp that are neither here nor on their way out.
        let away = lanes(w.live & !mask).filter(|&lane| !self.leaves(w, lane)).fold(0, |m, i| m | 1 << i);
        let mut waited = 0;
        if bar.aligned && away != 0 && self.observer.whole_warps() {
            match self.assemble(w, mask, mask | away, pc) {
                Some(lanes) => waited = lanes,
                None => return Ok(()),
            }
        }
        let mask = mask | waited;
        let first = mask.trailing_zeros() as usize;
        self.observer.arrive(w.id, ids[first]);
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
        let red = matches!(bar.mode, BarMode::RedPopc | BarMode::RedAnd | BarMode::RedOr);
        if b.arrived > 0 && b.red != red {
            let m = format!("barrier {id} is used at once with a reduction and without");
            return wrong(FaultKind::Sync, pc, first, m);
        }
        (b.expected, b.red) = (expected, red);
        // A barrier with a count works on whole warps: lanes that do not exist or exit count as arrived.
        let missing = if bar.counted && away & !waited == 0 { (!mask).count_ones() } else { 0 };
        b.arrived += mask.count_ones() + missing;
        if red {
            b.trues += (frame.pred(uses[2]) & mask).count_ones();
        }
        if bar.mode == BarMode::Arrive {
            resume(w, waited);
        } else {
            w.waiting &= !waited;
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

    /// Whether the next thing that a lane does is to exit: a `return` before the barrier may be a branch to the end.
    fn leaves(&self, w: &Warp, lane: usize) -> bool {
        if (w.waiting | w.barred) >> lane & 1 != 0 {
            return false;
        }
        let mut pc = if w.active >> lane & 1 != 0 { w.pc } else { w.lane_pc[lane] };
        // As many branches in a row as compilers leave.
        for _ in 0..8 {
            let inst = &self.code.insts[pc as usize];
            match inst.op {
                Op::Exit if u32::from(inst.guard) == ALWAYS => return true,
                Op::Bra if u32::from(inst.guard) == ALWAYS => pc = inst.a,
                _ => return false,
            }
        }
        false
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
                0 => "lanes of one mask wait at different operations".to_string(),
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
