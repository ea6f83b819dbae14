//! The CPU as a device: aligned or mapped memory, and a pool of threads.

use std::{
    convert::Infallible,
    fmt, io,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use bytemuck::Zeroable;
use memmap2::{MmapMut, MmapRaw};

use super::{Device, Element, HostBytes, Peaks, Pool, View, ViewMut, peaks};
use crate::error::{Error, Result};

/// The vector instructions that kernels may use, found at run time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Simd {
    /// What every CPU of the target has.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, VL and DQ.
    Avx512,
    /// AVX-512 with `vdpbf16ps`.
    Avx512Bf16,
}

impl Simd {
    /// The best that this machine has.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq");
            match (avx2, avx512, is_x86_feature_detected!("avx512bf16")) {
                (true, true, true) => Self::Avx512Bf16,
                (true, true, false) => Self::Avx512,
                (true, false, _) => Self::Avx2,
                _ => Self::Portable,
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Self::Portable
    }
}

impl fmt::Display for Simd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2+fma",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512+bf16",
        })
    }
}

/// The CPU. Work runs at once, on the caller's thread and those of a pool.
#[derive(Clone, Debug)]
pub struct Cpu {
    pool: Arc<Pool>,
    simd: Simd,
    arena: Arc<Mutex<Arena>>,
}

impl Cpu {
    /// `threads`, or as many as the machine has.
    pub fn new(threads: Option<usize>) -> Self {
        let all = || std::thread::available_parallelism().map_or(1, Into::into);
        let pool = Arc::new(Pool::new(threads.unwrap_or_else(all).max(1)));
        Self { pool, simd: Simd::detect(), arena: Arc::default() }
    }

    /// The same device restricted to `simd`, to compare or test the fallbacks.
    ///
    /// # Errors
    /// [`Error::Config`] if this machine lacks it.
    pub fn with_simd(&self, simd: Simd) -> Result<Self> {
        if simd > Simd::detect() {
            return Err(Error::config("simd", simd, format!("at most {}", Simd::detect())));
        }
        Ok(Self { simd, ..self.clone() })
    }

    /// The threads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The instructions that kernels may use.
    pub fn simd(&self) -> Simd {
        self.simd
    }
}

/// Memory of the CPU.
pub enum CpuBuffer {
    /// Allocated here, 64-byte aligned.
    Small(Vec<Line>),
    /// Allocated here: zero until touched, on huge pages where the system has them.
    Huge(Piece),
    /// Part of a mapped file or of the binary; never written.
    Shared(HostBytes, Range<usize>),
}

/// A cache line.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub struct Line([u8; 64]);

/// From this size on memory comes from huge pages: a core that walks a page table for every 4 KiB reads weights at
/// half the speed (14 GB/s instead of 29 on a Zen 4).
const HUGE: usize = 128 << 10;

/// What is mapped at a time for allocations smaller than that.
const MAPPING: usize = 64 << 20;

/// What a thread touches at a time.
#[cfg(target_os = "linux")]
const PART: usize = 4 << 20;

/// Hands out pieces of mappings, each once, so that what is smaller than a huge page shares one.
#[derive(Debug, Default)]
struct Arena {
    mapping: Option<Arc<MmapRaw>>,
    used: usize,
}

impl Arena {
    fn take(&mut self, bytes: usize) -> io::Result<Piece> {
        if bytes >= MAPPING {
            return Ok(Piece { mapping: map(bytes)?, range: 0..bytes });
        }
        let mapping = match self.mapping.take().filter(|_| self.used + bytes <= MAPPING) {
            Some(mapping) => mapping,
            None => {
                self.used = 0;
                map(MAPPING)?
            }
        };
        let range = self.used..self.used + bytes;
        self.used = range.end.next_multiple_of(size_of::<Line>());
        self.mapping = Some(Arc::clone(&mapping));
        Ok(Piece { mapping, range })
    }
}

/// Zeros, on huge pages if the system has them.
fn map(bytes: usize) -> io::Result<Arc<MmapRaw>> {
    let mapping = MmapRaw::from(MmapMut::map_anon(bytes)?);
    #[cfg(target_os = "linux")]
    mapping.advise(memmap2::Advice::HugePage).ok(); // a kernel without them refuses; nothing is lost
    Ok(Arc::new(mapping))
}

/// A part of a mapping that is nobody else's; the mapping goes when all its pieces have.
pub struct Piece {
    mapping: Arc<MmapRaw>,
    range: Range<usize>,
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the range lies inside the mapping, whose pages begin as zeros; `Arena` gave it to this piece alone.
        unsafe { std::slice::from_raw_parts(self.mapping.as_ptr().add(self.range.start), self.range.len()) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; this piece is borrowed mutably.
        unsafe {
            std::slice::from_raw_parts_mut(self.mapping.as_mut_ptr().add(self.range.start), self.range.len())
        }
    }
}

