//! Registers to rows: liveness over the control flow, then a linear scan; and the final encoding.
//!
//! A lane follows its own path through the program, and a masked write leaves the other lanes alone. So what holds
//! for one thread alone holds for each lane, and rows may be shared as a compiler for one thread would.

use std::collections::BTreeMap;

use super::{Lower, Reg, Result, Src, Virtual};
use crate::{
    exec::code::{ALWAYS, Access, AtomOp, CONST, Code, Extra, Inst, Op, Window},
    fault::LoadError,
};

/// Rows of a warp.
const MAX_ROWS: u32 = 1 << 14;
/// Work that liveness may take, in words of its bit sets.
const MAX_WORDS: usize = 1 << 26;

/// Whether a result may overwrite an operand that is read for the last time: lane by lane operations only.
fn elementwise(op: Op) -> bool {
    let cross_lane = matches!(
        op,
        Op::Ld
            | Op::Atom
            | Op::Ldmatrix
            | Op::Mma
            | Op::Shfl
            | Op::Vote
            | Op::MatchAny
            | Op::MatchAll
            | Op::Redux
            | Op::Bar
            | Op::Elect
            | Op::AddC32
            | Op::AddC64
            | Op::SubC32
            | Op::SubC64
    );
    !cross_lane
}

/// The registers an instruction reads, its guard included; a guarded write also keeps the old value alive.
fn reads(inst: &Virtual, mut f: impl FnMut(Reg)) {
    for src in &inst.uses {
        if let Src::Reg(reg) = src {
            f(*reg);
        }
    }
    if let Some((p, _)) = inst.guard {
        f(p);
        inst.defs.iter().copied().for_each(&mut f);
    }
}

/// The last instruction of a block, and where control goes after it.
struct Block {
    start: usize,
    end: usize,
    next: Vec<usize>,
}

fn blocks(insts: &[Virtual], target: impl Fn(u32) -> usize) -> Vec<Block> {
    let mut leader = vec![false; insts.len() + 1];
    leader[0] = true;
    for (i, inst) in insts.iter().enumerate() {
        inst.targets.iter().for_each(|&t| leader[target(t)] = true);
        if matches!(inst.op, Op::Bra | Op::Brx | Op::Exit) {
            leader[i + 1] = true;
        }
    }
    let starts: Vec<usize> = (0..insts.len()).filter(|&i| leader[i]).collect();
    let block_of = |i: usize| starts.partition_point(|&s| s <= i) - 1;
    let mut all = Vec::with_capacity(starts.len());
    for (b, &start) in starts.iter().enumerate() {
        let end = starts.get(b + 1).copied().unwrap_or(insts.len());
        let last = &insts[end - 1];
        let mut next: Vec<usize> = last.targets.iter().map(|&t| block_of(target(t))).collect();
        let falls = match last.op {
            Op::Bra | Op::Exit => last.guard.is_some(),
            Op::Brx => last.guard.is_some(),
            _ => true,
        };
        if falls && end < insts.len() {
            next.push(b + 1);
        }
        all.push(Block { start, end, next });
    }
    all
}

