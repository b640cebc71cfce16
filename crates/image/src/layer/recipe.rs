//! How to put a layer's tar together again: its headers and padding, and which stored bytes go between them.
//!
//! The form, compressed with zstd: the magic, then steps until the end, each a byte and its fields as LEB128 numbers:
//! `0 LENGTH BYTES` for bytes as they are, `1 ID SIZE OFFSET LENGTH` for a part of a stored content. File content is never
//! in a recipe, so it takes a few per cent of the layer.

use std::io::{BufReader, Read, Write};

use model::ObjectId;
use store::{Content, Reader};

use super::reader::Tap;
use crate::{Error, Result};

const MAGIC: &[u8] = b"skep layer recipe 1\n";
/// Literal bytes are collected up to so many before they become a step.
const BATCH: usize = 64 << 10;
const LITERAL: u8 = 0;
const CONTENT: u8 = 1;

/// Writes a recipe while a tar is read.
pub(crate) struct RecipeWriter {
    encoder: zstd::Encoder<'static, Vec<u8>>,
    pending: Vec<u8>,
    contents: Vec<ObjectId>,
}

impl RecipeWriter {
    pub(crate) fn new() -> Result<Self> {
        let failed = |error| Error::io("a layer's recipe", error);
        let mut encoder = zstd::Encoder::new(Vec::new(), 9).map_err(failed)?;
        encoder.write_all(MAGIC).map_err(failed)?;
        Ok(Self { encoder, pending: Vec::new(), contents: Vec::new() })
    }

    /// So many bytes of a stored content come next.
    pub(crate) fn content(&mut self, content: Content, offset: u64, length: u64) -> Result<()> {
        if length == 0 {
            return Ok(());
        }
        self.flush()?;
        let mut step = vec![CONTENT];
        step.extend_from_slice(content.id.as_bytes());
        for number in [content.size, offset, length] {
            put_number(&mut step, number);
        }
        self.contents.push(content.id);
        self.write(&step)
    }

    /// The recipe, and the contents it needs, each once.
    pub(crate) fn finish(mut self) -> Result<(Vec<u8>, Vec<ObjectId>)> {
        self.flush()?;
        let bytes = self.encoder.finish().map_err(|error| Error::io("a layer's recipe", error))?;
        self.contents.sort_unstable();
        self.contents.dedup();
        Ok((bytes, self.contents))
    }

    fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let mut step = vec![LITERAL];
        put_number(&mut step, self.pending.len() as u64);
        self.write(&step)?;
        let pending = std::mem::take(&mut self.pending);
        self.write(&pending)?;
        self.pending = pending;
        self.pending.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.encoder.write_all(bytes).map_err(|error| Error::io("a layer's recipe", error))
    }
}

impl Tap for RecipeWriter {
    fn literal(&mut self, bytes: &[u8]) -> Result<()> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= BATCH { self.flush() } else { Ok(()) }
    }
}

/// Writes the tar that a recipe describes.
pub(crate) fn replay(recipe: &[u8], reader: &Reader, out: &mut impl Write) -> Result<()> {
    let failed = |error| Error::read("a layer's recipe", error);
    let mut steps = BufReader::new(zstd::Decoder::new(recipe).map_err(failed)?);
    let mut magic = [0; MAGIC.len()];
    steps.read_exact(&mut magic).map_err(failed)?;
    if magic != MAGIC {
        return Err(Error::malformed("layer's recipe", "an unknown form"));
    }
    let mut open = OpenContent { reader, current: None };
    let mut kind = [0];
    while steps.read(&mut kind).map_err(failed)? == 1 {
        match kind {
            [LITERAL] => {
                let length = get_number(&mut steps)?;
                copy_exactly(&mut steps, length, out)?;
            }
            [CONTENT] => {
                let mut id = [0; 32];
                steps.read_exact(&mut id).map_err(failed)?;
                let content = Content { id: ObjectId::from_bytes(id), size: get_number(&mut steps)? };
                let (offset, length) = (get_number(&mut steps)?, get_number(&mut steps)?);
                copy_exactly(open.seek(content, offset)?, length, out)?;
                open.advance(length);
            }
            _ => return Err(Error::malformed("layer's recipe", "an unknown step")),
        }
    }
    Ok(())
}

/// A stored content being read front to back, kept open while steps ask for later parts of it.
struct OpenContent<'r> {
    reader: &'r Reader,
    current: Option<(Content, u64, Box<dyn Read + 'r>)>,
}

impl<'r> OpenContent<'r> {
    fn seek(&mut self, content: Content, offset: u64) -> Result<&mut (dyn Read + 'r)> {
        let reusable = self.current.as_ref().is_some_and(|(open, at, _)| *open == content && *at <= offset);
        if !reusable {
            self.current = Some((content, 0, Box::new(self.reader.content(&content)?)));
        }
        match &mut self.current {
            Some((_, at, source)) => {
                copy_exactly(source, offset - *at, &mut std::io::sink())?;
                *at = offset;
                Ok(source)
            }
            None => Err(Error::malformed("layer's recipe", "no content is open")),
        }
    }

    fn advance(&mut self, length: u64) {
        if let Some((_, at, _)) = &mut self.current {
            *at += length;
        }
    }
}

fn copy_exactly(source: &mut (impl Read + ?Sized), length: u64, out: &mut impl Write) -> Result<()> {
    let copied = std::io::copy(&mut source.take(length), out).map_err(|error| Error::read("a layer", error))?;
    if copied == length {
        Ok(())
    } else {
        Err(Error::malformed("layer", "stored content is shorter than its recipe says"))
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn get_number(source: &mut impl Read) -> Result<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        source.read_exact(&mut byte).map_err(|error| Error::read("a layer's recipe", error))?;
        number |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Error::malformed("layer's recipe", "a number without end"))
}
