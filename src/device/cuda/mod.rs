//! NVIDIA GPUs through the CUDA driver: memory, one stream, compiled kernels, graphs. Nothing is linked: cudarc loads
//! the driver at run time, and [`library`] makes sure first that it can, because cudarc panics otherwise.
//!
//! Every buffer is a driver allocation of its own, so that sanitizers know where each tensor ends. All are made before
//! the first step: a step allocates nothing.

mod graph;
mod launch;
pub mod library;
mod nvrtc;
mod pinned;
pub mod source;

use std::{
    fmt,
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result, sys};

pub use graph::Graph;
pub use launch::{Arg, Launch, arg};
pub use nvrtc::{Compiled, Compiler, Program, Target};
use pinned::Pinned;

use super::{Device, HostBytes, Peaks, View, ViewMut};
use crate::error::{Error, Result};

/// A GPU and its queue.
#[derive(Clone, Debug)]
pub struct Cuda(Arc<Inner>);

/// What lives in the context comes before it: fields are dropped in this order.
struct Inner {
    modules: launch::Modules,
    /// For copies to the device, and back.
    up: Mutex<Pinned>,
    down: Mutex<Pinned>,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    compiler: Compiler,
    name: String,
    multiprocessors: usize,
    watch: bool,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Bytes that copies to the device may have in flight.
const UP: usize = 8 << 20;
/// Bytes copied back at a time.
const DOWN: usize = 1 << 20;

impl Cuda {
    /// GPU number `ordinal`; with `watch`, saved kernel files are reloaded between steps.
    ///
    /// # Errors
    /// [`Error::Device`] if the driver or NVRTC is missing (which, where it was looked for, how to get it), there is
    /// no such GPU, or it fails.
    pub fn open(ordinal: usize, watch: bool) -> Result<Self> {
        let sources = if watch { source::Sources::watched()? } else { source::Sources::from_env() };
        Self::with(ordinal, sources, watch)
    }

    /// As [`Self::open`], with kernel files of the caller's.
    ///
    /// # Errors
    /// As there.
    pub fn with(ordinal: usize, sources: source::Sources, watch: bool) -> Result<Self> {
        library::Wanted::Driver.require()?;
        let context = CudaContext::new(ordinal).map_err(fail(&format!("GPU {ordinal}")))?;
        let name = context.name().map_err(fail("its name"))?;
        let (major, minor) = context.compute_capability().map_err(fail("its compute capability"))?;
        let multiprocessors = context
            .attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .map_err(fail("its multiprocessors"))?;
        // A driver in software takes PTX.
        let ptx = name.to_lowercase().contains("soft");
        let target = Target { capability: (major as u32, minor as u32), ptx };
        let modules = launch::Modules::new(sources.folder());
        let compiler = Compiler::with(target, sources, nvrtc::cache_folder())?;
        Ok(Self(Arc::new(Inner {
            stream: context.new_stream().map_err(fail("a stream"))?,
            up: Mutex::new(Pinned::new(UP)?),
            down: Mutex::new(Pinned::new(DOWN)?),
            context,
            compiler,
            modules,
            name,
            multiprocessors: multiprocessors as usize,
            watch,
        })))
    }

    /// What kernels are compiled for.
    pub fn target(&self) -> Target {
        self.0.compiler.target()
    }

    /// Multiprocessors: with a kernel's blocks a multiprocessor, a grid that fills the device.
    pub fn multiprocessors(&self) -> usize {
        self.0.multiprocessors
    }

    /// The compiler: to add sources of a caller's own, or to count what was compiled.
    pub fn compiler(&self) -> &Compiler {
        &self.0.compiler
    }

    /// The stream, for libraries that enqueue their own work.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.0.stream
    }

    /// Makes the context current on this thread: the driver keeps one for each.
    pub fn bind(&self) -> Result<()> {
        self.0.context.bind_to_thread().map_err(fail("binding the context"))
    }

    fn sync(&self) -> Result<()> {
        self.bind()?;
        self.0.stream.synchronize().map_err(fail("a kernel or copy"))?;
        self.0.up.lock().expect("no panic holds it").reuse();
        Ok(())
    }
}

/// Memory of a GPU; freed on drop.
pub struct CudaBuffer {
    at: sys::CUdeviceptr,
    bytes: usize,
    device: Cuda,
}

impl CudaBuffer {
    /// Its address on the device.
    pub fn address(&self) -> u64 {
        self.at
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl fmt::Debug for CudaBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CudaBuffer({} bytes)", self.bytes)
    }
}

