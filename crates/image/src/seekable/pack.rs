//! A layer's tar written as a seekable layer.
//!
//! What the tar holds stays byte for byte as it is, but for two more entries: a mark at its beginning and the table of
//! contents at its end. So the layer is another one than the image has, with a digest of its own. A tar of which the table
//! could not tell everything (names that are no text, files with holes) is refused by [`pack`], and sent as it is.

use std::io::{Read, Write};

use base64::Engine;
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use model::Sha256;
use sha2::Digest;

use super::toc::{Entry as TocEntry, Toc, VERSION};
use super::{LANDMARK, NO_PREFETCH, TOC_NAME, footer, is_of_the_form};
use crate::layer::apply::components;
use crate::layer::canonical::{padding, plain_header};
use crate::layer::header::BLOCK;
use crate::layer::reader::{Entry, EntryKind, Reader, Tap};
use crate::limits::Limits;
use crate::oci::json;
use crate::{Error, Result};

/// Bytes of a file that one member holds at most: 4 MiB, what the form's own tools take.
const CHUNK: usize = 4 << 20;

/// What is known of a layer that was written.
pub(crate) struct Packed {
    /// Of the tar inside.
    pub(crate) diff_id: Sha256,
    /// Of the table of contents.
    pub(crate) toc: Sha256,
}

/// Writes the seekable form of `tar`; nothing when there is none.
pub(crate) fn pack(tar: impl Read, limits: &Limits, out: &mut impl Write) -> Result<Option<Packed>> {
    let mut packer = Packer { members: Members::new(out), entries: Vec::new() };
    packer.landmark()?;
    let mut reader = Reader::new(tar, *limits);
    // Headers of the entry that comes next, and before them the padding of the one before.
    let mut between = Between::default();
    let mut before = 0;
    while let Some(entry) = reader.next(&mut between)? {
        let literal = std::mem::take(&mut between.0);
        let ours = is_of_the_form(&components(&entry.path)?);
        let kept = if ours { literal.get(..padding(before).len()) } else { Some(literal.as_slice()) };
        packer.members.literal(kept.unwrap_or_default())?;
        if ours {
            // An earlier form's, of no use any more: passed over as if it had not been there.
            reader.skip_rest(&mut ())?;
            before = 0;
            continue;
        }
        let Some(described) = describe(&entry) else { return Ok(None) };
        packer.entries.push(described);
        before = if entry.kind == EntryKind::File { entry.size } else { 0 };
        if before > 0 {
            packer.content(&mut reader, entry.size)?;
        }
    }
    // What is left is the last padding and the first block of the end.
    let literal = std::mem::take(&mut between.0);
    packer.members.literal(literal.get(..padding(before).len()).unwrap_or_default())?;
    packer.finish().map(Some)
}

/// Collects what is no content.
#[derive(Default)]
struct Between(Vec<u8>);

