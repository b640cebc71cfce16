//! A directory of the host's as a file system of the guest's: the protocol 9P2000.L, as Linux' `v9fs` speaks it.
//!
//! A server answers messages and knows nothing of how they come. **Invariants: no guest's name leaves the directory**: every
//! name is one component, looked up in a directory that is held open, and no symbolic link is ever followed (the guest
//! follows them itself); **nothing but regular files and directories is ever opened**, since to open a device or a pipe of
//! the host's is to use it; **a request takes bounded work and memory**, whatever lengths it names.
//!
//! The guest's kernel decides who may do what, by the modes and owners that it is told; the host's decides what the server
//! may. What is created belongs to the guest's user where the host lets the server give files away.

mod attributes;
mod content;
mod names;
mod node;
mod saved;
mod wire;

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use self::content::Opened;
use self::node::{Identities, Node};
pub(crate) use self::node::{find_links_in, link_of};
use self::wire::{Reader, Writer, kind};
use crate::disk::Access;

/// A directory that a guest can mount.
pub struct Share {
    /// What the guest mounts it by.
    pub tag: String,
    /// The directory.
    pub directory: OwnedFd,
    /// Whether the guest may change what is in it.
    pub access: Access,
}

type Done<T = ()> = Result<T, Errno>;

/// Bytes of a message at most.
pub(crate) const MOST_BYTES: u32 = 512 << 10;
/// Bytes of a message beside what is read or written.
const OVERHEAD: u32 = 24;
/// Handles that a guest has at most. Each takes two descriptors.
const MOST_HANDLES: usize = 1 << 16;
/// Bytes of extended attributes that handles keep at most.
const MOST_KEPT: u64 = 16 << 20;
/// No user.
const NOBODY: u32 = u32::MAX;

/// A guest's handle of something in the directory.
struct Handle {
    node: Node,
    opened: Option<Opened>,
    /// Whose it is.
    user: u32,
}

/// What answers.
pub(crate) struct Server {
    root: Node,
    identities: Identities,
    access: Access,
    handles: HashMap<u32, Handle>,
    /// Handles of what was there when the guest was kept, and is not any more.
    lost: HashSet<u32>,
    /// Bytes of a message that was agreed on.
    most: u32,
    /// Bytes of extended attributes that handles keep.
    kept: u64,
}

impl Server {
    /// Serves a directory.
    pub(crate) fn new(directory: OwnedFd, access: Access) -> Done<Server> {
        let root = Node::of(directory)?;
        let identities = Identities::on(root.stat()?.st_dev);
        Ok(Server {
            root,
            identities,
            access,
            handles: HashMap::new(),
            lost: HashSet::new(),
            most: MOST_BYTES,
            kept: 0,
        })
    }

    /// Forgets what the guest has told it.
    pub(crate) fn reset(&mut self) {
        self.handles.clear();
        self.lost.clear();
        self.identities.reset();
        self.kept = 0;
        self.most = MOST_BYTES;
    }

    /// Answers a message. Nothing if it is none.
    pub(crate) fn answer(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        let mut request = Reader::new(message);
        let size = request.u32().ok()?;
        let (kind, tag) = (request.u8().ok()?, request.u16().ok()?);
        if size as usize != message.len() || size > MOST_BYTES {
            return None;
        }
        let mut reply = Writer::new(kind.wrapping_add(1), tag);
        if let Err(errno) = self.call(kind, &mut request, &mut reply) {
            reply = Writer::new(kind::ERROR, tag);
            reply.u32(errno.raw_os_error() as u32);
        }
        Some(reply.finish())
    }

    fn call(&mut self, kind: u8, request: &mut Reader<'_>, reply: &mut Writer) -> Done {
        match kind {
            kind::VERSION => self.version(request, reply),
            kind::ATTACH => self.attach(request, reply),
            // Nothing is ever on its way when the next message comes.
            kind::FLUSH => Ok(()),
            kind::CLUNK => self.clunk(request),
            kind::REMOVE => {
                let _ = self.clunk(request);
                Err(Errno::OPNOTSUPP)
            }
            kind::WALK => self.walk(request, reply),
            kind::STATFS => self.statfs(request, reply),
            kind::GETATTR => self.getattr(request, reply),
            kind::SETATTR => self.setattr(request),
            kind::XATTRWALK => self.xattrwalk(request, reply),
            kind::XATTRCREATE => self.xattrcreate(request),
            kind::LOPEN => self.open(request, reply),
            kind::LCREATE => self.create(request, reply),
            kind::READ => self.read(request, reply),
            kind::WRITE => self.write(request, reply),
            kind::READDIR => self.readdir(request, reply),
            kind::FSYNC => self.fsync(request),
            kind::LOCK => self.lock(request, reply),
            kind::GETLOCK => self.getlock(request, reply),
            kind::SYMLINK => self.symlink(request, reply),
            kind::MKNOD => self.mknod(request, reply),
            kind::MKDIR => self.mkdir(request, reply),
            kind::LINK => self.link(request),
            kind::READLINK => self.readlink(request, reply),
            kind::RENAMEAT => self.rename(request),
            kind::UNLINKAT => self.unlink(request),
            _ => Err(Errno::OPNOTSUPP),
        }
    }

    fn version(&mut self, request: &mut Reader<'_>, reply: &mut Writer) -> Done {
        let most = request.u32()?;
        let version = request.name()?;
        if most < 4096 {
            return Err(Errno::INVAL);
        }
        // A new session.
        self.reset();
        self.most = most.min(MOST_BYTES);
        reply.u32(self.most);
        reply.name(if version == b"9P2000.L" { b"9P2000.L" } else { b"unknown" });
        Ok(())
    }

    fn attach(&mut self, request: &mut Reader<'_>, reply: &mut Writer) -> Done {
        let (number, _) = (request.u32()?, request.u32()?);
        let (_, _) = (request.name()?, request.name()?);
        let user = request.u32()?;
        let node = self.root.another()?;
        reply.identity(&self.identities.of(&node.stat()?));
        self.keep(number, Handle { node, opened: None, user })
    }

    /// A new handle, of this number.
    fn keep(&mut self, number: u32, handle: Handle) -> Done {
        if self.handles.contains_key(&number) || self.lost.contains(&number) {
            return Err(Errno::BADF);
        }
        if self.handles.len() >= MOST_HANDLES {
            return Err(Errno::NFILE);
        }
        self.handles.insert(number, handle);
        Ok(())
    }

    /// The handle of this number.
    fn handle(&self, number: u32) -> Done<&Handle> {
        let absent = if self.lost.contains(&number) { Errno::STALE } else { Errno::BADF };
        self.handles.get(&number).ok_or(absent)
    }

    /// Whether the guest may change anything.
    fn may_write(&self) -> Done {
        match self.access {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => Err(Errno::ROFS),
        }
    }

    /// Has so many bytes of an extended attribute be kept.
    fn keep_bytes(&mut self, size: u64) -> Done {
        let kept = self.kept.checked_add(size).filter(|kept| *kept <= MOST_KEPT).ok_or(Errno::NOSPC)?;
        self.kept = kept;
        Ok(())
    }

    fn clunk(&mut self, request: &mut Reader<'_>) -> Done {
        let number = request.u32()?;
        if self.lost.remove(&number) {
            return Ok(());
        }
        let handle = self.handles.remove(&number).ok_or(Errno::BADF)?;
        match handle.opened {
            Some(Opened::Setting(setting)) => {
                self.kept -= setting.size;
                setting.finish(&handle.node)
            }
            Some(Opened::Attribute(value)) => {
                self.kept -= value.len() as u64;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
