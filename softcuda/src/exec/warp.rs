//! A warp: which of its lanes run, where, and for whom the others wait.
//!
//! Every lane has its own program counter. The lanes at the lowest one run; where it reaches that of other lanes they
//! join (min-PC scheduling), so divergence and reconvergence need no knowledge of the control flow. As long as all lanes
//! are together there is one comparison per instruction to pay for this.

use super::{async_copy::Pending, code::LANES};

/// No program counter.
const NONE: u32 = u32::MAX;

/// A warp.
#[derive(Debug)]
pub struct Warp {
    /// Its number in the block.
    pub id: u32,
    /// Lanes that exist: the last warp of a block may have fewer than 32.
    pub exists: u32,
    /// Lanes that have not exited.
    pub live: u32,
    /// Lanes that wait at a barrier of the block.
    pub barred: u32,
    /// The number of that barrier.
    pub barrier: [u8; LANES],
    /// Instructions run so far.
    pub clock: u64,
    /// `threadIdx` of each lane.
    pub tid: [[u32; LANES]; 3],
    /// Program counter of the lanes that run.
    pub pc: u32,
    /// Lanes that run.
    pub active: u32,
    /// The lowest program counter of `ready`.
    pub next: u32,
    /// Lanes that could run.
    pub ready: u32,
    /// Lanes that wait for others of the warp.
    pub waiting: u32,
    /// Program counters of the lanes that do not run.
    pub lane_pc: [u32; LANES],
    /// For whom a waiting lane waits.
    pub members: [u32; LANES],
    /// The lanes that run are not those with the lowest program counter.
    pub fair: bool,
    pub copies: Vec<Pending>,
    pub committed: [u32; LANES],
}

/// Lanes of a mask, from the lowest.
pub fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (lane < LANES).then_some(lane)
    })
}

impl Warp {
    pub fn new(id: u32, exists: u32) -> Self {
        Self {
            id,
            exists,
            live: exists,
            barred: 0,
            barrier: [0; LANES],
            clock: 0,
            tid: [[0; LANES]; 3],
            pc: 0,
            active: exists,
            next: NONE,
            ready: 0,
            waiting: 0,
            lane_pc: [0; LANES],
            members: [0; LANES],
            fair: false,
            copies: Vec::new(),
            committed: [0; LANES],
        }
    }

    /// Back to the start of a kernel.
    pub fn reset(&mut self) {
        (self.live, self.active) = (self.exists, self.exists);
        (self.barred, self.ready, self.waiting, self.pc, self.next) = (0, 0, 0, 0, NONE);
        (self.fair, self.clock) = (false, 0);
        self.copies.clear();
        self.committed = [0; LANES];
    }

    /// Whether some lane can go on.
    pub fn can_run(&self) -> bool {
        self.active | self.ready != 0
    }

    pub fn park(&mut self, mask: u32, pc: u32) {
        for lane in lanes(mask) {
            self.lane_pc[lane] = pc;
        }
    }

    /// Makes lanes that waited ready to run at their program counters.
    pub fn wake(&mut self, mask: u32) {
        self.ready |= mask;
        for lane in lanes(mask) {
            self.next = self.next.min(self.lane_pc[lane]);
        }
    }

    pub fn lowest_ready(&self) -> u32 {
        lanes(self.ready).map(|lane| self.lane_pc[lane]).min().unwrap_or(NONE)
    }

    /// Runs the lanes at `pc`.
    fn take(&mut self, pc: u32) {
        for lane in lanes(self.ready) {
            if self.lane_pc[lane] == pc {
                self.active |= 1 << lane;
            }
        }
        self.ready &= !self.active;
        self.pc = pc;
    }

    /// Picks the lanes with the lowest program counter; false if none can run.
    pub fn regroup(&mut self) -> bool {
        self.park(self.active, self.pc);
        self.ready |= self.active;
        (self.active, self.fair) = (0, false);
        let lowest = self.lowest_ready();
        if lowest == NONE {
            self.next = NONE;
            return false;
        }
        self.take(lowest);
        self.next = self.lowest_ready();
        true
    }

    /// Lets lanes run that are not at the lowest program counter: they may hold what those wait for.
    pub fn be_fair(&mut self) {
        let here = self.pc;
        self.park(self.active, self.pc);
        self.ready |= self.active;
        self.active = 0;
        let later = lanes(self.ready).map(|lane| self.lane_pc[lane]).filter(|&pc| pc > here).min();
        self.take(later.unwrap_or_else(|| self.lowest_ready()));
        (self.next, self.fair) = (NONE, true);
    }
}
