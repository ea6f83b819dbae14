//! The lab: what a researcher runs on top of the engine. Nothing here knows a kernel by name.
//!
//! For kernels, in reading order: [`cases`] (what the lab knows of each operation), [`check`] (is a kernel right?),
//! [`certificate`] (does a sampler follow its distribution?).
//! For schedulers: [`policies`] and [`simulate`]. For reports: [`svg`].

pub mod cases;
pub mod certificate;
pub mod check;
mod draw;
mod loaded;
pub mod policies;
mod shrink;
pub mod simulate;
pub mod svg;
