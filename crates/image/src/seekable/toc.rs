//! The table of contents of a seekable layer: what each entry is, and where the chunks of each file are.
//!
//! **Input is hostile.** Entries are taken one by one, so a table costs no more memory than what it makes of the tree; names
//! go the way of those in a tar ([`LayerApplier`]), where none leads out and no link in a circle; a chunk lies inside the
//! layer, has a digest, and is no larger than its bytes can unpack to; the chunks of a file are all of it, in order, once.

use std::collections::{BTreeMap, HashMap};

use base64::Engine;
use model::{ObjectId, Sha256};
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use store::{Content, Tree};

use super::is_of_the_form;
use crate::layer::apply::{Dialect, LayerApplier, Placement, components};
use crate::layer::reader::{Entry as TarEntry, EntryKind};
use crate::limits::Limits;
use crate::{Error, Result};

/// Of the form.
pub(crate) const VERSION: u32 = 1;
/// What one byte of gzip can become at most, rounded up, and some room for headers.
const RATIO: u64 = 1040;

/// The whole table, to be written.
#[derive(Debug, Serialize)]
pub(crate) struct Toc {
    pub(crate) version: u32,
    pub(crate) entries: Vec<Entry>,
}

/// One entry, or a further chunk of the file before it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) size: u64,
    #[serde(default, rename = "modtime", skip_serializing_if = "String::is_empty")]
    pub(crate) modtime: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) link_name: String,
    #[serde(default)]
    pub(crate) mode: i64,
    #[serde(default)]
    pub(crate) uid: u32,
    #[serde(default)]
    pub(crate) gid: u32,
    #[serde(default)]
    pub(crate) dev_major: u32,
    #[serde(default)]
    pub(crate) dev_minor: u32,
    #[serde(default, deserialize_with = "or_none", skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) xattrs: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) offset: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) inner_offset: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) chunk_offset: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) chunk_size: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) chunk_digest: String,
}

impl Entry {
    pub(crate) fn new(name: String, kind: &str) -> Self {
        Self { name, kind: kind.to_owned(), ..Self::default() }
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// `null` is how some languages write an empty map.
fn or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A part of a file, and where its bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chunk {
    /// Which layer of the image.
    pub(crate) layer: u32,
    /// Where its gzip member begins, and where at the latest it ends.
    pub(crate) begin: u64,
    pub(crate) end: u64,
    /// Bytes of other chunks before it in that member.
    pub(crate) inner: u64,
    /// Unpacked.
    pub(crate) size: u64,
    pub(crate) digest: Sha256,
}

/// The contents of an image whose layers stay where they are, by ids that stand for their chunks.
pub(crate) type Contents = HashMap<ObjectId, Vec<Chunk>>;

/// The id of a content of which nothing but its chunks' digests is known. **No two contents share one**; that of a content in
/// the pool is made in another way, so none of those has it either.
fn content_id(chunks: &[Chunk]) -> ObjectId {
    let mut hasher = blake3::Hasher::new_derive_key("skep image 2026 content by its chunks");
    for chunk in chunks {
        hasher.update(&chunk.size.to_le_bytes()).update(chunk.digest.as_bytes());
    }
    ObjectId::from_bytes(*hasher.finalize().as_bytes())
}

/// Where a layer's table stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Which layer of the image.
    pub(crate) layer: u32,
    /// Where the table begins, which is where contents end.
    pub(crate) toc: u64,
}

/// Applies tables one above the other.
pub(crate) struct Merger {
    pub(crate) tree: Tree,
    pub(crate) contents: Contents,
    limits: Limits,
    entries: u64,
    bytes: u64,
}

impl Merger {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { tree: Tree::default(), contents: Contents::new(), limits, entries: 0, bytes: 0 }
    }

