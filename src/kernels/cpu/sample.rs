//! Sampling. Draws are the oracle's, token for token: `argmax(logit + Gumbel noise)` over the support, with noise
//! that every device computes to the same bits.
//!
//! What top-k and top-p leave is always "above a threshold": every logit above `value`, and of those equal to it
//! the indices from `first` on. So a draw needs the threshold and one pass; and the threshold needs no sort of the
//! row, but a histogram over the distance to the maximum, and a sort of the one bin that holds it.

use super::{
    super::{Kernel, Sample, SampleArgs, SampleSpec, Unsupported},
    RowsMut, each,
    logits::{largest, largest_of},
    machine_threads, noise,
    simd::{Isa, Job, Plain, dispatch, exp64, sum64},
};
use crate::{
    device::{Cpu, CpuBuffer, Simd},
    error::Result,
};

/// Every kind of row in one launch.
pub struct Histogram;
/// Rows without top-k or top-p.
pub struct Gumbel;
/// Greedy rows.
pub struct Greedy;

impl Kernel<Sample, Cpu> for Histogram {
    fn name(&self) -> &'static str {
        "histogram"
    }

    fn about(&self) -> &'static str {
        "greedy, plain and truncated rows mixed; top-k and top-p without sorting the row"
    }

    fn supports(&self, _: &SampleSpec) -> std::result::Result<(), Unsupported> {
        Ok(())
    }

    fn scratch(&self, args: &SampleArgs<'_, Cpu>) -> usize {
        machine_threads() * workspace(args.logits.shape()[1]) * size_of::<u64>()
    }

    fn launch(&self, dev: &Cpu, args: SampleArgs<'_, Cpu>, scratch: &mut CpuBuffer) -> Result<()> {
        launch(dev, args, scratch);
        Ok(())
    }
}

impl Kernel<Sample, Cpu> for Gumbel {
    fn name(&self) -> &'static str {
        "gumbel"
    }

    fn about(&self) -> &'static str {
        "one pass over the row, no scratch memory; no top-k or top-p"
    }

    fn supports(&self, spec: &SampleSpec) -> std::result::Result<(), Unsupported> {
        if spec.truncated { Err(Unsupported("top-k or top-p".into())) } else { Ok(()) }
    }

    fn launch(&self, dev: &Cpu, args: SampleArgs<'_, Cpu>, scratch: &mut CpuBuffer) -> Result<()> {
        launch(dev, args, scratch);
        Ok(())
    }
}

impl Kernel<Sample, Cpu> for Greedy {
    fn name(&self) -> &'static str {
        "greedy"
    }

    fn about(&self) -> &'static str {
        "the most likely token alone"
    }

    fn supports(&self, spec: &SampleSpec) -> std::result::Result<(), Unsupported> {
        if spec.random { Err(Unsupported("rows that are not greedy".into())) } else { Ok(()) }
    }

    fn launch(&self, dev: &Cpu, args: SampleArgs<'_, Cpu>, scratch: &mut CpuBuffer) -> Result<()> {
        launch(dev, args, scratch);
        Ok(())
    }
}

/// Bins of the histogram: 64 an octave of distance, from 2^-16 to 2^10.
const BINS: usize = 26 * 64;
/// Tokens that are looked at together.
const BLOCK: usize = noise::BLOCK;

/// u64 words that a worker needs: candidates, masses and counts.
fn workspace(vocab: usize) -> usize {
    vocab.next_multiple_of(BLOCK.max(8)) + 2 * BINS
}

