//! What watches a running kernel: checks and counters. The interpreter is compiled for each observer, so that one
//! that does nothing costs nothing.

use super::code::{Inst, Window};
use crate::{check::Sanitizer, count::Counter, fault::FaultKind};

/// What a memory access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessKind {
    /// A load.
    Load,
    /// A store.
    Store,
    /// An atomic with or without result.
    Atomic,
    /// `cp.async` reads global memory.
    AsyncRead,
    /// `cp.async` will write shared memory.
    AsyncWrite,
}

/// One access by the lanes of a warp.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// Global, shared or local; generic ones are resolved.
    pub window: Window,
    /// What it does.
    pub kind: AccessKind,
    /// Addresses within the window, by lane.
    pub addrs: &'a [u64; 32],
    /// The lanes that take part.
    pub mask: u32,
    /// Bytes of each lane.
    pub bytes: u32,
    /// Ordered against other threads: volatile, atomic and the like.
    pub strong: bool,
    /// The instruction.
    pub pc: u32,
    /// The warp within its block.
    pub warp: u32,
}

/// A defect that an observer found in an access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its kind.
    pub kind: FaultKind,
    /// The lane.
    pub lane: u32,
    /// What is wrong.
    pub message: String,
    /// The address, if it is one of global memory.
    pub addr: Option<u64>,
    /// The instruction that it collides with.
    pub other: Option<u32>,
}

/// Watches one block at a time.
pub trait Observer {
    /// Whether [`Observer::access`] wants to be called: else addresses are not even gathered.
    const ACCESSES: bool;
    /// A block begins.
    fn begin(&mut self, block: u64, shared: u32, warps: u32);
    /// A warp instruction runs on these lanes.
    fn instruction(&mut self, warp: u32, pc: u32, inst: &Inst, mask: u32);
    /// A memory access is about to happen.
    ///
    /// # Errors
    /// What is wrong with it.
    fn access(&mut self, event: &Event<'_>) -> Result<(), Finding>;
    /// Whether an aligned barrier waits for all lanes of a warp that have not exited, as its definition asks for; else
    /// each lane counts for itself.
    fn whole_warps(&self) -> bool;
    /// Lanes of a warp arrived at a barrier of the block, one of 16.
    fn arrive(&mut self, warp: u32, barrier: u32);
    /// A barrier of the block is complete.
    fn released(&mut self, barrier: u32);
    /// Copies of `cp.async` are complete: their shared addresses and bytes, by lane.
    fn copied(&mut self, warp: u32, addrs: &[u64; 32], mask: u32, bytes: u32);
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nothing;

impl Observer for Nothing {
    const ACCESSES: bool = false;
    #[inline(always)]
    fn begin(&mut self, _: u64, _: u32, _: u32) {}
    #[inline(always)]
    fn instruction(&mut self, _: u32, _: u32, _: &Inst, _: u32) {}
    #[inline(always)]
    fn access(&mut self, _: &Event<'_>) -> Result<(), Finding> {
        Ok(())
    }
    #[inline(always)]
    fn whole_warps(&self) -> bool {
        false
    }
    #[inline(always)]
    fn arrive(&mut self, _: u32, _: u32) {}
    #[inline(always)]
    fn released(&mut self, _: u32) {}
    #[inline(always)]
    fn copied(&mut self, _: u32, _: &[u64; 32], _: u32, _: u32) {}
}

/// Checks and counts.
pub struct Watch<'a> {
    /// The checks, if any is on.
    pub check: Option<Sanitizer<'a>>,
    /// The counters, if they are wanted.
    pub count: Option<Counter>,
}

impl Observer for Watch<'_> {
    const ACCESSES: bool = true;

    fn begin(&mut self, block: u64, shared: u32, warps: u32) {
        if let Some(check) = &mut self.check {
            check.begin(block, shared, warps);
        }
    }

    fn instruction(&mut self, warp: u32, pc: u32, inst: &Inst, mask: u32) {
        if let Some(check) = &mut self.check {
            check.instruction(warp, pc, inst, mask);
        }
        if let Some(count) = &mut self.count {
            count.instruction(pc, inst, mask);
        }
    }

    fn access(&mut self, event: &Event<'_>) -> Result<(), Finding> {
        if let Some(count) = &mut self.count {
            count.access(event);
        }
        self.check.as_mut().map_or(Ok(()), |check| check.access(event))
    }

    fn whole_warps(&self) -> bool {
        self.check.as_ref().is_some_and(Observer::whole_warps)
    }

    fn arrive(&mut self, warp: u32, barrier: u32) {
        if let Some(check) = &mut self.check {
            check.arrive(warp, barrier);
        }
    }

    fn released(&mut self, barrier: u32) {
        if let Some(check) = &mut self.check {
            check.released(barrier);
        }
    }

    fn copied(&mut self, warp: u32, addrs: &[u64; 32], mask: u32, bytes: u32) {
        if let Some(check) = &mut self.check {
            check.copied(warp, addrs, mask, bytes);
        }
    }
}
