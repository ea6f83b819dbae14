//! Special registers.

use super::{
    code::{Extra, Inst, LANES, Special},
    frame::Frame,
    machine::Machine,
    observe::Observer,
    warp::Warp,
};

impl<O: Observer> Machine<'_, O> {
    pub(super) fn special(&self, w: &Warp, inst: &Inst, frame: &Frame, mask: u32) {
        let lane = |f: fn(u32) -> u32| {
            let mut out = [0; LANES];
            for (i, x) in out.iter_mut().enumerate() {
                *x = f(i as u32);
            }
            out
        };
        let uniform = |x: u32| [x; LANES];
        let block = || {
            let [gx, gy, _] = self.grid;
            let [x, y, z] = self.block;
            u64::from(x) + u64::from(gx) * (u64::from(y) + u64::from(gy) * u64::from(z))
        };
        // Multiprocessors of an A100; blocks are dealt to them in turn.
        const SMS: u32 = 108;
        let Extra::Special(special) = self.code.extras[inst.imm as usize] else { return };
        let row = match special {
            Special::TidX => w.tid[0],
            Special::TidY => w.tid[1],
            Special::TidZ => w.tid[2],
            Special::NtidX => uniform(self.block_dim[0]),
            Special::NtidY => uniform(self.block_dim[1]),
            Special::NtidZ => uniform(self.block_dim[2]),
            Special::CtaidX => uniform(self.block[0]),
            Special::CtaidY => uniform(self.block[1]),
            Special::CtaidZ => uniform(self.block[2]),
            Special::NctaidX => uniform(self.grid[0]),
            Special::NctaidY => uniform(self.grid[1]),
            Special::NctaidZ => uniform(self.grid[2]),
            Special::Laneid => lane(|i| i),
            Special::Warpid => uniform(w.id),
            Special::Nwarpid => uniform(self.block_dim.iter().product::<u32>().div_ceil(32)),
            Special::LanemaskEq => lane(|i| 1 << i),
            Special::LanemaskLt => lane(|i| (1 << i) - 1),
            Special::LanemaskLe => lane(|i| u32::MAX >> (31 - i)),
            Special::LanemaskGe => lane(|i| u32::MAX << i),
            Special::LanemaskGt => lane(|i| u32::MAX.checked_shl(i + 1).unwrap_or(0)),
            Special::Smid => uniform((block() % u64::from(SMS)) as u32),
            Special::Nsmid => uniform(SMS),
            Special::Gridid | Special::Zero => uniform(0),
            Special::One => uniform(1),
            // Time is counted in instructions of the warp.
            Special::Clock | Special::GlobaltimerLo => uniform(w.clock as u32),
            Special::ClockHi | Special::GlobaltimerHi => uniform((w.clock >> 32) as u32),
            Special::Clock64 | Special::Globaltimer => {
                return frame.store::<u64>(inst.d, mask, [w.clock; LANES]);
            }
            Special::DynamicSmemSize => uniform(self.dynamic_shared),
            Special::TotalSmemSize => uniform(self.space.shared_bytes as u32),
        };
        frame.store::<u32>(inst.d, mask, row);
    }
}