fn launch(dev: &Cpu, mut args: SampleArgs<'_, Cpu>, scratch: &mut CpuBuffer) {
    let &[rows, vocab] = args.logits.shape() else { unreachable!("checked") };
    let scratch: &mut [u64] = bytemuck::cast_slice_mut({
        let bytes = scratch.bytes_mut();
        let whole = bytes.len() / 8 * 8;
        &mut bytes[..whole]
    });
    // Kernels without truncation have no scratch memory and need none.
    let fit = if args.spec.truncated { scratch.len() / workspace(vocab) } else { usize::MAX };
    let threads = if rows * vocab < 1 << 14 { 1 } else { dev.pool().threads().min(fit).max(1) };
    let work = RowsMut::over(scratch, workspace(vocab));
    let out = RowsMut::<i32>::new(&mut args.out);
    each(dev, threads, rows, &|worker, r| {
        let &[greedy, top_k, low, high, position] = args.params.row::<i32>(r) else {
            unreachable!("checked")
        };
        let tail = args.top_p_tail.slice::<f32>()[r];
        let k = if (1..vocab as i64).contains(&i64::from(top_k)) { top_k as usize } else { 0 };
        let temperature = if greedy != 0 { 1.0 } else { args.temperature.slice::<f32>()[r] };
        let logits = Row { logits: args.logits.row::<f32>(r), temperature };
        let scan = dispatch(dev.simd(), Scan(logits));
        let token = match scan {
            None => -1,
            Some(best) if greedy != 0 => best as i32,
            Some(best) => {
                let threshold = if k > 0 || tail > 0.0 {
                    // SAFETY: `each` runs one item at a time per worker.
                    let work = unsafe { work.row(worker) };
                    Truncation { simd: dev.simd(), logits, max: logits.at(best) }.threshold(k, tail, work)
                } else {
                    Threshold { value: f32::NEG_INFINITY, first: 0 }
                };
                let key = u64::from(high as u32) << 32 | u64::from(low as u32);
                let draw = Draw { logits, threshold, key, position: position as u32, likely: best };
                dispatch(dev.simd(), draw) as i32
            }
        };
        // SAFETY: a row is one item.
        let out = unsafe { out.row(r) };
        out[0] = token;
    });
}

/// A row's logits, and what divides them: every pass divides anew, which costs less than to write them and read them again.
#[derive(Clone, Copy)]
struct Row<'a> {
    logits: &'a [f32],
    temperature: f32,
}

impl Row<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.logits.len()
    }

    /// A logit after the temperature.
    #[inline(always)]
    fn at(&self, i: usize) -> f32 {
        self.logits[i] / self.temperature
    }

    /// [`BLOCK`] logits after the temperature, from `begin` on; past the end, minus infinity.
    #[inline(always)]
    fn block(&self, begin: usize) -> [f32; BLOCK] {
        let rest = &self.logits[begin..];
        let mut block = [f32::NEG_INFINITY; BLOCK];
        match rest.first_chunk() {
            Some(whole) => block = *whole,
            None => block[..rest.len()].copy_from_slice(rest),
        }
        if self.temperature != 1.0 {
            for l in &mut block {
                *l /= self.temperature;
            }
        }
        block
    }

    /// As [`Self::block`], minus infinity for logits below `kth`.
    #[inline(always)]
    fn block_from(&self, begin: usize, kth: f32) -> [f32; BLOCK] {
        let mut block = self.block(begin);
        for l in &mut block {
            *l = if *l >= kth { *l } else { f32::NEG_INFINITY };
        }
        block
    }
}

/// One of the largest logits, the first if nothing divides them; `None` if there is NaN, plus infinity, or nothing finite.
struct Scan<'a>(Row<'a>);

impl Job for Scan<'_> {
    type Out = Option<usize>;
    #[inline(always)]
    fn run<I: Isa>(self) -> Option<usize> {
        const PART: usize = 1024;
        let (mut best, mut part) = (f32::NEG_INFINITY, 0);
        let Row { logits, temperature } = self.0;
        for (i, chunk) in logits.chunks(PART).enumerate() {
            let mut usable = true;
            for &l in chunk {
                usable &= l < f32::INFINITY;
            }
            if !usable {
                return None;
            }
            let top = largest(chunk);
            if top > best {
                (best, part) = (top, i);
            }
        }
        let at = logits[(part * PART).min(logits.len())..].iter().position(|&l| l == best)?;
        // Division keeps the order: the largest stays the largest, and is infinite first.
        (best / temperature).is_finite().then_some(part * PART + at)
    }
}

/// What top-k and top-p leave: logits above `value`, and those equal to it from index `first` on.
#[derive(Clone, Copy)]
struct Threshold {
    value: f32,
    first: usize,
}

impl Threshold {
    #[inline(always)]
    fn keeps(self, i: usize, l: f32) -> bool {
        (l > self.value) | ((l == self.value) & (i >= self.first))
    }
}

/// A row to be cut, with its largest logit.
struct Truncation<'a> {
    simd: Simd,
    logits: Row<'a>,
    max: f32,
}

