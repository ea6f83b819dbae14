//! Model folders: what the golden ones load as, and how damaged ones are refused.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use lathe::model::{ModelFiles, Source};
use serde_json::{Map, Value, json};

mod loads;
mod random;
mod refused;

/// Counts live bytes, to catch a damaged file that makes the loader ask for absurd memory.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(LIVE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps `dealloc`'s contract, and `alloc` took the block from the system.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// All tests of this file together stay below this; the largest input is 1 MB.
const MEMORY: usize = 256 << 20;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn golden(family: &str, name: &str) -> Vec<u8> {
    read(&repository("reference/golden/models").join(family).join(name))
}

/// A copy of a golden model, with a tokenizer and a chat template, to be damaged.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(family: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for name in ["config.json", "generation_config.json", "model.safetensors"] {
            folder.write(name, golden(family, name));
        }
        folder.write("tokenizer.json", read(&repository("tests/fixtures/byte_level.json")));
        let template = std::fs::read_to_string(repository("tests/fixtures/chat/qwen3_style.jinja")).unwrap();
        let config = json!({
            "chat_template": template, "bos_token": "<s>", "add_bos_token": true,
            "eos_token": {"content": "</s>", "lstrip": false, "special": true},
        });
        folder.write("tokenizer_config.json", config.to_string());
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    fn json(&self, name: &str) -> Map<String, Value> {
        serde_json::from_slice(&read(&self.path(name))).unwrap()
    }

    /// Sets the fields of `patch`; the string `"-"` removes one.
    fn patch(&self, name: &str, patch: &str) {
        let mut map = self.json(name);
        for (key, value) in serde_json::from_str::<Map<_, _>>(patch).unwrap() {
            match value == "-" {
                true => drop(map.shift_remove(&key)),
                false => drop(map.insert(key, value)),
            }
        }
        self.write(name, Value::Object(map).to_string());
    }

    /// Rewrites the header of `model.safetensors`; the data stays.
    fn header(&self, edit: impl FnOnce(&mut Map<String, Value>)) {
        let (mut header, data) = self.tensors();
        edit(&mut header);
        self.write("model.safetensors", safetensors(&header, &data));
    }

    fn tensors(&self) -> (Map<String, Value>, Vec<u8>) {
        let file = read(&self.path("model.safetensors"));
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        (serde_json::from_slice(&file[8..8 + length]).unwrap(), file[8 + length..].to_vec())
    }

    fn open(&self) -> Result<ModelFiles, String> {
        ModelFiles::open(Source::Folder(self.0.path().to_owned())).map_err(|error| error.to_string())
    }

    /// The message that opening gives, from the name of the file at fault on.
    fn error(&self) -> String {
        let error = self.open().expect_err("opening the folder succeeded");
        let folder = format!("{}/", self.0.path().display());
        error
            .strip_prefix(&folder)
            .unwrap_or_else(|| panic!("no file of the folder is named: {error}"))
            .to_owned()
    }
}

/// A safetensors file, padded as the format's own writer does.
fn safetensors(header: &Map<String, Value>, data: &[u8]) -> Vec<u8> {
    let mut header = serde_json::to_string(header).unwrap();
    header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// Splits the model into two shards and an index.
fn shard(folder: &Folder) {
    let (header, data) = folder.tensors();
    let mut shards = [(Map::new(), Vec::new()), (Map::new(), Vec::new())];
    let mut map = Map::new();
    for (index, (name, tensor)) in header.iter().filter(|(name, _)| *name != "__metadata__").enumerate() {
        let [from, to] = [0, 1].map(|i| tensor["data_offsets"][i].as_u64().unwrap() as usize);
        let (header, bytes) = &mut shards[index % 2];
        let mut tensor = tensor.clone();
        tensor["data_offsets"] = json!([bytes.len(), bytes.len() + to - from]);
        bytes.extend_from_slice(&data[from..to]);
        header.insert(name.clone(), tensor);
        map.insert(name.clone(), json!(format!("shard-{}.safetensors", index % 2)));
    }
    for (index, (header, bytes)) in shards.iter().enumerate() {
        folder.write(&format!("shard-{index}.safetensors"), safetensors(header, bytes));
    }
    folder.remove("model.safetensors");
    folder.write("model.safetensors.index.json", json!({ "weight_map": map }).to_string());
}
