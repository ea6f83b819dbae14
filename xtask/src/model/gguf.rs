//! Reader of GGUF version 3, the file format of ggml: metadata, then tensors.
//!
//! Every length and offset in the file is checked before it is used: a damaged file is an error that names the
//! field, never a panic.
//!
//! Source: the GGUF specification in ggml's `docs/gguf.md`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use super::dequant::Format;

/// A parsed file; tensor data stay where they are.
pub struct Gguf<'a> {
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, Tensor<'a>>,
}

/// A metadata value; integers are widened.
#[derive(Debug, PartialEq)]
pub enum Value {
    /// u8, u16, u32 or u64.
    Unsigned(u64),
    /// i8, i16, i32 or i64.
    Signed(i64),
    /// f32.
    F32(f32),
    /// f64.
    F64(f64),
    /// One byte, 0 or 1.
    Bool(bool),
    /// UTF-8.
    String(String),
    /// Elements of one type, which is no array.
    Array(Vec<Value>),
}

/// A tensor of known format whose data lie within the file.
#[derive(Debug, PartialEq)]
pub struct Tensor<'a> {
    /// Row-major, the slowest dimension first (the file has the fastest first).
    pub shape: Vec<usize>,
    /// How the values are stored.
    pub format: Format,
    /// Whole blocks, as many as `shape` needs.
    pub blocks: &'a [u8],
}

impl<'a> Gguf<'a> {
    /// Parses a whole file.
    ///
    /// # Errors
    /// If the file is not GGUF 3, is truncated, has a duplicate or malformed field, a tensor in a format that
    /// [`Format`] does not know, or one that lies outside the file.
    pub fn parse(file: &'a [u8]) -> Result<Self> {
        let mut r = Reader { file, at: 0, field: "magic".into() };
        ensure!(r.take(4)? == b"GGUF", "gguf: the file does not begin with \"GGUF\"");
        let version = r.field("version").u32()?;
        ensure!(version == 3, "gguf: version is {version}, expected 3");
        let tensor_count = r.field("tensor count").u64()?;
        let metadata_count = r.field("metadata count").u64()?;

        let mut metadata = BTreeMap::new();
        for i in 0..metadata_count {
            let key = r.field(format!("metadata key {i}")).string()?;
            let value = r.field(format!("metadata {key}")).value()?;
            ensure!(metadata.insert(key.clone(), value).is_none(), "gguf: metadata {key} occurs twice");
        }
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(&Value::Unsigned(n)) if n.is_power_of_two() => n,
            Some(other) => bail!("gguf: metadata general.alignment is {other:?}, expected a power of two"),
        };

        let mut found = Vec::new();
        for i in 0..tensor_count {
            let name = r.field(format!("name of tensor {i}")).string()?;
            let (shape, format) = r.field(format!("tensor {name}")).tensor_type()?;
            found.push((name, shape, format, r.u64()?));
        }
        let data_at = (r.at as u64).next_multiple_of(alignment);