impl Truncation<'_> {
    /// Top-k (0: off), then top-p (tail 0: off) of what it left.
    fn threshold(&self, k: usize, tail: f32, work: &mut [u64]) -> Threshold {
        let (mass, rest) = work.split_at_mut(BINS);
        let (counts, list) = rest.split_at_mut(BINS);
        let mass: &mut [f64] = bytemuck::cast_slice_mut(mass);
        let kth = if k > 0 { self.kth(k, counts, list) } else { f32::NEG_INFINITY };
        if tail > 0.0 { self.top_p(kth, tail, mass, list) } else { Threshold { value: kth, first: 0 } }
    }

    /// The k-th largest logit.
    fn kth(&self, k: usize, counts: &mut [u64], list: &mut [u64]) -> f32 {
        counts.fill(0);
        dispatch(self.simd, Count { logits: self.logits, max: self.max, counts });
        let (mut bin, mut above) = (0, 0);
        while above + counts[bin] < k as u64 {
            above += counts[bin];
            bin += 1;
        }
        let list = self.gather(bin, list);
        let place = list.len() - (k - above as usize);
        value_of(*list.select_nth_unstable(place).1)
    }

    /// Top-p of the logits from `kth` on.
    ///
    /// The oracle rounds each probability to f32, sums them in f64 in ascending order and compares the sum,
    /// rounded to f32, with the tail. Here the bins' sums are in another order, which moves the sum by some 1e-16.
    fn top_p(&self, kth: f32, tail: f32, mass: &mut [f64], list: &mut [u64]) -> Threshold {
        mass.fill(0.0);
        let e: &mut [f64] = bytemuck::cast_slice_mut(&mut *list);
        let total = dispatch(self.simd, Total { logits: self.logits, max: self.max, kth, e });
        dispatch(self.simd, Masses { logits: self.logits, max: self.max, kth, e, total, mass });
        let mut sum = 0.0;
        for bin in (0..BINS).rev() {
            if mass[bin] == 0.0 || (sum + mass[bin]) as f32 <= tail {
                sum += mass[bin];
                continue;
            }
            let list = self.gather(bin, list);
            list.sort_unstable();
            for &token in list.iter() {
                let (value, first) = (value_of(token), token as u32 as usize);
                if value < kth {
                    continue;
                }
                sum += f64::from(probability::<Plain>(value, self.max, total));
                if sum as f32 > tail {
                    return Threshold { value, first };
                }
            }
        }
        // The last in ascending order always stays.
        let mut at = 0..self.logits.len();
        let first = at.rfind(|&i| self.logits.at(i) == self.max).expect("max is one of them");
        Threshold { value: self.max, first }
    }

    /// The tokens of a bin in index order, as sortable keys: the logit's order, then the index.
    fn gather<'l>(&self, bin: usize, list: &'l mut [u64]) -> &'l mut [u64] {
        let n = dispatch(self.simd, Gather { logits: self.logits, max: self.max, bin, list });
        &mut list[..n]
    }
}

/// The bin of a logit: by its distance to the maximum, so that larger logits have smaller bins.
#[inline(always)]
fn bin(l: f32, max: f32) -> u32 {
    const FIRST: u32 = (127 - 16) << 6;
    let steps = (max - l).to_bits() >> (23 - 6);
    steps.saturating_sub(FIRST).min(BINS as u32 - 1)
}

/// A key that sorts as (logit, index) do; minus zero counts as zero.
#[inline(always)]
fn key(l: f32, i: usize) -> u64 {
    let bits = (l + 0.0).to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(ordered) << 32 | i as u64
}

/// The logit of a [`key`].
fn value_of(key: u64) -> f32 {
    let ordered = (key >> 32) as u32;
    f32::from_bits(if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered })
}

/// `e^(l - max) / total`, rounded to f32.
#[inline(always)]
fn probability<I: Isa>(l: f32, max: f32, total: f64) -> f32 {
    share(exp64::<I>(f64::from(l) - f64::from(max)), total)
}

/// `e / total`, rounded to f32.
#[inline(always)]
fn share(e: f64, total: f64) -> f32 {
    (e * (1.0 / total)) as f32
}

/// Counts by bin.
struct Count<'a> {
    logits: Row<'a>,
    max: f32,
    counts: &'a mut [u64],
}

impl Job for Count<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        for begin in (0..self.logits.len()).step_by(BLOCK) {
            let block = self.logits.block(begin);
            let mut bins = [0; BLOCK];
            for (b, &l) in bins.iter_mut().zip(&block) {
                *b = bin(l, self.max);
            }
            for &b in &bins[..BLOCK.min(self.logits.len() - begin)] {
                self.counts[b as usize] += 1;
            }
        }
    }
}

/// Sum of `e^(l - max)` over the logits from `kth` on; each is kept.
struct Total<'a> {
    logits: Row<'a>,
    max: f32,
    kth: f32,
    /// Whole blocks; those without any such logit are not written.
    e: &'a mut [f64],
}