/// For each register, the first and last position at which it must keep its row: `2 i` reads, `2 i + 1` writes.
fn intervals(insts: &[Virtual], regs: usize, blocks: &[Block]) -> Vec<(usize, usize)> {
    let words = regs.div_ceil(64);
    let mut spans = vec![(usize::MAX, 0); regs];
    let mut touch = |reg: Reg, at: usize| {
        let span = &mut spans[reg as usize];
        *span = (span.0.min(at), span.1.max(at));
    };
    for (i, inst) in insts.iter().enumerate() {
        let read = if elementwise(inst.op) { 2 * i } else { 2 * i + 1 };
        reads(inst, |reg| {
            touch(reg, 2 * i);
            touch(reg, read);
        });
        inst.defs.iter().for_each(|&reg| touch(reg, 2 * i + 1));
    }
    if words.saturating_mul(blocks.len()) > MAX_WORDS {
        // Too large to be worth it: every register keeps its row from beginning to end.
        return spans.into_iter().map(|s| if s.0 == usize::MAX { s } else { (0, 2 * insts.len()) }).collect();
    }
    let mut live_in = vec![0u64; words * blocks.len()];
    let mut live = vec![0u64; words];
    let mut todo: Vec<usize> = (0..blocks.len()).collect();
    let mut queued = vec![true; blocks.len()];
    let mut before: Vec<Vec<usize>> = vec![Vec::new(); blocks.len()];
    for (b, block) in blocks.iter().enumerate() {
        block.next.iter().for_each(|&n| before[n].push(b));
    }
    let mut effort = 0usize;
    while let Some(b) = todo.pop() {
        queued[b] = false;
        let block = &blocks[b];
        effort += words + block.end - block.start;
        if effort > MAX_WORDS {
            return spans
                .into_iter()
                .map(|s| if s.0 == usize::MAX { s } else { (0, 2 * insts.len()) })
                .collect();
        }
        live.fill(0);
        for &n in &block.next {
            for (to, from) in live.iter_mut().zip(&live_in[n * words..]) {
                *to |= from;
            }
        }
        for inst in insts[block.start..block.end].iter().rev() {
            inst.defs.iter().for_each(|&d| live[d as usize / 64] &= !(1 << (d % 64)));
            reads(inst, |r| live[r as usize / 64] |= 1 << (r % 64));
        }
        let have = &mut live_in[b * words..(b + 1) * words];
        if have != live {
            have.copy_from_slice(&live);
            for &p in &before[b] {
                if !std::mem::replace(&mut queued[p], true) {
                    todo.push(p);
                }
            }
        }
    }
    let each = |set: &[u64], f: &mut dyn FnMut(usize)| {
        for (w, &word) in set.iter().enumerate() {
            let mut rest = word;
            while rest != 0 {
                f(w * 64 + rest.trailing_zeros() as usize);
                rest &= rest - 1;
            }
        }
    };
    for (b, block) in blocks.iter().enumerate() {
        let mut widen = |reg: usize, at: usize| {
            let span = &mut spans[reg];
            *span = (span.0.min(at), span.1.max(at));
        };
        each(&live_in[b * words..(b + 1) * words], &mut |r| widen(r, 2 * block.start));
        for &n in &block.next {
            each(&live_in[n * words..(n + 1) * words], &mut |r| widen(r, 2 * block.end - 1));
        }
    }
    spans
}

/// The place of every register: a row for 16 and 32 bits, the first of two rows for 64, a predicate for 1.
fn places(regs: &[u8], spans: &[(usize, usize)]) -> (Vec<u32>, u32, u32, u32) {
    let class = |bits: u8| match bits {
        1 => 0,
        64 => 2,
        _ => 1,
    };
    let mut order: Vec<usize> = (0..regs.len()).filter(|&r| spans[r].0 != usize::MAX).collect();
    order.sort_by_key(|&r| (spans[r].0, r));
    let mut free: [Vec<u32>; 3] = Default::default();
    let mut used = [1, 0, 0];
    let mut ends: BTreeMap<(usize, usize), ()> = BTreeMap::new();
    let mut place = vec![0; regs.len()];
    for r in order {
        while let Some((&(end, done), ())) = ends.first_key_value()
            && end < spans[r].0
        {
            ends.pop_first();
            free[class(regs[done])].push(place[done]);
        }
        let c = class(regs[r]);
        place[r] = free[c].pop().unwrap_or_else(|| {
            used[c] += 1;
            used[c] - 1
        });
        ends.insert((spans[r].1, r), ());
    }
    (place, used[0], used[1], used[2])
}

/// Whether results depend on the order of the blocks.
fn ordered(lower: &Lower<'_, '_>) -> bool {
    // NVRTC writes `atom` where nobody reads the old value.
    let mut read = vec![false; lower.regs.len()];
    let sources = lower.insts.iter().flat_map(|inst| &inst.uses);
    sources.for_each(|src| {
        if let Src::Reg(reg) = src {
            read[*reg as usize] = true;
        }
    });
    lower.insts.iter().any(|inst| {
        let global = matches!(Window::from_bits(inst.mods), Window::Global | Window::Generic);
        match inst.op {
            Op::Atom if global => {
                let Extra::Atom(atom) = lower.extras[inst.imm as usize] else { return true };
                let commutes = match atom.op {
                    AtomOp::Add => !atom.ty.is_float(),
                    AtomOp::And | AtomOp::Or | AtomOp::Xor | AtomOp::Min | AtomOp::Max => true,
                    _ => false,
                };
                inst.defs.iter().any(|&d| read[d as usize]) || !commutes
            }
            // Strong accesses talk to other blocks.
            Op::Ld | Op::St => global && Access::unpack(inst.mods).strong,
            _ => false,
        }
    })
}

