//! CPU kernels: `reference` for every operation (the oracle behind the seam), and the fast ones.

mod linear;
mod reference;

use half::{bf16, f16};

use super::Registry;
use crate::device::{Cpu, Element};

impl Registry<Cpu> {
    /// Every CPU kernel of this crate.
    pub fn cpu() -> Self {
        let mut registry = reference::registry();
        linear::register(&mut registry.linear);
        registry
    }
}

/// An element that stands for a real number.
pub(crate) trait Float: Element {
    /// Exact.
    fn to_f32(self) -> f32;
    /// Rounded to nearest, ties to even.
    fn from_f32(v: f32) -> Self;
}

impl Float for f32 {
    fn to_f32(self) -> f32 {
        self
    }
    fn from_f32(v: f32) -> Self {
        v
    }
}

impl Float for bf16 {
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
    fn from_f32(v: f32) -> Self {
        bf16::from_f32(v)
    }
}

impl Float for f16 {
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    fn from_f32(v: f32) -> Self {
        f16::from_f32(v)
    }
}
