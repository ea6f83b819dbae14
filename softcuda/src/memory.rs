//! The address space that host and kernels share: device memory, pinned and mapped host memory.
//!
//! A device address is never a host address. Allocations lie above 2^48, where no user-space mapping is, so host
//! code that dereferences one faults at once. Addresses are never given out twice and the gaps between allocations
//! are wide: a stray access misses every live allocation and is named after the nearest one, freed ones included.
//! Pinned host memory keeps its host address, as under CUDA's unified addressing.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::check::history::{Actor, History};

/// Where device allocations begin.
pub const DEVICE_BASE: u64 = 1 << 48;
/// Device allocations end before this address.
pub const DEVICE_END: u64 = 1 << 49;
/// Device allocations are aligned to this many bytes.
pub const ALIGN: u64 = 256;
/// The least distance between two device allocations, in bytes.
const GAP: u64 = 1 << 20;
/// How many freed allocations are remembered, to name a use after free.
const REMEMBERED: usize = 1 << 16;

/// What an allocation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Memory of the device with this number.
    Device(u32),
    /// Page-locked host memory that [`Memory`] allocated.
    Pinned,
    /// The client's own host memory, registered.
    Registered,
}

/// One allocation, live or freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocation {
    /// Its number, counting from 1 in the order of allocation.
    pub number: u64,
    /// The first address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// What it is.
    pub kind: Kind,
    /// Whether it was freed.
    pub freed: bool,
}

/// An address seen from the nearest allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The nearest allocation.
    pub allocation: Allocation,
    /// Address minus the allocation's base, in bytes; negative before it.
    pub offset: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let a = &self.allocation;
        if self.offset < 0 {
            write!(f, "{} bytes before", self.offset.unsigned_abs())?;
        } else if (self.offset as u64) < a.size {
            write!(f, "at byte {} of", self.offset)?;
        } else {
            write!(f, "{} bytes after", self.offset as u64 - a.size)?;
        }
        let kind = match a.kind {
            Kind::Device(_) => "",
            Kind::Pinned => "pinned host ",
            Kind::Registered => "registered host ",
        };
        let freed = if a.freed { "freed " } else { "" };
        write!(f, " the {freed}{kind}allocation #{} ({} bytes at {:#x})", a.number, a.size, a.base)
    }
}

/// Why memory could not be allocated or accessed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryError {
    /// The device has not that much left.
    OutOfMemory {
        /// Bytes asked for.
        want: u64,
        /// Bytes left.
        free: u64,
    },
    /// No live allocation starts at the address.
    NotAnAllocation {
        /// The address.
        addr: u64,
        /// The nearest allocation.
        near: Option<Place>,
    },
    /// The range is not inside one live allocation.
    OutOfBounds {
        /// The first address.
        addr: u64,
        /// Bytes.
        bytes: u64,
        /// The nearest allocation.
        near: Option<Place>,
    },
    /// The host range overlaps one that is known already.
    Overlap {
        /// The one that is known.
        known: Allocation,
    },
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |near: &Option<Place>| match near {
            Some(place) => format!("; it is {place}"),
            None => "; there are no allocations".to_string(),
        };
        match self {
            Self::OutOfMemory { want, free } => {
                write!(f, "out of memory: {want} bytes wanted, {free} are free")
            }
            Self::NotAnAllocation { addr, near } => {
                write!(f, "no live allocation starts at {addr:#x}{}", place(near))
            }
            Self::OutOfBounds { addr, bytes, near } => {
                write!(f, "{bytes} bytes at {addr:#x} are not inside a live allocation{}", place(near))
            }
            Self::Overlap { known } => {
                write!(
                    f,
                    "the range overlaps allocation #{} ({} bytes at {:#x})",
                    known.number, known.size, known.base
                )
            }
        }
    }
}

impl std::error::Error for MemoryError {}

/// A live allocation with the host memory behind it.
#[derive(Debug)]
struct Region {
    allocation: Allocation,
    host: *mut u8,
    /// How to give `host` back; none for the client's own memory.
    layout: Option<Layout>,
    /// One bit a byte: written since allocation. None when that is not tracked.
    written: Option<Box<[AtomicU64]>>,
}

impl Region {
    fn mark_written(&self, offset: u64, bytes: u64) {
        if let Some(bits) = &self.written {
            mark(bits, offset, bytes);
        }
    }
}

