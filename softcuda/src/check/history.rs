//! Who touched memory in earlier launches, copies and fills: races between streams.
//!
//! Work of different streams runs here one piece after the other, so a missing event need not show in the data. What
//! shows it is the order that the program asked for: each piece of work has a vector clock, and an access races with an
//! earlier one to the same byte, one of them a write, if the clock does not cover the work that made it. The last writes
//! of a byte (several only if they are atomic) and the reads since then are all that must be kept (FastTrack, PLDI 2009).
//! Atomics order nothing here: streams that wait for each other through memory are reported.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
};

use crate::module::Module;

/// How much of each lane happens before. A lane is a stream, or a branch of a graph.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Clock(BTreeMap<usize, u64>);

impl Clock {
    /// Takes in what another clock covers.
    pub fn join(&mut self, other: &Self) {
        for (&lane, &count) in &other.0 {
            let own = self.0.entry(lane).or_default();
            *own = (*own).max(count);
        }
    }

    /// Sets how much of a lane is covered.
    pub fn set(&mut self, lane: usize, count: u64) {
        self.0.insert(lane, count);
    }

    /// How much of a lane is covered.
    pub fn get(&self, lane: usize) -> u64 {
        self.0.get(&lane).copied().unwrap_or(0)
    }
}

/// A piece of work that touches memory.
#[derive(Debug)]
pub(crate) struct Actor {
    /// What a report calls it: `a copy`; for a kernel its name.
    pub name: String,
    /// Where it was enqueued, for reports.
    pub stream: String,
    /// Its lane; its place there is what its clock says.
    pub lane: usize,
    /// What happens before its end, itself included.
    pub clock: Arc<Clock>,
    /// A kernel's module, for the lines of its instructions. It may be unloaded by the time of a report.
    pub module: Option<Weak<Module>>,
}

/// The number of an access.
type AccessId = u32;
/// The number of a set of accesses; 0 has none.
type SetId = u32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Access {
    /// Index of the work.
    work: usize,
    /// Index of a kernel's instruction.
    pc: u32,
    /// Volatile, relaxed or atomic.
    strong: bool,
}

/// The last writes of a byte, and the reads since then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Cell {
    writers: SetId,
    readers: SetId,
}

const PAGE: u64 = 4096;

/// The cells of a page. Copies and fills touch whole pages.
#[derive(Debug)]
enum Page {
    Whole(Cell),
    Bytes(Box<[Cell]>),
}

/// The work that has run and what it touched.
#[derive(Debug, Default)]
pub(crate) struct History {
    work: Work,
    pages: HashMap<u64, Page>,
}

impl History {
    /// What is touched from now on, this touches.
    pub fn begin(&mut self, actor: Actor) {
        self.work.index.clear();
        self.work.grown.clear();
        self.work.last = None;
        self.work.running = true;
        self.work.actors.push(actor);
    }

    /// What is touched from now on is not followed.
    pub fn end(&mut self) {
        self.work.running = false;
    }

    /// Everything so far happens before everything to come.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The range is given back: the next who has these addresses has other memory.
    pub fn forget(&mut self, addr: u64, bytes: u64) {
        for (number, from, to) in pages_of(addr, bytes) {
            if to - from == PAGE as usize {
                self.pages.remove(&number);
            } else if let Some(page) = self.pages.get_mut(&number) {
                cells(page)[from..to].fill(Cell::default());
            }
        }
    }

