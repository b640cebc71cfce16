//! The cells of a home: made, found, listed, renamed, removed.
//!
//! A cell appears by one rename of its finished directory and disappears by one rename into a nascent name, so no reader
//! ever sees half a cell. A name is claimed by writing `names/NAME` under the lock of all names; a claim whose cell does
//! not exist, or goes by another name, is left over from a crash and counts for nothing.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use model::{CellId, CellName, CellSpec, EventKind, Input, State};
use rustix::fs::FlockOperation;
use store::Store;

use crate::cell::{Cell, CellLock, Record};
use crate::disk::{self, Durability};
use crate::error::{Error, Result};
use crate::events;
use crate::home::Home;

/// Everything that commands do with cells, on one home.
#[derive(Debug)]
pub struct Engine {
    pub(crate) home: Home,
    pub(crate) store: Store,
}

impl Engine {
    /// Opens a home, making its directories when they are not there.
    pub fn open(home: Home) -> Result<Self> {
        home.prepare()?;
        let store = Store::open(home.pool())?;
        Ok(Self { home, store })
    }

    /// The store of this home.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The directories of this home.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// A fresh identity that no cell of this home has.
    pub fn fresh_id(&self) -> Result<CellId> {
        loop {
            let mut bits = [0; 8];
            rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty())
                .map_err(|e| Error::io("getting random bits", e))?;
            let id = CellId::from_random(u64::from_le_bytes(bits));
            if !self.home.cell(id).exists() {
                return Ok(id);
            }
        }
    }

    /// Makes a cell. It is on disk for good when this returns, unless it is to vanish with its program anyway. The lock
    /// that comes back must go to a supervisor or be dropped.
    pub fn create(&self, spec: CellSpec) -> Result<(Cell, CellLock)> {
        let engine = crate::boundary::boundary(spec.boundary)?.engine(&spec)?;
        self.create_with(spec, Record::of(engine))
    }

    /// The same with a record that says more.
    pub(crate) fn create_with(&self, spec: CellSpec, record: Record) -> Result<(Cell, CellLock)> {
        let durability = match spec.lifetime {
            // What was made from a running cell ends with the machine in any case.
            model::Lifetime::Keep if record.kin.is_none() => Durability::Synced,
            model::Lifetime::Keep | model::Lifetime::RemoveOnExit => Durability::Relaxed,
        };
        let nascent = self.home.nascent_cell(spec.id);
        let lock = make_locked(&nascent)?;
        let mut cell = Cell { dir: nascent.clone(), spec, record };
        let finish = |cell: &mut Cell| -> Result<()> {
            self.claim_name(&self.lock_names()?, &cell.spec.name, cell.spec.id)?;
            let layer = cell.layer();
            std::fs::create_dir(&layer).map_err(|e| Error::at("making", &layer, e))?;
            cell.write_spec(durability)?;
            cell.write_record(&lock, durability)?;
            let dir = self.home.cell(cell.spec.id);
            std::fs::rename(&nascent, &dir).map_err(|e| Error::at("making", &dir, e))?;
            cell.dir = dir;
            Ok(())
        };
        if let Err(error) = finish(&mut cell) {
            self.release_name(&cell.spec.name, cell.spec.id);
            let _ = disk::remove_tree(&nascent);
            return Err(error);
        }
        if durability == Durability::Synced {
            disk::sync_dir(&self.home.cells())?;
        }
        events::record(&self.home, &cell, EventKind::Created { image: cell.spec.image.name.clone() });
        Ok((cell, lock))
    }

    /// Every cell, by age. Records that a crash left untrue are mended on the way.
    pub fn cells(&self) -> Result<Vec<Cell>> {
        let mut cells = Vec::new();
        for id in self.ids()? {
            match self.read(id) {
                Ok(cell) => cells.push(cell),
                // It was removed between the listing and the reading, or its recovery removed it.
                Err(Error::NoSuchCell { .. }) => {}
                // One damaged cell must not hide the others: see `damaged`.
                Err(Error::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.forget_stale_names(&cells);
        cells.sort_by_key(|it| (it.spec.created, it.spec.id));
        Ok(cells)
    }

    /// The cells whose specification does not read, and why.
    pub fn damaged(&self) -> Result<Vec<(CellId, Error)>> {
        let read = |id| Cell::read_spec(&self.home.cell(id)).err().map(|error| (id, error));
        Ok(self.ids()?.into_iter().filter_map(read).filter(|(_, it)| matches!(it, Error::Damaged { .. })).collect())
    }

    /// Removes a cell whose specification does not read, with whatever of it is left on the host; nothing is done to
    /// others. Whether it was such a one.
    pub fn remove_damaged(&self, wanted: &str) -> Result<bool> {
        let damaged = self.damaged()?;
        let Some((id, _)) = damaged.into_iter().find(|(id, _)| id.to_string() == wanted) else { return Ok(false) };
        let dir = self.home.cell(id);
        let busy = || Error::at("removing", &dir, std::io::Error::from(std::io::ErrorKind::ResourceBusy));
        let _lock = CellLock::try_take(&dir)?.ok_or_else(busy)?;
        crate::boundary::clear_all(id)?;
        net::Net::open(self.home.net())?.detach(id)?;
        let doomed = self.home.nascent_cell(id);
        std::fs::rename(&dir, &doomed).map_err(|e| Error::at("removing", &dir, e))?;
        let _ = std::fs::remove_file(self.home.socket(id));
        disk::remove_tree(&doomed).map_err(|e| Error::at("removing", &doomed, e))?;
        Ok(true)
    }

    fn ids(&self) -> Result<Vec<CellId>> {
        let dir = self.home.cells();
        let entries = std::fs::read_dir(&dir).map_err(|e| Error::at("reading", &dir, e))?;
        let mut ids = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            match (name.parse(), name.strip_prefix(".new-").map(str::parse)) {
                (Ok(id), _) => ids.push(id),
                (_, Some(Ok(id))) => self.clear_nascent(id),
                _ => {}
            }
        }
        Ok(ids)
    }

    /// Deletes a cell that was being made or removed by a process which is gone.
    fn clear_nascent(&self, id: CellId) {
        let dir = self.home.nascent_cell(id);
        if let Ok(Some(_lock)) = CellLock::try_take(&dir) {
            let _ = disk::remove_tree(&dir);
        }
    }

    /// The cell by its name, its id, or a beginning of its id that no other has.
    pub fn find(&self, wanted: &str) -> Result<Cell> {
        if let Ok(name) = wanted.parse::<CellName>()
            && let Some(id) = self.named(&name)
            && let Ok(cell) = self.read(id)
            && cell.spec.name == name
        {
            return Ok(cell);
        }
        if let Ok(id) = wanted.parse::<CellId>()
            && self.home.cell(id).exists()
        {
            return self.read(id);
        }
        let ids = self.ids()?;
        let fitting: Vec<_> =
            ids.iter().filter(|id| !wanted.is_empty() && id.to_string().starts_with(wanted)).collect();
        match fitting.as_slice() {
            [id] => self.read(**id),
            [] => Err(Error::NoSuchCell { wanted: wanted.to_owned(), similar: self.similar_name(wanted) }),
            many => Err(Error::Ambiguous { wanted: wanted.to_owned(), count: many.len() }),
        }
    }

    /// Reads a cell and mends its record if its supervisor is gone.
    fn read(&self, id: CellId) -> Result<Cell> {
        let dir = self.home.cell(id);
        let gone = || no_such_cell(id);
        let cell = match Cell::read(dir.clone()) {
            Ok(cell) => cell,
            Err(_) if !dir.exists() => return Err(gone()),
            Err(error) => return Err(error),
        };
        if cell.record.state.needs_supervisor() || cell.record.state == State::Removing {
            return self.recover(cell)?.ok_or_else(gone);
        }
        Ok(cell)
    }

    fn named(&self, name: &CellName) -> Option<CellId> {
        std::fs::read_to_string(self.home.name(name)).ok()?.trim().parse().ok()
    }

    /// The names of all cells, for completion and for hints.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.home.names()).into_iter().flatten().flatten();
        let names = entries.filter_map(|it| it.file_name().into_string().ok());
        let mut names: Vec<_> = names.filter(|it| !it.starts_with('.')).collect();
        names.sort();
        names
    }

    fn similar_name(&self, wanted: &str) -> Option<String> {
        let distance = |name: &String| edit_distance(name, wanted);
        self.names().into_iter().min_by_key(distance).filter(|name| distance(name) <= 1 + wanted.len() / 4)
    }

    /// The right to claim names and to judge claims. Held for a moment only, and by a rename from its claim to its end.
    fn lock_names(&self) -> Result<File> {
        let path = self.home.names_lock();
        let file = open_lock(&path)?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))
            .map_err(|e| Error::at("locking", &path, e))?;
        Ok(file)
    }

    fn claim_name(&self, _: &File, name: &CellName, id: CellId) -> Result<()> {
        let path = self.home.name(name);
        match self.named(name) {
            Some(by) if by == id => return Ok(()),
            Some(by) => {
                self.clear_nascent(by);
                if self.is_claimant(by, name) {
                    return Err(Error::NameTaken { name: name.clone(), by });
                }
            }
            None => {}
        }
        std::fs::write(&path, format!("{id}\n")).map_err(|e| {
            // Half a claim is none.
            let _ = std::fs::remove_file(&path);
            Error::at("writing", &path, e)
        })
    }

    /// Whether a name may belong to that cell; one that belongs to none was left by a crash. A cell that is being made
    /// moves from its nascent directory to its own, so they are looked at in that order. A specification that cannot be
    /// read keeps its cell's claims.
    fn is_claimant(&self, id: CellId, name: &CellName) -> bool {
        let dir = self.home.cell(id);
        self.home.nascent_cell(id).exists()
            || Cell::read_spec(&dir).map_or_else(|_| dir.exists(), |spec| spec.name == *name)
    }

    /// Forgets the claims that crashes left. `cells` are those that certainly have theirs.
    fn forget_stale_names(&self, cells: &[Cell]) {
        let names = self.names().into_iter().filter_map(|it| it.parse::<CellName>().ok());
        let doubtful: Vec<_> = names.filter(|name| !cells.iter().any(|cell| cell.spec.name == *name)).collect();
        if doubtful.is_empty() {
            return;
        }
        // Somebody who claims names right now will see for himself.
        let Ok(lock) = open_lock(&self.home.names_lock()) else { return };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return;
        }
        for name in doubtful {
            match self.named(&name) {
                Some(id) if self.is_claimant(id, &name) => {}
                _ => drop(std::fs::remove_file(self.home.name(&name))),
            }
        }
    }

    fn release_name(&self, name: &CellName, id: CellId) {
        if self.named(name) == Some(id) {
            let _ = std::fs::remove_file(self.home.name(name));
        }
    }

    /// Gives a cell another name, by which its neighbours find it from now on.
    pub fn rename(&self, cell: &Cell, name: CellName) -> Result<()> {
        if name == cell.spec.name {
            return Ok(());
        }
        let names = self.lock_names()?;
        self.claim_name(&names, &name, cell.spec.id)?;
        if let Err(error) = self.write_name(cell, &name) {
            self.release_name(&name, cell.spec.id);
            return Err(error);
        }
        self.release_name(&cell.spec.name, cell.spec.id);
        Ok(())
    }

    /// Has whoever holds the cell's lock write its name down.
    fn write_name(&self, cell: &Cell, name: &CellName) -> Result<()> {
        if cell.record.state.needs_supervisor() {
            return crate::client::request(self, cell, crate::wire::Request::Rename { name: name.clone() }).map(drop);
        }
        let _lock = self.lock_idle(cell, "be renamed")?;
        self.rename_locked(&mut Cell::read(cell.dir.clone())?, name.clone())
    }

    /// Writes a cell's new name down; for the holder of its lock.
    pub(crate) fn rename_locked(&self, cell: &mut Cell, name: CellName) -> Result<()> {
        let from = std::mem::replace(&mut cell.spec.name, name);
        if let Err(error) = cell.write_spec(Durability::Synced) {
            cell.spec.name = from;
            return Err(error);
        }
        net::Net::open(self.home.net())?.rename(cell.spec.id, &cell.spec.name)?;
        events::record(&self.home, cell, EventKind::Renamed { from });
        Ok(())
    }

    /// Takes the lock of a cell that has no supervisor. One that has just written down the end of its cell is about to let
    /// go, and is waited for.
    pub(crate) fn lock_idle(&self, cell: &Cell, wish: &'static str) -> Result<CellLock> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let gone = |error| if cell.dir.exists() { error } else { no_such_cell(cell.spec.id) };
        loop {
            if let Some(lock) = CellLock::try_take(&cell.dir).map_err(gone)? {
                return Ok(lock);
            }
            let state = Cell::read(cell.dir.clone()).map_err(gone)?.record.state;
            if state.needs_supervisor() || Instant::now() > deadline {
                let refusal = model::IllegalTransition { from: state.word(), input: wish };
                return Err(Error::State { cell: cell.spec.name.clone(), refusal });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Removes a cell that does not run.
    pub fn remove(&self, cell: Cell) -> Result<()> {
        let lock = self.lock_idle(&cell, "be removed")?;
        // Somebody may have started and stopped it since it was read.
        let mut cell = Cell::read(cell.dir)?;
        if cell.record.state != State::Removing {
            cell.advance(Input::Remove)?;
        }
        self.remove_locked(&cell, &lock)
    }

    pub(crate) fn remove_locked(&self, cell: &Cell, lock: &CellLock) -> Result<()> {
        self.make_vanish(cell, lock)?.delete()
    }

    /// Makes a cell vanish from all lists, at once; what is left to do is to delete its files.
    pub(crate) fn make_vanish(&self, cell: &Cell, _: &CellLock) -> Result<Remains> {
        let doomed = self.home.nascent_cell(cell.spec.id);
        std::fs::rename(&cell.dir, &doomed).map_err(|e| Error::at("removing", &cell.dir, e))?;
        // In this order, a crash in between leaves a name without a cell, which is forgotten, and not the reverse.
        self.release_name(&cell.spec.name, cell.spec.id);
        let _ = std::fs::remove_file(self.home.socket(cell.spec.id));
        events::record(&self.home, cell, EventKind::Removed);
        Ok(Remains { dir: doomed })
    }

    /// The root file systems that cells stand on, and those that what is missed is put back from: what the store must not
    /// collect.
    pub fn trees_in_use(&self) -> Result<Vec<model::ObjectId>> {
        let complement = |spec: &CellSpec| match spec.watch {
            model::Watch::Misses | model::Watch::MissesNoted => {
                Some(self.store.image(&spec.image.id).ok()?.slim?.complement)
            }
            _ => None,
        };
        let cells = self.cells()?;
        Ok(cells.iter().flat_map(|it| [Some(it.spec.image.tree), complement(&it.spec)]).flatten().collect())
    }

    /// Trees of images and of cells, as text.
    pub(crate) fn trees_needed(&self) -> Result<HashSet<String>> {
        let images = self.store.images()?;
        let kept = images.into_iter().filter_map(|(_, record)| record.ok()).map(|it| it.tree);
        Ok(kept.chain(self.trees_in_use()?).map(|it| it.to_string()).collect())
    }

    /// Where a cell's files are, for those who only need the path.
    pub fn dir_of(&self, id: CellId) -> PathBuf {
        self.home.cell(id)
    }
}

/// The files of a cell that is in no list any more. Should nobody delete them, the next listing does.
#[must_use]
pub(crate) struct Remains {
    dir: PathBuf,
}

impl Remains {
    pub(crate) fn delete(self) -> Result<()> {
        disk::remove_tree(&self.dir).map_err(|e| Error::at("removing", &self.dir, e))
    }
}

fn no_such_cell(id: CellId) -> Error {
    Error::NoSuchCell { wanted: id.to_string(), similar: None }
}

fn open_lock(path: &Path) -> Result<File> {
    let open = File::options().write(true).create(true).truncate(false).open(path);
    open.map_err(|e| Error::at("opening", path, e))
}

/// Makes a directory for a cell that is being made, locked by its maker. Whoever clears up after crashes may take it for
/// a leftover until it is locked: then it is made again.
fn make_locked(dir: &Path) -> Result<CellLock> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let made = match std::fs::create_dir(dir) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(Error::at("making", dir, e)),
            _ => CellLock::try_take(dir),
        };
        match made {
            Ok(Some(lock)) => return Ok(lock),
            Err(error) if Instant::now() > deadline => return Err(error),
            Ok(None) if Instant::now() > deadline => {
                return Err(Error::at("locking", dir, std::io::Error::from(std::io::ErrorKind::WouldBlock)));
            }
            Ok(None) | Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Levenshtein's distance: so many letters must be added, left out or changed.
pub fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::edit_distance;

    #[test]
    fn distances() {
        let check = |a, b, distance| assert_eq!(edit_distance(a, b), distance, "{a} {b}");
        check("", "abc", 3);
        check("web", "web", 0);
        check("web", "wbe", 2);
        check("redis", "reds", 1);
    }
}
