//! What a SIMD level offers to the tiles: a vector of f32, and how elements of each dtype become its operands.
//!
//! Every method is `#[inline(always)]`, so that it ends up inside the one function per level that has the
//! level's instructions enabled ([`Level::enter`]). The tiles are written once, above this.

use half::{bf16, f16};

use super::super::simd::Float;

/// A vector register seen as [`Self::GROUP`] blocks of 16 bytes. The unsafe functions ask that the CPU has the
/// instructions of its level; pointers need no alignment.
pub(in super::super) trait Vector: Copy {
    /// Blocks of 16 bytes: one row of weights each.
    const GROUP: usize = size_of::<Self>() / BLOCK;

    /// # Safety
    /// See the trait.
    unsafe fn zero() -> Self;

    /// # Safety
    /// See the trait.
    unsafe fn add(a: Self, b: Self) -> Self;

    /// `sum + a * b` of f32 lanes.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn fma(sum: Self, a: Self, b: Self) -> Self;

    /// # Safety
    /// See the trait; `from` covers a vector.
    unsafe fn load(from: *const u8) -> Self;

    /// # Safety
    /// See the trait; `to` covers a vector.
    unsafe fn store(self, to: *mut u8);

    /// The block at `from` in every block.
    ///
    /// # Safety
    /// See the trait; `from` covers a block.
    unsafe fn repeat(from: *const u8) -> Self;

    /// In every block, `[a0, b0, a1, b1]` and `[a2, b2, a3, b3]`.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn interleave(a: Self, b: Self) -> [Self; 2];

    /// In every block, `[a0, a1, b0, b1]` and `[a2, a3, b2, b3]`.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn halves(a: Self, b: Self) -> [Self; 2];

    /// Of vectors `row(0)`, `row(1)`, … gives `take` their blocks 0, then their blocks 1, ….
    ///
    /// # Safety
    /// See the trait.
    unsafe fn transpose(row: impl Fn(usize) -> Self, take: impl FnMut(usize, Self));
}

/// Bytes of a row that meet in one operand.
pub(in super::super) const BLOCK: usize = 16;

/// Work to do with the instructions of a level enabled. `run` is `#[inline(always)]`.
pub(in super::super) trait Work {
    /// # Safety
    /// The CPU has the instructions of the level that was entered; the pointers inside cover what is used.
    unsafe fn run(self);
}

/// A set of vector instructions. Its unsafe functions ask that the CPU has them.
pub(in super::super) trait Level: Sized + 'static {
    /// Its registers.
    type V: Vector;
    /// Rows of x in a tile, at most 6: four vectors of sums for each fill the registers.
    const COLS: usize;

    /// Runs `work` in a function that has the level's instructions enabled.
    ///
    /// # Safety
    /// The CPU has them; and as [`Work::run`] asks.
    unsafe fn enter(work: impl Work);
}

/// A level that multiplies every dtype as f32.
pub(in super::super) trait Fused: Level<V: Convert> {}

/// How bits of other dtypes become f32 vectors. Unsafe as [`Vector`] is.
pub(in super::super) trait Convert: Vector {
    /// # Safety
    /// See the trait; `from` covers an f16 for each lane.
    unsafe fn load_f16(from: *const f16) -> Self;

    /// Of loaded bf16, the even elements.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn even(self) -> Self;

    /// Of loaded bf16, the odd elements.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn odd(self) -> Self;
}

/// How elements of `T` are multiplied at a level. A *step* along k is what one vector of a row is loaded from.
pub(in super::super) trait Dot<T>: Level {
    /// A packed element: an operand's block holds `16 / size_of::<Packed>()` of a row.
    type Packed: Copy;
    /// Operands that a loaded vector is split into.
    const PARTS: usize;
    /// Elements of a step.
    const STEP: usize = Self::PARTS * size_of::<Self::V>() / size_of::<Self::Packed>();

    /// A step of one row.
    ///
    /// # Safety
    /// `p` covers `STEP` elements; the CPU has the level's instructions.
    unsafe fn load(p: *const T) -> Self::V;

    /// Operand `part` of loaded blocks.
    ///
    /// # Safety
    /// The CPU has the level's instructions.
    unsafe fn part(loaded: Self::V, part: usize) -> Self::V;

