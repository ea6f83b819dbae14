//! Weights in safetensors files, mapped into memory and validated before use.
//!
//! Format: <https://huggingface.co/docs/safetensors>: eight bytes of header length (little-endian), a JSON header of
//! `name: {dtype, shape, data_offsets}`, then the tensors' bytes without holes. The header is read here rather than by
//! the `safetensors` crate because that does not say which tensor is wrong.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use serde::Deserialize;
use serde_json::Value;

use super::fields::{Fields, brief, parse_object};
use super::source::{Bytes, Source, is_plain_name};
use crate::{Error, Result};

/// All weights in one file.
pub(super) const SINGLE: &str = "model.safetensors";
/// The list of shards.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The dtypes that weights may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an F32.
    BF16,
}

impl Dtype {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// The value of this dtype nearest to `x` (ties to even).
    pub fn round(self, x: f32) -> f32 {
        match self {
            Self::F32 => x,
            Self::F16 => f16::from_f32(x).to_f32(),
            Self::BF16 => bf16::from_f32(x).to_f32(),
        }
    }
}

/// A model's tensors by name.
#[derive(Debug)]
pub struct Weights {
    shards: Vec<Shard>,
    /// The shard that holds each tensor, as an index into `shards`.
    shard_of: HashMap<String, usize>,
    /// What to name in the message about a tensor that is missing: the index, or the single file.
    path: PathBuf,
}

/// One tensor: little-endian elements, row-major. Keeps its file mapped.
#[derive(Clone, Debug)]
pub struct WeightView {
    /// Element type.
    pub dtype: Dtype,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    file: Bytes,
    range: Range<usize>,
}

impl WeightView {
    /// The elements' bytes, `shape.product() * dtype.size()` of them, aligned to `dtype.size()`.
    pub fn bytes(&self) -> &[u8] {
        &self.file[self.range.clone()]
    }
}

impl AsRef<[u8]> for WeightView {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

/// One safetensors file.
#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: Bytes,
    tensors: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    /// Within the file.
    range: Range<usize>,
}

impl Weights {
    /// Opens `model.safetensors`, else the shards that `model.safetensors.index.json` lists, else every
    /// `*.safetensors` of the source.
    ///
    /// # Errors
    /// [`Error::Model`] naming the file, and the tensor where there is one: no weights at all, a truncated file, a
    /// header that is too large or inconsistent (offsets out of range, overlapping or leaving holes; a shape that
    /// does not fit them), an unsupported dtype, a shard that is missing or outside the folder, a tensor that is in
    /// two shards or not in the shard that the index names. [`Error::Io`] if the system refuses.
    pub fn open(source: &Source) -> Result<Self> {
        if let Some(file) = source.map(SINGLE)? {
            let path = source.path(SINGLE);
            return Self::from_shards(vec![Shard::open(path.clone(), file)?], path);
        }
        if let Some(json) = source.read(INDEX)? {
            let path = source.path(INDEX);
            let map = weight_map(&path, &json)?;
            let mut names: Vec<&String> = map.values().collect();
            names.sort_unstable();
            names.dedup();
            let weights = Self::from_shards(open_shards(source, &path, &names)?, path)?;
            weights.check_index(source, &map)?;
            return Ok(weights);
        }
        let names = source.names_ending(".safetensors")?;
        let folder = source.path("");
        if names.is_empty() {
            return Err(Error::model(folder, format!("has no weights: expected {SINGLE} or {INDEX}")));
        }
        Self::from_shards(open_shards(source, &folder, &names.iter().collect::<Vec<_>>())?, folder)
    }

    /// The tensor `name`.
    ///
    /// # Errors
    /// [`Error::Model`] if there is none.
    pub fn get(&self, name: &str) -> Result<WeightView> {
        let shard = self.shard_of.get(name).map(|&index| &self.shards[index]);
        let shard = shard.ok_or_else(|| Error::model(&self.path, format!("tensor {name} is missing")))?;
        let entry = &shard.tensors[name];
        Ok(WeightView {
            dtype: entry.dtype,
            shape: entry.shape.clone(),
            file: shard.file.clone(),
            range: entry.range.clone(),
        })
    }

    /// Whether there is a tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.shard_of.contains_key(name)
    }

    /// Every tensor's name, in no particular order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.shard_of.keys().map(String::as_str)
    }

    /// The file that holds the tensor `name`, or the one that ought to, for messages.
    pub fn path_of(&self, name: &str) -> &Path {
        self.shard_of.get(name).map_or(&self.path, |&index| &self.shards[index].path)
    }

    /// Bytes of all tensors together.
    pub fn total_bytes(&self) -> usize {
        self.shards.iter().flat_map(|shard| shard.tensors.values()).map(|entry| entry.range.len()).sum()
    }

    fn from_shards(shards: Vec<Shard>, path: PathBuf) -> Result<Self> {
        let mut shard_of = HashMap::new();
        for (index, shard) in shards.iter().enumerate() {
            for name in shard.tensors.keys() {
                if let Some(other) = shard_of.insert(name.clone(), index) {
                    let other = shards[other].path.display();
                    return Err(Error::model(&shard.path, format!("tensor {name} is also in {other}")));
                }
            }
        }
        Ok(Self { shards, shard_of, path })
    }

    fn check_index(&self, source: &Source, map: &BTreeMap<String, String>) -> Result<()> {
        for (tensor, shard) in map {
            let path = source.path(shard);
            if self.shard_of.get(tensor).is_none_or(|&index| self.shards[index].path != path) {
                return Err(Error::model(
                    path,
                    format!("tensor {tensor} is missing, which the index says is here"),
                ));
            }
        }
        Ok(())
    }
}

