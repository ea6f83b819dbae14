//! The counters: what a launch executed and moved. Exact and the same on every machine, but for the L2, which is a
//! model. Names in JSON are those of Nsight Compute where it has the metric.
//!
//! Instructions are PTX instructions, not what ptxas would make of them.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::exec::{
    code::{Code, Extra, Inst, Op, Window},
    observe::{AccessKind, Event},
};

/// Bytes of a sector, the unit in which L1, L2 and DRAM move data.
const SECTOR: u64 = 32;

/// Kinds of instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Moves, selections, conversions.
    Move,
    /// Integer and bit operations, predicates, comparisons.
    Integer,
    /// f16 and bf16 arithmetic.
    Fp16,
    /// f32 arithmetic.
    Fp32,
    /// f64 arithmetic.
    Fp64,
    /// Approximations of the special function unit.
    Special,
    /// `mma`.
    Tensor,
    /// Loads, stores, asynchronous copies, `ldmatrix`.
    Memory,
    /// Atomics.
    Atomic,
    /// Shuffles, votes and the like.
    Warp,
    /// Barriers and fences.
    Barrier,
    /// Branches, exits.
    Control,
}

/// The class of an instruction, and the floating-point operations of a lane.
fn class(op: Op) -> (Class, u64) {
    use Op::*;
    match op {
        AddF32 | SubF32 | MulF32 | AddF32X | SubF32X | MulF32X | DivF32 | DivF32X | RcpF32 | RcpF32X
        | SqrtF32 | SqrtF32X => (Class::Fp32, 1),
        FmaF32 | FmaF32X => (Class::Fp32, 2),
        AbsF32 | NegF32 | MinF32 | MaxF32 | AbsF32X | NegF32X | MinF32X | MaxF32X | CopysignF32 => {
            (Class::Fp32, 0)
        }
        AddF64 | SubF64 | MulF64 | AddF64X | SubF64X | MulF64X | DivF64 | DivF64X | RcpF64 | RcpF64X
        | SqrtF64 | SqrtF64X => (Class::Fp64, 1),
        FmaF64 | FmaF64X => (Class::Fp64, 2),
        AbsF64 | NegF64 | MinF64 | MaxF64 | CopysignF64 => (Class::Fp64, 0),
        AddHalf | SubHalf | MulHalf => (Class::Fp16, 1),
        FmaHalf => (Class::Fp16, 2),
        MinHalf | MaxHalf | AbsHalf | NegHalf => (Class::Fp16, 0),
        DivApprox | RcpApprox | SqrtApprox | RsqrtApprox | SinApprox | CosApprox | Lg2Approx | Ex2Approx
        | TanhApprox | RcpApproxF64 | RsqrtApproxF64 | Ex2Half | TanhHalf => (Class::Special, 1),
        Mov32
        | Mov64
        | Pack16
        | Pack32
        | Low16
        | High16
        | Low32
        | High32
        | Zext32
        | Sext32
        | Selp32
        | Selp64
        | Op::Special
        | F32FromU32
        | F32FromS32
        | F32FromF16
        | F32FromBf16
        | F16FromF32
        | Bf16FromF32
        | F64FromF32
        | F32FromF64
        | S32FromF32
        | Cvt
        | CvtPack
        | LdParam
        | IsSpace => (Class::Move, 0),
        Mma => (Class::Tensor, 0),
        Ld | St | CpAsync | CpAsyncCommit | CpAsyncWait | Ldmatrix | Stmatrix => (Class::Memory, 0),
        Atom => (Class::Atomic, 0),
        Shfl | Vote | MatchAny | MatchAll | Activemask | Redux | Elect => (Class::Warp, 0),
        Bar | WarpBar | Fence => (Class::Barrier, 0),
        Bra | Brx | Exit | Trap | Assert | Nanosleep => (Class::Control, 0),
        _ => (Class::Integer, 0),
    }
}