        let mut tensors = BTreeMap::new();
        for (name, shape, format, offset) in found {
            ensure!(
                offset.is_multiple_of(alignment),
                "gguf: tensor {name}: offset {offset} is not a multiple of {alignment}"
            );
            let blocks = blocks(file, &shape, format, data_at.saturating_add(offset))
                .with_context(|| format!("gguf: tensor {name} of shape {shape:?}, {format:?}"))?;
            let twice = tensors.insert(name.clone(), Tensor { shape, format, blocks });
            ensure!(twice.is_none(), "gguf: tensor {name} occurs twice");
        }
        Ok(Self { metadata, tensors })
    }

    /// All tensors, by name.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor<'a>> {
        &self.tensors
    }

    /// A metadata value, if it is there.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// An unsigned integer.
    ///
    /// # Errors
    /// If `key` is missing or something else.
    pub fn unsigned(&self, key: &str) -> Result<usize> {
        self.typed(key, "an unsigned integer", |value| match value {
            Value::Unsigned(n) => usize::try_from(*n).ok(),
            _ => None,
        })
    }

    /// An f32 as the shortest decimal that denotes it: 1e-5, not 9.999999747378752e-6.
    ///
    /// # Errors
    /// If `key` is missing or something else.
    pub fn decimal(&self, key: &str) -> Result<f64> {
        self.typed(key, "an f32", |value| match value {
            Value::F32(x) => x.to_string().parse().ok(),
            _ => None,
        })
    }

    /// A string.
    ///
    /// # Errors
    /// If `key` is missing or something else.
    pub fn string(&self, key: &str) -> Result<&str> {
        self.typed(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A boolean.
    ///
    /// # Errors
    /// If `key` is missing or something else.
    pub fn bool(&self, key: &str) -> Result<bool> {
        self.typed(key, "a boolean", |value| match value {
            Value::Bool(b) => Some(*b),
            _ => None,
        })
    }

    /// An array of strings.
    ///
    /// # Errors
    /// If `key` is missing or something else.
    pub fn strings(&self, key: &str) -> Result<Vec<&str>> {
        self.array(key, "an array of strings", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// An array of signed integers.
    ///
    /// # Errors
    /// If `key` is missing or something else.
    pub fn signed_integers(&self, key: &str) -> Result<Vec<i64>> {
        self.array(key, "an array of signed integers", |value| match value {
            Value::Signed(n) => Some(*n),
            _ => None,
        })
    }

    fn array<'b, T>(
        &'b self,
        key: &str,
        wanted: &str,
        item: impl Fn(&'b Value) -> Option<T>,
    ) -> Result<Vec<T>> {
        self.typed(key, wanted, |value| match value {
            Value::Array(items) => items.iter().map(&item).collect(),
            _ => None,
        })
    }

    fn typed<'b, T>(&'b self, key: &str, wanted: &str, cast: impl Fn(&'b Value) -> Option<T>) -> Result<T> {
        let value = self.get(key).with_context(|| format!("gguf: metadata {key} is missing"))?;
        cast(value).with_context(|| format!("gguf: metadata {key} is not {wanted}"))
    }
}

/// The blocks of a tensor that begins at byte `at` of `file`.
fn blocks<'a>(file: &'a [u8], shape: &[usize], format: Format, at: u64) -> Result<&'a [u8]> {
    let (block_values, block_bytes) = format.block();
    let row = shape.last().copied().unwrap_or(1);
    ensure!(row.is_multiple_of(block_values), "rows of {row} values, expected a multiple of {block_values}");
    let bytes = shape
        .iter()
        .try_fold(1usize, |values, &extent| values.checked_mul(extent))
        .and_then(|values| (values / block_values).checked_mul(block_bytes))
        .context("more bytes than can be counted")?;
    usize::try_from(at)
        .ok()
        .and_then(|at| file.get(at..)?.get(..bytes))
        .with_context(|| format!("needs {bytes} bytes at {at}, but the file has {}", file.len()))
}

/// A position in the file and the name, for errors, of what is being read there.
struct Reader<'a> {
    file: &'a [u8],
    at: usize,
    field: String,
}

impl<'a> Reader<'a> {
    fn field(&mut self, name: impl Into<String>) -> &mut Self {
        self.field = name.into();
        self
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8]> {
        let left = &self.file[self.at..];
        let Some(taken) = left.get(..bytes) else {
            let (field, at, left) = (&self.field, self.at, left.len());
            bail!("gguf: {field}: needs {bytes} bytes at {at}, but {left} are left");
        };
        self.at += bytes;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("take gives N bytes"))
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length or an extent.
    fn usize(&mut self) -> Result<usize> {
        let n = self.u64()?;
        usize::try_from(n).with_context(|| format!("gguf: {}: {n} is out of range", self.field))
    }

