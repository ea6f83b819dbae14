//! A model's files together, checked against each other before anything uses them.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::chat::{ChatTemplate, SpecialTokens};
use super::config::{LM_HEAD, ModelConfig};
use super::fields::{Fields, parse_object};
use super::hub::{Hub, Repo};
use super::source::Source;
use super::tokenizer::Tokenizer;
use super::weights::{Dtype, Weights};
use crate::{Error, Result};

const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS: &str = "special_tokens_map.json";
const TEMPLATE_JINJA: &str = "chat_template.jinja";
const TEMPLATE_JSON: &str = "chat_template.json";

/// A model: config, weights, and what turns text into tokens.
#[derive(Debug)]
pub struct ModelFiles {
    /// Where the files are.
    pub source: Source,
    /// The decoder's description.
    pub config: ModelConfig,
    /// Every tensor that [`ModelConfig::expected_tensors`] lists, of the right shape.
    pub weights: Weights,
    tokenizer: Option<Arc<Tokenizer>>,
    /// The template's text and the file it is in.
    template: Option<(PathBuf, String)>,
    special_tokens: SpecialTokens,
}

impl ModelFiles {
    /// Opens what `--model` names: a folder, else `ORG/NAME` or `ORG/NAME@REVISION` on the hub.
    ///
    /// # Errors
    /// As [`Self::open`] and [`Hub::fetch`]; [`Error::Config`] if `model` is neither.
    pub fn find(model: &str) -> Result<Self> {
        let folder = Path::new(model);
        if folder.is_dir() {
            return Self::open(Source::Folder(folder.to_owned()));
        }
        let want = "a model's folder, or ORG/NAME or ORG/NAME@REVISION on the Hugging Face hub";
        let repo: Repo = model.parse().map_err(|_| Error::config("model", format!("{model:?}"), want))?;
        let snapshot = Hub::from_env()?.fetch(&repo).map_err(|error| match error {
            // A mistyped folder looks like a repository.
            Error::Model { path, what } => {
                Error::model(path, format!("{what}; nor is there such a folder here"))
            }
            other => other,
        })?;
        Self::open(Source::Folder(snapshot))
    }

    /// Opens the model in `source`.
    ///
    /// `tokenizer.json` may be missing, for use with token ids alone. Weights that the decoder does not read are
    /// refused, as they mean that the config describes another model (biases that are not declared, say), but for two
    /// that are redundant: rotary frequencies (`….rotary_emb.inv_freq`), and an `lm_head.weight` equal to the
    /// embedding to which the config ties it.
    ///
    /// # Errors
    /// [`Error::Model`] naming the file, the field or tensor, its value and what was wanted; [`Error::Io`].
    pub fn open(source: Source) -> Result<Self> {
        let config_path = source.path(CONFIG);
        let Some(json) = source.read(CONFIG)? else { return Err(Error::model(config_path, "is missing")) };
        let generation = source.read(GENERATION)?;
        let generation_path = source.path(GENERATION);
        let generation = generation.as_deref().map(|json| (generation_path.as_path(), json));
        let config = ModelConfig::from_json((&config_path, &json), generation)?;
        let weights = Weights::open(&source)?;
        check_weights(&config, &weights, &config_path)?;

        let tokenizer = match source.read(TOKENIZER)? {
            None => None,
            Some(json) => {
                Some(Arc::new(Tokenizer::from_json(&source.path(TOKENIZER), &json, config.vocab_size)?))
            }
        };
        let mut special_tokens = SpecialTokens::default();
        let mut template = None;
        if let Some(json) = source.read(SPECIAL_TOKENS)? {
            read_special_tokens(&source.path(SPECIAL_TOKENS), &json, &mut special_tokens)?;
        }
        if let Some(json) = source.read(TEMPLATE_JSON)? {
            let path = source.path(TEMPLATE_JSON);
            template = read_template(&path, &json)?.map(|text| (path, text));
        }
        if let Some(json) = source.read(TOKENIZER_CONFIG)? {
            let path = source.path(TOKENIZER_CONFIG);
            read_special_tokens(&path, &json, &mut special_tokens)?;
            template = read_template(&path, &json)?.map(|text| (path, text)).or(template);
        }
        if let Some(text) = source.read(TEMPLATE_JINJA)? {
            let path = source.path(TEMPLATE_JINJA);
            let text = utf8(&path, text)?;
            template = Some((path, text));
        }
        Ok(Self { source, config, weights, tokenizer, template, special_tokens })
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`Error::Model`] if the model has none.
    pub fn tokenizer(&self) -> Result<&Arc<Tokenizer>> {
        let missing =
            || Error::model(self.source.path(TOKENIZER), "is missing: this model takes token ids, not text");
        self.tokenizer.as_ref().ok_or_else(missing)
    }