impl Drop for CudaBuffer {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // An error here is a sticky one of earlier work, which the next call reports.
            // SAFETY: the memory came from `cuMemAlloc` and is freed once; the driver waits for work that uses it.
            let _ = unsafe { result::free_sync(self.at) };
        }
    }
}

/// Page-locked memory with the event that follows the last copy to it.
pub struct Landing {
    host: Pinned,
    bytes: usize,
    done: CudaEvent,
}

impl Device for Cuda {
    type Buffer = CudaBuffer;
    type Graph = Graph;
    type Landing = Landing;
    const LAUNCHES_IN_REHEARSAL: bool = true;
    const RECORDS: bool = true;
    const ASYNCHRONOUS: bool = true;

    fn describe(&self) -> String {
        let Inner { name, multiprocessors, .. } = &*self.0;
        format!("cuda ({name}, {multiprocessors} multiprocessors, {})", self.target().arch())
    }

    fn alloc(&self, bytes: usize) -> Result<CudaBuffer> {
        self.bind()?;
        // SAFETY: a size above 0, as the driver asks for.
        let at = unsafe { result::malloc_sync(bytes.max(1)) }.map_err(fail(&format!("{bytes} bytes")))?;
        let buffer = CudaBuffer { at, bytes, device: self.clone() };
        // SAFETY: the memory was just allocated with this size.
        unsafe { result::memset_d8_async(at, 0, bytes.max(1), self.0.stream.cu_stream()) }
            .map_err(fail("memset"))?;
        Ok(buffer)
    }

    fn adopt(&self, bytes: &HostBytes, range: Range<usize>) -> Result<CudaBuffer> {
        let part = &(**bytes).as_ref()[range];
        let mut buffer = self.alloc(part.len())?;
        self.write(&mut buffer, 0, part)?;
        Ok(buffer)
    }

    fn write(&self, dst: &mut CudaBuffer, offset: usize, src: &[u8]) -> Result<()> {
        assert!(offset + src.len() <= dst.bytes, "write {} at {offset} of {}", src.len(), dst.bytes);
        self.bind()?;
        let mut up = self.0.up.lock().expect("no panic holds it");
        for (i, part) in src.chunks(UP).enumerate() {
            if !up.has_room(part.len()) {
                self.0.stream.synchronize().map_err(fail("a kernel or copy"))?;
                up.reuse();
            }
            let staged = up.put(part);
            let to = dst.at + (offset + i * UP) as u64;
            // SAFETY: `to..` lies in the buffer, as asserted; the staged bytes stay until the queue has run.
            unsafe { result::memcpy_htod_async(to, staged, self.0.stream.cu_stream()) }
                .map_err(fail("a copy to the device"))?;
        }
        Ok(())
    }

    fn read(&self, src: &CudaBuffer, offset: usize, dst: &mut [u8]) -> Result<()> {
        assert!(offset + dst.len() <= src.bytes, "read {} at {offset} of {}", dst.len(), src.bytes);
        self.bind()?;
        let mut down = self.0.down.lock().expect("no panic holds it");
        for (i, part) in dst.chunks_mut(DOWN).enumerate() {
            let staged = down.slice_mut(part.len());
            let from = src.at + (offset + i * DOWN) as u64;
            // SAFETY: `from..` lies in the buffer, as asserted; the staged bytes are not touched before `sync`.
            unsafe { result::memcpy_dtoh_async(staged, from, self.0.stream.cu_stream()) }
                .map_err(fail("a copy from the device"))?;
            self.sync()?;
            part.copy_from_slice(staged);
        }
        Ok(())
    }

    fn copy(
        &self,
        src: &CudaBuffer,
        from: usize,
        dst: &mut CudaBuffer,
        to: usize,
        bytes: usize,
    ) -> Result<()> {
        assert!(from + bytes <= src.bytes && to + bytes <= dst.bytes, "copy {bytes} from {from} to {to}");
        self.bind()?;
        let (from, to) = (src.at + from as u64, dst.at + to as u64);
        // SAFETY: both ranges lie in their buffers, as asserted.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.0.stream.cu_stream()) }
            .map_err(fail("a copy on the device"))
    }

    fn landing(&self, bytes: usize) -> Result<Landing> {
        self.bind()?;
        let done = self.0.context.new_event(None).map_err(fail("an event"))?;
        Ok(Landing { host: Pinned::new(bytes.max(1))?, bytes: 0, done })
    }

