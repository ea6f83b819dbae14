//! What a researcher runs on top of the engine.

pub mod policies;
