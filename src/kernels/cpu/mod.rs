//! CPU kernels: `reference` for every operation (the oracle behind the seam), and the fast ones.

mod attention;
mod elementwise;
mod linear;
mod logits;
mod logprobs;
mod noise;
mod norm;
mod reference;
mod rope;
mod sample;
mod simd;

use std::{
    array::from_fn,
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use super::{Kernel, Op, Registry, Table};
use crate::device::{Cpu, Element, Pool, ViewMut};

impl Registry<Cpu> {
    /// Every CPU kernel of this crate; the fast ones come first.
    pub fn cpu() -> Self {
        let mut all = reference::registry();
        first(&mut all.embedding, elementwise::CopyRows);
        first(&mut all.kv_store, elementwise::CopyRows);
        first(&mut all.activation, elementwise::Simd);
        first(&mut all.attention, attention::Tiled);
        first(&mut all.rms_norm, norm::Simd);
        first(&mut all.add_rms_norm, norm::Simd);
        first(&mut all.rope, rope::Simd);
        first(&mut all.rope_store, rope::Simd);
        linear::register(&mut all.linear);
        first(&mut all.logits, logits::Sparse);
        first(&mut all.logprobs, logprobs::Heap);
        first(&mut all.sample, sample::Greedy);
        first(&mut all.sample, sample::Gumbel);
        first(&mut all.sample, sample::Histogram);
        all
    }
}

/// Makes `kernel` the default of a table.
fn first<O: Op>(table: &mut Table<O, Cpu>, kernel: impl Kernel<O, Cpu> + 'static) {
    table.insert(0, Arc::new(kernel));
}

/// Bytes of work below which another thread is not worth its launch.
const GRAIN: usize = 32 << 10;

/// Threads of this machine. Asked for once: the system reads files to answer, which takes it longer (28 µs) than many a
/// kernel.
fn machine_threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| std::thread::available_parallelism().map_or(1, Into::into))
}

/// Runs `f` over `0..rows` in parts, on more than one thread if rows of `bytes` each make it worth it.
fn split(pool: &Pool, rows: usize, bytes: usize, f: impl Fn(Range<usize>) + Sync) {
    let tasks = (rows * bytes / GRAIN).clamp(1, 4 * pool.threads()).min(rows);
    match tasks {
        0 => {}
        1 => f(0..rows),
        _ => pool.run(tasks, &|t| f(t * rows / tasks..(t + 1) * rows / tasks)),
    }
}

/// Runs `f(worker, item)` for every item, each worker one at a time, as [`Shares`] deals them out.
fn each(dev: &Cpu, workers: usize, items: usize, f: &(dyn Fn(usize, usize) + Sync)) {
    let shares = Shares::new(items, workers.min(items));
    dev.pool().run(shares.count(), &|worker| shares.from(worker).for_each(|item| f(worker, item)));
}

/// Items, cut in a share for each thread. A thread begins with its own, item after item, so that the memory system
/// and prefetches foresee what it reads; then it helps the others.
struct Shares {
    next: [Next; MAX_SHARES],
    count: usize,
    items: usize,
}

/// The next item of a share, on a cache line of its own.
#[repr(align(64))]
struct Next(AtomicUsize);

/// More threads than this do not help one launch.
const MAX_SHARES: usize = 64;

impl Shares {
    fn new(items: usize, count: usize) -> Self {
        let count = count.clamp(1, MAX_SHARES);
        Self { next: from_fn(|share| Next((share * items / count).into())), count, items }
    }

    fn count(&self) -> usize {
        self.count
    }

    /// An item that is left of `share`, and that nobody else gets.
    fn take(&self, share: usize) -> Option<usize> {
        let item = self.next[share].0.fetch_add(1, Relaxed);
        (item < (share + 1) * self.items / self.count).then_some(item)
    }

    /// The items that are left, those of `own` first.
    fn from(&self, own: usize) -> impl Iterator<Item = usize> {
        let shares = (own..self.count).chain(0..own);
        shares.flat_map(move |share| std::iter::from_fn(move || self.take(share)))
    }
}

/// The rows of a tensor that the tasks of one launch write, each row by one task.
struct RowsMut<T> {
    ptr: *mut T,
    rows: usize,
    stride: usize,
    row: usize,
}

// SAFETY: the only access is `RowsMut::row`, whose caller promises that no two tasks have the same row.
unsafe impl<T: Send> Sync for RowsMut<T> {}

impl<T> RowsMut<T> {
    /// The outermost rows of `v`.
    fn new(v: &mut ViewMut<'_, Cpu>) -> Self
    where
        T: Element,
    {
        let (rows, stride) = (v.shape()[0], v.stride());
        let row = v.elements() / rows.max(1);
        Self { ptr: v.slice_mut::<T>().as_mut_ptr(), rows, stride, row }
    }

    /// The whole rows of `row` elements in `data`.
    fn over(data: &mut [T], row: usize) -> Self {
        Self { ptr: data.as_mut_ptr(), rows: data.len() / row, stride: row, row }
    }

    /// Row `i`.
    ///
    /// # Safety
    /// The view outlives the result, and nobody else holds row `i`.
    #[expect(clippy::mut_from_ref, reason = "the caller promises that rows are not shared")]
    unsafe fn row(&self, i: usize) -> &mut [T] {
        assert!(i < self.rows);
        // SAFETY: row `i` lies inside the slice that `new` took; the caller has it alone.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(i * self.stride), self.row) }
    }
}
