//! `tokenizer.json` and `tokenizer_config.json` of a GGUF with a byte-level BPE vocabulary.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use super::gguf::Gguf;

/// `tokenizer.json`, in the form of the tokenizers library.
///
/// # Errors
/// If the vocabulary is not byte-level BPE with SmolLM's pre-tokenizer, or a token or merge is malformed.
pub fn tokenizer(gguf: &Gguf) -> Result<Value> {
    for (key, wanted) in [("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "smollm")] {
        let found = gguf.string(key)?;
        ensure!(found == wanted, "gguf: {key} is {found:?}, expected {wanted:?}");
    }
    let tokens = gguf.strings("tokenizer.ggml.tokens")?;
    let vocab: Map<_, _> = tokens.iter().enumerate().map(|(id, &token)| (token.into(), id.into())).collect();
    ensure!(vocab.len() == tokens.len(), "gguf: tokenizer.ggml.tokens has a token twice");
    let merges: Vec<_> = gguf
        .strings("tokenizer.ggml.merges")?
        .into_iter()
        .map(|merge| merge.split_once(' ').with_context(|| format!("gguf: merge {merge:?} has no space")))
        .collect::<Result<_>>()?;
    let byte_level = |add_prefix_space| {
        json!({
            "type": "ByteLevel",
            "add_prefix_space": add_prefix_space,
            "trim_offsets": true,
            "use_regex": true,
        })
    };
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(gguf, &tokens)?,
        "normalizer": null,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{ "type": "Digits", "individual_digits": true }, byte_level(false)],
        },
        "post_processor": null,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocab,
            "merges": merges,
        },
    }))
}

/// The tokens that are matched in the text before it is split: llama.cpp calls them control or user-defined.
fn added_tokens(gguf: &Gguf, tokens: &[&str]) -> Result<Vec<Value>> {
    const NORMAL: i64 = 1;
    const CONTROL: i64 = 3;
    const USER_DEFINED: i64 = 4;
    let types = gguf.signed_integers("tokenizer.ggml.token_type")?;
    ensure!(types.len() == tokens.len(), "gguf: {} token types for {} tokens", types.len(), tokens.len());
    let mut added = Vec::new();
    for (id, (&content, kind)) in tokens.iter().zip(types).enumerate() {
        match kind {
            NORMAL => {}
            CONTROL | USER_DEFINED => added.push(json!({
                "id": id,
                "content": content,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": kind == CONTROL,
            })),
            other => bail!("gguf: token {id} {content:?} has type {other}, expected 1, 3 or 4"),
        }
    }
    Ok(added)
}

/// `tokenizer_config.json`, with the chat template.
///
/// # Errors
/// If a metadata value is missing or a token id is outside the vocabulary.
pub fn config(gguf: &Gguf) -> Result<Value> {
    let tokens = gguf.strings("tokenizer.ggml.tokens")?;
    let token = |name: &str| -> Result<&str> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let id = gguf.unsigned(&key)?;
        let token = tokens.get(id);
        token.copied().with_context(|| format!("gguf: {key} is {id}, but there are {} tokens", tokens.len()))
    };
    Ok(json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": gguf.bool("tokenizer.ggml.add_bos_token")?,
        "bos_token": token("bos")?,
        "eos_token": token("eos")?,
        "pad_token": token("padding")?,
        "unk_token": token("unknown")?,
        "clean_up_tokenization_spaces": false,
        "model_max_length": gguf.unsigned("llama.context_length")?,
        "chat_template": gguf.string("tokenizer.chat_template")?,
    }))
}
