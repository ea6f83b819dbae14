//! The lab: what a researcher runs on top of the engine. Nothing here knows a kernel by name.
//!
//! For kernels, in reading order: [`cases`] (what the lab knows of each operation), [`check`] (is a kernel right?).
//! For schedulers: [`policies`] and [`simulate`].

pub mod cases;
pub mod check;
mod draw;
mod loaded;
pub mod policies;
mod shrink;
pub mod simulate;
pub mod svg;
