//! PTX text to a syntax tree that borrows from it. Source: PTX ISA 9.0, "Syntax" and "Directives".
//!
//! The tree keeps opcodes as written: what they mean is decided in [`crate::lower`].

mod lexer;
mod parser;

use std::collections::BTreeMap;

pub use parser::parse;

/// A state space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Device memory.
    Global,
    /// Constant memory.
    Const,
    /// Shared memory of a block.
    Shared,
    /// Memory of a thread.
    Local,
    /// Parameters.
    Param,
    /// Any of them, told apart by the address.
    Generic,
}

/// A fundamental type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are PTX's")]
pub enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    Tf32,
    F32,
    F64,
    U16x2,
    S16x2,
}

impl Type {
    /// The type with this name, without the dot.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "pred" => Self::Pred,
            "b8" => Self::B8,
            "b16" => Self::B16,
            "b32" => Self::B32,
            "b64" => Self::B64,
            "b128" => Self::B128,
            "u8" => Self::U8,
            "u16" => Self::U16,
            "u32" => Self::U32,
            "u64" => Self::U64,
            "s8" => Self::S8,
            "s16" => Self::S16,
            "s32" => Self::S32,
            "s64" => Self::S64,
            "f16" => Self::F16,
            "f16x2" => Self::F16x2,
            "bf16" => Self::Bf16,
            "bf16x2" => Self::Bf16x2,
            "tf32" => Self::Tf32,
            "f32" => Self::F32,
            "f64" => Self::F64,
            "u16x2" => Self::U16x2,
            "s16x2" => Self::S16x2,
            _ => return None,
        })
    }

    /// Bytes in memory.
    pub fn bytes(self) -> u32 {
        match self {
            Self::Pred | Self::B8 | Self::U8 | Self::S8 => 1,
            Self::B16 | Self::U16 | Self::S16 | Self::F16 | Self::Bf16 => 2,
            Self::B64 | Self::U64 | Self::S64 | Self::F64 => 8,
            Self::B128 => 16,
            _ => 4,
        }
    }

    /// Bits in a register.
    pub fn bits(self) -> u32 {
        self.bytes() * 8
    }

    /// A signed integer.
    pub fn is_signed(self) -> bool {
        matches!(self, Self::S8 | Self::S16 | Self::S32 | Self::S64)
    }

    /// A floating-point type, packed ones included.
    pub fn is_float(self) -> bool {
        use Type::*;
        matches!(self, F16 | F16x2 | Bf16 | Bf16x2 | Tf32 | F32 | F64)
    }
}

/// A place in the CUDA source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Loc {
    /// The number that `.file` gave the file.
    pub file: u32,
    /// The line.
    pub line: u32,
    /// Where the function with that line was inlined: file and line.
    pub inlined_at: Option<(u32, u32)>,
}

/// A part of an initialiser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Init<'a> {
    /// The bits of one element.
    Bits(u64),
    /// The address of a variable plus an offset.
    Address(&'a str, i64),
}

/// A variable or parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Var<'a> {
    /// The symbol.
    pub name: &'a str,
    /// Where it lives.
    pub space: Space,
    /// The element's type.
    pub ty: Type,
    /// Bytes; 0 for an array of unknown extent (dynamic shared memory).
    pub size: u64,
    /// Alignment in bytes.
    pub align: u32,
    /// Initial elements; the rest is zero.
    pub init: Vec<Init<'a>>,
    /// Defined in another module.
    pub is_extern: bool,
    /// Line of the PTX.
    pub line: u32,
}

/// An operand.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand<'a> {
    /// A register, special register, variable, function or label.
    Name(&'a str),
    /// `!p`.
    Not(&'a str),
    /// An integer, two's complement.
    Int(u64),
    /// `0f…`: bits of an f32.
    F32(u32),
    /// `0d…` or a decimal: bits of an f64.
    F64(u64),
    /// `{a, b, …}`.
    Vector(Vec<Operand<'a>>),
    /// `[base + offset]`; no base is an absolute address.
    Address(Option<&'a str>, i64),
    /// `p|q`.
    Pair(&'a str, &'a str),
    /// `(a, b, …)` of a call.
    List(Vec<Operand<'a>>),
    /// `name + offset`: an address as a value.
    Offset(&'a str, i64),
}

/// A register declaration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reg<'a> {
    /// The name, or the prefix of numbered names.
    pub name: &'a str,
    /// How many for `%r<n>`.
    pub count: Option<u32>,
    /// The type.
    pub ty: Type,
}

/// An instruction as written.
#[derive(Debug, Clone, PartialEq)]
pub struct Inst<'a> {
    /// `@p` or `@!p` (true).
    pub guard: Option<(&'a str, bool)>,
    /// The opcode with its modifiers.
    pub op: &'a str,
    /// Its operands.
    pub operands: Vec<Operand<'a>>,
    /// Line of the PTX.
    pub line: u32,
    /// The `.loc` in force.
    pub loc: Option<Loc>,
}

/// A statement of a function's body.
#[derive(Debug, Clone, PartialEq)]
pub enum Stmt<'a> {
    /// `name:`.
    Label(&'a str, u32),
    /// An instruction.
    Inst(Inst<'a>),
    /// `.reg`.
    Reg(Reg<'a>, u32),
    /// `.shared`, `.local`, `.param` variables.
    Var(Var<'a>),
    /// `{`.
    Open,
    /// `}`.
    Close,
    /// `name: .branchtargets a, b, …`.
    Targets(&'a str, Vec<&'a str>, u32),
}

/// A kernel or function.
#[derive(Debug, Clone, PartialEq)]
pub struct Function<'a> {
    /// The symbol.
    pub name: &'a str,
    /// `.entry` rather than `.func`.
    pub entry: bool,
    /// Parameters.
    pub params: Vec<Var<'a>>,
    /// Return parameters.
    pub returns: Vec<Var<'a>>,
    /// The body; none for a declaration.
    pub body: Option<Vec<Stmt<'a>>>,
    /// `.maxntid`.
    pub max_block: Option<[u32; 3]>,
    /// `.reqntid`.
    pub required_block: Option<[u32; 3]>,
    /// `.minnctapersm`.
    pub min_blocks: Option<u32>,
    /// Line of the PTX.
    pub line: u32,
}

/// A parsed module.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Unit<'a> {
    /// `.version`, major and minor.
    pub version: (u32, u32),
    /// `.target`: compute capability, 80 for `sm_80`.
    pub target: u32,
    /// Module-scope variables.
    pub vars: Vec<Var<'a>>,
    /// Kernels and functions.
    pub functions: Vec<Function<'a>>,
    /// `.file`: names by number.
    pub files: BTreeMap<u32, &'a str>,
}
