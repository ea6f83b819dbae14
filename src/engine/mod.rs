//! The engine: which tokens to compute next, and where their keys and values go. No device code.
//!
//! In reading order: [`sequence`], [`block_manager`], [`scheduler`] (the seam for policies), [`policies`],
//! [`plan_check`], [`executor`] (the seam for whoever computes), [`engine`].

pub mod block_manager;
#[allow(clippy::module_inception)]
pub mod engine;
pub mod executor;
mod graphs;
mod logprobs;
pub mod plan_check;
pub mod policies;
mod report;
pub mod runner;
mod sampling_input;
pub mod scheduler;
pub mod sequence;
mod staged;
mod step_input;

pub use block_manager::BlockManager;
pub use engine::{Engine, Vocabulary};
pub use executor::{Batch, Executor, Item, Sampled, StepResult};
pub use plan_check::PlanCheck;
pub use report::{Clock, Event, Stats};
pub use scheduler::{Budget, Need, Plan, Scheduler, View};
pub use sequence::{
    FinishReason, RequestId, RequestOptions, SeqId, Sequence, Sequences, Status, Timing, TokenLogprobs,
};
