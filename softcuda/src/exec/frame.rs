//! The registers of a warp, and lane-by-lane functions over them.

use super::code::{CONST, Code, FULL, LANES, Row};

/// Registers, constants and predicates of one warp.
///
/// Row and predicate numbers come from the lowering, which keeps them below [`Code::rows`] and [`Code::preds`].
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    regs: *mut u8,
    consts: *const u8,
    preds: *mut u32,
}

/// A type that registers hold. `Slot` is what a lane takes in its row: u32, or u64 in two rows.
pub trait Lane: Copy {
    /// u32 or u64.
    type Slot: Copy + Default;
    /// From the bits of a slot.
    fn get(slot: Self::Slot) -> Self;
    /// To the bits of a slot.
    fn put(self) -> Self::Slot;
}

impl Lane for u32 {
    type Slot = u32;
    #[inline(always)]
    fn get(slot: u32) -> Self {
        slot
    }
    #[inline(always)]
    fn put(self) -> u32 {
        self
    }
}
impl Lane for i32 {
    type Slot = u32;
    #[inline(always)]
    fn get(slot: u32) -> Self {
        slot as i32
    }
    #[inline(always)]
    fn put(self) -> u32 {
        self as u32
    }
}
impl Lane for u16 {
    type Slot = u32;
    #[inline(always)]
    fn get(slot: u32) -> Self {
        slot as u16
    }
    #[inline(always)]
    fn put(self) -> u32 {
        u32::from(self)
    }
}
impl Lane for i16 {
    type Slot = u32;
    #[inline(always)]
    fn get(slot: u32) -> Self {
        slot as i16
    }
    #[inline(always)]
    fn put(self) -> u32 {
        u32::from(self as u16)
    }
}
impl Lane for f32 {
    type Slot = u32;
    #[inline(always)]
    fn get(slot: u32) -> Self {
        f32::from_bits(slot)
    }
    #[inline(always)]
    fn put(self) -> u32 {
        self.to_bits()
    }
}
impl Lane for u64 {
    type Slot = u64;
    #[inline(always)]
    fn get(slot: u64) -> Self {
        slot
    }
    #[inline(always)]
    fn put(self) -> u64 {
        self
    }
}
impl Lane for i64 {
    type Slot = u64;
    #[inline(always)]
    fn get(slot: u64) -> Self {
        slot as i64
    }
    #[inline(always)]
    fn put(self) -> u64 {
        self as u64
    }
}
impl Lane for f64 {
    type Slot = u64;
    #[inline(always)]
    fn get(slot: u64) -> Self {
        f64::from_bits(slot)
    }
    #[inline(always)]
    fn put(self) -> u64 {
        self.to_bits()
    }
}

impl Frame {
    /// The frame of a warp.
    ///
    /// # Safety
    /// `regs` has [`Code::rows`] rows and `preds` [`Code::preds`] elements. Both stay valid, and nothing else touches
    /// them, while the frame is used with instructions of `code`, which must live as long.
    pub unsafe fn new(code: &Code, regs: *mut Row, preds: *mut u32) -> Self {
        Self { regs: regs.cast(), consts: code.consts.as_ptr().cast(), preds }
    }

    #[inline(always)]
    fn row(&self, at: u32) -> *mut u8 {
        let base = if at & CONST != 0 { self.consts.cast_mut() } else { self.regs };
        // SAFETY: the lowering keeps row numbers within the constants or the registers.
        unsafe { base.add((at & !CONST) as usize * size_of::<Row>()) }
    }

    /// All lanes of a row.
    #[inline(always)]
    pub fn load<T: Lane>(&self, at: u32) -> [T::Slot; LANES] {
        // SAFETY: a row holds 32 slots of u32, two rows 32 of u64; rows are aligned to 128 bytes.
        unsafe { *self.row(at).cast::<[T::Slot; LANES]>() }
    }

    /// Writes the lanes of a mask.
    #[inline(always)]
    pub fn store<T: Lane>(&self, at: u32, mask: u32, values: [T::Slot; LANES]) {
        debug_assert_eq!(at & CONST, 0);
        let to = self.row(at).cast::<[T::Slot; LANES]>();
        // SAFETY: as for `load`; results are never constants.
        unsafe {
            if mask == FULL {
                *to = values;
            } else {
                let mut all = *to;
                for i in 0..LANES {
                    all[i] = if mask >> i & 1 != 0 { values[i] } else { all[i] };
                }
                *to = all;
            }
        }
    }

    /// A pointer to lane 0 of a row, for loops over single lanes.
    #[inline(always)]
    pub fn lanes<S>(&self, at: u32) -> *mut S {
        self.row(at).cast()
    }

    /// A predicate, a bit for each lane.
    #[inline(always)]
    pub fn pred(&self, at: u32) -> u32 {
        // SAFETY: the lowering keeps predicate numbers in range.
        unsafe { *self.preds.add(at as usize) }
    }

    /// Writes the lanes of a mask.
    #[inline(always)]
    pub fn set_pred(&self, at: u32, mask: u32, value: u32) {
        // SAFETY: as for `pred`.
        unsafe {
            let p = self.preds.add(at as usize);
            *p = *p & !mask | value & mask;
        }
    }

    /// `d = f(a)` in the lanes of a mask.
    #[inline(always)]
    pub fn map1<A: Lane, D: Lane>(&self, d: u32, a: u32, mask: u32, f: impl Fn(A) -> D) {
        let a = self.load::<A>(a);
        let mut out = [D::Slot::default(); LANES];
        for i in 0..LANES {
            out[i] = f(A::get(a[i])).put();
        }
        self.store::<D>(d, mask, out);
    }

    /// `d = f(a, b)`.
    #[inline(always)]
    pub fn map2<A: Lane, B: Lane, D: Lane>(
        &self,
        d: u32,
        [a, b]: [u32; 2],
        mask: u32,
        f: impl Fn(A, B) -> D,
    ) {
        let (a, b) = (self.load::<A>(a), self.load::<B>(b));
        let mut out = [D::Slot::default(); LANES];
        for i in 0..LANES {
            out[i] = f(A::get(a[i]), B::get(b[i])).put();
        }
        self.store::<D>(d, mask, out);
    }

    /// `d = f(a, b, c)`.
    #[inline(always)]
    pub fn map3<A: Lane, B: Lane, C: Lane, D: Lane>(
        &self,
        d: u32,
        [a, b, c]: [u32; 3],
        mask: u32,
        f: impl Fn(A, B, C) -> D,
    ) {
        let (a, b, c) = (self.load::<A>(a), self.load::<B>(b), self.load::<C>(c));
        let mut out = [D::Slot::default(); LANES];
        for i in 0..LANES {
            out[i] = f(A::get(a[i]), B::get(b[i]), C::get(c[i])).put();
        }
        self.store::<D>(d, mask, out);
    }

    /// A bit for each lane where `f(a, b)`.
    #[inline(always)]
    pub fn test<A: Lane, B: Lane>(&self, [a, b]: [u32; 2], f: impl Fn(A, B) -> bool) -> u32 {
        let (a, b) = (self.load::<A>(a), self.load::<B>(b));
        let mut bits = 0;
        for i in 0..LANES {
            bits |= u32::from(f(A::get(a[i]), B::get(b[i]))) << i;
        }
        bits
    }
}
