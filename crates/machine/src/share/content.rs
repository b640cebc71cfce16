//! What is in files and directories.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags, RawDir, SeekFrom, XattrFlags, fdatasync, fsync, removexattr, seek, setxattr};
use rustix::io::{Errno, pread, pwrite};
use serde::{Deserialize, Serialize};

use super::node::{Node, kind_of};
use super::wire::{IDENTITY, Identity, Reader, Writer};
use super::{Done, Handle, OVERHEAD, Server};

/// Bytes of an extended attribute at most.
pub(super) const MOST_ATTRIBUTE: u64 = 64 << 10;
/// Bytes of entries that are read at once.
const ENTRIES: usize = 32 << 10;

/// What an open handle reads and writes.
pub(super) enum Opened {
    File(OwnedFd),
    Directory(OwnedFd),
    /// An extended attribute's value, or the list of their names.
    Attribute(Vec<u8>),
    /// An extended attribute that is being written.
    Setting(Setting),
}

/// An extended attribute's new value, as far as it was written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Setting {
    #[serde(with = "crate::saved::hex")]
    pub(super) name: Vec<u8>,
    pub(super) size: u64,
    pub(super) flags: u32,
    #[serde(with = "crate::saved::hex")]
    pub(super) value: Vec<u8>,
}

impl Setting {
    fn write(&mut self, at: u64, bytes: &[u8]) -> Done<u32> {
        if at != self.value.len() as u64 || at + bytes.len() as u64 > self.size {
            return Err(Errno::NOSPC);
        }
        self.value.extend(bytes);
        Ok(bytes.len() as u32)
    }

    /// All was written: now it is set. To replace something by nothing is to remove it.
    pub(super) fn finish(&self, node: &Node) -> Done {
        if self.value.len() as u64 != self.size {
            return Err(Errno::INVAL);
        }
        let flags = XattrFlags::from_bits_truncate(self.flags);
        if self.value.is_empty() && flags.contains(XattrFlags::REPLACE) {
            return removexattr(node.link(), &self.name[..]);
        }
        setxattr(node.link(), &self.name[..], &self.value, flags)
    }
}

/// How a guest opens a file.
pub(super) struct Reading;

impl Reading {
    /// Flags of Linux' that make sense for us. Where to append, the guest knows: what it writes back of its cache is not
    /// at the end.
    pub(super) fn flags(flags: u32) -> OFlags {
        let kept = OFlags::ACCMODE | OFlags::TRUNC | OFlags::DSYNC | OFlags::SYNC;
        OFlags::from_bits_retain(flags) & kept
    }
}