    /// Notes an access by the running work, at its instruction `pc` if it is a kernel.
    ///
    /// # Errors
    /// The first byte that races, and with whom: `in stream 0x… races with …`.
    pub fn touch(
        &mut self,
        addr: u64,
        bytes: u64,
        pc: u32,
        writes: bool,
        strong: bool,
    ) -> Result<(), (u64, String)> {
        if !self.work.running {
            return Ok(());
        }
        let access = self.work.access(pc, strong);
        for (number, from, to) in pages_of(addr, bytes) {
            let raced = |at: usize, work: &Work, other, wrote| {
                (number * PAGE + at as u64, work.describe(other, wrote))
            };
            let work = &mut self.work;
            let page = self.pages.entry(number).or_insert(Page::Whole(Cell::default()));
            match page {
                Page::Whole(cell) if to - from == PAGE as usize => {
                    *cell = work.next(*cell, access, writes).map_err(|(o, w)| raced(from, work, o, w))?;
                }
                _ => {
                    for (cell, at) in cells(page)[from..to].iter_mut().zip(from..) {
                        *cell = work.next(*cell, access, writes).map_err(|(o, w)| raced(at, work, o, w))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The pages that a range is in: their numbers, and where in them it begins and ends.
fn pages_of(addr: u64, bytes: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = addr + bytes;
    let numbers = addr / PAGE..end.div_ceil(PAGE).max(addr / PAGE);
    numbers.map(move |n| {
        let base = n * PAGE;
        (n, (addr.max(base) - base) as usize, (end.min(base + PAGE) - base) as usize)
    })
}

/// The cells of a page, byte by byte from now on.
fn cells(page: &mut Page) -> &mut [Cell] {
    if let Page::Whole(cell) = *page {
        *page = Page::Bytes(vec![cell; PAGE as usize].into_boxed_slice());
    }
    match page {
        Page::Bytes(cells) => cells,
        Page::Whole(_) => unreachable!("it was just split"),
    }
}

/// The step that a cell took: before, by which access, whether that writes, and after.
type Step = ((Cell, AccessId, bool), Cell);

/// Accesses and sets of them by number, so that a cell is two numbers.
#[derive(Debug, Default)]
struct Work {
    actors: Vec<Actor>,
    /// The last of `actors` runs.
    running: bool,
    accesses: Vec<Access>,
    sets: Vec<Vec<AccessId>>,
    /// Of the running work.
    index: HashMap<Access, AccessId>,
    /// Of the running work: a set after one of its accesses.
    grown: HashMap<(SetId, AccessId), SetId>,
    /// Most bytes take the step that the byte before them took.
    last: Option<Step>,
}

impl Work {
    fn access(&mut self, pc: u32, strong: bool) -> AccessId {
        let access = Access { work: self.actors.len() - 1, pc, strong };
        *self.index.entry(access).or_insert_with(|| {
            self.accesses.push(access);
            self.accesses.len() as AccessId - 1
        })
    }

    fn get(&self, id: AccessId) -> Access {
        self.accesses[id as usize]
    }

    fn set(&self, id: SetId) -> &[AccessId] {
        if id == 0 { &[] } else { &self.sets[id as usize - 1] }
    }

    /// Whether the running work comes after all of another.
    fn is_after(&self, work: usize) -> bool {
        let (now, Actor { lane, clock, .. }) = (&self.actors[self.actors.len() - 1], &self.actors[work]);
        now.clock.get(*lane) >= clock.get(*lane)
    }

    /// A cell after an access; or the access that it races with, and whether that was a write.
    fn next(&mut self, cell: Cell, access: AccessId, writes: bool) -> Result<Cell, (AccessId, bool)> {
        let step = (cell, access, writes);
        if let Some((known, next)) = self.last
            && known == step
        {
            return Ok(next);
        }
        let own = self.get(access);
        let races = |other: AccessId| {
            let other = self.get(other);
            other.work != own.work && !(other.strong && own.strong) && !self.is_after(other.work)
        };
        let race = |set: SetId| self.set(set).iter().copied().find(|&other| races(other));
        if let Some(writer) = race(cell.writers) {
            return Err((writer, true));
        }
        let next = if writes {
            if let Some(reader) = race(cell.readers) {
                return Err((reader, false));
            }
            // Reads beside an atomic are other atomics, which may race with what comes later.
            let readers = if own.strong { cell.readers } else { 0 };
            Cell { writers: self.with(cell.writers, access), readers }
        } else {
            Cell { readers: self.with(cell.readers, access), ..cell }
        };
        self.last = Some((step, next));
        Ok(next)
    }

    /// A set with one more access, without those that come before it.
    fn with(&mut self, set: SetId, access: AccessId) -> SetId {
        if let Some(&known) = self.grown.get(&(set, access)) {
            return known;
        }
        let own = self.get(access);
        let stands_for_own = |&id: &AccessId| {
            let other = self.get(id);
            other.work == own.work && other.strong <= own.strong
        };
        let grown = if self.set(set).iter().any(stands_for_own) {
            set
        } else {
            let beside = |id: &AccessId| {
                let work = self.get(*id).work;
                work == own.work || !self.is_after(work)
            };
            let mut all: Vec<AccessId> = self.set(set).iter().copied().filter(beside).collect();
            all.push(access);
            self.sets.push(all);
            self.sets.len() as SetId
        };
        self.grown.insert((set, access), grown);
        grown
    }

    /// The end of a sentence that began with the running work's access.
    fn describe(&self, other: AccessId, wrote: bool) -> String {
        let Access { work, pc, .. } = self.get(other);
        let (now, other) = (&self.actors[self.actors.len() - 1], &self.actors[work]);
        let (who, place) = match &other.module {
            None => (other.name.clone(), None),
            Some(module) => {
                let verb = if wrote { "store" } else { "load" };
                let place = module.upgrade().and_then(|module| module.place(&other.name, pc));
                (format!("a {verb} by the kernel {}", other.name), place)
            }
        };
        let place = place.map(|place| format!(" at {place}")).unwrap_or_default();
        format!("in {} races with {who} in {}{place} (nothing orders them)", now.stream, other.stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(history: &mut History, name: &str, lane: usize, clock: &[(usize, u64)]) {
        let clock = Arc::new(Clock(clock.iter().copied().collect()));
        let (name, stream) = (name.to_string(), format!("stream {lane}"));
        history.begin(Actor { name, stream, lane, clock, module: None });
    }

    /// Writes and reads two ranges that cross pages and their edges.
    const RANGES: [(u64, u64); 3] = [(0, 3), (PAGE - 2, 2 * PAGE), (5 * PAGE, PAGE)];

    fn touch(history: &mut History, writes: bool) -> Result<(), (u64, String)> {
        RANGES.iter().try_for_each(|&(addr, bytes)| history.touch(addr, bytes, 0, writes, false))
    }

    #[test]
    fn a_write_races_with_what_its_clock_does_not_cover() {
        let mut history = History::default();
        begin(&mut history, "first", 1, &[(1, 1)]);
        touch(&mut history, true).unwrap();
        begin(&mut history, "after", 2, &[(1, 1), (2, 1)]);
        touch(&mut history, true).unwrap();
        begin(&mut history, "beside", 1, &[(1, 2)]);
        let (at, message) = touch(&mut history, false).unwrap_err();
        assert_eq!(
            (at, message.contains("in stream 1 races with after in stream 2")),
            (0, true),
            "{message}"
        );
        // Bytes beside the ranges are nobody's.
        history.touch(3, PAGE - 5, 0, true, false).unwrap();
        assert_eq!(history.touch(6 * PAGE - 1, 9, 0, true, false).unwrap_err().0, 6 * PAGE - 1);
    }

    #[test]
    fn every_reader_is_remembered_until_a_later_one_stands_for_it() {
        let mut history = History::default();
        for lane in 1..=3 {
            begin(&mut history, "reader", lane, &[(lane, 1)]);
            touch(&mut history, false).unwrap();
        }
        begin(&mut history, "writer", 4, &[(1, 1), (3, 1), (4, 1)]);
        assert!(touch(&mut history, true).unwrap_err().1.contains("with reader in stream 2"));
        begin(&mut history, "later reader", 5, &[(1, 1), (2, 1), (3, 1), (5, 1)]);
        touch(&mut history, false).unwrap();
        begin(&mut history, "writer", 4, &[(4, 2), (5, 1)]);
        touch(&mut history, true).unwrap();
    }

    #[test]
    fn strong_accesses_do_not_race_and_freed_memory_is_forgotten() {
        let mut history = History::default();
        begin(&mut history, "adds", 1, &[(1, 1)]);
        history.touch(8, 4, 0, true, true).unwrap();
        begin(&mut history, "adds too", 2, &[(2, 1)]);
        history.touch(8, 4, 0, true, true).unwrap();
        // Both are remembered.
        for clock in [[(3, 1), (1, 1)], [(3, 1), (2, 1)]] {
            begin(&mut history, "reads", 3, &clock);
            assert!(history.touch(8, 4, 0, false, false).is_err());
        }
        begin(&mut history, "reads", 3, &[(3, 1), (1, 1), (2, 1)]);
        history.touch(8, 4, 0, false, false).unwrap();
        begin(&mut history, "stores", 4, &[(4, 1)]);
        assert!(history.touch(8, 4, 0, true, false).is_err());
        history.forget(8, 4);
        history.touch(8, 4, 0, true, false).unwrap();
        history.end();
        history.touch(8, 4, 0, true, false).unwrap();
    }
}
