//! From the syntax tree to [`Code`]: names resolved, calls inlined, opcodes decoded.
//!
//! What is not understood to the last modifier is an error that names it: nothing is skipped.

mod alloc;
mod arithmetic;
mod control;
mod memory;

use std::collections::{BTreeMap, HashMap};

use crate::{
    exec::code::{Code, Extra, LANES, Op, Origin, Row, Special},
    fault::LoadError,
    module::{KernelInfo, Param},
    ptx::{Function, Inst, Operand, Space, Stmt, Type, Unit, Var},
};

type Result<T> = std::result::Result<T, LoadError>;

/// Instructions of one kernel, calls inlined.
const MAX_INSTS: usize = 1 << 20;
/// Calls inside calls.
const MAX_DEPTH: usize = 64;
/// Bytes of static shared memory, as ptxas allows.
const MAX_STATIC_SHARED: u64 = 48 << 10;
/// Bytes of local memory of a thread.
const MAX_LOCAL: u64 = 512 << 10;
/// Bytes of a kernel's parameters.
const MAX_PARAMS: u64 = 4096;

/// Where module variables were placed, by name.
pub type Symbols<'a> = BTreeMap<&'a str, u64>;

/// A virtual register.
type Reg = u32;

/// What an instruction reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Src {
    Reg(Reg),
    /// A row of the constants.
    Const(u32),
}

/// An instruction on virtual registers.
#[derive(Debug, Clone)]
struct Virtual {
    op: Op,
    mods: u16,
    guard: Option<(Reg, bool)>,
    /// Results, then operands.
    defs: Vec<Reg>,
    uses: Vec<Src>,
    imm: u64,
    /// Labels a branch goes to.
    targets: Vec<u32>,
    origin: Origin,
}

/// What a name stands for in a scope.
#[derive(Debug, Clone, Copy)]
enum Binding {
    Reg(Reg),
    /// `%r<count>`.
    Range {
        count: u32,
        bits: u8,
    },
    Shared(u64),
    Local(u64),
    /// An offset into the kernel's parameters, and the parameter's size.
    KernelParam(u64, u64),
    /// A parameter of a call: local memory at this offset.
    CallParam(u64, u64),
    /// Targets of `brx`.
    Targets(usize),
}

#[derive(Debug, Default)]
struct Scope<'a> {
    names: HashMap<&'a str, Binding>,
    labels: HashMap<&'a str, u32>,
}

/// Lowers one kernel.
struct Lower<'a, 'u> {
    unit: &'u Unit<'a>,
    symbols: &'u Symbols<'a>,
    functions: HashMap<&'a str, &'u Function<'a>>,
    shared: HashMap<&'a str, u64>,
    /// Where dynamic shared memory begins.
    dynamic_shared: u64,
    scopes: Vec<Scope<'a>>,
    calls: Vec<&'a str>,
    /// Where `ret` goes: the end of the function, none in the kernel itself.
    ret: Vec<Option<u32>>,
    insts: Vec<Virtual>,
    /// Bits of each virtual register: 1, 16, 32 or 64.
    regs: Vec<u8>,
    labels: Vec<Option<usize>>,
    branch_targets: Vec<Vec<&'a str>>,
    consts: Vec<Row>,
    const_rows: HashMap<(u64, bool), u32>,
    extras: Vec<Extra>,
    local_top: u64,
    local_most: u64,
    guard: Option<(Reg, bool)>,
    origin: Origin,
    /// The carry flag of the function.
    carry: Option<Reg>,
}

