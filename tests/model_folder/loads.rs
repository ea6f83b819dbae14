//! Folders that load, and as what.

use lathe::model::chat::Message;
use lathe::model::config::{Activation, Layer, Rope, RopeScaling};
use lathe::model::source::Aligned;
use lathe::model::{Dtype, ModelConfig, ModelFiles, Source};
use serde_json::{Map, Value, json};

use super::{Folder, read, safetensors, shard};

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
        attn_scale: 0.176_776_69,
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
    // An added token's id follows the model's vocabulary, so that is filled up to the embedding.
    let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    vocab.insert("<|im_start|>".to_owned(), json!(300));
    vocab.insert("<|im_end|>".to_owned(), json!(301));
    vocab.extend((302..320).map(|id| (format!("filler {id}"), json!(id))));
    folder.write("tokenizer.json", Value::Object(tokenizer).to_string());
    let model = folder.open().unwrap();
    let tokenizer = model.tokenizer().unwrap();
    assert_eq!(tokenizer.token_id("<image>"), Some(320));
    assert_eq!(tokenizer.encode("The cat", false).unwrap(), [277, 293]);
    let error = tokenizer.encode("The <image>", false).unwrap_err().to_string();
    let want = "tokenizer.json: token \"<image>\" of the text has id 320, expected it below vocab_size 320";
    assert!(error.ends_with(want), "{error}");
}

/// Seen with transformers 5.23: its tokenizers take special tokens from `tokenizer.json` alone.
#[test]
fn add_bos_token_of_the_tokenizer_config_changes_nothing() {
    let folder = Folder::new("qwen3");
    for add in [true, false] {
        folder.patch(
            "tokenizer_config.json",
            &json!({ "add_bos_token": add, "add_eos_token": !add }).to_string(),
        );
        let ids = folder.open().unwrap().tokenizer().unwrap().encode("The cat", true).unwrap();
        assert_eq!(ids, [1, 277, 293], "add_bos_token {add}");
    }
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
