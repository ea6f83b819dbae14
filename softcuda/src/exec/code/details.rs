//! Details of instructions: comparisons, roundings, types, places.

use crate::ptx::Type;

/// Comparisons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
#[repr(u8)]
pub enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// The unordered ones: true when an operand is NaN.
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// Modes of `prmt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
#[repr(u8)]
pub enum PrmtMode {
    Any,
    F4e,
    B4e,
    Rc8,
    Ecl,
    Ecr,
    Rc16,
}

/// Rounding of a floating-point result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Round {
    /// To nearest, ties to even.
    #[default]
    Nearest,
    /// Toward zero.
    Zero,
    /// Toward minus infinity.
    Down,
    /// Toward plus infinity.
    Up,
    /// To nearest, ties away from zero.
    Away,
}

impl Round {
    /// From the low three bits of a field.
    pub fn from_bits(bits: u32) -> Self {
        [Self::Nearest, Self::Zero, Self::Down, Self::Up, Self::Away][(bits & 7).min(4) as usize]
    }
}

/// Bits of `mods` for floating point.
pub mod float_mods {
    /// The low three bits are the [`super::Round`].
    pub const ROUND: u16 = 7;
    /// Subnormal inputs and results become zero.
    pub const FTZ: u16 = 1 << 3;
    /// Clamp to [0, 1], NaN to 0.
    pub const SAT: u16 = 1 << 4;
    /// min, max: NaN if an input is.
    pub const NAN: u16 = 1 << 5;
    /// min, max: the sign is the xor of the inputs'.
    pub const XORSIGN: u16 = 1 << 6;
    /// Clamp negative results to zero.
    pub const RELU: u16 = 1 << 7;
    /// bf16 rather than f16.
    pub const BF16: u16 = 1 << 8;
    /// Two values in a register.
    pub const PACKED: u16 = 1 << 9;
}

/// A conversion, packed into `imm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cvt {
    /// From.
    pub src: Type,
    /// To.
    pub dst: Type,
    /// Rounding; to an integer or to an integral value when `integral`.
    pub round: Round,
    /// Round to an integral value.
    pub integral: bool,
    /// Flush subnormals.
    pub ftz: bool,
    /// Saturate: integers to their range, floats to [0, 1].
    pub sat: bool,
    /// Largest finite instead of infinity.
    pub satfinite: bool,
    /// Negative to zero.
    pub relu: bool,
    /// Bits of the destination register: 16, 32 or 64.
    pub reg: u8,
}

/// Special registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
#[repr(u8)]
pub enum Special {
    TidX,
    TidY,
    TidZ,
    NtidX,
    NtidY,
    NtidZ,
    CtaidX,
    CtaidY,
    CtaidZ,
    NctaidX,
    NctaidY,
    NctaidZ,
    Laneid,
    Warpid,
    Nwarpid,
    LanemaskEq,
    LanemaskLe,
    LanemaskLt,
    LanemaskGe,
    LanemaskGt,
    Smid,
    Nsmid,
    Gridid,
    Clock,
    ClockHi,
    Clock64,
    Globaltimer,
    GlobaltimerLo,
    GlobaltimerHi,
    DynamicSmemSize,
    TotalSmemSize,
    Zero,
    One,
}

/// Where a memory instruction goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Window {
    /// Global and constant memory: the address space of [`crate::memory`].
    Global,
    /// Offsets into the block's shared memory.
    Shared,
    /// Offsets into the thread's local memory.
    Local,
    /// Offsets into the parameter block.
    Param,
    /// Told apart by the address.
    Generic,
}

impl Window {
    /// From the low three bits of a field.
    #[inline(always)]
    pub fn from_bits(bits: u16) -> Self {
        match bits & 7 {
            0 => Self::Global,
            1 => Self::Shared,
            2 => Self::Local,
            3 => Self::Param,
            _ => Self::Generic,
        }
    }
}

/// A load, store or atomic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Where.
    pub window: Window,
    /// Bytes of one element: 1, 2, 4 or 8.
    pub bytes: u8,
    /// Elements: 1, 2 or 4.
    pub count: u8,
    /// Sign-extend to the register.
    pub signed: bool,
    /// Bits of the registers: 16, 32 or 64.
    pub reg: u8,
    /// An acquire, release, volatile or relaxed access: ordered against others.
    pub strong: bool,
    /// The address register has 32 bits.
    pub short: bool,
}

impl Access {
    /// As the `mods` of an instruction.
    pub fn pack(self) -> u16 {
        self.window as u16
            | (self.bytes.trailing_zeros() as u16) << 3
            | (self.count.trailing_zeros() as u16) << 5
            | u16::from(self.signed) << 7
            | u16::from(self.reg / 32) << 8
            | u16::from(self.strong) << 10
            | u16::from(self.short) << 11
    }

    /// From the `mods` of an instruction.
    #[inline(always)]
    pub fn unpack(mods: u16) -> Self {
        Self {
            window: Window::from_bits(mods),
            bytes: 1 << (mods >> 3 & 3),
            count: 1 << (mods >> 5 & 3),
            signed: mods >> 7 & 1 != 0,
            reg: 16 << (mods >> 8 & 3),
            strong: mods >> 10 & 1 != 0,
            short: mods >> 11 & 1 != 0,
        }
    }
}

/// Operations of `atom`, `red` and `redux`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum AtomOp {
    And,
    Or,
    Xor,
    Add,
    Inc,
    Dec,
    Min,
    Max,
    Exch,
    Cas,
}

/// An atomic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Atom {
    /// The operation.
    pub op: AtomOp,
    /// On what.
    pub ty: Type,
    /// The old value is wanted: `atom` rather than `red`.
    pub returns: bool,
    /// Values moved by one lane: 1, 2 or 4 (vector `red`, `atom` of sm_90).
    pub count: u8,
}

/// How `vote` combines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
#[repr(u8)]
pub enum VoteMode {
    All,
    Any,
    Uni,
    Ballot,
}

/// How `shfl` picks its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
#[repr(u8)]
pub enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

/// Barriers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// What happens on arrival.
    pub mode: BarMode,
    /// The whole warp must execute it together (`bar`, `barrier.aligned`).
    pub aligned: bool,
    /// How many threads take part is operand b; else all of the block.
    pub counted: bool,
}

/// Kinds of barrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum BarMode {
    Sync,
    Arrive,
    RedPopc,
    RedAnd,
    RedOr,
}

/// Types of the elements of an `mma`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum MmaType {
    F16,
    Bf16,
    Tf32,
    S8,
    U8,
}

/// A matrix multiplication by a warp: `d = a * b + c`, m16n8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mma {
    /// The inner extent: 4, 8, 16 or 32.
    pub k: u8,
    /// Elements of a.
    pub a: MmaType,
    /// Elements of b.
    pub b: MmaType,
    /// c and d are f16, not f32 or s32.
    pub half_sums: bool,
    /// Clamp s32 sums.
    pub satfinite: bool,
}
