//! What a SIMD level offers to the tiles: a vector of f32 sums, and operands to feed it from each dtype.
//!
//! Every method is `#[inline(always)]`, so that it ends up inside the one function per level that has the
//! level's instructions enabled ([`Level::enter`]). The tiles are written once, above this.

use super::super::simd::Float;

/// Work to do with the instructions of a level enabled. `run` is `#[inline(always)]`.
pub(super) trait Work {
    /// # Safety
    /// The CPU has the instructions of the level that was entered; the pointers inside cover what is used.
    unsafe fn run(self);
}

/// A set of vector instructions. Its unsafe functions ask that the CPU has them.
pub(super) trait Level: Sized + 'static {
    /// Rows of x in a tile of packed weights, at most 6: as many as the registers hold.
    const COLS: usize;
    /// The same for weights read where they lie, whose unpacking needs registers too.
    const RAW_COLS: usize;
    /// A vector of f32 sums.
    type Sums: Copy;

    /// Runs `work` in a function that has the level's instructions enabled.
    ///
    /// # Safety
    /// The CPU has them; and as [`Work::run`] asks.
    unsafe fn enter(work: impl Work);

    /// # Safety
    /// The CPU has the level's instructions.
    unsafe fn zero() -> Self::Sums;

    /// The sum over the lanes of each of four vectors, by one fixed tree.
    ///
    /// # Safety
    /// The CPU has the level's instructions.
    unsafe fn reduce(sums: [Self::Sums; 4]) -> [f32; 4];
}

/// A vector that is multiplied at level `L`: `WIDTH` elements, stored packed as `Packed`.
pub(super) trait Operand<L: Level>: Copy {
    /// A packed element.
    type Packed: Copy;
    /// Elements in the vector.
    const WIDTH: usize = size_of::<Self>() / size_of::<Self::Packed>();

    /// `sums + a * b`, lane by lane.
    ///
    /// # Safety
    /// The CPU has the level's instructions.
    unsafe fn dot(sums: L::Sums, a: Self, b: Self) -> L::Sums;
}

/// How elements of `T` become operands: a *step* along k is `VECS` of them.
pub(super) trait Dot<T>: Level {
    /// The operand.
    type Operand: Operand<Self>;
    /// Operands of a step.
    const VECS: usize;
    /// Elements of a step.
    const STEP: usize = Self::VECS * Self::Operand::WIDTH;

    /// Operand `i` of the step at `p`.
    ///
    /// # Safety
    /// `p` covers `STEP` elements; the CPU has the level's instructions.
    unsafe fn unpack(p: *const T, i: usize) -> Self::Operand;
}

/// The packed element of `T` at level `L`.
pub(super) type Packed<L, T> = <<L as Dot<T>>::Operand as Operand<L>>::Packed;

/// What every CPU has: arrays that the compiler keeps in the vectors of the target's baseline.
pub(super) struct Portable;

impl Level for Portable {
    const COLS: usize = 2;
    const RAW_COLS: usize = 2;
    type Sums = [f32; 4];

    #[inline(always)]
    unsafe fn enter(work: impl Work) {
        // SAFETY: nothing beyond the baseline is used; the rest is the caller's promise.
        unsafe { work.run() }
    }

    #[inline(always)]
    unsafe fn zero() -> [f32; 4] {
        [0.0; 4]
    }

    #[inline(always)]
    unsafe fn reduce(sums: [[f32; 4]; 4]) -> [f32; 4] {
        sums.map(|v| (v[0] + v[2]) + (v[1] + v[3]))
    }
}

impl Operand<Portable> for [f32; 4] {
    type Packed = f32;

    #[inline(always)]
    unsafe fn dot(mut sums: [f32; 4], a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        // Not `mul_add`: where the baseline lacks the instruction it is a library call.
        for ((s, a), b) in sums.iter_mut().zip(a).zip(b) {
            *s += a * b;
        }
        sums
    }
}

impl<T: Float> Dot<T> for Portable {
    type Operand = [f32; 4];
    const VECS: usize = 1;

    #[inline(always)]
    unsafe fn unpack(p: *const T, _: usize) -> [f32; 4] {
        // SAFETY: `p` covers four elements.
        unsafe { p.cast::<[T; 4]>().read() }.map(T::to_f32)
    }
}
