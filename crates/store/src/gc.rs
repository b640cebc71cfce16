//! Throwing away what nothing needs.
//!
//! In two phases, so that **a collector that dies at any instant loses nothing**:
//! 1. *Condemn.* Under the writer's lock, needed objects of packs that are less than 60 % needed are copied to new packs
//!    and made durable; then one commit of the index lets go of the old packs.
//! 2. *Remove.* When nobody is pinned, condemned packs and unneeded files are unlinked. If somebody is, that is left to
//!    the next collector.
//!
//! A collector that finds something unreadable on the way from a name to its objects refuses to collect.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::{ByteSize, ObjectId, Progress};
use serde::Serialize;

use crate::durable;
use crate::error::{Context, Result};
use crate::fail::{self, Point};
use crate::index::{Change, Index, IndexReader, Trust};
use crate::layout::{Paths, fanned_ids, names};
use crate::lock;
use crate::mark::{Marker, record_of};
use crate::pack::{Location, PackNumber, PackWriter, file_name};
use crate::reader::Reader;
use crate::refs;
use crate::store::Store;
use crate::unpack::Fresh;
use crate::writer::adopt;

/// A pack is rewritten when less than this part of it, in hundredths, is needed.
const REWRITE_BELOW: u64 = 60;
/// How long to wait for those who are pinned.
const PIN_PATIENCE: Duration = Duration::from_secs(2);

/// What a collector did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// Objects that are needed.
    pub live_objects: u64,
    /// Packs of which nothing, or less than 60 %, was needed.
    pub packs_condemned: u64,
    /// Bytes copied to new packs.
    pub rewritten: ByteSize,
    /// Pack files removed.
    pub packs_removed: u64,
    /// Image records removed.
    pub images_removed: u64,
    /// Unpacked files and root file systems removed.
    pub unpacked_removed: u64,
    /// Bytes given back by all of that.
    pub freed: ByteSize,
    /// Whether removing had to be left to the next collector, because somebody was reading.
    pub deferred: bool,
}

impl Store {
    /// Throws away what no name and none of the trees `in_use` needs.
    pub fn gc(&self, in_use: &[ObjectId], progress: &dyn Progress) -> Result<GcReport> {
        let _lock = self.writer_lock()?;
        let mut index = Index::open(&self.paths, Trust::Open)?;
        let next = adopt(&self.paths, &index)?;
        progress.begin("looking for what is needed", None);
        let mut report = GcReport::default();
        // Asked before we are one of them ourselves.
        let somebody_is_pinned = lock::unpin(&self.paths.pin_lock, Duration::ZERO)?.is_none();
        let mounted = if somebody_is_pinned { mounted_on_demand(&self.paths)? } else { Vec::new() };
        let live = {
            // The reader's pin must be gone before removing begins.
            let reader = self.reader()?;
            let live = needed(self, &reader, in_use, &mounted)?;
            condemn(&self.paths, &index, &reader, &live, next, &mut report)?;
            live
        };
        report.live_objects = live.len() as u64;
        progress.end();
        match lock::unpin(&self.paths.pin_lock, PIN_PATIENCE)? {
            None => report.deferred = true,
            Some(_alone) => {
                progress.begin("removing what is not", None);
                remove_packs(&self.paths, &index, &mut report)?;
                Sweep { paths: &self.paths, live: &live, report: &mut report }.run()?;
                if report.packs_removed > 0 {
                    index.compact()?;
                }
                progress.end();
            }
        }
        Ok(report)
    }
}

/// The trees that may be mounted on demand: whoever has mounted one is pinned and may still need all of its contents.
fn mounted_on_demand(paths: &Paths) -> Result<Vec<ObjectId>> {
    let files = names(&Fresh::of(paths)?.dir)?;
    Ok(files.iter().filter_map(|name| name.strip_suffix(".erofs")?.parse().ok()).collect())
}

fn needed(store: &Store, reader: &Reader, in_use: &[ObjectId], mounted: &[ObjectId]) -> Result<HashSet<ObjectId>> {
    let mut marker = Marker::new(reader);
    for (_, id) in refs::all(&store.paths)? {
        marker.image(id, &record_of(reader, &id)?)?;
    }
    in_use.iter().try_for_each(|tree| marker.mark(*tree))?;
    for tree in mounted {
        // One that is not there any more was mounted earlier in this boot.
        if reader.locate(tree)?.is_some() {
            marker.mark(*tree)?;
        }
    }
    Ok(marker.finish())
}

fn condemn(
    paths: &Paths,
    index: &Index,
    reader: &Reader,
    live: &HashSet<ObjectId>,
    next: PackNumber,
    report: &mut GcReport,
) -> Result<()> {
    let snapshot = index.snapshot()?;
    let condemned = chosen(&snapshot, live)?;
    if condemned.is_empty() {
        return Ok(());
    }
    let mut change = Change { condemn: condemned.iter().copied().collect(), ..Change::default() };
    let mut moving: Vec<(Location, ObjectId)> = Vec::new();
    snapshot.for_each(|id, location| {
        if condemned.contains(&location.pack) {
            change.forget.push(id);
            if live.contains(&id) {
                moving.push((location, id));
            }
        }
        Ok(())
    })?;
    moving.sort_unstable_by_key(|(location, _)| (location.pack, location.frame, location.offset));
    let mut packs = PackWriter::new(paths.packs.clone(), paths.tmp.clone(), next)?;
    for (location, id) in moving {
        let (kind, bytes) = reader.object_at(&id, &location)?;
        packs.add(id, kind, &bytes)?;
        report.rewritten = ByteSize::bytes(report.rewritten.get() + bytes.len() as u64);
    }
    let sealed = packs.finish()?;
    report.packs_condemned = change.condemn.len() as u64;
    index.add(&sealed, &change)
}

