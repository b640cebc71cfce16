//! Reading objects out of the pool. Any number of readers work at once, also beside the writer.
//!
//! **Whatever a reader returns has been checked against its id**; what does not match is [`Error::Damaged`]. A reader
//! holds the pin: packs that it found in the index stay until it is dropped.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io::{self, Read};
use std::rc::Rc;

use model::ObjectId;

use crate::error::{Error, Result};
use crate::index::{Follower, IndexReader};
use crate::layout::Paths;
use crate::lock::{self, Lock};
use crate::object::{Content, EMPTY_ID, Extent, Kind, Linked, decode_extents, decode_list, first_chunk};
use crate::pack::{self, Location, PackFile, PackNumber};
use crate::tree::{self, Tree};

/// The most bytes of unpacked frames that a reader keeps, and the most packs it keeps open.
const FRAMES_KEPT: usize = 8 << 20;
const PACKS_KEPT: usize = 64;

/// A reader of a pool.
pub struct Reader {
    paths: Paths,
    follower: RefCell<Option<Follower>>,
    snapshot: RefCell<Option<Rc<IndexReader>>>,
    cache: RefCell<Cache>,
    _pin: Lock,
}

/// A frame: its pack and its offset there.
type FrameKey = (PackNumber, u32);

#[derive(Default)]
struct Cache {
    packs: HashMap<PackNumber, Rc<PackFile>>,
    /// The latest used last.
    frames: VecDeque<(FrameKey, Rc<Vec<u8>>)>,
    bytes: usize,
}

/// An object's bytes inside the frame they came in.
#[derive(Clone)]
pub(crate) struct Bytes {
    frame: Rc<Vec<u8>>,
    range: std::ops::Range<usize>,
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.frame.get(self.range.clone()).unwrap_or_default()
    }
}

impl Reader {
    pub(crate) fn open(paths: &Paths) -> Result<Self> {
        let pin = lock::pin(&paths.pin_lock)?;
        Ok(Self {
            paths: paths.clone(),
            follower: RefCell::default(),
            snapshot: RefCell::default(),
            cache: RefCell::default(),
            _pin: pin,
        })
    }

    pub(crate) fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The index as it was when this reader first looked, or as it is now.
    fn snapshot(&self, age: Age) -> Result<Option<Rc<IndexReader>>> {
        if age == Age::Any
            && let Some(snapshot) = &*self.snapshot.borrow()
        {
            return Ok(Some(Rc::clone(snapshot)));
        }
        let mut follower = self.follower.borrow_mut();
        if follower.is_none() {
            *follower = Follower::open(&self.paths.index)?;
        }
        let Some(follower) = &*follower else { return Ok(None) };
        let snapshot = Rc::new(follower.snapshot()?);
        *self.snapshot.borrow_mut() = Some(Rc::clone(&snapshot));
        Ok(Some(snapshot))
    }

    /// Where an object is, if it is anywhere.
    pub(crate) fn locate(&self, id: &ObjectId) -> Result<Option<Location>> {
        for age in [Age::Any, Age::Now] {
            let Some(snapshot) = self.snapshot(age)? else { return Ok(None) };
            if let Some(location) = snapshot.get(id)? {
                return Ok(Some(location));
            }
        }
        Ok(None)
    }

    fn frame(&self, location: &Location) -> Result<Rc<Vec<u8>>> {
        let mut cache = self.cache.borrow_mut();
        let key = (location.pack, location.frame);
        if let Some(place) = cache.frames.iter().position(|(it, _)| *it == key)
            && let Some(entry) = cache.frames.remove(place)
        {
            let frame = Rc::clone(&entry.1);
            cache.frames.push_back(entry);
            return Ok(frame);
        }
        let pack = match cache.packs.get(&location.pack) {
            Some(pack) => Rc::clone(pack),
            None => {
                if cache.packs.len() >= PACKS_KEPT {
                    cache.packs.clear();
                }
                let pack = Rc::new(PackFile::open(&self.paths.packs, location.pack)?);
                cache.packs.insert(location.pack, Rc::clone(&pack));
                pack
            }
        };
        let frame = Rc::new(pack.frame(location.frame, location.stored)?);
        cache.keep(key, &frame);
        Ok(frame)
    }

    /// An object's kind and bytes.
    pub(crate) fn object(&self, id: &ObjectId) -> Result<(Kind, Bytes)> {
        let location = self.locate(id)?.ok_or(Error::Missing(*id))?;
        self.object_at(id, &location)
    }

    pub(crate) fn object_at(&self, id: &ObjectId, location: &Location) -> Result<(Kind, Bytes)> {
        let frame = self.frame(location)?;
        let damaged = |why| Error::damaged(format!("object {id} in pack {:08x}", location.pack), why);
        let range = pack::record(&frame, location, id).map_err(damaged)?;
        Ok((location.kind, Bytes { frame, range }))
    }

    fn object_of(&self, id: &ObjectId, expected: Kind) -> Result<Bytes> {
        match self.object(id)? {
            (kind, bytes) if kind == expected => Ok(bytes),
            (kind, _) => Err(Error::damaged(format!("object {id}"), format!("it is a {kind:?}, not a {expected:?}"))),
        }
    }

