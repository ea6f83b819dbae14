//! Folders damaged at random, by seed: each loads or is refused, without a panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;

use lathe::model::Detokenizer;
use lathe::model::chat::Message;
use serde_json::{Map, Value, json};

use super::{Folder, MEMORY, PEAK, read, safetensors, shard};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// Changes, inserts, removes or repeats bytes among the first `limit`, or cuts the file.
fn mutate_bytes(bytes: &mut Vec<u8>, limit: usize, random: &mut Random) {
    for _ in 0..=random.below(3) {
        let at = random.below(limit.min(bytes.len()).max(1)).min(bytes.len().saturating_sub(1));
        let end = (at + 1 + random.below(8)).min(bytes.len());
        match random.below(6) {
            _ if bytes.is_empty() => bytes.push(b'{'),
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = b"0123456789-{}[]\",:.eE\\"[random.below(22)],
            2 => bytes.insert(at, random.below(256) as u8),
            3 => drop(bytes.drain(at..end)),
            4 => bytes.extend_from_within(at..end),
            _ => bytes.truncate(at),
        }
    }
}

/// Replaces, removes or doubles a value somewhere in `value`.
fn mutate_json(value: &mut Value, random: &mut Random) {
    let children = value.as_object().map(Map::len).or(value.as_array().map(Vec::len)).unwrap_or(0);
    if children > 0 && random.below(8) > 0 {
        let index = random.below(children);
        let key = value.as_object().map(|map| map.keys().nth(index).unwrap().clone());
        match (value, key, random.below(8)) {
            (Value::Object(map), Some(key), 0) => drop(map.shift_remove(&key)),
            (Value::Object(map), Some(key), 1) => {
                let copy = map[&key].clone();
                map.insert(format!("{key}\0"), copy);
            }
            (Value::Object(map), Some(key), _) => mutate_json(&mut map[&key], random),
            (Value::Array(items), _, 0) => drop(items.remove(index)),
            (Value::Array(items), _, 1) => items.push(items[index].clone()),
            (Value::Array(items), _, _) => mutate_json(&mut items[index], random),
            _ => unreachable!("only objects and arrays have children"),
        }
        return;
    }
    *value = match random.below(12) {
        0 => json!(null),
        1 => json!(true),
        2 => json!(-1),
        3 => json!(0),
        4 => json!(u64::MAX),
        5 => json!(1e300),
        6 => json!(0.5),
        7 => json!(""),
        8 => json!("\u{10ffff}▁Ġ"),
        9 => json!([]),
        10 => json!({}),
        _ => json!([[{"type": "Sequence"}, 4_294_967_295u64]]),
    };
}

/// Opens the folder and uses all of it; the message if something is refused.
fn exercise(folder: &Folder) -> Result<(), String> {
    let text = |error: lathe::Error| error.to_string();
    let model = folder.open()?;
    for (name, _) in model.config.expected_tensors() {
        assert!(!model.weights.get(&name).unwrap().bytes().is_empty());
    }
    let template = model.chat_template().map_err(text)?;
    let prompt = template.render(&[Message::new("user", "The cat, é🙂")], true, &Map::new()).map_err(text)?;
    let tokenizer = model.tokenizer().map_err(text)?;
    let ids = tokenizer.encode(&prompt, true).map_err(text)?;
    assert!(ids.iter().all(|&id| id < 320), "{ids:?}");
    let mut detokenizer = Detokenizer::new(tokenizer.clone(), &ids).map_err(text)?;
    for id in ids.into_iter().chain(0..330) {
        detokenizer.push(id).map_err(text)?;
    }
    detokenizer.finish().map_err(text)?;
    Ok(())
}

/// Runs `mutate` on the contents of `name` with `count` seeds; each result loads or is refused with the folder's name
/// in the message. Gives how many were refused.
fn survives(name: &str, count: u64, mutate: impl Fn(Vec<u8>, &mut Random) -> Vec<u8>) -> usize {
    let folder = Folder::new("qwen3");
    if name.ends_with("index.json") {
        shard(&folder);
    }
    let original = read(&folder.path(name));
    exercise(&folder).unwrap();
    let mut refused = 0;
    for seed in 0..count {
        folder.write(name, mutate(original.clone(), &mut Random(seed)));
        let result = catch_unwind(AssertUnwindSafe(|| exercise(&folder)));
        match result.unwrap_or_else(|_| panic!("{name}, seed {seed}: panicked")) {
            Ok(()) => {}
            Err(error) => {
                refused += 1;
                let root = folder.0.path().display().to_string();
                assert!(error.starts_with(&root), "{name}, seed {seed}: {error}");
                assert!(error.len() < 2000, "{name}, seed {seed}: {error}");
            }
        }
    }
    assert!(PEAK.load(Relaxed) < MEMORY, "{name}: a peak of {} bytes", PEAK.load(Relaxed));
    refused
}

const JSON_FILES: [&str; 5] = [
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

#[test]
fn bytes_changed_at_random_never_panic() {
    for name in JSON_FILES {
        let refused = survives(name, 200, |mut bytes, random| {
            let limit = bytes.len();
            mutate_bytes(&mut bytes, limit, random);
            bytes
        });
        assert!(refused >= 50, "{name}: {refused} refused");
    }
    let refused = survives("model.safetensors", 300, |mut bytes, random| {
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let limit = if random.below(4) == 0 { 8 } else { 8 + header };
        mutate_bytes(&mut bytes, limit, random);
        bytes
    });
    assert!(refused >= 250, "model.safetensors: {refused} refused");
}

#[test]
fn values_changed_at_random_never_panic() {
    for name in JSON_FILES {
        survives(name, 400, |bytes, random| {
            let mut value: Value = serde_json::from_slice(&bytes).unwrap();
            mutate_json(&mut value, random);
            value.to_string().into_bytes()
        });
    }
    survives("model.safetensors", 200, |bytes, random| {
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut value: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
        mutate_json(&mut value, random);
        let map = value.as_object().cloned().unwrap_or_default();
        safetensors(&map, &bytes[8 + header..])
    });
}
