//! Reads a tar as a stream of entries, as ustar, GNU and PAX write them.
//!
//! **Input is hostile.** Every size is checked before it is believed, nothing is allocated for a size that a header
//! claims, and names come out as bytes for [`super::apply`] to judge. Bytes that are no file content go to a [`Tap`], so
//! that the tar can be put together again bit for bit.

use std::io::Read;

use super::header::{BLOCK, GID, Header, MAJOR, MINOR, MODE, MTIME, SIZE, UID, until_zero};
use super::pax::Pax;
use super::sparse::{Segment, SparseMap};
use crate::limits::Limits;
use crate::{Error, Result};

/// Receives the bytes of a tar that are no file content: headers, padding, what follows the end.
pub(crate) trait Tap {
    /// So many further bytes of the tar.
    fn literal(&mut self, bytes: &[u8]) -> Result<()>;
}

/// For a tar that nobody will put together again.
impl Tap for () {
    fn literal(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    HardLink(Vec<u8>),
    Symlink(Vec<u8>),
    Directory,
    Fifo,
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
}

/// One entry, its names as they stand in the tar.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: EntryKind,
    /// Permission bits with set-user, set-group and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Size of the file, holes included.
    pub(crate) size: u64,
    /// Where its content lies, when it has holes.
    pub(crate) sparse: Option<SparseMap>,
    /// Bytes of content that follow in the tar.
    pub(crate) stored: u64,
}

/// Reads entries one after the other.
pub(crate) struct Reader<R> {
    source: R,
    limits: Limits,
    /// Content of the current entry not read yet.
    left: u64,
    /// Padding after it.
    padding: usize,
    global: Pax,
    entries: u64,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(source: R, limits: Limits) -> Self {
        Self { source, limits, left: 0, padding: 0, global: Pax::default(), entries: 0 }
    }

