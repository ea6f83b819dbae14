//! flashinfer-bench's records as they are in JSON. Source: its documentation, `docs/flashinfer_trace` of
//! <https://github.com/flashinfer-ai/flashinfer-bench>.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::device::DType;

/// What is to be computed: formats of tensors, and a reference in PyTorch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// Unique; by convention with the constant extents in it.
    pub name: String,
    /// The kind of operation.
    pub op_type: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `namespace:value`, or a flag.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Extents by name.
    pub axes: IndexMap<String, Axis>,
    /// Relations between extents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraints: Option<Vec<String>>,
    /// Tensors and scalars that go in, in the order of the reference's parameters.
    pub inputs: IndexMap<String, Tensor>,
    /// Tensors that come out.
    pub outputs: IndexMap<String, Tensor>,
    /// PyTorch code with a function `run`.
    pub reference: String,
}

/// An extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Axis {
    /// The same in every workload.
    Const {
        /// Its value.
        value: usize,
    },
    /// A workload's.
    Var,
}

/// The format of a tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tensor {
    /// Names of axes; `null` is a scalar.
    pub shape: Option<Vec<String>>,
    /// `bfloat16` and the like.
    pub dtype: String,
}

impl Tensor {
    /// Of a tensor.
    pub(super) fn new(dtype: &str, shape: &[&str]) -> Self {
        Self { shape: Some(shape.iter().map(|axis| (*axis).to_owned()).collect()), dtype: dtype.into() }
    }

    /// Of a scalar.
    pub(super) fn scalar(dtype: &str) -> Self {
        Self { shape: None, dtype: dtype.into() }
    }
}

impl Definition {
    /// The value of a constant axis.
    ///
    /// # Errors
    /// That there is none of the name.
    pub fn constant(&self, axis: &str) -> Result<usize, String> {
        match self.axes.get(axis) {
            Some(Axis::Const { value }) => Ok(*value),
            _ => Err(format!("{}: no constant axis {axis}", self.name)),
        }
    }

    /// The dtype of an input, where Lathe has it.
    ///
    /// # Errors
    /// That there is no such input, or Lathe does not have its dtype.
    pub fn dtype(&self, input: &str) -> Result<DType, String> {
        let name = &self.name;
        let tensor = self.inputs.get(input).ok_or_else(|| format!("{name}: no input {input}"))?;
        let known =
            [DType::Bf16, DType::F16, DType::F32].into_iter().find(|d| dtype_name(*d) == tensor.dtype);
        known.ok_or_else(|| {
            format!("{name}: {input} is {}, expected bfloat16, float16 or float32", tensor.dtype)
        })
    }
}

/// What the schema calls a dtype.
pub(super) fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float32",
        DType::F16 => "float16",
        DType::Bf16 => "bfloat16",
        DType::I32 => "int32",
    }
}

/// The extents and inputs of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// Unique.
    pub uuid: String,
    /// Values of the definition's variable axes.
    pub axes: IndexMap<String, usize>,
    /// Where each input comes from.
    pub inputs: IndexMap<String, Input>,
}

/// Where an input comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Input {
    /// The values do not matter.
    Random,
    /// This one.
    Scalar {
        /// A number.
        value: f64,
    },
    /// A file beside it.
    Safetensors {
        /// Relative to the data set's root.
        path: String,
        /// The tensor in it.
        tensor_key: String,
    },
}

/// One implementation of a definition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Solution {
    /// Unique.
    pub name: String,
    /// The definition's name.
    pub definition: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Who wrote it.
    pub author: String,
    /// How it is built and called.
    pub spec: BuildSpec,
    /// Its files.
    pub sources: Vec<SourceFile>,
}

/// How a solution is built and called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BuildSpec {
    /// `cuda`, `triton`, `python` or another.
    pub language: String,
    /// Where it runs.
    pub target_hardware: Vec<String>,
    /// `FILE::FUNCTION`.
    pub entry_point: String,
    /// Libraries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dependencies: Option<Vec<String>>,
    /// Commands to build it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_commands: Option<Vec<String>>,
}

/// A file of a solution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Relative.
    pub path: String,
    /// All of it.
    pub content: String,
}

/// A run of a solution on a workload; without both `solution` and `evaluation` it is just the workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// The definition's name.
    pub definition: String,
    /// The solution's name.
    #[serde(default)]
    pub solution: Option<String>,
    /// What ran.
    pub workload: Workload,
    /// What came of it.
    #[serde(default)]
    pub evaluation: Option<Evaluation>,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Whether it is right.
    pub status: Status,
    /// Where it ran.
    pub environment: Environment,
    /// ISO 8601.
    pub timestamp: String,
    /// What was said.
    #[serde(default)]
    pub log: String,
    /// Of runs that passed or were numerically wrong.
    #[serde(default)]
    pub correctness: Option<Correctness>,
    /// Of runs that passed.
    #[serde(default)]
    pub performance: Option<Performance>,
}

/// Whether a solution is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs, reason = "as they say")]
pub enum Status {
    Passed,
    IncorrectShape,
    IncorrectNumerical,
    IncorrectDtype,
    RuntimeError,
    CompileError,
    Timeout,
}

/// Where a solution ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// The device.
    pub hardware: String,
    /// Versions by name.
    #[serde(default)]
    pub libs: BTreeMap<String, String>,
}

/// Errors over all elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as they say")]
pub struct Correctness {
    #[serde(default, with = "number")]
    pub max_relative_error: f64,
    #[serde(default, with = "number")]
    pub max_absolute_error: f64,
}

/// A number, or the word that stands for one that JSON does not have.
mod number {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Any {
        Number(f64),
        Word(String),
    }

    pub fn serialize<S: Serializer>(number: &f64, to: S) -> Result<S::Ok, S::Error> {
        match *number {
            n if n.is_nan() => to.serialize_str("NaN"),
            n if n.is_infinite() => to.serialize_str("Infinity"),
            n => to.serialize_f64(n),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        match Any::deserialize(from)? {
            Any::Number(number) => Ok(number),
            Any::Word(word) => match word.as_str() {
                "NaN" => Ok(f64::NAN),
                "Infinity" => Ok(f64::INFINITY),
                _ => Err(D::Error::custom(format!("{word:?} is no number"))),
            },
        }
    }
}

/// Times.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as they say")]
pub struct Performance {
    pub latency_ms: f64,
    pub reference_latency_ms: f64,
    pub speedup_factor: f64,
}

impl Trace {
    /// Whether an evaluation has what its status asks for.
    ///
    /// # Errors
    /// What is missing or too much.
    pub fn check(&self) -> Result<(), String> {
        let Some(e) = &self.evaluation else { return Ok(()) };
        let (numbers, times) = match e.status {
            Status::Passed => (true, true),
            Status::IncorrectNumerical => (true, false),
            _ => (false, false),
        };
        let wrong = |what: &str, wanted: bool| {
            let wanted = if wanted { "has no" } else { "must not have" };
            Err(format!("{}: a run that is {:?} {wanted} {what}", self.workload.uuid, e.status))
        };
        match (e.correctness.is_some() == numbers, e.performance.is_some() == times) {
            (false, _) => wrong("correctness", numbers),
            (_, false) => wrong("performance", times),
            _ => Ok(()),
        }
    }
}
