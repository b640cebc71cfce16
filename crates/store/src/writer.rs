//! Putting objects into the pool.
//!
//! **What is acknowledged is durable:** [`Writer::publish`] makes packs durable, then the index that leads to them, then
//! image records, then refs, each step complete before the next begins. A process that dies on the way leaves at most
//! objects that nothing points at; the next writer finds their packs and does not store them again.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;

use model::{ImageName, ImageRecord, ObjectId};

use crate::chunk::{Chunker, Sink};
use crate::error::{Error, Result};
use crate::fail::Point;
use crate::index::{Change, Index, IndexReader, Trust};
use crate::layout::Paths;
use crate::lock::Lock;
use crate::object::{Content, EMPTY_ID, Kind, Linked, MAX_OBJECT};
use crate::pack::{PackFile, PackNumber, PackWriter, Sealed};
use crate::reader::Reader;
use crate::tree::{self, Tree};
use crate::{durable, refs};

/// A name to be given or taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefChange {
    /// The name leads to this image from now on.
    Set(ImageName, ObjectId),
    /// The name leads nowhere from now on.
    Remove(ImageName),
}

/// What a writer was given, and how much of it was new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Objects handed in.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that the pool did not hold.
    pub new_objects: u64,
    /// Their bytes.
    pub new_bytes: u64,
}

/// The one writer of a pool. Dropping it without [`Writer::publish`] forgets what it was given.
pub struct Writer {
    paths: Paths,
    chunker: Chunker,
    objects: Objects,
    images: Vec<(ObjectId, Vec<u8>)>,
    // Dropped last: the lock covers everything above.
    _lock: Lock,
}

/// The sink behind a writer: stores what neither the index nor this session holds.
struct Objects {
    index: Index,
    known: IndexReader,
    new: HashMap<ObjectId, (), IdHash>,
    packs: PackWriter,
    tally: Tally,
}

/// Ids are hashes already: their first bytes will do.
#[derive(Clone, Default)]
struct IdHash;

struct FirstBytes(u64);

impl std::hash::BuildHasher for IdHash {
    type Hasher = FirstBytes;
    fn build_hasher(&self) -> FirstBytes {
        FirstBytes(0)
    }
}