impl CpuBuffer {
    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Small(lines) => bytemuck::cast_slice(lines),
            Self::Huge(piece) => piece.bytes(),
            Self::Shared(bytes, range) => &(**bytes).as_ref()[range.clone()],
        }
    }

    /// All of it, to write. Panics on shared memory: weights are not written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Small(lines) => bytemuck::cast_slice_mut(lines),
            Self::Huge(piece) => piece.bytes_mut(),
            Self::Shared(..) => panic!("write to shared read-only memory"),
        }
    }
}

impl fmt::Debug for CpuBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuBuffer({} bytes)", self.bytes().len())
    }
}

impl Device for Cpu {
    type Buffer = CpuBuffer;
    type Graph = Infallible;
    /// The copy, and its size.
    type Landing = (CpuBuffer, usize);

    fn describe(&self) -> String {
        format!("cpu ({} threads, {})", self.pool.threads(), self.simd)
    }

    fn alloc(&self, bytes: usize) -> Result<CpuBuffer> {
        if bytes < HUGE {
            return Ok(CpuBuffer::Small(vec![Line::zeroed(); bytes.div_ceil(64)]));
        }
        let failed =
            |e| Error::Device { device: "cpu".into(), what: format!("no memory for {bytes} bytes: {e}") };
        let mut arena = self.arena.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(CpuBuffer::Huge(arena.take(bytes).map_err(failed)?))
    }

    /// The first write to a huge page takes the system from 0.1 ms, and several in a virtual machine whose host has to
    /// find the memory.
    fn touch(&self, buffer: &CpuBuffer, bytes: usize) {
        #[cfg(target_os = "linux")]
        if let CpuBuffer::Huge(Piece { mapping, range }) = buffer {
            let bytes = bytes.min(range.len());
            self.pool.run(bytes.div_ceil(PART), &|i| {
                let (at, len) = (range.start + i * PART, PART.min(bytes - i * PART));
                // A kernel without it (before 5.14) refuses; nothing is lost.
                mapping.advise_range(memmap2::Advice::PopulateWrite, at, len).ok();
            });
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (buffer, bytes);
    }

    fn adopt(&self, bytes: &HostBytes, range: Range<usize>) -> Result<CpuBuffer> {
        let part = &(**bytes).as_ref()[range.clone()];
        if part.len() < HUGE && part.as_ptr().align_offset(4) == 0 {
            return Ok(CpuBuffer::Shared(Arc::clone(bytes), range));
        }
        // A file's pages are small ones, see `HUGE`; or a shard whose header ends at an odd address.
        let mut copy = self.alloc(part.len())?;
        self.write(&mut copy, 0, part)?;
        Ok(copy)
    }

    fn write(&self, dst: &mut CpuBuffer, offset: usize, src: &[u8]) -> Result<()> {
        dst.bytes_mut()[offset..offset + src.len()].copy_from_slice(src);
        Ok(())
    }

    fn read(&self, src: &CpuBuffer, offset: usize, dst: &mut [u8]) -> Result<()> {
        dst.copy_from_slice(&src.bytes()[offset..offset + dst.len()]);
        Ok(())
    }

    fn copy(&self, src: &CpuBuffer, from: usize, dst: &mut CpuBuffer, to: usize, bytes: usize) -> Result<()> {
        self.write(dst, to, &src.bytes()[from..from + bytes])
    }

    fn landing(&self, bytes: usize) -> Result<Self::Landing> {
        Ok((self.alloc(bytes)?, 0))
    }

    fn fetch(&self, src: &CpuBuffer, offset: usize, bytes: usize, to: &mut Self::Landing) -> Result<()> {
        to.1 = bytes;
        self.copy(src, offset, &mut to.0, 0, bytes)
    }

    fn landed<'a>(&self, landing: &'a mut Self::Landing) -> Result<&'a [u8]> {
        Ok(&landing.0.bytes()[..landing.1])
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn peaks(&self) -> Result<Option<Peaks>> {
        peaks::measure(self).map(Some)
    }

    fn memory(&self) -> (usize, usize) {
        // A quarter of what is available counts as all: the host's memory is not the engine's alone.
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
        let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<usize>().ok());
        let bytes = kib.map_or(1 << 30, |kib| kib * 256);
        (bytes, bytes)
    }

    fn record(&self, _: &mut dyn FnMut() -> Result<()>) -> Result<Infallible> {
        Err(Error::Device { device: "cpu".into(), what: "it records no work".into() })
    }

    fn replay(&self, graph: &Infallible) -> Result<()> {
        match *graph {}
    }
}

