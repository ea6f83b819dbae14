//! Shadow of the device memory that a launch touches.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::{Touch, UNWRITTEN, history::History};
use crate::{
    exec::{Checks, code::Window, observe::Finding},
    fault::FaultKind,
    memory::{View, first_unmarked, mark},
};

/// Bytes of a page of cells.
const PAGE: u64 = 4096;
/// The access was volatile, relaxed or atomic.
const STRONG: u32 = 1 << 31;
/// More than one block.
const MANY: u32 = STRONG - 1;

/// Which blocks (number plus 1, 0 is none) last wrote a byte and have read it since.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    writer: u32,
    reader: u32,
    w_pc: u32,
    r_pc: u32,
}

#[derive(Debug)]
pub struct GlobalShadow<'a> {
    views: &'a [View<'a>],
    /// What other launches did, if the driver follows it.
    history: Option<&'a Mutex<History>>,
    pages: HashMap<u64, Box<[Cell]>>,
    /// The running block, from 1.
    block: u32,
    /// Blocks whose atomics this one has met.
    met: Blocks,
    /// By address: the blocks that ordered themselves there.
    atomics: HashMap<u64, Blocks>,
}

/// A set of blocks.
#[derive(Debug, Default, Clone)]
struct Blocks(Vec<u64>);

impl Blocks {
    fn has(&self, block: u32) -> bool {
        self.0.get(block as usize / 64).is_some_and(|word| word >> (block % 64) & 1 != 0)
    }

    fn add(&mut self, block: u32) {
        let word = block as usize / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (block % 64);
    }

    fn join(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }
}

impl<'a> GlobalShadow<'a> {
    pub fn new(views: &'a [View<'a>]) -> Self {
        Self {
            views,
            history: views.first().and_then(|view| view.history),
            pages: HashMap::new(),
            block: 0,
            met: Blocks::default(),
            atomics: HashMap::new(),
        }
    }

    pub fn begin(&mut self, block: u64) {
        self.block = (block % u64::from(MANY - 1)) as u32 + 1;
        self.met.0.clear();
    }

    pub fn touch(&mut self, touch: &Touch, checks: Checks) -> Result<(), Finding> {
        let Touch { addr, bytes, .. } = *touch;
        if checks.init {
            let at = self.views.partition_point(|v| v.base <= addr) - 1;
            let view = &self.views[at];
            if let Some(written) = view.written {
                let offset = addr - view.base;
                if touch.reads
                    && let Some(first) = first_unmarked(written, offset, bytes)
                {
                    let mut finding =
                        touch.finding(FaultKind::Uninitialised, Window::Global, UNWRITTEN, None);
                    finding.addr = Some(view.base + first);
                    return Err(finding);
                }
                if touch.writes {
                    mark(written, offset, bytes);
                }
            }
        }
        if checks.race {
            if touch.reads && touch.writes {
                let met = self.atomics.entry(addr).or_default();
                self.met.join(met);
                met.join(&self.met);
                met.add(self.block);
            }
            for at in addr..addr + bytes {
                self.race(touch, at)?;
            }
            if let Some(history) = self.history {
                let mut history = history.lock().unwrap_or_else(PoisonError::into_inner);
                history.touch(addr, bytes, touch.pc, touch.writes, touch.strong).map_err(|(at, what)| {
                    let mut finding = touch.finding(FaultKind::Race, Window::Global, &what, None);
                    finding.addr = Some(at);
                    finding
                })?;
            }
        }
        Ok(())
    }

    fn race(&mut self, touch: &Touch, at: u64) -> Result<(), Finding> {
        let page = self
            .pages
            .entry(at / PAGE)
            .or_insert_with(|| vec![Cell::default(); PAGE as usize].into_boxed_slice());
        let cell = &mut page[(at % PAGE) as usize];
        let (me, met) = (self.block, &self.met);
        let collides = |other: u32| {
            let (block, strong) = (other & !STRONG, other & STRONG != 0);
            block != 0 && block != me && !(strong && touch.strong) && (block == MANY || !met.has(block))
        };
        let found = |verb: &str, other: u32, pc: u32| {
            let who = match other & !STRONG {
                MANY => "several blocks".to_string(),
                block => format!("block {}", block - 1),
            };
            let what = format!("races with a {verb} by {who}");
            Err(touch.finding(FaultKind::Race, Window::Global, &what, Some(pc)))
        };
        if collides(cell.writer) {
            return found("store", cell.writer, cell.w_pc);
        }
        let strong = if touch.strong { STRONG } else { 0 };
        if touch.writes {
            if collides(cell.reader) {
                return found("load", cell.reader, cell.r_pc);
            }
            *cell = Cell { writer: me | strong, w_pc: touch.pc, ..Cell::default() };
        } else {
            let (block, all_strong) = (cell.reader & !STRONG, cell.reader & strong);
            let reader = if block == 0 || block == me { me } else { MANY };
            cell.reader = reader | if block == 0 { strong } else { all_strong };
            cell.r_pc = touch.pc;
        }
        Ok(())
    }
}
