//! Text to token ids and back, by the `tokenizers` crate.
//!
//! That crate panics on some crafted or damaged files, when loading or only later; every call into it is caught and
//! becomes an error that names the file.

use std::cell::Cell;
use std::collections::HashSet;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use crate::{Error, Result};

/// A `tokenizer.json`.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    vocab_size: usize,
    /// Ids that decoding leaves out.
    special: HashSet<u32>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`, given as its path, for messages, and its bytes, for a model whose embedding has
    /// `vocab_size` rows.
    ///
    /// The tokenizer may know fewer tokens than the embedding has rows, which is often padded. It may not know more,
    /// but for added tokens (Gemma-3-1B's `<image_soft_token>` has no row): text that contains one is refused by
    /// [`Self::encode`].
    ///
    /// # Errors
    /// [`Error::Model`] if the file is damaged or has an id without a row.
    pub fn from_json(path: &Path, json: &[u8], vocab_size: usize) -> Result<Self> {
        let wrong = |what: String| Error::model(path, what);
        let mut inner = quietly(|| tokenizers::Tokenizer::from_bytes(json))
            .map_err(|what| wrong(format!("not a tokenizer: {what}")))?;
        // Only prompts are encoded, one at a time and whole, whatever the file was saved with.
        inner.with_padding(None);
        quietly(|| inner.with_truncation(None).map(|_| ())).map_err(wrong)?;
        let vocab = quietly(|| Ok::<_, String>(inner.get_vocab(false))).map_err(wrong)?;
        if let Some((token, id)) =
            vocab.iter().max_by_key(|entry| entry.1).filter(|e| *e.1 as usize >= vocab_size)
        {
            let want = format!("below vocab_size {vocab_size}, the rows of the embedding");
            return Err(wrong(format!("token {token:?} has id {id}, expected it {want}")));
        }
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        Ok(Self { inner, path: path.to_owned(), vocab_size, special })
    }

    /// The ids of `text`.
    ///
    /// `add_special` adds what the tokenizer puts around a text, such as a leading BOS; a text that a chat template
    /// rendered already has it. As in transformers 5, `tokenizer.json` alone decides (`add_bos_token` in
    /// `tokenizer_config.json` changes nothing), and special tokens written out in the text are recognised either way.
    ///
    /// # Errors
    /// [`Error::Model`] if the tokenizer fails, or gives an id that has no row in the embedding.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = quietly(|| self.inner.encode_fast(text, add_special))
            .map_err(|what| Error::model(&self.path, format!("cannot encode the text: {what}")))?;
        let ids = encoding.get_ids();
        if let Some(index) = ids.iter().position(|&id| id as usize >= self.vocab_size) {
            let (token, id) = (self.token(ids[index]).unwrap_or_default(), ids[index]);
            let want = format!("below vocab_size {}", self.vocab_size);
            return Err(Error::model(
                &self.path,
                format!("token {token:?} of the text has id {id}, expected it {want}"),
            ));
        }
        Ok(ids.to_vec())
    }

    /// The text of `ids`, without special tokens. Ids that are no token give nothing; bytes that are not UTF-8 give
    /// U+FFFD.
    ///
    /// # Errors
    /// [`Error::Model`] if the tokenizer fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        quietly(|| self.inner.decode(ids, true))
            .map_err(|what| Error::model(&self.path, format!("cannot decode token ids {ids:?}: {what}")))
    }

    /// The id of `token`, if it is one.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token `id`, as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether decoding gives nothing for `id`.
    fn is_silent(&self, id: u32) -> bool {
        self.special.contains(&id) || self.inner.id_to_token(id).is_none()
    }
}

/// Turns a growing list of token ids into text, a piece for each token.
///
/// A token's text depends on its neighbours: a character may be split over several, and SentencePiece drops the space
/// before the first. So each step decodes a short window, from the last few tokens whose text is settled, and gives
/// what the new token adds (the method of Hugging Face's text-generation-inference). The window does not grow with
/// the text.
///
/// The pieces joined are the text of all ids, but for runs of bytes that are not UTF-8, where the number of U+FFFD
/// may differ.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    /// Settled tokens, then those whose text is not out yet.
    window: Vec<u32>,
    settled: usize,
    /// The text of the settled tokens.
    before: String,
}

impl Detokenizer {
    /// Tokens of context that are enough to settle a leading space.
    const CONTEXT: usize = 5;
    /// A character has at most four bytes. If the text still ends in half a character after this many tokens, its
    /// bytes are wrong, not incomplete.
    const MAX_PENDING: usize = 8;

    /// Starts after `context`, the ids that come before those to be decoded; only the last few matter.
    ///
    /// With the prompt as context, SentencePiece tokenizers keep the space between prompt and continuation; with an
    /// empty one they drop it, as decoding the continuation alone does.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn new(tokenizer: Arc<Tokenizer>, context: &[u32]) -> Result<Self> {
        let mut window: Vec<u32> = context
            .iter()
            .rev()
            .copied()
            .filter(|&id| !tokenizer.is_silent(id))
            .take(Self::CONTEXT)
            .collect();
        window.reverse();
        let before = tokenizer.decode(&window)?;
        Ok(Self { tokenizer, settled: window.len(), window, before })
    }

    /// The text that `id` adds; empty while a character is incomplete.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String> {
        if self.tokenizer.is_silent(id) {
            return Ok(String::new());
        }
        self.window.push(id);
        self.settle(self.window.len() - self.settled > Self::MAX_PENDING)
    }

    /// The text that is still held back, with U+FFFD for an incomplete character.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(&mut self) -> Result<String> {
        if self.window.len() == self.settled { Ok(String::new()) } else { self.settle(true) }
    }

    fn settle(&mut self, force: bool) -> Result<String> {
        let text = self.tokenizer.decode(&self.window)?;
        let incomplete = text.ends_with(char::REPLACEMENT_CHARACTER) || text.len() <= self.before.len();
        if incomplete && !force {
            return Ok(String::new());
        }
        let new = match text.strip_prefix(&self.before) {
            Some(new) => new.to_owned(),
            // An invalid byte has turned characters before it into U+FFFD; they are out already.
            None => text.chars().skip(self.before.chars().count()).collect(),
        };
        self.window.drain(..self.settled);
        self.settled = self.window.len();
        self.before = self.tokenizer.decode(&self.window)?;
        Ok(new)
    }
}

/// Runs `f`, which calls into the `tokenizers` crate; a panic becomes an error, and nothing is printed for it.
///
/// The process's panic hook is wrapped once, to be silent for a thread while it is in here.
fn quietly<T, E: ToString>(f: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                previous(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    // Unwind safety: what a panic could leave half-changed within a tokenizer is its cache of words; its lock is then
    // poisoned, and a poisoned cache is not used.
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    QUIET.set(before);
    match result {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(payload) => {
            let message = payload.downcast_ref::<String>().map(String::as_str);
            let message = message.or(payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(format!("the tokenizers crate panicked: {message}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(name: &str) -> Arc<Tokenizer> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let json = std::fs::read(&path).unwrap();
        Arc::new(Tokenizer::from_json(&path, &json, 320).unwrap())
    }

    fn stream(tokenizer: &Arc<Tokenizer>, context: &[u32], ids: &[u32]) -> (Vec<String>, usize) {
        let mut detokenizer = Detokenizer::new(tokenizer.clone(), context).unwrap();
        let mut pieces: Vec<String> = Vec::new();
        let mut widest = 0;
        for &id in ids {
            pieces.push(detokenizer.push(id).unwrap());
            widest = widest.max(detokenizer.window.len());
        }
        pieces.push(detokenizer.finish().unwrap());
        (pieces, widest)
    }

    const TEXT: &str = "The cat is happy, é日本語🙂👩‍👩‍👧 the\n\n  end";

    #[test]
    fn special_tokens_are_added_when_asked_and_known_when_written() {
        let tokenizer = load("byte_level.json");
        assert_eq!(tokenizer.encode("The cat", true).unwrap(), [1, 277, 293]);
        assert_eq!(tokenizer.encode("The cat", false).unwrap(), [277, 293]);
        assert_eq!(tokenizer.encode("<|im_start|>The<|im_end|>", false).unwrap(), [300, 277, 301]);
        assert_eq!(tokenizer.decode(&[300, 1, 277, 293, 301, 319]).unwrap(), "The cat");
        assert_eq!(tokenizer.token_id("<|im_end|>"), Some(301));
        assert_eq!(tokenizer.token(301).as_deref(), Some("<|im_end|>"));
        assert_eq!(tokenizer.encode("", false).unwrap(), [0; 0]);
    }

    #[test]
    fn pieces_joined_are_the_text() {
        for name in ["byte_level.json", "sentencepiece.json"] {
            let tokenizer = load(name);
            let ids = tokenizer.encode(TEXT, true).unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), TEXT, "{name}");
            let (pieces, _) = stream(&tokenizer, &[], &ids);
            assert_eq!(pieces.concat(), TEXT, "{name}");
            assert!(
                pieces.iter().all(|piece| !piece.contains(char::REPLACEMENT_CHARACTER)),
                "{name}: {pieces:?}"
            );
        }
    }

    #[test]
    fn a_character_comes_out_whole_with_its_last_byte() {
        let tokenizer = load("byte_level.json");
        let ids = tokenizer.encode("🙂!", false).unwrap();
        assert_eq!(ids.len(), 5);
        assert_eq!(stream(&tokenizer, &[], &ids).0, ["", "", "", "🙂", "!", ""]);
        assert_eq!(stream(&tokenizer, &[], &ids[..3]).0, ["", "", "", "\u{fffd}"]);
    }

    #[test]
    fn context_keeps_the_space_that_sentencepiece_drops_at_the_start() {
        let tokenizer = load("sentencepiece.json");
        let prompt = tokenizer.encode("The cat", true).unwrap();
        let ids = tokenizer.encode("is in", false).unwrap();
        assert_eq!(stream(&tokenizer, &[], &ids).0.concat(), "is in");
        assert_eq!(stream(&tokenizer, &prompt, &ids).0.concat(), " is in");
    }

    #[test]
    fn the_window_stays_short_whatever_comes() {
        for name in ["byte_level.json", "sentencepiece.json"] {
            let tokenizer = load(name);
            // A continuation byte alone, a special token, an id that is no token, a word.
            let lone = tokenizer.encode("é", false).unwrap()[usize::from(name == "sentencepiece.json") + 1];
            let word = tokenizer.encode("the", false).unwrap()[0];
            for id in [lone, 2, 319, word] {
                let (pieces, widest) = stream(&tokenizer, &[], &[id; 500]);
                assert!(
                    widest <= 2 * (Detokenizer::MAX_PENDING + 1),
                    "{name}: {id} makes a window of {widest}"
                );
                let text = tokenizer.decode(&[id; 500]).unwrap();
                assert_eq!(pieces.concat(), text, "{name}: {id}");
            }
            let ids: Vec<u32> = (0..4000u32).map(|i| i.wrapping_mul(2_654_435_761) % 320).collect();
            let (_, widest) = stream(&tokenizer, &[], &ids);
            assert!(widest <= 2 * (Detokenizer::MAX_PENDING + 1), "{name}: a window of {widest}");
        }
    }

    #[test]
    fn a_panic_inside_becomes_an_error() {
        let error = quietly(|| -> Result<(), String> { panic!("index {}", 7) }).unwrap_err();
        assert_eq!(error, "the tokenizers crate panicked: index 7");
        assert!(!std::thread::panicking());
    }
}
