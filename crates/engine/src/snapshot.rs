//! Snapshots of running cells: what a cell's process was at a moment, kept in the cell's directory.
//!
//! A snapshot is a directory of two files, which the boundary writes. **It is there whole or not at all**: it is made
//! under another name, synced and renamed. Going back to one ends what runs and begins again from there, so that the cell
//! is the same cell with the same network, log and files: **files are not put back**.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use model::{CellName, State, Timestamp, Verb};
use rustix::fs::{Mode, OFlags};

use crate::boundary::{Keeping, boundary_for};
use crate::cell::Cell;
use crate::disk;
use crate::error::{Error, Result};
use crate::table::Engine;
use crate::wire::Request;

/// A snapshot of a cell.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SnapshotRow {
    /// What it is called.
    pub name: CellName,
    /// When it was made.
    pub made: Timestamp,
    /// What it takes.
    pub bytes: u64,
}

const STATE: &str = "state";
const BYTES: &str = "bytes";

impl Cell {
    /// The directory of its snapshots.
    fn snapshots(&self) -> PathBuf {
        self.dir.join("snapshots")
    }

    /// The snapshot by that name, to go on from.
    pub(crate) fn snapshot(&self, name: &CellName) -> Result<PathBuf> {
        let dir = self.snapshots().join(name.as_str());
        if dir.is_dir() {
            return Ok(dir);
        }
        Err(Error::NoSuchSnapshot { cell: self.spec.name.clone(), wanted: name.clone() })
    }
}

/// Opens the two files of a snapshot.
pub(crate) fn open(dir: &Path) -> Result<Keeping> {
    let open = |name: &str| File::open(dir.join(name)).map_err(|e| Error::at("opening", &dir.join(name), e));
    Ok(Keeping { state: open(STATE)?.into(), bytes: open(BYTES)?.into() })
}

impl Engine {
    /// Keeps a running cell as it stands. Without a name it gets a number.
    pub fn snapshot(&self, cell: &Cell, name: Option<CellName>) -> Result<CellName> {
        let boundary = boundary_for(&cell.spec, Verb::Snapshot)?;
        if !matches!(cell.record.state, State::Running { .. }) {
            return Err(Error::NotRunning { cell: cell.spec.name.clone(), state: cell.record.state.word() });
        }
        if cell.record.engine == model::Engine::Process {
            return Err(Error::NeedsKvm(Verb::Snapshot));
        }
        let dir = cell.snapshots();
        std::fs::create_dir_all(&dir).map_err(|e| Error::at("making", &dir, e))?;
        remove_abandoned(&dir);
        let numbered = || (1u64..).filter_map(|it| format!("s{it}").parse::<CellName>().ok());
        let name = name.or_else(|| numbered().find(|it| !dir.join(it.as_str()).exists()));
        let name = name.ok_or_else(|| Error::at("naming a snapshot in", &dir, std::io::ErrorKind::AlreadyExists))?;
        if dir.join(name.as_str()).exists() {
            return Err(Error::SnapshotTaken { cell: cell.spec.name.clone(), name });
        }
        let nascent = dir.join(format!(".{name}.{}", std::process::id()));
        let made = keep_at(&nascent, |keeping| boundary.keep(cell, keeping)).and_then(|()| {
            let place = dir.join(name.as_str());
            std::fs::rename(&nascent, &place).map_err(|e| Error::at("naming", &place, e))
        });
        if let Err(error) = made {
            let _ = disk::remove_tree(&nascent);
            return Err(error);
        }
        // The directory itself may be new.
        [&dir, &cell.dir].into_iter().try_for_each(|it| disk::sync_dir(it))?;
        Ok(name)
    }

    /// The snapshots of a cell, oldest first.
    pub fn snapshots(&self, cell: &Cell) -> Result<Vec<SnapshotRow>> {
        let dir = cell.snapshots();
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::at("reading", &dir, e)),
        };
        let mut rows = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name().to_str().and_then(|it| it.parse().ok());
            // One that is being made has a name that no snapshot has.
            let (Some(name), Ok(state)) = (name, std::fs::metadata(entry.path().join(STATE))) else { continue };
            // What is zero of a memory takes nothing.
            let taken = |it: std::fs::Metadata| it.len().min(it.blocks() * 512);
            let bytes = std::fs::metadata(entry.path().join(BYTES)).map_or(0, taken) + state.len();
            let made = state.modified().ok().and_then(|it| it.duration_since(std::time::UNIX_EPOCH).ok());
            let made = Timestamp::from_nanos(made.map_or(0, |it| it.as_nanos() as u64));
            rows.push(SnapshotRow { name, made, bytes });
        }
        rows.sort_by_key(|it| it.made);
        Ok(rows)
    }

    /// Removes one.
    pub fn remove_snapshot(&self, cell: &Cell, name: &CellName) -> Result<()> {
        let dir = cell.snapshot(name)?;
        disk::remove_tree(&dir).map_err(|e| Error::at("removing", &dir, e))
    }

    /// Has a running cell go back to where it was kept.
    pub fn rollback(&self, cell: &Cell, name: &CellName) -> Result<Vec<String>> {
        boundary_for(&cell.spec, Verb::Snapshot)?;
        cell.snapshot(name)?;
        crate::client::request(self, cell, Request::Rollback { name: name.clone() })
    }
}

/// Removes what is left of snapshots whose makers are gone. Each is named after the one that it was to be, and its maker.
fn remove_abandoned(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let maker = name.to_str().and_then(|it| it.strip_prefix('.')?.rsplit_once('.')?.1.parse::<u32>().ok());
        if maker.is_some_and(|it| !Path::new(&format!("/proc/{it}")).exists()) {
            let _ = disk::remove_tree(&entry.path());
        }
    }
}

/// Makes a directory with a snapshot in it.
pub(crate) fn keep_at(dir: &Path, keep: impl FnOnce(&Keeping) -> Result<()>) -> Result<()> {
    let _ = disk::remove_tree(dir);
    std::fs::create_dir_all(dir).map_err(|e| Error::at("making", dir, e))?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let make = |name: &str| {
        rustix::fs::open(dir.join(name), flags, Mode::RUSR | Mode::WUSR).map_err(|e| Error::at("making", dir, e))
    };
    let keeping = Keeping { state: make(STATE)?, bytes: make(BYTES)? };
    keep(&keeping)?;
    for file in [&keeping.bytes, &keeping.state] {
        rustix::fs::fsync(file).map_err(|e| Error::at("syncing", dir, e))?;
    }
    disk::sync_dir(dir)
}
