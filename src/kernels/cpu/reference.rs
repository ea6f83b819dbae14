//! The oracle behind the seam: each operation widened to f32, computed by `lathe-reference`, rounded back.

use super::super::Registry;
use crate::device::Cpu;

/// A registry with the reference kernels alone.
pub fn registry() -> Registry<Cpu> {
    Registry {
        embedding: vec![],
        linear: vec![],
        rms_norm: vec![],
        add_rms_norm: vec![],
        rope: vec![],
        kv_store: vec![],
        attention: vec![],
        activation: vec![],
        logits: vec![],
        sample: vec![],
    }
}