impl std::hash::Hasher for FirstBytes {
    fn write(&mut self, bytes: &[u8]) {
        for (place, byte) in bytes.iter().take(32).enumerate() {
            self.0 ^= u64::from(*byte) << (place % 8 * 8);
        }
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

impl Sink for Objects {
    fn put(&mut self, kind: Kind, bytes: &[u8]) -> Result<ObjectId> {
        let id = kind.id_of(bytes);
        self.tally.objects += 1;
        self.tally.bytes += bytes.len() as u64;
        if bytes.is_empty() || self.new.contains_key(&id) || self.known.get(&id)?.is_some() {
            return Ok(id);
        }
        self.tally.new_objects += 1;
        self.tally.new_bytes += bytes.len() as u64;
        self.packs.add(id, kind, bytes)?;
        self.new.insert(id, ());
        Ok(id)
    }
}

impl Writer {
    pub(crate) fn open(paths: Paths, lock: Lock) -> Result<Self> {
        let index = Index::open(&paths, Trust::Open)?;
        let next = adopt(&paths, &index)?;
        let packs = PackWriter::new(paths.packs.clone(), paths.tmp.clone(), next)?;
        let known = index.snapshot()?;
        let objects = Objects { index, known, new: HashMap::default(), packs, tally: Tally::default() };
        Ok(Self { paths, chunker: Chunker::new(), objects, images: Vec::new(), _lock: lock })
    }

    /// Stores a file's bytes.
    pub fn file(&mut self, mut source: impl Read) -> Result<Content> {
        let Self { chunker, objects, .. } = self;
        let content = chunker.read(objects, &mut source).and_then(|()| chunker.finish(objects));
        chunker.abandon();
        content
    }

    /// Stores the bytes of a file that is said to be `size` bytes long: when it is, its end costs no further call.
    pub(crate) fn file_of_size(&mut self, source: &mut impl Read, size: u64) -> Result<Content> {
        let Self { chunker, objects, .. } = self;
        let content = chunker.read_sized(objects, source, size).and_then(|()| chunker.finish(objects));
        chunker.abandon();
        content
    }

    /// Stores a file with holes, which are not read.
    pub(crate) fn sparse_file(&mut self, file: &File, size: u64) -> Result<Content> {
        let Self { chunker, objects, .. } = self;
        let content = chunker.read_sparse(objects, file, size).and_then(|()| chunker.finish(objects));
        chunker.abandon();
        content
    }

    /// Begins a file whose bytes arrive piece by piece.
    pub fn begin_file(&mut self) -> FileWriter<'_> {
        self.chunker.abandon();
        FileWriter { writer: self }
    }

    /// Stores some bytes under an id by which [`crate::Reader::blob`] gives them back.
    pub fn blob(&mut self, bytes: &[u8]) -> Result<ObjectId> {
        self.linked_blob(bytes, &[])
    }

    /// Stores some bytes together with the ids (of contents, blobs, trees) that they mention. **A collector keeps what
    /// is linked for as long as it keeps the blob;** it cannot know of ids inside the bytes.
    pub fn linked_blob(&mut self, bytes: &[u8], links: &[ObjectId]) -> Result<ObjectId> {
        let payload = self.file(bytes)?;
        if links.is_empty() && payload.size <= SMALL_BLOB {
            return Ok(payload.id);
        }
        let linked = Linked { payload, links: links.to_vec() }.encode();
        if linked.len() > MAX_OBJECT {
            return Err(Error::TooLarge { what: "a blob's list of links", limit: MAX_OBJECT as u64 });
        }
        self.objects.put(Kind::Linked, &linked)
    }

    /// Stores a root file system. Its contents must have been stored by this writer or be in the pool.
    pub fn tree(&mut self, tree: &Tree) -> Result<ObjectId> {
        tree::encode(tree, &mut self.objects)
    }

    /// Stores an image record: canonical JSON. The image gets a name, and so a life, by [`Writer::publish`].
    pub fn image(&mut self, record: &ImageRecord) -> Result<ObjectId> {
        let json = serde_json::to_vec(record).map_err(|why| Error::damaged("an image record", why.to_string()))?;
        let id = self.objects.put(Kind::Image, &json)?;
        self.images.push((id, json));
        Ok(id)
    }

    /// Whether the pool, or this session, holds that object.
    pub fn holds(&self, id: &ObjectId) -> Result<bool> {
        Ok(*id == EMPTY_ID || self.objects.new.contains_key(id) || self.objects.known.get(id)?.is_some())
    }

    /// What this session was given so far.
    pub fn tally(&self) -> Tally {
        self.objects.tally
    }

    /// Makes everything durable, then applies the changes of names, in order. A change that names an image which is
    /// neither in the pool nor in this session is refused before anything is published.
    pub fn publish(mut self, changes: &[RefChange]) -> Result<()> {
        for change in changes {
            match change {
                RefChange::Set(_, id) if !self.holds(id)? => return Err(Error::Missing(*id)),
                _ => {}
            }
        }
        let sealed = self.objects.packs.finish()?;
        if !sealed.is_empty() {
            self.objects.index.add(&sealed, &Change::default())?;
        }
        for (id, json) in &self.images {
            refs::write_image(&self.paths, id, json)?;
        }
        for change in changes {
            match change {
                RefChange::Set(name, id) => {
                    self.ensure_image(id)?;
                    refs::set(&self.paths, name, id)?;
                }
                RefChange::Remove(name) => refs::remove(&self.paths, name).map(|_| ())?,
            }
        }
        Ok(())
    }

    /// A name may lead only to an image record that has its file.
    fn ensure_image(&self, id: &ObjectId) -> Result<()> {
        if refs::read_image(&self.paths, id).is_ok() {
            return Ok(());
        }
        let json = Reader::open(&self.paths)?.object(id)?.1;
        refs::parse_image(id, &json)?;
        refs::write_image(&self.paths, id, &json)
    }
}

/// Blobs up to this size without links are one chunk and need no object of their own.
const SMALL_BLOB: u64 = 64 << 10;

/// A file that is being stored piece by piece. Dropping it forgets the file.
pub struct FileWriter<'a> {
    writer: &'a mut Writer,
}

impl FileWriter<'_> {
    /// Adds bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.chunker.data(&mut self.writer.objects, bytes)
    }

    /// Adds so many zeros, at no cost however many.
    pub fn zeros(&mut self, count: u64) -> Result<()> {
        self.writer.chunker.zeros(&mut self.writer.objects, count)
    }

    /// Adds all that `source` gives.
    pub fn read_from(&mut self, mut source: impl Read) -> Result<()> {
        self.writer.chunker.read(&mut self.writer.objects, &mut source)
    }

    /// Ends the file.
    pub fn finish(self) -> Result<Content> {
        self.writer.chunker.finish(&mut self.writer.objects)
    }
}

impl Drop for FileWriter<'_> {
    fn drop(&mut self) {
        self.writer.chunker.abandon();
    }
}

/// Takes up the packs that a writer completed but died before the index learned of them, and gives the next free number.
pub(crate) fn adopt(paths: &Paths, index: &Index) -> Result<PackNumber> {
    let snapshot = index.snapshot()?;
    let (known, condemned) = (snapshot.packs()?, snapshot.condemned()?);
    let present = paths.pack_numbers()?;
    let orphans = present.iter().filter(|it| !known.contains_key(it) && !condemned.contains(it));
    let mut sealed = Vec::new();
    for &number in orphans {
        let pack = PackFile::open(&paths.packs, number)?;
        // A pack that cannot be read is fsck's business: nothing acknowledged depends on it without the index.
        if let Ok(footer) = pack.footer() {
            sealed.push(Sealed { number, footer, size: pack.size()? });
        }
    }
    if !sealed.is_empty() {
        // The dead writer may not have got as far as making their names durable.
        durable::sync_dir(&paths.packs, Point::PackDirSync)?;
        index.add(&sealed, &Change::default())?;
    }
    let last = present.into_iter().chain(known.into_keys()).chain(condemned).max();
    Ok(last.map_or(1, |last| last.saturating_add(1)))
}
