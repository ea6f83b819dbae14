//! What a stream or a graph does: kernels, copies, fills, host functions.

use std::{ffi::c_void, sync::Arc};

use super::error::{self, CUresult, Result};
use crate::{
    exec::LaunchConfig,
    memory::{Memory, MemoryError},
    module::Module,
};

/// One thing to do.
#[derive(Debug, Clone)]
pub enum Work {
    /// Nothing; it has a place in the order.
    Marker,
    /// A kernel.
    Kernel(Launch),
    /// A copy of one to three dimensions.
    Copy(Copy),
    /// A pattern written again and again.
    Fill(Fill),
    /// A function of the client.
    Host(HostFunction),
    /// The beginning of a stream-ordered allocation.
    Alloc(Alloc),
    /// Its end.
    Free(u64),
    /// The time at which this event is reached.
    Record(usize),
    /// A wait for an event, in a graph: it is resolved when the graph is launched.
    Wait(usize),
    /// A graph within a graph, by its handle.
    Graph(usize),
}

/// A kernel with its arguments.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The module, which lives until its last launch has run.
    pub module: Arc<Module>,
    /// The client's handle of the kernel.
    pub function: usize,
    /// The kernel's name in the module.
    pub name: String,
    /// Grid, block and dynamic shared memory.
    pub config: LaunchConfig,
    /// The parameter block.
    pub params: Arc<[u8]>,
}

/// One side of a copy.
#[derive(Debug, Clone)]
pub enum End {
    /// An address that [`Memory`] knows: of a device, or of pinned host memory.
    Known(u64),
    /// The client's own pageable memory, read or written when the copy runs.
    Pageable(usize),
    /// What pageable memory held when the copy was enqueued.
    Staged(Arc<[u8]>),
}

/// A copy of `depth` slices of `height` rows of `width` bytes.
#[derive(Debug, Clone)]
pub struct Copy {
    /// Where from.
    pub src: End,
    /// Where to.
    pub dst: End,
    /// Bytes, rows and slices.
    pub extent: [u64; 3],
    /// Bytes from row to row and from slice to slice in the source.
    pub src_pitch: [u64; 2],
    /// The same in the destination.
    pub dst_pitch: [u64; 2],
}

impl Copy {
    /// A copy of one range.
    pub fn linear(dst: End, src: End, bytes: usize) -> Self {
        let bytes = bytes as u64;
        Self { src, dst, extent: [bytes, 1, 1], src_pitch: [bytes; 2], dst_pitch: [bytes; 2] }
    }

    /// Offsets of each row in source and destination.
    fn rows(&self) -> impl Iterator<Item = (u64, u64)> {
        let (src, dst) = (self.src_pitch, self.dst_pitch);
        let slices = 0..self.extent[2];
        let height = self.extent[1];
        slices.flat_map(move |z| (0..height).map(move |y| (z * src[1] + y * src[0], z * dst[1] + y * dst[0])))
    }

    /// From the first byte to the end of the last, in a memory with these pitches.
    pub fn span(&self, pitch: [u64; 2]) -> u64 {
        let [width, height, depth] = self.extent;
        if width * height * depth == 0 {
            return 0;
        }
        (depth - 1) * pitch[1] + (height - 1) * pitch[0] + width
    }

    fn run(&self, memory: &mut Memory) -> std::result::Result<(), MemoryError> {
        let width = self.extent[0] as usize;
        for (from, to) in self.rows() {
            match (&self.dst, &self.src) {
                (End::Known(dst), End::Known(src)) => memory.copy(dst + to, src + from, width as u64)?,
                (End::Known(dst), End::Staged(bytes)) => {
                    memory.write(dst + to, &bytes[from as usize..][..width])?
                }
                (End::Known(dst), End::Pageable(src)) => {
                    // SAFETY: the client keeps the source of a copy valid until the copy has run.
                    let bytes =
                        unsafe { std::slice::from_raw_parts((src + from as usize) as *const u8, width) };
                    memory.write(dst + to, bytes)?;
                }
                (End::Pageable(dst), End::Known(src)) => {
                    // SAFETY: the client keeps the destination of a copy valid until the copy has run.
                    let bytes =
                        unsafe { std::slice::from_raw_parts_mut((dst + to as usize) as *mut u8, width) };
                    memory.read(src + from, bytes)?;
                }
                (End::Pageable(dst), End::Pageable(src)) => {
                    let (src, dst) = ((src + from as usize) as *const u8, (dst + to as usize) as *mut u8);
                    // SAFETY: as above, for both; `copy` allows overlap.
                    unsafe { src.copy_to(dst, width) }
                }
                (End::Pageable(dst), End::Staged(bytes)) => {
                    let (bytes, dst) = (&bytes[from as usize..][..width], (dst + to as usize) as *mut u8);
                    // SAFETY: the client keeps the destination of a copy valid until the copy has run.
                    unsafe { dst.copy_from(bytes.as_ptr(), width) }
                }
                (End::Staged(_), _) => unreachable!("only a source is staged"),
            }
        }
        Ok(())
    }
}