    fn fetch(&self, src: &CudaBuffer, offset: usize, bytes: usize, to: &mut Landing) -> Result<()> {
        assert!(offset + bytes <= src.bytes, "fetch {bytes} at {offset} of {}", src.bytes);
        self.bind()?;
        to.bytes = bytes;
        // SAFETY: the range lies in the buffer, as asserted; the host's copy is not touched before `landed`.
        unsafe {
            result::memcpy_dtoh_async(
                to.host.slice_mut(bytes),
                src.at + offset as u64,
                self.0.stream.cu_stream(),
            )
        }
        .map_err(fail("a copy from the device"))?;
        to.done.record(&self.0.stream).map_err(fail("an event"))
    }

    fn landed<'a>(&self, landing: &'a mut Landing) -> Result<&'a [u8]> {
        landing.done.synchronize().map_err(fail("a kernel or copy"))?;
        Ok(landing.host.slice_mut(landing.bytes))
    }

    fn synchronize(&self) -> Result<()> {
        self.sync()
    }

    /// By events on the stream: the launches' own time on the host is hidden as long as the device has work.
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Duration> {
        self.sync()?;
        let event = || self.0.stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT));
        let start = event().map_err(fail("an event"))?;
        work()?;
        let end = event().map_err(fail("an event"))?;
        self.sync()?;
        let milliseconds = start.elapsed_ms(&end).map_err(fail("the time between two events"))?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds) / 1e3))
    }

    fn is_timed(&self) -> bool {
        !self.target().ptx
    }

    fn peaks(&self) -> Result<Option<Peaks>> {
        use sys::CUdevice_attribute::*;
        // Dense bf16 operations of a multiprocessor in a clock: the peak rates of the A100's, H100's and B200's
        // datasheets over their clocks and multiprocessors. Other chips of a generation differ among themselves.
        let per_clock = match self.target().capability {
            _ if !self.is_timed() => return Ok(None),
            (8, 0) => 2048.0,
            (9, 0) => 4096.0,
            (10, 0) => 8192.0,
            _ => return Ok(None),
        };
        let attribute = |which| {
            self.0
                .context
                .attribute(which)
                .map(f64::from)
                .map_err(fail("its clocks and the width of its memory"))
        };
        let (clock, memory_clock, width) = (
            attribute(CU_DEVICE_ATTRIBUTE_CLOCK_RATE)? * 1e3,
            attribute(CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)? * 1e3,
            attribute(CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?,
        );
        Ok(Some(Peaks {
            bandwidth: 2.0 * memory_clock * width / 8.0,
            flops: self.0.multiprocessors as f64 * clock * per_clock,
            source: format!(
                "the device's own: {:.0} MHz, {width:.0}-bit memory at {:.0} MHz, dense bf16 on tensor cores",
                clock / 1e6,
                memory_clock / 1e6
            ),
        }))
    }

    fn memory(&self) -> (usize, usize) {
        // A device that cannot tell has none free; the caller says so.
        self.bind().ok().and_then(|()| result::mem_get_info().ok()).unwrap_or((0, 0))
    }

    fn rehearse(&self, on: bool) -> Result<()> {
        self.set_rehearsing(on)
    }

    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        self.capture(work)
    }

    fn replay(&self, graph: &Graph) -> Result<()> {
        self.launch_graph(graph)
    }

    fn reload(&self) -> Result<Vec<&'static str>> {
        if self.0.watch { self.reload_saved() } else { Ok(Vec::new()) }
    }
}

impl View<'_, Cuda> {
    /// The address of its first element.
    pub fn address(&self) -> u64 {
        self.buffer().at + (self.offset() * self.dtype().size()) as u64
    }
}

impl ViewMut<'_, Cuda> {
    /// The address of its first element.
    pub fn address(&mut self) -> u64 {
        let offset = (self.offset() * self.dtype().size()) as u64;
        self.buffer_mut().at + offset
    }
}

/// The driver's error as ours: what was done, the driver's name for the error, and its words.
pub(crate) fn fail(what: &str) -> impl FnOnce(DriverError) -> Error {
    let what = what.to_owned();
    move |error| {
        let text = |t: std::result::Result<&std::ffi::CStr, DriverError>| {
            t.map_or_else(|_| "unknown".into(), |t| t.to_string_lossy().into_owned())
        };
        let (name, words) = (text(error.error_name()), text(error.error_string()));
        Error::Device { device: "cuda".into(), what: format!("{what}: {name} ({words})") }
    }
}
