//! From the addresses of a warp to host pointers, checked.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::code::{LANES, LOCAL_BASE, PARAM_BASE, SHARED_BASE, WINDOW, Window};
use crate::{
    fault::FaultKind,
    memory::{Kind, View},
};

/// Everything that the lanes of a block can address.
#[derive(Debug)]
pub struct Space<'a> {
    /// Live allocations by address, those of unreachable devices left out.
    pub views: &'a [View<'a>],
    /// The allocation that was found last.
    pub last: usize,
    /// Shared memory of the block.
    pub shared: *mut u8,
    /// Its bytes.
    pub shared_bytes: u64,
    /// Local memory of the warp that runs, a thread after the other.
    pub local: *mut u8,
    /// Bytes of a thread.
    pub local_bytes: u64,
    /// The kernel's parameters.
    pub params: &'a [u8],
}

/// An access that cannot be done.
#[derive(Debug, Clone, Copy)]
pub struct Bad {
    /// What is wrong.
    pub kind: FaultKind,
    /// By which lane.
    pub lane: usize,
    /// Where.
    pub addr: u64,
    /// In which window.
    pub window: Window,
}

/// Host addresses of an access, valid in the lanes of its mask.
pub type Pointers = [usize; LANES];

impl Space<'_> {
    /// Host pointers of an access of `bytes` bytes by the lanes of `mask`, aligned to `align`. Generic addresses are
    /// rewritten to their window, if it is one for all lanes, and the window is returned.
    #[inline(always)]
    pub fn resolve(
        &mut self,
        window: Window,
        addrs: &mut [u64; LANES],
        mask: u32,
        bytes: u64,
        align: u64,
    ) -> Result<(Pointers, Window), Bad> {
        let (mut low, mut high, mut any) = (u64::MAX, 0, 0);
        for i in 0..LANES {
            let on = mask >> i & 1 != 0;
            let addr = addrs[i];
            low = low.min(if on { addr } else { u64::MAX });
            high = high.max(if on { addr } else { 0 });
            any |= if on { addr } else { 0 };
        }
        let mut window = window;
        if any & (align - 1) == 0 {
            if window == Window::Generic {
                window = generic(low);
                if window != generic(high) {
                    return self.one_by_one(Window::Generic, addrs, mask, bytes, align);
                }
                let base = base_of(window);
                if base != 0 {
                    addrs.iter_mut().for_each(|a| *a = a.wrapping_sub(base));
                    (low, high) = (low - base, high - base);
                }
            }
            let fits = |base: u64, size: u64| low >= base && bytes <= size && high - base <= size - bytes;
            match window {
                Window::Shared if fits(0, self.shared_bytes) => {
                    return Ok((offset(addrs, self.shared as usize), window));
                }
                Window::Local if fits(0, self.local_bytes) => {
                    let (base, stride) = (self.local as usize, self.local_bytes as usize);
                    let mut p = offset(addrs, base);
                    for i in 0..LANES {
                        p[i] += i * stride;
                    }
                    return Ok((p, window));
                }
                Window::Global => {
                    if let Some(view) = self.views.get(self.last)
                        && fits(view.base, view.size)
                    {
                        return Ok((
                            offset(addrs, (view.host as usize).wrapping_sub(view.base as usize)),
                            window,
                        ));
                    }
                }
                _ => {}
            }
        }
        self.one_by_one(window, addrs, mask, bytes, align)
    }

    /// The general case, lane by lane.
    #[inline(never)]
    fn one_by_one(
        &mut self,
        window: Window,
        addrs: &[u64; LANES],
        mask: u32,
        bytes: u64,
        align: u64,
    ) -> Result<(Pointers, Window), Bad> {
        let mut p = [0; LANES];
        for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
            let addr = addrs[lane];
            let bad = |kind| Bad { kind, lane, addr, window };
            if addr & (align - 1) != 0 {
                return Err(bad(FaultKind::Misaligned));
            }
            let (window, at) = match window {
                Window::Generic => (generic(addr), addr - base_of(generic(addr))),
                _ => (window, addr),
            };
            let inside = |size: u64| at <= size && bytes <= size - at;
            let found = match window {
                Window::Shared if inside(self.shared_bytes) => self.shared as usize + at as usize,
                Window::Local if inside(self.local_bytes) => {
                    self.local as usize + lane * self.local_bytes as usize + at as usize
                }
                Window::Param if inside(self.params.len() as u64) => {
                    self.params.as_ptr() as usize + at as usize
                }
                Window::Global => match self.find(addr, bytes) {
                    Some(p) => p,
                    None => return Err(bad(FaultKind::IllegalAddress)),
                },
                _ => return Err(Bad { addr: at, window, ..bad(FaultKind::IllegalAddress) }),
            };
            p[lane] = found;
        }
        Ok((p, window))
    }

    fn find(&mut self, addr: u64, bytes: u64) -> Option<usize> {
        let at = self.views.partition_point(|v| v.base <= addr).checked_sub(1)?;
        let view = &self.views[at];
        let offset = addr - view.base;
        (offset <= view.size && bytes <= view.size - offset).then(|| {
            self.last = at;
            view.host as usize + offset as usize
        })
    }
}

