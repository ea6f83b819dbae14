//! Where tensors live and kernels run: memory, copies, order. Nothing here knows an operation.

mod cpu;
mod pool;
mod tensor;

pub use cpu::{Cpu, CpuBuffer, Simd};
pub use pool::Pool;
pub use tensor::{DType, Element, Shape, Tensor, View, ViewMut};

use std::{fmt, sync::Arc};

use crate::error::Result;

/// Read-only host memory that outlives its readers: a mapped file, or bytes embedded in the binary.
pub type HostBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A device: its memory and its queue. A clone is another handle to the same device.
///
/// Work is enqueued in order; only [`Device::read`] and [`Device::synchronize`] wait for it.
pub trait Device: Clone + Send + Sync + 'static {
    /// Device memory; freed on drop.
    type Buffer: Send + Sync + fmt::Debug + 'static;

    /// The name to print, e.g. `cpu (2 threads, avx2+fma)`.
    fn describe(&self) -> String;

    /// `bytes` of zeroed memory, aligned to 64 or better.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the memory is not there.
    fn alloc(&self, bytes: usize) -> Result<Self::Buffer>;

    /// Memory holding `bytes[range]`; a device that shares the host's memory refers to it without a copy.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the memory is not there.
    fn adopt(&self, bytes: &HostBytes, range: std::ops::Range<usize>) -> Result<Self::Buffer>;

    /// Copies `src` to `dst[offset..]`.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the copy fails. Panics if `dst` is too small.
    fn write(&self, dst: &mut Self::Buffer, offset: usize, src: &[u8]) -> Result<()>;

    /// Waits for enqueued work, then copies `src[offset..]` to `dst`.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when earlier work or the copy failed. Panics if `src` is too small.
    fn read(&self, src: &Self::Buffer, offset: usize, dst: &mut [u8]) -> Result<()>;

    /// Waits for enqueued work.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the work failed.
    fn synchronize(&self) -> Result<()>;

    /// Bytes of memory free for the KV cache and all else.
    fn free_memory(&self) -> usize;
}
