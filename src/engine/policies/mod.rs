//! The scheduling policies, by name. Further ones live outside this crate and are added with [`Policies::add`].

mod chunked;
mod fcfs;
mod room;

pub use chunked::Chunked;
pub use fcfs::Fcfs;
pub use room::Room;

use super::scheduler::Scheduler;
use crate::error::{Error, Result};

/// Makes a policy.
pub type MakeScheduler = fn() -> Box<dyn Scheduler>;

/// Policies that can be chosen by name.
#[derive(Clone, Debug)]
pub struct Policies(Vec<(&'static str, MakeScheduler)>);

impl Default for Policies {
    /// Those of this crate.
    fn default() -> Self {
        Self(vec![("chunked", || Box::new(Chunked)), ("fcfs", || Box::new(Fcfs))])
    }
}

impl Policies {
    /// Adds a policy, or replaces the one of that name.
    pub fn add(&mut self, name: &'static str, make: MakeScheduler) {
        self.0.retain(|(known, _)| *known != name);
        self.0.push((name, make));
    }

    /// The names that exist.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|(name, _)| *name)
    }

    /// Makes the policy of that name.
    ///
    /// # Errors
    /// [`Error::UnknownName`], with the names that exist.
    pub fn make(&self, name: &str) -> Result<Box<dyn Scheduler>> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map(|(_, make)| make()).ok_or_else(|| Error::UnknownName {
            kind: "scheduler".into(),
            name: name.into(),
            known: self.names().collect::<Vec<_>>().join(", "),
        })
    }
}

/// One of this crate's policies.
///
/// # Errors
/// As [`Policies::make`].
pub fn by_name(name: &str) -> Result<Box<dyn Scheduler>> {
    Policies::default().make(name)
}
