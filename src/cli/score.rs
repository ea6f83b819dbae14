//! `lathe score`: teacher-forced logits, to compare with other implementations.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lathe::open;
use serde_json::{Map, Value, json};

use super::options::EngineOptions;

/// Write the logits of every position of given token lists to a safetensors file.
///
/// The tensors are `logits.0`, `logits.1`, … in the order of the lists, each [tokens, vocabulary] float32: row i tells
/// of the token that follows the first i + 1.
#[derive(clap::Args)]
pub struct Args {
    /// JSON list of lists of token ids
    #[arg(long, value_name = "FILE.json")]
    ids: PathBuf,
    /// Where to write
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// Tokens to compute at a time [default: as many as max-num-batched-tokens allows]
    #[arg(long, value_name = "N")]
    chunk: Option<NonZeroUsize>,
    #[command(flatten)]
    engine: EngineOptions,
}

/// Writes the file.
///
/// # Errors
/// For ids that are not a list of lists, that the model does not have, or that are too many; a file that cannot be
/// written. No file is left then.
pub fn run(args: Args) -> Result<()> {
    let lists = read_ids(&args.ids)?;
    let mut config = args.engine.config()?;
    let files = open::files(&config)?;
    config.max_model_len = config.max_model_len.min(files.config.max_position_embeddings);
    let vocab = files.config.vocab_size;
    for (i, list) in lists.iter().enumerate() {
        if list.is_empty() || list.len() > config.max_model_len {
            bail!(
                "ids[{i}] has {} tokens, expected 1 to max_model_len, which is {}",
                list.len(),
                config.max_model_len
            );
        }
        if let Some(token) = list.iter().find(|&&token| token as usize >= vocab) {
            bail!("ids[{i}] has token {token}, expected token ids below {vocab}");
        }
    }
    let mut runner = open::runner(&config, &files)?;
    let chunk = args.chunk.map_or(usize::MAX, NonZeroUsize::get).min(config.max_num_batched_tokens);

    // Written as it is computed: the logits of all lists may be more than memory holds.
    let partial = args.out.with_added_extension("partial");
    let named = || format!("--out {}", partial.display());
    let mut write = || -> Result<()> {
        let mut out = BufWriter::new(File::create(&partial).with_context(named)?);
        out.write_all(&header(&lists, vocab)?).with_context(named)?;
        for list in &lists {
            for logit in runner.score(list, chunk)? {
                out.write_all(&logit.to_le_bytes()).with_context(named)?;
            }
        }
        out.flush().with_context(named)?;
        fs::rename(&partial, &args.out).with_context(|| format!("--out {}", args.out.display()))
    };
    write().inspect_err(|_| drop(fs::remove_file(&partial)))
}

fn read_ids(path: &Path) -> Result<Vec<Vec<u32>>> {
    let text = fs::read(path).with_context(|| path.display().to_string())?;
    let wanted = || format!("{}: expected a JSON list of lists of token ids", path.display());
    serde_json::from_slice(&text).with_context(wanted)
}

/// Of a safetensors file with one float32 tensor `logits.i` for each list, one after the other: its length, then JSON
/// that is padded so that the data is aligned.
fn header(lists: &[Vec<u32>], vocab: usize) -> Result<Vec<u8>> {
    let mut entries = Map::new();
    let mut start = 0;
    for (i, list) in lists.iter().enumerate() {
        let end = start + list.len() * vocab * size_of::<f32>();
        let entry: Value =
            json!({"dtype": "F32", "shape": [list.len(), vocab], "data_offsets": [start, end]});
        entries.insert(format!("logits.{i}"), entry);
        start = end;
    }
    let mut json = serde_json::to_vec(&entries)?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}
