//! Models by `ORG/NAME`, through the Hugging Face hub and its cache.
//!
//! The cache has the layout of `huggingface_hub`, so that both share it:
//! `models--ORG--NAME/blobs/ETAG`, `refs/REVISION` (a commit) and `snapshots/COMMIT/FILE` (links to blobs); a download
//! in progress is `blobs/ETAG.incomplete`, guarded by `.locks/models--ORG--NAME/ETAG.lock`.
//!
//! The `hf-hub` crate is not used: its version 1 is built on tokio and reqwest, even for blocking calls.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::hub_http::{Failure, Http, Remote};
use super::source::{Source, is_plain_name};
use super::weights::{INDEX, SINGLE, weight_map};
use crate::{Error, Result};

/// Small files that a model may have; weights come besides.
const SMALL_FILES: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// A model on the hub: `ORG/NAME`, or `ORG/NAME@REVISION` for a branch, tag or commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    /// `ORG/NAME`.
    pub name: String,
    /// Branch, tag or commit; `main` unless given.
    pub revision: String,
}

impl FromStr for Repo {
    type Err = Error;

    fn from_str(spec: &str) -> Result<Self> {
        let (name, revision) = spec.split_once('@').unwrap_or((spec, "main"));
        let plain = |part: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty() && !part.starts_with('.') && !part.contains("..") && part.chars().all(allowed)
        };
        let parts: Vec<&str> = name.split('/').collect();
        // "--" separates the parts in the cache's folder names.
        let named = parts.len() == 2 && parts.iter().all(|part| plain(part) && !part.contains("--"));
        if !named || !revision.split('/').all(plain) {
            return Err(Error::config("model", format!("{spec:?}"), "ORG/NAME or ORG/NAME@REVISION"));
        }
        Ok(Self { name: name.to_owned(), revision: revision.to_owned() })
    }
}

impl std::fmt::Display for Repo {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self.revision.as_str() {
            "main" => f.write_str(&self.name),
            revision => write!(f, "{}@{revision}", self.name),
        }
    }
}

/// Access to the hub and its cache.
#[derive(Debug)]
pub struct Hub {
    cache: PathBuf,
    offline: bool,
    http: Http,
}

