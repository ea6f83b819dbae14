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

/// Lanes that execute one operation together: instructions that are the same but for their registers, and the lanes at
/// each.
type Group<'a> = Vec<(&'a Inst, u32)>;

/// Lets lanes go on that waited at an instruction which has now been executed.
pub(super) fn resume(w: &mut Warp, waited: u32) {
    if waited == 0 {
        return;
    }
    w.waiting &= !waited;
    lanes(waited).for_each(|lane| w.lane_pc[lane] += 1);
    w.wake(waited);
    if !w.fair {
        // They are at the next instruction, as are the lanes that run.
        w.next = w.lowest_ready();
    }
}

/// Lets lanes wait at an instruction for `members`.
fn wait(w: &mut Warp, mask: u32, members: u32, pc: u32) {
    w.park(mask, pc);
    lanes(mask).for_each(|lane| w.members[lane] = members);
    w.waiting |= mask;
    w.active &= !mask;
}

impl<'a, O: Observer> Machine<'a, O> {
    /// Lanes arrive at an instruction that `members` execute together, however each of them came to it: code of a branch
    /// may lie behind it. Once all are here, those that waited; [`resume`] them when it is done.
    pub(super) fn assemble(&self, w: &mut Warp, mask: u32, members: u32, pc: u32) -> Option<u32> {
        let waited = lanes(w.waiting).fold(0, |m, i| m | u32::from(w.lane_pc[i] == pc) << i);
        if mask | waited == members {
            return Some(waited);
        }
        wait(w, mask, members, pc);
        None
    }

    /// Whether lanes at these instructions may meet: "the same qualifiers" (PTX ISA), whatever the registers.
    fn alike(&self, a: &Inst, b: &Inst) -> bool {
        let redux = |inst: &Inst| match self.code.extras.get(inst.imm as usize) {
            Some(Extra::Redux(op, ty)) if inst.op == Op::Redux => Some((*op, *ty)),
            _ => None,
        };
        a.op == b.op && a.mods == b.mods && redux(a) == redux(b)
    }

    /// Lanes arrive at an operation for `members`; those that wait stop running. The groups that are complete come back.
    fn gather(
        &mut self,
        w: &mut Warp,
        inst: &'a Inst,
        members: &[u32; LANES],
        mask: u32,
        pc: u32,
    ) -> Result<Vec<Group<'a>>> {
        let code = self.code;
        let mut groups = Vec::new();
        let mut todo = mask;
        while todo != 0 {
            let lane = todo.trailing_zeros() as usize;
            let named = members[lane];
            let want = named & w.exists;
            let group = lanes(todo).fold(0, |m, i| m | u32::from(members[i] == named) << i);
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
            let at = |i: usize| &code.insts[w.lane_pc[i] as usize];
            let meets = |i: usize| w.members[i] == want && self.alike(inst, at(i));
            let waited = lanes(w.waiting).fold(0, |m, i| m | u32::from(meets(i)) << i);
            if group | waited != want {
                wait(w, group, want, pc);
                continue;
            }
            let mut parts = vec![(inst, group)];
            for lane in lanes(waited) {
                match parts.iter_mut().find(|(inst, _)| std::ptr::eq(*inst, at(lane))) {
                    Some((_, mask)) => *mask |= 1 << lane,
                    None => parts.push((at(lane), 1 << lane)),
                }
            }
            groups.push(parts);
            resume(w, waited);
        }
        Ok(groups)
    }

    pub(super) fn exchange(
        &mut self,
        w: &mut Warp,
        inst: &'a Inst,
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
            self.exchange_group(&[(inst, FULL)], frame);
            return Ok(());
        }
        for group in self.gather(w, inst, &members, mask, pc)? {
            self.exchange_group(&group, frame);
        }
        Ok(())
    }

    /// What the lanes of a group exchange.
    fn exchange_group(&self, parts: &[(&Inst, u32)], frame: &Frame) {
        let (inst, _) = parts[0];
        if inst.op == Op::WarpBar {
            return;
        }
        let group = parts.iter().fold(0, |m, (_, mask)| m | mask);
        let results = usize::from(inst.results);
        let row = |inst: &Inst, i: usize| self.code.lists[inst.a as usize + i];
        let load = |i: usize| {
            let mut out = frame.load::<u32>(row(inst, results + i));
            for &(other, mask) in &parts[1..] {
                let theirs = frame.load::<u32>(row(other, results + i));
                lanes(mask).for_each(|lane| out[lane] = theirs[lane]);
            }
            out
        };
        let store = |i: usize, values: [u32; LANES]| {
            parts.iter().for_each(|&(inst, mask)| frame.store::<u32>(row(inst, i), mask, values));
        };
        let set_pred = |i: usize, value: u32| {
            parts.iter().for_each(|&(inst, mask)| frame.set_pred(row(inst, i), mask, value));
        };
        match inst.op {
            Op::Shfl => {
                let (a, b, c) = (load(0), load(1), load(2));
                let (mut out, mut valid) = ([0; LANES], 0);
                for lane in 0..LANES {
                    let (from, ok) = shuffle(inst.mods, lane as u32, b[lane], c[lane]);
                    // A source outside of the group is undefined on a device; its register is what there is.
                    out[lane] = a[from as usize];
                    valid |= u32::from(ok) << lane;
                }
                store(0, out);
                set_pred(1, valid);
            }
            Op::Vote => {
                let yes = |&(inst, mask): &(&Inst, u32)| frame.pred(row(inst, results)) & mask;
                let p = parts.iter().fold(0, |m, part| m | yes(part));
                let yes = match inst.mods {
                    m if m == VoteMode::Ballot as u16 => return store(0, [p; LANES]),
                    m if m == VoteMode::All as u16 => p == group,
                    m if m == VoteMode::Any as u16 => p != 0,
                    _ => p == 0 || p == group,
                };
                set_pred(0, u32::from(yes).wrapping_neg());
            }
            Op::MatchAny | Op::MatchAll => {
                let mut a = [0u64; LANES];
                for &(inst, mask) in parts {
                    let theirs = match inst.mods {
                        1 => frame.load::<u64>(row(inst, results)),
                        _ => frame.load::<u32>(row(inst, results)).map(u64::from),
                    };
                    lanes(mask).for_each(|lane| a[lane] = theirs[lane]);
                }
                if inst.op == Op::MatchAny {
                    let mut out = [0; LANES];
                    for lane in lanes(group) {
                        out[lane] = lanes(group).fold(0, |m, i| m | u32::from(a[i] == a[lane]) << i);
                    }
                    store(0, out);
                } else {
                    let first = a[group.trailing_zeros() as usize % LANES];
                    let same = lanes(group).all(|i| a[i] == first);
                    store(0, [if same { group } else { 0 }; LANES]);
                    set_pred(1, u32::from(same).wrapping_neg());
                }
            }
            Op::Redux => {
                let Extra::Redux(op, ty) = self.code.extras[inst.imm as usize] else { return };
                let a = load(0);
                let values = lanes(group).map(|i| u64::from(a[i]));
                let out = values.reduce(|x, y| atomic::combine(op, ty, x, y)).unwrap_or(0);
                store(0, [out as u32; LANES]);
            }
            _ => {
                let leader = group.trailing_zeros();
                store(0, [leader; LANES]);
                set_pred(1, 1u32.checked_shl(leader).unwrap_or(0));
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
