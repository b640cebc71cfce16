//! The index: which object is where. A redb database beside the packs, derived from them and rebuilt from them at will.
//!
//! **One process writes it, any number read it meanwhile** (redb's single-writer mode): a reader keeps the snapshot it
//! began with until it asks for a new one. A commit is two-phase and keeps redb's allocator state, so that opening it
//! after a crash costs nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use model::ObjectId;
use redb::{
    Builder, ConcurrencyMode, Database, ReadOnlyDatabase, ReadOnlyTable, ReadableDatabase, ReadableTable,
    ReadableTableMetadata, TableDefinition, WriteTransaction,
};

use crate::durable;
use crate::error::{Context, Error, Result};
use crate::fail::{self, Point};
use crate::guard::guarded;
use crate::layout::Paths;
use crate::pack::{Location, PackNumber, Sealed};

type Key = [u8; 32];
type Value = [u8; Location::SIZE];
const OBJECTS: TableDefinition<'_, Key, Value> = TableDefinition::new("objects");
/// Pack number to file size, object count, bytes of all objects.
const PACKS: TableDefinition<'_, PackNumber, (u64, u64, u64)> = TableDefinition::new("packs");
/// Packs without a needed object, which a collector may unlink as soon as nobody is pinned.
const CONDEMNED: TableDefinition<'_, PackNumber, ()> = TableDefinition::new("condemned");
/// Format version.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const VERSION: u64 = 1;
/// Enough for the upper levels of a large index; leaves come and go.
const CACHE: usize = 16 << 20;

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Index(error.to_string())
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE).set_concurrency_mode(ConcurrencyMode::SingleWriter);
    builder
}

/// What the index knows of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackInfo {
    /// Length of its file.
    pub(crate) size: u64,
    pub(crate) objects: u64,
    /// Length of all its objects together.
    pub(crate) bytes: u64,
}

/// The index as a snapshot, for lookups.
pub(crate) struct IndexReader {
    objects: ReadOnlyTable<Key, Value>,
    packs: ReadOnlyTable<PackNumber, (u64, u64, u64)>,
    condemned: ReadOnlyTable<PackNumber, ()>,
}

impl IndexReader {
    fn begin(database: &impl ReadableDatabase) -> Result<Self> {
        guarded(|| {
            let transaction = database.begin_read().map_err(failed)?;
            Ok(Self {
                objects: transaction.open_table(OBJECTS).map_err(failed)?,
                packs: transaction.open_table(PACKS).map_err(failed)?,
                condemned: transaction.open_table(CONDEMNED).map_err(failed)?,
            })
        })
    }

    pub(crate) fn get(&self, id: &ObjectId) -> Result<Option<Location>> {
        guarded(|| match self.objects.get(id.as_bytes()).map_err(failed)? {
            None => Ok(None),
            Some(value) => Location::decode(&value.value()).map(Some).map_err(failed),
        })
    }

    pub(crate) fn len(&self) -> Result<u64> {
        guarded(|| self.objects.len().map_err(failed))
    }

    /// Calls `each` with every object.
    pub(crate) fn for_each(&self, mut each: impl FnMut(ObjectId, Location) -> Result<()>) -> Result<()> {
        let mut rows = guarded(|| self.objects.iter().map_err(failed))?;
        loop {
            let next = guarded(|| {
                let Some(row) = rows.next() else { return Ok(None) };
                let (key, value) = row.map_err(failed)?;
                let location = Location::decode(&value.value()).map_err(failed)?;
                Ok(Some((ObjectId::from_bytes(key.value()), location)))
            })?;
            let Some((id, location)) = next else { return Ok(()) };
            each(id, location)?;
        }
    }

    pub(crate) fn packs(&self) -> Result<BTreeMap<PackNumber, PackInfo>> {
        guarded(|| {
            let rows = self.packs.iter().map_err(failed)?;
            rows.map(|row| {
                let (number, info) = row.map_err(failed)?;
                let (size, objects, bytes) = info.value();
                Ok((number.value(), PackInfo { size, objects, bytes }))
            })
            .collect()
        })
    }

    pub(crate) fn condemned(&self) -> Result<Vec<PackNumber>> {
        guarded(|| {
            let rows = self.condemned.iter().map_err(failed)?;
            rows.map(|row| Ok(row.map_err(failed)?.0.value())).collect()
        })
    }
}

/// The index open beside whatever writes it.
pub(crate) struct Follower {
    database: ReadOnlyDatabase,
}

impl Follower {
    /// Nothing when there is no index yet.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>> {
        if !path.try_exists().context("inspect", path)? {
            return Ok(None);
        }
        guarded(|| builder().open_read_only(path).map(|database| Some(Self { database })).map_err(failed))
    }

    /// What is in it now.
    pub(crate) fn snapshot(&self) -> Result<IndexReader> {
        IndexReader::begin(&self.database)
    }
}

/// The index open for writing. The caller holds the writer's lock.
pub(crate) struct Index {
    /// There until it is dropped.
    database: Option<Database>,
}

impl Drop for Index {
    fn drop(&mut self) {
        // Closing writes, and so may meet damage. There is nobody to tell, and nothing acknowledged depends on it.
        let _ = guarded(|| {
            drop(self.database.take());
            Ok(())
        });
    }
}

