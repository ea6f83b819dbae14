//! Comparisons, and selections by what they found.

use super::{Lower, Mods, Reg, Result, Src};
use crate::{
    exec::code::{Cmp, Op},
    ptx::{Inst, Operand, Type},
};

impl<'a> Lower<'a, '_> {
    /// Lowers it if it is one of these; false otherwise.
    pub(super) fn comparison(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<bool> {
        match mods.base {
            "setp" => self.setp(inst, mods)?,
            "set" => self.set(inst, mods)?,
            "selp" => {
                let ty = mods.ty()?;
                self.count(inst, 4)?;
                let (a, b) = (self.operand(inst, 1, ty)?, self.operand(inst, 2, ty)?);
                let p = self.pred_src(&inst.operands[3])?;
                let d = self.dst(&inst.operands[0], ty.bits())?;
                let op = if ty.bits() == 64 { Op::Selp64 } else { Op::Selp32 };
                self.emit(op, &[d], &[a, b, p], 0)?;
            }
            "slct" => {
                let ftz = mods.take("ftz");
                let (ty, by) = (mods.ty()?, mods.ty()?);
                self.count(inst, 4)?;
                let (a, b) = (self.operand(inst, 1, ty)?, self.operand(inst, 2, ty)?);
                let c = self.operand(inst, 3, by)?;
                let zero = self.const32(0);
                let p = self.reg(1)?;
                let op = match by {
                    Type::S32 if !ftz => Op::SetpS32,
                    Type::F32 if ftz => Op::SetpF32Ftz,
                    Type::F32 => Op::SetpF32,
                    _ => return mods.wrong(),
                };
                self.emit_mods(op, Cmp::Ge as u16, &[p], &[c, zero], 0)?;
                let d = self.dst(&inst.operands[0], ty.bits())?;
                let op = if ty.bits() == 64 { Op::Selp64 } else { Op::Selp32 };
                self.emit(op, &[d], &[a, b, Src::Reg(p)], 0)?;
            }
            "testp" => {
                let class = mods.take_of(&[
                    ("finite", 0u16),
                    ("infinite", 1),
                    ("number", 2),
                    ("notanumber", 3),
                    ("normal", 4),
                    ("subnormal", 5),
                ]);
                let ty = mods.ty()?;
                let op = match ty {
                    Type::F32 => Op::TestpF32,
                    Type::F64 => Op::TestpF64,
                    _ => return mods.wrong(),
                };
                let Some(class) = class else { return mods.wrong() };
                self.count(inst, 2)?;
                let a = self.operand(inst, 1, ty)?;
                let d = self.dst(&inst.operands[0], 1)?;
                self.emit_mods(op, class, &[d], &[a], 0)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The comparison of a `setp` or `set`: operation and `mods`.
    fn compare(
        &mut self,
        mods: &mut Mods<'a>,
        (cmp, unsigned): (Cmp, bool),
        ftz: bool,
        ty: Type,
    ) -> Result<(Op, u16)> {
        let op = match ty {
            Type::U16 | Type::B16 => Op::SetpU16,
            Type::S16 => Op::SetpS16,
            Type::U32 | Type::B32 => Op::SetpU32,
            Type::S32 => Op::SetpS32,
            Type::U64 | Type::B64 => Op::SetpU64,
            Type::S64 => Op::SetpS64,
            Type::F16 if ftz => Op::SetpF16Ftz,
            Type::F16 => Op::SetpF16,
            Type::Bf16 => Op::SetpBf16,
            Type::F32 if ftz => Op::SetpF32Ftz,
            Type::F32 => Op::SetpF32,
            Type::F64 => Op::SetpF64,
            _ => return mods.wrong(),
        };
        let applies = match cmp {
            _ if unsigned => matches!(ty, Type::U16 | Type::U32 | Type::U64),
            Cmp::Eq | Cmp::Ne => true,
            Cmp::Lt | Cmp::Le | Cmp::Gt | Cmp::Ge => !matches!(ty, Type::B16 | Type::B32 | Type::B64),
            _ => ty.is_float(),
        };
        if !applies || ftz && !matches!(ty, Type::F32 | Type::F16) {
            return mods.wrong();
        }
        Ok((op, cmp as u16))
    }

    /// The comparison, and whether its name is one of those for unsigned integers alone.
    fn cmp(&mut self, mods: &mut Mods<'a>) -> Result<(Cmp, bool)> {
        let known = [
            ("eq", Cmp::Eq),
            ("ne", Cmp::Ne),
            ("lt", Cmp::Lt),
            ("le", Cmp::Le),
            ("gt", Cmp::Gt),
            ("ge", Cmp::Ge),
            ("equ", Cmp::Equ),
            ("neu", Cmp::Neu),
            ("ltu", Cmp::Ltu),
            ("leu", Cmp::Leu),
            ("gtu", Cmp::Gtu),
            ("geu", Cmp::Geu),
            ("num", Cmp::Num),
            ("nan", Cmp::Nan),
        ];
        let unsigned = [("lo", Cmp::Lt), ("ls", Cmp::Le), ("hi", Cmp::Gt), ("hs", Cmp::Ge)];
        match (mods.take_of(&known), mods.take_of(&unsigned)) {
            (Some(cmp), None) => Ok((cmp, false)),
            (None, Some(cmp)) => Ok((cmp, true)),
            _ => mods.wrong(),
        }
    }

    /// Compares, and combines with a predicate operand if the opcode asks for it. Two lanes for packed types.
    fn setp(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<()> {
        let cmp = self.cmp(mods)?;
        let combine = mods.take_of(&[("and", Op::PAnd), ("or", Op::POr), ("xor", Op::PXor)]);
        let ftz = mods.take("ftz");
        let ty = mods.ty()?;
        self.count(inst, if combine.is_some() { 4 } else { 3 })?;
        let (a, b) = (self.operand(inst, 1, ty)?, self.operand(inst, 2, ty)?);
        let with = match combine {
            Some(op) => Some((op, self.pred_src(&inst.operands[3])?)),
            None => None,
        };
        let (p, q) = match inst.operands[0] {
            Operand::Pair(p, q) => (p, Some(q)),
            Operand::Name(p) => (p, None),
            _ => return self.error("setp sets a predicate"),
        };
        let sink = |this: &mut Self, name| match name {
            "_" => this.reg(1),
            _ => this.pred(name),
        };
        let (p, q) = (sink(self, p)?, q.map(|q| sink(self, q)).transpose()?);
        if let Type::F16x2 | Type::Bf16x2 = ty {
            let Some(q) = q else { return self.error("setp of a packed type sets two predicates, p|q") };
            let part = if ty == Type::F16x2 { Type::F16 } else { Type::Bf16 };
            let (op, bits) = self.compare(mods, cmp, ftz, part)?;
            for (half, to) in [(Op::Low16, p), (Op::High16, q)] {
                let (x, y) = (self.reg(16)?, self.reg(16)?);
                self.emit(half, &[x], &[a], 0)?;
                self.emit(half, &[y], &[b], 0)?;
                self.compare_into(op, bits, [Src::Reg(x), Src::Reg(y)], with, to)?;
            }
            return Ok(());
        }
        let (op, bits) = self.compare(mods, cmp, ftz, ty)?;
        let Some(q) = q else { return self.compare_into(op, bits, [a, b], with, p) };
        let (yes, no) = (self.reg(1)?, self.reg(1)?);
        self.emit_mods(op, bits, &[yes], &[a, b], 0)?;
        self.emit(Op::PNot, &[no], &[Src::Reg(yes)], 0)?;
        match with {
            // The combining predicate may be p itself.
            Some((op, c)) => {
                let t = self.reg(1)?;
                self.emit(op, &[t], &[Src::Reg(yes), c], 0)?;
                self.emit(op, &[q], &[Src::Reg(no), c], 0)?;
                self.emit(Op::PMov, &[p], &[Src::Reg(t)], 0)?;
            }
            None => {
                self.emit(Op::PMov, &[p], &[Src::Reg(yes)], 0)?;
                self.emit(Op::PMov, &[q], &[Src::Reg(no)], 0)?;
            }
        }
        Ok(())
    }

    fn compare_into(
        &mut self,
        op: Op,
        bits: u16,
        src: [Src; 2],
        with: Option<(Op, Src)>,
        to: Reg,
    ) -> Result<()> {
        match with {
            None => self.emit_mods(op, bits, &[to], &src, 0),
            Some((combine, c)) => {
                let t = self.reg(1)?;
                self.emit_mods(op, bits, &[t], &src, 0)?;
                self.emit(combine, &[to], &[Src::Reg(t), c], 0)?;
                Ok(())
            }
        }
    }

    fn set(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<()> {
        let cmp = self.cmp(mods)?;
        let combine = mods.take_of(&[("and", Op::PAnd), ("or", Op::POr), ("xor", Op::PXor)]);
        let ftz = mods.take("ftz");
        let (dst, src) = (mods.ty()?, mods.ty()?);
        self.count(inst, if combine.is_some() { 4 } else { 3 })?;
        let (a, b) = (self.operand(inst, 1, src)?, self.operand(inst, 2, src)?);
        let with = match combine {
            Some(op) => Some((op, self.pred_src(&inst.operands[3])?)),
            None => None,
        };
        let (yes, part) = match (dst, src) {
            (Type::U32 | Type::S32, Type::F16x2) => return mods.wrong(),
            (Type::U32 | Type::S32, _) => (u32::MAX, src),
            (Type::F32, _) => (1f32.to_bits(), src),
            (Type::U16 | Type::S16, _) => (0xffff, src),
            (Type::F16, _) => (0x3c00, src),
            (Type::Bf16, _) => (0x3f80, src),
            (Type::F16x2, Type::F16x2) => (0x3c00, Type::F16),
            (Type::Bf16x2, Type::Bf16x2) => (0x3f80, Type::Bf16),
            _ => return mods.wrong(),
        };
        let (op, bits) = self.compare(mods, cmp, ftz, part)?;
        let (yes, no) = (self.const32(yes), self.const32(0));
        let d = self.dst(&inst.operands[0], dst.bits())?;
        if part == src {
            let p = self.reg(1)?;
            self.compare_into(op, bits, [a, b], with, p)?;
            self.emit(Op::Selp32, &[d], &[yes, no, Src::Reg(p)], 0)?;
            return Ok(());
        }
        let mut halves = Vec::new();
        for half in [Op::Low16, Op::High16] {
            let (x, y, p, r) = (self.reg(16)?, self.reg(16)?, self.reg(1)?, self.reg(16)?);
            self.emit(half, &[x], &[a], 0)?;
            self.emit(half, &[y], &[b], 0)?;
            self.compare_into(op, bits, [Src::Reg(x), Src::Reg(y)], with, p)?;
            self.emit(Op::Selp32, &[r], &[yes, no, Src::Reg(p)], 0)?;
            halves.push(Src::Reg(r));
        }
        self.emit(Op::Pack16, &[d], &halves, 0)?;
        Ok(())
    }
}
