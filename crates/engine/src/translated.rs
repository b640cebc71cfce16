//! What machines have translated, for the next machines of the same image: a file for each tree and translator, which
//! those machines read and add to themselves.
//!
//! Who writes to such a file decides what code others execute. Machines of one image may do so to each other; an image
//! whose guest took over what runs it reaches no other's.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use model::CellSpec;
use store::Store;

use crate::error::Result;
use crate::table::Engine;

/// The file for a cell's machine. Nothing if there is none to be had: then it translates for itself.
pub(crate) fn open(store: &Store, spec: &CellSpec, arch: machine::Arch) -> Option<File> {
    let folder = store.translated();
    fs::create_dir_all(folder).ok()?;
    let scope = spec.image.tree.to_string();
    let name = format!("{scope}.{:016x}", machine::translator(arch).ok()?);
    let path = folder.join(&name);
    if !path.exists() {
        // Another translator's, which is of no use any more. Machines that have it go on with it.
        remove(folder, |it| it.split('.').next() == Some(&scope));
    }
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).ok()
}

/// Removes files by their names; gives how many bytes they took.
fn remove(folder: &Path, is_removed: impl Fn(&str) -> bool) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let removed = entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(&is_removed));
    let with_length = removed.map(|entry| (entry.path(), entry.metadata().map_or(0, |it| it.len())));
    with_length.filter(|(path, _)| fs::remove_file(path).is_ok()).map(|(_, length)| length).sum()
}

impl Engine {
    /// Throws away translations of images that are not there any more and that no cell needs. Gives how many bytes that was.
    pub fn collect_translations(&self) -> Result<u64> {
        let needed = self.trees_needed()?;
        Ok(remove(self.store().translated(), |name| name.split('.').next().is_none_or(|it| !needed.contains(it))))
    }
}
