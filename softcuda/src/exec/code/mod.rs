//! The executable form of a kernel: dense, decoded once, calls inlined, registers allocated to rows.

mod details;
mod op;

use crate::ptx::{Loc, Type};

pub use details::*;
pub use op::Op;

/// Lanes of a warp.
pub const LANES: usize = 32;
/// A mask with every lane.
pub const FULL: u32 = u32::MAX;
/// A 32-bit register of a warp. A 64-bit one takes two.
#[repr(C, align(128))]
#[derive(Debug, Clone, Copy)]
pub struct Row(pub [u32; LANES]);

/// Generic addresses of shared memory begin here.
pub const SHARED_BASE: u64 = 1 << 50;
/// Generic addresses of local memory begin here.
pub const LOCAL_BASE: u64 = SHARED_BASE + (1 << 32);
/// Generic addresses of parameters begin here.
pub const PARAM_BASE: u64 = LOCAL_BASE + (1 << 32);
/// Bytes of each of these windows.
pub const WINDOW: u64 = 1 << 32;

/// Operands with this bit are rows of [`Code::consts`].
pub const CONST: u32 = 1 << 31;
/// The predicate that is always true; guards of unconditional instructions.
pub const ALWAYS: u32 = 0;

/// A detail of an instruction that does not fit into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// Of [`Op::Cvt`] and [`Op::CvtPack`].
    Cvt(Cvt),
    /// Of [`Op::Atom`].
    Atom(Atom),
    /// Of [`Op::Bar`].
    Bar(Bar),
    /// Of [`Op::Mma`].
    Mma(Mma),
    /// Of [`Op::Redux`].
    Redux(AtomOp, Type),
    /// Of [`Op::Special`].
    Special(Special),
}

/// An instruction.
///
/// Operands are row numbers, or predicate numbers where the operation takes predicates. Instructions with more of
/// them have `a` as the start of their operands in [`Code::lists`], results first.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Inst {
    /// What it does.
    pub op: Op,
    /// Variants.
    pub mods: u16,
    /// The guard's predicate; [`ALWAYS`] for none.
    pub guard: u16,
    /// 1 if the guard is negated.
    pub guard_not: u8,
    /// How many results are in the list.
    pub results: u8,
    /// Result.
    pub d: u32,
    /// First operand.
    pub a: u32,
    /// Second operand.
    pub b: u32,
    /// Third operand.
    pub c: u32,
    /// An immediate.
    pub imm: u64,
}

/// Where an instruction comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Line of the PTX.
    pub ptx_line: u32,
    /// Place in the CUDA source.
    pub loc: Option<Loc>,
}

/// A kernel ready to run.
#[derive(Debug)]
pub struct Code {
    /// The instructions; the last is [`Op::Exit`].
    pub insts: Vec<Inst>,
    /// One for each instruction.
    pub origins: Vec<Origin>,
    /// Operands of instructions that have many.
    pub lists: Vec<u32>,
    /// Details of instructions.
    pub extras: Vec<Extra>,
    /// Immediate values, the same in every lane.
    pub consts: Vec<Row>,
    /// Rows of a warp's registers.
    pub rows: u32,
    /// Predicates of a warp, [`ALWAYS`] included.
    pub preds: u32,
    /// Blocks must run in order for results to be the same every time: there are global atomics whose result
    /// depends on it.
    pub ordered: bool,
}
