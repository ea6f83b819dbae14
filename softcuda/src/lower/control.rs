//! Branches, calls, barriers.

use super::{Binding, Lower, MAX_DEPTH, Mods, Result, Scope, Src};
use crate::{
    exec::code::{Access, Bar, BarMode, Extra, Op, Window},
    ptx::{Inst, Operand, Type},
};

impl<'a, 'u> Lower<'a, 'u> {
    /// Lowers it if it is one of these; false otherwise.
    pub(super) fn control(&mut self, inst: &'u Inst<'a>, mods: &mut Mods<'a>) -> Result<bool> {
        match mods.base {
            "bra" => {
                mods.take("uni");
                self.count(inst, 1)?;
                let Operand::Name(name) = inst.operands[0] else {
                    return self.error("bra goes to a label").map(|()| true);
                };
                let label = self.label(name)?;
                self.branch(label)?;
            }
            "brx" => {
                mods.take("uni");
                if !mods.take("idx") {
                    return mods.wrong();
                }
                self.count(inst, 2)?;
                let index = self.src(&inst.operands[0], Type::U32)?;
                let Operand::Name(list) = inst.operands[1] else {
                    return self.error("brx takes the name of its targets").map(|()| true);
                };
                let Some(Binding::Targets(list)) = self.lookup(list)? else {
                    return self.error(format!("{list} is not a list of targets")).map(|()| true);
                };
                let names = self.branch_targets[list].clone();
                let targets = names.iter().map(|n| self.label(n)).collect::<Result<Vec<_>>>()?;
                self.emit(Op::Brx, &[], &[index], 0)?.targets = targets;
            }
            "ret" => {
                mods.take("uni");
                self.count(inst, 0)?;
                match self.ret.last().copied().flatten() {
                    Some(end) => self.branch(end)?,
                    None => {
                        self.emit(Op::Exit, &[], &[], 0)?;
                    }
                }
            }
            "exit" => {
                self.count(inst, 0)?;
                self.emit(Op::Exit, &[], &[], 0)?;
            }
            "trap" | "brkpt" => {
                self.count(inst, 0)?;
                self.emit(Op::Trap, &[], &[], 0)?;
            }
            "nanosleep" => {
                mods.ty()?;
                self.count(inst, 1)?;
                let t = self.src(&inst.operands[0], Type::U32)?;
                self.emit(Op::Nanosleep, &[], &[t], 0)?;
            }
            "pmevent" => {
                mods.take("mask");
                self.emit(Op::Fence, &[], &[], 0)?;
            }
            "bar" if mods.has("warp") => {
                if !mods.take("warp") || !mods.take("sync") {
                    return mods.wrong();
                }
                self.count(inst, 1)?;
                let members = self.src(&inst.operands[0], Type::B32)?;
                self.emit(Op::WarpBar, &[], &[members], 0)?;
            }
            "bar" | "barrier" => self.barrier(inst, mods)?,
            "call" => self.call(inst, mods)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn branch(&mut self, label: u32) -> Result<()> {
        self.emit(Op::Bra, &[], &[], 0)?.targets = vec![label];
        Ok(())
    }

    fn barrier(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<()> {
        if mods.has("cluster") {
            return self.unsupported(format!("{}: thread block clusters are not supported", inst.op));
        }
        let aligned = mods.take("aligned") || mods.base == "bar";
        mods.take("cta");
        let red = mods.take("red");
        let mode = if red {
            mods.take_of(&[("popc", BarMode::RedPopc), ("and", BarMode::RedAnd), ("or", BarMode::RedOr)])
        } else {
            mods.take_of(&[("sync", BarMode::Sync), ("arrive", BarMode::Arrive)])
        };
        let Some(mode) = mode else { return mods.wrong() };
        let mut operands = &inst.operands[..];
        let mut defs = Vec::new();
        let mut value = None;
        if red {
            let bits = match (mode, mods.ty()?) {
                (BarMode::RedPopc, Type::U32) => 32,
                (BarMode::RedAnd | BarMode::RedOr, Type::Pred) => 1,
                _ => return mods.wrong(),
            };
            let [d, rest @ .., p] = operands else { return self.error("bar.red lacks operands") };
            defs.push(self.dst(d, bits)?);
            value = Some(self.pred_src(p)?);
            operands = rest;
        }
        let (id, count) = match operands {
            [id] if mode != BarMode::Arrive => (id, None),
            [id, count] => (id, Some(count)),
            _ => return self.error(format!("{} has a wrong number of operands", inst.op)),
        };
        let id = self.src(id, Type::U32)?;
        let counted = count.is_some();
        let count = match count {
            Some(count) => self.src(count, Type::U32)?,
            None => self.const32(0),
        };
        let extra = self.extra(Extra::Bar(Bar { mode, aligned, counted }));
        let mut uses = vec![id, count];
        uses.extend(value);
        self.emit(Op::Bar, &defs, &uses, extra)?;
        Ok(())
    }

    /// The place of a call's parameter, by the name of its variable.
    fn call_param(&mut self, operand: &Operand<'a>) -> Result<(u64, u64)> {
        let Operand::Name(name) = *operand else { return self.error("calls take .param variables") };
        match self.lookup(name)? {
            Some(Binding::CallParam(at, size)) => Ok((at, size)),
            _ => self.unsupported(format!("the argument {name} is not a .param variable")),
        }
    }

    fn call(&mut self, inst: &'u Inst<'a>, mods: &mut Mods<'a>) -> Result<()> {
        mods.take("uni");
        let none = &[][..];
        let (returns, name, args) = match &inst.operands[..] {
            [Operand::Name(name)] => (none, *name, none),
            [Operand::Name(name), Operand::List(args)] => (none, *name, args.as_slice()),
            [Operand::List(r), Operand::Name(name)] => (r.as_slice(), *name, none),
            [Operand::List(r), Operand::Name(name), Operand::List(args)] => {
                (r.as_slice(), *name, args.as_slice())
            }
            _ => return self.unsupported("calls through function pointers are not supported"),
        };
        let args = args.iter().map(|a| self.call_param(a)).collect::<Result<Vec<_>>>()?;
        let returns = returns.iter().map(|r| self.call_param(r)).collect::<Result<Vec<_>>>()?;
        let Some(&function) = self.functions.get(name) else {
            return self.unsupported(format!("a call of {name}, which is not a function of this module"));
        };
        if function.entry {
            return self.unsupported(format!("a call of the kernel {name}"));
        }
        let Some(body) = &function.body else { return self.call_extern(name, &args) };
        if self.calls.contains(&name) {
            return self.unsupported(format!("{name} is recursive"));
        }
        if self.calls.len() >= MAX_DEPTH {
            return self.unsupported(format!("calls nest deeper than {MAX_DEPTH}"));
        }
        let mut scope = Scope::default();
        for (formal, actual) in [(&function.params, &args), (&function.returns, &returns)] {
            if formal.len() != actual.len() {
                return self.error(format!(
                    "{} arguments of {name}, expected {}",
                    actual.len(),
                    formal.len()
                ));
            }
            for (var, &(at, size)) in formal.iter().zip(actual) {
                if var.size != size {
                    return self.error(format!("{} has {size} bytes, expected {}", var.name, var.size));
                }
                scope.names.insert(var.name, Binding::CallParam(at, size));
            }
        }
        let end = self.new_label();
        if let Some((p, not)) = self.guard.take() {
            // Around the call.
            self.guard = Some((p, !not));
            self.branch(end)?;
            self.guard = None;
        }
        let scopes = std::mem::replace(&mut self.scopes, vec![scope]);
        let (carry, local, origin) = (self.carry.take(), self.local_top, self.origin);
        self.calls.push(name);
        self.ret.push(Some(end));
        self.body(body, function.line)?;
        self.labels[end as usize] = Some(self.insts.len());
        self.ret.pop();
        self.calls.pop();
        self.scopes = scopes;
        (self.carry, self.local_top, self.origin) = (carry, local, origin);
        Ok(())
    }

    fn call_extern(&mut self, name: &str, args: &[(u64, u64)]) -> Result<()> {
        match (name, args) {
            // message, file, line, function, bytes of a character
            ("__assertfail", [message, file, line, function, ..]) => {
                let mut uses = Vec::new();
                for (&(at, _), bytes) in [(message, 8), (file, 8), (line, 4), (function, 8)] {
                    let access = Access {
                        window: Window::Local,
                        bytes,
                        count: 1,
                        signed: false,
                        reg: bytes * 8,
                        strong: false,
                        short: false,
                    };
                    let (reg, zero) = (self.reg(bytes * 8)?, self.const64(0));
                    self.emit_mods(Op::Ld, access.pack(), &[reg], &[zero], at)?;
                    uses.push(Src::Reg(reg));
                }
                self.emit(Op::Assert, &[], &uses, 0)?;
                Ok(())
            }
            ("vprintf", _) => self.unsupported("printf in a kernel is not supported"),
            ("malloc" | "free", _) => self.unsupported(format!("{name} in a kernel is not supported")),
            _ => self.unsupported(format!("a call of the external function {name}")),
        }
    }
}