/// Sets the bits of `bytes` bytes from `offset`.
pub(crate) fn mark(bits: &[AtomicU64], offset: u64, bytes: u64) {
    let (mut at, end) = (offset, offset + bytes);
    while at < end {
        let n = (64 - at % 64).min(end - at);
        let mask = if n == 64 { u64::MAX } else { ((1 << n) - 1) << (at % 64) };
        bits[(at / 64) as usize].fetch_or(mask, Ordering::Relaxed);
        at += n;
    }
}

/// The first offset in the range whose bit is not set.
pub(crate) fn first_unmarked(bits: &[AtomicU64], offset: u64, bytes: u64) -> Option<u64> {
    let (mut at, end) = (offset, offset + bytes);
    while at < end {
        let n = (64 - at % 64).min(end - at);
        let mask = if n == 64 { u64::MAX } else { ((1 << n) - 1) << (at % 64) };
        let unset = mask & !bits[(at / 64) as usize].load(Ordering::Relaxed);
        if unset != 0 {
            return Some(at - at % 64 + u64::from(unset.trailing_zeros()));
        }
        at += n;
    }
    None
}

impl Drop for Region {
    fn drop(&mut self) {
        if let Some(layout) = self.layout {
            // SAFETY: `host` came from `alloc_zeroed` with this layout, and a region is dropped once.
            unsafe { dealloc(self.host, layout) }
        }
    }
}

/// What a kernel needs of a live allocation. Valid while the [`Memory`] is borrowed by the launch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub base: u64,
    pub size: u64,
    pub host: *mut u8,
    pub kind: Kind,
    pub written: Option<&'a [AtomicU64]>,
    pub history: Option<&'a Mutex<History>>,
}

// SAFETY: a view is only an address; whoever follows it does so with atomics (`exec::space`).
unsafe impl Send for View<'_> {}
// SAFETY: as above.
unsafe impl Sync for View<'_> {}

/// All memory that kernels can reach: of every device, and pinned host memory.
#[derive(Debug)]
pub struct Memory {
    live: BTreeMap<u64, Region>,
    freed: BTreeMap<u64, Allocation>,
    /// Bytes of each device, and how many of them are allocated.
    devices: Vec<(u64, u64)>,
    next: u64,
    count: u64,
    track_written: bool,
    /// Who touched what, if races between streams are looked for.
    history: Option<Mutex<History>>,
}

// SAFETY: the raw pointers are to heap memory that `Memory` owns, or to host ranges whose client promised, by
// registering them, that they stay valid until unregistered.
unsafe impl Send for Memory {}
// SAFETY: as above; methods on `&self` only read.
unsafe impl Sync for Memory {}

impl Memory {
    /// Memory of devices with these capacities in bytes. `track_written` pays for finding reads of memory that
    /// nobody wrote.
    pub fn new(capacities: &[u64], track_written: bool) -> Self {
        Self {
            live: BTreeMap::new(),
            freed: BTreeMap::new(),
            devices: capacities.iter().map(|&bytes| (bytes, 0)).collect(),
            next: DEVICE_BASE,
            count: 0,
            track_written,
            history: None,
        }
    }

    /// From now on, remembers who touches what, to find races between streams.
    pub(crate) fn with_history(mut self) -> Self {
        self.history = Some(Mutex::default());
        self
    }