/// The packs that are not worth keeping.
fn chosen(snapshot: &IndexReader, live: &HashSet<ObjectId>) -> Result<HashSet<PackNumber>> {
    let mut needed: BTreeMap<PackNumber, u64> = BTreeMap::new();
    snapshot.for_each(|id, location| {
        if live.contains(&id) {
            *needed.entry(location.pack).or_default() += u64::from(location.length);
        }
        Ok(())
    })?;
    let packs = snapshot.packs()?;
    let poor = packs.into_iter().filter(|(number, info)| {
        let needed = needed.get(number).copied().unwrap_or(0);
        needed == 0 || needed.saturating_mul(100) < info.bytes.saturating_mul(REWRITE_BELOW)
    });
    Ok(poor.map(|(number, _)| number).collect())
}

fn remove_packs(paths: &Paths, index: &Index, report: &mut GcReport) -> Result<()> {
    let gone = index.snapshot()?.condemned()?;
    if gone.is_empty() {
        return Ok(());
    }
    for number in &gone {
        let path = paths.packs.join(file_name(*number));
        fail::point(Point::GcPack).context("remove", &path)?;
        if remove_file(&path, report)? {
            report.packs_removed += 1;
        }
    }
    durable::sync_dir(&paths.packs, Point::PackDirSync)?;
    index.add(&[], &Change { gone, ..Change::default() })
}

/// Tells whether it was there.
fn remove_file(path: &Path, report: &mut GcReport) -> Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(false) };
    fs::remove_file(path).context("remove", path)?;
    report.freed = ByteSize::bytes(report.freed.get() + found.blocks() * 512);
    Ok(true)
}

/// Removes files that no needed object has, while nobody is pinned.
struct Sweep<'a> {
    paths: &'a Paths,
    live: &'a HashSet<ObjectId>,
    report: &'a mut GcReport,
}

impl Sweep<'_> {
    fn run(&mut self) -> Result<()> {
        self.images()?;
        self.roots()?;
        self.plain()?;
        for id in fanned_ids(&self.paths.objects)? {
            if !self.live.contains(&id) {
                self.unpacked(&Paths::fanned(&self.paths.objects, &id))?;
            }
        }
        self.farm()?;
        // Nobody is pinned, so nobody fills it.
        if self.paths.fresh.exists() {
            fail::point(Point::GcObject).context("remove", &self.paths.fresh)?;
            remove_tree(&self.paths.fresh).context("remove", &self.paths.fresh)?;
        }
        for name in names(&self.paths.tmp)? {
            self.directory_or_file(&self.paths.tmp.join(name))?;
        }
        Ok(())
    }

    fn images(&mut self) -> Result<()> {
        for name in names(&self.paths.images)? {
            if !name.parse().is_ok_and(|id: ObjectId| self.live.contains(&id)) {
                let path = self.paths.images.join(name);
                fail::point(Point::GcImage).context("remove", &path)?;
                self.report.images_removed += u64::from(remove_file(&path, self.report)?);
            }
        }
        Ok(())
    }

    fn unpacked(&mut self, path: &Path) -> Result<()> {
        fail::point(Point::GcObject).context("remove", path)?;
        self.report.unpacked_removed += u64::from(remove_file(path, self.report)?);
        Ok(())
    }

    fn roots(&mut self) -> Result<()> {
        for name in names(&self.paths.roots)? {
            let tree = name.strip_suffix(".erofs").and_then(|id| id.parse::<ObjectId>().ok());
            if !tree.is_some_and(|tree| self.live.contains(&tree)) {
                self.unpacked(&self.paths.roots.join(name))?;
            }
        }
        // Names must be gone for good before the objects behind them go.
        durable::sync_dir(&self.paths.roots, Point::RootDirSync)
    }

    fn plain(&mut self) -> Result<()> {
        for name in names(&self.paths.plain)? {
            if !name.parse().is_ok_and(|tree: ObjectId| self.live.contains(&tree)) {
                let path = self.paths.plain.join(&name);
                let aside = durable::unique(&self.paths.tmp, "gone");
                fail::point(Point::GcObject).context("remove", &path)?;
                // Renamed first: half a root file system must not keep its name.
                fs::rename(&path, &aside).context("remove", &path)?;
                self.directory_or_file(&aside)?;
                self.report.unpacked_removed += 1;
            }
        }
        Ok(())
    }

    /// A file of the farm without another name is in no plain root file system.
    fn farm(&mut self) -> Result<()> {
        use std::os::unix::fs::MetadataExt;
        for id in fanned_ids(&self.paths.farm)? {
            let path: PathBuf = Paths::fanned(&self.paths.farm, &id);
            if fs::symlink_metadata(&path).is_ok_and(|found| found.nlink() == 1) {
                self.unpacked(&path)?;
            }
        }
        Ok(())
    }

    fn directory_or_file(&mut self, path: &Path) -> Result<()> {
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => remove_tree(path).context("remove", path),
            Ok(_) => remove_file(path, self.report).map(|_| ()),
            Err(_) => Ok(()),
        }
    }
}

/// Removes a directory whose inner directories may forbid it to their owner.
pub(crate) fn remove_tree(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut todo = vec![path.to_owned()];
    while let Some(dir) = todo.pop() {
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    fs::remove_dir_all(path)
}
