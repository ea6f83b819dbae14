//! Where tensors live and kernels run: memory, copies, order. Nothing here knows an operation.

mod cpu;
pub mod cuda;
mod peaks;
mod pool;
mod tensor;

pub use cpu::{Cpu, CpuBuffer, Simd};
pub use cuda::Cuda;
pub use peaks::Peaks;
pub use pool::Pool;
pub use tensor::{DType, Element, Shape, Tensor, View, ViewMut};

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::error::Result;

/// Read-only host memory that outlives its readers: a mapped file, or bytes embedded in the binary.
pub type HostBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A device: its memory and its queue. A clone is another handle to the same device.
///
/// Work is enqueued in order; only [`Device::read`], [`Device::landed`] and [`Device::synchronize`] wait for it.
pub trait Device: Clone + Send + Sync + 'static {
    /// Device memory; freed on drop.
    type Buffer: Send + Sync + fmt::Debug + 'static;

    /// Recorded work.
    type Graph: Send + 'static;

    /// Host memory that copies from the device land in while the host goes on.
    type Landing: Send + 'static;

    /// Whether kernels are launched in a rehearsal too: such a device runs nothing then, but prepares what the launches
    /// ask for.
    const LAUNCHES_IN_REHEARSAL: bool = false;

    /// Whether it can record work.
    const RECORDS: bool = false;

    /// Whether it works while the host goes on.
    const ASYNCHRONOUS: bool = false;

    /// The name to print, e.g. `cpu (2 threads, avx2+fma)`.
    fn describe(&self) -> String;

    /// `bytes` of zeroed memory, aligned to 64 or better.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the memory is not there.
    fn alloc(&self, bytes: usize) -> Result<Self::Buffer>;

    /// Makes the system provide the first `bytes` of `buffer` now, should it do so at the first write: no step then waits
    /// for that. They stay as they are.
    fn touch(&self, _buffer: &Self::Buffer, _bytes: usize) {}

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

    /// Copies `src[from..from + bytes]` to `dst[to..]`. Panics if either is too small.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the copy cannot be enqueued.
    fn copy(
        &self,
        src: &Self::Buffer,
        from: usize,
        dst: &mut Self::Buffer,
        to: usize,
        bytes: usize,
    ) -> Result<()>;

    /// Room for `bytes`.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the memory is not there.
    fn landing(&self, bytes: usize) -> Result<Self::Landing>;

    /// Enqueues a copy of `src[offset..offset + bytes]`. Panics if `src` or `to` is too small.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the copy cannot be enqueued.
    fn fetch(&self, src: &Self::Buffer, offset: usize, bytes: usize, to: &mut Self::Landing) -> Result<()>;

    /// Waits for the last [`Self::fetch`] to `landing`, and for no work that was enqueued later: its bytes, aligned to 64.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when work up to there failed.
    fn landed<'a>(&self, landing: &'a mut Self::Landing) -> Result<&'a [u8]>;

    /// Waits for enqueued work.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the work failed.
    fn synchronize(&self) -> Result<()>;

    /// How long the device takes for what `work` enqueues, once what was enqueued before has run.
    ///
    /// # Errors
    /// What `work` reports, and as [`Device::synchronize`].
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Duration> {
        self.synchronize()?;
        let start = Instant::now();
        work()?;
        self.synchronize()?;
        Ok(start.elapsed())
    }

    /// Whether its times mean anything; those of a device in software do not.
    fn is_timed(&self) -> bool {
        true
    }

    /// What it can at most do, measured now or from its clocks; `None` where that is not known.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the memory to measure with is not there, or the device does not tell.
    fn peaks(&self) -> Result<Option<Peaks>> {
        Ok(None)
    }

    /// Bytes of memory that are free, and all that there are.
    fn memory(&self) -> (usize, usize);

    /// While on, launches only note what they need; turning it off prepares that: compiles and loads it.
    ///
    /// # Errors
    /// [`crate::Error::Device`] with the compiler's words.
    fn rehearse(&self, _on: bool) -> Result<()> {
        Ok(())
    }

    /// Records what `work` enqueues instead of running it.
    ///
    /// # Errors
    /// What `work` reports; [`crate::Error::Device`] when it did what cannot be recorded.
    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Self::Graph>;

    /// Enqueues recorded work, with the addresses that it was recorded with.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the launch fails.
    fn replay(&self, graph: &Self::Graph) -> Result<()>;

    /// Takes up kernels that their author has saved meanwhile; returns the files of those that changed. Graphs recorded
    /// before launch the old ones, which are gone.
    ///
    /// # Errors
    /// [`crate::Error::Compile`] with the compiler's words; the old kernels stay.
    fn reload(&self) -> Result<Vec<&'static str>> {
        Ok(Vec::new())
    }
}