    /// Takes in the table of the next layer.
    pub(crate) fn layer(&mut self, json: &[u8], place: Place) -> Result<()> {
        // A chunk ends where the next begins, which is known when all are.
        let mut begins = vec![place.toc];
        read(json, &mut |entry| {
            begins.push(entry.offset);
            Ok(())
        })?;
        begins.sort_unstable();
        begins.dedup();
        let Self { tree, contents, limits, entries, bytes } = self;
        let applier = LayerApplier::new(tree, Dialect::Layer);
        let mut layer = Layer { applier, contents, limits, entries, bytes, place, begins: &begins, open: None };
        read(json, &mut |entry| layer.entry(entry))?;
        layer.close()
    }
}

struct Layer<'a> {
    applier: LayerApplier<'a>,
    contents: &'a mut Contents,
    limits: &'a Limits,
    entries: &'a mut u64,
    bytes: &'a mut u64,
    place: Place,
    begins: &'a [u64],
    /// A file whose chunks may not all have come yet.
    open: Option<OpenFile>,
}

struct OpenFile {
    name: String,
    entry: TarEntry,
    path: Vec<u8>,
    chunks: Vec<Chunk>,
    /// Bytes of the chunks so far.
    filled: u64,
}

impl Layer<'_> {
    fn entry(&mut self, entry: Entry) -> Result<()> {
        *self.entries += 1;
        if *self.entries > self.limits.entries {
            return Err(Error::limit("entries of an image", self.limits.entries));
        }
        if entry.kind == "chunk" {
            return self.chunk(&entry);
        }
        self.close()?;
        let tar = tar_entry(&entry, self.limits)?;
        if is_of_the_form(&components(&tar.path)?) {
            return Ok(());
        }
        *self.bytes = self.bytes.saturating_add(tar.size);
        if *self.bytes > self.limits.unpacked.get() {
            return Err(Error::limit("bytes of an image", self.limits.unpacked));
        }
        if let Placement::File(path) = self.applier.apply(&tar)? {
            let empty = tar.size == 0;
            self.open = Some(OpenFile { name: entry.name.clone(), entry: tar, path, chunks: Vec::new(), filled: 0 });
            if !empty {
                self.chunk(&entry)?;
            }
        }
        Ok(())
    }

    fn chunk(&mut self, entry: &Entry) -> Result<()> {
        let wrong = |why: &str| malformed(&format!("a chunk of '{}' {why}", entry.name.escape_debug()));
        let begin = entry.offset;
        let Some(open) = self.open.as_mut().filter(|open| open.name == entry.name) else {
            // Of a file that belongs to the form.
            let passed = is_of_the_form(&components(entry.name.as_bytes())?);
            return if passed { Ok(()) } else { Err(wrong("does not follow its file")) };
        };
        if entry.chunk_offset != open.filled {
            return Err(wrong("is not where the one before it ends"));
        }
        let left = open.entry.size - open.filled;
        let size = if entry.chunk_size == 0 { left } else { entry.chunk_size };
        if size == 0 || size > left {
            return Err(wrong("is beyond the end of the file"));
        }
        let end = self.begins.partition_point(|it| *it <= begin);
        let Some(&end) = self.begins.get(end).filter(|end| **end <= self.place.toc) else {
            return Err(wrong("is beyond the layer"));
        };
        let reaches = entry.inner_offset.checked_add(size).ok_or_else(|| wrong("is too large"))?;
        if reaches > (end - begin).saturating_mul(RATIO) {
            return Err(wrong("is larger than its bytes can be"));
        }
        let digest = entry.chunk_digest.parse().map_err(|_| wrong("has no digest"))?;
        open.chunks.push(Chunk { layer: self.place.layer, begin, end, inner: entry.inner_offset, size, digest });
        open.filled += size;
        Ok(())
    }

    /// Puts the file in place whose last chunk has come.
    fn close(&mut self) -> Result<()> {
        let Some(OpenFile { name, entry, path, chunks, filled }) = self.open.take() else { return Ok(()) };
        if filled != entry.size {
            return Err(malformed(&format!("the chunks of '{}' are not all of it", name.escape_debug())));
        }
        let content = match entry.size {
            0 => Content::EMPTY,
            size => Content { id: content_id(&chunks), size },
        };
        if content.size > 0 {
            self.contents.entry(content.id).or_insert(chunks);
        }
        self.applier.file(path, &entry, content)
    }
}

