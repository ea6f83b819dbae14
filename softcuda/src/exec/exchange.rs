//! Between the lanes of a warp: shuffles, votes, matches, reductions, and the waiting for a mask of lanes.

use super::{
    atomic,
    code::{Extra, FULL, Inst, LANES, Op, ShflMode, VoteMode},
    frame::Frame,
    machine::{Machine, Result, wrong},
    observe::Observer,
    warp::{Warp, lanes},
};
use crate::fault::FaultKind;

impl<O: Observer> Machine<'_, O> {
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

    pub(super) fn exchange(
        &mut self,
        w: &mut Warp,
        inst: &Inst,
        frame: &Frame,
        mask: u32,
        pc: u32,
    ) -> Result<()> {
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
