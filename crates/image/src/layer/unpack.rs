//! A layer's way into the pool: decompressed, hashed, parsed, stored and applied in one pass.
//!
//! Nothing is believed before it is checked and nothing is kept when a check fails: digests and sizes are compared before
//! anything is published, and the limits of [`Limits`] hold over all layers of an image together.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read};
use std::rc::Rc;

use model::{ByteSize, LayerRecord, Progress, Sha256};
use sha2::Digest;
use store::{Content, Tree, Writer};

use super::apply::{Dialect, LayerApplier, Placement, components};
use super::reader::{Entry, EntryKind, Reader};
use super::recipe::RecipeWriter;
use crate::limits::Limits;
use crate::oci::export::LayerForm;
use crate::{Error, Result, seekable};

/// The largest window that a zstd layer may ask for: 128 MiB, what `zstd --long` uses at most by default.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Passes bytes on, and knows how many there were and their SHA-256.
pub(crate) struct Hashing<R> {
    source: R,
    hash: sha2::Sha256,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, hash: sha2::Sha256::new(), count: Rc::default() }
    }

    /// Reads what is left, then tells the digest and the size of it all.
    pub(crate) fn finish(mut self) -> std::io::Result<(Sha256, u64)> {
        std::io::copy(&mut self, &mut std::io::sink())?;
        Ok((Sha256::from_bytes(self.hash.finalize().into()), self.count.get()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.hash.update(buffer.get(..count).unwrap_or_default());
        self.count.set(self.count.get() + count as u64);
        Ok(count)
    }
}

/// What a compressed layer is expected to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) digest: Sha256,
    pub(crate) size: u64,
    pub(crate) form: LayerForm,
}

/// Builds one image's tree, layer by layer.
pub(crate) struct Unpacker<'w> {
    pub(crate) tree: Tree,
    writer: &'w mut Writer,
    limits: Limits,
    entries: u64,
    bytes: u64,
}

impl<'w> Unpacker<'w> {
    pub(crate) fn new(writer: &'w mut Writer, limits: Limits) -> Self {
        Self { tree: Tree::default(), writer, limits, entries: 0, bytes: 0 }
    }

    /// Takes in one layer: a tar, plain or compressed with gzip or zstd as its first bytes tell. `expected` is what its
    /// referrer said of the compressed bytes, `diff_id` of the tar.
    pub(crate) fn layer(
        &mut self,
        source: impl Read,
        expected: Option<Expected>,
        diff_id: Option<Sha256>,
        progress: &dyn Progress,
    ) -> Result<LayerRecord> {
        let mut compressed = Hashing::new(Advancing { source, progress });
        let read = compressed.count.clone();
        let (tar, recipe) = {
            let mut buffered = BufReader::with_capacity(128 << 10, &mut compressed);
            let packed = sniff(&mut buffered)? != Packing::None;
            let plain = decompress(&mut buffered)?;
            let ratio = if packed { self.limits.ratio } else { u64::MAX };
            let bounded = Bounded { source: plain, read, written: 0, ratio, most: self.limits.unpacked.get() };
            let mut tar = Hashing::new(bounded);
            let recipe = self.entries(&mut tar, expected.map_or(LayerForm::Stream, |it| it.form))?;
            (tar.finish().map_err(|error| Error::read("layer", error))?, recipe)
        };
        let (digest, size) = compressed.finish().map_err(|error| Error::read("layer", error))?;
        if let Some(expected) = expected {
            check("layer blob size", &expected.size, &size)?;
            check("layer blob", &expected.digest, &digest)?;
        }
        if let Some(diff_id) = diff_id {
            check("layer content", &diff_id, &tar.0)?;
        }
        let (bytes, contents) = recipe.finish()?;
        let recipe = self.writer.linked_blob(&bytes, &contents)?;
        let original = expected.filter(|_| digest != tar.0).map(|expected| expected.digest);
        Ok(LayerRecord { diff_id: tar.0, size: ByteSize::bytes(tar.1), recipe, original })
    }

    fn entries(&mut self, tar: &mut impl Read, form: LayerForm) -> Result<RecipeWriter> {
        let mut recipe = RecipeWriter::new()?;
        let limits = Limits { entries: self.limits.entries.saturating_sub(self.entries), ..self.limits };
        let mut reader = Reader::new(BufReader::with_capacity(64 << 10, tar), limits);
        let mut applier = LayerApplier::new(&mut self.tree, Dialect::Layer);
        while let Some(entry) = reader.next(&mut recipe)? {
            self.entries += 1;
            self.bytes = self.bytes.saturating_add(entry.size);
            if self.bytes > self.limits.unpacked.get() {
                return Err(Error::limit("bytes of an image", self.limits.unpacked));
            }
            if form == LayerForm::Seekable && seekable::is_of_the_form(&components(&entry.path)?) {
                // It belongs to the layer, not to the image.
                if entry.kind == EntryKind::File {
                    let content = store_content(&mut reader, &entry, self.writer, &mut |_| {})?;
                    record(&mut recipe, &entry, content)?;
                }
                continue;
            }
            match applier.apply(&entry)? {
                Placement::File(path) => {
                    let content = store_content(&mut reader, &entry, self.writer, &mut |_| {})?;
                    record(&mut recipe, &entry, content)?;
                    applier.file(path, &entry, content)?;
                }
                Placement::Done => {}
            }
        }
        reader.finish(&mut recipe)?;
        Ok(recipe)
    }
}