/// The entry as it would stand in a tar.
fn tar_entry(entry: &Entry, limits: &Limits) -> Result<TarEntry> {
    let wrong = |why: &str| malformed(&format!("'{}' {why}", entry.name.escape_debug()));
    if entry.name.len() > limits.path || entry.link_name.len() > limits.path {
        return Err(Error::limit("bytes of a path", limits.path as u64));
    }
    let link = entry.link_name.clone().into_bytes();
    let (major, minor) = (entry.dev_major, entry.dev_minor);
    let kind = match entry.kind.as_str() {
        "reg" => EntryKind::File,
        "dir" => EntryKind::Directory,
        "symlink" => EntryKind::Symlink(link),
        "hardlink" => EntryKind::HardLink(link),
        "char" => EntryKind::CharDevice { major, minor },
        "block" => EntryKind::BlockDevice { major, minor },
        "fifo" => EntryKind::Fifo,
        _ => return Err(wrong("is of no known kind")),
    };
    let decode = |text: &String| base64::engine::general_purpose::STANDARD.decode(text);
    let mut xattrs = Vec::new();
    for (name, value) in &entry.xattrs {
        xattrs.push((name.clone().into_bytes(), decode(value).map_err(|_| wrong("has a damaged attribute"))?));
    }
    let size = if kind == EntryKind::File { entry.size } else { 0 };
    Ok(TarEntry {
        path: entry.name.clone().into_bytes(),
        kind,
        mode: (entry.mode & 0o7777) as u32,
        uid: entry.uid,
        gid: entry.gid,
        mtime: time(&entry.modtime).ok_or_else(|| wrong("has a damaged time"))?,
        xattrs,
        size,
        sparse: None,
        stored: size,
    })
}

/// Whole seconds, and nanoseconds after them; no text stands for the epoch.
fn time(text: &str) -> Option<(i64, u32)> {
    if text.is_empty() {
        return Some((0, 0));
    }
    let nanos = text.parse::<jiff::Timestamp>().ok()?.as_nanosecond();
    let rest = nanos.rem_euclid(1_000_000_000);
    Some((i64::try_from((nanos - rest) / 1_000_000_000).ok()?, u32::try_from(rest).ok()?))
}

fn malformed(why: &str) -> Error {
    Error::malformed("table of contents", why)
}

/// Gives the entries of a table to `each`, one by one.
fn read(json: &[u8], each: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
    let mut failure = None;
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let told = Table { each, failure: &mut failure }.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    match (failure, told) {
        (Some(error), _) => Err(error),
        (None, Err(error)) => Err(malformed(&error.to_string())),
        (None, Ok(())) => Ok(()),
    }
}

/// What `each` said travels beside the deserializer's own errors, which are text.
struct Table<'a> {
    each: &'a mut dyn FnMut(Entry) -> Result<()>,
    failure: &'a mut Option<Error>,
}

impl<'de> DeserializeSeed<'de> for Table<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Table<'_> {
    type Value = ();
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a table of contents")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let (mut version, mut entries) = (None, 0);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "version" => version = Some(map.next_value::<u32>()?),
                "entries" => {
                    entries += 1;
                    map.next_value_seed(Rows(&mut self))?;
                }
                _ => drop(map.next_value::<serde::de::IgnoredAny>()?),
            }
        }
        match (version, entries) {
            (Some(VERSION), 1) => Ok(()),
            _ => Err(serde::de::Error::custom("it is of another version, or has not one list of entries")),
        }
    }
}

struct Rows<'a, 'b>(&'a mut Table<'b>);

impl<'de> DeserializeSeed<'de> for Rows<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Rows<'_, '_> {
    type Value = ();
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(entry) = seq.next_element::<Entry>()? {
            if let Err(error) = (self.0.each)(entry) {
                *self.0.failure = Some(error);
                return Err(serde::de::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
