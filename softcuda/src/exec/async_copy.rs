//! `cp.async`: copies that arrive in shared memory when a wait completes their group.

use super::{
    code::{Inst, LANES, Window},
    frame::Frame,
    machine::{Machine, Result},
    observe::{AccessKind, Observer},
    space,
    warp::{Warp, lanes},
};

/// A copy of `cp.async` that no wait has completed.
#[derive(Debug, Clone)]
pub struct Pending {
    mask: u32,
    to: [u64; LANES],
    data: [[u8; 16]; LANES],
    bytes: u32,
    /// The group of each lane.
    group: [u32; LANES],
}

impl<O: Observer> Machine<'_, O> {
    pub(super) fn cp_async(
        &mut self,
        w: &mut Warp,
        inst: &Inst,
        frame: &Frame,
        mask: u32,
        pc: u32,
    ) -> Result<()> {
        let bytes = u64::from(inst.mods);
        let (mut to, mut from) = (frame.load::<u64>(inst.a), frame.load::<u64>(inst.b));
        let size = frame.load::<u32>(inst.c);
        self.reach(w, Window::Shared, &mut to, mask, bytes, bytes, AccessKind::AsyncWrite, false, pc)?;
        let mut data = [[0; 16]; LANES];
        // Lanes that ask for fewer bytes read only those; the rest becomes zero.
        let whole = lanes(mask).fold(0, |m, i| m | u32::from(u64::from(size[i]) >= bytes) << i);
        if whole != 0 {
            let p = self.reach(
                w,
                Window::Global,
                &mut from,
                whole,
                bytes,
                bytes,
                AccessKind::AsyncRead,
                false,
                pc,
            )?;
            for lane in lanes(whole) {
                for word in 0..bytes as usize / 4 {
                    // SAFETY: `reach` checked the lane's bytes; they are aligned to 4.
                    let x = unsafe { space::read::<4>(p[lane] + 4 * word) };
                    data[lane][4 * word..4 * word + 4].copy_from_slice(&(x as u32).to_le_bytes());
                }
            }
        }
        for lane in lanes(mask & !whole) {
            let n = u64::from(size[lane]);
            if n == 0 {
                continue;
            }
            let p =
                self.reach(w, Window::Global, &mut from, 1 << lane, n, 1, AccessKind::AsyncRead, false, pc)?;
            for (i, byte) in data[lane][..n as usize].iter_mut().enumerate() {
                // SAFETY: as above, byte by byte.
                *byte = unsafe { space::read::<1>(p[lane] + i) } as u8;
            }
        }
        w.copies.push(Pending { mask, to, data, bytes: bytes as u32, group: w.committed });
        Ok(())
    }

    /// Completes the copies of all but the last `pending` groups.
    pub(super) fn cp_wait(&mut self, w: &mut Warp, pending: u64, mask: u32, pc: u32) -> Result<()> {
        let mut copies = std::mem::take(&mut w.copies);
        for copy in &mut copies {
            let done = lanes(copy.mask & mask).fold(0, |m, i| {
                m | u32::from(u64::from(copy.group[i]) + pending < u64::from(w.committed[i])) << i
            });
            if done == 0 {
                continue;
            }
            copy.mask &= !done;
            let bytes = u64::from(copy.bytes);
            let (p, _) = self
                .space
                .resolve(Window::Shared, &mut copy.to, done, bytes, bytes)
                .map_err(|bad| self.bad_access(bad, "cp.async", bytes, pc))?;
            for lane in lanes(done) {
                for word in 0..copy.bytes as usize / 4 {
                    let x = u32::from_le_bytes(
                        copy.data[lane][4 * word..4 * word + 4].try_into().expect("4 bytes"),
                    );
                    // SAFETY: `resolve` checked the lane's bytes.
                    unsafe { space::write::<4>(p[lane] + 4 * word, x.into()) };
                }
            }
            self.observer.copied(w.id, &copy.to, done, copy.bytes);
        }
        copies.retain(|copy| copy.mask != 0);
        w.copies = copies;
        Ok(())
    }
}