impl Hub {
    /// As the environment says: `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE`, `HF_TOKEN`,
    /// `HF_TOKEN_PATH`, `SSL_CERT_FILE`, with the meanings and defaults of `huggingface_hub`.
    ///
    /// # Errors
    /// [`Error::Config`] naming the variable; [`Error::Model`] or [`Error::Io`] for the file of certificates.
    pub fn from_env() -> Result<Self> {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// As [`Self::from_env`], with the variables that `var` gives.
    ///
    /// # Errors
    /// As [`Self::from_env`].
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let var =
            |name: &str| var(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let home = || var("HOME").map(PathBuf::from);
        let hf_home = var("HF_HOME").map(PathBuf::from).or_else(|| {
            let cache = var("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(home()?.join(".cache")));
            Some(cache?.join("huggingface"))
        });
        let cache = var("HF_HUB_CACHE").or_else(|| var("HUGGINGFACE_HUB_CACHE")).map(PathBuf::from);
        let Some(cache) = cache.or_else(|| Some(hf_home.as_ref()?.join("hub"))) else {
            return Err(Error::config(
                "HF_HOME",
                "not set, and neither is HOME",
                "a folder for the cache of models",
            ));
        };
        let token_path = var("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(hf_home?.join("token")));
        let token = var("HF_TOKEN").or_else(|| var("HUGGING_FACE_HUB_TOKEN"));
        let token =
            token.or_else(|| fs::read_to_string(token_path?).ok()).map(|token| token.trim().to_owned());
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let truth =
            |name| var(name).is_some_and(|v| ["1", "ON", "YES", "TRUE"].contains(&v.to_uppercase().as_str()));
        let offline = truth("HF_HUB_OFFLINE") || truth("TRANSFORMERS_OFFLINE");
        let certificates = var("SSL_CERT_FILE").or_else(|| var("REQUESTS_CA_BUNDLE")).map(PathBuf::from);
        let http = Http::new(&endpoint, token.filter(|token| !token.is_empty()), certificates.as_deref())?;
        Ok(Self { cache, offline, http })
    }

    /// The folder of the cache.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Whether the environment forbids requests.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// The folder of `repo`'s files in the cache, after downloading those that are not there yet.
    ///
    /// A complete snapshot of a commit needs no request; of a branch or tag, one. If the hub cannot be reached, the
    /// last snapshot of the branch serves, with a warning.
    ///
    /// # Errors
    /// [`Error::Model`] naming the repository or file: no access, no such repository, revision or weights, no
    /// network, offline and not in the cache, a download with the wrong size or SHA-256. [`Error::Io`] for the cache.
    pub fn fetch(&self, repo: &Repo) -> Result<PathBuf> {
        let folder = self.cache.join(format!("models--{}", repo.name.replace('/', "--")));
        let cached = cached_snapshot(&folder, &repo.revision);
        if self.offline || is_commit(&repo.revision) {
            match &cached {
                Some(Ok(snapshot)) => return Ok(snapshot.clone()),
                _ if !self.offline => {}
                Some(Err(file)) => {
                    let what = format!("{file} is not in the cache, and HF_HUB_OFFLINE is set");
                    return Err(Error::model(repo.to_string(), what));
                }
                None => {
                    let at = folder.display();
                    let what = format!("is not in the cache at {at}, and HF_HUB_OFFLINE is set");
                    return Err(Error::model(repo.to_string(), what));
                }
            }
        }
        let (commit, files) = match self.http.revision(&repo.name, &repo.revision) {
            Ok(found) => found,
            Err(Failure::Unreachable(what)) => match cached {
                Some(Ok(snapshot)) => {
                    tracing::warn!("{repo}: using the cache, as the hub cannot be reached: {what}");
                    return Ok(snapshot);
                }
                _ => {
                    return Err(Error::model(
                        repo.to_string(),
                        format!("{what}, and it is not in the cache"),
                    ));
                }
            },
            Err(Failure::Final(what)) => return Err(Error::model(repo.to_string(), what)),
        };
        let snapshot = folder.join("snapshots").join(&commit);
        let download = |name: &str| self.download(repo, &commit, &folder, name);
        for name in files.iter().filter(|name| SMALL_FILES.contains(&name.as_str())) {
            download(name)?;
        }
        let has = |name: &str| files.iter().any(|file| file == name);
        if has(SINGLE) {
            download(SINGLE)?;
        } else if has(INDEX) {
            download(INDEX)?;
            for shard in shards(&snapshot)? {
                download(&shard)?;
            }
        } else {
            let shards: Vec<_> =
                files.iter().filter(|f| f.ends_with(".safetensors") && is_plain_name(f)).collect();
            if shards.is_empty() {
                let what = format!("has no weights in safetensors: its files are {}", files.join(", "));
                return Err(Error::model(repo.to_string(), what));
            }
            shards.into_iter().try_for_each(|name| download(name))?;
        }
        // Last, so that the reference never leads to a snapshot that is not complete.
        if !is_commit(&repo.revision) {
            write(&folder.join("refs").join(&repo.revision), commit.as_bytes())?;
        }
        Ok(snapshot)
    }

    /// Puts the file `name` into the snapshot of `commit`.
    fn download(&self, repo: &Repo, commit: &str, folder: &Path, name: &str) -> Result<()> {
        let link = folder.join("snapshots").join(commit).join(name);
        if link.exists() {
            return Ok(());
        }
        let failed = |failure: Failure| Error::model(format!("{}/{name}", repo.name), failure.to_string());
        let remote = self.http.describe(&repo.name, commit, name).map_err(failed)?;
        let blob = folder.join("blobs").join(&remote.etag);
        let lock =
            self.cache.join(".locks").join(folder.file_name().expect("it is named after the repository"));
        let _lock = lock_file(&lock.join(format!("{}.lock", remote.etag)))?;
        if !blob.exists() {
            self.download_blob(&remote, &blob, name)?.map_err(failed)?;
        }
        make_parent(&link)?;
        let target = Path::new("../../blobs").join(&remote.etag);
        // A link that leads nowhere, or that another process has made meanwhile.
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(target, &link).map_err(|error| Error::io(&link, error))
    }

    fn download_blob(&self, remote: &Remote, blob: &Path, name: &str) -> Result<Result<(), Failure>> {
        let incomplete = blob.with_file_name(format!("{}.incomplete", remote.etag));
        make_parent(&incomplete)?;
        let io = |error| Error::io(&incomplete, error);
        let mut file = File::options().create(true).append(true).read(true).open(&incomplete).map_err(io)?;
        match self.http.download(remote, &mut file, name).map_err(io)? {
            Ok(()) => {}
            // What came so far is kept, to be resumed.
            Err(failure @ Failure::Unreachable(_)) => return Ok(Err(failure)),
            Err(failure) => {
                fs::remove_file(&incomplete).map_err(io)?;
                return Ok(Err(failure));
            }
        }
        fs::rename(&incomplete, blob).map_err(io)?;
        Ok(Ok(()))
    }
}

/// Whether `revision` is a full commit id.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The snapshot of `revision` in the cache; `Err` names a file that it lacks.
fn cached_snapshot(folder: &Path, revision: &str) -> Option<Result<PathBuf, String>> {
    let commit = match is_commit(revision) {
        true => revision.to_owned(),
        false => fs::read_to_string(folder.join("refs").join(revision)).ok()?.trim().to_owned(),
    };
    let snapshot = folder.join("snapshots").join(&commit);
    if !is_commit(&commit) || !snapshot.is_dir() {
        return None;
    }
    let lacks = |name: &str| !snapshot.join(name).exists();
    if lacks("config.json") {
        return Some(Err("config.json".to_owned()));
    }
    if !lacks(SINGLE) {
        return Some(Ok(snapshot));
    }
    let shards = match lacks(INDEX) {
        true => Source::Folder(snapshot.clone()).names_ending(".safetensors").unwrap_or_default(),
        false => shards(&snapshot).unwrap_or_default(),
    };
    if shards.is_empty() {
        return Some(Err(SINGLE.to_owned()));
    }
    match shards.into_iter().find(|name| lacks(name)) {
        Some(name) => Some(Err(name)),
        None => Some(Ok(snapshot)),
    }
}

/// The shards that the index of `snapshot` lists.
fn shards(snapshot: &Path) -> Result<Vec<String>> {
    let path = snapshot.join(INDEX);
    let json = fs::read(&path).map_err(|error| Error::io(&path, error))?;
    let mut names: Vec<String> = weight_map(&path, &json)?.into_values().collect();
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().expect("a path within the cache has a parent");
    fs::create_dir_all(parent).map_err(|error| Error::io(parent, error))
}

fn write(path: &Path, contents: &[u8]) -> Result<()> {
    make_parent(path)?;
    fs::write(path, contents).map_err(|error| Error::io(path, error))
}

/// Waits for other processes that download the same file; holds until dropped.
fn lock_file(path: &Path) -> Result<File> {
    make_parent(path)?;
    let io = |error| Error::io(path, error);
    let file = File::options().create(true).append(true).open(path).map_err(io)?;
    file.lock().map_err(io)?;
    Ok(file)
}
