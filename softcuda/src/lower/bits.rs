//! Bits and bytes.

use super::{
    Lower, Mods, Result,
    arithmetic::{by_sign, by_width},
};
use crate::{
    exec::code::{Op, PrmtMode},
    ptx::{Inst, Operand, Type},
};

impl<'a> Lower<'a, '_> {
    /// Lowers it if it is one of these; false otherwise.
    pub(super) fn bitwise(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<bool> {
        let bit = |x: bool| u16::from(x);
        match mods.base {
            "and" | "or" | "xor" => {
                let ty = mods.ty()?;
                let ops = match mods.base {
                    "and" => [Op::PAnd, Op::And32, Op::And64],
                    "or" => [Op::POr, Op::Or32, Op::Or64],
                    _ => [Op::PXor, Op::Xor32, Op::Xor64],
                };
                match ty {
                    Type::Pred => {
                        self.count(inst, 3)?;
                        let (a, b) = (self.pred_src(&inst.operands[1])?, self.pred_src(&inst.operands[2])?);
                        let d = self.dst(&inst.operands[0], 1)?;
                        self.emit(ops[0], &[d], &[a, b], 0)?;
                    }
                    Type::B16 | Type::B32 => self.simple(inst, ops[1], 0, ty, &[ty, ty])?,
                    Type::B64 => self.simple(inst, ops[2], 0, ty, &[ty, ty])?,
                    _ => return mods.wrong(),
                }
            }
            "not" => {
                let ty = mods.ty()?;
                if ty == Type::Pred {
                    self.count(inst, 2)?;
                    let a = self.pred_src(&inst.operands[1])?;
                    let d = self.dst(&inst.operands[0], 1)?;
                    self.emit(Op::PNot, &[d], &[a], 0)?;
                } else {
                    let Some(op) = by_width(ty, [Op::Not16, Op::Not32, Op::Not64]) else {
                        return mods.wrong();
                    };
                    self.simple(inst, op, 0, ty, &[ty])?;
                }
            }
            "cnot" => {
                let ty = mods.ty()?;
                let Some(op) = by_width(ty, [Op::Cnot16, Op::Cnot32, Op::Cnot64]) else {
                    return mods.wrong();
                };
                self.simple(inst, op, 0, ty, &[ty])?;
            }
            "shl" => {
                let ty = mods.ty()?;
                let Some(op) = by_width(ty, [Op::Shl16, Op::Shl32, Op::Shl64]) else { return mods.wrong() };
                self.simple(inst, op, 0, ty, &[ty, Type::U32])?;
            }
            "shr" => {
                let ty = mods.ty()?;
                let ops = [Op::ShrU16, Op::ShrS16, Op::ShrU32, Op::ShrS32, Op::ShrU64, Op::ShrS64];
                let Some(op) = by_sign(ty, ops) else { return mods.wrong() };
                self.simple(inst, op, 0, ty, &[ty, Type::U32])?;
            }
            "shf" => {
                let op = mods.take_of(&[("l", Op::ShfL), ("r", Op::ShfR)]);
                let wrap = mods.take_of(&[("wrap", true), ("clamp", false)]);
                let (Some(op), Some(wrap), Type::B32) = (op, wrap, mods.ty()?) else { return mods.wrong() };
                self.simple(inst, op, bit(wrap), Type::B32, &[Type::B32, Type::B32, Type::U32])?;
            }
            "lop3" => {
                if mods.ty()? != Type::B32 {
                    return mods.wrong();
                }
                self.count(inst, 5)?;
                let Operand::Int(table @ 0..=255) = inst.operands[4] else {
                    return self.error("lop3 needs a table from 0 to 255").map(|()| true);
                };
                let src: Vec<_> = (1..4).map(|i| self.operand(inst, i, Type::B32)).collect::<Result<_>>()?;
                let d = self.dst(&inst.operands[0], 32)?;
                self.emit(Op::Lop3, &[d], &src, table)?;
            }
            "prmt" => {
                if mods.ty()? != Type::B32 {
                    return mods.wrong();
                }
                let mode = mods.take_of(&[
                    ("f4e", PrmtMode::F4e),
                    ("b4e", PrmtMode::B4e),
                    ("rc8", PrmtMode::Rc8),
                    ("ecl", PrmtMode::Ecl),
                    ("ecr", PrmtMode::Ecr),
                    ("rc16", PrmtMode::Rc16),
                ]);
                let mode = mode.unwrap_or(PrmtMode::Any);
                self.simple(inst, Op::Prmt, mode as u16, Type::B32, &[Type::B32; 3])?;
            }
            "bfe" => {
                let ty = mods.ty()?;
                let op = match ty {
                    Type::U32 => Op::BfeU32,
                    Type::S32 => Op::BfeS32,
                    Type::U64 => Op::BfeU64,
                    Type::S64 => Op::BfeS64,
                    _ => return mods.wrong(),
                };
                self.simple(inst, op, 0, ty, &[ty, Type::U32, Type::U32])?;
            }
            "bfi" => {
                let ty = mods.ty()?;
                let op = match ty {
                    Type::B32 => Op::Bfi32,
                    Type::B64 => Op::Bfi64,
                    _ => return mods.wrong(),
                };
                self.simple(inst, op, 0, ty, &[ty, ty, Type::U32, Type::U32])?;
            }
            "bfind" => {
                let shift = mods.take("shiftamt");
                let ty = mods.ty()?;
                let op = match ty {
                    Type::U32 => Op::BfindU32,
                    Type::S32 => Op::BfindS32,
                    Type::U64 => Op::BfindU64,
                    Type::S64 => Op::BfindS64,
                    _ => return mods.wrong(),
                };
                self.simple(inst, op, bit(shift), Type::U32, &[ty])?;
            }
            "popc" | "clz" => {
                let ty = mods.ty()?;
                let op = match (mods.base, ty) {
                    ("popc", Type::B32) => Op::Popc32,
                    ("popc", Type::B64) => Op::Popc64,
                    (_, Type::B32) => Op::Clz32,
                    (_, Type::B64) => Op::Clz64,
                    _ => return mods.wrong(),
                };
                self.simple(inst, op, 0, Type::U32, &[ty])?;
            }
            "brev" => {
                let ty = mods.ty()?;
                let op = match ty {
                    Type::B32 => Op::Brev32,
                    Type::B64 => Op::Brev64,
                    _ => return mods.wrong(),
                };
                self.simple(inst, op, 0, ty, &[ty])?;
            }
            "fns" => {
                if mods.ty()? != Type::B32 {
                    return mods.wrong();
                }
                self.simple(inst, Op::Fns, 0, Type::B32, &[Type::B32; 3])?;
            }
            "bmsk" => {
                let op = mods.take_of(&[("clamp", Op::BmskClamp), ("wrap", Op::BmskWrap)]);
                let (Some(op), Type::B32) = (op, mods.ty()?) else { return mods.wrong() };
                self.simple(inst, op, 0, Type::B32, &[Type::B32; 2])?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}
