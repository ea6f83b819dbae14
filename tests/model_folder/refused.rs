//! Folders that are refused, each with the message it gets.

use std::sync::atomic::Ordering::Relaxed;

use lathe::model::ModelFiles;
use serde_json::json;

use super::{Folder, MEMORY, PEAK, read, shard};

#[test]
fn configs_that_cannot_work_are_refused_by_field_and_value() {
    let table = include_str!("../fixtures/refused_configs.txt");
    let mut rows = 0;
    for row in table.lines().filter(|row| !row.starts_with('#')) {
        let [family, patch, want] = row.split(" | ").collect::<Vec<_>>()[..] else {
            panic!("not three columns: {row}")
        };
        let folder = Folder::new(family);
        folder.patch("config.json", patch);
        let error = folder.error();
        assert!(error.contains(want), "{family} {patch}: {error}, expected {want}");
        assert!(
            error.contains("config.json") || error.starts_with("model.safetensors: "),
            "{patch}: {error}"
        );
        rows += 1;
    }
    assert!(rows >= 85, "{rows} rows");
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
fn a_tokenizer_that_makes_its_crate_panic_is_refused() {
    let folder = Folder::new("qwen3");
    let original = read(&folder.path("tokenizer.json"));
    let patched = |patch: &str| {
        folder.write("tokenizer.json", &original);
        folder.patch("tokenizer.json", patch);
    };
    patched(r#"{"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}}"#);
    let want = "tokenizer.json: not a tokenizer: the tokenizers crate panicked: Precompiled: ";
    assert!(folder.error().starts_with(want), "{}", folder.error());
    let encode = |text| {
        let model = folder.open().unwrap();
        // Twice, as the first panic must leave nothing locked.
        let results =
            [0, 1].map(|_| model.tokenizer().unwrap().encode(text, false).map_err(|error| error.to_string()));
        assert_eq!(results[0], results[1]);
        results[0].clone()
    };
    let prefix = format!(
        "{}/tokenizer.json: cannot encode the text: the tokenizers crate panicked: ",
        folder.0.path().display()
    );
    patched(r#"{"pre_tokenizer": {"type": "FixedLength", "length": 0}}"#);
    assert_eq!(encode("The cat"), Err(prefix.clone() + "chunk size must be non-zero"));
    patched(r#"{"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="}}"#);
    assert_eq!(encode("The cat"), Err(prefix + "index out of bounds: the len is 0 but the index is 0"));
    folder.write("tokenizer.json", &original);
    assert_eq!(encode("The cat"), Ok(vec![277, 293]));
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
    assert_eq!(found.config, folder.open().unwrap().config);
}
