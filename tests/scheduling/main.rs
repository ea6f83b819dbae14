//! The engine without a model: sequences, KV blocks, policies and the step loop against a fake executor.

mod fake;
mod faults;
mod params;
mod plans;
mod requests;
mod traces;