    fn string(&mut self) -> Result<String> {
        let len = self.usize()?;
        let bytes = self.take(len)?;
        let text = std::str::from_utf8(bytes).with_context(|| format!("gguf: {}", self.field))?;
        Ok(text.to_owned())
    }

    fn value(&mut self) -> Result<Value> {
        const ARRAY: u32 = 9;
        match self.u32()? {
            ARRAY => {
                let item = self.u32()?;
                ensure!(item != ARRAY, "gguf: {}: an array of arrays is not handled", self.field);
                // Each item takes at least a byte, so a wrong count ends in "are left", not in exhausted memory.
                let len = self.usize()?;
                (0..len).map(|_| self.scalar(item)).collect::<Result<_>>().map(Value::Array)
            }
            number => self.scalar(number),
        }
    }

    fn scalar(&mut self, number: u32) -> Result<Value> {
        Ok(match number {
            0 => Value::Unsigned(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Signed(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Unsigned(self.u32()?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.array()?).into()),
            6 => Value::F32(f32::from_le_bytes(self.array()?)),
            7 => match self.array()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [byte] => bail!("gguf: {}: a boolean is {byte}, expected 0 or 1", self.field),
            },
            8 => Value::String(self.string()?),
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.array()?)),
            12 => Value::F64(f64::from_le_bytes(self.array()?)),
            other => bail!("gguf: {}: value type {other}, expected 0 to 12", self.field),
        })
    }

    fn tensor_type(&mut self) -> Result<(Vec<usize>, Format)> {
        let dimensions = self.u32()?;
        ensure!(
            (1..=4).contains(&dimensions),
            "gguf: {}: {dimensions} dimensions, expected 1 to 4",
            self.field
        );
        let mut shape = (0..dimensions).map(|_| self.usize()).collect::<Result<Vec<_>>>()?;
        shape.reverse();
        let number = self.u32()?;
        let format = Format::from_ggml(number).with_context(|| {
            format!("gguf: {}: ggml type {number} is not handled (0 F32, 3 Q4_1 and 8 Q8_0 are)", self.field)
        })?;
        Ok((shape, format))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    fn entry(key: &str, number: u32, value: &[u8]) -> Vec<u8> {
        [&string(key), &number.to_le_bytes()[..], value].concat()
    }

    /// Extents fastest first, as in the file.
    fn tensor(name: &str, extents: &[u64], number: u32, offset: u64) -> Vec<u8> {
        let mut out = [&string(name)[..], &(extents.len() as u32).to_le_bytes()].concat();
        extents.iter().for_each(|extent| out.extend(extent.to_le_bytes()));
        out.extend(number.to_le_bytes());
        out.extend(offset.to_le_bytes());
        out
    }

    fn file(entries: &[Vec<u8>], tensors: &[Vec<u8>], data: &[u8]) -> Vec<u8> {
        let mut out = [&b"GGUF"[..], &3u32.to_le_bytes()].concat();
        out.extend((tensors.len() as u64).to_le_bytes());
        out.extend((entries.len() as u64).to_le_bytes());
        out.extend(entries.concat());
        out.extend(tensors.concat());
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }

    fn good() -> Vec<u8> {
        let names = [&8u32.to_le_bytes()[..], &2u64.to_le_bytes(), &string("a"), &string("β")].concat();
        let types = [&5u32.to_le_bytes()[..], &1u64.to_le_bytes(), &(-3i32).to_le_bytes()].concat();
        let entries = [
            entry("layers", 4, &30u32.to_le_bytes()),
            entry("eps", 6, &1e-5f32.to_le_bytes()),
            entry("tied", 7, &[1]),
            entry("name", 8, &string("small")),
            entry("tokens", 9, &names),
            entry("types", 9, &types),
        ];
        let tensors = [tensor("norm", &[3], 0, 0), tensor("w", &[32, 2], 8, 32)];
        file(&entries, &tensors, &(0..100).collect::<Vec<u8>>())
    }

    fn error(file: &[u8]) -> String {
        format!("{:#}", Gguf::parse(file).err().expect("must not parse"))
    }

    #[test]
    fn reads_metadata_and_tensors() {
        let bytes = good();
        let gguf = Gguf::parse(&bytes).unwrap();
        assert_eq!(gguf.unsigned("layers").unwrap(), 30);
        assert_eq!(gguf.decimal("eps").unwrap(), 1e-5);
        assert!(gguf.bool("tied").unwrap());
        assert_eq!(gguf.string("name").unwrap(), "small");
        assert_eq!(gguf.strings("tokens").unwrap(), ["a", "β"]);
        assert_eq!(gguf.signed_integers("types").unwrap(), [-3]);
        let data: Vec<u8> = (0..100).collect();
        let norm = Tensor { shape: vec![3], format: Format::F32, blocks: &data[..12] };
        let w = Tensor { shape: vec![2, 32], format: Format::Q8_0, blocks: &data[32..] };
        assert_eq!(gguf.tensors(), &BTreeMap::from([("norm".into(), norm), ("w".into(), w)]));
    }

    #[test]
    fn a_missing_or_mistyped_key_is_named() {
        let bytes = good();
        let gguf = Gguf::parse(&bytes).unwrap();
        assert_eq!(gguf.unsigned("heads").unwrap_err().to_string(), "gguf: metadata heads is missing");
        let error = gguf.unsigned("name").unwrap_err().to_string();
        assert_eq!(error, "gguf: metadata name is not an unsigned integer");
        let error = gguf.strings("types").unwrap_err().to_string();
        assert_eq!(error, "gguf: metadata types is not an array of strings");
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = good();
        for len in 0..bytes.len() {
            assert!(error(&bytes[..len]).starts_with("gguf: "), "{len} bytes");
        }
    }

    #[test]
    fn no_changed_byte_panics() {
        let bytes = good();
        for at in 0..bytes.len() {
            for byte in [0x00, 0x7f, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = byte;
                if let Err(error) = Gguf::parse(&changed) {
                    assert!(format!("{error:#}").starts_with("gguf: "), "byte {at} = {byte}: {error:#}");
                }
            }
        }
    }

    #[test]
    fn errors_name_the_field() {
        let one = |tensor: Vec<u8>| error(&file(&[], &[tensor], &[0; 64]));
        assert_eq!(error(b"GGML\x03\0\0\0"), "gguf: the file does not begin with \"GGUF\"");
        assert_eq!(error(b"GGUF\x02\0\0\0"), "gguf: version is 2, expected 3");
        assert_eq!(
            one(tensor("w", &[256], 14, 0)),
            "gguf: tensor w: ggml type 14 is not handled (0 F32, 3 Q4_1 and 8 Q8_0 are)"
        );
        assert_eq!(
            one(tensor("w", &[48, 2], 8, 0)),
            "gguf: tensor w of shape [2, 48], Q8_0: rows of 48 values, expected a multiple of 32"
        );
        assert_eq!(
            one(tensor("w", &[1 << 32, 1 << 32], 0, 0)),
            "gguf: tensor w of shape [4294967296, 4294967296], F32: more bytes than can be counted"
        );
        assert_eq!(
            one(tensor("w", &[17], 0, 0)),
            "gguf: tensor w of shape [17], F32: needs 68 bytes at 64, but the file has 128"
        );
        assert_eq!(one(tensor("w", &[1], 0, 8)), "gguf: tensor w: offset 8 is not a multiple of 32");
        assert_eq!(one(tensor("w", &[1; 5], 0, 0)), "gguf: tensor w: 5 dimensions, expected 1 to 4");
        let twice = [entry("k", 7, &[0]), entry("k", 7, &[0])];
        assert_eq!(error(&file(&twice, &[], &[])), "gguf: metadata k occurs twice");
        let many = [&0u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat();
        assert!(
            error(&file(&[entry("k", 9, &many)], &[], &[])).starts_with("gguf: metadata k: needs 1 bytes at")
        );
    }
}