#[inline(always)]
fn offset(addrs: &[u64; LANES], by: usize) -> Pointers {
    let mut p = [0; LANES];
    for i in 0..LANES {
        p[i] = (addrs[i] as usize).wrapping_add(by);
    }
    p
}

/// The window of a generic address.
#[inline(always)]
pub fn generic(addr: u64) -> Window {
    match addr.wrapping_sub(SHARED_BASE) / WINDOW {
        0 => Window::Shared,
        1 => Window::Local,
        2 => Window::Param,
        _ => Window::Global,
    }
}

#[inline(always)]
fn base_of(window: Window) -> u64 {
    match window {
        Window::Shared => SHARED_BASE,
        Window::Local => LOCAL_BASE,
        Window::Param => PARAM_BASE,
        _ => 0,
    }
}

/// Allocations that kernels of a device reach: its own, its peers', host memory.
pub fn reachable<'a>(views: Vec<View<'a>>, device: u32, peers: u64) -> Vec<View<'a>> {
    let own = |d: u32| d == device || d < 64 && peers >> d & 1 != 0;
    views.into_iter().filter(|v| !matches!(v.kind, Kind::Device(d) if !own(d))).collect()
}

// Blocks on several cores share memory, and what races in the kernel must not be undefined behaviour here: every
// access is a relaxed atomic of its element's size, which costs no more than a plain one.

/// Reads an element.
///
/// # Safety
/// `p` came from [`Space::resolve`] for an access that covers it, is aligned to the size of `T`, and the memory is live.
#[inline(always)]
pub unsafe fn read<const BYTES: u8>(p: usize) -> u64 {
    // SAFETY: by the caller's promise.
    unsafe {
        match BYTES {
            1 => u64::from(AtomicU8::from_ptr(p as *mut u8).load(Relaxed)),
            2 => u64::from(AtomicU16::from_ptr(p as *mut u16).load(Relaxed)),
            4 => u64::from(AtomicU32::from_ptr(p as *mut u32).load(Relaxed)),
            _ => AtomicU64::from_ptr(p as *mut u64).load(Relaxed),
        }
    }
}

/// Writes an element.
///
/// # Safety
/// As for [`read`], and the memory is not the parameters'.
#[inline(always)]
pub unsafe fn write<const BYTES: u8>(p: usize, value: u64) {
    // SAFETY: by the caller's promise.
    unsafe {
        match BYTES {
            1 => AtomicU8::from_ptr(p as *mut u8).store(value as u8, Relaxed),
            2 => AtomicU16::from_ptr(p as *mut u16).store(value as u16, Relaxed),
            4 => AtomicU32::from_ptr(p as *mut u32).store(value as u32, Relaxed),
            _ => AtomicU64::from_ptr(p as *mut u64).store(value, Relaxed),
        }
    }
}
