//! What is known of files: owners, modes, times, sizes, and extended attributes.

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid, chmodat, chownat, fstatfs,
    ftruncate, getxattr, listxattr, utimensat,
};
use rustix::io::Errno;

use super::content::{MOST_ATTRIBUTE, Opened, Setting};
use super::wire::{Reader, Writer};
use super::{Done, Handle, Server};

/// All that every file system knows.
const BASIC: u64 = 0x7ff;

/// Which attributes are set.
mod set {
    pub(super) const MODE: u32 = 1;
    pub(super) const USER: u32 = 1 << 1;
    pub(super) const GROUP: u32 = 1 << 2;
    pub(super) const SIZE: u32 = 1 << 3;
    pub(super) const ACCESSED: u32 = 1 << 4;
    pub(super) const MODIFIED: u32 = 1 << 5;
    pub(super) const ACCESSED_AT: u32 = 1 << 7;
    pub(super) const MODIFIED_AT: u32 = 1 << 8;
}

impl Server {
    pub(super) fn statfs(&mut self, request: &mut Reader<'_>, reply: &mut Writer) -> Done {
        let stat = fstatfs(&self.handle(request.u32()?)?.node)?;
        // The file system's magic number.
        reply.u32(0x0102_1997);
        reply.u32(stat.f_bsize as u32);
        reply.u64(stat.f_blocks);
        reply.u64(stat.f_bfree);
        reply.u64(stat.f_bavail);
        reply.u64(stat.f_files);
        reply.u64(stat.f_ffree);
        reply.u64(0);
        reply.u32(stat.f_namelen as u32);
        Ok(())
    }

    pub(super) fn getattr(&mut self, request: &mut Reader<'_>, reply: &mut Writer) -> Done {
        let stat = self.handle(request.u32()?)?.node.stat()?;
        reply.u64(BASIC);
        reply.identity(&self.identities.of(&stat));
        reply.u32(stat.st_mode);
        reply.u32(stat.st_uid);
        reply.u32(stat.st_gid);
        reply.u64(stat.st_nlink);
        reply.u64(stat.st_rdev);
        reply.u64(stat.st_size as u64);
        reply.u64(stat.st_blksize as u64);
        reply.u64(stat.st_blocks as u64);
        let times = [
            (stat.st_atime as u64, stat.st_atime_nsec),
            (stat.st_mtime as u64, stat.st_mtime_nsec),
            (stat.st_ctime as u64, stat.st_ctime_nsec),
            // When it was made, its generation and its version: not known.
            (0, 0),
            (0, 0),
        ];
        for (seconds, nanoseconds) in times {
            reply.u64(seconds);
            reply.u64(nanoseconds);
        }
        Ok(())
    }

    pub(super) fn setattr(&mut self, request: &mut Reader<'_>) -> Done {
        self.may_write()?;
        let (number, valid, mode) = (request.u32()?, request.u32()?, request.u32()?);
        let (user, group, size) = (request.u32()?, request.u32()?, request.u64()?);
        let accessed = (request.u64()?, request.u64()?);
        let modified = (request.u64()?, request.u64()?);
        let handle = self.handle(number)?;
        // A new owner takes away what runs as the old one: the mode comes behind it.
        if valid & (set::USER | set::GROUP) != 0 {
            let user = (valid & set::USER != 0).then(|| Uid::from_raw(user));
            let group = (valid & set::GROUP != 0).then(|| Gid::from_raw(group));
            chownat(&handle.node, "", user, group, AtFlags::EMPTY_PATH)?;
        }
        if valid & set::MODE != 0 {
            chmodat(CWD, handle.node.link(), Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())?;
        }
        if valid & set::SIZE != 0 {
            resize(handle, size)?;
        }
        if valid & (set::ACCESSED | set::MODIFIED) != 0 {
            let times = Timestamps {
                last_access: time(valid, set::ACCESSED, set::ACCESSED_AT, accessed),
                last_modification: time(valid, set::MODIFIED, set::MODIFIED_AT, modified),
            };
            utimensat(&handle.node, "", &times, AtFlags::EMPTY_PATH)?;
        }
        Ok(())
    }

    /// An extended attribute, or the names of all, to be read by a handle of its own.
    pub(super) fn xattrwalk(&mut self, request: &mut Reader<'_>, reply: &mut Writer) -> Done {
        let (from, to, name) = (request.u32()?, request.u32()?, request.name()?);
        let handle = self.handle(from)?;
        let mut value = vec![0; MOST_ATTRIBUTE as usize];
        let value = if name.is_empty() {
            let size = listxattr(handle.node.link(), &mut value[..])?;
            let names = value[..size].split_inclusive(|byte| *byte == 0);
            names.filter(|name| is_for_guests(name)).flatten().copied().collect()
        } else if is_for_guests(name) {
            let size = getxattr(handle.node.link(), name, &mut value[..])?;
            value.truncate(size);
            value
        } else {
            return Err(Errno::NODATA);
        };
        let size = value.len() as u64;
        reply.u64(size);
        let (node, user) = (handle.node.another()?, handle.user);
        self.keep_bytes(size)?;
        let kept = self.keep(to, Handle { node, opened: Some(Opened::Attribute(value)), user });
        if kept.is_err() {
            self.kept -= size;
        }
        kept
    }

    pub(super) fn xattrcreate(&mut self, request: &mut Reader<'_>) -> Done {
        self.may_write()?;
        let (number, name) = (request.u32()?, request.name()?);
        let (size, flags) = (request.u64()?, request.u32()?);
        if !is_for_guests(name) {
            return Err(Errno::OPNOTSUPP);
        }
        if size > MOST_ATTRIBUTE {
            return Err(Errno::NOSPC);
        }
        if self.handle(number)?.opened.is_some() {
            return Err(Errno::BUSY);
        }
        self.keep_bytes(size)?;
        let setting = Setting { name: name.to_vec(), size, flags, value: Vec::new() };
        let handle = self.handles.get_mut(&number).ok_or(Errno::BADF)?;
        handle.opened = Some(Opened::Setting(setting));
        Ok(())
    }
}

/// Attributes that mean the same here and there. Those that file systems of the host act upon are not a guest's.
fn is_for_guests(name: &[u8]) -> bool {
    [&b"user."[..], b"security.capability", b"system.posix_acl_"].iter().any(|it| name.starts_with(it))
}

fn resize(handle: &Handle, size: u64) -> Done {
    match &handle.opened {
        Some(Opened::File(file)) if ftruncate(file, size).is_ok() => Ok(()),
        _ => ftruncate(handle.node.open(OFlags::WRONLY)?, size),
    }
}

fn time(valid: u32, is_set: u32, has_value: u32, value: (u64, u64)) -> Timespec {
    let special = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    if valid & is_set == 0 {
        special(UTIME_OMIT)
    } else if valid & has_value == 0 {
        special(UTIME_NOW)
    } else {
        // What is no number of nanoseconds must not become one of the special ones.
        Timespec { tv_sec: value.0 as i64, tv_nsec: value.1.min(999_999_999) as i64 }
    }
}
