//! Exchange with flashinfer-bench: its definitions, workloads, solutions and traces, for the operations that both have.
//!
//! A workload comes in as a case of the check, and cases go out as workloads with the verdicts and times of Lathe's
//! kernels. Nothing here reads or writes files.

mod counterparts;
mod schema;

use serde_json::Value;

pub use counterparts::{Counterpart, Inputs, Values};
pub use schema::{
    Axis, BuildSpec, Correctness, Definition, Environment, Evaluation, Input, Performance, Solution,
    SourceFile, Status, Tensor, Trace, Workload,
};

use super::check::{Report, Verdict};
use crate::{
    device::Device,
    error::Result,
    kernels::{Attention, Linear, Op, Registry, RmsNorm, Sample, Table},
};

/// One record.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "as they say")]
pub enum Record {
    Definition(Box<Definition>),
    Solution(Box<Solution>),
    Trace(Box<Trace>),
}

/// The records of a file: one as JSON, or one a line.
///
/// # Errors
/// A message that says which record is none of the schema's, and why.
pub fn records(text: &str) -> std::result::Result<Vec<Record>, String> {
    let values: Vec<Value> = match serde_json::from_str(text) {
        Ok(value) => vec![value],
        Err(_) => {
            let line =
                |(i, line)| serde_json::from_str(line).map_err(|e| format!("line {}: not JSON: {e}", i + 1));
            text.lines()
                .enumerate()
                .filter(|(_, l)| !l.trim().is_empty())
                .map(line)
                .collect::<Result<_, _>>()?
        }
    };
    let record = |(i, value): (usize, Value)| -> std::result::Result<Record, String> {
        let (kind, record) = if value.get("workload").is_some() {
            ("trace", serde_json::from_value(value).map(|t| Record::Trace(Box::new(t))))
        } else if value.get("sources").is_some() {
            ("solution", serde_json::from_value(value).map(|s| Record::Solution(Box::new(s))))
        } else {
            ("definition", serde_json::from_value(value).map(|d| Record::Definition(Box::new(d))))
        };
        let record = record.map_err(|e| format!("record {}: not a {kind}: {e}", i + 1))?;
        if let Record::Trace(trace) = &record {
            trace.check().map_err(|e| format!("record {}: {e}", i + 1))?;
        }
        Ok(record)
    };
    values.into_iter().enumerate().map(record).collect()
}

/// The operation of a definition, and its case for a workload. `load` gets a tensor from a file by path and key.
///
/// # Errors
/// Why there is none: an operation that Lathe does not have, an input that is missing, extents beyond the contract.
pub fn case_of(
    definition: &Definition,
    workload: &Workload,
    load: &mut dyn FnMut(&str, &str) -> std::result::Result<Values, String>,
) -> std::result::Result<(&'static str, Value), String> {
    let mut inputs = Inputs { axes: workload.axes.clone(), ..Inputs::default() };
    for (name, input) in &workload.inputs {
        let value = match input {
            Input::Random => continue,
            Input::Scalar { value } => Values::Scalar(*value),
            // The values of these do not decide what is computed, and may be large.
            Input::Safetensors { .. } if FREE.contains(&name.as_str()) => continue,
            Input::Safetensors { path, tensor_key } => load(path, tensor_key)?,
        };
        inputs.values.insert(name.clone(), value);
    }
    let seed = u64::from(xxhash_rust::xxh3::xxh3_64(workload.uuid.as_bytes()) as u32);
    fn of<O: Counterpart>(
        definition: &Definition,
        inputs: &Inputs,
        seed: u64,
    ) -> std::result::Result<(&'static str, Value), String> {
        let case = O::case(definition, inputs, seed)?;
        let text = serde_json::to_value(&case).map_err(|e| e.to_string())?;
        if !O::fits(&case) {
            return Err(format!("{}: beyond what Lathe's {} takes: {text}", definition.name, O::NAME));
        }
        Ok((O::NAME, text))
    }
    match definition.op_type.as_str() {
        "gemm" => of::<Linear>(definition, &inputs, seed),
        "rmsnorm" => of::<RmsNorm>(definition, &inputs, seed),
        "gqa_paged" => of::<Attention>(definition, &inputs, seed),
        "sampling" => of::<Sample>(definition, &inputs, seed),
        other => Err(format!("{}: Lathe has no counterpart of {other}", definition.name)),
    }
}

/// Inputs whose values Lathe draws itself.
const FREE: [&str; 9] = ["A", "B", "hidden_states", "input", "weight", "q", "k_cache", "v_cache", "probs"];

/// Calls something for every operation that the schema has too.
pub trait Visit<D: Device> {
    /// One operation.
    ///
    /// # Errors
    /// Its own; the visit ends.
    fn visit<O: Counterpart>(&mut self, table: &Table<O, D>) -> Result<()>;
}

/// Visits them.
///
/// # Errors
/// The visitor's.
pub fn each_counterpart<D: Device>(registry: &Registry<D>, visitor: &mut impl Visit<D>) -> Result<()> {
    visitor.visit(&registry.linear)?;
    visitor.visit(&registry.rms_norm)?;
    visitor.visit(&registry.attention)?;
    visitor.visit(&registry.sample)
}

/// Names of the operations that the schema has too.
pub const OPS: [&str; 4] = [Linear::NAME, RmsNorm::NAME, Attention::NAME, Sample::NAME];

/// What a check of one case, and seconds of the kernel and of the reference, are in the schema's terms.
pub fn evaluation(
    report: &Report,
    seconds: Option<(f64, f64)>,
    environment: Environment,
    timestamp: String,
) -> Evaluation {
    let status = match report.verdict {
        Verdict::Passed => Status::Passed,
        Verdict::IncorrectShape => Status::IncorrectShape,
        Verdict::CompileError => Status::CompileError,
        Verdict::Timeout => Status::Timeout,
        Verdict::RuntimeError | Verdict::Unsupported => Status::RuntimeError,
        // The schema has no words for these; the log has.
        Verdict::IncorrectNumerical
        | Verdict::MutatedInput
        | Verdict::WroteOutside
        | Verdict::UnwrittenOutput
        | Verdict::Nondeterministic => Status::IncorrectNumerical,
    };
    let worst = match (&report.worst, report.failure.as_ref().and_then(|f| f.element.as_ref())) {
        (_, Some(element)) => {
            let error = (element.value - element.expected).abs();
            Correctness {
                max_absolute_error: error,
                max_relative_error: if error == 0.0 { 0.0 } else { error / element.expected.abs() },
            }
        }
        (Some(worst), None) => {
            Correctness { max_absolute_error: worst.error, max_relative_error: worst.relative_error }
        }
        (None, None) => Correctness::default(),
    };
    let performance = seconds.filter(|_| status == Status::Passed).map(|(own, reference)| Performance {
        latency_ms: own * 1e3,
        reference_latency_ms: reference * 1e3,
        speedup_factor: reference / own,
    });
    Evaluation {
        status,
        environment,
        timestamp,
        log: report.to_string(),
        correctness: matches!(status, Status::Passed | Status::IncorrectNumerical).then_some(worst),
        performance,
    }
}
