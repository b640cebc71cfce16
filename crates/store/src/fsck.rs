//! Checking a pool, and mending it.
//!
//! Every byte is read: each object is hashed, each reference followed, each unpacked file compared. **What is damaged is
//! named**, with the images that it belongs to. Repair never throws a damaged file away (it goes to `aside/`), and
//! proceeds so that a repair that dies can be repeated:
//! 1. what is whole in damaged packs is copied to new ones, the damaged ones are set aside, the index is made anew;
//! 2. refs whose damage their own redundancy can undo are rewritten, image records are taken from the packs;
//! 3. unpacked files that are wrong are made again.
//!
//! What is lost stays named as damage. Storing the same image again heals it: its objects are not in the index, so they
//! are stored anew.

mod images;
mod packs;
mod unpacked;

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use model::{ObjectId, Progress};
use serde::Serialize;

use crate::durable;
use crate::error::{Context, Error, Result};
use crate::fail::{self, Point};
use crate::layout::Paths;
use crate::store::Store;

/// Whether to mend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Change nothing.
    CheckOnly,
    /// Mend what can be mended.
    Mend,
}

/// One damaged thing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Damage {
    /// What: a file of the pool, or an object and what it is part of.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
    /// The names of the images that cannot be read in full because of it.
    pub images: BTreeSet<String>,
    /// What became of it.
    pub state: DamageState,
}

/// What became of a damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DamageState {
    /// It was only looked at.
    Found,
    /// Nothing of it is left: everything that it concerned reads back.
    Mended,
    /// Something is lost, and nothing in the pool can replace it.
    Lost,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FsckReport {
    /// Packs read.
    pub packs: u64,
    /// Objects hashed.
    pub objects: u64,
    /// Images followed from their names to their last byte.
    pub images: u64,
    /// Unpacked files compared.
    pub unpacked: u64,
    /// What is wrong, in order of discovery.
    pub damage: Vec<Damage>,
}

impl FsckReport {
    /// Whether everything is, now, as it should be.
    pub fn is_sound(&self) -> bool {
        self.damage.iter().all(|damage| damage.state == DamageState::Mended)
    }
}

impl Store {
    /// Checks everything, and mends it if asked to. Writers wait meanwhile.
    pub fn fsck(&self, repair: Repair, progress: &dyn Progress) -> Result<FsckReport> {
        let _lock = self.writer_lock()?;
        let mut fsck =
            Fsck { paths: &self.paths, repair, report: FsckReport::default(), progress, bad: HashSet::new() };
        fsck.packs()?;
        fsck.images()?;
        fsck.unpacked()?;
        Ok(fsck.report)
    }
}

struct Fsck<'a> {
    paths: &'a Paths,
    repair: Repair,
    report: FsckReport,
    progress: &'a dyn Progress,
    /// Objects that no pack holds whole, though some pack should.
    bad: HashSet<ObjectId>,
}

impl Fsck<'_> {
    fn found(&mut self, what: impl Into<String>, why: impl Into<String>, state: DamageState) {
        let state = if self.repair == Repair::CheckOnly { DamageState::Found } else { state };
        let damage = Damage { what: what.into(), why: why.into(), images: BTreeSet::new(), state };
        self.report.damage.push(damage);
    }

    /// A file of the pool as it is called in a report: relative to the pool.
    fn name_of(&self, path: &Path) -> String {
        path.strip_prefix(&self.paths.dir).unwrap_or(path).display().to_string()
    }

    /// Gives a damaged file a second name in `aside/`, before it is replaced: it never goes without a successor.
    fn keep_aside(&self, path: &Path) -> Result<()> {
        let name = path.file_name().map_or_else(|| "file".into(), |name| name.to_string_lossy().into_owned());
        let aside = durable::unique(&self.paths.aside, &name);
        fail::point(Point::FsckSetAside).context("set aside", path)?;
        std::fs::hard_link(path, &aside).context("set aside", path)?;
        durable::sync_dir(&self.paths.aside, Point::SmallDirSync)
    }

    fn set_aside(&self, path: &Path) -> Result<()> {
        let name = path.file_name().map_or_else(|| "file".into(), |name| name.to_string_lossy().into_owned());
        let aside = durable::unique(&self.paths.aside, &name);
        durable::rename(path, &aside, Point::FsckSetAside)?;
        durable::sync_dir(&self.paths.aside, Point::SmallDirSync)?;
        path.parent().map_or(Ok(()), |dir| durable::sync_dir(dir, Point::SmallDirSync))
    }
}

/// What is wrong, without where and without advice.
fn reason(error: &Error) -> String {
    match error {
        Error::Damaged { why, .. } => why.clone(),
        error => error.to_string(),
    }
}
