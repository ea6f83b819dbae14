//! The executable form of a kernel: dense, decoded once, calls inlined, registers allocated to rows.

use crate::ptx::{Loc, Type};

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

/// What an instruction does. A suffix names the type where the operation depends on it; 8- and 16-bit values
/// live in 32-bit rows, zero-extended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are PTX's")]
#[repr(u16)]
pub enum Op {
    // ---- moves ----
    Mov32,
    Mov64,
    /// `d = a | b << 16`
    Pack16,
    /// `d = a | b << 32`
    Pack32,
    /// The low 16 bits.
    Low16,
    High16,
    /// 64 to 32 bits.
    Low32,
    High32,
    /// 32 to 64 bits.
    Zext32,
    Sext32,
    Selp32,
    Selp64,
    /// A special register: `imm` is a [`Special`].
    Special,
    // ---- integers ----
    Add16,
    Add32,
    Add64,
    Sub16,
    Sub32,
    Sub64,
    AddSatS32,
    SubSatS32,
    AddU16x2,
    Neg16,
    Neg32,
    Neg64,
    /// `d = a + b + carry c`, carry out to predicate `imm`.
    AddC32,
    AddC64,
    /// `d = a - b - borrow c`, borrow out to predicate `imm`.
    SubC32,
    SubC64,
    MulLo16,
    MulLo32,
    MulLo64,
    MulHiU16,
    MulHiS16,
    MulHiU32,
    MulHiS32,
    MulHiU64,
    MulHiS64,
    MulWideU16,
    MulWideS16,
    MulWideU32,
    MulWideS32,
    Mul24U,
    Mul24S,
    MadLo16,
    MadLo32,
    MadLo64,
    MadWideU16,
    MadWideS16,
    MadWideU32,
    MadWideS32,
    DivU16,
    DivS16,
    DivU32,
    DivS32,
    DivU64,
    DivS64,
    RemU16,
    RemS16,
    RemU32,
    RemS32,
    RemU64,
    RemS64,
    MinU16,
    MinS16,
    MinU32,
    MinS32,
    MinU64,
    MinS64,
    MaxU16,
    MaxS16,
    MaxU32,
    MaxS32,
    MaxU64,
    MaxS64,
    MinU16x2,
    MinS16x2,
    MaxU16x2,
    MaxS16x2,
    AbsS16,
    AbsS32,
    AbsS64,
    SadU16,
    SadS16,
    SadU32,
    SadS32,
    SadU64,
    SadS64,
    Dp4aUU,
    Dp4aUS,
    Dp4aSU,
    Dp4aSS,
    /// `mods` bit 0: the high half of b.
    Dp2aUU,
    Dp2aUS,
    Dp2aSU,
    Dp2aSS,
    // ---- bits ----
    And32,
    And64,
    Or32,
    Or64,
    Xor32,
    Xor64,
    Not16,
    Not32,
    Not64,
    Cnot16,
    Cnot32,
    Cnot64,
    Shl16,
    Shl32,
    Shl64,
    ShrU16,
    ShrU32,
    ShrU64,
    ShrS16,
    ShrS32,
    ShrS64,
    /// Funnel shifts; `mods` bit 0: wrap the amount instead of clamping.
    ShfL,
    ShfR,
    /// `imm` is the table.
    Lop3,
    /// `mods` is the [`PrmtMode`].
    Prmt,
    BfeU32,
    BfeS32,
    BfeU64,
    BfeS64,
    /// a into b at position `c`, length in row `imm`.
    Bfi32,
    Bfi64,
    /// `mods` bit 0: the shift amount instead of the position.
    BfindU32,
    BfindS32,
    BfindU64,
    BfindS64,
    Popc32,
    Popc64,
    Clz32,
    Clz64,
    Brev32,
    Brev64,
    Fns,
    BmskClamp,
    BmskWrap,
    // ---- predicates ----
    /// All lanes to bit 0 of `mods`.
    PSet,
    PMov,
    PNot,
    PAnd,
    POr,
    PXor,
    /// Comparisons; `mods` is a [`Cmp`].
    SetpU16,
    SetpS16,
    SetpU32,
    SetpS32,
    SetpU64,
    SetpS64,
    SetpF16,
    SetpBf16,
    SetpF32,
    /// With subnormal inputs as zero.
    SetpF32Ftz,
    SetpF64,
    /// `mods` is the class that is asked for.
    TestpF32,
    TestpF64,
    // ---- f32: round to nearest even, subnormals kept ----
    AddF32,
    SubF32,
    MulF32,
    FmaF32,
    DivF32,
    RcpF32,
    SqrtF32,
    AbsF32,
    NegF32,
    MinF32,
    MaxF32,
    CopysignF32,
    /// As above with the rounding, ftz, sat of `mods` ([`FloatMods`]).
    AddF32X,
    SubF32X,
    MulF32X,
    FmaF32X,
    DivF32X,
    RcpF32X,
    SqrtF32X,
    AbsF32X,
    NegF32X,
    MinF32X,
    MaxF32X,
    // Approximations.
    DivApprox,
    RcpApprox,
    SqrtApprox,
    RsqrtApprox,
    SinApprox,
    CosApprox,
    Lg2Approx,
    Ex2Approx,
    TanhApprox,
    // ---- f64 ----
    AddF64,
    SubF64,
    MulF64,
    FmaF64,
    DivF64,
    RcpF64,
    SqrtF64,
    AbsF64,
    NegF64,
    MinF64,
    MaxF64,
    CopysignF64,
    AddF64X,
    SubF64X,
    MulF64X,
    FmaF64X,
    DivF64X,
    RcpF64X,
    SqrtF64X,
    RcpApproxF64,
    RsqrtApproxF64,
    // ---- f16 and bf16; `mods` is [`HalfMods`] ----
    AddHalf,
    SubHalf,
    MulHalf,
    FmaHalf,
    MinHalf,
    MaxHalf,
    AbsHalf,
    NegHalf,
    Ex2Half,
    TanhHalf,
    // ---- conversions; `imm` is a [`Cvt`] ----
    /// The common ones by themselves.
    F32FromU32,
    F32FromS32,
    F32FromF16,
    F32FromBf16,
    F16FromF32,
    Bf16FromF32,
    F64FromF32,
    F32FromF64,
    /// Toward zero.
    S32FromF32,
    Cvt,
    /// Two f32 to a packed half type: a is the high half.
    CvtPack,
    // ---- memory: a is the address, `imm` the offset, `mods` is [`Access`] ----
    Ld,
    St,
    /// The kernel's parameter at offset `imm`.
    LdParam,
    Atom,
    CpAsync,
    CpAsyncCommit,
    /// Waits until at most `imm` groups are unfinished.
    CpAsyncWait,
    Ldmatrix,
    Stmatrix,
    /// Whether a generic address is in the [`Window`] of `mods`.
    IsSpace,
    /// Fences and prefetches: nothing to do.
    Fence,
    // ---- warp ----
    Shfl,
    Vote,
    MatchAny,
    MatchAll,
    Activemask,
    Redux,
    WarpBar,
    Elect,
    /// `imm` is a [`Mma`] in the code's table.
    Mma,
    // ---- control ----
    Bra,
    /// a is the index, `imm` the first of `b` targets in the lists.
    Brx,
    Exit,
    Bar,
    Trap,
    /// `__assertfail`.
    Assert,
    Nanosleep,
}

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
