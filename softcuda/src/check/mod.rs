//! The sanitizer: reads of memory that nobody wrote, races, divergent barriers, copies used before their wait.
//!
//! Bounds and alignment are always checked, by the interpreter itself. What is here watches a launch as an
//! [`Observer`], its blocks one after the other on one core, so that a report does not depend on timing.
//!
//! - `init`: one bit a byte says whether it was written; device memory carries its bits from launch to launch.
//! - `race`: shared memory by vector clocks of the block's warps, advanced by barriers (FastTrack, PLDI 2009); lanes of
//!   one warp are ordered by `bar.warp.sync`. Global memory by block: two blocks are ordered only where one has seen
//!   an atomic of the other. Volatile, relaxed and atomic accesses do not race with each other. Between launches, and
//!   with copies and fills, by the vector clocks of the driver's queue ([`history`]).
//! - `sync`: `bar.sync` by a part of a warp, the rest of which neither comes nor is on its way out; shared memory used
//!   while a `cp.async` into it is under way.
//!
//! Not found: races within a block through global memory; a missing fence before an atomic that publishes data; two
//! lanes that store to one address in one instruction.

mod global;
pub(crate) mod history;
mod shared;

use std::collections::HashMap;

use crate::{
    exec::{
        Checks,
        code::{Inst, Op, Window},
        observe::{AccessKind, Event, Finding, Observer},
    },
    fault::FaultKind,
    memory::View,
};
use global::GlobalShadow;
use shared::SharedShadow;

/// Watches one launch.
pub(crate) struct Sanitizer<'a> {
    checks: Checks,
    global: GlobalShadow<'a>,
    shared: SharedShadow,
    /// By warp and lane: which bytes of its local memory a thread has written.
    local: HashMap<(u32, u32), Bits>,
}

impl<'a> Sanitizer<'a> {
    /// For a launch that reaches these allocations.
    pub(crate) fn new(checks: Checks, views: &'a [View<'a>]) -> Self {
        Self {
            checks,
            global: GlobalShadow::new(views),
            shared: SharedShadow::default(),
            local: HashMap::new(),
        }
    }
}

/// An access by one lane.
#[derive(Debug, Clone, Copy)]
struct Touch {
    addr: u64,
    bytes: u64,
    warp: u32,
    lane: u32,
    pc: u32,
    reads: bool,
    writes: bool,
    /// Volatile, relaxed or atomic.
    strong: bool,
}

impl Touch {
    fn verb(&self) -> &'static str {
        match (self.reads, self.writes) {
            (true, true) => "atomic",
            (_, true) => "store",
            _ => "load",
        }
    }

    /// A defect of this access. `what` follows the access and its address; `other` is where the access that it
    /// collides with stands. Only global addresses are named after an allocation.
    fn finding(&self, kind: FaultKind, window: Window, what: &str, other: Option<u32>) -> Finding {
        let name = match window {
            Window::Shared => "shared",
            Window::Local => "local",
            _ => "global",
        };
        let message =
            format!("{} of {} bytes at the {name} address {:#x} {what}", self.verb(), self.bytes, self.addr);
        let addr = (window == Window::Global).then_some(self.addr);
        Finding { kind, lane: self.lane, message, addr, other }
    }
}

const UNWRITTEN: &str = "that nobody has written";

impl Observer for Sanitizer<'_> {
    const ACCESSES: bool = true;

    fn begin(&mut self, block: u64, shared: u32, _warps: u32) {
        self.shared.begin(shared);
        self.global.begin(block);
        self.local.clear();
    }

    fn instruction(&mut self, warp: u32, _pc: u32, inst: &Inst, mask: u32) {
        if inst.op == Op::WarpBar && mask != 0 {
            self.shared.warp_barrier(warp);
        }
    }

    fn access(&mut self, event: &Event<'_>) -> Result<(), Finding> {
        let (reads, writes) = match event.kind {
            AccessKind::Load | AccessKind::AsyncRead => (true, false),
            AccessKind::Store | AccessKind::AsyncWrite => (false, true),
            AccessKind::Atomic => (true, true),
        };
        for lane in (0..32).filter(|lane| event.mask >> lane & 1 != 0) {
            let touch = Touch {
                addr: event.addrs[lane as usize],
                bytes: event.bytes.into(),
                warp: event.warp,
                lane,
                pc: event.pc,
                reads,
                writes,
                strong: event.strong || event.kind == AccessKind::Atomic,
            };
            match event.window {
                Window::Global => self.global.touch(&touch, self.checks)?,
                Window::Shared => {
                    self.shared.touch(&touch, event.kind == AccessKind::AsyncWrite, self.checks)?;
                }
                Window::Local if self.checks.init => self.touch_local(&touch)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn whole_warps(&self) -> bool {
        self.checks.sync
    }

    fn arrive(&mut self, warp: u32, barrier: u32) {
        self.shared.arrive(warp, barrier);
    }

    fn released(&mut self, barrier: u32) {
        self.shared.released(barrier);
    }

    fn copied(&mut self, _warp: u32, addrs: &[u64; 32], mask: u32, bytes: u32) {
        for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
            self.shared.copied(addrs[lane], bytes.into());
        }
    }
}

impl Sanitizer<'_> {
    /// Structs with padding are copied whole, so only a read of nothing but unwritten bytes is a defect.
    fn touch_local(&mut self, touch: &Touch) -> Result<(), Finding> {
        let bits = self.local.entry((touch.warp, touch.lane)).or_default();
        bits.grow(touch.addr + touch.bytes);
        if touch.reads && !bits.any(touch.addr, touch.bytes) {
            return Err(touch.finding(FaultKind::Uninitialised, Window::Local, UNWRITTEN, None));
        }
        if touch.writes {
            bits.set(touch.addr, touch.bytes, true);
        }
        Ok(())
    }
}

/// A bit a byte.
#[derive(Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn clear(&mut self, bytes: u64) {
        self.0.clear();
        self.grow(bytes);
    }

    fn grow(&mut self, bytes: u64) {
        let words = bytes.div_ceil(64) as usize;
        if self.0.len() < words {
            self.0.resize(words, 0);
        }
    }

    fn get(&self, at: u64) -> bool {
        self.0[(at / 64) as usize] >> (at % 64) & 1 != 0
    }

    fn any(&self, at: u64, bytes: u64) -> bool {
        (at..at + bytes).any(|at| self.get(at))
    }

    fn all(&self, at: u64, bytes: u64) -> bool {
        (at..at + bytes).all(|at| self.get(at))
    }

    fn set(&mut self, at: u64, bytes: u64, to: bool) {
        for at in at..at + bytes {
            let (word, bit) = (&mut self.0[(at / 64) as usize], 1 << (at % 64));
            *word = if to { *word | bit } else { *word & !bit };
        }
    }
}
