//! Bringing contents from a registry, few requests for many of them.
//!
//! Chunks that stand one behind the other in a layer come by one request. A request that fails for a reason that may pass is
//! made again for what has not come yet, a few times. **A content is complete when each of its chunks has its digest, and not
//! before**; what a receiver was given until then is to be thrown away.

use std::collections::HashMap;
use std::time::Duration;

use model::{ObjectId, Span};

use super::decode::Decoder;
use super::remote::{Item, Supply};
use super::toc::Chunk;
use crate::oci::failure::Failure;
use crate::oci::parts::Wanted;
use crate::oci::registry::{Session, runtime};
use crate::{Error, Result};

/// A request is for so many bytes at most, except for a chunk that is larger.
const REQUEST: u64 = 8 << 20;
/// What a single request asks for, if there are files right behind the one that was wanted that fit in: the wait for an
/// answer costs more than the bytes.
const WINDOW: u64 = 128 << 10;
/// How often a request is made before it is given up: a program waits.
const ATTEMPTS: u32 = 3;
/// The pause before the second attempt; doubled for each further one.
const PAUSE: Duration = Duration::from_millis(200);
/// A registry may be silent for so long at most, whatever a pull allows.
const PATIENCE_MS: u64 = 10_000;

/// Where contents go.
pub trait Receiver {
    /// What comes next are the bytes of this content from `offset` on. What was given of it beyond that is void.
    fn seek(&mut self, id: &ObjectId, offset: u64) -> store::Result<()>;
    /// Bytes.
    fn bytes(&mut self, bytes: &[u8]) -> store::Result<()>;
    /// All of the content is there, and right.
    fn complete(&mut self, id: &ObjectId) -> store::Result<()>;
}

/// Contents by id, and those behind each in its layer.
#[derive(Debug)]
pub struct Catalogue<'a> {
    supply: &'a Supply,
    places: HashMap<ObjectId, usize>,
    /// Contents of one chunk, by layer and place in it.
    rows: Vec<(u32, u64, usize)>,
}

impl<'a> Catalogue<'a> {
    /// Sorts a supply.
    pub fn of(supply: &'a Supply) -> Self {
        let places = supply.items.iter().enumerate().map(|(place, item)| (item.id, place)).collect();
        let single = |(place, item): (usize, &Item)| match item.chunks.as_slice() {
            [chunk] => Some((chunk.layer, chunk.begin, place)),
            _ => None,
        };
        let mut rows: Vec<_> = supply.items.iter().enumerate().filter_map(single).collect();
        rows.sort_unstable();
        Self { supply, places, rows }
    }

    fn item(&self, id: &ObjectId) -> Option<&'a Item> {
        self.supply.items.get(*self.places.get(id)?)
    }

    /// Whether a content is one of these.
    pub fn holds(&self, id: &ObjectId) -> bool {
        self.places.contains_key(id)
    }

    /// A name that a content has, for people.
    pub fn name(&self, id: &ObjectId) -> &'a str {
        self.item(id).map_or("?", |item| &item.name)
    }

    /// Small contents right behind this one in its layer, which cost next to nothing when they come with it.
    pub fn beside(&self, id: &ObjectId) -> Vec<ObjectId> {
        let Some([chunk]) = self.item(id).map(|item| item.chunks.as_slice()) else { return Vec::new() };
        let next = self.rows.partition_point(|(layer, begin, _)| (*layer, *begin) <= (chunk.layer, chunk.begin));
        let behind = self.rows.get(next..).unwrap_or_default().iter();
        let mut end = chunk.end;
        let items = behind.map_while(|(_, _, place)| {
            let item = self.supply.items.get(*place)?;
            let [it] = item.chunks.as_slice() else { return None };
            let follows = it.layer == chunk.layer && it.begin == end && it.end - chunk.begin <= WINDOW;
            end = it.end;
            follows.then_some(item.id)
        });
        items.collect()
    }
}

/// Fetches contents. Each thread has its own.
pub struct Fetcher<'a> {
    catalogue: &'a Catalogue<'a>,
    session: Session,
    runtime: tokio::runtime::Runtime,
}

/// One chunk of one content.
#[derive(Clone, Copy, Debug)]
struct Part<'a> {
    item: &'a Item,
    chunk: &'a Chunk,
    /// Where it is in the content.
    at: u64,
}

impl<'a> Fetcher<'a> {
    /// Gets ready to ask; nothing is asked yet.
    pub fn open(catalogue: &'a Catalogue<'a>) -> Result<Self> {
        let session = catalogue.supply.session(Span::millis(catalogue.supply.stall_ms.min(PATIENCE_MS)))?;
        Ok(Self { catalogue, session, runtime: runtime()? })
    }