/// How far an index is trusted when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// As redb's own checks go.
    Open,
    /// Every page is checked.
    Verify,
}

impl Index {
    /// Opens it, makes it when there is none.
    pub(crate) fn open(paths: &Paths, trust: Trust) -> Result<Self> {
        let path = &paths.index;
        if !path.try_exists().context("inspect", path)? {
            Self::create_with(paths, |_| Ok(()))?;
        }
        let mut builder = builder();
        builder.set_check_integrity_on_open(trust == Trust::Verify);
        let index = Self { database: Some(guarded(|| builder.open(path).map_err(failed))?) };
        index.check_version()?;
        Ok(index)
    }

    /// Puts an index that knows what `fill` tells it in place of whatever there is: readers find a whole one or none.
    pub(crate) fn create_with(paths: &Paths, fill: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let aside = durable::unique(&paths.tmp, "index");
        let index = Self { database: Some(guarded(|| builder().create(&aside).map_err(failed))?) };
        index.commit(|transaction| {
            transaction.open_table(OBJECTS).map_err(failed)?;
            transaction.open_table(PACKS).map_err(failed)?;
            transaction.open_table(CONDEMNED).map_err(failed)?;
            transaction.open_table(META).map_err(failed)?.insert("version", VERSION).map_err(failed)?;
            Ok(())
        })?;
        fill(&index)?;
        drop(index);
        File::open(&aside).and_then(|it| it.sync_all()).context("sync", &aside)?;
        durable::rename(&aside, &paths.index, Point::IndexReplace)?;
        durable::sync_dir(&paths.dir, Point::SmallDirSync)
    }

    fn check_version(&self) -> Result<()> {
        guarded(|| {
            let meta = self.database()?.begin_read().map_err(failed)?.open_table(META).map_err(failed)?;
            match meta.get("version").map_err(failed)?.map(|it| it.value()) {
                Some(VERSION) => Ok(()),
                other => Err(failed(format!("its version is {other:?}, not {VERSION}"))),
            }
        })
    }

    /// What was committed last.
    pub(crate) fn snapshot(&self) -> Result<IndexReader> {
        IndexReader::begin(self.database()?)
    }

    fn database(&self) -> Result<&Database> {
        self.database.as_ref().ok_or_else(|| failed("it is closed"))
    }

    fn commit(&self, fill: impl FnOnce(&WriteTransaction) -> Result<()>) -> Result<()> {
        let point = |point| fail::point(point).map_err(failed);
        guarded(|| {
            point(Point::IndexBegin)?;
            let mut transaction = self.database()?.begin_write().map_err(failed)?;
            transaction.set_two_phase_commit(true);
            transaction.set_quick_repair(true);
            fill(&transaction)?;
            point(Point::IndexCommit)?;
            transaction.commit().map_err(failed)?;
            point(Point::IndexDone)
        })
    }

    /// Adds what is in these packs. An object that is known already stays where it is, unless that is in one of the
    /// packs to be condemned. When this returns, the change survives a power cut.
    pub(crate) fn add(&self, packs: &[Sealed], change: &Change) -> Result<()> {
        self.commit(|transaction| {
            let mut objects = transaction.open_table(OBJECTS).map_err(failed)?;
            let mut table = transaction.open_table(PACKS).map_err(failed)?;
            let mut condemned = transaction.open_table(CONDEMNED).map_err(failed)?;
            for id in &change.forget {
                objects.remove(id.as_bytes()).map_err(failed)?;
            }
            for number in &change.condemn {
                table.remove(number).map_err(failed)?;
                condemned.insert(number, ()).map_err(failed)?;
            }
            for number in &change.gone {
                condemned.remove(number).map_err(failed)?;
            }
            fail::point(Point::IndexFill).map_err(failed)?;
            for pack in packs {
                add_pack(&mut objects, pack)?;
                let (count, bytes) = pack.footer.totals();
                table.insert(pack.number, (pack.size, count, bytes)).map_err(failed)?;
            }
            Ok(())
        })
    }

    /// Gives back space inside the file to the file system.
    pub(crate) fn compact(&mut self) -> Result<()> {
        let database = self.database.as_mut().ok_or_else(|| failed("it is closed"))?;
        guarded(|| database.compact().map(|_| ()).map_err(failed))
    }
}

fn add_pack(objects: &mut redb::Table<'_, Key, Value>, pack: &Sealed) -> Result<()> {
    // In key order: fewer pages are touched twice.
    let mut locations: Vec<_> = pack.footer.locations(pack.number).collect();
    locations.sort_unstable_by_key(|(id, _)| *id);
    for (id, location) in locations {
        if objects.get(id.as_bytes()).map_err(failed)?.is_none() {
            objects.insert(id.as_bytes(), location.encode()).map_err(failed)?;
        }
    }
    Ok(())
}

/// What a collector takes out of the index.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Objects that are in no pack any more, or move to another.
    pub(crate) forget: Vec<ObjectId>,
    /// Packs that hold nothing needed.
    pub(crate) condemn: Vec<PackNumber>,
    /// Condemned packs whose files are gone.
    pub(crate) gone: Vec<PackNumber>,
}