    /// The next entry, or nothing at the end of the tar. Content of the entry before that was not read is skipped, and the
    /// tap sees it.
    pub(crate) fn next(&mut self, tap: &mut impl Tap) -> Result<Option<Entry>> {
        self.skip_rest(tap)?;
        let mut pax = self.global.clone();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let Some(header) = self.header(tap)? else { return Ok(None) };
            match header.kind() {
                b'x' | b'X' => pax.read(&self.metadata(&header, tap)?)?,
                b'g' => {
                    let records = self.metadata(&header, tap)?;
                    self.global.read(&records)?;
                    pax.read(&records)?;
                }
                b'L' => long_name = Some(until_zero(&self.metadata(&header, tap)?).to_vec()),
                b'K' => long_link = Some(until_zero(&self.metadata(&header, tap)?).to_vec()),
                _ => {
                    pax.path = pax.path.or(long_name);
                    pax.link = pax.link.or(long_link);
                    return self.entry(&header, pax, tap).map(Some);
                }
            }
        }
    }

    /// Reads from the content of the current entry.
    pub(crate) fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let Some(room) = buffer.get_mut(..most).filter(|room| !room.is_empty()) else { return Ok(0) };
        let count = read_some(&mut self.source, room)?;
        if count == 0 {
            return Err(Error::malformed("tar", "it ends in the middle of a file"));
        }
        self.left -= count as u64;
        Ok(count)
    }

    /// Reads what follows the end, which belongs to the tar's digest though it means nothing.
    pub(crate) fn finish(mut self, tap: &mut impl Tap) -> Result<()> {
        let mut buffer = [0; 16 * BLOCK];
        let mut total = 0u64;
        loop {
            let count = read_some(&mut self.source, &mut buffer)?;
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
            total += count as u64;
            if total > self.limits.trailing.get() {
                return Err(Error::limit("bytes after the end of a tar", self.limits.trailing));
            }
            tap.literal(bytes)?;
        }
    }

    /// Passes over what is left of the current entry, and its padding.
    pub(crate) fn skip_rest(&mut self, tap: &mut impl Tap) -> Result<()> {
        let mut buffer = [0; 16 * BLOCK];
        while self.left > 0 {
            let count = self.read_content(&mut buffer)?;
            tap.literal(buffer.get(..count).unwrap_or(&[]))?;
        }
        let padding = std::mem::take(&mut self.padding);
        let mut rest = [0; BLOCK];
        if let Some(rest) = rest.get_mut(..padding) {
            // A tar cut off inside the last padding still holds every file.
            let count = read_full(&mut self.source, rest)?;
            tap.literal(rest.get(..count).unwrap_or(&[]))?;
        }
        Ok(())
    }

    fn header(&mut self, tap: &mut impl Tap) -> Result<Option<Header>> {
        let mut header = Header([0; BLOCK]);
        match read_full(&mut self.source, &mut header.0)? {
            0 => return Ok(None),
            BLOCK => tap.literal(&header.0)?,
            _ => return Err(Error::malformed("tar", "it ends in the middle of a header")),
        }
        if header.is_zero() {
            return Ok(None);
        }
        header.verify()?;
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(Error::limit("entries of a layer", self.limits.entries));
        }
        Ok(Some(header))
    }

    /// The content of an entry that describes the next one.
    fn metadata(&mut self, header: &Header, tap: &mut impl Tap) -> Result<Vec<u8>> {
        let size = header.number(SIZE, "size")?;
        if size > self.limits.entry_metadata.get() {
            return Err(Error::limit("metadata of one tar entry", self.limits.entry_metadata));
        }
        self.expect_content(size);
        let mut bytes = Vec::new();
        let mut buffer = [0; 16 * BLOCK];
        while self.left > 0 {
            let count = self.read_content(&mut buffer)?;
            bytes.extend_from_slice(buffer.get(..count).unwrap_or(&[]));
        }
        tap.literal(&bytes)?;
        self.skip_rest(tap)?;
        Ok(bytes)
    }

    fn expect_content(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK - (size % BLOCK as u64) as usize) % BLOCK;
    }

    fn entry(&mut self, header: &Header, mut pax: Pax, tap: &mut impl Tap) -> Result<Entry> {
        let path = pax.sparse.name.take().or(pax.path.take()).unwrap_or_else(|| header.path());
        let link = pax.link.take().unwrap_or_else(|| header.link());
        let longest = self.limits.path;
        if path.len() > longest || link.len() > longest {
            return Err(Error::limit("bytes of a path", longest as u64));
        }
        let device = |field, what| -> Result<u32> {
            u32::try_from(header.number(field, what)?)
                .map_err(|_| Error::malformed("tar", "a device number is too large"))
        };
        let kind = match header.kind() {
            b'1' => EntryKind::HardLink(link),
            b'2' => EntryKind::Symlink(link),
            b'3' => EntryKind::CharDevice { major: device(MAJOR, "major")?, minor: device(MINOR, "minor")? },
            b'4' => EntryKind::BlockDevice { major: device(MAJOR, "major")?, minor: device(MINOR, "minor")? },
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            // Before POSIX a directory was a file whose name ends in a slash.
            b'0' | 0 | b'7' | b'S' if path.ends_with(b"/") => EntryKind::Directory,
            b'0' | 0 | b'7' | b'S' => EntryKind::File,
            other => {
                let letter = char::from(other).escape_default();
                return Err(Error::malformed("tar", format!("an entry of the unknown kind '{letter}'")));
            }
        };
        let stored = match pax.size {
            Some(size) => size,
            None => header.number(SIZE, "size")?,
        };
        // Links and devices have no content whatever size they claim; a hard link in PAX may have.
        let bodyless = !matches!(kind, EntryKind::File | EntryKind::Directory);
        let stored = if bodyless { 0 } else { stored };
        if stored > self.limits.unpacked.get() {
            return Err(Error::limit("size of a file", self.limits.unpacked));
        }
        let owner = |told: Option<u64>, field, what| -> Result<u32> {
            let id = told.map_or_else(|| header.number(field, what), Ok)?;
            u32::try_from(id).map_err(|_| Error::malformed("tar", format!("its {what} does not fit in 32 bits")))
        };
        let mut entry = Entry {
            path,
            kind,
            mode: (header.number(MODE, "mode")? & 0o7777) as u32,
            uid: owner(pax.uid, UID, "user id")?,
            gid: owner(pax.gid, GID, "group id")?,
            mtime: pax.mtime.map_or_else(|| header.signed(MTIME, "time").map(|s| (s, 0)), Ok)?,
            xattrs: std::mem::take(&mut pax.xattrs),
            size: stored,
            sparse: None,
            stored,
        };
        self.expect_content(stored);
        if entry.kind == EntryKind::File {
            self.read_sparse(header, &pax, &mut entry, tap)?;
        }
        Ok(entry)
    }

    /// Recognises the four ways to write a file with holes.
    fn read_sparse(&mut self, header: &Header, pax: &Pax, entry: &mut Entry, tap: &mut impl Tap) -> Result<()> {
        let keys = &pax.sparse;
        let (map, size) = if header.kind() == b'S' {
            self.old_gnu_map(header, tap)?
        } else if keys.major == Some(1) && keys.minor == Some(0) {
            (self.map_in_content(tap)?, keys.size.unwrap_or(entry.stored))
        } else if let Some(size) = keys.size.filter(|_| !keys.map.is_empty()) {
            (pairs(&keys.map)?, size)
        } else {
            return Ok(());
        };
        if size > self.limits.unpacked.get() {
            return Err(Error::limit("size of a sparse file", self.limits.unpacked));
        }
        entry.sparse = Some(SparseMap::new(map, size, self.left)?);
        entry.size = size;
        Ok(())
    }

    /// GNU's old form: four segments in the header, further ones in blocks before the content.
    fn old_gnu_map(&mut self, header: &Header, tap: &mut impl Tap) -> Result<(Vec<Segment>, u64)> {
        let number = |bytes: &[u8]| super::header::number(bytes).and_then(|n| u64::try_from(n).ok());
        let wrong = || Error::malformed("tar", "a damaged map of holes");
        let mut map = Vec::new();
        let take = |area: &[u8], map: &mut Vec<Segment>| -> Result<()> {
            for slot in area.chunks_exact(24) {
                let (offset, length) = slot.split_at(12);
                if until_zero(offset).is_empty() && until_zero(length).is_empty() {
                    break;
                }
                map.push(Segment {
                    offset: number(offset).ok_or_else(wrong)?,
                    length: number(length).ok_or_else(wrong)?,
                });
            }
            Ok(())
        };
        take(&header.0[386..386 + 4 * 24], &mut map)?;
        let size = number(&header.0[483..495]).ok_or_else(wrong)?;
        let mut more = header.0[482] != 0;
        while more {
            if map.len() as u64 > self.limits.entries {
                return Err(Error::limit("segments of a sparse file", self.limits.entries));
            }
            let mut block = [0; BLOCK];
            if read_full(&mut self.source, &mut block)? != BLOCK {
                return Err(wrong());
            }
            tap.literal(&block)?;
            take(&block[..21 * 24], &mut map)?;
            more = block[504] != 0;
        }
        Ok((map, size))
    }

    /// PAX 1.0: the map stands at the beginning of the content, decimal numbers a line each, padded to a block.
    fn map_in_content(&mut self, tap: &mut impl Tap) -> Result<Vec<Segment>> {
        let wrong = || Error::malformed("tar", "a damaged map of holes");
        let mut numbers: Vec<u64> = Vec::new();
        let mut digits = Vec::new();
        loop {
            let mut block = [0; BLOCK];
            let mut filled = 0;
            while filled < BLOCK {
                match self.read_content(&mut block[filled..])? {
                    0 => return Err(wrong()),
                    count => filled += count,
                }
            }
            tap.literal(&block)?;
            for &byte in &block {
                match byte {
                    b'\n' => numbers.push(super::pax::decimal(&std::mem::take(&mut digits))?),
                    _ if digits.len() < 20 => digits.push(byte),
                    _ => return Err(wrong()),
                }
                if let Some((&count, rest)) = numbers.split_first() {
                    if count > self.limits.entries {
                        return Err(Error::limit("segments of a sparse file", self.limits.entries));
                    }
                    if rest.len() as u64 == count * 2 {
                        return pairs(rest);
                    }
                }
            }
        }
    }
}

fn pairs(numbers: &[u64]) -> Result<Vec<Segment>> {
    let (pairs, []) = numbers.as_chunks::<2>() else {
        return Err(Error::malformed("tar", "a map of holes with an odd number of values"));
    };
    Ok(pairs.iter().map(|&[offset, length]| Segment { offset, length }).collect())
}

fn read_some(source: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => return other.map_err(|error| Error::read("a tar", error)),
        }
    }
}

/// Reads until the buffer is full or the source ends; how much.
fn read_full(source: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
        match read_some(source, room)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}
