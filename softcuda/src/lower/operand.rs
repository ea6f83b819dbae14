//! Operands: registers, numbers, addresses, special registers.

use super::{Binding, Lower, Reg, Result, Src};
use crate::{
    exec::code::{Extra, Op, Special},
    ptx::{Inst, Operand, Space, Type},
};

impl<'a> Lower<'a, '_> {
    pub(super) fn bits(&self, src: Src) -> Option<u8> {
        match src {
            Src::Reg(reg) => Some(self.regs[reg as usize]),
            Src::Const(_) => None,
        }
    }

    /// A register for a result of so many bits; `_` is a fresh one.
    pub(super) fn dst(&mut self, operand: &Operand<'a>, bits: u32) -> Result<Reg> {
        let Operand::Name(name) = operand else { return self.error("expected a register for the result") };
        if *name == "_" {
            return self.reg(bits as u8);
        }
        match self.lookup(name)? {
            Some(Binding::Reg(reg)) if u32::from(self.regs[reg as usize]) == bits => Ok(reg),
            Some(Binding::Reg(reg)) => {
                self.error(format!("{name} has {} bits, expected {bits}", self.regs[reg as usize]))
            }
            _ => self.error(format!("{name} is not a register")),
        }
    }

    /// A result register of at least so many bits, as `ld` and `cvt` allow.
    pub(super) fn dst_at_least(&mut self, operand: &Operand<'a>, bits: u32) -> Result<(Reg, u32)> {
        let Operand::Name(name) = operand else { return self.error("expected a register for the result") };
        if *name == "_" {
            return Ok((self.reg(bits as u8)?, bits));
        }
        match self.lookup(name)? {
            Some(Binding::Reg(reg)) if u32::from(self.regs[reg as usize]) >= bits => {
                Ok((reg, u32::from(self.regs[reg as usize])))
            }
            Some(Binding::Reg(_)) => self.error(format!("{name} has fewer than {bits} bits")),
            _ => self.error(format!("{name} is not a register")),
        }
    }

    /// A value of so many bits. `ty` says how to read a literal.
    pub(super) fn src(&mut self, operand: &Operand<'a>, ty: Type) -> Result<Src> {
        let bits = if ty == Type::Pred { 1 } else { ty.bits().max(16) };
        let src = self.src_at_least(operand, ty)?;
        match self.bits(src) {
            Some(have) if u32::from(have) != bits => {
                self.error(format!("an operand has {have} bits, expected {bits}"))
            }
            _ => Ok(src),
        }
    }

    /// A value of at least so many bits, as `st` and `cvt` allow.
    pub(super) fn src_at_least(&mut self, operand: &Operand<'a>, ty: Type) -> Result<Src> {
        let wide = ty.bits() == 64;
        let literal = |bits: u64| match ty.bits() {
            8 => bits & 0xff,
            16 => bits & 0xffff,
            32 => bits & 0xffff_ffff,
            _ => bits,
        };
        match *operand {
            Operand::Name(name) => {
                if let Some(special) = special(name) {
                    return self.read_special(special);
                }
                match self.lookup(name)? {
                    Some(Binding::Reg(reg)) => {
                        let have = u32::from(self.regs[reg as usize]);
                        match have {
                            1 if ty != Type::Pred => self.error(format!("{name} is a predicate")),
                            _ if have < ty.bits() && ty != Type::Pred => {
                                self.error(format!("{name} has {have} bits, expected {}", ty.bits()))
                            }
                            _ => Ok(Src::Reg(reg)),
                        }
                    }
                    _ if name == "WARP_SZ" => Ok(self.constant(32, wide)),
                    _ => {
                        let addr = self.address_of(name)?;
                        Ok(self.constant(literal(addr), wide))
                    }
                }
            }
            Operand::Offset(name, offset) => {
                let addr = self.address_of(name)?.wrapping_add(offset as u64);
                Ok(self.constant(literal(addr), wide))
            }
            Operand::Int(n) => match ty {
                Type::F32 => Ok(self.const32((n as i64 as f32).to_bits())),
                Type::F64 => Ok(self.const64((n as i64 as f64).to_bits())),
                Type::Pred => self.error("a predicate was expected"),
                _ => Ok(self.constant(literal(n), wide)),
            },
            Operand::F32(bits) => match ty {
                Type::F64 => Ok(self.const64(f64::from(f32::from_bits(bits)).to_bits())),
                _ if ty.bits() == 32 => Ok(self.const32(bits)),
                _ => self.error("an f32 literal does not fit this type"),
            },
            Operand::F64(bits) => match ty {
                Type::F32 => Ok(self.const32((f64::from_bits(bits) as f32).to_bits())),
                _ if wide => Ok(self.const64(bits)),
                _ => self.error("an f64 literal does not fit this type"),
            },
            _ => self.error("expected a register or a number"),
        }
    }

    pub(super) fn pred(&mut self, name: &'a str) -> Result<Reg> {
        match self.lookup(name)? {
            Some(Binding::Reg(reg)) if self.regs[reg as usize] == 1 => Ok(reg),
            _ => self.error(format!("{name} is not a predicate")),
        }
    }

    /// A predicate operand, `!p` included: that one is computed first.
    pub(super) fn pred_src(&mut self, operand: &Operand<'a>) -> Result<Src> {
        match *operand {
            Operand::Name(name) => Ok(Src::Reg(self.pred(name)?)),
            Operand::Not(name) => {
                let p = self.pred(name)?;
                let not = self.reg(1)?;
                self.emit(Op::PNot, &[not], &[Src::Reg(p)], 0)?;
                Ok(Src::Reg(not))
            }
            Operand::Int(n) => {
                let p = self.reg(1)?;
                self.emit_mods(Op::PSet, u16::from(n != 0), &[p], &[], 0)?;
                Ok(Src::Reg(p))
            }
            _ => self.error("expected a predicate"),
        }
    }

    pub(super) fn read_special(&mut self, special: Special) -> Result<Src> {
        let wide = matches!(special, Special::Clock64 | Special::Globaltimer);
        let reg = self.reg(if wide { 64 } else { 32 })?;
        let extra = self.extra(Extra::Special(special));
        self.emit(Op::Special, &[reg], &[], extra)?;
        Ok(Src::Reg(reg))
    }

    /// The address of a variable in its own space.
    pub(super) fn address_of(&mut self, name: &'a str) -> Result<u64> {
        match self.lookup(name)? {
            Some(Binding::Shared(at) | Binding::Local(at)) => return Ok(at),
            Some(Binding::KernelParam(at, _)) => return Ok(at),
            Some(Binding::CallParam(..)) => {
                return self.unsupported(format!("the address of the call parameter {name}"));
            }
            Some(_) => return self.error(format!("{name} has no address")),
            None => {}
        }
        if let Some(&at) = self.symbols.get(name) {
            return Ok(at);
        }
        if let Some(&at) = self.shared.get(name) {
            return Ok(at);
        }
        if self.unit.vars.iter().any(|v| v.name == name && v.space == Space::Shared) {
            return Ok(self.dynamic_shared);
        }
        if self.functions.contains_key(name) {
            return self.unsupported(format!("the address of the function {name}"));
        }
        self.error(format!("{name} is not declared"))
    }

    /// Base and offset of a memory operand.
    pub(super) fn address(&mut self, operand: &Operand<'a>) -> Result<(Src, u64)> {
        match *operand {
            Operand::Address(Some(name), offset) => {
                if let Some(Binding::Reg(reg)) = self.lookup(name)? {
                    return match self.regs[reg as usize] {
                        32 | 64 => Ok((Src::Reg(reg), offset as u64)),
                        bits => self.error(format!("{name} has {bits} bits and cannot be an address")),
                    };
                }
                let base = self.address_of(name)?;
                Ok((self.const64(0), base.wrapping_add(offset as u64)))
            }
            Operand::Address(None, at) => Ok((self.const64(0), at as u64)),
            _ => self.error("expected an address in brackets"),
        }
    }

    pub(super) fn count(&self, inst: &Inst<'a>, want: usize) -> Result<()> {
        match inst.operands.len() {
            n if n == want => Ok(()),
            n => self.error(format!("{} has {n} operands, expected {want}", inst.op)),
        }
    }
}

