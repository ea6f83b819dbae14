//! From the syntax tree to [`Code`]: names resolved, calls inlined, opcodes decoded.
//!
//! What is not understood to the last modifier is an error that names it: nothing is skipped.

mod alloc;
mod arithmetic;
mod bits;
mod compare;
mod control;
mod convert;
mod memory;
mod mods;
mod operand;
mod warp;

use std::collections::{BTreeMap, HashMap};

use crate::{
    exec::code::{Code, Extra, LANES, Op, Origin, Row},
    fault::LoadError,
    module::{KernelInfo, Param},
    ptx::{Function, Inst, Space, Stmt, Type, Unit, Var},
};
use mods::Mods;

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
                        for name in inst.operands.iter().filter_map(operand::name) {
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

    fn inst(&mut self, inst: &'u Inst<'a>) -> Result<()> {
        self.origin = Origin { ptx_line: inst.line, loc: inst.loc };
        self.guard = None;
        if let Some((name, not)) = inst.guard {
            self.guard = Some((self.pred(name)?, not));
        }
        let mut mods = Mods::new(inst.op, inst.line)?;
        let known = self.arithmetic(inst, &mut mods)?
            || self.bitwise(inst, &mut mods)?
            || self.comparison(inst, &mut mods)?
            || self.movement(inst, &mut mods)?
            || self.memory(inst, &mut mods)?
            || self.warp(inst, &mut mods)?
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
