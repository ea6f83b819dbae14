//! What a check found, for people and for programs.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    judge::{Element, Finding},
    map::ErrorMap,
};
use crate::{error::Result, lab::certificate::Certificate};

/// What became of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// Right in every case that it supports.
    Passed,
    /// A value is further from the oracle's than rounding explains.
    IncorrectNumerical,
    /// It refused extents that the operation's contract allows and that it said to support.
    IncorrectShape,
    /// An input changed.
    MutatedInput,
    /// Memory outside the outputs changed.
    WroteOutside,
    /// A part of an output was not written.
    UnwrittenOutput,
    /// Two runs on the same data gave different bits.
    Nondeterministic,
    /// It supports none of the cases.
    Unsupported,
    /// Its source does not compile.
    CompileError,
    /// It panicked, or the device reported an error.
    RuntimeError,
    /// It did not finish in time.
    Timeout,
}

impl Verdict {
    /// Whether the device may be unusable after this.
    pub fn ends_the_device(self) -> bool {
        matches!(self, Self::CompileError | Self::RuntimeError | Self::Timeout)
    }

    /// Whether a program that checks kernels should succeed. A kernel for other dtypes or devices is no failure.
    pub fn is_fine(self) -> bool {
        matches!(self, Self::Passed | Self::Unsupported)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "PASSED",
            Self::IncorrectNumerical => "INCORRECT_NUMERICAL",
            Self::IncorrectShape => "INCORRECT_SHAPE",
            Self::MutatedInput => "MUTATED_INPUT",
            Self::WroteOutside => "WROTE_OUTSIDE",
            Self::UnwrittenOutput => "UNWRITTEN_OUTPUT",
            Self::Nondeterministic => "NONDETERMINISTIC",
            Self::Unsupported => "UNSUPPORTED",
            Self::CompileError => "COMPILE_ERROR",
            Self::RuntimeError => "RUNTIME_ERROR",
            Self::Timeout => "TIMEOUT",
        })
    }
}

/// What a check of one kernel found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The operation.
    pub op: String,
    /// The kernel.
    pub kernel: String,
    /// The device it ran on.
    pub device: String,
    /// What became of it.
    pub verdict: Verdict,
    /// Cases that ran.
    pub cases: usize,
    /// Those of them that failed.
    pub failed: usize,
    /// Cases that the kernel does not support.
    pub unsupported: usize,
    /// Why it supports nothing, where that is so.
    pub reason: Option<String>,
    /// The first failure, shrunk.
    pub failure: Option<Failure>,
    /// The element closest to its budget over all cases that passed.
    pub worst: Option<Worst>,
    /// Errors of floating-point outputs over all cases that passed, in units in the last place of their dtype.
    pub ulps: Option<Quantiles>,
    /// A sampler's statistics, where the cases passed.
    pub certificate: Option<Certificate>,
    /// Where the errors are: of the largest case that passed, and of the first failure before it was shrunk. Only if
    /// asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maps: Vec<ErrorMap>,
    /// What the check took.
    pub seconds: f64,
}

/// A failure in its smallest form.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// The case, as `--case` takes it.
    pub case: Value,
    /// What is wrong.
    pub message: String,
    /// The element at fault, if it is one.
    pub element: Option<Element>,
}

/// The element that came closest to its budget.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Worst {
    /// The case that it is of.
    pub case: Value,
    /// The element.
    pub element: Element,
    /// The largest error in that output.
    pub error: f64,
    /// The largest error as a share of the expected value, in that output.
    pub relative_error: f64,
    /// The naive kernel's largest error there; of a correctly rounded result where there is no naive kernel.
    pub naive_error: f64,
    /// The element's error beyond half a unit in the last place, as a share of its budget.
    pub share: f64,
}

/// How errors are distributed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Half are at most this.
    pub p50: f32,
    /// 90% are.
    pub p90: f32,
    /// 99% are.
    pub p99: f32,
    /// All are.
    pub max: f32,
}