/// The name that an operand holds.
pub(super) fn name<'a>(operand: &Operand<'a>) -> Option<&'a str> {
    match *operand {
        Operand::Name(name) | Operand::Offset(name, _) | Operand::Address(Some(name), _) => Some(name),
        _ => None,
    }
}

/// The special register with this name.
fn special(name: &str) -> Option<Special> {
    use Special::*;
    Some(match name {
        "%tid.x" => TidX,
        "%tid.y" => TidY,
        "%tid.z" => TidZ,
        "%ntid.x" => NtidX,
        "%ntid.y" => NtidY,
        "%ntid.z" => NtidZ,
        "%ctaid.x" => CtaidX,
        "%ctaid.y" => CtaidY,
        "%ctaid.z" => CtaidZ,
        "%nctaid.x" => NctaidX,
        "%nctaid.y" => NctaidY,
        "%nctaid.z" => NctaidZ,
        "%laneid" => Laneid,
        "%warpid" => Warpid,
        "%nwarpid" => Nwarpid,
        "%lanemask_eq" => LanemaskEq,
        "%lanemask_le" => LanemaskLe,
        "%lanemask_lt" => LanemaskLt,
        "%lanemask_ge" => LanemaskGe,
        "%lanemask_gt" => LanemaskGt,
        "%smid" => Smid,
        "%nsmid" => Nsmid,
        "%gridid" => Gridid,
        "%clock" => Clock,
        "%clock_hi" => ClockHi,
        "%clock64" => Clock64,
        "%globaltimer" => Globaltimer,
        "%globaltimer_lo" => GlobaltimerLo,
        "%globaltimer_hi" => GlobaltimerHi,
        "%dynamic_smem_size" => DynamicSmemSize,
        "%total_smem_size" => TotalSmemSize,
        // A grid without clusters is one of clusters of one block.
        "%clusterid.x" => CtaidX,
        "%clusterid.y" => CtaidY,
        "%clusterid.z" => CtaidZ,
        "%nclusterid.x" => NctaidX,
        "%nclusterid.y" => NctaidY,
        "%nclusterid.z" => NctaidZ,
        "%cluster_ctaid.x" | "%cluster_ctaid.y" | "%cluster_ctaid.z" | "%cluster_ctarank" | "%ctaid.w"
        | "%tid.w" => Zero,
        "%cluster_nctaid.x" | "%cluster_nctaid.y" | "%cluster_nctaid.z" | "%cluster_nctarank" => One,
        _ => return None,
    })
}
