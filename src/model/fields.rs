//! Reads fields of a JSON object with errors that name the file, the field, its value and what was wanted.

use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// A JSON object of the file `path`; a field that is `null` counts as absent, as in transformers.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    path: &'a Path,
    /// The field that holds this object, for messages; empty at the top.
    parent: &'a str,
    map: &'a Map<String, Value>,
}

/// The object at the top of the JSON file `path`.
pub(super) fn parse_object(path: &Path, json: &[u8]) -> Result<Map<String, Value>> {
    match serde_json::from_slice(json) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(Error::model(path, format!("holds {}, expected a JSON object", brief(&other)))),
        Err(error) => Err(Error::model(path, format!("not valid JSON: {error}"))),
    }
}

/// `value` as JSON, cut short for a message.
pub(super) fn brief(value: &Value) -> String {
    const LIMIT: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl<'a> Fields<'a> {
    pub(super) fn new(path: &'a Path, map: &'a Map<String, Value>) -> Self {
        Self { path, parent: "", map }
    }

    /// The field's value, unless absent or `null`.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether the field is there and `null`.
    pub(super) fn is_null(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_null)
    }

    /// The field as messages name it.
    fn name(&self, key: &str) -> String {
        if self.parent.is_empty() { key.to_owned() } else { format!("{}.{key}", self.parent) }
    }

    /// `field is value, expected want`.
    pub(super) fn wrong(&self, key: &str, got: &Value, want: impl std::fmt::Display) -> Error {
        Error::model(self.path, format!("{} is {}, expected {want}", self.name(key), brief(got)))
    }

    /// The error for a field that must be there.
    pub(super) fn missing(&self, key: &str, want: impl std::fmt::Display) -> Error {
        Error::model(self.path, format!("{} is missing, expected {want}", self.name(key)))
    }

    /// An integer within `range`.
    pub(super) fn integer(&self, key: &str, range: RangeInclusive<usize>) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let want = || format!("an integer in {}..={}", range.start(), range.end());
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| range.contains(n));
        number.map(Some).ok_or_else(|| self.wrong(key, value, want()))
    }

    /// An integer within `range` that must be there.
    pub(super) fn required(&self, key: &str, range: RangeInclusive<usize>) -> Result<usize> {
        let want = format!("an integer in {}..={}", range.start(), range.end());
        self.integer(key, range)?.ok_or_else(|| self.missing(key, want))
    }

    /// A number above 0 and at most `max`.
    pub(super) fn positive(&self, key: &str, max: f64) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_f64().filter(|&n| n > 0.0 && n <= max);
        number.map(Some).ok_or_else(|| self.wrong(key, value, format!("a number above 0, at most {max}")))
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(key, value, "true or false"))
    }

    /// A string.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(key, value, "a string"))
    }

    /// A nested object.
    pub(super) fn object(&self, key: &'a str) -> Result<Option<Fields<'a>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let map = value.as_object().ok_or_else(|| self.wrong(key, value, "an object"))?;
        Ok(Some(Fields { path: self.path, parent: key, map }))
    }

    /// Token ids below `vocab_size`: one integer or a list of them.
    pub(super) fn token_ids(&self, key: &str, vocab_size: usize) -> Result<Vec<u32>> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let items = match value {
            Value::Array(items) => items.as_slice(),
            one => std::slice::from_ref(one),
        };
        let id = |item: &Value| item.as_u64().filter(|&id| id < vocab_size as u64).map(|id| id as u32);
        let want = || format!("token ids below vocab_size {vocab_size}");
        items.iter().map(|item| id(item).ok_or_else(|| self.wrong(key, value, want()))).collect()
    }
}