impl Server {
    pub(super) fn open(&mut self, request: &mut Reader<'_>, reply: &mut Writer) -> Done {
        let (number, flags) = (request.u32()?, Reading::flags(request.u32()?));
        if flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC) {
            self.may_write()?;
        }
        let handle = self.handles.get_mut(&number).ok_or(Errno::BADF)?;
        if handle.opened.is_some() {
            return Err(Errno::BUSY);
        }
        let stat = handle.node.stat()?;
        let file = handle.node.open(flags)?;
        handle.opened = Some(match super::node::file_type(&stat) {
            FileType::Directory => Opened::Directory(file),
            _ => Opened::File(file),
        });
        reply.identity(&self.identities.of(&handle.node.stat()?));
        // As much at once as fits a message.
        reply.u32(0);
        Ok(())
    }

    /// So many bytes fit a reply, or fewer.
    fn room(&self, count: u32) -> usize {
        count.min(self.most - OVERHEAD) as usize
    }

    pub(super) fn read(&mut self, request: &mut Reader<'_>, reply: &mut Writer) -> Done {
        let (number, at, count) = (request.u32()?, request.u64()?, request.u32()?);
        let most = self.room(count);
        match &self.handle(number)?.opened {
            Some(Opened::File(file)) => reply.counted(most, |into| pread(file, into, at)),
            Some(Opened::Attribute(value)) => {
                let rest = usize::try_from(at).ok().and_then(|at| value.get(at..)).unwrap_or(&[]);
                reply.counted(most.min(rest.len()), |into| {
                    into.copy_from_slice(&rest[..into.len()]);
                    Ok(into.len())
                })
            }
            Some(Opened::Directory(_)) => Err(Errno::ISDIR),
            _ => Err(Errno::BADF),
        }
    }

    pub(super) fn write(&mut self, request: &mut Reader<'_>, reply: &mut Writer) -> Done {
        self.may_write()?;
        let (number, at, count) = (request.u32()?, request.u64()?, request.u32()?);
        let bytes = request.bytes(count as usize)?;
        let handle = self.handles.get_mut(&number).ok_or(Errno::BADF)?;
        let written = match &mut handle.opened {
            Some(Opened::File(file)) => pwrite(file, bytes, at)? as u32,
            Some(Opened::Setting(setting)) => setting.write(at, bytes)?,
            _ => return Err(Errno::BADF),
        };
        reply.u32(written);
        Ok(())
    }

    pub(super) fn readdir(&mut self, request: &mut Reader<'_>, reply: &mut Writer) -> Done {
        let (number, at, count) = (request.u32()?, request.u64()?, request.u32()?);
        let most = self.room(count);
        let handle = self.handle(number)?;
        let Some(Opened::Directory(directory)) = &handle.opened else { return Err(Errno::NOTDIR) };
        seek(directory, SeekFrom::Start(at))?;
        let mut entries = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); ENTRIES];
        let mut directory = RawDir::new(directory, &mut buffer);
        while let Some(entry) = directory.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if entries.len() + IDENTITY + 8 + 1 + 2 + name.len() > most {
                break;
            }
            let (kind, own) = (kind_of(entry.file_type()), entry.file_type());
            let path = if name == b".." { self.parent(handle)? } else { entry.ino() };
            put(&mut entries, Identity { kind, version: 0, path }, entry.next_entry_cookie(), own, name);
        }
        reply.counted(entries.len(), |into| {
            into.copy_from_slice(&entries);
            Ok(into.len())
        })
    }

    /// What a directory says is above it: at the top, itself.
    fn parent(&self, handle: &Handle) -> Done<u64> {
        handle.node.stat().map(|stat| stat.st_ino)
    }

    pub(super) fn fsync(&mut self, request: &mut Reader<'_>) -> Done {
        let (number, is_data) = (request.u32()?, request.u32()? != 0);
        match &self.handle(number)?.opened {
            Some(Opened::File(file)) if is_data => fdatasync(file),
            Some(Opened::File(file) | Opened::Directory(file)) => fsync(file),
            _ => Err(Errno::BADF),
        }
    }

    /// The guest's own kernel keeps its programs from each other; the host's programs are not kept out.
    pub(super) fn lock(&mut self, request: &mut Reader<'_>, reply: &mut Writer) -> Done {
        self.handle(request.u32()?)?;
        reply.u8(0);
        Ok(())
    }

    pub(super) fn getlock(&mut self, request: &mut Reader<'_>, reply: &mut Writer) -> Done {
        self.handle(request.u32()?)?;
        let _ = request.u8()?;
        let (start, length, process) = (request.u64()?, request.u64()?, request.u32()?);
        // Nobody has it locked.
        reply.u8(2);
        reply.u64(start);
        reply.u64(length);
        reply.u32(process);
        reply.name(request.name()?);
        Ok(())
    }
}

fn put(entries: &mut Vec<u8>, identity: Identity, next: u64, file_type: FileType, name: &[u8]) {
    entries.push(identity.kind);
    entries.extend(identity.version.to_le_bytes());
    entries.extend(identity.path.to_le_bytes());
    entries.extend(next.to_le_bytes());
    entries.push((file_type.as_raw_mode() >> 12) as u8);
    entries.extend((name.len() as u16).to_le_bytes());
    entries.extend(name);
}