impl Quantiles {
    /// Of these values, none of them NaN; `None` if there are none.
    pub fn of(mut values: Vec<f32>) -> Option<Self> {
        let last = values.len().checked_sub(1)?;
        let mut at =
            |share: f64| *values.select_nth_unstable_by((share * last as f64) as usize, f32::total_cmp).1;
        Some(Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0) })
    }
}

impl Report {
    /// Nothing has run yet.
    pub(super) fn new(op: &str, kernel: &str, device: String) -> Self {
        Self {
            op: op.into(),
            kernel: kernel.into(),
            device,
            verdict: Verdict::Unsupported,
            cases: 0,
            failed: 0,
            unsupported: 0,
            reason: None,
            failure: None,
            worst: None,
            ulps: None,
            certificate: None,
            maps: Vec::new(),
            seconds: 0.0,
        }
    }

    /// The report of a check that did not come to an end: the program died, and this is how.
    pub fn died(op: &str, kernel: &str, device: &str, message: String) -> Self {
        let mut report = Self::new(op, kernel, device.into());
        let finding = Finding::of(Verdict::RuntimeError, message);
        report.failed = 1;
        report.fail(Value::Null, finding);
        report
    }

    /// Takes up what the statistics of a kernel that passed its cases show.
    pub(super) fn certify(&mut self, certificate: Result<Option<Certificate>>) {
        let fault = match certificate {
            Ok(certificate) => {
                self.certificate = certificate;
                let fault = self.certificate.as_ref().and_then(|c| c.fault.clone());
                fault.map(|message| (Verdict::IncorrectNumerical, message))
            }
            Err(error) => Some((Verdict::RuntimeError, error.to_string())),
        };
        if let Some((verdict, message)) = fault {
            self.fail(Value::Null, Finding::of(verdict, message));
        }
    }

    pub(super) fn fail(&mut self, case: Value, finding: Finding) {
        self.verdict = finding.verdict;
        self.reason = None;
        self.failure = Some(Failure { case, message: finding.message, element: finding.element });
    }

    /// The arguments of `lathe` that repeat just the failing case, after `check`.
    pub fn repeat(&self) -> Option<String> {
        let case = Some(&self.failure.as_ref()?.case).filter(|case| !case.is_null())?;
        Some(format!("{}/{} --case '{case}'", self.op, self.kernel))
    }
}

/// One line, and more for a failure.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("{}/{}", self.op, self.kernel);
        write!(f, "{:19} {name:28} {:4} cases", self.verdict.to_string(), self.cases)?;
        if self.failed > 0 {
            write!(f, ", {} failed", self.failed)?;
        }
        if self.unsupported > 0 {
            write!(f, ", {} unsupported", self.unsupported)?;
        }
        if let Some(q) = self.ulps {
            write!(f, "; ulp p50 {:.2} p90 {:.2} p99 {:.2}", q.p50, q.p90, q.p99)?;
        }
        if let Some(w) = &self.worst {
            let share = w.share * 100.0;
            write!(
                f,
                "; worst error {:.1e} (naive {:.1e}), {share:.0}% of the budget",
                w.error, w.naive_error
            )?;
        }
        write!(f, "; {:.1} s", self.seconds)?;
        if let Some(c) = &self.certificate {
            let fine =
                if c.fault.is_none() { "the distribution is right" } else { "the distribution is wrong" };
            write!(f, "\n    {fine}: {} draws of {} settings, {} tests, ", c.draws, c.settings, c.tests)?;
            let (p, bound, uniform) = (c.smallest_p, c.bonferroni, c.uniform_p);
            write!(f, "smallest p {p:.1e} (bound {bound:.1e}), p of their uniformity {uniform:.1e}")?;
        }
        if let Some(reason) = &self.reason {
            write!(f, "\n    does not support {reason}")?;
        }
        if let Some(failure) = &self.failure {
            for line in failure.message.lines() {
                write!(f, "\n    {line}")?;
            }
        }
        Ok(())
    }
}
