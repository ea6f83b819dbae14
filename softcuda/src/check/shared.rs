//! Shadow of a block's shared memory.

use super::{Bits, Touch, UNWRITTEN};
use crate::{
    exec::{Checks, code::Window, observe::Finding},
    fault::FaultKind,
};

const WARPS: usize = 32;
const NOBODY: u8 = 255;
/// Several warps have read; `r_clock` is an index into the pool.
const MANY: u8 = 254;

/// Who last wrote a byte, and who has read it since. A warp's time is its `clock`, which barriers of the block advance,
/// and within it its `sub`, which `bar.warp.sync` advances.
#[derive(Debug, Clone, Copy)]
struct Cell {
    w_pc: u32,
    w_clock: u32,
    w_sub: u32,
    r_pc: u32,
    r_clock: u32,
    r_sub: u32,
    /// The lanes of the one warp that has read.
    r_lanes: u32,
    w_warp: u8,
    w_lane: u8,
    r_warp: u8,
    w_strong: bool,
}

const FRESH: Cell = Cell {
    w_pc: 0,
    w_clock: 0,
    w_sub: 0,
    r_pc: 0,
    r_clock: 0,
    r_sub: 0,
    r_lanes: 0,
    w_warp: NOBODY,
    w_lane: 0,
    r_warp: NOBODY,
    w_strong: false,
};

#[derive(Debug)]
pub struct SharedShadow {
    written: Bits,
    /// A `cp.async` into the byte is under way.
    pending: Bits,
    cells: Vec<Cell>,
    /// When each warp last read a byte that several have read; 0 is never.
    reads: Vec<[u32; WARPS]>,
    free: Vec<u32>,
    /// `seen[w][v]`: the latest time of warp `v` that warp `w` knows of; `seen[w][w]` is its own, from 1.
    seen: [[u32; WARPS]; WARPS],
    sub: [u32; WARPS],
    /// By barrier: the warps that have arrived.
    arrived: [u32; 16],
}

impl Default for SharedShadow {
    fn default() -> Self {
        Self {
            written: Bits::default(),
            pending: Bits::default(),
            cells: Vec::new(),
            reads: Vec::new(),
            free: Vec::new(),
            seen: [[0; WARPS]; WARPS],
            sub: [0; WARPS],
            arrived: [0; 16],
        }
    }
}

impl SharedShadow {
    pub fn begin(&mut self, bytes: u32) {
        self.written.clear(bytes.into());
        self.pending.clear(bytes.into());
        self.cells.clear();
        self.cells.resize(bytes as usize, FRESH);
        self.reads.clear();
        self.free.clear();
        self.seen = [[0; WARPS]; WARPS];
        (0..WARPS).for_each(|w| self.seen[w][w] = 1);
        self.sub = [0; WARPS];
        self.arrived = [0; 16];
    }

    pub fn warp_barrier(&mut self, warp: u32) {
        self.sub[warp as usize] += 1;
    }

    pub fn arrive(&mut self, warp: u32, barrier: u32) {
        self.arrived[barrier as usize % 16] |= 1 << warp;
    }

    /// All who arrived know what all of them have done.
    pub fn released(&mut self, barrier: u32) {
        let warps = std::mem::take(&mut self.arrived[barrier as usize % 16]);
        let members = || (0..WARPS).filter(move |w| warps >> w & 1 != 0);
        let mut all = [0; WARPS];
        for w in members() {
            all.iter_mut().zip(self.seen[w]).for_each(|(a, t)| *a = (*a).max(t));
        }
        for w in members() {
            self.seen[w] = all;
            self.seen[w][w] += 1;
            self.sub[w] += 1;
        }
    }

    pub fn copied(&mut self, addr: u64, bytes: u64) {
        self.pending.set(addr, bytes, false);
    }

