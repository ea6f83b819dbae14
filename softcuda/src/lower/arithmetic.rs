//! Arithmetic.

use super::{Lower, Mods, Reg, Result, Src};
use crate::{
    exec::code::{Op, Round, float_mods},
    ptx::{Inst, Type},
};

/// `mods` of floating-point instructions: rounding, ftz, sat.
fn float(mods: &mut Mods<'_>) -> u16 {
    let round =
        mods.take_of(&[("rn", Round::Nearest), ("rz", Round::Zero), ("rm", Round::Down), ("rp", Round::Up)]);
    let mut bits = round.unwrap_or_default() as u16;
    let flags = [
        ("ftz", float_mods::FTZ),
        ("sat", float_mods::SAT),
        ("NaN", float_mods::NAN),
        ("relu", float_mods::RELU),
    ];
    for (name, flag) in flags {
        if mods.take(name) {
            bits |= flag;
        }
    }
    if mods.take("xorsign") {
        // `.xorsign.abs`
        mods.take("abs");
        bits |= float_mods::XORSIGN;
    }
    bits
}

/// The integer operation for a width of 16, 32 or 64 bits.
pub(super) fn by_width(ty: Type, ops: [Op; 3]) -> Option<Op> {
    match ty {
        Type::U16 | Type::S16 | Type::B16 => Some(ops[0]),
        Type::U32 | Type::S32 | Type::B32 => Some(ops[1]),
        Type::U64 | Type::S64 | Type::B64 => Some(ops[2]),
        _ => None,
    }
}

/// The integer operation for u16, s16, u32, s32, u64, s64.
pub(super) fn by_sign(ty: Type, ops: [Op; 6]) -> Option<Op> {
    Some(match ty {
        Type::U16 | Type::B16 => ops[0],
        Type::S16 => ops[1],
        Type::U32 | Type::B32 => ops[2],
        Type::S32 => ops[3],
        Type::U64 | Type::B64 => ops[4],
        Type::S64 => ops[5],
        _ => return None,
    })
}

/// The operation for f32 (plain, with modifiers), f64 (plain, with modifiers) and the half types.
fn by_float(ty: Type, mods: u16, ops: [Op; 5]) -> Option<(Op, u16)> {
    // Halves are rounded to nearest alone, f64 has no other modifiers than its rounding.
    let understood = match ty {
        Type::F32 => true,
        Type::F64 => mods & !float_mods::ROUND == 0,
        _ => mods & float_mods::ROUND == 0,
    };
    if !understood {
        return None;
    }
    Some(match ty {
        Type::F32 if mods == 0 => (ops[0], 0),
        Type::F32 => (ops[1], mods),
        Type::F64 if mods == 0 => (ops[2], 0),
        Type::F64 => (ops[3], mods),
        Type::F16 => (ops[4], mods),
        Type::F16x2 => (ops[4], mods | float_mods::PACKED),
        Type::Bf16 => (ops[4], mods | float_mods::BF16),
        Type::Bf16x2 => (ops[4], mods | float_mods::BF16 | float_mods::PACKED),
        _ => return None,
    })
}