    /// The stretches of a content.
    pub(crate) fn extents(&self, content: &Content) -> Result<Vec<Extent>> {
        if content.size == 0 && content.id == EMPTY_ID {
            return Ok(Vec::new());
        }
        let damaged = |why: &str| Error::damaged(format!("content {}", content.id), why);
        match self.locate(&content.id)?.ok_or(Error::Missing(content.id))? {
            Location { kind: Kind::List, .. } => {
                let bytes = self.object_of(&content.id, Kind::List)?;
                decode_list(&bytes, content.size).map_err(damaged)
            }
            location if u64::from(location.length) == content.size => {
                Ok(vec![Extent::Chunk { id: content.id, size: content.size }])
            }
            _ => Err(damaged("it is not as long as it should be")),
        }
    }

    /// The first chunk of a list, if that is what is at `place`. Sizes are checked when the list is read in earnest.
    pub(crate) fn first_of_list(&self, id: &ObjectId, place: &Location) -> Result<Option<ObjectId>> {
        if place.kind != Kind::List {
            return Ok(None);
        }
        let bytes = self.object_at(id, place)?.1;
        first_chunk(&bytes).map_err(|why| Error::damaged(format!("content {id}"), why))
    }

    /// How long the content with that id is.
    pub(crate) fn content_size(&self, id: &ObjectId) -> Result<u64> {
        let location = self.locate(id)?.ok_or(Error::Missing(*id))?;
        match location.kind {
            Kind::List => {
                let bytes = self.object_at(id, &location)?.1;
                let extents = decode_extents(&bytes).map_err(|why| Error::damaged(format!("content {id}"), why))?;
                Ok(extents.iter().fold(0, |size, extent| size.saturating_add(extent.size())))
            }
            _ => Ok(location.length.into()),
        }
    }

    /// A file's bytes as a stream. Errors of the store arrive as [`io::Error`] with the store's error inside.
    pub fn content(&self, content: &Content) -> Result<ContentReader<'_>> {
        let extents = self.extents(content)?;
        Ok(ContentReader { reader: self, extents: extents.into_iter(), current: Piece::Zeros(0) })
    }

    /// The bytes of a blob.
    pub fn blob(&self, id: &ObjectId) -> Result<Vec<u8>> {
        let content = self.blob_content(id)?;
        if content.size > MAX_BLOB {
            return Err(Error::TooLarge { what: "a blob", limit: MAX_BLOB });
        }
        let mut out = Vec::new();
        for extent in self.extents(&content)? {
            match extent {
                Extent::Zeros { size } => out.resize(out.len() + size as usize, 0),
                Extent::Chunk { id, size } => out.extend_from_slice(&self.chunk(&id, size)?),
            }
        }
        Ok(out)
    }

    /// A blob as a content, to be read as a stream.
    pub fn blob_content(&self, id: &ObjectId) -> Result<Content> {
        if *id == EMPTY_ID {
            return Ok(Content::EMPTY);
        }
        let (kind, bytes) = self.object(id)?;
        match kind {
            Kind::Chunk | Kind::Image => Ok(Content { id: *id, size: bytes.len() as u64 }),
            Kind::Linked => {
                let linked = Linked::decode(&bytes).map_err(|why| Error::damaged(format!("blob {id}"), why))?;
                Ok(linked.payload)
            }
            kind => Err(Error::damaged(format!("object {id}"), format!("it is a {kind:?}, not a blob"))),
        }
    }

    /// A chunk that must be `size` bytes long.
    pub(crate) fn chunk(&self, id: &ObjectId, size: u64) -> Result<Bytes> {
        let (_, bytes) = self.object(id)?;
        match bytes.len() as u64 == size {
            true => Ok(bytes),
            false => Err(Error::damaged(format!("chunk {id}"), "it is not as long as its list says")),
        }
    }

    /// A root file system.
    pub fn tree(&self, id: &ObjectId) -> Result<Tree> {
        tree::decode(id, |object| {
            let (_, bytes) = self.object(object)?;
            Ok(bytes.to_vec())
        })
    }
}

/// The most that [`Reader::blob`] returns at once.
const MAX_BLOB: u64 = 1 << 30;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Age {
    Any,
    Now,
}

impl Cache {
    fn keep(&mut self, key: FrameKey, frame: &Rc<Vec<u8>>) {
        self.bytes += frame.len();
        self.frames.push_back((key, Rc::clone(frame)));
        while self.bytes > FRAMES_KEPT && self.frames.len() > 1 {
            let oldest = self.frames.pop_front();
            self.bytes -= oldest.map_or(0, |(_, frame)| frame.len());
        }
    }
}

/// The bytes of one content, in order.
pub struct ContentReader<'a> {
    reader: &'a Reader,
    extents: std::vec::IntoIter<Extent>,
    current: Piece,
}

enum Piece {
    Zeros(u64),
    Chunk(Bytes, usize),
}

impl Read for ContentReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            match &mut self.current {
                Piece::Zeros(left) if *left > 0 => {
                    let count = (*left).min(out.len() as u64) as usize;
                    out.iter_mut().take(count).for_each(|byte| *byte = 0);
                    *left -= count as u64;
                    return Ok(count);
                }
                Piece::Chunk(bytes, at) if *at < bytes.len() => {
                    let count = bytes.get(*at..).unwrap_or_default().read(out)?;
                    *at += count;
                    return Ok(count);
                }
                _ => {}
            }
            self.current = match self.extents.next() {
                None => return Ok(0),
                Some(Extent::Zeros { size }) => Piece::Zeros(size),
                Some(Extent::Chunk { id, size }) => {
                    Piece::Chunk(self.reader.chunk(&id, size).map_err(io::Error::other)?, 0)
                }
            };
        }
    }
}