    /// Brings contents in that order. Those behind one that cannot be had do not come.
    pub fn fetch(&self, ids: &[ObjectId], receiver: &mut dyn Receiver) -> Result<()> {
        let items = ids.iter().filter_map(|id| self.catalogue.item(id));
        let parts: Vec<Part<'_>> = items.flat_map(parts).collect();
        let mut rest = parts.as_slice();
        while !rest.is_empty() {
            let (request, others) = rest.split_at(together(rest));
            self.runtime.block_on(self.request(request, receiver))?;
            rest = others;
        }
        Ok(())
    }

    async fn request(&self, parts: &[Part<'_>], receiver: &mut dyn Receiver) -> Result<()> {
        let (mut done, mut pause, mut failures) = (0, PAUSE, 0);
        while let Some(rest) = parts.get(done..).filter(|rest| !rest.is_empty()) {
            let before = done;
            let said = match self.attempt(rest, receiver, &mut done).await {
                Ok(()) => continue,
                Err(Failure::Lasting(error)) => return Err(error),
                Err(Failure::Passing(said)) => said,
            };
            failures = if done > before { 1 } else { failures + 1 };
            if failures >= ATTEMPTS {
                return Err(self.session.error(format!("{said} (tried {ATTEMPTS} times)")));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE * 8);
        }
        Ok(())
    }

    /// Asks once for these, and counts in `done` which have come.
    async fn attempt(&self, parts: &[Part<'_>], receiver: &mut dyn Receiver, done: &mut usize) -> Result<(), Failure> {
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return Ok(()) };
        let layer = usize::try_from(first.chunk.layer).ok().and_then(|it| self.catalogue.supply.layers.get(it));
        let layer =
            layer.ok_or_else(|| Failure::Lasting(Error::malformed("list of contents", "there is no such layer")))?;
        let mut intake = Intake { parts, receiver, done, at: first.chunk.begin, open: None };
        let range = first.chunk.begin..last.chunk.end;
        self.session.part(*layer, range, &mut |bytes| intake.take(bytes)).await?;
        match intake.parts.first() {
            None => Ok(()),
            Some(part) => Err(Failure::Lasting(Error::malformed(
                format!("layer {layer}"),
                format!("a chunk of '{}' ends too early", part.item.name),
            ))),
        }
    }
}

fn parts(item: &Item) -> impl Iterator<Item = Part<'_>> {
    let mut at = 0;
    item.chunks.iter().map(move |chunk| {
        let part = Part { item, chunk, at };
        at += chunk.size;
        part
    })
}

/// How many of these come by one request: at least one.
fn together(parts: &[Part<'_>]) -> usize {
    let Some(first) = parts.first() else { return 0 };
    let mut end = first.chunk.end;
    let rest = parts.iter().skip(1).take_while(|part| {
        let chunk = part.chunk;
        let follows =
            chunk.layer == first.chunk.layer && chunk.begin == end && chunk.end - first.chunk.begin <= REQUEST;
        end = chunk.end;
        follows
    });
    1 + rest.count()
}

/// Bytes of a layer on their way into contents.
struct Intake<'a, 'p> {
    /// Those that have not come yet.
    parts: &'a [Part<'p>],
    receiver: &'a mut dyn Receiver,
    done: &'a mut usize,
    /// Where in the layer the next byte is from.
    at: u64,
    open: Option<Decoder>,
}

impl Intake<'_, '_> {
    fn take(&mut self, mut bytes: &[u8]) -> Result<Wanted> {
        while let (Some(part), false) = (self.parts.first(), bytes.is_empty()) {
            // What stands between two chunks is headers of the tar.
            let skipped =
                usize::try_from(part.chunk.begin.saturating_sub(self.at)).unwrap_or(usize::MAX).min(bytes.len());
            let most = usize::try_from(part.chunk.end.saturating_sub(self.at)).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at(most.max(skipped));
            self.at += now.len() as u64;
            bytes = later;
            let now = now.get(skipped..).unwrap_or_default();
            let decoder = match &mut self.open {
                Some(decoder) => decoder,
                None => {
                    self.receiver.seek(&part.item.id, part.at)?;
                    self.open.insert(Decoder::new(part.chunk))
                }
            };
            decoder.feed(now, &mut |plain| Ok(self.receiver.bytes(plain)?))?;
            if decoder.is_full() {
                self.close(part)?;
            } else if self.at >= part.chunk.end {
                let why = format!("a chunk of '{}' ends too early", part.item.name);
                return Err(Error::malformed("layer", why));
            }
        }
        Ok(if self.parts.is_empty() { Wanted::Enough } else { Wanted::More })
    }

    fn close(&mut self, part: &Part<'_>) -> Result<()> {
        if let Some(decoder) = self.open.take() {
            decoder.finish()?;
        }
        if part.at + part.chunk.size == part.item.size {
            self.receiver.complete(&part.item.id)?;
        }
        *self.done += 1;
        self.parts = self.parts.get(1..).unwrap_or_default();
        Ok(())
    }
}
