//! Every CPU kernel against the oracle, through the seam.
//!
//! Inputs are rounded to the storage dtype first, so oracle and kernel see the same numbers. Outputs start as
//! NaN between canaries; inputs must come back unchanged. Each budget states the roundings that it counts.

mod attention;
mod common;
mod rows;
mod sampling;
