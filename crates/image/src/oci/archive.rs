//! A tar whose files are read in any order: an archive of images.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::layer::apply::components;
use crate::layer::reader::{EntryKind, Reader};
use crate::layer::unpack::{Packing, decompress, sniff};
use crate::limits::Limits;
use crate::staging::Staging;
use crate::{Error, Result};

/// As many links as are followed from one name to a file.
const MAX_LINKS: usize = 8;

/// An archive on disk, and where in it each file lies.
pub(crate) struct Archive {
    path: PathBuf,
    files: HashMap<Vec<u8>, Place>,
    /// Holds the unpacked archive when the given one is compressed.
    _staging: Option<Staging>,
}

enum Place {
    File { offset: u64, size: u64 },
    Link(Vec<u8>),
}

impl Archive {
    /// Indexes an archive. One that is compressed as a whole (`docker save | gzip`) is unpacked under `scratch` first.
    pub(crate) fn open(path: &Path, scratch: &Path, limits: &Limits) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io(path.display(), error))?;
        let mut buffered = BufReader::new(file);
        if sniff(&mut buffered)? == Packing::None {
            return Self::index(path.to_owned(), None, limits);
        }
        let staging = Staging::under(scratch)?;
        let plain = staging.path().join("archive.tar");
        let mut out = File::create(&plain).map_err(|error| Error::io(plain.display(), error))?;
        let most = limits.unpacked.get();
        let copied = std::io::copy(&mut decompress(&mut buffered)?.take(most + 1), &mut out)
            .map_err(|error| Error::read(path.display(), error))?;
        if copied > most {
            return Err(Error::limit("bytes of an archive", limits.unpacked));
        }
        Self::index(plain, Some(staging), limits)
    }

    fn index(path: PathBuf, staging: Option<Staging>, limits: &Limits) -> Result<Self> {
        let file = File::open(&path).map_err(|error| Error::io(path.display(), error))?;
        let position = Rc::new(Cell::new(0));
        let counting = Counting { source: BufReader::with_capacity(256 << 10, file), position: position.clone() };
        let mut reader = Reader::new(counting, *limits);
        let mut files = HashMap::new();
        while let Some(entry) = reader.next(&mut ())? {
            let name = components(&entry.path)?.join(&b'/');
            match entry.kind {
                EntryKind::File if entry.sparse.is_none() => {
                    files.insert(name, Place::File { offset: position.get(), size: entry.size });
                }
                EntryKind::HardLink(target) => {
                    files.insert(name, Place::Link(components(&target)?.join(&b'/')));
                }
                EntryKind::Symlink(target) => {
                    let target = within(&name, &target);
                    files.insert(name, Place::Link(target));
                }
                _ => {}
            }
        }
        Ok(Self { path, files, _staging: staging })
    }

    /// A file of the archive and its size.
    pub(crate) fn file(&self, name: &str) -> Result<(impl Read + use<>, u64)> {
        let missing = || Error::not_found(format!("{name} in {}", self.path.display()), "the archive is incomplete");
        let mut at = name.as_bytes().to_vec();
        for _ in 0..MAX_LINKS {
            match self.files.get(&at).ok_or_else(missing)? {
                Place::Link(target) => at = target.clone(),
                Place::File { offset, size } => {
                    let mut file = File::open(&self.path).map_err(|error| Error::io(self.path.display(), error))?;
                    file.seek(SeekFrom::Start(*offset)).map_err(|error| Error::io(self.path.display(), error))?;
                    return Ok((file.take(*size), *size));
                }
            }
        }
        Err(Error::malformed("archive", format!("the links of {name} go in a circle")))
    }

    /// A small file of the archive.
    pub(crate) fn small(&self, name: &str, limits: &Limits) -> Result<Vec<u8>> {
        let (content, size) = self.file(name)?;
        if size > limits.document.get() {
            return Err(Error::limit("bytes of an image's document", limits.document));
        }
        let mut bytes = Vec::new();
        { content }.read_to_end(&mut bytes).map_err(|error| Error::read(self.path.display(), error))?;
        Ok(bytes)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Where a symbolic link inside the archive leads: beside itself, `..` never beyond the archive.
fn within(name: &[u8], target: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> =
        if target.starts_with(b"/") { Vec::new() } else { name.split(|b| *b == b'/').collect() };
    parts.pop();
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// Knows how far it was read.
struct Counting<R> {
    source: R,
    position: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.position.set(self.position.get() + count as u64);
        Ok(count)
    }
}
