//! What names are asked for: to find, make, move and remove what is in a directory.

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chmodat, chownat, linkat, mkdirat, mknodat, readlinkat, renameat,
    symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::content::{Opened, Reading};
use super::node::Node;
use super::wire::{Reader, Writer};
use super::{Done, Handle, NOBODY, Server};

/// Names that one request walks at most.
const MOST_NAMES: u16 = 16;
/// "Remove a directory", as Linux has it.
const REMOVE_DIRECTORY: u32 = 0x200;

impl Server {
    pub(super) fn walk(&mut self, request: &mut Reader<'_>, reply: &mut Writer) -> Done {
        let (from, to, count) = (request.u32()?, request.u32()?, request.u16()?);
        if count > MOST_NAMES {
            return Err(Errno::INVAL);
        }
        let handle = self.handle(from)?;
        // Nobody walks on from what he has open, but he may have another handle of it: a file that has lost its name is
        // found by no other way, and a guest that maps one to write to it opens it once more.
        if handle.opened.is_some() && (count > 0 || from == to) {
            return Err(Errno::BADF);
        }
        let user = handle.user;
        let mut node = handle.node.another()?;
        let mut found = Vec::new();
        for number in 0..count {
            let next = request.component().and_then(|name| node.child(name));
            match next.and_then(|next| Ok((next.stat()?, next))) {
                Ok((stat, next)) => {
                    found.push(self.identities.of(&stat));
                    node = next;
                }
                Err(errno) if number == 0 => return Err(errno),
                // As far as it goes; there is no new handle then.
                Err(_) => break,
            }
        }
        if found.len() == usize::from(count) {
            if from == to {
                self.handles.remove(&from);
            }
            self.keep(to, Handle { node, opened: None, user })?;
        }
        reply.u16(found.len() as u16);
        found.iter().for_each(|identity| reply.identity(identity));
        Ok(())
    }

    pub(super) fn create(&mut self, request: &mut Reader<'_>, reply: &mut Writer) -> Done {
        self.may_write()?;
        let (number, name) = (request.u32()?, request.component()?);
        let (flags, mode, group) = (request.u32()?, request.u32()?, request.u32()?);
        let directory = self.handle(number)?;
        let wanted = Reading::flags(flags);
        let fresh = wanted | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let (node, file) = match directory.node.open_child(name, fresh, Mode::from_raw_mode(mode & 0o7777)) {
            Ok(file) => {
                let node = directory.node.child(name)?;
                adopt(&node, directory.user, group, Some(mode))?;
                (node, file)
            }
            // It was made in between, which only matters to who wants to be the first.
            Err(Errno::EXIST) if flags & OFlags::EXCL.bits() == 0 => {
                let node = directory.node.child(name)?;
                let file = node.open(wanted)?;
                (node, file)
            }
            Err(errno) => return Err(errno),
        };
        reply.identity(&self.identities.of(&node.stat()?));
        reply.u32(0);
        let user = directory.user;
        self.handles.insert(number, Handle { node, opened: Some(Opened::File(file)), user });
        Ok(())
    }

    /// Says what was made, which is its maker's from now on.
    fn made(&self, number: u32, name: &[u8], owner: (u32, Option<u32>), reply: &mut Writer) -> Done {
        let directory = self.handle(number)?;
        let node = directory.node.child(name)?;
        adopt(&node, directory.user, owner.0, owner.1)?;
        reply.identity(&self.identities.of(&node.stat()?));
        Ok(())
    }

    pub(super) fn mkdir(&mut self, request: &mut Reader<'_>, reply: &mut Writer) -> Done {
        self.may_write()?;
        let (number, name, mode, group) = (request.u32()?, request.component()?, request.u32()?, request.u32()?);
        mkdirat(&self.handle(number)?.node, name, Mode::from_raw_mode(mode & 0o7777))?;
        self.made(number, name, (group, Some(mode)), reply)
    }

    pub(super) fn symlink(&mut self, request: &mut Reader<'_>, reply: &mut Writer) -> Done {
        self.may_write()?;
        let (number, name, target, group) = (request.u32()?, request.component()?, request.name()?, request.u32()?);
        symlinkat(target, &self.handle(number)?.node, name)?;
        self.made(number, name, (group, None), reply)
    }

    /// Pipes, sockets and files. A device that a guest has made would be one of the host's.
    pub(super) fn mknod(&mut self, request: &mut Reader<'_>, reply: &mut Writer) -> Done {
        self.may_write()?;
        let (number, name, mode) = (request.u32()?, request.component()?, request.u32()?);
        let (_, _, group) = (request.u32()?, request.u32()?, request.u32()?);
        let file_type = FileType::from_raw_mode(mode);
        if !matches!(file_type, FileType::RegularFile | FileType::Fifo | FileType::Socket) {
            return Err(Errno::PERM);
        }
        mknodat(&self.handle(number)?.node, name, file_type, Mode::from_raw_mode(mode & 0o7777), 0)?;
        self.made(number, name, (group, Some(mode)), reply)
    }

    pub(super) fn link(&mut self, request: &mut Reader<'_>) -> Done {
        self.may_write()?;
        let (directory, number, name) = (request.u32()?, request.u32()?, request.component()?);
        let (directory, it) = (self.handle(directory)?, self.handle(number)?);
        linkat(CWD, it.node.link(), &directory.node, name, AtFlags::SYMLINK_FOLLOW)
    }

    pub(super) fn readlink(&mut self, request: &mut Reader<'_>, reply: &mut Writer) -> Done {
        let target = readlinkat(&self.handle(request.u32()?)?.node, "", Vec::new())?;
        reply.name(target.as_bytes());
        Ok(())
    }

    pub(super) fn rename(&mut self, request: &mut Reader<'_>) -> Done {
        self.may_write()?;
        let (from, old) = (request.u32()?, request.component()?);
        let (to, new) = (request.u32()?, request.component()?);
        renameat(&self.handle(from)?.node, old, &self.handle(to)?.node, new)
    }

    pub(super) fn unlink(&mut self, request: &mut Reader<'_>) -> Done {
        self.may_write()?;
        let (number, name, flags) = (request.u32()?, request.component()?, request.u32()?);
        let flags = if flags & REMOVE_DIRECTORY != 0 { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        unlinkat(&self.handle(number)?.node, name, flags)
    }
}

/// Gives what was made to its maker, where the host lets us, and has it the mode that was asked for, whatever our mask is.
fn adopt(node: &Node, user: u32, group: u32, mode: Option<u32>) -> Done {
    let owner = (user != NOBODY).then(|| Uid::from_raw(user));
    let group = (group != NOBODY).then(|| Gid::from_raw(group));
    match chownat(node, "", owner, group, AtFlags::EMPTY_PATH) {
        Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
        Err(errno) => return Err(errno),
    }
    match mode {
        Some(mode) => chmodat(CWD, node.link(), Mode::from_raw_mode(mode & 0o7777), AtFlags::empty()),
        None => Ok(()),
    }
}
