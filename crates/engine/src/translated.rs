//! What machines have translated, for the next machines of the same image, or of the same disks: a file for each of those
//! and each translator, which those machines read and add to themselves.
//!
//! Who writes to such a file decides what code others execute. Machines of one image may do so to each other; an image
//! whose guest took over what runs it reaches no other's. A system of disks shares with nobody but itself, started again:
//! a disk is one machine's at a time.

use std::collections::HashSet;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use model::{CellSpec, DiskSpec, FirstProgram};
use store::Store;

use crate::error::Result;
use crate::table::Engine;

/// Whose translations a cell's machine uses: its image's, or its disks' if they have all that it executes.
fn scope(spec: &CellSpec) -> Option<String> {
    match &spec.machine {
        Some(machine) if machine.first == FirstProgram::Disks => of_disks(&machine.disks),
        _ => Some(spec.image.tree.to_string()),
    }
}

/// A name for disks. Another file has another, also where it takes the place of one that is gone.
fn of_disks(disks: &[DiskSpec]) -> Option<String> {
    let mut hasher = DefaultHasher::new();
    for disk in disks {
        let file = fs::metadata(&disk.file).ok()?;
        (&disk.file, file.dev(), file.ino(), file.created().ok()).hash(&mut hasher);
    }
    Some(format!("disk-{:016x}", hasher.finish()))
}

/// The file for a cell's machine. Nothing if there is none to be had: then it translates for itself.
pub(crate) fn open(store: &Store, spec: &CellSpec, arch: machine::Arch) -> Option<File> {
    let folder = store.translated();
    fs::create_dir_all(folder).ok()?;
    let scope = scope(spec)?;
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
    /// Throws away translations of images that are not there any more and of disks, if no cell needs them. Gives how many
    /// bytes that was.
    pub fn collect_translations(&self) -> Result<u64> {
        let of_cells = self.cells()?.into_iter().filter_map(|cell| scope(&cell.spec)).collect::<HashSet<_>>();
        let needed = &self.trees_needed()? | &of_cells;
        Ok(remove(self.store().translated(), |name| name.split('.').next().is_none_or(|it| !needed.contains(it))))
    }
}