/// The index's `weight_map`: tensor to shard.
pub(super) fn weight_map(path: &Path, json: &[u8]) -> Result<BTreeMap<String, String>> {
    const KEY: &str = "weight_map";
    let top = parse_object(path, json)?;
    let fields = Fields::new(path, &top);
    let value = fields.get(KEY).ok_or_else(|| fields.missing(KEY, "an object of tensor: file name"))?;
    let map = value.as_object().ok_or_else(|| fields.wrong(KEY, value, "an object of tensor: file name"))?;
    let shard = |tensor: &String, value: &Value| match value.as_str() {
        Some(name) if is_plain_name(name) => Ok((tensor.clone(), name.to_owned())),
        _ => {
            let got = brief(value);
            let want = "a file name within the model's folder";
            Err(Error::model(path, format!("{KEY}.{tensor} is {got}, expected {want}")))
        }
    };
    map.iter().map(|(tensor, value)| shard(tensor, value)).collect()
}

/// Opens the shards `names`, which `path` lists.
fn open_shards(source: &Source, path: &Path, names: &[&String]) -> Result<Vec<Shard>> {
    let open = |name: &&String| match source.map(name)? {
        Some(file) => Shard::open(source.path(name), file),
        None => Err(Error::model(source.path(name), format!("is missing, but {} lists it", path.display()))),
    };
    names.iter().map(open).collect()
}

/// A tensor as the header describes it.
#[derive(Deserialize)]
struct Described {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl Shard {
    fn open(path: PathBuf, file: Bytes) -> Result<Self> {
        let tensors = tensors(&path, &file)?;
        Ok(Self { path, file, tensors })
    }
}

/// Parses and checks the header of a safetensors file.
fn tensors(path: &Path, file: &[u8]) -> Result<BTreeMap<String, Entry>> {
    const LENGTH: usize = size_of::<u64>();
    const MAX_HEADER: u64 = 100_000_000; // as the safetensors library
    let wrong = |what: String| Error::model(path, what);

    let Some((length, rest)) = file.split_first_chunk::<LENGTH>() else {
        return Err(wrong(format!("is {} bytes, expected at least {LENGTH}: truncated?", file.len())));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(wrong(format!("says its header is {length} bytes, expected at most {MAX_HEADER}")));
    }
    let length = length as usize;
    let Some((header, data)) = rest.split_at_checked(length) else {
        let got = rest.len();
        return Err(wrong(format!("says its header is {length} bytes, but only {got} follow: truncated?")));
    };
    let mut entries = Vec::new();
    for (name, value) in parse_object(path, header)? {
        if name == "__metadata__" {
            continue;
        }
        let described = Described::deserialize(&value)
            .map_err(|error| wrong(format!("tensor {name} is {}: {error}", brief(&value))))?;
        entries.push((name, described));
    }
    entries.sort_by_key(|(_, described)| described.data_offsets);

    let mut tensors = BTreeMap::new();
    let mut end = 0;
    for (name, Described { dtype, shape, data_offsets: (from, to) }) in entries {
        if from != end || to < from {
            let want = format!("to start at {end}, where the tensor before it ends");
            return Err(wrong(format!("tensor {name} has data_offsets [{from}, {to}], expected it {want}")));
        }
        if to > data.len() {
            let got = data.len();
            return Err(wrong(format!(
                "tensor {name} ends at byte {to} of the data, which has {got}: truncated?"
            )));
        }
        end = to;
        let dtype = match dtype.as_str() {
            "F32" => Dtype::F32,
            "F16" => Dtype::F16,
            "BF16" => Dtype::BF16,
            _ => return Err(wrong(format!("tensor {name} has dtype {dtype}, expected F32, F16 or BF16"))),
        };
        let size = shape.iter().try_fold(dtype.size(), |size, &extent| size.checked_mul(extent));
        if size != Some(to - from) {
            let got = to - from;
            return Err(wrong(format!(
                "tensor {name} of shape {shape:?} and dtype {dtype:?} has {got} bytes"
            )));
        }
        // The format aligns tensors by padding its header; without that, elements could not be read in place.
        if data[from..to].as_ptr().align_offset(dtype.size()) != 0 {
            let at = LENGTH + length + from;
            let want = format!("a multiple of {}", dtype.size());
            return Err(wrong(format!("tensor {name} starts at byte {at}, expected {want} for {dtype:?}")));
        }
        let start = LENGTH + length;
        tensors.insert(name, Entry { dtype, shape, range: start + from..start + to });
    }
    if end != data.len() {
        let got = data.len();
        return Err(wrong(format!("has {got} bytes of data, but its tensors end at {end}")));
    }
    Ok(tensors)
}