/// Lowers a kernel of a unit.
///
/// # Errors
/// [`LoadError`] with the line of what is unknown, unsupported or inconsistent.
pub fn lower<'a>(
    unit: &Unit<'a>,
    kernel: &Function<'a>,
    symbols: &Symbols<'a>,
) -> Result<(Code, KernelInfo)> {
    let mut info = KernelInfo { name: kernel.name.to_string(), ..KernelInfo::default() };
    let mut scope = Scope::default();
    let mut at = 0u64;
    for p in &kernel.params {
        at = at.next_multiple_of(u64::from(p.align.max(1)));
        if at + p.size > MAX_PARAMS {
            let message = format!("the parameters of {} have more than {MAX_PARAMS} bytes", kernel.name);
            return Err(LoadError { line: p.line, message, unsupported: false });
        }
        info.params.push(Param { offset: at as u32, size: p.size as u32 });
        scope.names.insert(p.name, Binding::KernelParam(at, p.size));
        at += p.size;
    }
    info.param_bytes = at as u32;
    info.max_threads = kernel.max_block.map(|b| b.iter().fold(1, |n: u32, &x| n.saturating_mul(x)));
    info.required_block = kernel.required_block;
    info.min_blocks = kernel.min_blocks;

    let functions = unit.functions.iter().map(|f| (f.name, f)).collect();
    let mut lower = Lower {
        unit,
        symbols,
        functions,
        shared: HashMap::new(),
        dynamic_shared: 0,
        scopes: vec![scope],
        calls: vec![kernel.name],
        ret: vec![None],
        insts: Vec::new(),
        regs: Vec::new(),
        labels: Vec::new(),
        branch_targets: Vec::new(),
        consts: Vec::new(),
        const_rows: HashMap::new(),
        extras: Vec::new(),
        local_top: 0,
        local_most: 0,
        guard: None,
        origin: Origin { ptx_line: kernel.line, loc: None },
        carry: None,
    };
    info.static_shared = lower.layout_shared(kernel)?;
    info.dynamic_offset = lower.dynamic_shared as u32;
    lower.body(kernel.body.as_deref().unwrap_or_default(), kernel.line)?;
    lower.guard = None;
    lower.emit(Op::Exit, &[], &[], 0)?;
    info.local_bytes = lower.local_most as u32;
    let (code, registers) = alloc::finish(lower)?;
    info.registers = registers;
    Ok((code, info))
}

