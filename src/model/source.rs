//! Where a model's files come from: a folder, or the binary itself.

use std::borrow::Cow;
use std::fs::File;
use std::ops::Deref;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use crate::{Error, Result};

/// A model's files by name.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder.
    Folder(PathBuf),
    /// Files compiled into the binary: name and contents. Weights must be [`Aligned`].
    Embedded(&'static [(&'static str, &'static [u8])]),
}

/// Gives embedded weights the alignment that their elements need:
/// `static WEIGHTS: &Aligned<[u8]> = &Aligned(*include_bytes!("model.safetensors"));`.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Aligned<T: ?Sized>(
    /// The bytes.
    pub T,
);

/// A file's bytes, kept alive by whoever holds this.
#[derive(Clone, Debug)]
pub(super) enum Bytes {
    Mapped(Arc<Mmap>),
    Static(&'static [u8]),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
        }
    }
}

impl Source {
    /// `name` as messages show it: its path, or `embedded:name`.
    pub fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::Folder(folder) if name.is_empty() => folder.clone(),
            Self::Folder(folder) => folder.join(name),
            Self::Embedded(_) => PathBuf::from(format!("embedded:{name}")),
        }
    }

    /// The contents of a text file, or `None` if there is no such file.
    ///
    /// # Errors
    /// [`Error::Model`] if it is no regular file or above 256 MiB, [`Error::Io`] if it cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Cow<'static, [u8]>>> {
        const LIMIT: u64 = 256 << 20;
        match self {
            Self::Embedded(_) => Ok(self.embedded(name).map(Cow::Borrowed)),
            Self::Folder(_) => {
                let path = self.path(name);
                let Some(length) = regular_file(&path)? else { return Ok(None) };
                if length > LIMIT {
                    return Err(Error::model(path, format!("is {length} bytes, expected at most {LIMIT}")));
                }
                let bytes = std::fs::read(&path).map_err(|error| Error::io(&path, error))?;
                Ok(Some(Cow::Owned(bytes)))
            }
        }
    }

    /// A file mapped into memory, or `None` if there is no such file.
    pub(super) fn map(&self, name: &str) -> Result<Option<Bytes>> {
        match self {
            Self::Embedded(_) => Ok(self.embedded(name).map(Bytes::Static)),
            Self::Folder(_) => {
                let path = self.path(name);
                match regular_file(&path)? {
                    None => Ok(None),
                    Some(0) => Ok(Some(Bytes::Static(&[]))), // mmap refuses a length of zero
                    Some(_) => map_file(&path).map(|map| Some(Bytes::Mapped(Arc::new(map)))),
                }
            }
        }
    }

    /// The names that end in `suffix`, sorted.
    pub(super) fn names_ending(&self, suffix: &str) -> Result<Vec<String>> {
        let mut names = match self {
            Self::Embedded(files) => files.iter().map(|(name, _)| (*name).to_owned()).collect(),
            Self::Folder(folder) => {
                let entries = std::fs::read_dir(folder).map_err(|error| Error::io(folder, error))?;
                let mut names = Vec::new();
                for entry in entries {
                    let entry = entry.map_err(|error| Error::io(folder, error))?;
                    names.extend(entry.file_name().into_string().ok());
                }
                names
            }
        };
        names.retain(|name| name.ends_with(suffix));
        names.sort();
        Ok(names)
    }

    fn embedded(&self, name: &str) -> Option<&'static [u8]> {
        match self {
            Self::Embedded(files) => files.iter().find(|file| file.0 == name).map(|file| file.1),
            Self::Folder(_) => None,
        }
    }
}

/// Whether `name` is a file's name alone, so that joining it to a folder stays within the folder.
pub(super) fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
}

/// The length of the file `path` follows to, or `None` if there is none. Anything but a regular file is refused:
/// opening a pipe would block.
fn regular_file(path: &Path) -> Result<Option<u64>> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Some(metadata.len())),
        Ok(_) => Err(Error::model(path, "is not a regular file")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path, error)),
    }
}

fn map_file(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|error| Error::io(path, error))?;
    // SAFETY: the map is read-only, and bytes are only ever read through it as plain integers, for which every bit
    // pattern is valid. That nobody truncates a model's file while it is loaded is the one thing no program can
    // check; it holds for the hub's cache, where files are written once, under another name, and then renamed.
    unsafe { Mmap::map(&file) }.map_err(|error| Error::io(path, error))
}
