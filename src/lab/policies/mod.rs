//! Scheduling policies beyond the two that the engine needs, one a file. [`all`] has them by name.
//!
//! Those that rank requests (`sjf`, `srpt`, `priority`, `mlfq`, `deadline`) differ in one line, the rank, and share
//! [`Ranked`].

mod deadline;
mod mlfq;
mod no_evict;
mod prefix_aware;
mod priority;
mod ranked;
mod room;
mod running_first;
mod sjf;
mod srpt;
mod vtc;

pub use deadline::Deadline;
pub use mlfq::Mlfq;
pub use no_evict::NoEvict;
pub use prefix_aware::PrefixAware;
pub use priority::Priority;
pub use ranked::{Ranked, predicted_left};
pub use running_first::RunningFirst;
pub use sjf::Sjf;
pub use srpt::Srpt;
pub use vtc::Vtc;

use crate::engine::policies::Policies;

/// The engine's policies and those of this module.
pub fn all() -> Policies {
    let mut policies = Policies::default();
    policies.add("running_first", || Box::new(RunningFirst));
    policies.add("sjf", || Box::<Sjf>::default());
    policies.add("srpt", || Box::<Srpt>::default());
    policies.add("priority", || Box::<Priority>::default());
    policies.add("mlfq", || Box::<Mlfq>::default());
    policies.add("vtc", || Box::<Vtc>::default());
    policies.add("prefix_aware", || Box::<PrefixAware>::default());
    policies.add("deadline", || Box::<Deadline>::default());
    policies.add("no_evict", || Box::new(NoEvict));
    policies
}
