//! The folder that `cargo xtask model smollm2-135m` made: does it hold what transformers would read?

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tokenizers::Tokenizer;
use xxhash_rust::xxh3::Xxh3;

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn file(name: &str) -> PathBuf {
    let cache = std::env::var_os("LATHE_CACHE").map_or_else(|| workspace().join(".cache"), PathBuf::from);
    let path = cache.join("models/smollm2-135m").join(name);
    assert!(path.exists(), "{} is missing: run `cargo xtask model smollm2-135m`", path.display());
    path
}

fn json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Prompts and outputs recorded with transformers.
fn recorded() -> Vec<Value> {
    let recorded = json(&workspace().join("reference/golden/smollm2_135m.json"));
    recorded.as_array().unwrap().clone()
}

#[test]
fn prompts_become_the_recorded_ids() {
    let tokenizer = Tokenizer::from_file(file("tokenizer.json")).unwrap();
    let recorded = recorded();
    assert!(recorded.len() >= 4, "{} prompts", recorded.len());
    for row in recorded {
        let encoding = tokenizer.encode(row["rendered"].as_str().unwrap(), false).unwrap();
        assert_eq!(encoding.get_ids(), ids(&row["prompt_ids"]), "{}", row["name"]);
    }
}

#[test]
fn generated_ids_become_the_recorded_text() {
    let tokenizer = Tokenizer::from_file(file("tokenizer.json")).unwrap();
    for row in recorded() {
        let text = tokenizer.decode(&ids(&row["greedy"]), true).unwrap();
        assert_eq!(text, row["text"].as_str().unwrap(), "{}", row["name"]);
    }
}

#[test]
fn digits_are_split_one_by_one() {
    let tokenizer = Tokenizer::from_file(file("tokenizer.json")).unwrap();
    let encoding = tokenizer.encode("In 1984 x=42", false).unwrap();
    assert_eq!(encoding.get_tokens(), ["In", "Ġ", "1", "9", "8", "4", "Ġx", "=", "4", "2"]);
}

#[test]
fn config_is_that_of_the_model() {
    let config = json(&file("config.json"));
    for (key, wanted) in [
        ("model_type", Value::from("llama")),
        ("hidden_size", 576.into()),
        ("intermediate_size", 1536.into()),
        ("num_hidden_layers", 30.into()),
        ("num_attention_heads", 9.into()),
        ("num_key_value_heads", 3.into()),
        ("head_dim", 64.into()),
        ("vocab_size", 49152.into()),
        ("max_position_embeddings", 8192.into()),
        ("rms_norm_eps", 1e-5.into()),
        ("rope_theta", 100_000.0.into()),
        ("tie_word_embeddings", true.into()),
        ("bos_token_id", 1.into()),
        ("eos_token_id", 2.into()),
    ] {
        assert_eq!(config[key], wanted, "config.json: {key}");
    }
    assert_eq!(json(&file("generation_config.json"))["eos_token_id"], 2);
    let tokenizer_config = json(&file("tokenizer_config.json"));
    assert_eq!(tokenizer_config["eos_token"], "<|im_end|>");
    assert!(tokenizer_config["chat_template"].as_str().unwrap().contains("<|im_start|>assistant\n"));
}

/// Hash of all tensors in order of name, as compared bit by bit with a conversion by the gguf package and PyTorch.
const WEIGHTS_XXH3: u64 = 0x4a5c_1190_f69f_ca65;

#[test]
fn weights_are_those_of_the_other_conversion() {
    let bytes = fs::read(file("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors: BTreeMap<_, _> = file.iter().collect();
    assert_eq!(tensors.len(), 2 + 30 * 9);
    assert_eq!(tensors["model.embed_tokens.weight"].shape(), [49152, 576]);
    assert_eq!(tensors["model.layers.29.self_attn.k_proj.weight"].shape(), [192, 576]);
    let mut hash = Xxh3::new();
    for (name, tensor) in tensors {
        assert_eq!(tensor.dtype(), Dtype::BF16, "{name}");
        hash.update(name.as_bytes());
        hash.update(tensor.data());
    }
    assert_eq!(hash.digest(), WEIGHTS_XXH3, "{:#x}", hash.digest());
}