    /// Whether there is a tokenizer.
    pub fn has_tokenizer(&self) -> bool {
        self.tokenizer.is_some()
    }

    /// The chat template, compiled: that of `chat_template.jinja`, else of `tokenizer_config.json`, else of
    /// `chat_template.json`.
    ///
    /// # Errors
    /// [`Error::Model`] if the model has none, or it has a syntax error.
    pub fn chat_template(&self) -> Result<ChatTemplate> {
        let Some((path, text)) = &self.template else {
            let what = "has no chat_template: this model is not made for chat";
            return Err(Error::model(self.source.path(TOKENIZER_CONFIG), what));
        };
        ChatTemplate::new(path, text, self.special_tokens.clone())
    }

    /// The tokens that chat templates refer to, as the tokenizer's files spell them.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special_tokens
    }

    /// The dtype of the embedding, which stands for that of the checkpoint.
    ///
    /// # Errors
    /// None after [`Self::open`], which has checked that there is an embedding.
    pub fn checkpoint_dtype(&self) -> Result<Dtype> {
        Ok(self.weights.get("model.embed_tokens.weight")?.dtype)
    }
}

fn check_weights(config: &ModelConfig, weights: &Weights, config_path: &Path) -> Result<()> {
    let mut expected = std::collections::HashSet::new();
    for (name, want) in config.expected_tensors() {
        let got = weights.get(&name)?.shape;
        if got != want {
            let by = config_path.display();
            let what = format!("tensor {name} has shape {got:?}, expected {want:?} by {by}");
            return Err(Error::model(weights.path_of(&name), what));
        }
        expected.insert(name);
    }
    let redundant = |name: &str| name.ends_with(".rotary_emb.inv_freq") || name == LM_HEAD;
    let mut extra: Vec<&str> =
        weights.names().filter(|name| !expected.contains(*name) && !redundant(name)).collect();
    extra.sort_unstable();
    if let Some(first) = extra.first() {
        let (count, by) = (extra.len(), config_path.display());
        let what = format!("{count} tensors, {first} the first, are not of the model that {by} describes");
        return Err(Error::model(weights.path_of(first), what));
    }
    if config.tie_embeddings && weights.contains(LM_HEAD) {
        let (head, embedding) = (weights.get(LM_HEAD)?, weights.get("model.embed_tokens.weight")?);
        if head.dtype != embedding.dtype || head.shape != embedding.shape || head.bytes() != embedding.bytes()
        {
            let what =
                format!("tie_word_embeddings is true, but {LM_HEAD} differs from model.embed_tokens.weight");
            return Err(Error::model(config_path, what));
        }
    }
    Ok(())
}

/// Takes the special tokens that the file has; each is a string, or an object with the string as `content`.
fn read_special_tokens(path: &Path, json: &[u8], tokens: &mut SpecialTokens) -> Result<()> {
    let map = parse_object(path, json)?;
    let fields = Fields::new(path, &map);
    for (key, token) in [
        ("bos_token", &mut tokens.bos_token),
        ("eos_token", &mut tokens.eos_token),
        ("pad_token", &mut tokens.pad_token),
        ("unk_token", &mut tokens.unk_token),
    ] {
        if let Some(value) = fields.get(key) {
            let text = value.as_str().or_else(|| value.get("content")?.as_str());
            let want = "a string, or an object with a string as `content`";
            *token = Some(text.ok_or_else(|| fields.wrong(key, value, want))?.to_owned());
        }
    }
    Ok(())
}

/// The field `chat_template`: a string, or a list of named ones, of which `default` is taken.
fn read_template(path: &Path, json: &[u8]) -> Result<Option<String>> {
    const KEY: &str = "chat_template";
    let map = parse_object(path, json)?;
    let fields = Fields::new(path, &map);
    let Some(value) = fields.get(KEY) else { return Ok(None) };
    let named = || value.as_array()?.iter().find(|entry| entry["name"] == "default")?["template"].as_str();
    let want = "a string, or a list of {name, template} with a `default`";
    let text = value.as_str().or_else(named).ok_or_else(|| fields.wrong(KEY, value, want))?;
    Ok(Some(text.to_owned()))
}

fn utf8(path: &Path, bytes: Cow<[u8]>) -> Result<String> {
    String::from_utf8(bytes.into_owned())
        .map_err(|error| Error::model(path, format!("is not UTF-8: {error}")))
}
