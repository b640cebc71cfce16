//! What one inode of a tree is.

use std::collections::BTreeMap;

use crate::object::Content;

/// The longest name of a file.
pub const MAX_NAME: usize = 255;
/// The longest target of a symbolic link.
pub const MAX_TARGET: usize = 4095;
/// The longest value of an extended attribute.
pub const MAX_XATTR: usize = 65535;

/// An inode without its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Owner, permissions, time, attributes.
    pub meta: Metadata,
    /// Which kind of file, and what is in it.
    pub kind: Kind,
}

/// The kinds of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory; what is in it is told by the tree.
    Directory,
    /// A regular file.
    File(Content),
    /// A symbolic link and what it says.
    Symlink(Box<[u8]>),
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// A socket that was bound there.
    Socket,
}

/// A device's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Which driver: 12 bits.
    pub major: u32,
    /// Which of its devices: 20 bits.
    pub minor: u32,
}

/// A time of change. Any second that a signed 64-bit number can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mtime {
    /// Seconds since the epoch.
    pub seconds: i64,
    /// Nanoseconds of that second, below 1 000 000 000.
    pub nanos: u32,
}

/// Owner, permissions, time, attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The twelve permission bits, set-user-id to other-execute.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When the content changed last.
    pub mtime: Mtime,
    /// Extended attributes by full name (`user.x`, `security.capability`).
    pub xattrs: BTreeMap<Box<[u8]>, Box<[u8]>>,
}

impl Metadata {
    /// Root's, with that mode, unchanged since the epoch, without attributes.
    pub fn new(mode: u16) -> Self {
        Self { mode: mode & 0o7777, uid: 0, gid: 0, mtime: Mtime::default(), xattrs: BTreeMap::new() }
    }
}

impl Node {
    /// A directory.
    pub fn directory(meta: Metadata) -> Self {
        Self { meta, kind: Kind::Directory }
    }

    /// A regular file.
    pub fn file(meta: Metadata, content: Content) -> Self {
        Self { meta, kind: Kind::File(content) }
    }

    /// A symbolic link.
    pub fn symlink(meta: Metadata, target: impl Into<Box<[u8]>>) -> Self {
        Self { meta, kind: Kind::Symlink(target.into()) }
    }

    /// Whether a file system can hold it.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let Metadata { mode, mtime, xattrs, .. } = &self.meta;
        if *mode > 0o7777 {
            return Err("its mode has more than the twelve permission bits");
        }
        if mtime.nanos >= 1_000_000_000 {
            return Err("its time has more than a second of nanoseconds");
        }
        for (name, value) in xattrs {
            if name.is_empty() || name.len() > MAX_NAME || name.contains(&0) || !name.contains(&b'.') {
                return Err("an extended attribute has an impossible name");
            }
            if value.len() > MAX_XATTR {
                return Err("an extended attribute is longer than 65535 bytes");
            }
        }
        match &self.kind {
            Kind::Symlink(target) if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) => {
                Err("a symbolic link has an impossible target")
            }
            Kind::File(content) if content.size > i64::MAX as u64 => Err("a file is longer than a file can be"),
            Kind::CharDevice(device) | Kind::BlockDevice(device)
                if device.major >= 1 << 12 || device.minor >= 1 << 20 =>
            {
                Err("a device has an impossible number")
            }
            _ => Ok(()),
        }
    }
}

/// Whether a directory can hold that name.
pub(super) fn check_name(name: &[u8]) -> Result<(), &'static str> {
    if name.is_empty() || name == b"." || name == b".." {
        return Err("a path in a tree has no '.' or '..'");
    }
    if name.len() > MAX_NAME {
        return Err("a name is longer than 255 bytes");
    }
    if name.contains(&0) || name.contains(&b'/') {
        return Err("a name holds a NUL or a slash");
    }
    Ok(())
}
