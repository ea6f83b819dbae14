//! A loaded module: its kernels, and where its global variables are.

use std::collections::BTreeMap;

use crate::{
    exec::code::Code,
    fault::{LoadError, at},
    lower,
    memory::Memory,
    ptx::{self, Init, Space, Unit, Var},
};

/// A parameter of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param {
    /// Bytes from the start of the parameter block.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
}

/// What the driver must know of a kernel to launch it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KernelInfo {
    /// The symbol.
    pub name: String,
    /// Its parameters, in order.
    pub params: Vec<Param>,
    /// Bytes of the parameter block.
    pub param_bytes: u32,
    /// Bytes of static shared memory.
    pub static_shared: u32,
    /// Where dynamic shared memory begins: after the static, aligned.
    pub dynamic_offset: u32,
    /// Bytes of local memory of a thread.
    pub local_bytes: u32,
    /// Bytes of the module's constant memory.
    pub const_bytes: u32,
    /// 32-bit registers of a thread, modelled: what is live at once in the PTX, not what ptxas would allocate.
    pub registers: u32,
    /// `.maxntid` as a product: `__launch_bounds__`.
    pub max_threads: Option<u32>,
    /// `.reqntid`.
    pub required_block: Option<[u32; 3]>,
    /// `.minnctapersm`.
    pub min_blocks: Option<u32>,
}

/// A module on one device.
#[derive(Debug)]
pub struct Module {
    device: u32,
    kernels: BTreeMap<String, (KernelInfo, Code)>,
    globals: BTreeMap<String, (u64, u64)>,
    files: BTreeMap<u32, String>,
}

/// Bytes of a module's constant memory.
const MAX_CONST: u64 = 64 << 10;

impl Module {
    /// Parses PTX, lowers it, and places its global and constant variables in `device`'s memory.
    ///
    /// - `arch`: the device's compute capability, 80 or 90; PTX for a later one is refused.
    ///
    /// # Errors
    /// [`LoadError`] with the line, also when the variables do not fit into memory.
    pub fn load(memory: &mut Memory, device: u32, ptx: &str, arch: u32) -> Result<Self, LoadError> {
        let unit = ptx::parse(ptx)?;
        let error = |line, message, unsupported| Err(LoadError { line, message, unsupported });
        if unit.target > arch {
            let message = format!("PTX for sm_{} on a device of sm_{arch}", unit.target);
            return error(1, message, true);
        }
        if unit.target < 50 {
            return error(1, "no .target of sm_50 or later".to_string(), false);
        }
        let mut module = Self {
            device,
            kernels: BTreeMap::new(),
            globals: BTreeMap::new(),
            files: unit.files.iter().map(|(&n, &name)| (n, name.to_string())).collect(),
        };
        match module.fill(memory, &unit) {
            Ok(()) => Ok(module),
            Err(e) => {
                module.unload(memory);
                Err(e)
            }
        }
    }

    fn fill(&mut self, memory: &mut Memory, unit: &Unit<'_>) -> Result<(), LoadError> {
        let mut symbols = lower::Symbols::new();
        let mut const_bytes = 0;
        let error =
            |var: &Var<'_>, message: String| LoadError { line: var.line, message, unsupported: false };
        let placed = || unit.vars.iter().filter(|v| matches!(v.space, Space::Global | Space::Const));
        for var in placed() {
            if var.is_extern {
                return Err(error(var, format!("{} is defined in another module", var.name)));
            }
            if var.space == Space::Const {
                const_bytes += var.size;
                if const_bytes > MAX_CONST {
                    return Err(error(var, format!("constant memory exceeds {MAX_CONST} bytes")));
                }
            }
            let addr =
                memory.alloc(self.device, var.size).map_err(|e| error(var, format!("{}: {e}", var.name)))?;
            self.globals.insert(var.name.to_string(), (addr, var.size));
            symbols.insert(var.name, addr);
        }
        for var in placed() {
            let addr = symbols[var.name];
            let element = var.ty.bytes() as usize;
            let mut bytes = Vec::with_capacity(var.init.len() * element);
            for init in &var.init {
                let bits = match *init {
                    Init::Bits(bits) => bits,
                    Init::Address(name, offset) => match symbols.get(name) {
                        Some(&at) => at.wrapping_add(offset as u64),
                        None => return Err(error(var, format!("{name} has no address"))),
                    },
                };
                bytes.extend_from_slice(&bits.to_le_bytes()[..element.min(8)]);
            }
            let filled = memory.write(addr, &bytes).and_then(|()| {
                let rest = var.size.saturating_sub(bytes.len() as u64);
                memory.fill(addr + bytes.len() as u64, &[0], rest)
            });
            filled.map_err(|e| error(var, e.to_string()))?;
        }
        for kernel in unit.functions.iter().filter(|f| f.entry && f.body.is_some()) {
            let (code, mut info) = lower::lower(unit, kernel, &symbols)?;
            info.const_bytes = const_bytes as u32;
            self.kernels.insert(kernel.name.to_string(), (info, code));
        }
        Ok(())
    }

    /// Frees the module's variables.
    pub fn unload(self, memory: &mut Memory) {
        for (addr, _) in self.globals.values() {
            // A variable is freed once, here.
            let _ = memory.free(*addr);
        }
    }

    /// The device it was loaded for.
    pub fn device(&self) -> u32 {
        self.device
    }

    /// The kernels, by name.
    pub fn kernels(&self) -> impl Iterator<Item = &KernelInfo> {
        self.kernels.values().map(|(info, _)| info)
    }

    /// A kernel.
    pub fn kernel(&self, name: &str) -> Option<&KernelInfo> {
        self.kernels.get(name).map(|(info, _)| info)
    }

    /// A kernel with its code.
    pub fn code(&self, name: &str) -> Option<(&KernelInfo, &Code)> {
        self.kernels.get(name).map(|(info, code)| (info, code))
    }

    /// Where an instruction of a kernel comes from: `file:line`, or its line of the PTX.
    pub(crate) fn place(&self, kernel: &str, pc: u32) -> Option<String> {
        let (_, code) = self.kernels.get(kernel)?;
        let origin = code.origins.get(pc as usize)?;
        let source = origin.loc.map(|loc| (self.file(loc.file).unwrap_or("?").to_string(), loc.line));
        Some(at(&source, origin.ptx_line))
    }

    /// Address and bytes of a `.global` or `.const` variable.
    pub fn global(&self, name: &str) -> Option<(u64, u64)> {
        self.globals.get(name).copied()
    }

    /// The name of a source file.
    pub fn file(&self, number: u32) -> Option<&str> {
        self.files.get(&number).map(String::as_str)
    }
}