impl Job for Total<'_> {
    type Out = f64;
    #[inline(always)]
    fn run<I: Isa>(self) -> f64 {
        let mut sums = [0.0; 8];
        for begin in (0..self.logits.len()).step_by(BLOCK) {
            let block = self.logits.block_from(begin, self.kth);
            // Most blocks of a row that top-k cuts have nothing left.
            if largest_of(&block) == f32::NEG_INFINITY {
                continue;
            }
            let mut e = [0.0; BLOCK];
            for (e, &l) in e.iter_mut().zip(&block) {
                *e = exp64::<I>(f64::from(l) - f64::from(self.max));
            }
            self.e[begin..][..BLOCK].copy_from_slice(&e);
            for part in e.as_chunks::<8>().0 {
                for (s, e) in sums.iter_mut().zip(part) {
                    *s += e;
                }
            }
        }
        sum64(sums)
    }
}

/// Probabilities of the logits from `kth` on, by bin.
struct Masses<'a> {
    logits: Row<'a>,
    max: f32,
    kth: f32,
    /// What [`Total`] kept.
    e: &'a [f64],
    total: f64,
    mass: &'a mut [f64],
}

impl Job for Masses<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        for begin in (0..self.logits.len()).step_by(BLOCK) {
            let block = self.logits.block_from(begin, self.kth);
            if largest_of(&block) == f32::NEG_INFINITY {
                continue;
            }
            let (mut p, mut bins) = ([0.0; BLOCK], [0; BLOCK]);
            for (p, &e) in p.iter_mut().zip(&self.e[begin..][..BLOCK]) {
                *p = f64::from(share(e, self.total));
            }
            for (b, &l) in bins.iter_mut().zip(&block) {
                *b = bin(l, self.max);
            }
            for (&b, p) in bins.iter().zip(p) {
                self.mass[b as usize] += p;
            }
        }
    }
}

/// Collects the keys of a bin's tokens; returns how many.
struct Gather<'a> {
    logits: Row<'a>,
    max: f32,
    bin: usize,
    list: &'a mut [u64],
}

impl Job for Gather<'_> {
    type Out = usize;
    #[inline(always)]
    fn run<I: Isa>(self) -> usize {
        let mut n = 0;
        for begin in (0..self.logits.len()).step_by(BLOCK) {
            let block = self.logits.block(begin);
            let (mut hits, mut any) = ([false; BLOCK], false);
            for (hit, &l) in hits.iter_mut().zip(&block) {
                *hit = bin(l, self.max) == self.bin as u32;
                any |= *hit;
            }
            if any {
                for i in (0..BLOCK.min(self.logits.len() - begin)).filter(|&i| hits[i]) {
                    self.list[n] = key(block[i], begin + i);
                    n += 1;
                }
            }
        }
        n
    }
}

/// The argmax of logit + noise over what the threshold keeps; the lowest index wins ties.
struct Draw<'a> {
    logits: Row<'a>,
    threshold: Threshold,
    key: u64,
    position: u32,
    /// One of the largest logits.
    likely: usize,
}

impl Job for Draw<'_> {
    type Out = usize;
    #[inline(always)]
    fn run<I: Isa>(self) -> usize {
        let Self { logits, threshold, key, position, likely } = self;
        let (mut best, mut token) = (f32::NEG_INFINITY, usize::MAX);
        // The likeliest token's block first: where it leads by more than noise can bridge, blocks are skipped.
        let first = likely / BLOCK * BLOCK;
        let others = (0..logits.len()).step_by(BLOCK).filter(|&b| b != first);
        for begin in std::iter::once(first).chain(others) {
            let mut kept = logits.block(begin);
            let top = largest_of(&kept);
            if top < threshold.value || top + noise::MAX < best {
                continue;
            }
            for (i, l) in kept.iter_mut().enumerate() {
                *l = if threshold.keeps(begin + i, *l) { *l } else { f32::NEG_INFINITY };
            }
            let words = noise::words(key, position, begin as u32);
            if top + noise::bound(&words) < best {
                continue;
            }
            for (l, n) in kept.iter_mut().zip(noise::of_words(&words)) {
                *l += n;
            }
            let top = largest_of(&kept);
            if top > best || (top == best && begin < token) {
                best = top;
                token = begin + kept.iter().position(|&l| l == top).expect("top is one of them");
            }
        }
        token
    }
}