impl<'a> View<'a, Cpu> {
    /// The elements from the first row's first to the last row's last, gaps between rows included.
    /// Panics if `T` is not the dtype.
    pub fn slice<T: Element>(&self) -> &'a [T] {
        assert_eq!(T::DTYPE, self.dtype());
        let all: &[T] = bytemuck::cast_slice(trim(self.buffer().bytes(), size_of::<T>()));
        &all[self.offset()..self.offset() + span(self.shape(), self.stride())]
    }

    /// Row `i` of the outermost extent. Panics if `T` is not the dtype or `i` out of range.
    pub fn row<T: Element>(&self, i: usize) -> &'a [T] {
        let row = self.elements() / self.shape()[0];
        &self.slice()[i * self.stride()..i * self.stride() + row]
    }
}

impl ViewMut<'_, Cpu> {
    /// As [`View::slice`], to write.
    pub fn slice_mut<T: Element>(&mut self) -> &mut [T] {
        assert_eq!(T::DTYPE, self.dtype());
        let (offset, len) = (self.offset(), span(self.shape(), self.stride()));
        let bytes = self.buffer_mut().bytes_mut();
        let whole = bytes.len() / size_of::<T>() * size_of::<T>();
        &mut bytemuck::cast_slice_mut::<u8, T>(&mut bytes[..whole])[offset..offset + len]
    }
}

fn trim(bytes: &[u8], size: usize) -> &[u8] {
    &bytes[..bytes.len() / size * size]
}

/// Elements from the first of the first row to the last of the last.
fn span(shape: &[usize], stride: usize) -> usize {
    match shape {
        [] => 1,
        [0, ..] => 0,
        [rows, inner @ ..] => (rows - 1) * stride + inner.iter().product::<usize>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{DType, Tensor};

    #[test]
    fn views_slice_rows_and_columns() {
        let dev = Cpu::new(Some(1));
        let data: Vec<i32> = (0..24).collect();
        let t = Tensor::from_slice(&dev, &data, &[3, 4, 2]).unwrap();
        let k = t.view().columns(1..3);
        assert_eq!(k.shape(), [3, 2, 2]);
        assert_eq!(k.to_vec::<i32>(&dev).unwrap(), [2, 3, 4, 5, 10, 11, 12, 13, 18, 19, 20, 21]);
        assert_eq!(k.rows(1..2).reshape(&[1, 4]).row::<i32>(0), [10, 11, 12, 13]);
        assert_eq!(k.row::<i32>(2), [18, 19, 20, 21]);
    }

    #[test]
    fn small_adopted_memory_is_not_copied_and_zeros_are_zero() {
        let dev = Cpu::new(Some(1));
        let host: HostBytes = Arc::new(bytemuck::cast_slice::<f32, u8>(&[1.0, 2.0, 3.0]).to_vec());
        let t = Tensor::<Cpu>::from_buffer(dev.adopt(&host, 4..12).unwrap(), DType::F32, &[2]);
        assert_eq!(t.view().slice::<f32>(), [2.0, 3.0]);
        assert!(std::ptr::eq(t.view().slice::<f32>().as_ptr().cast(), &(*host).as_ref()[4]));
        let big = Tensor::zeros(&dev, DType::Bf16, &[3, 1 << 20]).unwrap();
        assert!(big.to_vec::<half::bf16>(&dev).unwrap().iter().all(|v| v.to_bits() == 0));
    }

    #[test]
    fn touching_memory_changes_nothing_and_stops_at_its_end() {
        let dev = Cpu::new(Some(2));
        for size in [100, HUGE, MAPPING + 7] {
            let mut piece = dev.alloc(size).unwrap();
            piece.bytes_mut()[size - 1] = 7;
            dev.touch(&piece, 5);
            dev.touch(&piece, 2 * MAPPING);
            assert!(piece.bytes()[..size - 1].iter().all(|&b| b == 0) && piece.bytes()[size - 1] == 7);
        }
    }

    #[test]
    fn pieces_of_a_mapping_are_apart_and_outlive_the_device() {
        let dev = Cpu::new(Some(1));
        let sizes = [HUGE, HUGE + 1, MAPPING - HUGE, 3 * HUGE, MAPPING + 7, HUGE];
        let mut pieces: Vec<_> = sizes.iter().map(|&n| dev.alloc(n).unwrap()).collect();
        drop(dev);
        for (i, piece) in pieces.iter_mut().enumerate() {
            assert_eq!(piece.bytes().len(), sizes[i]);
            assert_eq!(piece.bytes().as_ptr().align_offset(64), 0);
            assert!(piece.bytes().iter().all(|&b| b == 0), "piece {i}");
            piece.bytes_mut().fill(i as u8 + 1);
        }
        for (i, piece) in pieces.iter().enumerate() {
            assert!(piece.bytes().iter().all(|&b| b == i as u8 + 1), "piece {i}");
        }
    }
}