    /// The work that remembers, if somebody does.
    fn history(&mut self) -> Option<&mut History> {
        self.history.as_mut().map(|history| history.get_mut().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs work that touches memory under its name.
    pub(crate) fn act<T>(&mut self, actor: Option<Actor>, work: impl FnOnce(&mut Self) -> T) -> T {
        if let (Some(history), Some(actor)) = (self.history(), actor) {
            history.begin(actor);
        }
        let done = work(self);
        if let Some(history) = self.history() {
            history.end();
        }
        done
    }

    /// Notes that the running work reads or writes a range.
    ///
    /// # Errors
    /// A sentence without its beginning, if that races with work before.
    pub(crate) fn touch(&mut self, addr: u64, bytes: u64, writes: bool) -> Result<(), String> {
        let Some(history) = self.history() else { return Ok(()) };
        history.touch(addr, bytes, 0, writes, false).map_err(|(at, what)| {
            let place = self.nearest(at).map(|place| format!("; the address is {place}")).unwrap_or_default();
            format!("at {at:#x} {what}{place}")
        })
    }

    /// All work so far happens before all to come.
    pub(crate) fn all_is_past(&mut self) {
        if let Some(history) = self.history() {
            history.clear();
        }
    }

    /// Allocates on a device, 256-byte aligned. The contents are undefined (they are zero).
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`].
    pub fn alloc(&mut self, device: u32, bytes: u64) -> Result<u64, MemoryError> {
        let (base, next) = (self.next, self.after(bytes)?);
        self.alloc_at(device, base, bytes)?;
        self.next = next;
        Ok(base)
    }

    /// Takes device addresses for memory that [`Self::alloc_at`] brings to life.
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`].
    pub fn reserve(&mut self, bytes: u64) -> Result<u64, MemoryError> {
        let (base, next) = (self.next, self.after(bytes)?);
        self.next = next;
        Ok(base)
    }

    /// Where the allocation after the next begins, if the next has so many bytes.
    fn after(&self, bytes: u64) -> Result<u64, MemoryError> {
        let none = MemoryError::OutOfMemory { want: bytes, free: DEVICE_END - self.next };
        let end =
            self.next.checked_add(bytes.max(1)).filter(|&end| end < DEVICE_END - 2 * GAP).ok_or(none)?;
        Ok((end + GAP).next_multiple_of(ALIGN))
    }

    /// Allocates on a device at addresses that [`Self::reserve`] gave.
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`].
    pub fn alloc_at(&mut self, device: u32, base: u64, bytes: u64) -> Result<(), MemoryError> {
        let free = self.free_bytes(device);
        let taken = bytes.max(1).next_multiple_of(ALIGN);
        if taken > free {
            return Err(MemoryError::OutOfMemory { want: bytes, free });
        }
        self.insert(base, bytes, Kind::Device(device), 16)?;
        self.freed.remove(&base);
        self.devices[device as usize].1 += taken;
        Ok(())
    }

    /// Allocates page-locked host memory: the address is the same for host and device.
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`].
    pub fn alloc_pinned(&mut self, bytes: u64) -> Result<u64, MemoryError> {
        self.insert(0, bytes, Kind::Pinned, 4096)
    }

    /// Makes the client's own host memory reachable.
    ///
    /// # Errors
    /// [`MemoryError::Overlap`].
    ///
    /// # Safety
    /// The range must be valid for reads and writes until it is given to [`Self::free`].
    pub unsafe fn register(&mut self, host: *mut u8, bytes: u64) -> Result<u64, MemoryError> {
        let base = host as u64;
        let before = self.live.range(..base.saturating_add(bytes)).next_back();
        if let Some((_, known)) = before.filter(|(_, r)| r.allocation.base + r.allocation.size > base) {
            return Err(MemoryError::Overlap { known: known.allocation });
        }
        self.count += 1;
        let allocation =
            Allocation { number: self.count, base, size: bytes, kind: Kind::Registered, freed: false };
        self.live.insert(base, Region { allocation, host, layout: None, written: None });
        Ok(base)
    }

    /// `base` 0 takes the host's address.
    fn insert(&mut self, base: u64, bytes: u64, kind: Kind, align: usize) -> Result<u64, MemoryError> {
        let none = MemoryError::OutOfMemory { want: bytes, free: 0 };
        let rounded = usize::try_from(bytes.max(1).next_multiple_of(16)).map_err(|_| none.clone())?;
        let layout = Layout::from_size_align(rounded, align).map_err(|_| none.clone())?;
        // SAFETY: the size is not zero.
        let host = unsafe { alloc_zeroed(layout) };
        if host.is_null() {
            return Err(none);
        }
        let base = if base == 0 { host as u64 } else { base };
        let words = bytes.div_ceil(64) as usize;
        let track = self.track_written && matches!(kind, Kind::Device(_));
        let written = track.then(|| (0..words).map(|_| AtomicU64::new(0)).collect());
        self.count += 1;
        let allocation = Allocation { number: self.count, base, size: bytes, kind, freed: false };
        self.live.insert(base, Region { allocation, host, layout: Some(layout), written });
        Ok(base)
    }

    /// Frees an allocation, or forgets a registered range. `addr` is the address it began at.
    ///
    /// # Errors
    /// [`MemoryError::NotAnAllocation`].
    pub fn free(&mut self, addr: u64) -> Result<(), MemoryError> {
        let Some(region) = self.live.remove(&addr) else {
            return Err(MemoryError::NotAnAllocation { addr, near: self.nearest(addr) });
        };
        let a = Allocation { freed: true, ..region.allocation };
        if let Some(history) = self.history() {
            history.forget(a.base, a.size);
        }
        if let Kind::Device(device) = a.kind {
            self.devices[device as usize].1 -= a.size.max(1).next_multiple_of(ALIGN);
            if self.freed.len() >= REMEMBERED {
                self.freed.pop_first();
            }
            self.freed.insert(addr, a);
        }
        Ok(())
    }

