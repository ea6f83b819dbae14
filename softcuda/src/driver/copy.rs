//! Copies and fills: `cuMemcpy*` and `cuMemset*`.
//!
//! The source and the destination of a copy may be device memory, pinned host memory or pageable host memory. When
//! the copy runs depends on that, as on a device: pageable sources are read when the call is made, a copy into
//! pageable memory ends with the call, and all else waits in its stream.

use super::{
    Locked,
    error::{CUresult, Result, not_built},
    ffi::In,
    in_context,
    queue::Point,
    work::{Copy, End, Fill, Work},
};
use crate::memory::{DEVICE_BASE, DEVICE_END};

/// `CUDA_MEMCPY2D`, with integers for its enumerations.
#[repr(C)]
#[derive(Clone, Copy)]
struct Copy2D {
    src_x: usize,
    src_y: usize,
    src_type: u32,
    src_host: usize,
    src_device: u64,
    src_array: usize,
    src_pitch: usize,
    dst_x: usize,
    dst_y: usize,
    dst_type: u32,
    dst_host: usize,
    dst_device: u64,
    dst_array: usize,
    dst_pitch: usize,
    width: usize,
    height: usize,
}

/// `CUDA_MEMCPY3D`, with integers for its enumerations.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Copy3D {
    src_x: usize,
    src_y: usize,
    src_z: usize,
    src_lod: usize,
    src_type: u32,
    src_host: usize,
    src_device: u64,
    src_array: usize,
    reserved0: usize,
    src_pitch: usize,
    src_height: usize,
    dst_x: usize,
    dst_y: usize,
    dst_z: usize,
    dst_lod: usize,
    dst_type: u32,
    dst_host: usize,
    dst_device: u64,
    dst_array: usize,
    reserved1: usize,
    dst_pitch: usize,
    dst_height: usize,
    width: usize,
    height: usize,
    depth: usize,
}

impl From<Copy2D> for Copy3D {
    fn from(c: Copy2D) -> Self {
        Self {
            src_x: c.src_x,
            src_y: c.src_y,
            src_z: 0,
            src_lod: 0,
            src_type: c.src_type,
            src_host: c.src_host,
            src_device: c.src_device,
            src_array: c.src_array,
            reserved0: 0,
            src_pitch: c.src_pitch,
            src_height: c.height,
            dst_x: c.dst_x,
            dst_y: c.dst_y,
            dst_z: 0,
            dst_lod: 0,
            dst_type: c.dst_type,
            dst_host: c.dst_host,
            dst_device: c.dst_device,
            dst_array: c.dst_array,
            reserved1: 0,
            dst_pitch: c.dst_pitch,
            dst_height: c.height,
            width: c.width,
            height: c.height,
            depth: 1,
        }
    }
}

impl Locked {
    /// The kind of memory at an address that may be of host or device.
    fn end(&self, address: u64) -> End {
        match self.memory.find(address) {
            None if !(DEVICE_BASE..DEVICE_END).contains(&address) => End::Pageable(address as usize),
            _ => End::Known(address),
        }
    }

