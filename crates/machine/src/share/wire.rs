//! Messages as bytes: little-endian numbers, and names behind their lengths.

use rustix::io::Errno;

use super::Done;

/// Kinds of requests; a reply's is one more.
pub(super) mod kind {
    pub(in crate::share) const ERROR: u8 = 7;
    pub(in crate::share) const STATFS: u8 = 8;
    pub(in crate::share) const LOPEN: u8 = 12;
    pub(in crate::share) const LCREATE: u8 = 14;
    pub(in crate::share) const SYMLINK: u8 = 16;
    pub(in crate::share) const MKNOD: u8 = 18;
    pub(in crate::share) const READLINK: u8 = 22;
    pub(in crate::share) const GETATTR: u8 = 24;
    pub(in crate::share) const SETATTR: u8 = 26;
    pub(in crate::share) const XATTRWALK: u8 = 30;
    pub(in crate::share) const XATTRCREATE: u8 = 32;
    pub(in crate::share) const READDIR: u8 = 40;
    pub(in crate::share) const FSYNC: u8 = 50;
    pub(in crate::share) const LOCK: u8 = 52;
    pub(in crate::share) const GETLOCK: u8 = 54;
    pub(in crate::share) const LINK: u8 = 70;
    pub(in crate::share) const MKDIR: u8 = 72;
    pub(in crate::share) const RENAMEAT: u8 = 74;
    pub(in crate::share) const UNLINKAT: u8 = 76;
    pub(in crate::share) const VERSION: u8 = 100;
    pub(in crate::share) const ATTACH: u8 = 104;
    pub(in crate::share) const FLUSH: u8 = 108;
    pub(in crate::share) const WALK: u8 = 110;
    pub(in crate::share) const READ: u8 = 116;
    pub(in crate::share) const WRITE: u8 = 118;
    pub(in crate::share) const CLUNK: u8 = 120;
    pub(in crate::share) const REMOVE: u8 = 122;
}

/// Bytes of what says which file something is.
pub(super) const IDENTITY: usize = 13;

/// Which file something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) kind: u8,
    pub(super) version: u32,
    pub(super) path: u64,
}

/// A request's content.
pub(super) struct Reader<'m> {
    left: &'m [u8],
}

impl<'m> Reader<'m> {
    pub(super) fn new(message: &'m [u8]) -> Reader<'m> {
        Reader { left: message }
    }

    /// So many bytes.
    pub(super) fn bytes(&mut self, count: usize) -> Done<&'m [u8]> {
        let (bytes, left) = self.left.split_at_checked(count).ok_or(Errno::PROTO)?;
        self.left = left;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Done<[u8; N]> {
        let (bytes, left) = self.left.split_first_chunk::<N>().ok_or(Errno::PROTO)?;
        self.left = left;
        Ok(*bytes)
    }

    pub(super) fn u8(&mut self) -> Done<u8> {
        self.array::<1>().map(|it| it[0])
    }

    pub(super) fn u16(&mut self) -> Done<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Done<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Done<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A name of whatever bytes.
    pub(super) fn name(&mut self) -> Done<&'m [u8]> {
        let size = self.u16()?;
        self.bytes(size.into())
    }

    /// The name of something in a directory: one component.
    pub(super) fn component(&mut self) -> Done<&'m [u8]> {
        let name = self.name()?;
        let is_one = !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0);
        if is_one { Ok(name) } else { Err(Errno::INVAL) }
    }
}

/// A reply.
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn new(kind: u8, tag: u16) -> Writer {
        let mut bytes = vec![0, 0, 0, 0, kind];
        bytes.extend(tag.to_le_bytes());
        Writer { bytes }
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.bytes.extend(value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes.extend(value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes.extend(value.to_le_bytes());
    }

    pub(super) fn name(&mut self, name: &[u8]) {
        let name = &name[..name.len().min(u16::MAX.into())];
        self.u16(name.len() as u16);
        self.bytes.extend(name);
    }

    pub(super) fn identity(&mut self, identity: &Identity) {
        self.u8(identity.kind);
        self.u32(identity.version);
        self.u64(identity.path);
    }

    /// A number, and so many bytes: `fill` is given room for `most` and says how many there are.
    pub(super) fn counted(&mut self, most: usize, fill: impl FnOnce(&mut [u8]) -> Done<usize>) -> Done {
        self.u32(0);
        let at = self.bytes.len();
        self.bytes.resize(at + most, 0);
        let count = fill(&mut self.bytes[at..])?.min(most);
        self.bytes.truncate(at + count);
        self.bytes[at - 4..at].copy_from_slice(&(count as u32).to_le_bytes());
        Ok(())
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let size = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&size.to_le_bytes());
        self.bytes
    }
}