    /// The live allocation that contains an address.
    pub fn find(&self, addr: u64) -> Option<Allocation> {
        self.region(addr).map(|r| r.allocation)
    }

    /// The allocation, live or freed, that contains an address or lies nearest.
    pub fn nearest(&self, addr: u64) -> Option<Place> {
        let live = self.live.values().map(|r| r.allocation);
        let distance = |a: &Allocation| match addr {
            _ if addr < a.base => a.base - addr,
            _ => (addr - a.base).saturating_sub(a.size.saturating_sub(1)),
        };
        let allocation = live.chain(self.freed.values().copied()).min_by_key(|a| (distance(a), a.freed))?;
        Some(Place { allocation, offset: addr.wrapping_sub(allocation.base) as i64 })
    }

    /// Bytes of a device that are not allocated.
    pub fn free_bytes(&self, device: u32) -> u64 {
        self.devices.get(device as usize).map_or(0, |(capacity, used)| capacity - used)
    }

    /// Bytes of a device.
    pub fn total_bytes(&self, device: u32) -> u64 {
        self.devices.get(device as usize).map_or(0, |(capacity, _)| *capacity)
    }

    /// Reads a range that lies in one allocation.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`].
    pub fn read(&self, addr: u64, to: &mut [u8]) -> Result<(), MemoryError> {
        let (region, offset) = self.range(addr, to.len() as u64)?;
        // SAFETY: `range` checked the bounds; nothing else runs while `self` is borrowed.
        unsafe { std::ptr::copy(region.host.add(offset), to.as_mut_ptr(), to.len()) }
        Ok(())
    }

    /// Writes a range that lies in one allocation.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`].
    pub fn write(&mut self, addr: u64, from: &[u8]) -> Result<(), MemoryError> {
        let (region, offset) = self.range(addr, from.len() as u64)?;
        // SAFETY: `range` checked the bounds; `self` is borrowed mutably.
        unsafe { std::ptr::copy(from.as_ptr(), region.host.add(offset), from.len()) }
        region.mark_written(offset as u64, from.len() as u64);
        Ok(())
    }

    /// Copies between two ranges, which may overlap. What nobody wrote stays so.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`].
    pub fn copy(&mut self, dst: u64, src: u64, bytes: u64) -> Result<(), MemoryError> {
        let (from, from_offset) = self.range(src, bytes)?;
        let (to, to_offset) = self.range(dst, bytes)?;
        // SAFETY: `range` checked both bounds; `copy` allows overlap.
        unsafe { std::ptr::copy(from.host.add(from_offset), to.host.add(to_offset), bytes as usize) }
        match (&from.written, &to.written) {
            (Some(from), Some(to)) => {
                let get = |i: u64| {
                    let at = from_offset as u64 + i;
                    from[(at / 64) as usize].load(Ordering::Relaxed) >> (at % 64) & 1 == 1
                };
                let state: Vec<bool> = (0..bytes).map(get).collect();
                for (i, written) in state.into_iter().enumerate() {
                    let at = to_offset + i;
                    match written {
                        true => to[at / 64].fetch_or(1 << (at % 64), Ordering::Relaxed),
                        false => to[at / 64].fetch_and(!(1 << (at % 64)), Ordering::Relaxed),
                    };
                }
            }
            _ => to.mark_written(to_offset as u64, bytes),
        }
        Ok(())
    }

    /// Writes a pattern `count` times, as `cuMemsetD8`, `D16` and `D32` do.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`].
    pub fn fill(&mut self, addr: u64, pattern: &[u8], count: u64) -> Result<(), MemoryError> {
        let bytes = (pattern.len() as u64).checked_mul(count).ok_or_else(|| MemoryError::OutOfBounds {
            addr,
            bytes: u64::MAX,
            near: self.nearest(addr),
        })?;
        let (region, offset) = self.range(addr, bytes)?;
        region.mark_written(offset as u64, bytes);
        // SAFETY: `range` checked the bounds; `self` is borrowed mutably.
        let to = unsafe { std::slice::from_raw_parts_mut(region.host.add(offset), bytes as usize) };
        match pattern {
            [] => {}
            [byte] => to.fill(*byte),
            _ => to.chunks_exact_mut(pattern.len()).for_each(|chunk| chunk.copy_from_slice(pattern)),
        }
        Ok(())
    }

