//! The kernels' source: embedded in the binary, overridden by the folder in `LATHE_CUDA_DIR`, added to by callers.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Mutex,
};

use crate::error::{Error, Result};

/// `cuda/` of the repository.
pub const EMBEDDED: [(&str, &str); 21] = [
    ("activation.cu", include_str!("../../../cuda/activation.cu")),
    ("attention.cu", include_str!("../../../cuda/attention.cu")),
    ("attention.cuh", include_str!("../../../cuda/attention.cuh")),
    ("attention_decode.cuh", include_str!("../../../cuda/attention_decode.cuh")),
    ("attention_flash.cuh", include_str!("../../../cuda/attention_flash.cuh")),
    ("attention_hopper.cuh", include_str!("../../../cuda/attention_hopper.cuh")),
    ("common.cuh", include_str!("../../../cuda/common.cuh")),
    ("embedding.cu", include_str!("../../../cuda/embedding.cu")),
    ("hopper.cuh", include_str!("../../../cuda/hopper.cuh")),
    ("kv_store.cu", include_str!("../../../cuda/kv_store.cu")),
    ("linear.cu", include_str!("../../../cuda/linear.cu")),
    ("linear_hopper.cu", include_str!("../../../cuda/linear_hopper.cu")),
    ("logits.cu", include_str!("../../../cuda/logits.cu")),
    ("logprobs.cu", include_str!("../../../cuda/logprobs.cu")),
    ("rms_norm.cu", include_str!("../../../cuda/rms_norm.cu")),
    ("rope.cu", include_str!("../../../cuda/rope.cu")),
    ("sample.cu", include_str!("../../../cuda/sample.cu")),
    ("sample.cuh", include_str!("../../../cuda/sample.cuh")),
    ("sample_naive.cuh", include_str!("../../../cuda/sample_naive.cuh")),
    ("sample_sorting.cuh", include_str!("../../../cuda/sample_sorting.cuh")),
    ("tensor_core.cuh", include_str!("../../../cuda/tensor_core.cuh")),
];

/// Where the text of a kernel file comes from: the folder, else what was added, else the binary.
#[derive(Debug, Default)]
pub struct Sources {
    folder: Option<PathBuf>,
    added: Mutex<BTreeMap<&'static str, &'static str>>,
}

/// A file and what it includes, itself first.
pub type Texts = Vec<(String, String)>;

impl Sources {
    /// With `folder` before the embedded files.
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, added: Mutex::default() }
    }

    /// With the folder in `LATHE_CUDA_DIR`, if that is set.
    pub fn from_env() -> Self {
        Self::new(std::env::var_os("LATHE_CUDA_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from))
    }

    /// As [`Self::from_env`], or with the repository's folder, for one to watch.
    ///
    /// # Errors
    /// [`Error::Config`] if there is neither.
    pub fn watched() -> Result<Self> {
        let from_env = Self::from_env();
        if from_env.folder.is_some() {
            return Ok(from_env);
        }
        if Path::new("cuda/common.cuh").exists() {
            return Ok(Self::new(Some("cuda".into())));
        }
        let want = "the folder of kernel files to watch, because this is not the repository";
        Err(Error::config("LATHE_CUDA_DIR", "not set", want))
    }

    /// A file of a caller's own, which may include the embedded headers.
    pub fn add(&self, name: &'static str, text: &'static str) {
        self.added.lock().expect("no panic holds it").insert(name, text);
    }

    /// The folder that overrides.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// What compiler messages call `file`.
    pub fn shown(&self, file: &str) -> String {
        match &self.folder {
            Some(folder) if folder.join(file).exists() => folder.join(file).display().to_string(),
            _ => format!("cuda/{file}"),
        }
    }

    /// The text of `file` and of all that it includes, itself first.
    ///
    /// # Errors
    /// [`Error::UnknownName`] for a file that is nowhere; [`Error::Io`] for one that cannot be read.
    pub fn texts(&self, file: &str) -> Result<Texts> {
        let mut texts: Texts = vec![(file.into(), self.read(file)?.into_owned())];
        let mut next = 0;
        while next < texts.len() {
            for name in includes(&texts[next].1) {
                if !texts.iter().any(|(known, _)| *known == name) {
                    let text = self.read(&name)?.into_owned();
                    texts.push((name, text));
                }
            }
            next += 1;
        }
        Ok(texts)
    }

    fn read(&self, file: &str) -> Result<Cow<'static, str>> {
        if let Some(path) = self.folder.as_ref().map(|folder| folder.join(file)).filter(|path| path.exists())
        {
            return std::fs::read_to_string(&path).map(Cow::Owned).map_err(|e| Error::io(path, e));
        }
        if let Some(text) = self.added.lock().expect("no panic holds it").get(file) {
            return Ok(Cow::Borrowed(text));
        }
        let embedded = EMBEDDED.iter().find(|(name, _)| *name == file);
        embedded.map(|(_, text)| Cow::Borrowed(*text)).ok_or_else(|| Error::UnknownName {
            kind: "kernel file".into(),
            name: file.into(),
            known: EMBEDDED.map(|(name, _)| name).join(", "),
        })
    }
}

/// The names in `#include "name"`.
fn includes(text: &str) -> Vec<String> {
    let quoted = |line: &str| {
        let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?.trim_start();
        rest.strip_prefix('"')?.split_once('"').map(|(name, _)| name.to_owned())
    };
    text.lines().filter_map(quoted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_embedded() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
        let mut files: Vec<String> = folder
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".cu") || name.ends_with(".cuh"))
            .collect();
        files.sort();
        assert_eq!(files, EMBEDDED.map(|(name, _)| name));
    }

    #[test]
    fn includes_are_followed_once_and_the_folder_comes_first() {
        let names = |sources: &Sources, file| -> Vec<String> {
            sources.texts(file).unwrap().into_iter().map(|(name, _)| name).collect()
        };
        let embedded = Sources::default();
        assert_eq!(names(&embedded, "tensor_core.cuh"), ["tensor_core.cuh", "common.cuh"]);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("common.cuh"), "mine").unwrap();
        let sources = Sources::new(Some(folder.path().into()));
        assert_eq!(sources.texts("tensor_core.cuh").unwrap()[1].1, "mine");
        assert_eq!(sources.shown("common.cuh"), folder.path().join("common.cuh").display().to_string());
        sources.add("own.cu", "#include \"common.cuh\"\n");
        assert_eq!(names(&sources, "own.cu"), ["own.cu", "common.cuh"]);
        let error = sources.texts("none.cu").unwrap_err().to_string();
        assert!(error.starts_with("unknown kernel file \"none.cu\"; known: activation.cu, "), "{error}");
    }
}
