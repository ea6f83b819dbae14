//! Moves and conversions.

use super::{Lower, Mods, Result, Src};
use crate::{
    exec::code::{Cvt, Extra, Op, Round},
    ptx::{Inst, Operand, Type},
};

impl<'a> Lower<'a, '_> {
    /// Lowers it if it is one of these; false otherwise.
    pub(super) fn movement(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<bool> {
        match mods.base {
            "mov" => self.mov(inst, mods)?,
            "cvt" => self.cvt(inst, mods)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn mov(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<()> {
        let ty = mods.ty()?;
        self.count(inst, 2)?;
        match (&inst.operands[0], &inst.operands[1]) {
            (to, Operand::Vector(parts)) => {
                let part = match (ty.bits(), parts.len()) {
                    (32, 2) => Type::B16,
                    (64, 2) => Type::B32,
                    (64, 4) => Type::B16,
                    _ => return mods.wrong(),
                };
                let src: Vec<_> = parts.iter().map(|p| self.src(p, part)).collect::<Result<_>>()?;
                let d = self.dst(to, ty.bits())?;
                match src[..] {
                    [a, b] if part == Type::B16 => self.emit(Op::Pack16, &[d], &[a, b], 0)?,
                    [a, b] => self.emit(Op::Pack32, &[d], &[a, b], 0)?,
                    [a, b, e, f] => {
                        let (low, high) = (self.reg(32)?, self.reg(32)?);
                        self.emit(Op::Pack16, &[low], &[a, b], 0)?;
                        self.emit(Op::Pack16, &[high], &[e, f], 0)?;
                        self.emit(Op::Pack32, &[d], &[Src::Reg(low), Src::Reg(high)], 0)?
                    }
                    _ => return mods.wrong(),
                };
            }
            (Operand::Vector(parts), from) => {
                let a = self.src(from, ty)?;
                let part = match (ty.bits(), parts.len()) {
                    (32, 2) | (64, 4) => 16,
                    (64, 2) => 32,
                    _ => return mods.wrong(),
                };
                let d: Vec<_> = parts.iter().map(|p| self.dst(p, part)).collect::<Result<_>>()?;
                match d[..] {
                    [x, y] if part == 16 => {
                        self.emit(Op::Low16, &[x], &[a], 0)?;
                        self.emit(Op::High16, &[y], &[a], 0)?;
                    }
                    [x, y] => {
                        self.emit(Op::Low32, &[x], &[a], 0)?;
                        self.emit(Op::High32, &[y], &[a], 0)?;
                    }
                    [x, y, z, w] => {
                        for (op, first, second) in [(Op::Low32, x, y), (Op::High32, z, w)] {
                            let half = self.reg(32)?;
                            self.emit(op, &[half], &[a], 0)?;
                            self.emit(Op::Low16, &[first], &[Src::Reg(half)], 0)?;
                            self.emit(Op::High16, &[second], &[Src::Reg(half)], 0)?;
                        }
                    }
                    _ => return mods.wrong(),
                }
            }
            (to, from) if ty == Type::Pred => {
                let a = self.pred_src(from)?;
                let d = self.dst(to, 1)?;
                self.emit(Op::PMov, &[d], &[a], 0)?;
            }
            (to, from) => {
                let a = self.src(from, ty)?;
                let d = self.dst(to, ty.bits().max(16))?;
                self.emit(if ty.bits() == 64 { Op::Mov64 } else { Op::Mov32 }, &[d], &[a], 0)?;
            }
        }
        Ok(())
    }

    fn cvt(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<()> {
        let known = [
            ("rn", (Round::Nearest, false)),
            ("rz", (Round::Zero, false)),
            ("rm", (Round::Down, false)),
            ("rp", (Round::Up, false)),
            ("rna", (Round::Away, false)),
            ("rni", (Round::Nearest, true)),
            ("rzi", (Round::Zero, true)),
            ("rmi", (Round::Down, true)),
            ("rpi", (Round::Up, true)),
        ];
        let rounding = mods.take_of(&known);
        let (ftz, sat, relu) = (mods.take("ftz"), mods.take("sat"), mods.take("relu"));
        let satfinite = mods.take("satfinite");
        let (dst, src) = (mods.ty()?, mods.ty()?);
        let (round, integral) = rounding.unwrap_or_default();
        let narrow = matches!(dst, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2 | Type::Tf32);
        let forbidden = (relu || satfinite) && !(narrow && src == Type::F32)
            || ftz && src != Type::F32 && dst != Type::F32
            || rounding.is_some() && !src.is_float() && !dst.is_float();
        if forbidden {
            return mods.wrong();
        }
        let mut cvt = Cvt { src, dst, round, integral, ftz, sat, satfinite, relu, reg: 32 };
        if matches!(dst, Type::F16x2 | Type::Bf16x2) {
            if src != Type::F32 {
                return mods.wrong();
            }
            self.count(inst, 3)?;
            let (a, b) = (self.operand(inst, 1, src)?, self.operand(inst, 2, src)?);
            let d = self.dst(&inst.operands[0], 32)?;
            let extra = self.extra(Extra::Cvt(cvt));
            self.emit(Op::CvtPack, &[d], &[a, b], extra)?;
            return Ok(());
        }
        let ok = |ty| !matches!(ty, Type::Pred | Type::B128 | Type::F16x2 | Type::Bf16x2);
        let untyped = |ty| matches!(ty, Type::B8 | Type::B16 | Type::B32 | Type::B64);
        let tf32 = dst == Type::Tf32 && src != Type::F32 || src == Type::Tf32;
        if !ok(dst) || !ok(src) || untyped(dst) || untyped(src) || tf32 {
            return mods.wrong();
        }
        // What rounds must say how.
        let float_to_float = dst.is_float() && src.is_float();
        let narrows = float_to_float && (dst.bits() < src.bits() || dst == Type::Tf32);
        let bf = matches!((src, dst), (Type::F16, Type::Bf16) | (Type::Bf16, Type::F16));
        let must_round = narrows || bf || dst.is_float() != src.is_float();
        if must_round && rounding.is_none() {
            return self.error(format!("{} lacks a rounding mode", inst.op));
        }
        if src.is_float() && !dst.is_float() && !integral {
            return self.error(format!("{}: to an integer needs rni, rzi, rmi or rpi", inst.op));
        }
        self.count(inst, 2)?;
        let a = self.src_at_least(&inst.operands[1], src)?;
        let (d, have) = self.dst_at_least(&inst.operands[0], dst.bits())?;
        cvt.reg = have as u8;
        let plain = !ftz && !sat && !relu && !satfinite && !integral && round == Round::Nearest;
        let from_wide = self.bits(a) == Some(64) || (self.bits(a).is_none() && src.bits() == 64);
        // Common conversions have their own operation; the rest is decided lane by lane.
        let common = match (src, dst) {
            (Type::U64 | Type::S64, Type::U32 | Type::S32) if plain && have < 64 => Some(Op::Low32),
            (Type::U32, Type::U64 | Type::S64) if plain && !from_wide => Some(Op::Zext32),
            (Type::S32, Type::U64 | Type::S64) if plain && !from_wide => Some(Op::Sext32),
            (Type::U32 | Type::S32, Type::U16) if plain && have < 64 && !from_wide => Some(Op::Low16),
            (Type::U16, Type::U32 | Type::S32) if plain && have < 64 && self.bits(a) == Some(16) => {
                Some(Op::Mov32)
            }
            (Type::U32, Type::F32) if plain && !from_wide => Some(Op::F32FromU32),
            (Type::S32, Type::F32) if plain && !from_wide => Some(Op::F32FromS32),
            (Type::F16, Type::F32) if plain && !from_wide => Some(Op::F32FromF16),
            (Type::Bf16, Type::F32) if plain && !from_wide => Some(Op::F32FromBf16),
            (Type::F32, Type::F16) if plain && have == 16 => Some(Op::F16FromF32),
            (Type::F32, Type::Bf16) if plain && have == 16 => Some(Op::Bf16FromF32),
            (Type::F32, Type::F64) if plain => Some(Op::F64FromF32),
            (Type::F64, Type::F32) if plain => Some(Op::F32FromF64),
            (Type::F32, Type::S32) if round == Round::Zero && !ftz && have < 64 => Some(Op::S32FromF32),
            _ => None,
        };
        match common {
            Some(op) => self.emit_mods(op, 0, &[d], &[a], 0),
            None => {
                let extra = self.extra(Extra::Cvt(cvt));
                self.emit_mods(Op::Cvt, u16::from(from_wide), &[d], &[a], extra)
            }
        }
    }
}
