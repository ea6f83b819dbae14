//! Model folders: what the golden ones load as, and how damaged ones are refused.

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use lathe::model::chat::Message;
use lathe::model::config::{Activation, Layer, Rope, RopeScaling};
use lathe::model::source::Aligned;
use lathe::model::{Detokenizer, Dtype, ModelConfig, ModelFiles, Source};
use serde_json::{Map, Value, json};

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

fn config(family: &str) -> ModelConfig {
    Folder::new(family).open().unwrap().config
}

#[test]
fn golden_models_load_as_their_family_says() {
    let full = Layer { window: None, rope: 0 };
    let default = |theta| Rope { theta, scaling: RopeScaling::Default };
    let qwen3 = ModelConfig {
        model_type: "qwen3".to_owned(),
        vocab_size: 320,
        hidden: 64,
        intermediate: 160,
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
        layers: vec![full; 3],
        ropes: vec![default(1e6)],
        norm_eps: 1e-6,
        norm_offset: 0.0,
        qk_norm: true,
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        activation: Activation::Silu,
        sandwich_norms: false,
        tie_embeddings: true,
        embed_scale: 1.0,
        attn_scale: 0.176_776_7,
        attn_softcap: None,
        final_softcap: None,
        max_position_embeddings: 512,
        dtype: Some(Dtype::F32),
        bos: Some(1),
        eos: vec![2],
        pad: Some(0),
    };
    let named = |name: &str| name.to_owned();
    let qwen2 = ModelConfig {
        model_type: named("qwen2"),
        head_dim: 16,
        qk_norm: false,
        qkv_bias: true,
        tie_embeddings: false,
        attn_scale: 0.25,
        ..qwen3.clone()
    };
    let llama = ModelConfig {
        model_type: named("llama"),
        head_dim: 16,
        ropes: vec![default(5e5)],
        qk_norm: false,
        attn_scale: 0.25,
        ..qwen3.clone()
    };
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position: 64,
    };
    let llama3 =
        ModelConfig { ropes: vec![Rope { theta: 5e5, scaling }], tie_embeddings: false, ..llama.clone() };
    let mistral = ModelConfig {
        model_type: named("mistral"),
        layers: vec![Layer { window: Some(16), rope: 0 }; 3],
        ropes: vec![default(1e4)],
        qk_norm: false,
        tie_embeddings: false,
        ..qwen3.clone()
    };
    let gemma = ModelConfig {
        model_type: named("gemma3_text"),
        layers: vec![Layer { window: Some(16), rope: 0 }; 3],
        ropes: vec![default(1e4)],
        norm_offset: 1.0,
        activation: Activation::GeluTanh,
        sandwich_norms: true,
        embed_scale: 8.0,
        attn_scale: 0.0625,
        ..qwen3.clone()
    };
    for (family, want) in [
        ("qwen3", qwen3),
        ("qwen2", qwen2),
        ("llama", llama),
        ("llama3_rope", llama3),
        ("mistral_window", mistral),
        ("gemma3", gemma),
    ] {
        let model = Folder::new(family).open().unwrap();
        assert_eq!(model.config, want, "{family}");
        let mut bytes = 0;
        for (name, shape) in want.expected_tensors() {
            let view = model.weights.get(&name).unwrap();
            assert_eq!((view.dtype, &view.shape), (Dtype::F32, &shape), "{family}: {name}");
            assert_eq!(view.bytes().len(), shape.iter().product::<usize>() * 4, "{family}: {name}");
            bytes += view.bytes().len();
        }
        assert_eq!(model.weights.total_bytes(), bytes, "{family}");
        assert_eq!(model.checkpoint_dtype().unwrap(), Dtype::F32);
    }
}

#[test]
fn views_hold_the_files_bytes_and_outlive_the_weights() {
    let folder = Folder::new("qwen3");
    let (header, data) = folder.tensors();
    let name = "model.layers.2.mlp.down_proj.weight";
    let [from, to] = [0, 1].map(|i| header[name]["data_offsets"][i].as_u64().unwrap() as usize);
    let view = folder.open().unwrap().weights.get(name).unwrap();
    assert_eq!(view.bytes(), &data[from..to]);
    assert_eq!(view.bytes().as_ptr().align_offset(4), 0);
    let error = folder.open().unwrap().weights.get("nonsense").unwrap_err().to_string();
    assert!(error.ends_with("model.safetensors: tensor nonsense is missing"), "{error}");
}

