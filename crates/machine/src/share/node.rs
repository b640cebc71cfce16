//! Something in the directory, by a descriptor that only says where it is (`O_PATH`).
//!
//! It stays what it is, whatever it is renamed to. What needs more than that is asked of `/proc/self/fd`, whose links lead
//! to the very thing and not to a name.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, open, openat2, readlinkat, statat, unlinkat,
};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::Done;
use super::wire::Identity;

/// Whether the process's working directory is that of its descriptors.
static LINKS_ARE_HERE: AtomicBool = AtomicBool::new(false);

/// Has this process find its descriptors' links in its working directory from now on, which is that directory of a `/proc`:
/// for one that lives where there is none.
pub(crate) fn find_links_in(descriptors: OwnedFd) -> Done {
    rustix::process::fchdir(descriptors)?;
    LINKS_ARE_HERE.store(true, Ordering::Relaxed);
    Ok(())
}

/// A descriptor's link in `/proc`.
pub(crate) fn link_of(descriptor: BorrowedFd<'_>) -> String {
    let links = if LINKS_ARE_HERE.load(Ordering::Relaxed) { "." } else { "/proc/self/fd" };
    format!("{links}/{}", descriptor.as_raw_fd())
}

const DIRECTORY: u8 = 0x80;
const LINK: u8 = 0x02;

/// A file, a directory, or whatever else.
pub(super) struct Node {
    place: OwnedFd,
}

impl Node {
    /// A directory.
    pub(super) fn of(descriptor: OwnedFd) -> Done<Node> {
        let node = Node { place: descriptor };
        match file_type(&node.stat()?) {
            FileType::Directory => Ok(node),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// The same again.
    pub(super) fn another(&self) -> Done<Node> {
        fcntl_dupfd_cloexec(&self.place, 0).map(|place| Node { place })
    }

    /// What is in it by this name.
    pub(super) fn child(&self, name: &[u8]) -> Done<Node> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.open_child(name, flags, Mode::empty()).map(|place| Node { place })
    }

    /// Opens or makes what is in it by this name, which is one component.
    pub(super) fn open_child(&self, name: &[u8], flags: OFlags, mode: Mode) -> Done<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        loop {
            match openat2(&self.place, name, flags | OFlags::CLOEXEC, mode, resolve) {
                // Something was renamed at the same time.
                Err(Errno::AGAIN) => {}
                done => return done,
            }
        }
    }

    /// Its link in `/proc`.
    pub(super) fn link(&self) -> String {
        link_of(self.place.as_fd())
    }

    pub(super) fn stat(&self) -> Done<Stat> {
        statat(&self.place, "", AtFlags::EMPTY_PATH)
    }

    /// Where it was found, from there on. Nothing if it is not there any more, by its own name.
    pub(super) fn path_below(&self, root: &Node) -> Option<Vec<u8>> {
        let text = |it: &Node| readlinkat(CWD, it.link(), Vec::new()).ok().map(|it| it.into_bytes());
        let (above, own) = (text(root)?, text(self)?);
        let below = own.strip_prefix(above.as_slice())?;
        let path = match below.strip_prefix(b"/") {
            Some(path) => path,
            None if below.is_empty() || above == b"/" => below,
            None => return None,
        };
        let (found, stat) = (root.at(path).ok()?.stat().ok()?, self.stat().ok()?);
        ((found.st_dev, found.st_ino) == (stat.st_dev, stat.st_ino)).then(|| path.to_vec())
    }

    /// What is below it at this path, of names alone.
    pub(super) fn at(&self, path: &[u8]) -> Done<Node> {
        if path.is_empty() { self.another() } else { self.child(path) }
    }

    /// A regular file that has no name.
    pub(super) fn nameless(&self, mode: u32) -> Done<(Node, OwnedFd)> {
        const TRIES: u32 = 16;
        for _ in 0..TRIES {
            let mut number = [0; 8];
            rustix::rand::getrandom(&mut number, rustix::rand::GetRandomFlags::empty())?;
            let name = format!(".{:016x}", u64::from_ne_bytes(number)).into_bytes();
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            match self.open_child(&name, flags, Mode::from_raw_mode(mode & 0o7777)) {
                Ok(file) => {
                    let node = self.child(&name)?;
                    unlinkat(&self.place, &name[..], AtFlags::empty())?;
                    return Ok((node, file));
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::EXIST)
    }

    /// Opens it, if it is a regular file or a directory.
    pub(super) fn open(&self, flags: OFlags) -> Done<OwnedFd> {
        match file_type(&self.stat()?) {
            FileType::RegularFile | FileType::Directory => {}
            FileType::Symlink => return Err(Errno::LOOP),
            _ => return Err(Errno::ACCESS),
        }
        open(self.link(), flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK, Mode::empty())
    }
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.place.as_fd()
    }
}

pub(super) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Which file is which to the guest.
///
/// Numbers of files are the host's. A guest that goes on in a directory like the one that it was in finds the files that it
/// has handles of under the numbers that it knows: to its kernel, a file of another number is another file, with pages of
/// its own, and no socket anybody listens at.
#[derive(Debug)]
pub(super) struct Identities {
    /// The device that the directory is on.
    device: u64,
    /// Files by device and number there, and what the guest knows them by.
    known: HashMap<(u64, u64), u64>,
    /// What it knows files by, which is nobody else's.
    taken: HashSet<u64>,
}

impl Identities {
    /// Of files in a directory on that device.
    pub(super) fn on(device: u64) -> Identities {
        Identities { device, known: HashMap::new(), taken: HashSet::new() }
    }

    /// Forgets what a guest knew.
    pub(super) fn reset(&mut self) {
        self.known.clear();
        self.taken.clear();
    }

    /// The guest knows this file by that number.
    pub(super) fn know(&mut self, stat: &Stat, number: u64) {
        if self.number(stat) != number {
            self.known.insert((stat.st_dev, stat.st_ino), number);
            self.taken.insert(number);
        }
    }

    /// What the guest knows a file by. What is on another device, mounted somewhere in the directory, has numbers of its own.
    pub(super) fn number(&self, stat: &Stat) -> u64 {
        const APART: u64 = 1 << 62;
        if let Some(number) = self.known.get(&(stat.st_dev, stat.st_ino)) {
            return *number;
        }
        let other = (stat.st_dev ^ self.device).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let number = stat.st_ino ^ other;
        if self.taken.contains(&number) { number ^ APART } else { number }
    }

    /// Which file this is.
    pub(super) fn of(&self, stat: &Stat) -> Identity {
        let time = (stat.st_mtime as u64) ^ stat.st_mtime_nsec ^ ((stat.st_size as u64) << 8);
        Identity { kind: kind_of(file_type(stat)), version: time as u32, path: self.number(stat) }
    }
}

pub(super) fn kind_of(file_type: FileType) -> u8 {
    match file_type {
        FileType::Directory => DIRECTORY,
        FileType::Symlink => LINK,
        _ => 0,
    }
}