impl Tap for Between {
    fn literal(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

struct Packer<W: Write> {
    members: Members<W>,
    entries: Vec<TocEntry>,
}

impl<W: Write> Packer<W> {
    fn landmark(&mut self) -> Result<()> {
        let name = String::from_utf8_lossy(NO_PREFETCH).into_owned();
        self.members.literal(&plain_header(b'0', &name, LANDMARK.len() as u64)?)?;
        self.entries.push(TocEntry { mode: 0o644, size: LANDMARK.len() as u64, ..TocEntry::new(name, "reg") });
        self.chunk(LANDMARK, 0, LANDMARK.len() as u64)?;
        self.members.literal(padding(LANDMARK.len() as u64))
    }

    /// The content of the entry that was described last.
    fn content(&mut self, reader: &mut Reader<impl Read>, size: u64) -> Result<()> {
        let mut buffer = vec![0; CHUNK.min(usize::try_from(size).unwrap_or(CHUNK))];
        let mut at = 0;
        while at < size {
            let most = buffer.len().min(usize::try_from(size - at).unwrap_or(usize::MAX));
            let mut filled = 0;
            while let Some(room) = buffer.get_mut(filled..most).filter(|room| !room.is_empty()) {
                match reader.read_content(room)? {
                    0 => return Err(Error::malformed("tar", "a file is shorter than its header says")),
                    count => filled += count,
                }
            }
            self.chunk(buffer.get(..most).unwrap_or_default(), at, size)?;
            at += most as u64;
        }
        Ok(())
    }

    fn chunk(&mut self, bytes: &[u8], at: u64, size: u64) -> Result<()> {
        let offset = self.members.member(bytes)?;
        if at > 0
            && let Some(first) = self.entries.last()
        {
            self.entries.push(TocEntry::new(first.name.clone(), "chunk"));
        }
        if let Some(entry) = self.entries.last_mut() {
            (entry.offset, entry.chunk_offset) = (offset, at);
            // The last chunk ends with the file.
            entry.chunk_size = if at + bytes.len() as u64 == size { 0 } else { bytes.len() as u64 };
            entry.chunk_digest = digest(bytes).to_string();
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Packed> {
        let toc = json::to_bytes(&Toc { version: VERSION, entries: self.entries })?;
        let name = String::from_utf8_lossy(TOC_NAME).into_owned();
        let header = plain_header(b'0', &name, toc.len() as u64)?;
        let end = [0; 2 * BLOCK];
        let entry = [&header[..], &toc, padding(toc.len() as u64), &end].concat();
        let offset = self.members.member(&entry)?;
        let diff_id = self.members.finish(&footer(offset))?;
        Ok(Packed { diff_id, toc: digest(&toc) })
    }
}

pub(crate) fn digest(bytes: &[u8]) -> Sha256 {
    Sha256::from_bytes(sha2::Sha256::digest(bytes).into())
}

/// Gzip members one after the other, with the digest of what they hold.
struct Members<W: Write> {
    out: Counted<W>,
    /// Of literal bytes, until a member of its own comes.
    literal: Vec<u8>,
    plain: sha2::Sha256,
}

impl<W: Write> Members<W> {
    fn new(out: W) -> Self {
        Self { out: Counted { out, count: 0 }, literal: Vec::new(), plain: sha2::Sha256::new() }
    }

    fn literal(&mut self, bytes: &[u8]) -> Result<()> {
        self.literal.extend_from_slice(bytes);
        // A layer without files is nothing but literal bytes.
        if self.literal.len() > CHUNK { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let literal = std::mem::take(&mut self.literal);
        if !literal.is_empty() {
            self.write(&literal)?;
        }
        Ok(())
    }

    /// A member with these bytes; where it begins.
    fn member(&mut self, bytes: &[u8]) -> Result<u64> {
        self.flush()?;
        let offset = self.out.count;
        self.write(bytes)?;
        Ok(offset)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.plain.update(bytes);
        // No time and no name in the header: the same tar gives the same layer.
        let builder = GzBuilder::new().operating_system(255);
        let mut packer: GzEncoder<_> = builder.write(&mut self.out, Compression::new(6));
        packer.write_all(bytes).and_then(|()| packer.finish().map(|_| ())).map_err(|error| Error::io("a layer", error))
    }

    fn finish(mut self, footer: &[u8]) -> Result<Sha256> {
        self.flush()?;
        self.out.write_all(footer).map_err(|error| Error::io("a layer", error))?;
        Ok(Sha256::from_bytes(self.plain.finalize().into()))
    }
}

struct Counted<W> {
    out: W,
    count: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// What the table says of an entry; nothing when it cannot say all of it.
fn describe(entry: &Entry) -> Option<TocEntry> {
    if entry.sparse.is_some() {
        return None;
    }
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let (kind, link, device) = match &entry.kind {
        EntryKind::File => ("reg", None, None),
        EntryKind::Directory => ("dir", None, None),
        EntryKind::Fifo => ("fifo", None, None),
        EntryKind::Symlink(target) => ("symlink", Some(text(target)?), None),
        EntryKind::HardLink(target) => ("hardlink", Some(text(target)?), None),
        EntryKind::CharDevice { major, minor } => ("char", None, Some((*major, *minor))),
        EntryKind::BlockDevice { major, minor } => ("block", None, Some((*major, *minor))),
    };
    let (dev_major, dev_minor) = device.unwrap_or_default();
    let encode = |value: &[u8]| base64::engine::general_purpose::STANDARD.encode(value);
    let mut xattrs = std::collections::BTreeMap::new();
    for (name, value) in &entry.xattrs {
        xattrs.insert(text(name)?, encode(value));
    }
    Some(TocEntry {
        size: if entry.kind == EntryKind::File { entry.size } else { 0 },
        modtime: time(entry.mtime)?,
        link_name: link.unwrap_or_default(),
        mode: entry.mode.into(),
        uid: entry.uid,
        gid: entry.gid,
        dev_major,
        dev_minor,
        xattrs,
        ..TocEntry::new(text(&entry.path)?, kind)
    })
}

/// RFC 3339; nothing for a time that it does not reach.
fn time((seconds, nanos): (i64, u32)) -> Option<String> {
    let time = jiff::Timestamp::from_second(seconds).ok()?;
    time.checked_add(jiff::SignedDuration::from_nanos(nanos.into())).ok().map(|it| it.to_string())
}
