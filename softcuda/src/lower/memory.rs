//! Loads, stores, atomics, asynchronous copies, addresses.

use super::{Binding, Lower, Mods, Result, Src};
use crate::{
    exec::code::{Access, Atom, AtomOp, Extra, LOCAL_BASE, Op, PARAM_BASE, SHARED_BASE, Window},
    ptx::{Inst, Operand, Type},
};

/// Crosses off the state space; generic if there is none.
pub(super) fn window(mods: &mut Mods<'_>) -> Window {
    let known = [
        ("global", Window::Global),
        ("const", Window::Global),
        ("shared", Window::Shared),
        ("shared::cta", Window::Shared),
        ("local", Window::Local),
        ("param", Window::Param),
        ("param::entry", Window::Param),
        ("param::func", Window::Param),
    ];
    mods.take_of(&known).unwrap_or(Window::Generic)
}

/// Crosses off memory order and scope; true if the access is ordered against others.
fn strong(mods: &mut Mods<'_>) -> bool {
    let weak = mods.take("weak");
    let order = ["volatile", "relaxed", "acquire", "release", "acq_rel", "mmio"];
    let strong = order.into_iter().any(|name| mods.take(name));
    for scope in ["cta", "cluster", "gpu", "sys"] {
        mods.take(scope);
    }
    strong && !weak
}

/// Crosses off cache hints; true if the instruction has a cache-policy operand.
fn cache(mods: &mut Mods<'_>) -> bool {
    for hint in ["ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc"] {
        mods.take(hint);
    }
    for hint in [
        "L1::evict_normal",
        "L1::evict_unchanged",
        "L1::evict_first",
        "L1::evict_last",
        "L1::no_allocate",
        "L2::evict_normal",
        "L2::evict_first",
        "L2::evict_last",
        "L2::64B",
        "L2::128B",
        "L2::256B",
    ] {
        mods.take(hint);
    }
    mods.take("L2::cache_hint")
}

/// Whether `ld` and `st` take the type: those of halves and pairs move as bits.
fn moves(ty: Type) -> bool {
    use Type::*;
    !matches!(ty, Pred | B128 | F16 | F16x2 | Bf16 | Bf16x2 | Tf32 | U16x2 | S16x2)
}

