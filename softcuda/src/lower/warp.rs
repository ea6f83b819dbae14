//! What the lanes of a warp do together: matrices, shuffles, votes, matches, reductions.

use super::{Lower, Mods, Reg, Result, memory::window};
use crate::{
    exec::code::{AtomOp, Extra, Mma, MmaType, Op, ShflMode, VoteMode, Window},
    ptx::{Inst, Operand, Type},
};

impl<'a> Lower<'a, '_> {
    /// Lowers it if it is one of these; false otherwise.
    pub(super) fn warp(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<bool> {
        match mods.base {
            "ldmatrix" | "stmatrix" => self.matrix(inst, mods)?,
            "mma" => self.mma(inst, mods)?,
            "shfl" => self.shfl(inst, mods)?,
            "vote" => self.vote(inst, mods)?,
            "match" => self.match_sync(inst, mods)?,
            "activemask" => {
                mods.ty()?;
                self.count(inst, 1)?;
                let d = self.dst(&inst.operands[0], 32)?;
                self.emit(Op::Activemask, &[d], &[], 0)?;
            }
            "redux" => {
                self.sync(mods)?;
                let op = self.atom_op(mods)?;
                let ty = mods.ty()?;
                let bitwise = matches!(op, AtomOp::And | AtomOp::Or | AtomOp::Xor);
                let arithmetic = matches!(op, AtomOp::Add | AtomOp::Min | AtomOp::Max);
                let ok = bitwise && ty == Type::B32 || arithmetic && matches!(ty, Type::U32 | Type::S32);
                if !ok {
                    return mods.wrong();
                }
                self.count(inst, 3)?;
                let a = self.src(&inst.operands[1], ty)?;
                let members = self.src(&inst.operands[2], Type::B32)?;
                let d = self.dst(&inst.operands[0], 32)?;
                let extra = self.extra(Extra::Redux(op, ty));
                self.emit(Op::Redux, &[d], &[a, members], extra)?;
            }
            "elect" => {
                self.sync(mods)?;
                self.count(inst, 2)?;
                let (d, p) = self.pair(&inst.operands[0], 32)?;
                let members = self.src(&inst.operands[1], Type::B32)?;
                self.emit(Op::Elect, &[d, p], &[members], 0)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn sync(&self, mods: &mut Mods<'a>) -> Result<()> {
        match mods.take("sync") {
            true => Ok(()),
            false => self.error(format!("{} without .sync is not part of sm_70 and later", mods.op)),
        }
    }

    /// `d|p`, or `d` with a predicate that nobody reads.
    fn pair(&mut self, operand: &Operand<'a>, bits: u32) -> Result<(Reg, Reg)> {
        match *operand {
            Operand::Pair(d, p) => {
                let d = self.dst(&Operand::Name(d), bits)?;
                let p = if p == "_" { self.reg(1)? } else { self.pred(p)? };
                Ok((d, p))
            }
            _ => Ok((self.dst(operand, bits)?, self.reg(1)?)),
        }
    }

    fn matrix(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<()> {
        let load = mods.base == "ldmatrix";
        self.sync(mods)?;
        let shape = mods.take("aligned") && mods.take("m8n8");
        let count = mods.take_of(&[("x1", 1u8), ("x2", 2), ("x4", 4)]);
        let trans = mods.take("trans");
        let window = window(mods);
        let (true, Some(count), Window::Shared | Window::Generic, Type::B16) =
            (shape, count, window, mods.ty()?)
        else {
            return mods.wrong();
        };
        self.count(inst, 2)?;
        let (address, registers) = if load { (1, 0) } else { (0, 1) };
        let (base, offset) = self.address(&inst.operands[address])?;
        let base = self.sum(base, offset)?;
        let registers = self.elements(&inst.operands[registers], count)?;
        let bits = u16::from(count) | u16::from(trans) << 3 | (window as u16) << 4;
        if load {
            let d = registers.iter().map(|r| self.dst(r, 32)).collect::<Result<Vec<_>>>()?;
            self.emit_mods(Op::Ldmatrix, bits, &d, &[base], 0)
        } else {
            let mut uses = vec![base];
            for r in registers {
                uses.push(self.src(r, Type::B32)?);
            }
            self.emit_mods(Op::Stmatrix, bits, &[], &uses, 0)
        }
    }

    fn mma(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<()> {
        self.sync(mods)?;
        if mods.has("sp") {
            return self.unsupported(format!("{}: sparse mma is not supported", inst.op));
        }
        let k = mods.take_of(&[("m16n8k4", 4u8), ("m16n8k8", 8), ("m16n8k16", 16), ("m16n8k32", 32)]);
        let (true, Some(k), true, true) = (mods.take("aligned"), k, mods.take("row"), mods.take("col"))
        else {
            return mods.wrong();
        };
        let satfinite = mods.take("satfinite");
        let (d, a, b, c) = (mods.ty()?, mods.ty()?, mods.ty()?, mods.ty()?);
        let element = |ty| {
            Some(match ty {
                Type::F16 => MmaType::F16,
                Type::Bf16 => MmaType::Bf16,
                Type::Tf32 => MmaType::Tf32,
                Type::S8 => MmaType::S8,
                Type::U8 => MmaType::U8,
                _ => return None,
            })
        };
        let (Some(ma), Some(mb)) = (element(a), element(b)) else { return mods.wrong() };
        // Registers of a and b; what the sums may be.
        let (a_regs, b_regs, sums) = match (ma, k) {
            (MmaType::F16, 16) => (4, 2, [Type::F32, Type::F16]),
            (MmaType::F16, 8) => (2, 1, [Type::F32, Type::F16]),
            (MmaType::Bf16, 16) => (4, 2, [Type::F32; 2]),
            (MmaType::Bf16, 8) => (2, 1, [Type::F32; 2]),
            (MmaType::Tf32, 8) => (4, 2, [Type::F32; 2]),
            (MmaType::Tf32, 4) => (2, 1, [Type::F32; 2]),
            (MmaType::S8 | MmaType::U8, 32) => (4, 2, [Type::S32; 2]),
            (MmaType::S8 | MmaType::U8, 16) => (2, 1, [Type::S32; 2]),
            _ => return mods.wrong(),
        };
        let int = sums[0] == Type::S32;
        let same = ma == mb || int && matches!(mb, MmaType::S8 | MmaType::U8);
        if !same || !sums.contains(&d) || c != d || (satfinite && !int) {
            return mods.wrong();
        }
        self.count(inst, 4)?;
        let c_regs = if d == Type::F16 { 2 } else { 4 };
        let mut uses = Vec::new();
        for (i, (count, ty)) in
            [(a_regs, Type::B32), (b_regs, Type::B32), (c_regs, d)].into_iter().enumerate()
        {
            let ty = if ty == Type::F16 { Type::B32 } else { ty };
            let operand = &inst.operands[i + 1];
            let all = self.elements(operand, count)?;
            for r in all {
                uses.push(self.src(r, ty)?);
            }
        }
        let all = self.elements(&inst.operands[0], c_regs)?;
        let defs = all.iter().map(|r| self.dst(r, 32)).collect::<Result<Vec<_>>>()?;
        let mma = Mma { k, a: ma, b: mb, half_sums: d == Type::F16, satfinite };
        let extra = self.extra(Extra::Mma(mma));
        self.emit(Op::Mma, &defs, &uses, extra)?;
        Ok(())
    }

    fn shfl(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<()> {
        self.sync(mods)?;
        let mode = mods.take_of(&[
            ("up", ShflMode::Up),
            ("down", ShflMode::Down),
            ("bfly", ShflMode::Bfly),
            ("idx", ShflMode::Idx),
        ]);
        let (Some(mode), Type::B32) = (mode, mods.ty()?) else { return mods.wrong() };
        self.count(inst, 5)?;
        let mut uses = Vec::new();
        for operand in &inst.operands[1..] {
            uses.push(self.src(operand, Type::B32)?);
        }
        let (d, p) = self.pair(&inst.operands[0], 32)?;
        self.emit_mods(Op::Shfl, mode as u16, &[d, p], &uses, 0)
    }

    fn vote(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<()> {
        self.sync(mods)?;
        let mode = mods.take_of(&[
            ("all", VoteMode::All),
            ("any", VoteMode::Any),
            ("uni", VoteMode::Uni),
            ("ballot", VoteMode::Ballot),
        ]);
        let Some(mode) = mode else { return mods.wrong() };
        let bits = match (mode, mods.ty()?) {
            (VoteMode::Ballot, Type::B32) => 32,
            (VoteMode::Ballot, _) => return mods.wrong(),
            (_, Type::Pred) => 1,
            _ => return mods.wrong(),
        };
        self.count(inst, 3)?;
        let a = self.pred_src(&inst.operands[1])?;
        let members = self.src(&inst.operands[2], Type::B32)?;
        let d = self.dst(&inst.operands[0], bits)?;
        self.emit_mods(Op::Vote, mode as u16, &[d], &[a, members], 0)
    }

    fn match_sync(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<()> {
        self.sync(mods)?;
        let op = mods.take_of(&[("any", Op::MatchAny), ("all", Op::MatchAll)]);
        let ty = mods.ty()?;
        let (Some(op), Type::B32 | Type::B64) = (op, ty) else { return mods.wrong() };
        self.count(inst, 3)?;
        let a = self.src(&inst.operands[1], ty)?;
        let members = self.src(&inst.operands[2], Type::B32)?;
        let wide = u16::from(ty == Type::B64);
        if op == Op::MatchAll {
            let (d, p) = self.pair(&inst.operands[0], 32)?;
            return self.emit_mods(op, wide, &[d, p], &[a, members], 0);
        }
        let d = self.dst(&inst.operands[0], 32)?;
        self.emit_mods(op, wide, &[d], &[a, members], 0)
    }
}