#[test]
fn the_older_spelling_means_the_same() {
    for (family, patch) in [
        (
            "qwen3",
            r#"{"rope_parameters": "-", "rope_theta": 1000000, "dtype": "-", "torch_dtype": "float32", "layer_types": "-"}"#,
        ),
        (
            "qwen2",
            r#"{"rope_parameters": "-", "rope_theta": 1000000.0, "rope_scaling": null, "layer_types": "-"}"#,
        ),
        (
            "llama3_rope",
            r#"{"rope_parameters": "-", "rope_theta": 500000.0, "head_dim": null, "rope_scaling": {"rope_type": "llama3",
                "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}"#,
        ),
        (
            "gemma3",
            r#"{"rope_parameters": "-", "rope_theta": 1000000, "rope_local_base_freq": 10000, "layer_types": "-",
                "_sliding_window_pattern": "-", "sliding_window_pattern": 6, "tie_word_embeddings": "-"}"#,
        ),
        ("mistral_window", r#"{"rope_parameters": "-", "model_type": "-"}"#),
        ("llama", r#"{"rope_parameters": {"type": "default", "rope_theta": 500000}, "architectures": null}"#),
    ] {
        let folder = Folder::new(family);
        folder.patch("config.json", patch);
        assert_eq!(folder.open().unwrap().config, config(family), "{family}");
    }
}

#[test]
fn settings_reach_the_description() {
    let read = |family: &str, patch: &str| {
        let folder = Folder::new(family);
        folder.patch("config.json", patch);
        let path = folder.path("config.json");
        ModelConfig::from_json((&path, &read(&path)), None).unwrap()
    };
    let windows = |config: &ModelConfig| config.layers.iter().map(|layer| layer.window).collect::<Vec<_>>();

    let gemma =
        read("gemma3", r#"{"layer_types": "-", "_sliding_window_pattern": 2, "num_hidden_layers": 4}"#);
    assert_eq!(windows(&gemma), [Some(16), None, Some(16), None]);
    assert_eq!(gemma.layers.iter().map(|layer| layer.rope).collect::<Vec<_>>(), [0, 1, 0, 1]);
    assert_eq!(gemma.ropes.iter().map(|rope| rope.theta).collect::<Vec<_>>(), [1e4, 1e6]);
    let gemma = read(
        "gemma3",
        r#"{"rope_parameters": "-", "rope_scaling": {"type": "linear", "factor": 8}, "layer_types": "-",
            "sliding_window_pattern": 2, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50, "hidden_size": 1152}"#,
    );
    let linear = Rope { theta: 1e6, scaling: RopeScaling::Linear { factor: 8.0 } };
    assert_eq!(gemma.ropes, [Rope { theta: 1e4, scaling: RopeScaling::Default }, linear]);
    assert_eq!((gemma.final_softcap, gemma.attn_softcap), (Some(30.0), Some(50.0)));
    assert_eq!(gemma.embed_scale, 33.941_124);
    assert_eq!(gemma.embed_scale_in(Dtype::F32), 33.941_124);
    assert_eq!(gemma.embed_scale_in(Dtype::F16), 33.9375);
    assert_eq!(gemma.embed_scale_in(Dtype::BF16), 34.0);

    let qwen =
        r#"{"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1, "layer_types": "-"}"#;
    assert_eq!(windows(&read("qwen2", qwen)), [None, Some(8), Some(8)]);
    let qwen =
        r#"{"use_sliding_window": false, "sliding_window": 8, "max_window_layers": 0, "layer_types": "-"}"#;
    assert_eq!(windows(&read("qwen3", qwen)), [None; 3]);
    let types = r#"{"use_sliding_window": true, "sliding_window": 8,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"]}"#;
    assert_eq!(windows(&read("qwen3", types)), [None, Some(8), None]);
    assert_eq!(windows(&read("mistral_window", r#"{"sliding_window": null}"#)), [None; 3]);
    assert_eq!(windows(&read("mistral_window", r#"{"sliding_window": "-"}"#)), [Some(4096); 3]);

    let llama = read(
        "llama",
        r#"{"attention_bias": true, "mlp_bias": true, "hidden_act": "gelu", "dtype": "bfloat16"}"#,
    );
    assert!(llama.qkv_bias && llama.o_bias && llama.mlp_bias);
    assert_eq!((llama.activation, llama.dtype), (Activation::GeluErf, Some(Dtype::BF16)));
    assert_eq!(read("llama", r#"{"num_key_value_heads": "-"}"#).kv_heads, 4);
    assert_eq!(read("llama", r#"{"eos_token_id": [2, 7], "pad_token_id": -1}"#).eos, [2, 7]);
    assert_eq!(read("llama", r#"{"pad_token_id": 320}"#).pad, None);
    assert_eq!(read("llama", r#"{"num_local_experts": 0}"#), config("llama"));
}

#[test]
fn generation_config_adds_stop_tokens() {
    let folder = Folder::new("llama");
    folder.patch("config.json", r#"{"bos_token_id": null}"#);
    folder.patch("generation_config.json", r#"{"eos_token_id": [5, 2, 9], "bos_token_id": 4}"#);
    let config = folder.open().unwrap().config;
    assert_eq!((config.bos, config.eos), (Some(4), vec![2, 5, 9]));
    folder.remove("generation_config.json");
    assert_eq!(folder.open().unwrap().config.eos, [2]);
}

/// Family, patch of config.json, and what the message must hold.
const CONFIGS: &[(&str, &str, &str)] = &[
    ("qwen3", r#"{"num_hidden_layers": 0}"#, "num_hidden_layers is 0, expected an integer in 1..=1024"),
    ("qwen3", r#"{"num_hidden_layers": 1000000000}"#, "num_hidden_layers is 1000000000, expected"),
    ("qwen3", r#"{"num_hidden_layers": "-"}"#, "num_hidden_layers is missing, expected"),
    (
        "qwen3",
        r#"{"num_hidden_layers": 2}"#,
        "layer_types is [\"full_attention\",\"full_attention\",\"full_attention\"], expected a list of num_hidden_layers 2 names",
    ),
    (
        "llama",
        r#"{"num_hidden_layers": 2}"#,
        "9 tensors, model.layers.2.input_layernorm.weight the first, are not of the model that",
    ),
    ("llama", r#"{"num_hidden_layers": 4}"#, "tensor model.layers.3.input_layernorm.weight is missing"),
    ("llama", r#"{"num_hidden_layers": -3}"#, "num_hidden_layers is -3, expected"),
    ("llama", r#"{"num_hidden_layers": 3.5}"#, "num_hidden_layers is 3.5, expected an integer"),
    ("llama", r#"{"num_hidden_layers": "3"}"#, "num_hidden_layers is \"3\", expected an integer"),
    ("llama", r#"{"vocab_size": 0}"#, "vocab_size is 0, expected"),
    ("llama", r#"{"vocab_size": 18446744073709551615}"#, "vocab_size is 18446744073709551615, expected"),
    (
        "llama",
        r#"{"vocab_size": 319}"#,
        "tensor model.embed_tokens.weight has shape [320, 64], expected [319, 64] by",
    ),
    (
        "llama",
        r#"{"vocab_size": 321}"#,
        "tensor model.embed_tokens.weight has shape [320, 64], expected [321, 64] by",
    ),
    ("llama", r#"{"vocab_size": 2}"#, "eos_token_id is 2, expected token ids below vocab_size 2"),
    ("llama", r#"{"hidden_size": 0}"#, "hidden_size is 0, expected"),
    ("llama", r#"{"hidden_size": 1e30}"#, "hidden_size is 1e+30, expected an integer"),
    (
        "llama",
        r#"{"hidden_size": 63, "head_dim": null}"#,
        "hidden_size is 63, expected at most 1024 times num_attention_heads 4 and a multiple of it",
    ),
    ("llama", r#"{"hidden_size": 128, "head_dim": 16}"#, "has shape [320, 64], expected [320, 128]"),
    ("llama", r#"{"intermediate_size": 0}"#, "intermediate_size is 0"),
    (
        "llama",
        r#"{"intermediate_size": 161}"#,
        "tensor model.layers.0.mlp.gate_proj.weight has shape [160, 64], expected [161, 64]",
    ),
    ("llama", r#"{"intermediate_size": null}"#, "intermediate_size is missing"),
    ("llama", r#"{"num_attention_heads": 0}"#, "num_attention_heads is 0"),
    (
        "llama",
        r#"{"num_attention_heads": 8192}"#,
        "num_attention_heads is 8192, expected an integer in 1..=4096",
    ),
    (
        "llama",
        r#"{"num_attention_heads": 8}"#,
        "tensor model.layers.0.self_attn.q_proj.weight has shape [64, 64], expected [128, 64]",
    ),
    (
        "llama",
        r#"{"num_key_value_heads": 3}"#,
        "num_key_value_heads is 3, expected a divisor of num_attention_heads 4",
    ),
    ("llama", r#"{"num_key_value_heads": 0}"#, "num_key_value_heads is 0"),
    ("llama", r#"{"num_key_value_heads": 8}"#, "num_key_value_heads is 8, expected a divisor"),
    (
        "llama",
        r#"{"num_key_value_heads": 4}"#,
        "tensor model.layers.0.self_attn.k_proj.weight has shape [32, 64], expected [64, 64]",
    ),
    ("llama", r#"{"head_dim": 15}"#, "head_dim is 15, expected an even number"),
    ("llama", r#"{"head_dim": 2048}"#, "head_dim is 2048, expected an integer in 1..=1024"),
    ("llama", r#"{"head_dim": 0}"#, "head_dim is 0"),
    ("llama", r#"{"max_position_embeddings": 0}"#, "max_position_embeddings is 0"),
    ("llama", r#"{"max_position_embeddings": 99999999999}"#, "max_position_embeddings is 99999999999"),
    ("llama", r#"{"max_position_embeddings": "-"}"#, "max_position_embeddings is missing"),
    ("llama", r#"{"rms_norm_eps": 0}"#, "rms_norm_eps is 0, expected a number above 0, at most 0.1"),
    ("llama", r#"{"rms_norm_eps": -1e-6}"#, "rms_norm_eps is -1e-6"),
    ("llama", r#"{"rms_norm_eps": "small"}"#, "rms_norm_eps is \"small\""),
    ("llama", r#"{"hidden_act": "relu"}"#, "hidden_act is \"relu\", expected silu"),
    ("llama", r#"{"hidden_act": 3}"#, "hidden_act is 3, expected a string"),
    ("gemma3", r#"{"hidden_activation": "quick_gelu"}"#, "hidden_activation is \"quick_gelu\""),
    ("llama", r#"{"tie_word_embeddings": false}"#, "tensor lm_head.weight is missing"),
    ("llama", r#"{"tie_word_embeddings": 1}"#, "tie_word_embeddings is 1, expected true or false"),
    (
        "mistral_window",
        r#"{"tie_word_embeddings": true}"#,
        "tie_word_embeddings is true, but lm_head.weight differs from model.embed_tokens.weight",
    ),
    ("llama", r#"{"attention_bias": true}"#, "tensor model.layers.0.self_attn.q_proj.bias is missing"),
    ("llama", r#"{"mlp_bias": true}"#, "tensor model.layers.0.mlp.gate_proj.bias is missing"),
    (
        "llama",
        r#"{"model_type": "mixtral", "architectures": null}"#,
        "model_type is \"mixtral\", expected one of llama, mistral",
    ),
    (
        "llama",
        r#"{"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe"}"#,
        "architectures is [\"Qwen3MoeForCausalLM\"], expected one of LlamaForCausalLM",
    ),
    (
        "gemma3",
        r#"{"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3"}"#,
        "architectures is [\"Gemma3ForConditionalGeneration\"]",
    ),
    (
        "llama",
        r#"{"architectures": ["LlamaForSequenceClassification"]}"#,
        "architectures is [\"LlamaForSequenceClassification\"]",
    ),
    (
        "llama",
        r#"{"architectures": ["A", "B"]}"#,
        "architectures is [\"A\",\"B\"], expected a list with one name",
    ),
    ("llama", r#"{"architectures": "LlamaForCausalLM"}"#, "expected a list with one name"),
    ("llama", r#"{"architectures": null, "model_type": null}"#, "architectures is missing, expected one of"),
    (
        "llama",
        r#"{"model_type": "qwen2"}"#,
        "model_type is \"qwen2\", expected \"llama\", which `architectures` names",
    ),
    (
        "qwen2",
        r#"{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}"#,
        "tensor model.layers.0.self_attn.q_proj.weight has shape [64, 64], expected [512, 64]",
    ),
    (
        "qwen2",
        r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}"#,
        "9 tensors, model.layers.0.self_attn.k_proj.bias the first, are not of the model",
    ),
    (
        "llama",
        r#"{"num_experts": 8}"#,
        "num_experts is 8, expected it absent: mixture of experts is not supported",
    ),
    ("llama", r#"{"num_local_experts": 8}"#, "num_local_experts is 8, expected it absent"),
    (
        "llama",
        r#"{"quantization_config": {"quant_method": "gptq", "bits": 4}}"#,
        "quantization_config is {\"quant_method\":\"gptq\",\"bits\":4}, expected it absent: quantised checkpoints are not supported",
    ),
    (
        "llama",
        r#"{"vision_config": {}}"#,
        "vision_config is {}, expected it absent: multimodal models are not supported",
    ),
    ("llama", r#"{"partial_rotary_factor": 0.5}"#, "partial_rotary_factor is 0.5, expected 1.0"),
    (
        "llama",
        r#"{"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}}"#,
        "rope_parameters.partial_rotary_factor is 0.25",
    ),
    (
        "gemma3",
        r#"{"use_bidirectional_attention": true}"#,
        "use_bidirectional_attention is true, expected false",
    ),
    (
        "llama",
        r#"{"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}"#,
        "rope_parameters.rope_type is \"yarn\", expected default, linear or llama3",
    ),
    (
        "llama",
        r#"{"rope_parameters": "-", "rope_scaling": {"type": "dynamic", "factor": 2.0}}"#,
        "rope_scaling.type is \"dynamic\"",
    ),
    (
        "llama",
        r#"{"rope_parameters": "-", "rope_scaling": {"rope_type": "longrope"}}"#,
        "rope_scaling.rope_type is \"longrope\"",
    ),
    (
        "llama",
        r#"{"rope_scaling": {"type": "linear", "factor": 2.0}}"#,
        "rope_scaling is {\"type\":\"linear\",\"factor\":2.0}, expected it absent beside rope_parameters",
    ),
    ("llama", r#"{"rope_parameters": {"rope_type": "linear"}}"#, "rope_parameters.factor is missing"),
    (
        "llama",
        r#"{"rope_parameters": {"rope_type": "linear", "factor": 0}}"#,
        "rope_parameters.factor is 0, expected a number above 0",
    ),
    ("llama", r#"{"rope_parameters": {"rope_theta": -1}}"#, "rope_parameters.rope_theta is -1"),
    ("llama", r#"{"rope_parameters": []}"#, "rope_parameters is [], expected an object"),
    (
        "llama3_rope",
        r#"{"rope_parameters": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}}"#,
        "rope_parameters.high_freq_factor is 4.0, expected above low_freq_factor 4",
    ),
    (
        "llama3_rope",
        r#"{"rope_parameters": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1}}"#,
        "rope_parameters.high_freq_factor is missing",
    ),
    (
        "gemma3",
        r#"{"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}"#,
        "expected full_attention and sliding_attention within",
    ),
    (
        "gemma3",
        r#"{"rope_parameters": {"sliding_attention": {"rope_type": "yarn"}}}"#,
        "sliding_attention.rope_type is \"yarn\"",
    ),
    ("gemma3", r#"{"sliding_window": null}"#, "sliding_window is missing, expected the window's length"),
    ("gemma3", r#"{"sliding_window": 0}"#, "sliding_window is 0"),
    ("gemma3", r#"{"sliding_window_pattern": 0, "layer_types": "-"}"#, "sliding_window_pattern is 0"),
    ("gemma3", r#"{"query_pre_attn_scalar": 0}"#, "query_pre_attn_scalar is 0"),
    ("gemma3", r#"{"final_logit_softcapping": -30}"#, "final_logit_softcapping is -30"),
    (
        "gemma3",
        r#"{"layer_types": ["full_attention", "linear_attention", "full_attention"]}"#,
        "layer_types is \"linear_attention\", expected each",
    ),
    (
        "mistral_window",
        r#"{"layer_types": ["full_attention", "full_attention", "full_attention"]}"#,
        "\"sliding_attention\" in every layer, which is what mistral has",
    ),
    (
        "qwen3",
        r#"{"layer_types": ["sliding_attention", "full_attention", "full_attention"]}"#,
        "sliding_window is missing",
    ),
    ("qwen3", r#"{"use_sliding_window": "yes"}"#, "use_sliding_window is \"yes\", expected true or false"),
    (
        "llama",
        r#"{"dtype": "float8_e4m3fn"}"#,
        "dtype is \"float8_e4m3fn\", expected float32, float16 or bfloat16",
    ),
    ("llama", r#"{"eos_token_id": 320}"#, "eos_token_id is 320, expected token ids below vocab_size 320"),
    ("llama", r#"{"eos_token_id": [2, -1]}"#, "eos_token_id is [2,-1], expected token ids"),
    ("llama", r#"{"eos_token_id": "</s>"}"#, "eos_token_id is \"</s>\""),
    ("llama", r#"{"bos_token_id": 4294967297}"#, "bos_token_id is 4294967297"),
];

#[test]
fn configs_that_cannot_work_are_refused_by_field_and_value() {
    for &(family, patch, want) in CONFIGS {
        let folder = Folder::new(family);
        folder.patch("config.json", patch);
        let error = folder.error();
        assert!(error.contains(want), "{family} {patch}: {error}, expected {want}");
        assert!(
            error.contains("config.json") || error.starts_with("model.safetensors: "),
            "{patch}: {error}"
        );
    }
}

/// What is done to the folder of Qwen3, and how the message begins.
type Damage = (fn(&Folder), &'static str);

const FILES: &[Damage] = &[
    (|f| f.remove("config.json"), "config.json: is missing"),
    (|f| f.write("config.json", ""), "config.json: not valid JSON: EOF"),
    (|f| f.write("config.json", "{"), "config.json: not valid JSON: EOF"),
    (|f| f.write("config.json", "[1]"), "config.json: holds [1], expected a JSON object"),
    (|f| f.write("config.json", b"{\"a\": \"\xff\"}"), "config.json: not valid JSON"),
    (
        |f| f.write("config.json", r#"{"hidden_size": 1e999}"#),
        "config.json: not valid JSON: number out of range",
    ),
    (
        |f| f.write("config.json", "[".repeat(100_000)),
        "config.json: not valid JSON: recursion limit exceeded",
    ),
    (|f| f.write("config.json", r#"{"rms_norm_eps": NaN}"#), "config.json: not valid JSON"),
    (
        |f| {
            f.remove("config.json");
            std::fs::create_dir(f.path("config.json")).unwrap();
        },
        "config.json: is not a regular file",
    ),
    (
        |f| f.write("generation_config.json", "null"),
        "generation_config.json: holds null, expected a JSON object",
    ),
    (
        |f| f.patch("generation_config.json", r#"{"eos_token_id": [1, 5000]}"#),
        "generation_config.json: eos_token_id is [1,5000], expected token ids below vocab_size 320",
    ),
    (
        |f| f.patch("generation_config.json", r#"{"eos_token_id": 1.5}"#),
        "generation_config.json: eos_token_id is 1.5",
    ),
    (
        |f| f.remove("model.safetensors"),
        ": has no weights: expected model.safetensors or model.safetensors.index.json",
    ),
    (|f| f.write("model.safetensors", ""), "model.safetensors: is 0 bytes, expected at least 8: truncated?"),
    (|f| f.write("model.safetensors", "1234567"), "model.safetensors: is 7 bytes"),
    (
        |f| f.write("model.safetensors", u64::MAX.to_le_bytes()),
        "model.safetensors: says its header is 18446744073709551615 bytes, expected at most 100000000",
    ),
    (
        |f| f.write("model.safetensors", 100_000_000u64.to_le_bytes()),
        "model.safetensors: says its header is 100000000 bytes, but only 0 follow: truncated?",
    ),
    (
        |f| f.write("model.safetensors", [&2u64.to_le_bytes()[..], b"[]"].concat()),
        "model.safetensors: holds [], expected a JSON object",
    ),
    (
        |f| f.write("model.safetensors", [&2u64.to_le_bytes()[..], b"{}"].concat()),
        "model.safetensors: tensor model.embed_tokens.weight is missing",
    ),
    (
        |f| {
            let file = read(&f.path("model.safetensors"));
            f.write("model.safetensors", &file[..file.len() - 1])
        },
        "model.safetensors: tensor ",
    ),
    (
        |f| {
            let file = read(&f.path("model.safetensors"));
            f.write("model.safetensors", &file[..file.len() / 2])
        },
        "model.safetensors: tensor ",
    ),
    (
        |f| {
            let file = read(&f.path("model.safetensors"));
            f.write("model.safetensors", [&file[..], b"more"].concat())
        },
        "model.safetensors: has 748036 bytes of data, but its tensors end at 748032",
    ),
    (
        |f| f.header(|h| drop(h.shift_remove("model.norm.weight"))),
        "model.safetensors: has 748032 bytes of data, but its tensors end at 747776",
    ),
    (
        |f| f.header(|h| h["model.norm.weight"]["shape"] = json!([8, 8])),
        "model.safetensors: tensor model.norm.weight has shape [8, 8], expected [64] by",
    ),
    (
        |f| f.header(|h| h["model.norm.weight"]["shape"] = json!([65])),
        "model.safetensors: tensor model.norm.weight of shape [65] and dtype F32 has 256 bytes",
    ),
    (
        |f| f.header(|h| h["model.norm.weight"]["shape"] = json!([4294967296u64, 4294967296u64, 4])),
        "model.safetensors: tensor model.norm.weight of shape [4294967296, 4294967296, 4] and dtype F32 has 256 bytes",
    ),
    (
        |f| f.header(|h| h["model.norm.weight"]["shape"] = json!([-64])),
        "model.safetensors: tensor model.norm.weight is {",
    ),
    (
        |f| f.header(|h| h["model.norm.weight"]["dtype"] = json!("BF16")),
        "model.safetensors: tensor model.norm.weight of shape [64] and dtype BF16 has 256 bytes",
    ),
    (
        |f| f.header(|h| h["model.norm.weight"]["dtype"] = json!("F8_E4M3")),
        "model.safetensors: tensor model.norm.weight has dtype F8_E4M3, expected F32, F16 or BF16",
    ),
    (
        |f| f.header(|h| h["model.norm.weight"]["dtype"] = json!("I64")),
        "model.safetensors: tensor model.norm.weight has dtype I64",
    ),
    (
        |f| f.header(|h| h["model.norm.weight"]["data_offsets"] = json!([0, 256])),
        "model.safetensors: tensor model.embed_tokens.weight has data_offsets [0, 81920], expected it to start at 256, where the tensor before it ends",
    ),
    (
        |f| f.header(|h| h["model.norm.weight"]["data_offsets"] = json!([256, 0])),
        "model.safetensors: tensor ",
    ),
    (
        |f| f.header(|h| h["model.norm.weight"]["data_offsets"] = json!([747776, u64::MAX])),
        "model.safetensors: tensor model.norm.weight ends at byte 18446744073709551615 of the data, which has 748032: truncated?",
    ),
    (
        |f| f.header(|h| h["model.norm.weight"]["data_offsets"] = json!([747776])),
        "model.safetensors: tensor model.norm.weight is {",
    ),
    (
        |f| f.header(|h| h["model.norm.weight"] = json!(null)),
        "model.safetensors: tensor model.norm.weight is null",
    ),
    (
        |f| {
            f.header(|h| {
                let t = h.shift_remove("model.norm.weight").unwrap();
                h.insert("model.norm.bias".into(), t);
            })
        },
        "model.safetensors: tensor model.norm.weight is missing",
    ),
    (
        |f| {
            f.header(|h| {
                h.insert("model.extra".into(), json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}));
            })
        },
        "model.safetensors: 1 tensors, model.extra the first, are not of the model",
    ),
    (
        |f| {
            let (header, data) = f.tensors();
            let header = serde_json::to_string(&header).unwrap();
            let pad = " ".repeat(header.len().next_multiple_of(4) - header.len() + 1);
            f.write(
                "model.safetensors",
                [
                    &((header.len() + pad.len()) as u64).to_le_bytes()[..],
                    header.as_bytes(),
                    pad.as_bytes(),
                    &data,
                ]
                .concat(),
            )
        },
        "model.safetensors: tensor ",
    ),
    (
        |f| {
            shard(f);
            f.remove("shard-1.safetensors")
        },
        "shard-1.safetensors: is missing, but ",
    ),
    (
        |f| {
            shard(f);
            f.write("shard-1.safetensors", "short")
        },
        "shard-1.safetensors: is 5 bytes, expected at least 8: truncated?",
    ),
    (
        |f| {
            shard(f);
            f.write("model.safetensors.index.json", "{}")
        },
        "model.safetensors.index.json: weight_map is missing",
    ),
    (
        |f| {
            shard(f);
            f.write("model.safetensors.index.json", r#"{"weight_map": []}"#)
        },
        "model.safetensors.index.json: weight_map is [], expected an object",
    ),
    (
        |f| {
            shard(f);
            f.write("model.safetensors.index.json", r#"{"weight_map": {}}"#)
        },
        "model.safetensors.index.json: tensor model.embed_tokens.weight is missing",
    ),
    (
        |f| {
            shard(f);
            f.write("model.safetensors.index.json", r#"{"weight_map": {"a": "../shard-0.safetensors"}}"#)
        },
        "model.safetensors.index.json: weight_map.a is \"../shard-0.safetensors\", expected a file name within the model's folder",
    ),
    (
        |f| {
            shard(f);
            f.write("model.safetensors.index.json", r#"{"weight_map": {"a": "/etc/passwd"}}"#)
        },
        "model.safetensors.index.json: weight_map.a is \"/etc/passwd\"",
    ),
    (
        |f| {
            shard(f);
            f.write("model.safetensors.index.json", r#"{"weight_map": {"a": ".."}}"#)
        },
        "model.safetensors.index.json: weight_map.a is \"..\"",
    ),
    (
        |f| {
            shard(f);
            f.write("model.safetensors.index.json", r#"{"weight_map": {"a": 1}}"#)
        },
        "model.safetensors.index.json: weight_map.a is 1",
    ),
    (
        |f| {
            shard(f);
            f.write("model.safetensors.index.json", r#"{"weight_map": {"a": "shard-0.safetensors"}}"#)
        },
        "shard-0.safetensors: tensor a is missing, which the index says is here",
    ),
    (
        |f| {
            shard(f);
            std::fs::copy(f.path("shard-0.safetensors"), f.path("shard-1.safetensors")).unwrap();
        },
        "shard-1.safetensors: tensor ",
    ),
    (
        |f| {
            shard(f);
            f.remove("model.safetensors.index.json");
            f.remove("shard-0.safetensors")
        },
        ": tensor ",
    ),
    (|f| f.write("tokenizer.json", ""), "tokenizer.json: not a tokenizer: EOF"),
    (|f| f.write("tokenizer.json", "{}"), "tokenizer.json: not a tokenizer: "),
    (
        |f| f.patch("tokenizer.json", r#"{"model": {"type": "BPE", "vocab": {"a": 320}, "merges": []}}"#),
        "tokenizer.json: token \"a\" has id 320, expected it below vocab_size 320",
    ),
    (
        |f| {
            f.patch(
                "tokenizer.json",
                r#"{"model": {"type": "BPE", "vocab": {"a": 4294967295}, "merges": []}}"#,
            )
        },
        "tokenizer.json: token \"a\" has id 4294967295",
    ),
    (
        |f| {
            f.patch(
                "tokenizer.json",
                r#"{"model": {"type": "BPE", "vocab": {"a": 1}, "merges": [["b", "c"]]}}"#,
            )
        },
        "tokenizer.json: not a tokenizer: ",
    ),
    (
        |f| {
            f.patch("tokenizer.json", r#"{"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(["}, "behavior": "Isolated", "invert": false}}"#)
        },
        "tokenizer.json: not a tokenizer: ",
    ),
    (
        |f| f.patch("tokenizer.json", r#"{"normalizer": {"type": "Nonsense"}}"#),
        "tokenizer.json: not a tokenizer: ",
    ),
    (|f| f.write("tokenizer_config.json", "{"), "tokenizer_config.json: not valid JSON"),
    (
        |f| f.patch("tokenizer_config.json", r#"{"chat_template": 5}"#),
        "tokenizer_config.json: chat_template is 5, expected a string, or a list of {name, template} with a `default`",
    ),
    (
        |f| f.patch("tokenizer_config.json", r#"{"chat_template": [{"name": "rag", "template": "x"}]}"#),
        "tokenizer_config.json: chat_template is [{\"name\":\"rag\",\"template\":\"x\"}]",
    ),
    (
        |f| f.patch("tokenizer_config.json", r#"{"bos_token": 1}"#),
        "tokenizer_config.json: bos_token is 1, expected a string",
    ),
    (
        |f| f.patch("tokenizer_config.json", r#"{"eos_token": {"text": "x"}}"#),
        "tokenizer_config.json: eos_token is {\"text\":\"x\"}",
    ),
    (|f| f.write("special_tokens_map.json", "7"), "special_tokens_map.json: holds 7, expected a JSON object"),
    (|f| f.write("chat_template.json", "x"), "chat_template.json: not valid JSON"),
    (|f| f.write("chat_template.jinja", b"\xff\xfe"), "chat_template.jinja: is not UTF-8"),
];

#[test]
fn damaged_files_are_refused_by_name() {
    for (index, (damage, want)) in FILES.iter().enumerate() {
        let folder = Folder::new("qwen3");
        damage(&folder);
        let error = folder.open().expect_err(&format!("case {index}, {want}, opened")).to_string();
        let root = folder.0.path().display().to_string();
        // A message that begins with ": " is about the folder itself.
        let error =
            error.strip_prefix(&root).unwrap_or_else(|| panic!("no file of the folder is named: {error}"));
        assert!(error.trim_start_matches('/').starts_with(want), "case {index}: {error}, expected {want}");
    }
    assert!(PEAK.load(Relaxed) < MEMORY, "a peak of {} bytes", PEAK.load(Relaxed));
}

#[test]
fn folders_that_are_unusual_but_right_load() {
    let whole = Folder::new("qwen3").open().unwrap();
    for index in [true, false] {
        let folder = Folder::new("qwen3");
        shard(&folder);
        if !index {
            folder.remove("model.safetensors.index.json");
        }
        let sharded = folder.open().unwrap();
        for (name, _) in whole.config.expected_tensors() {
            let (a, b) = (whole.weights.get(&name).unwrap(), sharded.weights.get(&name).unwrap());
            assert_eq!((a.shape.as_slice(), a.bytes()), (b.shape.as_slice(), b.bytes()), "{name}");
        }
    }
    // Redundant tensors: a tied output projection, and rotary frequencies.
    let folder = Folder::new("qwen3");
    let (mut header, mut data) = folder.tensors();
    let embedding = header["model.embed_tokens.weight"].clone();
    let [from, to] = [0, 1].map(|i| embedding["data_offsets"][i].as_u64().unwrap() as usize);
    let end = data.len();
    let tied = json!({"dtype": "F32", "shape": [320, 64], "data_offsets": [end, end + to - from]});
    header.insert("lm_head.weight".to_owned(), tied);
    data.extend_from_within(from..to);
    let end = data.len();
    let rotary = json!({"dtype": "F32", "shape": [2], "data_offsets": [end, end + 8]});
    header.insert("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), rotary);
    data.extend([0; 8]);
    folder.write("model.safetensors", safetensors(&header, &data));
    folder.open().unwrap();
}

#[test]
fn without_a_tokenizer_token_ids_still_work() {
    let folder = Folder::new("qwen3");
    folder.remove("tokenizer.json");
    folder.remove("tokenizer_config.json");
    let model = folder.open().unwrap();
    assert!(!model.has_tokenizer());
    let error = model.tokenizer().unwrap_err().to_string();
    assert!(error.ends_with("tokenizer.json: is missing: this model takes token ids, not text"), "{error}");
    let error = model.chat_template().unwrap_err().to_string();
    assert!(
        error.ends_with("tokenizer_config.json: has no chat_template: this model is not made for chat"),
        "{error}"
    );
}

#[test]
fn a_tokenizer_may_have_added_tokens_beyond_the_embedding_until_they_are_used() {
    let folder = Folder::new("qwen3");
    let mut tokenizer = folder.json("tokenizer.json");
    let mut image = tokenizer["added_tokens"][0].clone();
    image["id"] = json!(320);
    image["content"] = json!("<image>");
    tokenizer["added_tokens"].as_array_mut().unwrap().push(image);
    // The id of an added token is its place after the model's vocabulary, so that is filled up to the embedding.
    let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    for id in 0..320 {
        if !vocab.values().any(|known| *known == id) {
            vocab.insert(format!("filler {id}"), json!(id));
        }
    }
    folder.write("tokenizer.json", Value::Object(tokenizer).to_string());
    let model = folder.open().unwrap();
    let tokenizer = model.tokenizer().unwrap();
    assert_eq!(tokenizer.token_id("<image>"), Some(320));
    assert_eq!(tokenizer.encode("The cat", false).unwrap(), [277, 293]);
    let error = tokenizer.encode("The <image>", false).unwrap_err().to_string();
    let want = "tokenizer.json: token \"<image>\" of the text has id 320, expected it below vocab_size 320";
    assert!(error.ends_with(want), "{error}");
}

#[test]
fn the_chat_template_is_taken_from_where_it_is() {
    let folder = Folder::new("qwen3");
    let render = || {
        let template = folder.open().unwrap().chat_template().unwrap();
        template.render(&[Message::new("user", "Hi")], false, &Map::new()).unwrap()
    };
    assert_eq!(render(), "<|im_start|>user\nHi<|im_end|>\n");
    folder.write("chat_template.json", r#"{"chat_template": "legacy {{ bos_token }}"}"#);
    assert_eq!(render(), "<|im_start|>user\nHi<|im_end|>\n");
    let named = r#"{"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d{{ eos_token }}"}]}"#;
    folder.patch("tokenizer_config.json", named);
    assert_eq!(render(), "d</s>");
    folder.patch("tokenizer_config.json", r#"{"chat_template": "-"}"#);
    assert_eq!(render(), "legacy <s>");
    folder.write("chat_template.jinja", "jinja {{ bos_token }}{{ eos_token }}\n");
    assert_eq!(render(), "jinja <s></s>");
    folder.patch("tokenizer_config.json", r#"{"bos_token": "-", "eos_token": null}"#);
    assert_eq!(render(), "jinja ");
    folder.write("special_tokens_map.json", r#"{"bos_token": {"content": "<B>"}, "eos_token": "<E>"}"#);
    assert_eq!(render(), "jinja <B><E>");
    folder.write("chat_template.jinja", "{% for %}");
    let error = folder.open().unwrap().chat_template().unwrap_err().to_string();
    assert!(error.contains("chat_template.jinja: chat template: syntax error"), "{error}");
}

#[test]
fn embedded_files_load_like_a_folder() {
    let folder = Folder::new("qwen3");
    let leak = |bytes: Vec<u8>| -> &'static [u8] { Box::leak(bytes.into_boxed_slice()) };
    let weights = read(&folder.path("model.safetensors"));
    // As `Aligned(*include_bytes!(…))` does it at compile time.
    let aligned: Box<Aligned<[u8; 751_640]>> = Box::new(Aligned(weights.as_slice().try_into().unwrap()));
    let mut files = vec![("model.safetensors", &Box::leak(aligned).0[..])];
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        files.push((name, leak(read(&folder.path(name)))));
    }
    let embedded = ModelFiles::open(Source::Embedded(Box::leak(files.into_boxed_slice()))).unwrap();
    let model = folder.open().unwrap();
    assert_eq!(embedded.config, model.config);
    let name = "model.layers.1.mlp.up_proj.weight";
    assert_eq!(embedded.weights.get(name).unwrap().bytes(), model.weights.get(name).unwrap().bytes());
    assert_eq!(embedded.tokenizer().unwrap().encode("The cat", true).unwrap(), [1, 277, 293]);
    let error = ModelFiles::open(Source::Embedded(&[])).unwrap_err().to_string();
    assert_eq!(error, "embedded:config.json: is missing");
}

#[test]
fn a_name_that_is_no_folder_and_no_repository_is_refused() {
    for name in ["", "no-such-folder", "/no/such/folder", "a/b/c", "~/models/x"] {
        let error = ModelFiles::find(name).unwrap_err().to_string();
        let want = "a model's folder, or ORG/NAME or ORG/NAME@REVISION on the Hugging Face hub";
        assert_eq!(error, format!("model is {name:?}, expected {want}"));
    }
    let folder = Folder::new("llama");
    let found = ModelFiles::find(folder.0.path().to_str().unwrap()).unwrap();
    assert_eq!(found.config, config("llama"));
}

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