impl<'a> Lower<'a, '_> {
    /// Lowers it if it is one of these; false otherwise.
    pub(super) fn memory(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<bool> {
        match mods.base {
            "ld" | "ldu" => self.load(inst, mods)?,
            "st" => self.store(inst, mods)?,
            "atom" | "red" if mods.has("async") => self.unsupported(format!("{}: mbarrier", inst.op))?,
            "atom" | "red" => self.atomic(inst, mods)?,
            "cvta" => self.cvta(inst, mods)?,
            "isspacep" => {
                let window = window(mods);
                if window == Window::Generic {
                    return mods.wrong();
                }
                self.count(inst, 2)?;
                let a = self.src(&inst.operands[1], Type::B64)?;
                let p = self.dst(&inst.operands[0], 1)?;
                self.emit_mods(Op::IsSpace, window as u16, &[p], &[a], 0)?;
            }
            "prefetch" | "prefetchu" | "discard" | "applypriority" => {
                window(mods);
                cache(mods);
                mods.take("L1");
                mods.take("L2");
                let address = match inst.operands.first() {
                    Some(operand) => self.address(operand)?,
                    None => return self.error(format!("{} lacks an address", inst.op)).map(|()| true),
                };
                let _ = address;
                self.emit(Op::Fence, &[], &[], 0)?;
            }
            "createpolicy" => {
                // A policy is a hint; any value will do.
                mods.parts.iter_mut().for_each(|(_, used)| *used = true);
                let d = match inst.operands.first() {
                    Some(operand) => self.dst(operand, 64)?,
                    None => return self.error("createpolicy lacks a result").map(|()| true),
                };
                let zero = self.const64(0);
                self.emit(Op::Mov64, &[d], &[zero], 0)?;
            }
            "membar" | "fence" => {
                for word in ["sc", "acq_rel", "acquire", "release", "cta", "cluster", "gl", "gpu", "sys"] {
                    mods.take(word);
                }
                self.count(inst, 0)?;
                self.emit(Op::Fence, &[], &[], 0)?;
            }
            "cp" => self.cp_async(inst, mods)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// `[name + offset]` where the name is a parameter of a call or of the kernel: its window and offset.
    fn param(&mut self, operand: &Operand<'a>, bytes: u64) -> Result<Option<(Window, u64)>> {
        let Operand::Address(Some(name), offset) = *operand else { return Ok(None) };
        let (window, base, size) = match self.lookup(name)? {
            Some(Binding::KernelParam(at, size)) => (Window::Param, at, size),
            Some(Binding::CallParam(at, size)) => (Window::Local, at, size),
            _ => return Ok(None),
        };
        match u64::try_from(offset).ok().and_then(|o| o.checked_add(bytes)).filter(|&end| end <= size) {
            Some(_) => Ok(Some((window, base + offset as u64))),
            None => self.error(format!("{bytes} bytes at {offset} are outside of {name}")),
        }
    }

    /// The base register and offset of an access, whose window a parameter may change.
    fn place(&mut self, operand: &Operand<'a>, window: &mut Window, bytes: u64) -> Result<(Src, u64)> {
        if *window == Window::Param
            && let Some((found, at)) = self.param(operand, bytes)?
        {
            *window = found;
            return Ok((self.const64(0), at));
        }
        self.address(operand)
    }

    fn vector(&mut self, mods: &mut Mods<'a>) -> u8 {
        mods.take_of(&[("v2", 2), ("v4", 4)]).unwrap_or(1)
    }

    pub(super) fn elements<'b>(&self, operand: &'b Operand<'a>, count: u8) -> Result<&'b [Operand<'a>]> {
        let all = match operand {
            Operand::Vector(all) => all.as_slice(),
            one => std::slice::from_ref(one),
        };
        match all.len() == usize::from(count) {
            true => Ok(all),
            false => self.error(format!("{} registers for {count} elements", all.len())),
        }
    }

    fn load(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<()> {
        if ["release", "acq_rel", "wb", "wt"].iter().any(|of_stores| mods.has(of_stores)) {
            return mods.wrong();
        }
        let strong = strong(mods);
        let mut window = window(mods);
        let policy = cache(mods);
        let count = self.vector(mods);
        let ty = mods.ty()?;
        if !moves(ty) || u32::from(count) * ty.bytes() > 16 {
            return mods.wrong();
        }
        self.count(inst, 2 + usize::from(policy))?;
        let bytes = u64::from(ty.bytes()) * u64::from(count);
        let mut d = Vec::new();
        let mut have = ty.bits();
        for operand in self.elements(&inst.operands[0], count)? {
            let (reg, bits) = self.dst_at_least(operand, ty.bits())?;
            if !d.is_empty() && have != bits {
                return self.error("the registers of a vector have different sizes");
            }
            have = bits;
            d.push(reg);
        }
        let (base, offset) = self.place(&inst.operands[1], &mut window, bytes)?;
        let access = Access {
            window,
            bytes: ty.bytes() as u8,
            count,
            signed: ty.is_signed(),
            reg: have.max(16) as u8,
            strong,
            short: self.bits(base) == Some(32),
        };
        if window == Window::Param && base == self.const64(0) {
            // A parameter at a known place is the same in every lane.
            for (i, reg) in d.into_iter().enumerate() {
                let one = Access { count: 1, ..access };
                let at = offset + i as u64 * u64::from(ty.bytes());
                self.emit_mods(Op::LdParam, one.pack(), &[reg], &[], at)?;
            }
            return Ok(());
        }
        self.emit_mods(Op::Ld, access.pack(), &d, &[base], offset)
    }

    fn store(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<()> {
        if mods.has("async") || mods.has("bulk") {
            return self.unsupported(format!("{}: mbarrier and TMA are not supported", inst.op));
        }
        if ["const", "acquire", "acq_rel", "nc", "ca", "lu", "cv"].iter().any(|of_loads| mods.has(of_loads)) {
            return mods.wrong();
        }
        let strong = strong(mods);
        let mut window = window(mods);
        let policy = cache(mods);
        let count = self.vector(mods);
        let ty = mods.ty()?;
        if !moves(ty) || u32::from(count) * ty.bytes() > 16 {
            return mods.wrong();
        }
        self.count(inst, 2 + usize::from(policy))?;
        let bytes = u64::from(ty.bytes()) * u64::from(count);
        let (base, offset) = self.place(&inst.operands[0], &mut window, bytes)?;
        if window == Window::Param {
            return self.error("kernel parameters cannot be stored to");
        }
        let mut uses = vec![base];
        let mut wide = None;
        for operand in self.elements(&inst.operands[1], count)? {
            let src = self.src_at_least(operand, ty)?;
            let is_wide = self.bits(src).map_or(ty.bits() == 64, |bits| bits == 64);
            if *wide.get_or_insert(is_wide) != is_wide {
                return self.error("the registers of a vector have different sizes");
            }
            uses.push(src);
        }
        let access = Access {
            window,
            bytes: ty.bytes() as u8,
            count,
            signed: false,
            reg: if wide == Some(true) { 64 } else { 32 },
            strong,
            short: self.bits(base) == Some(32),
        };
        self.emit_mods(Op::St, access.pack(), &[], &uses, offset)
    }

    pub(super) fn atom_op(&self, mods: &mut Mods<'a>) -> Result<AtomOp> {
        let known = [
            ("and", AtomOp::And),
            ("or", AtomOp::Or),
            ("xor", AtomOp::Xor),
            ("add", AtomOp::Add),
            ("inc", AtomOp::Inc),
            ("dec", AtomOp::Dec),
            ("min", AtomOp::Min),
            ("max", AtomOp::Max),
            ("exch", AtomOp::Exch),
            ("cas", AtomOp::Cas),
        ];
        match mods.take_of(&known) {
            Some(op) => Ok(op),
            None => mods.wrong(),
        }
    }

    fn atomic(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<()> {
        let returns = mods.base == "atom";
        if mods.has("const") {
            return mods.wrong();
        }
        strong(mods);
        let window = window(mods);
        let op = self.atom_op(mods)?;
        mods.take("noftz");
        let policy = mods.take("L2::cache_hint");
        let count = mods.take_of(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1u8);
        let ty = mods.ty()?;
        use Type::*;
        let ok = match op {
            AtomOp::And | AtomOp::Or | AtomOp::Xor => matches!(ty, B32 | B64),
            AtomOp::Exch => matches!(ty, B32 | B64),
            AtomOp::Cas => matches!(ty, B16 | B32 | B64),
            AtomOp::Add => {
                matches!(ty, U32 | S32 | U64 | S64 | F32 | F64 | F16 | F16x2 | Bf16 | Bf16x2)
            }
            AtomOp::Inc | AtomOp::Dec => ty == U32,
            AtomOp::Min | AtomOp::Max => matches!(ty, U32 | S32 | U64 | S64),
        };
        let vector_ok = count == 1 || op == AtomOp::Add && ty == F32 && count <= 4;
        let window_ok = matches!(window, Window::Global | Window::Shared | Window::Generic);
        if !ok || !vector_ok || !window_ok || (!returns && matches!(op, AtomOp::Exch | AtomOp::Cas)) {
            return mods.wrong();
        }
        let values = if op == AtomOp::Cas { 2 } else { 1 };
        self.count(inst, usize::from(returns) + 1 + values + usize::from(policy))?;
        let mut operands = inst.operands.iter();
        let mut next = || operands.next().expect("they were counted");
        let d = match returns {
            true => {
                let all = self.elements(next(), count)?;
                all.iter().map(|d| self.dst(d, ty.bits())).collect::<Result<_>>()?
            }
            false => Vec::new(),
        };
        let (base, offset) = self.address(next())?;
        let mut uses = vec![self.sum(base, offset)?];
        for _ in 0..values {
            let all = self.elements(next(), count)?;
            for value in all {
                uses.push(self.src(value, ty)?);
            }
        }
        let access = Access {
            window,
            bytes: ty.bytes() as u8,
            count: count.min(4),
            signed: false,
            reg: ty.bits() as u8,
            strong: true,
            short: false,
        };
        let extra = self.extra(Extra::Atom(Atom { op, ty, returns, count }));
        self.emit_mods(Op::Atom, access.pack(), &d, &uses, extra)
    }

    /// Base plus offset as one 64-bit value.
    pub(super) fn sum(&mut self, mut base: Src, offset: u64) -> Result<Src> {
        if self.bits(base) == Some(32) {
            let t = self.reg(64)?;
            self.emit(Op::Zext32, &[t], &[base], 0)?;
            base = Src::Reg(t);
        }
        if offset == 0 {
            return Ok(base);
        }
        if base == self.const64(0) {
            return Ok(self.const64(offset));
        }
        let (t, c) = (self.reg(64)?, self.const64(offset));
        self.emit(Op::Add64, &[t], &[base, c], 0)?;
        Ok(Src::Reg(t))
    }

    fn cvta(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<()> {
        let to = mods.take("to");
        let window = window(mods);
        if mods.ty()? != Type::U64 || window == Window::Generic {
            return mods.wrong();
        }
        self.count(inst, 2)?;
        let a = self.src(&inst.operands[1], Type::U64)?;
        let d = self.dst(&inst.operands[0], 64)?;
        let base = match window {
            Window::Shared => SHARED_BASE,
            Window::Local => LOCAL_BASE,
            Window::Param => PARAM_BASE,
            _ => {
                self.emit(Op::Mov64, &[d], &[a], 0)?;
                return Ok(());
            }
        };
        let base = self.const64(base);
        self.emit(if to { Op::Sub64 } else { Op::Add64 }, &[d], &[a, base], 0)?;
        Ok(())
    }

    fn cp_async(&mut self, inst: &Inst<'a>, mods: &mut Mods<'a>) -> Result<()> {
        if mods.has("bulk") || mods.has("reduce") {
            return self.unsupported(format!("{}: TMA (bulk copies) is not supported", inst.op));
        }
        if !mods.take("async") {
            return mods.wrong();
        }
        if mods.has("mbarrier") {
            return self.unsupported(format!("{}: mbarrier is not supported", inst.op));
        }
        if mods.take("commit_group") {
            self.count(inst, 0)?;
            self.emit(Op::CpAsyncCommit, &[], &[], 0)?;
            return Ok(());
        }
        if mods.take("wait_all") {
            self.count(inst, 0)?;
            // The copies that no commit has closed yet count, too.
            self.emit(Op::CpAsyncCommit, &[], &[], 0)?;
            self.emit(Op::CpAsyncWait, &[], &[], 0)?;
            return Ok(());
        }
        if mods.take("wait_group") {
            self.count(inst, 1)?;
            let Operand::Int(n) = inst.operands[0] else { return self.error("wait_group takes a number") };
            self.emit(Op::CpAsyncWait, &[], &[], n)?;
            return Ok(());
        }
        let cg = mods.has("cg");
        let policy = cache(mods);
        if window(mods) != Window::Shared || window(mods) != Window::Global {
            return mods.wrong();
        }
        let operands = match &inst.operands[..] {
            all if policy => &all[..all.len().saturating_sub(1)],
            all => all,
        };
        let [to, from, Operand::Int(size), rest @ ..] = operands else {
            return self.error("cp.async takes two addresses and a size");
        };
        if !(*size == 16 || !cg && matches!(size, 4 | 8)) {
            return self.error(format!("cp.async cannot copy {size} bytes"));
        }
        let (to, to_offset) = self.address(to)?;
        let to = self.sum(to, to_offset)?;
        let (from, from_offset) = self.address(from)?;
        let from = self.sum(from, from_offset)?;
        let all = self.const32(*size as u32);
        let bytes = match rest {
            [] => all,
            [Operand::Name(name)] if self.pred(name).is_ok() => {
                let (p, none, t) = (self.pred(name)?, self.const32(0), self.reg(32)?);
                self.emit(Op::Selp32, &[t], &[none, all, Src::Reg(p)], 0)?;
                Src::Reg(t)
            }
            [bytes] => self.src(bytes, Type::U32)?,
            _ => return self.error("cp.async has too many operands"),
        };
        self.emit_mods(Op::CpAsync, *size as u16, &[], &[to, from, bytes], 0)
    }
}
