//! Writing a Hugging Face folder: JSON files and one streamed `model.safetensors`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use safetensors::tensor::{Dtype, View};
use serde_json::Value;

/// A bf16 tensor that is computed when it is written, so that one at a time is in memory.
pub struct Tensor<'a> {
    /// Hugging Face name.
    pub name: String,
    /// Row-major.
    pub shape: Vec<usize>,
    /// All elements, little-endian, two bytes each.
    pub bf16: Box<dyn Fn() -> Vec<u8> + 'a>,
}

impl View for &Tensor<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::BF16
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = (self.bf16)();
        assert_eq!(bytes.len(), self.data_len(), "{}: bytes of shape {:?}", self.name, self.shape);
        bytes.into()
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * 2
    }
}

/// Writes `model.safetensors`.
///
/// # Errors
/// If it cannot be written.
pub fn write_safetensors(dir: &Path, tensors: Vec<Tensor>) -> Result<()> {
    let path = dir.join("model.safetensors");
    let context = || format!("cannot write {}", path.display());
    // The safetensors crate writes a temporary file that only its owner may read; keep the usual mode.
    let mode = fs::File::create(&path).and_then(|file| file.metadata()).with_context(context)?.permissions();
    let metadata = HashMap::from([("format".into(), "pt".into())]); // transformers refuses a file without it
    let tensors = tensors.iter().map(|tensor| (&tensor.name, tensor));
    safetensors::serialize_to_file(tensors, Some(metadata), &path).with_context(context)?;
    fs::set_permissions(&path, mode).with_context(context)
}

/// Writes an indented JSON file.
///
/// # Errors
/// If it cannot be written.
pub fn write_json(dir: &Path, name: &str, value: &Value) -> Result<()> {
    let path = dir.join(name);
    let text = serde_json::to_string_pretty(value)? + "\n";
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
