//! Folders that a task makes once: all or nothing, stamped with the recipe that made them.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail};

const STAMP: &str = ".made-by-xtask";

/// Makes folder `out` unless one with the same `stamp` is there; returns whether it did.
///
/// `fill` writes into a temporary sibling, which is renamed into place when complete, so that no reader ever
/// sees half a folder. A folder with another stamp is replaced.
///
/// # Errors
/// If `out` holds something that no task made (it is left alone), if `fill` fails (nothing is left behind),
/// or if the file system says no.
pub fn folder(out: &Path, stamp: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<bool> {
    match fs::read_to_string(out.join(STAMP)) {
        Ok(found) if found == stamp => return Ok(false),
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::NotFound => refuse_foreign(out)?,
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", out.join(STAMP).display())),
    }
    let parent = out.parent().with_context(|| format!("{}: not a folder that can be made", out.display()))?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let temp = tempfile::Builder::new()
        .prefix(".making-")
        .tempdir_in(parent)
        .with_context(|| format!("cannot write in {}", parent.display()))?;
    let new = temp.path().join("new");
    fs::create_dir(&new)?;
    fill(&new).with_context(|| format!("making {}", out.display()))?;
    fs::write(new.join(STAMP), stamp)?;
    if out.exists() {
        fs::rename(out, temp.path().join("old")).with_context(|| format!("replacing {}", out.display()))?;
    }
    fs::rename(&new, out).with_context(|| format!("moving the finished folder to {}", out.display()))?;
    Ok(true)
}

/// An absent or empty `out` may be written; anything else without a stamp is somebody's own.
fn refuse_foreign(out: &Path) -> Result<()> {
    match fs::read_dir(out) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => bail!("{} is not empty and no xtask made it: name another folder", out.display()),
        },
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", out.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(text: &'static str) -> impl FnOnce(&Path) -> Result<()> {
        move |dir| Ok(fs::write(dir.join("file"), text)?)
    }

    /// Names in `dir`, sorted.
    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn made_once_and_again_for_another_stamp() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("a/b");
        assert!(folder(&out, "1", write("one")).unwrap());
        assert!(!folder(&out, "1", |_| panic!("the folder is there")).unwrap());
        assert_eq!(fs::read_to_string(out.join("file")).unwrap(), "one");
        assert!(folder(&out, "2", write("two")).unwrap());
        assert_eq!(fs::read_to_string(out.join("file")).unwrap(), "two");
        assert_eq!(names(out.parent().unwrap()), ["b"]);
    }

    #[test]
    fn a_failed_fill_leaves_the_old_folder_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("b");
        folder(&out, "1", write("one")).unwrap();
        let error = folder(&out, "2", |dir| {
            fs::write(dir.join("file"), "half")?;
            bail!("disk full")
        });
        assert!(format!("{:#}", error.unwrap_err()).ends_with("b: disk full"));
        assert_eq!(fs::read_to_string(out.join("file")).unwrap(), "one");
        assert_eq!(names(root.path()), ["b"]);
    }

    #[test]
    fn a_folder_of_somebody_else_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("thesis"), "").unwrap();
        let error = folder(root.path(), "1", |_| panic!("must not be filled")).unwrap_err();
        assert!(error.to_string().contains("is not empty and no xtask made it"), "{error}");
        assert_eq!(names(root.path()), ["thesis"]);
    }
}
