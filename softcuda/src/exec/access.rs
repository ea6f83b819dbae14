//! Loads, stores and atomics: addresses of 32 lanes, checked and observed, then moved.

use super::{
    atomic,
    code::{Access, Extra, FULL, Inst, LANES, LOCAL_BASE, SHARED_BASE, Window},
    frame::Frame,
    machine::{Machine, Result, Wrong, found},
    observe::{AccessKind, Event, Observer},
    space::{self, Bad, Pointers, generic},
    warp::{Warp, lanes},
};
use crate::fault::FaultKind;

/// The name of a window in messages.
fn window_name(window: Window) -> &'static str {
    match window {
        Window::Global => "global",
        Window::Shared => "shared",
        Window::Local => "local",
        Window::Param => "parameter",
        Window::Generic => "generic",
    }
}

impl<O: Observer> Machine<'_, O> {
    #[cold]
    pub(super) fn bad_access(&self, bad: Bad, what: &str, bytes: u64, pc: u32) -> Box<Wrong> {
        let window = window_name(bad.window);
        let message = match bad.kind {
            FaultKind::Misaligned => {
                format!("{what} of {bytes} bytes at the misaligned {window} address {:#x}", bad.addr)
            }
            _ => {
                let size = match bad.window {
                    Window::Shared => format!(" (the block has {} bytes)", self.space.shared_bytes),
                    Window::Local => format!(" (a thread has {} bytes)", self.space.local_bytes),
                    _ => String::new(),
                };
                format!("{what} of {bytes} bytes at the {window} address {:#x} out of bounds{size}", bad.addr)
            }
        };
        let global = matches!(bad.window, Window::Global | Window::Generic);
        Box::new(Wrong {
            kind: bad.kind,
            lane: bad.lane as u32,
            pc,
            message,
            addr: Some(bad.addr),
            global,
            other: None,
        })
    }

    /// Resolves an access and shows it to the observer.
    #[inline(always)]
    pub(super) fn reach(
        &mut self,
        w: &Warp,
        window: Window,
        addrs: &mut [u64; LANES],
        mask: u32,
        bytes: u64,
        align: u64,
        kind: AccessKind,
        strong: bool,
        pc: u32,
    ) -> Result<Pointers> {
        let (pointers, found) = match self.space.resolve(window, addrs, mask, bytes, align) {
            Ok(ok) => ok,
            Err(bad) => {
                let what = match kind {
                    AccessKind::Load => "load",
                    AccessKind::Store => "store",
                    AccessKind::Atomic => "atomic",
                    AccessKind::AsyncRead | AccessKind::AsyncWrite => "cp.async",
                };
                return Err(self.bad_access(bad, what, bytes, pc));
            }
        };
        if O::ACCESSES {
            self.observe(w, found, addrs, mask, bytes, kind, strong, pc)?;
        }
        Ok(pointers)
    }

    fn observe(
        &mut self,
        w: &Warp,
        window: Window,
        addrs: &[u64; LANES],
        mask: u32,
        bytes: u64,
        kind: AccessKind,
        strong: bool,
        pc: u32,
    ) -> Result<()> {
        let mut event = Event { window, kind, addrs, mask, bytes: bytes as u32, strong, pc, warp: w.id };
        if window != Window::Generic {
            return self.observer.access(&event).map_err(|f| found(f, pc));
        }
        // Lanes of one generic access may be in several windows.
        for (window, base) in
            [(Window::Global, 0), (Window::Shared, SHARED_BASE), (Window::Local, LOCAL_BASE)]
        {
            let mask = lanes(mask).fold(0, |m, i| m | u32::from(generic(addrs[i]) == window) << i);
            if mask != 0 {
                let own = addrs.map(|a| a.wrapping_sub(base));
                (event.window, event.mask) = (window, mask);
                let event = Event { addrs: &own, ..event };
                self.observer.access(&event).map_err(|f| found(f, pc))?;
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn addresses(frame: &Frame, base: u32, offset: u64, short: bool) -> [u64; LANES] {
        let mut addrs = [0; LANES];
        if short {
            let base = frame.load::<u32>(base);
            for i in 0..LANES {
                addrs[i] = u64::from(base[i].wrapping_add(offset as u32));
            }
        } else {
            let base = frame.load::<u64>(base);
            for i in 0..LANES {
                addrs[i] = base[i].wrapping_add(offset);
            }
        }
        addrs
    }

    #[inline(always)]
    pub(super) fn load(&mut self, w: &Warp, inst: &Inst, frame: &Frame, mask: u32, pc: u32) -> Result<()> {
        let access = Access::unpack(inst.mods);
        let list = &self.code.lists;
        let (base, count) = match access.count {
            1 => (inst.a, 1),
            n => (list[inst.a as usize + usize::from(n)], n),
        };
        let mut addrs = Self::addresses(frame, base, inst.imm, access.short);
        let bytes = u64::from(access.bytes) * u64::from(count);
        let p = self.reach(
            w,
            access.window,
            &mut addrs,
            mask,
            bytes,
            bytes,
            AccessKind::Load,
            access.strong,
            pc,
        )?;
        for i in 0..count {
            let d = if count == 1 { inst.d } else { list[inst.a as usize + usize::from(i)] };
            let at = usize::from(i) * usize::from(access.bytes);
            // SAFETY: `reach` checked `bytes` bytes and their alignment in the lanes of the mask.
            unsafe {
                match (access.bytes, access.reg) {
                    (4, 16 | 32) => read_row::<4, u32>(frame.lanes(d), &p, at, mask),
                    (8, _) => read_row::<8, u64>(frame.lanes(d), &p, at, mask),
                    (2, 16 | 32) if !access.signed => read_row::<2, u32>(frame.lanes(d), &p, at, mask),
                    _ => read_extended(frame, d, &p, at, mask, access),
                }
            }
        }
        Ok(())
    }

    #[inline(always)]
    pub(super) fn store(&mut self, w: &Warp, inst: &Inst, frame: &Frame, mask: u32, pc: u32) -> Result<()> {
        let access = Access::unpack(inst.mods);
        let count = access.count;
        // Two values still fit into the instruction.
        let in_list = count > 2;
        let base = if in_list { self.code.lists[inst.a as usize] } else { inst.a };
        let mut addrs = Self::addresses(frame, base, inst.imm, access.short);
        let bytes = u64::from(access.bytes) * u64::from(count);
        let p = self.reach(
            w,
            access.window,
            &mut addrs,
            mask,
            bytes,
            bytes,
            AccessKind::Store,
            access.strong,
            pc,
        )?;
        for i in 0..count {
            let s = match (in_list, i) {
                (true, _) => self.code.lists[inst.a as usize + 1 + usize::from(i)],
                (false, 0) => inst.b,
                (false, _) => inst.c,
            };
            let at = usize::from(i) * usize::from(access.bytes);
            // SAFETY: `reach` checked `bytes` bytes and their alignment in the lanes of the mask; parameters are not
            // stored to.
            unsafe {
                match (access.bytes, access.reg) {
                    (1, 64) => write_row::<1, u64>(frame.load::<u64>(s), &p, at, mask),
                    (2, 64) => write_row::<2, u64>(frame.load::<u64>(s), &p, at, mask),
                    (4, 64) => write_row::<4, u64>(frame.load::<u64>(s), &p, at, mask),
                    (8, _) => write_row::<8, u64>(frame.load::<u64>(s), &p, at, mask),
                    (1, _) => write_row::<1, u32>(frame.load::<u32>(s), &p, at, mask),
                    (2, _) => write_row::<2, u32>(frame.load::<u32>(s), &p, at, mask),
                    _ => write_row::<4, u32>(frame.load::<u32>(s), &p, at, mask),
                }
            }
        }
        Ok(())
    }

    pub(super) fn load_param(&self, inst: &Inst, frame: &Frame, mask: u32) {
        let access = Access::unpack(inst.mods);
        // The lowering checked the place against the parameter; launches without all parameters are refused.
        let at = inst.imm as usize;
        let mut bytes = [0; 8];
        let n = usize::from(access.bytes);
        bytes[..n].copy_from_slice(&self.space.params[at..at + n]);
        let value = extend(u64::from_le_bytes(bytes), access);
        if access.reg == 64 {
            frame.store::<u64>(inst.d, mask, [value; LANES]);
        } else {
            frame.store::<u32>(inst.d, mask, [value as u32; LANES]);
        }
    }

    pub(super) fn atom(&mut self, w: &Warp, inst: &Inst, frame: &Frame, mask: u32, pc: u32) -> Result<()> {
        let access = Access::unpack(inst.mods);
        let Extra::Atom(atom) = self.code.extras[inst.imm as usize] else { return Ok(()) };
        let results = usize::from(inst.results);
        let start = inst.a as usize;
        let list = &self.code.lists[start..start + results + inst.b as usize];
        let (results, uses) = list.split_at(results);
        let mut addrs = frame.load::<u64>(uses[0]);
        let bytes = u64::from(access.bytes) * u64::from(atom.count);
        let p = self.reach(w, access.window, &mut addrs, mask, bytes, bytes, AccessKind::Atomic, true, pc)?;
        for i in 0..usize::from(atom.count) {
            let at = i * usize::from(access.bytes);
            let value = |row: u32| match access.reg {
                64 => frame.load::<u64>(row),
                _ => frame.load::<u32>(row).map(u64::from),
            };
            let b = value(uses[1 + i]);
            let c = if uses.len() > 2 && atom.count == 1 { value(uses[2]) } else { [0; LANES] };
            let mut old = [0; LANES];
            // Lanes take turns from the lowest, which makes floating-point sums repeatable.
            for lane in lanes(mask) {
                // SAFETY: `reach` checked the lane's bytes and their alignment.
                old[lane] = unsafe { atomic::apply(p[lane] + at, &atom, b[lane], c[lane]) };
            }
            if let Some(&d) = results.get(i) {
                if access.reg == 64 {
                    frame.store::<u64>(d, mask, old);
                } else {
                    frame.store::<u32>(d, mask, old.map(|x| x as u32));
                }
            }
        }
        Ok(())
    }
}

/// A value that was read, extended to its register.
#[inline(always)]
fn extend(x: u64, access: Access) -> u64 {
    let shift = 64 - 8 * u32::from(access.bytes);
    let x = if access.signed { ((x << shift) as i64 >> shift) as u64 } else { x };
    x & (u64::MAX >> (64 - access.reg))
}

trait Slot: Copy {
    fn from_bits(x: u64) -> Self;
    fn bits(self) -> u64;
}

impl Slot for u32 {
    #[inline(always)]
    fn from_bits(x: u64) -> Self {
        x as u32
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        self.into()
    }
}

impl Slot for u64 {
    #[inline(always)]
    fn from_bits(x: u64) -> Self {
        x
    }
    #[inline(always)]
    fn bits(self) -> u64 {
        self
    }
}

/// Reads an element for each lane of a mask into a row.
///
/// # Safety
/// `d` is a row of `T`; `p + at` is readable as [`space::read`] wants in the lanes of the mask.
#[inline(always)]
unsafe fn read_row<const BYTES: u8, T: Slot>(d: *mut T, p: &Pointers, at: usize, mask: u32) {
    // SAFETY: by the caller's promise.
    unsafe {
        if mask == FULL {
            for lane in 0..LANES {
                *d.add(lane) = T::from_bits(space::read::<BYTES>(p[lane] + at));
            }
        } else {
            for lane in lanes(mask) {
                *d.add(lane) = T::from_bits(space::read::<BYTES>(p[lane] + at));
            }
        }
    }
}

/// As [`read_row`] for elements that are narrower than their registers.
///
/// # Safety
/// As for [`read_row`].
unsafe fn read_extended(frame: &Frame, d: u32, p: &Pointers, at: usize, mask: u32, access: Access) {
    for lane in lanes(mask) {
        // SAFETY: by the caller's promise.
        unsafe {
            let x = match access.bytes {
                1 => space::read::<1>(p[lane] + at),
                2 => space::read::<2>(p[lane] + at),
                4 => space::read::<4>(p[lane] + at),
                _ => space::read::<8>(p[lane] + at),
            };
            let x = extend(x, access);
            if access.reg == 64 {
                *frame.lanes::<u64>(d).add(lane) = x;
            } else {
                *frame.lanes::<u32>(d).add(lane) = x as u32;
            }
        }
    }
}

/// Writes an element for each lane of a mask; of lanes with the same address the highest wins.
///
/// # Safety
/// `p + at` is writable as [`space::write`] wants in the lanes of the mask.
#[inline(always)]
unsafe fn write_row<const BYTES: u8, T: Slot>(values: [T; LANES], p: &Pointers, at: usize, mask: u32) {
    // SAFETY: by the caller's promise.
    unsafe {
        if mask == FULL {
            for lane in 0..LANES {
                space::write::<BYTES>(p[lane] + at, values[lane].bits());
            }
        } else {
            for lane in lanes(mask) {
                space::write::<BYTES>(p[lane] + at, values[lane].bits());
            }
        }
    }
}