/// What one instruction, line or launch did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Warp instructions, those that a guard switched off included.
    #[serde(rename = "smsp__inst_executed.sum")]
    pub instructions: u64,
    /// Lanes that executed them.
    #[serde(rename = "smsp__thread_inst_executed.sum")]
    pub thread_instructions: u64,
    /// Warp instructions that read global memory.
    #[serde(rename = "l1tex__t_requests_pipe_lsu_mem_global_op_ld.sum")]
    pub global_load_requests: u64,
    /// Bytes that lanes asked to read from global memory.
    #[serde(rename = "smsp__sass_data_bytes_mem_global_op_ld.sum")]
    pub global_load_bytes: u64,
    /// Bytes that those reads cover, each warp instruction by itself: one that all lanes read counts once.
    pub global_load_distinct_bytes: u64,
    /// Sectors of 32 bytes that those reads touch, each warp instruction by itself.
    #[serde(rename = "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum")]
    pub global_load_sectors: u64,
    /// Warp instructions that write global memory, atomics included.
    #[serde(rename = "l1tex__t_requests_pipe_lsu_mem_global_op_st.sum")]
    pub global_store_requests: u64,
    /// Bytes that lanes asked to write to global memory.
    #[serde(rename = "smsp__sass_data_bytes_mem_global_op_st.sum")]
    pub global_store_bytes: u64,
    /// Bytes that those writes cover, each warp instruction by itself.
    pub global_store_distinct_bytes: u64,
    /// Sectors that those writes touch.
    #[serde(rename = "l1tex__t_sectors_pipe_lsu_mem_global_op_st.sum")]
    pub global_store_sectors: u64,
    /// Bytes that lanes moved from and to shared memory.
    #[serde(rename = "smsp__sass_data_bytes_mem_shared.sum")]
    pub shared_bytes: u64,
    /// Passes over the 32 banks that shared accesses need.
    #[serde(rename = "l1tex__data_pipe_lsu_wavefronts_mem_shared.sum")]
    pub shared_wavefronts: u64,
    /// Passes that they would need without bank conflicts.
    #[serde(rename = "smsp__sass_l1tex_data_pipe_lsu_wavefronts_mem_shared_ideal.sum")]
    pub shared_wavefronts_ideal: u64,
    /// Bytes that lanes moved from and to local memory.
    #[serde(rename = "smsp__sass_data_bytes_mem_local.sum")]
    pub local_bytes: u64,
    /// Atomics by lane.
    pub atomics: u64,
    /// Barriers of the block, by warp.
    pub barriers: u64,
    /// Floating-point operations outside of tensor cores; an fma is two.
    pub flops: u64,
    /// Floating-point or integer operations of tensor cores.
    pub tensor_flops: u64,
}

impl Counts {
    fn add(&mut self, o: &Self) {
        let pairs = [
            (&mut self.instructions, o.instructions),
            (&mut self.thread_instructions, o.thread_instructions),
            (&mut self.global_load_requests, o.global_load_requests),
            (&mut self.global_load_bytes, o.global_load_bytes),
            (&mut self.global_load_distinct_bytes, o.global_load_distinct_bytes),
            (&mut self.global_load_sectors, o.global_load_sectors),
            (&mut self.global_store_requests, o.global_store_requests),
            (&mut self.global_store_bytes, o.global_store_bytes),
            (&mut self.global_store_distinct_bytes, o.global_store_distinct_bytes),
            (&mut self.global_store_sectors, o.global_store_sectors),
            (&mut self.shared_bytes, o.shared_bytes),
            (&mut self.shared_wavefronts, o.shared_wavefronts),
            (&mut self.shared_wavefronts_ideal, o.shared_wavefronts_ideal),
            (&mut self.local_bytes, o.local_bytes),
            (&mut self.atomics, o.atomics),
            (&mut self.barriers, o.barriers),
            (&mut self.flops, o.flops),
            (&mut self.tensor_flops, o.tensor_flops),
        ];
        pairs.into_iter().for_each(|(to, n)| *to += n);
    }

    /// Lanes that executed an instruction, on average: 32 without divergence and guards.
    pub fn active_lanes(&self) -> f64 {
        self.thread_instructions as f64 / self.instructions.max(1) as f64
    }
}

/// A source line's share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The file; empty for instructions without line info.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// Its counts.
    #[serde(flatten)]
    pub counts: Counts,
}

/// The counters of a launch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Totals.
    #[serde(flatten)]
    pub total: Counts,
    /// Warp instructions by class.
    pub instructions_by_class: BTreeMap<Class, u64>,
    /// Distinct bytes of global memory that were read before the launch itself wrote them: the least that a device with
    /// a perfect cache must read from DRAM.
    pub distinct_read_bytes: u64,
    /// Distinct bytes of global memory written: the least that must go to DRAM.
    pub distinct_written_bytes: u64,
    /// Sectors that reach the L2. There is no model of the L1: every request goes there.
    #[serde(rename = "lts__t_sectors.sum")]
    pub l2_sectors: u64,
    /// Modelled: bytes read from DRAM because the L2 does not have them.
    #[serde(rename = "dram__bytes_read.sum")]
    pub dram_read_bytes: u64,
    /// Modelled: bytes written to DRAM, those that remain in the L2 at the end included.
    #[serde(rename = "dram__bytes_write.sum")]
    pub dram_write_bytes: u64,
    /// By source line, when asked for; by file, then line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<Line>,
}

