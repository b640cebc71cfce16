//! What a pool holds, and what it costs.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use model::ByteSize;
use serde::Serialize;

use crate::error::{Context, Result};
use crate::index::Follower;
use crate::layout::names;
use crate::store::Store;

/// What a pool holds, and what it costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// Image records.
    pub images: u64,
    /// Names.
    pub refs: u64,
    /// Objects in packs.
    pub objects: u64,
    /// Packs.
    pub packs: u64,
    /// File content of all images together, as if each were stored alone.
    pub logical: ByteSize,
    /// The objects' bytes: what is left when equal ones are stored once.
    pub unique: ByteSize,
    /// What packs, index, refs and image records take on disk.
    pub stored: ByteSize,
    /// The index's part of that.
    pub index: ByteSize,
    /// What unpacked root file systems take on disk. They can be made again.
    pub unpacked: ByteSize,
    /// `logical` ÷ `unique`; 1 for an empty pool.
    pub dedup_ratio: f64,
    /// `unique` ÷ `stored`; 1 for an empty pool.
    pub compression_ratio: f64,
}

impl Store {
    /// Counts, damaged names and records too, as far as what they say is known. Reads no object.
    pub fn status(&self) -> Result<Status> {
        let images = self.images()?;
        let packs = match Follower::open(&self.paths.index)? {
            Some(follower) => follower.snapshot()?.packs()?,
            None => Default::default(),
        };
        let sum = |each: fn(&crate::index::PackInfo) -> u64| packs.values().map(each).fold(0, u64::saturating_add);
        let index = allocated(&self.paths.index)?;
        let small = disk_use(&[&self.paths.images, &self.paths.refs])?;
        let sizes = images.iter().filter_map(|(_, record)| record.as_ref().ok()).map(|record| record.size.get());
        let logical = sizes.fold(0, u64::saturating_add);
        let (unique, stored) = (sum(|pack| pack.bytes), sum(|pack| pack.size) + index + small);
        let unpacked = disk_use(&[
            &self.paths.objects,
            &self.paths.roots,
            &self.paths.fresh,
            &self.paths.patched,
            &self.paths.translated,
            &self.paths.farm,
            &self.paths.plain,
        ])?;
        Ok(Status {
            images: images.len() as u64,
            refs: self.each_ref()?.len() as u64,
            objects: sum(|pack| pack.objects),
            packs: packs.len() as u64,
            logical: ByteSize::bytes(logical),
            unique: ByteSize::bytes(unique),
            stored: ByteSize::bytes(stored),
            index: ByteSize::bytes(index),
            unpacked: ByteSize::bytes(unpacked),
            dedup_ratio: ratio(logical, unique),
            compression_ratio: ratio(unique, stored),
        })
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if part == 0 || whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

fn allocated(path: &Path) -> Result<u64> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        found => found.map(|it| it.blocks() * 512).context("inspect", path),
    }
}

/// What the files beneath directories take on disk, hard links counted once.
fn disk_use(dirs: &[&Path]) -> Result<u64> {
    let mut total = 0;
    let mut todo: Vec<PathBuf> = dirs.iter().map(|dir| dir.to_path_buf()).collect();
    let mut seen = HashSet::new();
    while let Some(dir) = todo.pop() {
        for name in names(&dir)? {
            let path = dir.join(name);
            let Ok(found) = std::fs::symlink_metadata(&path) else { continue };
            if found.is_dir() {
                todo.push(path);
            } else if found.nlink() == 1 || seen.insert(found.ino()) {
                total += found.blocks() * 512;
            }
        }
    }
    Ok(total)
}
