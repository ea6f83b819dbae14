//! Arithmetic, comparisons, conversions and moves.

use super::{Lower, Mods, Reg, Result, Src};
use crate::{
    exec::code::{Cmp, Cvt, Extra, Op, PrmtMode, Round, float_mods},
    ptx::{Inst, Operand, Type},
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
fn by_width(ty: Type, ops: [Op; 3]) -> Option<Op> {
    match ty {
        Type::U16 | Type::S16 | Type::B16 => Some(ops[0]),
        Type::U32 | Type::S32 | Type::B32 => Some(ops[1]),
        Type::U64 | Type::S64 | Type::B64 => Some(ops[2]),
        _ => None,
    }
}

/// The integer operation for u16, s16, u32, s32, u64, s64.
fn by_sign(ty: Type, ops: [Op; 6]) -> Option<Op> {
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
            "mov" => self.mov(inst, mods)?,
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
                mods.ty()?;
                self.simple(inst, Op::Fns, 0, Type::B32, &[Type::B32; 3])?;
            }
            "bmsk" => {
                let op = mods.take_of(&[("clamp", Op::BmskClamp), ("wrap", Op::BmskWrap)]);
                let Some(op) = op else { return mods.wrong() };
                mods.ty()?;
                self.simple(inst, op, 0, Type::B32, &[Type::B32; 2])?;
            }
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
                    Type::S32 => Op::SetpS32,
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
            "cvt" => self.cvt(inst, mods)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn operand(&mut self, inst: &Inst<'a>, i: usize, ty: Type) -> Result<Src> {
        match inst.operands.get(i) {
            Some(operand) => self.src(operand, ty),
            None => self.error(format!("{} has too few operands", inst.op)),
        }
    }

    fn two(&mut self, inst: &Inst<'a>, ty: Type) -> Result<(Src, Src)> {
        self.count(inst, 3)?;
        Ok((self.operand(inst, 1, ty)?, self.operand(inst, 2, ty)?))
    }

    /// One result, operands of these types.
    fn simple(&mut self, inst: &Inst<'a>, op: Op, mods: u16, dst: Type, src: &[Type]) -> Result<()> {
        self.count(inst, src.len() + 1)?;
        let uses: Vec<_> =
            src.iter().enumerate().map(|(i, &ty)| self.operand(inst, i + 1, ty)).collect::<Result<_>>()?;
        let d = self.dst(&inst.operands[0], dst.bits().max(16))?;
        self.emit_mods(op, mods, &[d], &uses, 0)
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
            _ => match by_float(ty, f, ops) {
                Some(found) => found,
                None => return mods.wrong(),
            },
        };
        self.simple(inst, op, f, ty, &vec![ty; (inst.operands.len().max(3) - 1).min(2)])
    }

    /// The comparison of a `setp` or `set`: operation and `mods`.
    fn compare(&mut self, mods: &mut Mods<'a>, name: Cmp, ftz: bool, ty: Type) -> Result<(Op, u16)> {
        let op = match ty {
            Type::U16 | Type::B16 => Op::SetpU16,
            Type::S16 => Op::SetpS16,
            Type::U32 | Type::B32 => Op::SetpU32,
            Type::S32 => Op::SetpS32,
            Type::U64 | Type::B64 => Op::SetpU64,
            Type::S64 => Op::SetpS64,
            Type::F16 => Op::SetpF16,
            Type::Bf16 => Op::SetpBf16,
            Type::F32 if ftz => Op::SetpF32Ftz,
            Type::F32 => Op::SetpF32,
            Type::F64 => Op::SetpF64,
            _ => return mods.wrong(),
        };
        let ordered = matches!(name, Cmp::Eq | Cmp::Ne | Cmp::Lt | Cmp::Le | Cmp::Gt | Cmp::Ge);
        if !ty.is_float() && !ordered {
            return mods.wrong();
        }
        Ok((op, name as u16))
    }

    fn cmp(&mut self, mods: &mut Mods<'a>) -> Result<Cmp> {
        let known = [
            ("eq", Cmp::Eq),
            ("ne", Cmp::Ne),
            ("lt", Cmp::Lt),
            ("le", Cmp::Le),
            ("gt", Cmp::Gt),
            ("ge", Cmp::Ge),
            ("lo", Cmp::Lt),
            ("ls", Cmp::Le),
            ("hi", Cmp::Gt),
            ("hs", Cmp::Ge),
            ("equ", Cmp::Equ),
            ("neu", Cmp::Neu),
            ("ltu", Cmp::Ltu),
            ("leu", Cmp::Leu),
            ("gtu", Cmp::Gtu),
            ("geu", Cmp::Geu),
            ("num", Cmp::Num),
            ("nan", Cmp::Nan),
        ];
        match mods.take_of(&known) {
            Some(cmp) => Ok(cmp),
            None => mods.wrong(),
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

    fn function(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<()> {
        let base = mods.base;
        let approx = mods.take("approx");
        let f = float(mods);
        let ty = mods.ty()?;
        let (op, f) = match (base, ty, approx) {
            ("rcp", Type::F32, true) => (Op::RcpApprox, f),
            ("rcp", Type::F32, false) if f == 0 => (Op::RcpF32, 0),
            ("rcp", Type::F32, false) => (Op::RcpF32X, f),
            ("rcp", Type::F64, true) => (Op::RcpApproxF64, f),
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