/// An L2 of 128-byte lines with 32-byte sectors, 16 ways, least recently used; 40 MiB as an A100's. Cold at the start of
/// a launch; blocks run one after the other, in order.
#[derive(Debug)]
struct L2 {
    /// By set, most recent first: line number, valid sectors, dirty sectors.
    sets: HashMap<u64, Vec<(u64, u8, u8)>>,
}

const L2_SETS: u64 = (40 << 20) / 128 / 16;

impl L2 {
    /// Touches a sector: bytes read from and written to DRAM.
    fn touch(&mut self, sector: u64, write: bool) -> (u64, u64) {
        let (line, bit) = (sector / 4, 1u8 << (sector % 4));
        let ways = self.sets.entry(line % L2_SETS).or_default();
        let mut evicted = 0;
        let mut entry = match ways.iter().position(|w| w.0 == line) {
            Some(at) => ways.remove(at),
            None => {
                if ways.len() == 16 {
                    evicted = ways.pop().map_or(0, |w| u64::from(w.2.count_ones()) * SECTOR);
                }
                (line, 0, 0)
            }
        };
        let missing = entry.1 & bit == 0;
        entry.1 |= bit;
        if write {
            entry.2 |= bit;
        }
        ways.insert(0, entry);
        // A write of a whole sector needs no read; parts of sectors are merged by masks.
        (if missing && !write { SECTOR } else { 0 }, evicted)
    }

    fn dirty(&self) -> u64 {
        self.sets.values().flatten().map(|w| u64::from(w.2.count_ones()) * SECTOR).sum()
    }
}

/// A set of bytes by their addresses: for each page of 4 KiB, the bytes of each sector.
#[derive(Debug, Default)]
struct Bytes(HashMap<u64, [u32; 128]>);

impl Bytes {
    /// Adds bytes of a sector; how many of them are new, those in `but` not counted.
    fn add(&mut self, sector: u64, bytes: u32, but: Option<&Bytes>) -> u64 {
        let (page, at) = (sector / 128, (sector % 128) as usize);
        let known = but.and_then(|b| b.0.get(&page)).map_or(0, |p| p[at]);
        let have = &mut self.0.entry(page).or_insert([0; 128])[at];
        let new = bytes & !*have & !known;
        *have |= bytes & !known;
        new.count_ones().into()
    }
}

/// The sectors of a global access, in order, each with the bytes of it that some lane takes.
fn sectors(e: &Event<'_>) -> Vec<(u64, u32)> {
    let mut parts: Vec<(u64, u32)> = Vec::with_capacity(32);
    for addr in (0..32).filter(|i| e.mask >> i & 1 != 0).map(|i| e.addrs[i]) {
        let (mut at, end) = (addr, addr + u64::from(e.bytes));
        while at < end {
            let n = (SECTOR - at % SECTOR).min(end - at);
            let bytes = ((1u64 << n) - 1) << (at % SECTOR);
            parts.push((at / SECTOR, bytes as u32));
            at += n;
        }
    }
    parts.sort_unstable_by_key(|p| p.0);
    parts.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        kept.1 |= if same { next.1 } else { 0 };
        same
    });
    parts
}

/// Counts while a kernel runs.
#[derive(Debug)]
pub(crate) struct Counter {
    per_inst: Vec<Counts>,
    totals: Counters,
    l2: L2,
    read: Bytes,
    written: Bytes,
}

impl Counter {
    /// For a kernel of so many instructions.
    pub fn new(instructions: usize) -> Self {
        Self {
            per_inst: vec![Counts::default(); instructions],
            totals: Counters::default(),
            l2: L2 { sets: HashMap::new() },
            read: Bytes::default(),
            written: Bytes::default(),
        }
    }

    /// A warp instruction.
    pub fn instruction(&mut self, pc: u32, inst: &Inst, mask: u32) {
        let at = &mut self.per_inst[pc as usize];
        at.instructions += 1;
        at.thread_instructions += u64::from(mask.count_ones());
        at.barriers += u64::from(inst.op == Op::Bar && mask != 0);
    }