    /// `sums + a * b`, the products of a lane's elements summed.
    ///
    /// # Safety
    /// The CPU has the level's instructions.
    unsafe fn dot(sums: Self::V, a: Self::V, b: Self::V) -> Self::V;
}

impl<L: Fused> Dot<f32> for L {
    type Packed = f32;
    const PARTS: usize = 1;

    #[inline(always)]
    unsafe fn load(p: *const f32) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { L::V::load(p.cast()) }
    }

    #[inline(always)]
    unsafe fn part(loaded: L::V, _: usize) -> L::V {
        loaded
    }

    #[inline(always)]
    unsafe fn dot(sums: L::V, a: L::V, b: L::V) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { L::V::fma(sums, a, b) }
    }
}

impl<L: Fused> Dot<f16> for L {
    type Packed = f32;
    const PARTS: usize = 1;

    #[inline(always)]
    unsafe fn load(p: *const f16) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { L::V::load_f16(p) }
    }

    #[inline(always)]
    unsafe fn part(loaded: L::V, _: usize) -> L::V {
        loaded
    }

    #[inline(always)]
    unsafe fn dot(sums: L::V, a: L::V, b: L::V) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { L::V::fma(sums, a, b) }
    }
}

impl<L: Fused> Dot<bf16> for L {
    type Packed = f32;
    const PARTS: usize = 2;

    #[inline(always)]
    unsafe fn load(p: *const bf16) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { L::V::load(p.cast()) }
    }

    #[inline(always)]
    unsafe fn part(loaded: L::V, part: usize) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { if part == 0 { loaded.even() } else { loaded.odd() } }
    }

    #[inline(always)]
    unsafe fn dot(sums: L::V, a: L::V, b: L::V) -> L::V {
        // SAFETY: the caller's promise.
        unsafe { L::V::fma(sums, a, b) }
    }
}

/// What every CPU has: arrays that the compiler keeps in the vectors of the target's baseline.
pub(in super::super) struct Portable;

impl Vector for [f32; 4] {
    #[inline(always)]
    unsafe fn zero() -> Self {
        [0.0; 4]
    }

    #[inline(always)]
    unsafe fn add(mut a: Self, b: Self) -> Self {
        for (a, b) in a.iter_mut().zip(b) {
            *a += b;
        }
        a
    }

    #[inline(always)]
    unsafe fn fma(mut sum: Self, a: Self, b: Self) -> Self {
        // Not `mul_add`: where the baseline lacks the instruction it is a library call.
        for ((s, a), b) in sum.iter_mut().zip(a).zip(b) {
            *s += a * b;
        }
        sum
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<Self>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<Self>().write_unaligned(self) }
    }

    #[inline(always)]
    unsafe fn repeat(from: *const u8) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self::load(from) }
    }

    #[inline(always)]
    unsafe fn interleave(a: Self, b: Self) -> [Self; 2] {
        [[a[0], b[0], a[1], b[1]], [a[2], b[2], a[3], b[3]]]
    }

    #[inline(always)]
    unsafe fn halves(a: Self, b: Self) -> [Self; 2] {
        [[a[0], a[1], b[0], b[1]], [a[2], a[3], b[2], b[3]]]
    }

    #[inline(always)]
    unsafe fn transpose(row: impl Fn(usize) -> Self, mut take: impl FnMut(usize, Self)) {
        take(0, row(0));
    }
}

impl Level for Portable {
    type V = [f32; 4];
    const COLS: usize = 2;

    #[inline(always)]
    unsafe fn enter(work: impl Work) {
        // SAFETY: nothing beyond the baseline is used; the rest is the caller's promise.
        unsafe { work.run() }
    }
}

impl<T: Float> Dot<T> for Portable {
    type Packed = f32;
    const PARTS: usize = 1;

    #[inline(always)]
    unsafe fn load(p: *const T) -> [f32; 4] {
        // SAFETY: `p` covers four elements.
        unsafe { p.cast::<[T; 4]>().read() }.map(T::to_f32)
    }

    #[inline(always)]
    unsafe fn part(loaded: [f32; 4], _: usize) -> [f32; 4] {
        loaded
    }

    #[inline(always)]
    unsafe fn dot(sums: [f32; 4], a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        // SAFETY: nothing beyond the baseline is used.
        unsafe { Vector::fma(sums, a, b) }
    }
}
