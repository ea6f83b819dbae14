//! The lab: what a researcher runs on top of the engine. Nothing here knows a kernel by name.
//!
//! For kernels, in reading order: [`cases`] (what the lab knows of each operation), [`check`] (is a kernel right?),
//! [`certificate`] (does a sampler follow its distribution?), [`compare`] (two choices end to end), [`shadow`] (two
//! kernels on the same live tensors), [`timing`] (how long does it take?), [`count`] (what does a kernel move?), whose
//! table alone names kernels, [`report`] (all of it as one page) and [`exchange`] (workloads and results from and for
//! others).
//! For schedulers: [`policies`] and [`simulate`]. For pictures: [`svg`].

pub mod cases;
pub mod certificate;
pub mod check;
pub mod compare;
pub mod count;
mod draw;
pub mod exchange;
mod loaded;
pub mod policies;
pub mod report;
pub mod shadow;
mod shrink;
pub mod simulate;
pub mod svg;
pub mod timing;