impl<'a, 'u> Lower<'a, 'u> {
    fn error<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(LoadError { line: self.origin.ptx_line, message: message.into(), unsupported: false })
    }

    fn unsupported<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(LoadError { line: self.origin.ptx_line, message: message.into(), unsupported: true })
    }

    /// Places the static shared variables of a kernel and of the functions it calls; the dynamic ones follow.
    fn layout_shared(&mut self, kernel: &'u Function<'a>) -> Result<u32> {
        let mut reached = vec![kernel];
        let mut at = 0u64;
        let mut dynamic_align = 16;
        let mut next = 0;
        while next < reached.len() {
            let function = reached[next];
            next += 1;
            for stmt in function.body.as_deref().unwrap_or_default() {
                match stmt {
                    Stmt::Var(var) if var.space == Space::Shared => at = self.place_shared(var, at)?,
                    Stmt::Inst(inst) => {
                        for name in inst.operands.iter().filter_map(operand_name) {
                            if let Some(&f) = self.functions.get(name)
                                && inst.op.starts_with("call")
                                && !reached.iter().any(|r| std::ptr::eq(*r, f))
                            {
                                reached.push(f);
                            }
                            if self.shared.contains_key(name) {
                                continue;
                            }
                            let unit = self.unit;
                            let var = unit.vars.iter().find(|v| v.name == name && v.space == Space::Shared);
                            match var {
                                Some(v) if v.size > 0 => at = self.place_shared(v, at)?,
                                Some(v) => dynamic_align = dynamic_align.max(u64::from(v.align)),
                                None => {}
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
        self.dynamic_shared = at.next_multiple_of(dynamic_align);
        Ok(at as u32)
    }

    fn place_shared(&mut self, var: &Var<'a>, at: u64) -> Result<u64> {
        let at = at.next_multiple_of(u64::from(var.align.max(1)));
        let end = at.saturating_add(var.size);
        if end > MAX_STATIC_SHARED {
            let message = format!("static shared memory exceeds {MAX_STATIC_SHARED} bytes at {}", var.name);
            return Err(LoadError { line: var.line, message, unsupported: false });
        }
        self.shared.insert(var.name, at);
        Ok(end)
    }

    fn body(&mut self, body: &'u [Stmt<'a>], line: u32) -> Result<()> {
        // Labels are known in the whole of their scope.
        self.scopes.push(Scope::default());
        let base = self.scopes.len();
        self.declare_labels(body)?;
        for (i, stmt) in body.iter().enumerate() {
            match stmt {
                Stmt::Label(name, line) => {
                    self.origin.ptx_line = *line;
                    let label = self.label(name)?;
                    self.labels[label as usize] = Some(self.insts.len());
                }
                Stmt::Reg(reg, line) => {
                    self.origin.ptx_line = *line;
                    let bits = if reg.ty == Type::Pred { 1 } else { reg.ty.bits().max(16) as u8 };
                    let binding = match reg.count {
                        Some(count) => Binding::Range { count, bits },
                        None => Binding::Reg(self.reg(bits)?),
                    };
                    self.bind(reg.name, binding);
                }
                Stmt::Var(var) => self.declare(var)?,
                Stmt::Open => {
                    self.scopes.push(Scope::default());
                    self.declare_labels(&body[i + 1..])?;
                }
                Stmt::Close => {
                    self.scopes.pop();
                }
                Stmt::Targets(name, targets, _) => {
                    self.branch_targets.push(targets.clone());
                    let binding = Binding::Targets(self.branch_targets.len() - 1);
                    self.bind(name, binding);
                }
                Stmt::Inst(inst) => self.inst(inst)?,
            }
        }
        self.origin.ptx_line = line;
        self.scopes.truncate(base - 1);
        Ok(())
    }

    /// Creates the labels of the innermost scope: those before its end.
    fn declare_labels(&mut self, body: &[Stmt<'a>]) -> Result<()> {
        let mut depth = 0;
        for stmt in body {
            match stmt {
                Stmt::Open => depth += 1,
                Stmt::Close if depth == 0 => break,
                Stmt::Close => depth -= 1,
                Stmt::Label(name, line) if depth == 0 => {
                    let label = self.new_label();
                    let scope = self.scopes.last_mut().expect("a body has a scope");
                    if scope.labels.insert(name, label).is_some() {
                        self.origin.ptx_line = *line;
                        return self.error(format!("label {name} is defined twice"));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn declare(&mut self, var: &Var<'a>) -> Result<()> {
        self.origin.ptx_line = var.line;
        let binding = match var.space {
            Space::Shared if var.size == 0 => Binding::Shared(self.dynamic_shared),
            Space::Shared => match self.shared.get(var.name) {
                Some(&at) => Binding::Shared(at),
                None => return self.error(format!("{} has no place in shared memory", var.name)),
            },
            Space::Local => Binding::Local(self.local(var.size, var.align)?),
            Space::Param => Binding::CallParam(self.local(var.size, var.align)?, var.size),
            _ => return self.error(format!("{}: variables of functions are .shared or .local", var.name)),
        };
        self.bind(var.name, binding);
        Ok(())
    }

    /// Takes local memory.
    fn local(&mut self, size: u64, align: u32) -> Result<u64> {
        let at = self.local_top.next_multiple_of(u64::from(align.max(1)));
        self.local_top = at.saturating_add(size);
        if self.local_top > MAX_LOCAL {
            return self.error(format!("local memory exceeds {MAX_LOCAL} bytes a thread"));
        }
        self.local_most = self.local_most.max(self.local_top);
        Ok(at)
    }

    fn bind(&mut self, name: &'a str, binding: Binding) {
        self.scopes.last_mut().expect("there is a scope").names.insert(name, binding);
    }

    fn reg(&mut self, bits: u8) -> Result<Reg> {
        if self.regs.len() >= MAX_INSTS {
            return self.error("too many registers");
        }
        self.regs.push(bits);
        Ok(self.regs.len() as Reg - 1)
    }

    fn new_label(&mut self) -> u32 {
        self.labels.push(None);
        self.labels.len() as u32 - 1
    }

    fn label(&self, name: &str) -> Result<u32> {
        // Names do not reach out of the function that is being inlined: its scope is the first of its own.
        match self.scopes.iter().rev().find_map(|s| s.labels.get(name)) {
            Some(&label) => Ok(label),
            None => self.error(format!("there is no label {name}")),
        }
    }

    fn lookup(&mut self, name: &'a str) -> Result<Option<Binding>> {
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (prefix, number) = name.split_at(name.len() - digits);
        for i in (0..self.scopes.len()).rev() {
            if let Some(&binding) = self.scopes[i].names.get(name)
                && !matches!(binding, Binding::Range { .. })
            {
                return Ok(Some(binding));
            }
            if let Some(&Binding::Range { count, bits }) = self.scopes[i].names.get(prefix)
                && number.parse::<u32>().is_ok_and(|n| n < count)
            {
                let binding = Binding::Reg(self.reg(bits)?);
                self.scopes[i].names.insert(name, binding);
                return Ok(Some(binding));
            }
        }
        Ok(None)
    }

    fn emit(&mut self, op: Op, defs: &[Reg], uses: &[Src], imm: u64) -> Result<&mut Virtual> {
        if self.insts.len() >= MAX_INSTS {
            return self.error(format!("more than {MAX_INSTS} instructions, calls inlined"));
        }
        self.insts.push(Virtual {
            op,
            mods: 0,
            guard: self.guard,
            defs: defs.to_vec(),
            uses: uses.to_vec(),
            imm,
            targets: Vec::new(),
            origin: self.origin,
        });
        Ok(self.insts.last_mut().expect("one was pushed"))
    }

    fn emit_mods(&mut self, op: Op, mods: u16, defs: &[Reg], uses: &[Src], imm: u64) -> Result<()> {
        self.emit(op, defs, uses, imm)?.mods = mods;
        Ok(())
    }

    fn extra(&mut self, extra: Extra) -> u64 {
        self.extras.push(extra);
        self.extras.len() as u64 - 1
    }

    fn const32(&mut self, value: u32) -> Src {
        self.constant(u64::from(value), false)
    }

    fn const64(&mut self, value: u64) -> Src {
        self.constant(value, true)
    }

    fn constant(&mut self, value: u64, wide: bool) -> Src {
        let row = *self.const_rows.entry((value, wide)).or_insert_with(|| {
            let row = self.consts.len() as u32;
            let (low, high) = (value as u32, (value >> 32) as u32);
            if wide {
                let pair = std::array::from_fn(|i| if i % 2 == 0 { low } else { high });
                self.consts.extend([Row(pair); 2]);
            } else {
                self.consts.push(Row([low; LANES]));
            }
            row
        });
        Src::Const(row)
    }

    // ---- operands ----

    fn bits(&self, src: Src) -> Option<u8> {
        match src {
            Src::Reg(reg) => Some(self.regs[reg as usize]),
            Src::Const(_) => None,
        }
    }

    /// A register for a result of so many bits; `_` is a fresh one.
    fn dst(&mut self, operand: &Operand<'a>, bits: u32) -> Result<Reg> {
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
    fn dst_at_least(&mut self, operand: &Operand<'a>, bits: u32) -> Result<(Reg, u32)> {
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
    fn src(&mut self, operand: &Operand<'a>, ty: Type) -> Result<Src> {
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
    fn src_at_least(&mut self, operand: &Operand<'a>, ty: Type) -> Result<Src> {
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

    fn pred(&mut self, name: &'a str) -> Result<Reg> {
        match self.lookup(name)? {
            Some(Binding::Reg(reg)) if self.regs[reg as usize] == 1 => Ok(reg),
            _ => self.error(format!("{name} is not a predicate")),
        }
    }

    /// A predicate operand, `!p` included: that one is computed first.
    fn pred_src(&mut self, operand: &Operand<'a>) -> Result<Src> {
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

    fn read_special(&mut self, special: Special) -> Result<Src> {
        let wide = matches!(special, Special::Clock64 | Special::Globaltimer);
        let reg = self.reg(if wide { 64 } else { 32 })?;
        self.emit(Op::Special, &[reg], &[], special as u64)?;
        Ok(Src::Reg(reg))
    }

    /// The address of a variable in its own space.
    fn address_of(&mut self, name: &'a str) -> Result<u64> {
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
    fn address(&mut self, operand: &Operand<'a>) -> Result<(Src, u64)> {
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

    fn count(&self, inst: &Inst<'a>, want: usize) -> Result<()> {
        match inst.operands.len() {
            n if n == want => Ok(()),
            n => self.error(format!("{} has {n} operands, expected {want}", inst.op)),
        }
    }

    fn inst(&mut self, inst: &'u Inst<'a>) -> Result<()> {
        self.origin = Origin { ptx_line: inst.line, loc: inst.loc };
        self.guard = None;
        if let Some((name, not)) = inst.guard {
            self.guard = Some((self.pred(name)?, not));
        }
        let mut mods = Mods::new(inst.op, inst.line)?;
        let known = self.arithmetic(inst, &mut mods)?
            || self.memory(inst, &mut mods)?
            || self.control(inst, &mut mods)?;
        if !known {
            return self.unknown(inst.op);
        }
        mods.finish()
    }

    fn unknown(&self, op: &str) -> Result<()> {
        let base = op.split('.').next().unwrap_or(op);
        let refused = [
            ("wgmma", "wgmma (warpgroup matrix instructions)"),
            ("tcgen05", "tcgen05 (tensor memory)"),
            ("mbarrier", "mbarrier"),
            ("tensormap", "TMA (tensor maps)"),
            ("multimem", "multimem"),
            ("wmma", "wmma (use mma.sync)"),
            ("tex", "textures"),
            ("tld4", "textures"),
            ("txq", "textures"),
            ("suld", "surfaces"),
            ("sust", "surfaces"),
            ("sured", "surfaces"),
            ("suq", "surfaces"),
            ("griddepcontrol", "programmatic dependent launch"),
            ("setmaxnreg", "setmaxnreg"),
            ("alloca", "alloca"),
            ("stacksave", "stacksave"),
            ("stackrestore", "stackrestore"),
            ("mapa", "thread block clusters"),
            ("getctarank", "thread block clusters"),
        ];
        match refused.iter().find(|(name, _)| *name == base) {
            Some((_, what)) => self.unsupported(format!("{op}: {what} is not supported")),
            None => self.unsupported(format!("unknown instruction {op}")),
        }
    }
}

fn operand_name<'a>(operand: &Operand<'a>) -> Option<&'a str> {
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

/// The modifiers of an opcode, crossed off as they are understood.
struct Mods<'a> {
    op: &'a str,
    base: &'a str,
    parts: Vec<(&'a str, bool)>,
    line: u32,
}

impl<'a> Mods<'a> {
    fn new(op: &'a str, line: u32) -> Result<Self> {
        let mut parts = op.split('.');
        let base = parts.next().unwrap_or_default();
        let parts: Vec<_> = parts.map(|part| (part, false)).collect();
        match parts.len() {
            0..=16 => Ok(Self { op, base, parts, line }),
            _ => Err(LoadError { line, message: format!("unknown instruction {op}"), unsupported: false }),
        }
    }

    /// Crosses a modifier off; false if it is not there.
    fn take(&mut self, name: &str) -> bool {
        match self.parts.iter_mut().find(|(part, used)| !*used && *part == name) {
            Some((_, used)) => {
                *used = true;
                true
            }
            None => false,
        }
    }

    /// Crosses off the first of these that is there.
    fn take_of<T: Copy>(&mut self, known: &[(&str, T)]) -> Option<T> {
        let (part, used) = self
            .parts
            .iter_mut()
            .find(|(part, used)| !*used && known.iter().any(|(name, _)| name == part))?;
        *used = true;
        known.iter().find(|(name, _)| name == part).map(|(_, value)| *value)
    }

    /// Crosses off the first type.
    fn ty(&mut self) -> Result<Type> {
        for (part, used) in &mut self.parts {
            if !*used && let Some(ty) = Type::named(part) {
                *used = true;
                return Ok(ty);
            }
        }
        Err(LoadError { line: self.line, message: format!("{} lacks a type", self.op), unsupported: false })
    }

    fn has(&self, name: &str) -> bool {
        self.parts.iter().any(|(part, used)| !*used && *part == name)
    }

    /// An error if a modifier was not understood.
    fn finish(&self) -> Result<()> {
        match self.parts.iter().find(|(_, used)| !*used) {
            Some((part, _)) => Err(LoadError {
                line: self.line,
                message: format!("unknown modifier .{part} of {}", self.op),
                unsupported: true,
            }),
            None => Ok(()),
        }
    }

    fn wrong<T>(&self) -> Result<T> {
        Err(LoadError {
            line: self.line,
            message: format!("{} is not an instruction of a supported type", self.op),
            unsupported: true,
        })
    }
}
