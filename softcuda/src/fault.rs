//! What can go wrong: at load, and in a running kernel.

use std::fmt;

use crate::memory::Place;

/// PTX that could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError {
    /// The line of the PTX text, from 1; 0 when none is to blame.
    pub line: u32,
    /// What is wrong, naming the instruction, modifier or symbol.
    pub message: String,
    /// The PTX is well formed but asks for something that softcuda does not build (`wgmma`, TMA, textures, …).
    pub unsupported: bool,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ptx line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for LoadError {}

/// The kind of a [`Fault`]; each has its CUDA error code in the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// Global, shared or local access outside of what exists (`CUDA_ERROR_ILLEGAL_ADDRESS`).
    IllegalAddress,
    /// An address that is not a multiple of the access's size (`CUDA_ERROR_MISALIGNED_ADDRESS`).
    Misaligned,
    /// A generic access to a space that the instruction cannot reach (`CUDA_ERROR_INVALID_ADDRESS_SPACE`).
    AddressSpace,
    /// `trap` (`CUDA_ERROR_LAUNCH_FAILED`).
    Trap,
    /// A device-side `assert` (`CUDA_ERROR_ASSERT`).
    Assert,
    /// A barrier or `.sync` operation whose members can never all arrive, or that is used wrongly
    /// (`CUDA_ERROR_LAUNCH_FAILED`; on a real device it hangs or is undefined).
    Sync,
    /// The kernel ran longer than its allowance of instructions (`CUDA_ERROR_LAUNCH_TIMEOUT`).
    Timeout,
    /// A read of memory that nobody wrote (`CUDA_ERROR_LAUNCH_FAILED`; only under `SOFTCUDA_CHECK=init`).
    Uninitialised,
    /// Two accesses that nothing orders, one of them a write (`CUDA_ERROR_LAUNCH_FAILED`; only under
    /// `SOFTCUDA_CHECK=race`).
    Race,
    /// The launch itself breaks a limit (`CUDA_ERROR_INVALID_VALUE`).
    InvalidLaunch,
}

/// A kernel that was stopped, with the first thread, in the order of blocks, that did wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What it was.
    pub kind: FaultKind,
    /// One sentence: the instruction and what is wrong with it.
    pub message: String,
    /// The kernel.
    pub kernel: String,
    /// `blockIdx`.
    pub block: [u32; 3],
    /// `threadIdx`.
    pub thread: [u32; 3],
    /// The address, where there is one.
    pub addr: Option<u64>,
    /// The nearest allocation, where there is an address in global memory.
    pub place: Option<Place>,
    /// File and line of the `.cu` source, from NVRTC's line info (`-lineinfo`).
    pub source: Option<(String, u32)>,
    /// The line of the PTX text.
    pub ptx_line: u32,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [bx, by, bz] = self.block;
        let [tx, ty, tz] = self.thread;
        write!(f, "{}: {} in {}", self.kernel, self.message, at(&self.source, self.ptx_line))?;
        write!(f, ", block ({bx},{by},{bz}) thread ({tx},{ty},{tz})")?;
        match &self.place {
            Some(place) => write!(f, "; the address is {place}"),
            None => Ok(()),
        }
    }
}

/// `file:line`, or the line of the PTX where there is no line info.
pub(crate) fn at(source: &Option<(String, u32)>, ptx_line: u32) -> String {
    match source {
        Some((file, line)) => format!("{file}:{line}"),
        None => format!("ptx line {ptx_line}"),
    }
}

impl std::error::Error for Fault {}
