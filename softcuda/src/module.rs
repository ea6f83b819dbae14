//! A loaded module: its kernels, and where its global variables are.

use std::collections::BTreeMap;

use crate::{fault::LoadError, memory::Memory};

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
    kernels: BTreeMap<String, KernelInfo>,
    globals: BTreeMap<String, (u64, u64)>,
}

impl Module {
    /// Parses PTX, lowers it, and places its global and constant variables in `device`'s memory.
    ///
    /// - `arch`: the device's compute capability, 80 or 90; PTX for a later one is refused.
    ///
    /// # Errors
    /// [`LoadError`] with the line, also when the variables do not fit into memory.
    pub fn load(memory: &mut Memory, device: u32, ptx: &str, arch: u32) -> Result<Self, LoadError> {
        let _ = (memory, ptx, arch);
        let message = format!("device {device}: loading is not built yet");
        Err(LoadError { line: 0, message, unsupported: true })
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
        self.kernels.values()
    }

    /// A kernel.
    pub fn kernel(&self, name: &str) -> Option<&KernelInfo> {
        self.kernels.get(name)
    }

    /// Address and bytes of a `.global` or `.const` variable.
    pub fn global(&self, name: &str) -> Option<(u64, u64)> {
        self.globals.get(name).copied()
    }
}
