//! One typed error. Each names the thing, what it got and what was wanted.

use std::path::PathBuf;

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor's extents disagree with the others' or with the op's contract.
    #[error("{op}: {tensor} has shape {got:?}, expected {want:?}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The argument.
        tensor: &'static str,
        /// Its shape.
        got: Vec<usize>,
        /// The shape that the other arguments ask for.
        want: Vec<usize>,
    },
    /// An argument breaks the op's contract in another way than its shape.
    #[error("{op}: {what} is {got}, expected {want}")]
    Argument {
        /// The operation.
        op: &'static str,
        /// The argument or the property of it.
        what: &'static str,
        /// Its value.
        got: String,
        /// What the contract wants.
        want: String,
    },
    /// A kernel cannot run this shape, dtype or device; there is no silent fallback.
    #[error("{op}: kernel {kernel} does not support {reason}")]
    Unsupported {
        /// The operation.
        op: &'static str,
        /// The kernel that was asked.
        kernel: &'static str,
        /// What it lacks.
        reason: String,
    },
    /// No such kernel, scheduler, model, … by that name.
    #[error("unknown {kind} {name:?}; known: {known}")]
    UnknownName {
        /// What was looked up: "kernel for attention.decode", "scheduler", …
        kind: String,
        /// The name that was given.
        name: String,
        /// The names that exist, comma-separated.
        known: String,
    },
    /// A field of a configuration (engine, TOML file, command line) has a value that cannot work.
    #[error("{field} is {got}, expected {want}")]
    Config {
        /// The field, as its user writes it.
        field: String,
        /// The value it has.
        got: String,
        /// What would do.
        want: String,
    },
    /// A request was refused; nothing of it was queued and other requests are untouched.
    #[error("request refused: {field} is {got}, expected {want}")]
    Request {
        /// The parameter or part of the request.
        field: String,
        /// Its value.
        got: String,
        /// What would do.
        want: String,
    },
    /// A model folder's file is missing, damaged or in disagreement with another.
    #[error("{path}: {what}")]
    Model {
        /// The file (or folder) at fault.
        path: PathBuf,
        /// Field or tensor, value, and what was wanted.
        what: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A scheduling policy returned a plan that breaks a rule; the engine's state is unchanged.
    #[error("scheduler {scheduler}: plan breaks the rule \"{rule}\": {detail}")]
    Plan {
        /// The policy.
        scheduler: &'static str,
        /// The rule, in words.
        rule: &'static str,
        /// The sequence and the numbers.
        detail: String,
    },
    /// A kernel's source does not compile.
    #[error("{kernel} does not compile:\n{log}")]
    Compile {
        /// The kernel, or the file it is in.
        kernel: String,
        /// What the compiler said, verbatim.
        log: String,
    },
    /// A device (memory, driver) failed.
    #[error("{device}: {what}")]
    Device {
        /// The device.
        device: String,
        /// What it said, verbatim.
        what: String,
    },
}

impl Error {
    /// An [`Error::Io`] for `path`.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// An [`Error::Model`] for `path`.
    pub fn model(path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self::Model { path: path.into(), what: what.into() }
    }

    /// An [`Error::Request`]: `field` has `got`, `want` would do.
    pub fn request(field: impl Into<String>, got: impl ToString, want: impl Into<String>) -> Self {
        Self::Request { field: field.into(), got: got.to_string(), want: want.into() }
    }

    /// An [`Error::Config`]: `field` has `got`, `want` would do.
    pub fn config(field: impl Into<String>, got: impl ToString, want: impl Into<String>) -> Self {
        Self::Config { field: field.into(), got: got.to_string(), want: want.into() }
    }
}