    /// A memory access.
    pub fn access(&mut self, e: &Event<'_>) {
        let asked = u64::from(e.bytes) * u64::from(e.mask.count_ones());
        let at = &mut self.per_inst[e.pc as usize];
        if e.kind == AccessKind::Atomic {
            at.atomics += u64::from(e.mask.count_ones());
        }
        match e.window {
            Window::Global => {
                let sectors = sectors(e);
                let write = matches!(e.kind, AccessKind::Store | AccessKind::Atomic);
                let n = sectors.len() as u64;
                let distinct = sectors.iter().map(|(_, bytes)| u64::from(bytes.count_ones())).sum::<u64>();
                if write {
                    at.global_store_requests += 1;
                    at.global_store_bytes += asked;
                    at.global_store_distinct_bytes += distinct;
                    at.global_store_sectors += n;
                } else {
                    at.global_load_requests += 1;
                    at.global_load_bytes += asked;
                    at.global_load_distinct_bytes += distinct;
                    at.global_load_sectors += n;
                }
                self.totals.l2_sectors += n;
                for (sector, bytes) in sectors {
                    if e.kind == AccessKind::Atomic {
                        // It reads what it changes.
                        self.totals.dram_read_bytes += self.l2.touch(sector, false).0;
                    }
                    let (read, evicted) = self.l2.touch(sector, write);
                    self.totals.dram_read_bytes += read;
                    self.totals.dram_write_bytes += evicted;
                    if e.kind != AccessKind::Store {
                        self.totals.distinct_read_bytes += self.read.add(sector, bytes, Some(&self.written));
                    }
                    if write {
                        self.totals.distinct_written_bytes += self.written.add(sector, bytes, None);
                    }
                }
            }
            Window::Shared => {
                at.shared_bytes += asked;
                let (wavefronts, ideal) = wavefronts(e);
                at.shared_wavefronts += wavefronts;
                at.shared_wavefronts_ideal += ideal;
            }
            _ => at.local_bytes += asked,
        }
    }

    /// The counters, by line if asked for.
    pub fn finish(mut self, code: &Code, lines: bool, file: impl Fn(u32) -> String) -> Counters {
        let mut by_line: BTreeMap<(String, u32), Counts> = BTreeMap::new();
        for (pc, counts) in self.per_inst.iter_mut().enumerate() {
            if counts.instructions == 0 {
                continue;
            }
            let inst = &code.insts[pc];
            let (class, flops) = class(inst.op);
            let packed = inst.mods & crate::exec::code::float_mods::PACKED != 0;
            let per_lane = if class == Class::Fp16 && packed { 2 * flops } else { flops };
            counts.flops = counts.thread_instructions * per_lane;
            if let (Op::Mma, Some(Extra::Mma(mma))) = (inst.op, code.extras.get(inst.imm as usize)) {
                counts.tensor_flops = counts.thread_instructions / 32 * 2 * 16 * 8 * u64::from(mma.k);
            }
            *self.totals.instructions_by_class.entry(class).or_default() += counts.instructions;
            self.totals.total.add(counts);
            if lines {
                let key = code.origins[pc].loc.map_or((String::new(), 0), |l| (file(l.file), l.line));
                by_line.entry(key).or_default().add(counts);
            }
        }
        self.totals.dram_write_bytes += self.l2.dirty();
        self.totals.lines =
            by_line.into_iter().map(|((file, line), counts)| Line { file, line, counts }).collect();
        self.totals
    }
}

/// Passes of a shared access, and the least it could need.
///
/// Accesses of 8 bytes are done by half warps, of 16 by quarters. Within a pass each of the 32 banks delivers one word
/// of 4 bytes; lanes that want the same word share it.
fn wavefronts(e: &Event<'_>) -> (u64, u64) {
    let group = match e.bytes {
        0..=4 => 32,
        8 => 16,
        _ => 8,
    };
    let (mut passes, mut ideal) = (0, 0);
    for first in (0..32).step_by(group) {
        let mut words: Vec<u64> = (first..first + group)
            .filter(|i| e.mask >> i & 1 != 0)
            .flat_map(|i| e.addrs[i] / 4..=(e.addrs[i] + u64::from(e.bytes) - 1) / 4)
            .collect();
        words.sort_unstable();
        words.dedup();
        let mut banks = [0u64; 32];
        words.iter().for_each(|w| banks[(w % 32) as usize] += 1);
        passes += banks.into_iter().max().unwrap_or(0);
        ideal += (words.len() as u64).div_ceil(32);
    }
    (passes, ideal)
}