    /// The copy that a description means.
    pub fn copy_of(&self, c: &Copy3D) -> Result<Copy> {
        let side = |kind: u32, host: usize, device: u64| match kind {
            1 => Ok(self.end(host as u64)),
            2 => Ok(End::Known(device)),
            4 => Ok(self.end(device)),
            3 => Err(not_built("a copy from or to an array")),
            _ => Err(CUresult::CUDA_ERROR_INVALID_VALUE),
        };
        let pitches = |pitch: usize, height: usize| {
            let row = if pitch == 0 { c.width } else { pitch };
            let rows = if height == 0 { c.height } else { height };
            if row < c.width && c.height * c.depth > 1 {
                return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
            }
            Ok([row as u64, row.checked_mul(rows).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)? as u64])
        };
        let offset = |pitch: [u64; 2], x: usize, y: usize, z: usize| {
            let slice = (z as u64).checked_mul(pitch[1]);
            let row = (y as u64).checked_mul(pitch[0]);
            slice.and_then(|s| s.checked_add(row?)).and_then(|s| s.checked_add(x as u64))
        };
        let (src_pitch, dst_pitch) =
            (pitches(c.src_pitch, c.src_height)?, pitches(c.dst_pitch, c.dst_height)?);
        let moved = |end: End, by: Option<u64>| {
            let by = by.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
            Ok(match end {
                End::Known(a) => End::Known(a.wrapping_add(by)),
                End::Pageable(a) => End::Pageable(a.wrapping_add(by as usize)),
                End::Staged(bytes) => End::Staged(bytes),
            })
        };
        let src =
            moved(side(c.src_type, c.src_host, c.src_device)?, offset(src_pitch, c.src_x, c.src_y, c.src_z))?;
        let dst =
            moved(side(c.dst_type, c.dst_host, c.dst_device)?, offset(dst_pitch, c.dst_x, c.dst_y, c.dst_z))?;
        let extent = [c.width as u64, c.height as u64, c.depth as u64];
        Ok(Copy { src, dst, extent, src_pitch, dst_pitch })
    }

    /// Known ranges must lie in one live allocation, and pageable ones may not be null.
    pub fn check_range(&self, end: &End, bytes: u64) -> Result<()> {
        match end {
            _ if bytes == 0 => Ok(()),
            End::Known(address) => match self.memory.find(*address) {
                Some(a) if address - a.base + bytes <= a.size => Ok(()),
                _ if self.is_graph_memory(*address, bytes) => Ok(()),
                _ => {
                    let place =
                        self.memory.nearest(*address).map(|p| format!("; it is {p}")).unwrap_or_default();
                    eprintln!(
                        "softcuda: {bytes} bytes at {address:#x} are not in one live allocation{place}"
                    );
                    Err(CUresult::CUDA_ERROR_INVALID_VALUE)
                }
            },
            End::Pageable(0) => Err(CUresult::CUDA_ERROR_INVALID_VALUE),
            _ => Ok(()),
        }
    }

    /// Whether a range lies in memory that a graph allocates when it runs.
    fn is_graph_memory(&self, address: u64, bytes: u64) -> bool {
        let before = self.graph_memory.range(..=address).next_back();
        before.is_some_and(|(base, memory)| address - base + bytes <= memory.bytes)
    }

    /// Enqueues a copy; `blocking` calls return when the host's side of it is done.
    fn copy(&mut self, context: usize, stream: usize, mut copy: Copy, blocking: bool) -> Result<()> {
        let (src_span, dst_span) = (copy.span(copy.src_pitch), copy.span(copy.dst_pitch));
        self.check_range(&copy.src, src_span)?;
        self.check_range(&copy.dst, dst_span)?;
        if src_span == 0 {
            return Ok(());
        }
        let stream = self.stream(context, stream)?;
        if self.streams.get(stream)?.capture.is_some() {
            // A graph reads and writes host memory each time it is launched.
            return self.submit(stream, Work::Copy(copy));
        }
        let on_host = |end: &End| match end {
            End::Known(address) => *address < DEVICE_BASE,
            _ => true,
        };
        let waits =
            matches!(copy.dst, End::Pageable(_)) || blocking && (on_host(&copy.src) || on_host(&copy.dst));
        if let (End::Pageable(src), false) = (&copy.src, waits) {
            // SAFETY: the client passes a valid source, which this call reads as a device's staging buffer does.
            let bytes = unsafe { std::slice::from_raw_parts(*src as *const u8, src_span as usize) };
            copy.src = End::Staged(bytes.into());
        }
        let point = self.enqueue(stream, &[], Work::Copy(copy))?;
        if waits { self.wait(context, &[point]) } else { Ok(()) }
    }

    fn linear(
        &mut self,
        context: usize,
        stream: usize,
        [dst, src]: [End; 2],
        bytes: usize,
        blocking: bool,
    ) -> Result<()> {
        self.copy(context, stream, Copy::linear(dst, src, bytes), blocking)
    }

    fn fill(&mut self, context: usize, stream: usize, fill: Fill) -> Result<()> {
        let element = u64::from(fill.element);
        let overflow = CUresult::CUDA_ERROR_INVALID_VALUE;
        let row = fill.width.checked_mul(element).ok_or(overflow)?;
        if !fill.dst.is_multiple_of(element)
            || fill.height > 1 && (fill.pitch < row || !fill.pitch.is_multiple_of(element))
        {
            return Err(overflow);
        }
        if row == 0 || fill.height == 0 {
            return Ok(());
        }
        let bytes =
            fill.pitch.checked_mul(fill.height - 1).and_then(|b| b.checked_add(row)).ok_or(overflow)?;
        self.check_range(&End::Known(fill.dst), bytes)?;
        let stream = self.stream(context, stream)?;
        self.submit(stream, Work::Fill(fill))
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoD_v2(dst: u64, src: usize, bytes: usize) -> CUresult {
    in_context(|d, c| {
        let src = d.end(src as u64);
        d.linear(c, 0, [End::Known(dst), src], bytes, true)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoH_v2(dst: usize, src: u64, bytes: usize) -> CUresult {
    in_context(|d, c| {
        let dst = d.end(dst as u64);
        d.linear(c, 0, [dst, End::Known(src)], bytes, true)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoD_v2(dst: u64, src: u64, bytes: usize) -> CUresult {
    in_context(|d, c| d.linear(c, 0, [End::Known(dst), End::Known(src)], bytes, true))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpy(dst: u64, src: u64, bytes: usize) -> CUresult {
    in_context(|d, c| {
        let ends = [d.end(dst), d.end(src)];
        d.linear(c, 0, ends, bytes, true)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoDAsync_v2(dst: u64, src: usize, bytes: usize, stream: usize) -> CUresult {
    in_context(|d, c| {
        let src = d.end(src as u64);
        d.linear(c, stream, [End::Known(dst), src], bytes, false)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoHAsync_v2(dst: usize, src: u64, bytes: usize, stream: usize) -> CUresult {
    in_context(|d, c| {
        let dst = d.end(dst as u64);
        d.linear(c, stream, [dst, End::Known(src)], bytes, false)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(dst: u64, src: u64, bytes: usize, stream: usize) -> CUresult {
    in_context(|d, c| d.linear(c, stream, [End::Known(dst), End::Known(src)], bytes, false))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyAsync(dst: u64, src: u64, bytes: usize, stream: usize) -> CUresult {
    in_context(|d, c| {
        let ends = [d.end(dst), d.end(src)];
        d.linear(c, stream, ends, bytes, false)
    })
}

/// Checks the contexts of a copy between devices. It needs no peer access.
fn peer([dst_ctx, src_ctx]: [usize; 2], copy: impl FnOnce(&mut Locked, usize) -> Result<()>) -> CUresult {
    in_context(|d, c| {
        let known = d.contexts.get(dst_ctx).and(d.contexts.get(src_ctx));
        known.map_err(|_| CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
        copy(d, c)
    })
}

/// After all work of the three contexts, and before all that follows there.
#[unsafe(no_mangle)]
extern "C" fn cuMemcpyPeer(dst: u64, dst_ctx: usize, src: u64, src_ctx: usize, bytes: usize) -> CUresult {
    peer([dst_ctx, src_ctx], |d, c| {
        let contexts = [c, dst_ctx, src_ctx];
        let before: Vec<Point> = contexts.iter().flat_map(|&context| d.ends(context)).collect();
        for end in [(src, bytes), (dst, bytes)] {
            d.check_range(&End::Known(end.0), end.1 as u64)?;
        }
        let copy = Work::Copy(Copy::linear(End::Known(dst), End::Known(src), bytes));
        let legacy = d.contexts.get(c)?.legacy;
        let point = d.enqueue(legacy, &before, copy)?;
        for stream in d.streams.0.values_mut().filter(|s| contexts.contains(&s.context)) {
            stream.last = Some(point.clone());
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyPeerAsync(
    dst: u64,
    dst_ctx: usize,
    src: u64,
    src_ctx: usize,
    bytes: usize,
    stream: usize,
) -> CUresult {
    peer([dst_ctx, src_ctx], |d, c| d.linear(c, stream, [End::Known(dst), End::Known(src)], bytes, false))
}

fn described(copy: Result<Copy3D>, stream: usize, blocking: bool) -> CUresult {
    in_context(|d, c| {
        let copy = d.copy_of(&copy?)?;
        d.copy(c, stream, copy, blocking)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpy2D_v2(copy: In<Copy2D>) -> CUresult {
    described(copy.get().map(Copy3D::from), 0, true)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpy2DUnaligned_v2(copy: In<Copy2D>) -> CUresult {
    described(copy.get().map(Copy3D::from), 0, true)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpy2DAsync_v2(copy: In<Copy2D>, stream: usize) -> CUresult {
    described(copy.get().map(Copy3D::from), stream, false)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpy3D_v2(copy: In<Copy3D>) -> CUresult {
    described(copy.get(), 0, true)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpy3DAsync_v2(copy: In<Copy3D>, stream: usize) -> CUresult {
    described(copy.get(), stream, false)
}

/// A fill of `height` rows; one row has no pitch.
fn memset(dst: u64, pitch: usize, (value, element): (u32, u32), size: [usize; 2], stream: usize) -> CUresult {
    let [width, height] = size.map(|n| n as u64);
    in_context(|d, c| d.fill(c, stream, Fill { dst, pitch: pitch as u64, value, element, width, height }))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8_v2(dst: u64, value: u8, count: usize) -> CUresult {
    memset(dst, 0, (value.into(), 1), [count, 1], 0)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD16_v2(dst: u64, value: u16, count: usize) -> CUresult {
    memset(dst, 0, (value.into(), 2), [count, 1], 0)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD32_v2(dst: u64, value: u32, count: usize) -> CUresult {
    memset(dst, 0, (value, 4), [count, 1], 0)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8Async(dst: u64, value: u8, count: usize, stream: usize) -> CUresult {
    memset(dst, 0, (value.into(), 1), [count, 1], stream)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD16Async(dst: u64, value: u16, count: usize, stream: usize) -> CUresult {
    memset(dst, 0, (value.into(), 2), [count, 1], stream)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD32Async(dst: u64, value: u32, count: usize, stream: usize) -> CUresult {
    memset(dst, 0, (value, 4), [count, 1], stream)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD2D8_v2(dst: u64, pitch: usize, value: u8, width: usize, height: usize) -> CUresult {
    memset(dst, pitch, (value.into(), 1), [width, height], 0)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD2D16_v2(dst: u64, pitch: usize, value: u16, width: usize, height: usize) -> CUresult {
    memset(dst, pitch, (value.into(), 2), [width, height], 0)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD2D32_v2(dst: u64, pitch: usize, value: u32, width: usize, height: usize) -> CUresult {
    memset(dst, pitch, (value, 4), [width, height], 0)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD2D8Async(
    dst: u64,
    pitch: usize,
    value: u8,
    width: usize,
    height: usize,
    stream: usize,
) -> CUresult {
    memset(dst, pitch, (value.into(), 1), [width, height], stream)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD2D16Async(
    dst: u64,
    pitch: usize,
    value: u16,
    width: usize,
    height: usize,
    stream: usize,
) -> CUresult {
    memset(dst, pitch, (value.into(), 2), [width, height], stream)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD2D32Async(
    dst: u64,
    pitch: usize,
    value: u32,
    width: usize,
    height: usize,
    stream: usize,
) -> CUresult {
    memset(dst, pitch, (value, 4), [width, height], stream)
}