impl<'a> Lower<'a, '_> {
    /// Lowers it if it is one of these; false otherwise.
    pub(super) fn arithmetic(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<bool> {
        let bit = |x: bool| u16::from(x);
        match mods.base {
            "add" | "sub" => self.add_sub(inst, mods)?,
            "addc" | "subc" => {
                let carry_out = mods.take("cc");
                let ty = mods.ty()?;
                let (a, b) = self.two(inst, ty)?;
                let d = self.dst(&inst.operands[0], ty.bits())?;
                self.carry_op(mods.base == "addc", ty, d, a, b, true, carry_out, mods)?;
            }
            "mul" | "mad" | "madc" | "fma" => self.multiply(inst, mods)?,
            "mul24" | "mad24" => {
                mods.take("lo");
                let ty = mods.ty()?;
                let op = match ty {
                    Type::U32 => Op::Mul24U,
                    Type::S32 => Op::Mul24S,
                    _ => return mods.wrong(),
                };
                let (a, b) = (self.operand(inst, 1, ty)?, self.operand(inst, 2, ty)?);
                let d = self.dst(&inst.operands[0], 32)?;
                if mods.base == "mad24" {
                    self.count(inst, 4)?;
                    let c = self.operand(inst, 3, ty)?;
                    let product = self.reg(32)?;
                    self.emit(op, &[product], &[a, b], 0)?;
                    self.emit(Op::Add32, &[d], &[Src::Reg(product), c], 0)?;
                } else {
                    self.count(inst, 3)?;
                    self.emit(op, &[d], &[a, b], 0)?;
                }
            }
            "div" => {
                let approx = mods.take("approx");
                let full = mods.take("full");
                let f = float(mods);
                let ty = mods.ty()?;
                let int =
                    by_sign(ty, [Op::DivU16, Op::DivS16, Op::DivU32, Op::DivS32, Op::DivU64, Op::DivS64]);
                let (op, f) = match (ty, int) {
                    (_, Some(op)) if f == 0 => (op, 0),
                    (Type::F32, _) if approx || full => (Op::DivApprox, f | bit(full) << 15),
                    (Type::F32, _) if f == 0 => (Op::DivF32, 0),
                    (Type::F32, _) => (Op::DivF32X, f),
                    (Type::F64, _) if f == 0 => (Op::DivF64, 0),
                    (Type::F64, _) => (Op::DivF64X, f),
                    _ => return mods.wrong(),
                };
                self.simple(inst, op, f, ty, &[ty, ty])?;
            }
            "rem" => {
                let ty = mods.ty()?;
                let ops = [Op::RemU16, Op::RemS16, Op::RemU32, Op::RemS32, Op::RemU64, Op::RemS64];
                let Some(op) = by_sign(ty, ops) else { return mods.wrong() };
                self.simple(inst, op, 0, ty, &[ty, ty])?;
            }
            "min" | "max" => self.min_max(inst, mods)?,
            "abs" | "neg" => {
                let f = float(mods);
                let ty = mods.ty()?;
                let abs = mods.base == "abs";
                let int = match abs {
                    true if ty.is_signed() => by_width(ty, [Op::AbsS16, Op::AbsS32, Op::AbsS64]),
                    false if ty.is_signed() => by_width(ty, [Op::Neg16, Op::Neg32, Op::Neg64]),
                    _ => None,
                };
                let ops = match abs {
                    true => [Op::AbsF32, Op::AbsF32X, Op::AbsF64, Op::AbsF64, Op::AbsHalf],
                    false => [Op::NegF32, Op::NegF32X, Op::NegF64, Op::NegF64, Op::NegHalf],
                };
                if f & !float_mods::FTZ != 0 {
                    return mods.wrong();
                }
                let Some((op, f)) = int.map(|op| (op, 0)).or_else(|| by_float(ty, f, ops)) else {
                    return mods.wrong();
                };
                self.simple(inst, op, f, ty, &[ty])?;
            }
            "sad" => {
                let ty = mods.ty()?;
                let ops = [Op::SadU16, Op::SadS16, Op::SadU32, Op::SadS32, Op::SadU64, Op::SadS64];
                let Some(op) = by_sign(ty, ops) else { return mods.wrong() };
                self.simple(inst, op, 0, ty, &[ty, ty, ty])?;
            }
            "dp4a" | "dp2a" => {
                let high = mods.take("hi");
                if mods.base == "dp2a" && !high && !mods.take("lo") {
                    return mods.wrong();
                }
                let (a, b) = (mods.ty()?, mods.ty()?);
                let ops = match mods.base {
                    "dp4a" => [Op::Dp4aUU, Op::Dp4aUS, Op::Dp4aSU, Op::Dp4aSS],
                    _ => [Op::Dp2aUU, Op::Dp2aUS, Op::Dp2aSU, Op::Dp2aSS],
                };
                let op = match (a, b) {
                    (Type::U32, Type::U32) => ops[0],
                    (Type::U32, Type::S32) => ops[1],
                    (Type::S32, Type::U32) => ops[2],
                    (Type::S32, Type::S32) => ops[3],
                    _ => return mods.wrong(),
                };
                self.simple(inst, op, bit(high), Type::B32, &[a, b, Type::B32])?;
            }
            "copysign" => {
                let ty = mods.ty()?;
                let op = match ty {
                    Type::F32 => Op::CopysignF32,
                    Type::F64 => Op::CopysignF64,
                    _ => return mods.wrong(),
                };
                self.simple(inst, op, 0, ty, &[ty, ty])?;
            }
            "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" => {
                self.function(inst, mods)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn operand(&mut self, inst: &Inst<'a>, i: usize, ty: Type) -> Result<Src> {
        match inst.operands.get(i) {
            Some(operand) => self.src(operand, ty),
            None => self.error(format!("{} has too few operands", inst.op)),
        }
    }

    pub(super) fn two(&mut self, inst: &Inst<'a>, ty: Type) -> Result<(Src, Src)> {
        self.count(inst, 3)?;
        Ok((self.operand(inst, 1, ty)?, self.operand(inst, 2, ty)?))
    }

    /// One result, operands of these types.
    pub(super) fn simple(
        &mut self,
        inst: &Inst<'a>,
        op: Op,
        mods: u16,
        dst: Type,
        src: &[Type],
    ) -> Result<()> {
        self.count(inst, src.len() + 1)?;
        let uses: Vec<_> =
            src.iter().enumerate().map(|(i, &ty)| self.operand(inst, i + 1, ty)).collect::<Result<_>>()?;
        let d = self.dst(&inst.operands[0], dst.bits().max(16))?;
        self.emit_mods(op, mods, &[d], &uses, 0)
    }

    fn add_sub(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<()> {
        let add = mods.base == "add";
        let carry = mods.take("cc");
        let f = float(mods);
        let ty = mods.ty()?;
        if carry {
            let (a, b) = self.two(inst, ty)?;
            let d = self.dst(&inst.operands[0], ty.bits())?;
            return self.carry_op(add, ty, d, a, b, false, true, mods);
        }
        let pick = |x, y| if add { x } else { y };
        let int = by_width(
            ty,
            [pick(Op::Add16, Op::Sub16), pick(Op::Add32, Op::Sub32), pick(Op::Add64, Op::Sub64)],
        );
        let (op, f) = match (ty, int) {
            (Type::S32, _) if f == float_mods::SAT => (pick(Op::AddSatS32, Op::SubSatS32), 0),
            (_, Some(op)) if f == 0 => (op, 0),
            (Type::U16x2 | Type::S16x2, _) if add && f == 0 => (Op::AddU16x2, 0),
            _ => {
                mods.take("noftz");
                let ops = match add {
                    true => [Op::AddF32, Op::AddF32X, Op::AddF64, Op::AddF64X, Op::AddHalf],
                    false => [Op::SubF32, Op::SubF32X, Op::SubF64, Op::SubF64X, Op::SubHalf],
                };
                match by_float(ty, f, ops) {
                    Some(found) => found,
                    None => return mods.wrong(),
                }
            }
        };
        self.simple(inst, op, f, ty, &[ty, ty])
    }

    /// `d = a ± b ± carry`, through the function's carry flag.
    fn carry_op(
        &mut self,
        add: bool,
        ty: Type,
        d: Reg,
        a: Src,
        b: Src,
        carry_in: bool,
        carry_out: bool,
        mods: &Mods<'_>,
    ) -> Result<()> {
        let op = match (add, ty) {
            (true, Type::U32 | Type::S32) => Op::AddC32,
            (true, Type::U64 | Type::S64) => Op::AddC64,
            (false, Type::U32 | Type::S32) => Op::SubC32,
            (false, Type::U64 | Type::S64) => Op::SubC64,
            _ => return mods.wrong(),
        };
        let flag = match self.carry {
            Some(flag) => flag,
            None => {
                let flag = self.reg(1)?;
                self.carry = Some(flag);
                flag
            }
        };
        let none = self.reg(1)?;
        let carry = if carry_in {
            flag
        } else {
            self.emit_mods(Op::PSet, 0, &[none], &[], 0)?;
            none
        };
        let out = if carry_out { flag } else { self.reg(1)? };
        self.emit(op, &[d, out], &[a, b, Src::Reg(carry)], 0)?;
        Ok(())
    }

    fn multiply(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<()> {
        #[derive(Clone, Copy, PartialEq)]
        enum Half {
            Low,
            High,
            Wide,
        }
        let base = mods.base;
        let half = mods.take_of(&[("lo", Half::Low), ("hi", Half::High), ("wide", Half::Wide)]);
        let carry_out = mods.take("cc");
        let f = float(mods);
        let ty = mods.ty()?;
        let Some(half) = half else {
            mods.take("noftz");
            let found = match base {
                "mul" => by_float(ty, f, [Op::MulF32, Op::MulF32X, Op::MulF64, Op::MulF64X, Op::MulHalf]),
                "fma" | "mad" => {
                    by_float(ty, f, [Op::FmaF32, Op::FmaF32X, Op::FmaF64, Op::FmaF64X, Op::FmaHalf])
                }
                _ => None,
            };
            let Some((op, f)) = found else { return mods.wrong() };
            let operands = if base == "mul" { 2 } else { 3 };
            return self.simple(inst, op, f, ty, &vec![ty; operands]);
        };
        let product = match half {
            Half::Low => by_width(ty, [Op::MulLo16, Op::MulLo32, Op::MulLo64]),
            Half::High => by_sign(
                ty,
                [Op::MulHiU16, Op::MulHiS16, Op::MulHiU32, Op::MulHiS32, Op::MulHiU64, Op::MulHiS64],
            ),
            Half::Wide => match ty {
                Type::U16 => Some(Op::MulWideU16),
                Type::S16 => Some(Op::MulWideS16),
                Type::U32 => Some(Op::MulWideU32),
                Type::S32 => Some(Op::MulWideS32),
                _ => None,
            },
        };
        let Some(product) = product.filter(|_| f == 0 && base != "fma") else { return mods.wrong() };
        let dst = match (half, ty.bits()) {
            (Half::Wide, 16) => Type::B32,
            (Half::Wide, _) => Type::B64,
            _ => ty,
        };
        if base == "mul" {
            return self.simple(inst, product, 0, dst, &[ty, ty]);
        }
        let mad = match product {
            Op::MulLo16 => Some(Op::MadLo16),
            Op::MulLo32 => Some(Op::MadLo32),
            Op::MulLo64 => Some(Op::MadLo64),
            Op::MulWideU16 => Some(Op::MadWideU16),
            Op::MulWideS16 => Some(Op::MadWideS16),
            Op::MulWideU32 => Some(Op::MadWideU32),
            Op::MulWideS32 => Some(Op::MadWideS32),
            _ => None,
        };
        if let Some(mad) = mad.filter(|_| !carry_out && base == "mad") {
            return self.simple(inst, mad, 0, dst, &[ty, ty, dst]);
        }
        // The product first, then the sum.
        self.count(inst, 4)?;
        let (a, b) = (self.operand(inst, 1, ty)?, self.operand(inst, 2, ty)?);
        let c = self.operand(inst, 3, dst)?;
        let d = self.dst(&inst.operands[0], dst.bits())?;
        let t = self.reg(dst.bits() as u8)?;
        self.emit(product, &[t], &[a, b], 0)?;
        if carry_out || base == "madc" {
            self.carry_op(true, ty, d, Src::Reg(t), c, base == "madc", carry_out, mods)
        } else {
            let Some(op) = by_width(dst, [Op::Add16, Op::Add32, Op::Add64]) else { return mods.wrong() };
            self.emit(op, &[d], &[Src::Reg(t), c], 0)?;
            Ok(())
        }
    }

    fn min_max(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<()> {
        let f = float(mods);
        let ty = mods.ty()?;
        let min = mods.base == "min";
        let int = match min {
            true => by_sign(ty, [Op::MinU16, Op::MinS16, Op::MinU32, Op::MinS32, Op::MinU64, Op::MinS64]),
            false => by_sign(ty, [Op::MaxU16, Op::MaxS16, Op::MaxU32, Op::MaxS32, Op::MaxU64, Op::MaxS64]),
        };
        let packed = match (ty, min) {
            (Type::U16x2, true) => Some(Op::MinU16x2),
            (Type::S16x2, true) => Some(Op::MinS16x2),
            (Type::U16x2, false) => Some(Op::MaxU16x2),
            (Type::S16x2, false) => Some(Op::MaxS16x2),
            _ => None,
        };
        let ops = match min {
            true => [Op::MinF32, Op::MinF32X, Op::MinF64, Op::MinF64, Op::MinHalf],
            false => [Op::MaxF32, Op::MaxF32X, Op::MaxF64, Op::MaxF64, Op::MaxHalf],
        };
        let (op, f) = match int.or(packed) {
            Some(op) if f == 0 => (op, 0),
            _ if f & float_mods::ROUND != 0 => return mods.wrong(),
            _ => match by_float(ty, f, ops) {
                Some(found) => found,
                None => return mods.wrong(),
            },
        };
        self.simple(inst, op, f, ty, &vec![ty; (inst.operands.len().max(3) - 1).min(2)])
    }

    fn function(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<()> {
        let base = mods.base;
        let approx = mods.take("approx");
        let f = float(mods);
        let ty = mods.ty()?;
        let (op, f) = match (base, ty, approx) {
            ("rcp", Type::F32, true) => (Op::RcpApprox, f),
            ("rcp", Type::F32, false) if f == 0 => (Op::RcpF32, 0),
            ("rcp", Type::F32, false) => (Op::RcpF32X, f),
            ("rcp", Type::F64, true) if f == float_mods::FTZ => (Op::RcpApproxF64, f),
            ("rcp", Type::F64, false) if f == 0 => (Op::RcpF64, 0),
            ("rcp", Type::F64, false) => (Op::RcpF64X, f),
            ("sqrt", Type::F32, true) => (Op::SqrtApprox, f),
            ("sqrt", Type::F32, false) if f == 0 => (Op::SqrtF32, 0),
            ("sqrt", Type::F32, false) => (Op::SqrtF32X, f),
            ("sqrt", Type::F64, false) if f == 0 => (Op::SqrtF64, 0),
            ("sqrt", Type::F64, false) => (Op::SqrtF64X, f),
            ("rsqrt", Type::F32, true) => (Op::RsqrtApprox, f),
            ("rsqrt", Type::F64, true) => (Op::RsqrtApproxF64, f),
            ("sin", Type::F32, true) => (Op::SinApprox, f),
            ("cos", Type::F32, true) => (Op::CosApprox, f),
            ("lg2", Type::F32, true) => (Op::Lg2Approx, f),
            ("ex2", Type::F32, true) => (Op::Ex2Approx, f),
            ("tanh", Type::F32, true) => (Op::TanhApprox, f),
            ("ex2" | "tanh", _, true) => {
                let half = if base == "ex2" { Op::Ex2Half } else { Op::TanhHalf };
                match by_float(ty, f, [half; 5]) {
                    Some(found) if ty != Type::F64 => found,
                    _ => return mods.wrong(),
                }
            }
            _ => return mods.wrong(),
        };
        self.simple(inst, op, f, ty, &[ty])
    }
}
