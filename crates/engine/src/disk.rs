//! Small files that are either as they were or as they shall be, never in between.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Whether a write has reached the disk when the call returns. What a command acknowledges is [`Self::Synced`]; what
/// only has to be right while the machine stays up may be [`Self::Relaxed`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    Synced,
    Relaxed,
}

/// A file larger than this is not one of ours.
const MAX_BYTES: u64 = 4 << 20;

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    use std::io::Read;
    let file = File::open(path).map_err(|e| Error::at("opening", path, e))?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(|e| Error::at("reading", path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::Damaged { path: path.to_owned(), why: e.to_string() })
}

/// Replaces the file: a new one is written beside it and renamed over it.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T, durability: Durability) -> Result<()> {
    let bytes = serde_json::to_vec(value)
        .map_err(|e| Error::Damaged { path: path.to_owned(), why: format!("cannot be written: {e}") })?;
    let staged = path.with_extension("staged");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&staged)?;
        file.write_all(&bytes)?;
        if durability == Durability::Synced {
            file.sync_all()?;
        }
        std::fs::rename(&staged, path)
    };
    write().map_err(|e| Error::at("writing", path, e))?;
    if durability == Durability::Synced
        && let Some(dir) = path.parent()
    {
        sync_dir(dir)?;
    }
    Ok(())
}

pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|it| it.sync_all()).map_err(|e| Error::at("syncing", dir, e))
}

/// Removes a directory with all that is in it, for its owner even where permissions stand in the way: an overlay's
/// working directory has none, and a program may take them from its own. One that is gone already is no failure.
pub(crate) fn remove_tree(dir: &Path) -> std::io::Result<()> {
    use std::io::ErrorKind;
    // Whoever looks whether a tree is a leftover of a crash makes its lock file again, right where it was deleted.
    const MEETINGS: u32 = 1000;
    let mut meetings = 0;
    loop {
        match std::fs::remove_dir_all(dir) {
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                open_up(dir)?;
                return std::fs::remove_dir_all(dir);
            }
            Err(e) if e.kind() == ErrorKind::DirectoryNotEmpty && meetings < MEETINGS => meetings += 1,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            outcome => return outcome,
        }
    }
}

/// Lets the owner into a directory and those below. Links are not followed.
fn open_up(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_removed_while_others_leave_files_in_it() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..50 {
            let tree = dir.path().join(round.to_string());
            std::fs::create_dir_all(tree.join("a/b")).unwrap();
            let others = {
                let tree = tree.clone();
                std::thread::spawn(move || (0..50).for_each(|_| drop(std::fs::write(tree.join("lock"), ""))))
            };
            remove_tree(&tree).unwrap();
            others.join().unwrap();
            assert!(!tree.exists());
            remove_tree(&tree).unwrap();
        }
    }

    #[test]
    fn a_tree_that_nobody_may_enter_is_removed() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("a");
        std::fs::create_dir_all(tree.join("b/c")).unwrap();
        std::fs::write(tree.join("b/c/f"), "x").unwrap();
        std::os::unix::fs::symlink("/", tree.join("b/root")).unwrap();
        for inner in ["b/c", "b"] {
            std::fs::set_permissions(tree.join(inner), std::fs::Permissions::from_mode(0o000)).unwrap();
        }
        // Root may enter anyway; so the walk is tested by itself.
        open_up(&tree).unwrap();
        assert_eq!(std::fs::metadata(tree.join("b/c")).unwrap().permissions().mode() & 0o777, 0o700);
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write_json(&path, &vec![1, 2], Durability::Synced).unwrap();
        assert_eq!(read_json::<Vec<u8>>(&path).unwrap(), [1, 2]);
        std::fs::write(&path, "[1,").unwrap();
        let error = read_json::<Vec<u8>>(&path).unwrap_err().to_string();
        assert!(error.contains("state.json is damaged"), "{error}");
    }
}