    fn region(&self, addr: u64) -> Option<&Region> {
        let (_, region) = self.live.range(..=addr).next_back()?;
        (addr - region.allocation.base < region.allocation.size).then_some(region)
    }

    fn range(&self, addr: u64, bytes: u64) -> Result<(&Region, usize), MemoryError> {
        let region = self.live.range(..=addr).next_back().map(|(_, region)| region);
        region
            .and_then(|r| {
                let offset = addr - r.allocation.base;
                (offset <= r.allocation.size && bytes <= r.allocation.size - offset)
                    .then_some((r, offset as usize))
            })
            .ok_or_else(|| MemoryError::OutOfBounds { addr, bytes, near: self.nearest(addr) })
    }

    /// Every live allocation, by address.
    pub(crate) fn views(&self) -> Vec<View<'_>> {
        let view = |r| {
            let Region { allocation: a, host, written, .. }: &Region = r;
            View {
                base: a.base,
                size: a.size,
                host: *host,
                kind: a.kind,
                written: written.as_deref(),
                history: self.history.as_ref(),
            }
        };
        self.live.values().map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_aligned_apart_and_never_reused() {
        let mut m = Memory::new(&[1 << 20], false);
        let a = m.alloc(0, 100).unwrap();
        let b = m.alloc(0, 100).unwrap();
        assert_eq!((a % ALIGN, b % ALIGN), (0, 0));
        assert!(a >= DEVICE_BASE && b >= a + 100 + GAP);
        assert_eq!(m.free_bytes(0), (1 << 20) - 512);
        m.free(a).unwrap();
        let c = m.alloc(0, 100).unwrap();
        assert!(c > b);
        assert!(
            matches!(m.free(a), Err(MemoryError::NotAnAllocation { near: Some(p), .. }) if p.allocation.freed)
        );
        let e = m.alloc(0, 1 << 20).unwrap_err();
        assert_eq!(e, MemoryError::OutOfMemory { want: 1 << 20, free: (1 << 20) - 512 });
    }

    #[test]
    fn ranges_end_with_their_allocation() {
        let mut m = Memory::new(&[1 << 20], true);
        let a = m.alloc(0, 10).unwrap();
        m.write(a, &[1; 10]).unwrap();
        let mut out = [0; 4];
        m.read(a + 6, &mut out).unwrap();
        assert_eq!(out, [1; 4]);
        let e = m.read(a + 7, &mut out).unwrap_err();
        assert_eq!(
            e.to_string(),
            format!(
                "4 bytes at {:#x} are not inside a live allocation; it is at byte 7 of the allocation #1 (10 bytes at {a:#x})",
                a + 7
            )
        );
        m.fill(a, &[1, 2], 5).unwrap();
        m.copy(a + 1, a, 9).unwrap();
        let mut all = [0; 10];
        m.read(a, &mut all).unwrap();
        assert_eq!(all, [1, 1, 2, 1, 2, 1, 2, 1, 2, 1]);
        assert!(m.fill(a, &[0; 4], u64::MAX / 2).is_err());
    }

    #[test]
    fn host_memory_keeps_its_address() {
        let mut m = Memory::new(&[], false);
        let pinned = m.alloc_pinned(64).unwrap();
        m.write(pinned, &[7; 64]).unwrap();
        // SAFETY: 64 bytes were allocated there.
        assert_eq!(unsafe { *(pinned as *const u8).add(63) }, 7);
        let mut own = [1u8; 32];
        // SAFETY: `own` outlives the registration.
        let at = unsafe { m.register(own.as_mut_ptr(), 32) }.unwrap();
        // SAFETY: as above; it is refused anyway.
        let again = unsafe { m.register(own.as_mut_ptr().add(8), 4) };
        assert!(matches!(again, Err(MemoryError::Overlap { .. })));
        m.copy(at, pinned, 32).unwrap();
        m.free(at).unwrap();
        assert_eq!(own, [7; 32]);
    }

    #[test]
    fn bits_of_written_bytes() {
        let bits: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
        mark(&bits, 3, 130);
        assert_eq!(first_unmarked(&bits, 3, 130), None);
        assert_eq!(first_unmarked(&bits, 0, 8), Some(0));
        assert_eq!(first_unmarked(&bits, 100, 100), Some(133));
    }
}