    pub fn touch(&mut self, touch: &Touch, asynchronous: bool, checks: Checks) -> Result<(), Finding> {
        let Touch { addr, bytes, .. } = *touch;
        if checks.sync && self.pending.any(addr, bytes) {
            let what = "that a cp.async is still writing";
            return Err(touch.finding(FaultKind::Sync, Window::Shared, what, None));
        }
        if asynchronous {
            self.pending.set(addr, bytes, true);
        }
        if checks.init && touch.reads && !self.written.all(addr, bytes) {
            return Err(touch.finding(FaultKind::Uninitialised, Window::Shared, UNWRITTEN, None));
        }
        if touch.writes {
            self.written.set(addr, bytes, true);
        }
        if checks.race {
            for at in addr..addr + bytes {
                self.race(touch, at as usize)?;
            }
        }
        Ok(())
    }

    fn race(&mut self, touch: &Touch, at: usize) -> Result<(), Finding> {
        let Touch { warp, lane, pc, .. } = *touch;
        let w = warp as usize;
        let (now, sub) = (self.seen[w][w], self.sub[w]);
        let cell = self.cells[at];
        let found = |verb: &str, who: String, other: u32| {
            let what = format!("races with a {verb} by {who}");
            Err(touch.finding(FaultKind::Race, Window::Shared, &what, Some(other)))
        };
        // With the last write.
        if cell.w_warp != NOBODY && !(touch.strong && cell.w_strong) {
            let v = usize::from(cell.w_warp);
            let unordered = if v == w {
                u32::from(cell.w_lane) != lane && cell.w_pc != pc && (cell.w_clock, cell.w_sub) == (now, sub)
            } else {
                cell.w_clock > self.seen[w][v]
            };
            if unordered {
                return found("store", format!("lane {} of warp {v}", cell.w_lane), cell.w_pc);
            }
        }
        if !touch.writes {
            self.note_read(touch, at, now, sub);
            return Ok(());
        }
        // With the reads since then. An atomic reads and writes at once, so atomics are kept as writes alone.
        match cell.r_warp {
            NOBODY => {}
            MANY => {
                let times = self.reads[cell.r_clock as usize];
                let late = (0..WARPS).find(|&v| v != w && times[v] > self.seen[w][v]);
                if let Some(v) = late {
                    return found("load", format!("warp {v}"), cell.r_pc);
                }
                self.free.push(cell.r_clock);
            }
            v => {
                let unordered = if usize::from(v) == w {
                    cell.r_lanes & !(1 << lane) != 0
                        && cell.r_pc != pc
                        && (cell.r_clock, cell.r_sub) == (now, sub)
                } else {
                    cell.r_clock > self.seen[w][usize::from(v)]
                };
                if unordered {
                    return found("load", format!("warp {v}"), cell.r_pc);
                }
            }
        }
        self.cells[at] = Cell {
            w_pc: pc,
            w_clock: now,
            w_sub: sub,
            w_warp: w as u8,
            w_lane: lane as u8,
            w_strong: touch.strong,
            ..FRESH
        };
        Ok(())
    }

    fn note_read(&mut self, touch: &Touch, at: usize, now: u32, sub: u32) {
        let w = touch.warp as usize;
        let cell = &mut self.cells[at];
        let bit = 1 << touch.lane;
        cell.r_pc = touch.pc;
        match cell.r_warp {
            MANY => self.reads[cell.r_clock as usize][w] = now,
            NOBODY => (cell.r_warp, cell.r_clock, cell.r_sub, cell.r_lanes) = (w as u8, now, sub, bit),
            v if usize::from(v) == w => {
                let same = (cell.r_clock, cell.r_sub) == (now, sub);
                cell.r_lanes = if same { cell.r_lanes | bit } else { bit };
                (cell.r_clock, cell.r_sub) = (now, sub);
            }
            v => {
                let mut times = [0; WARPS];
                (times[usize::from(v)], times[w]) = (cell.r_clock, now);
                let slot = self.free.pop().unwrap_or(self.reads.len() as u32);
                match self.reads.get_mut(slot as usize) {
                    Some(old) => *old = times,
                    None => self.reads.push(times),
                }
                (cell.r_warp, cell.r_clock) = (MANY, slot);
            }
        }
    }
}
