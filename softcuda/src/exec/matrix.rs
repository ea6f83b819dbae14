//! Instructions on matrices that a whole warp holds: `ldmatrix`, `stmatrix` and `mma`.

use super::{
    code::{Extra, FULL, Inst, LANES, Op, Window},
    exchange::resume,
    frame::Frame,
    machine::{Machine, Result, wrong},
    mma::Fragments,
    observe::{AccessKind, Observer},
    space,
    warp::Warp,
};
use crate::fault::FaultKind;

impl<O: Observer> Machine<'_, O> {
    /// Lanes arrive at an instruction that all 32 must execute. Once they are here, those that waited.
    fn converged(&self, w: &mut Warp, mask: u32, pc: u32, what: &str) -> Result<Option<u32>> {
        match (mask, w.live) {
            (FULL, _) => Ok(Some(0)),
            (_, FULL) => Ok(self.assemble(w, mask, FULL, pc)),
            (_, live) => {
                let m = format!("{what} is executed by a warp of lanes {live:#010x}, not by all 32");
                wrong(FaultKind::Sync, pc, mask.trailing_zeros() as usize, m)
            }
        }
    }

    pub(super) fn matrix(
        &mut self,
        w: &mut Warp,
        inst: &Inst,
        frame: &Frame,
        mask: u32,
        pc: u32,
    ) -> Result<()> {
        let load = inst.op == Op::Ldmatrix;
        let what = if load { "ldmatrix" } else { "stmatrix" };
        let Some(waited) = self.converged(w, mask, pc, what)? else { return Ok(()) };
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
        resume(w, waited);
        Ok(())
    }

    pub(super) fn mma(&mut self, w: &mut Warp, inst: &Inst, frame: &Frame, mask: u32, pc: u32) -> Result<()> {
        let Some(waited) = self.converged(w, mask, pc, "mma")? else { return Ok(()) };
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
        resume(w, waited);
        Ok(())
    }
}