/// Allocates and encodes. Also the modelled number of 32-bit registers of a thread.
pub(super) fn finish(lower: Lower<'_, '_>) -> Result<(Code, u32)> {
    let end = lower.insts.len() - 1;
    let target = |label: u32| lower.labels[label as usize].unwrap_or(end);
    let blocks = blocks(&lower.insts, target);
    let spans = intervals(&lower.insts, lower.regs.len(), &blocks);
    let (place, preds, singles, doubles) = places(&lower.regs, &spans);
    let rows = singles + 2 * doubles;
    if rows > MAX_ROWS || preds > u32::from(u16::MAX) {
        let message = format!("a kernel with {rows} live registers is too large");
        return Err(LoadError { line: lower.insts[0].origin.ptx_line, message, unsupported: true });
    }
    let row = |reg: Reg| match lower.regs[reg as usize] {
        64 => singles + 2 * place[reg as usize],
        _ => place[reg as usize],
    };
    let operand = |src: Src| match src {
        Src::Reg(reg) => row(reg),
        Src::Const(at) => at | CONST,
    };
    let ordered = ordered(&lower);
    let mut lists = Vec::new();
    let mut insts = Vec::with_capacity(lower.insts.len());
    for v in &lower.insts {
        let (guard, guard_not) = match v.guard {
            Some((p, not)) => (row(p) as u16, u8::from(not)),
            None => (ALWAYS as u16, 0),
        };
        let mut inst = Inst {
            op: v.op,
            mods: v.mods,
            guard,
            guard_not,
            results: v.defs.len() as u8,
            d: 0,
            a: 0,
            b: 0,
            c: 0,
            imm: v.imm,
        };
        let at = |i: usize| v.uses.get(i).map_or(0, |&src| operand(src));
        match v.op {
            Op::Bra => inst.a = target(v.targets[0]) as u32,
            Op::Brx => {
                (inst.a, inst.b) = (at(0), v.targets.len() as u32);
                inst.imm = lists.len() as u64;
                lists.extend(v.targets.iter().map(|&t| target(t) as u32));
            }
            Op::AddC32 | Op::AddC64 | Op::SubC32 | Op::SubC64 => {
                (inst.d, inst.a, inst.b, inst.c) = (row(v.defs[0]), at(0), at(1), at(2));
                inst.imm = u64::from(row(v.defs[1]));
            }
            Op::Bfi32 | Op::Bfi64 => {
                (inst.d, inst.a, inst.b, inst.c) = (row(v.defs[0]), at(0), at(1), at(2));
                inst.imm = u64::from(at(3));
            }
            _ if v.defs.len() > 1 || v.uses.len() > 3 || in_list(v.op) => {
                (inst.a, inst.b) = (lists.len() as u32, v.uses.len() as u32);
                lists.extend(v.defs.iter().map(|&d| row(d)));
                lists.extend(v.uses.iter().map(|&src| operand(src)));
            }
            _ => {
                inst.d = v.defs.first().map_or(0, |&d| row(d));
                (inst.a, inst.b, inst.c) = (at(0), at(1), at(2));
            }
        }
        insts.push(inst);
    }
    let code = Code {
        insts,
        origins: lower.insts.iter().map(|v| v.origin).collect(),
        lists,
        extras: lower.extras,
        consts: lower.consts,
        rows,
        preds,
        ordered,
    };
    // A thread of a real device has a few registers more than what lives in the PTX.
    Ok((code, (rows + 2).clamp(16, 255)))
}

/// Instructions whose operands are always in the list, whatever their number.
fn in_list(op: Op) -> bool {
    matches!(
        op,
        Op::Atom
            | Op::Ldmatrix
            | Op::Stmatrix
            | Op::Mma
            | Op::Shfl
            | Op::Vote
            | Op::MatchAny
            | Op::MatchAll
            | Op::Redux
            | Op::Elect
            | Op::Bar
            | Op::Assert
    )
}