/// A pattern of 1, 2 or 4 bytes written to `height` rows of `width` elements.
#[derive(Debug, Clone)]
pub struct Fill {
    /// The first address.
    pub dst: u64,
    /// Bytes from row to row.
    pub pitch: u64,
    /// The value.
    pub value: u32,
    /// Bytes of an element: 1, 2 or 4.
    pub element: u32,
    /// Elements of a row.
    pub width: u64,
    /// Rows.
    pub height: u64,
}

impl Fill {
    fn run(&self, memory: &mut Memory) -> std::result::Result<(), MemoryError> {
        let value = self.value.to_le_bytes();
        for row in 0..self.height {
            memory.fill(self.dst + row * self.pitch, &value[..self.element as usize], self.width)?;
        }
        Ok(())
    }
}

/// A function of the client with its argument.
#[derive(Debug, Clone)]
pub struct HostFunction {
    /// The function.
    pub function: Option<unsafe extern "C" fn(*mut c_void)>,
    /// What it is called with.
    pub data: usize,
}

impl HostFunction {
    /// Calls it. No lock may be held: it may block on what other threads do.
    pub fn call(&self) {
        if let Some(function) = self.function {
            // SAFETY: the client passed function and argument together, to be called once the work before is done.
            unsafe { function(self.data as *mut c_void) }
        }
    }
}

/// A stream-ordered allocation. One of a stream lives from the call on, so that other calls know its address; one of a
/// graph comes to life when it runs.
#[derive(Debug, Clone, Copy)]
pub struct Alloc {
    /// The device's number.
    pub device: u32,
    /// Where it begins.
    pub address: u64,
    /// Its size.
    pub bytes: u64,
}

impl Work {
    /// What reports call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Copy(_) => "a copy",
            Self::Fill(_) => "a memset",
            Self::Alloc(_) => "an allocation (cuMemAllocAsync)",
            Self::Free(_) => "a free (cuMemFreeAsync)",
            _ => "work without memory",
        }
    }

    /// The ranges that it reads or writes: address, bytes, and whether it writes. To begin or end memory is to write it.
    fn touches(&self, memory: &Memory) -> Vec<(u64, u64, bool)> {
        match self {
            Self::Copy(copy) => {
                let side = |end: &End, at: u64, writes: bool| match end {
                    End::Known(base) => Some((base + at, copy.extent[0], writes)),
                    _ => None,
                };
                let row = |(from, to)| [side(&copy.src, from, false), side(&copy.dst, to, true)];
                copy.rows().flat_map(row).flatten().collect()
            }
            Self::Fill(fill) => {
                let row = |row| (fill.dst + row * fill.pitch, fill.width * u64::from(fill.element), true);
                (0..fill.height).map(row).collect()
            }
            Self::Alloc(new) => vec![(new.address, new.bytes, true)],
            Self::Free(address) => {
                memory.find(*address).map(|a| (a.base, a.size, true)).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    /// Runs work that only touches memory.
    ///
    /// # Errors
    /// `CUDA_ERROR_ILLEGAL_ADDRESS` if its memory was freed in the meantime, `CUDA_ERROR_LAUNCH_FAILED` if it races with
    /// work before (where that is checked), with a line on stderr.
    pub fn run_on(&self, memory: &mut Memory) -> Result<()> {
        for (address, bytes, writes) in self.touches(memory) {
            memory.touch(address, bytes, writes).map_err(|what| {
                let verb = if writes { "write" } else { "read" };
                eprintln!("softcuda: {}: its {verb} {what}", self.name());
                CUresult::CUDA_ERROR_LAUNCH_FAILED
            })?;
        }
        let done = match self {
            Self::Copy(copy) => copy.run(memory),
            Self::Fill(fill) => fill.run(memory),
            Self::Alloc(new) if memory.find(new.address).is_none() => {
                memory.alloc_at(new.device, new.address, new.bytes)
            }
            Self::Free(address) => memory.free(*address),
            _ => Ok(()),
        };
        done.map_err(|e| {
            eprintln!("softcuda: {}: {e}", self.name());
            match error::of_memory(e) {
                CUresult::CUDA_ERROR_OUT_OF_MEMORY => CUresult::CUDA_ERROR_OUT_OF_MEMORY,
                _ => CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
            }
        })
    }
}