/// Stores an entry's content, holes as holes, and shows each piece that is no hole to `peek`.
pub(crate) fn store_content<R: Read>(
    reader: &mut Reader<R>,
    entry: &Entry,
    writer: &mut Writer,
    peek: &mut dyn FnMut(&[u8]),
) -> Result<Content> {
    debug_assert!(entry.kind == EntryKind::File);
    let mut file = writer.begin_file();
    let mut buffer = vec![0; 64 << 10];
    let mut copy = |file: &mut store::FileWriter<'_>, mut left: u64| -> Result<()> {
        while left > 0 {
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = reader.read_content(buffer.get_mut(..most).unwrap_or_default())?;
            let bytes = buffer.get(..count).unwrap_or_default();
            if bytes.is_empty() {
                return Err(Error::malformed("tar", "a file is shorter than its header says"));
            }
            peek(bytes);
            file.write(bytes)?;
            left -= count as u64;
        }
        Ok(())
    };
    match &entry.sparse {
        None => copy(&mut file, entry.size)?,
        Some(map) => {
            let mut at = 0;
            for segment in map.segments() {
                file.zeros(segment.offset - at)?;
                copy(&mut file, segment.length)?;
                at = segment.offset + segment.length;
            }
            file.zeros(entry.size - at)?;
        }
    }
    Ok(file.finish()?)
}

fn record(recipe: &mut RecipeWriter, entry: &Entry, content: Content) -> Result<()> {
    match &entry.sparse {
        None => recipe.content(content, 0, content.size),
        Some(map) => map.segments().try_for_each(|part| recipe.content(content, part.offset, part.length)),
    }
}

pub(crate) fn check<T: PartialEq + std::fmt::Display>(what: &str, expected: &T, found: &T) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Mismatch { what: what.to_owned(), expected: expected.to_string(), found: found.to_string() })
}

/// How bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    None,
    Gzip,
    Zstd,
}

/// Tells by the first bytes; formats that no image uses are named in the error.
pub(crate) fn sniff(source: &mut impl BufRead) -> Result<Packing> {
    let beginning = source.fill_buf().map_err(|error| Error::read("layer", error))?;
    let unsupported = |name: &str| Error::Unsupported {
        what: "layer".to_owned(),
        why: format!("it is packed with {name}; images use gzip or zstd"),
    };
    match beginning {
        [0x1f, 0x8b, ..] => Ok(Packing::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Packing::Zstd),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Err(unsupported("xz")),
        [b'B', b'Z', b'h', b'1'..=b'9', b'1', ..] => Err(unsupported("bzip2")),
        _ => Ok(Packing::None),
    }
}

/// Unpacks gzip (members one after the other are one stream) or zstd, or passes on what is packed with neither.
pub(crate) fn decompress<'a>(source: &'a mut impl BufRead) -> Result<Box<dyn Read + 'a>> {
    Ok(match sniff(source)? {
        Packing::None => Box::new(source),
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        Packing::Zstd => {
            let failed = |error| Error::read("layer", error);
            let mut decoder = zstd::Decoder::with_buffer(source).map_err(failed)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(failed)?;
            Box::new(decoder)
        }
    })
}

/// Ends a stream that grows beyond what any honest one would.
struct Bounded<R> {
    source: R,
    read: Rc<Cell<u64>>,
    written: u64,
    ratio: u64,
    most: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.written += count as u64;
        let allowed = self.read.get().saturating_mul(self.ratio).max(Limits::RATIO_FLOOR);
        if self.written > allowed {
            return Err(Error::limit("bytes from one byte of a layer", self.ratio).into_io());
        }
        // A tar needs some more room than its files: headers and padding.
        if self.written / 2 > self.most {
            return Err(Error::limit("bytes of a layer", ByteSize::bytes(self.most)).into_io());
        }
        Ok(count)
    }
}

/// Tells progress of what passes.
struct Advancing<'p, R> {
    source: R,
    progress: &'p dyn Progress,
}

impl<R: Read> Read for Advancing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.progress.advance(count as u64);
        Ok(count)
    }
}
