//! Paths inside a cell, resolved so that nothing in the image can lead outside it.
//!
//! Every lookup goes through `openat2` with the cell's root as the root and without the magic links of `/proc`, so a
//! symbolic link of a hostile image leads where it would lead in the cell. Nothing here allocates.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2};
use sys::Errno;

/// The longest path, its terminating zero included.
const PATH_MAX: usize = 4096;

/// A path inside a cell: relative to its root, without `.` and `..`; the root itself is `.`.
pub(crate) fn in_cell(path: &Path) -> Option<CString> {
    let mut bytes = Vec::with_capacity(path.as_os_str().len());
    for part in path.components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => {
                if !bytes.is_empty() {
                    bytes.push(b'/');
                }
                bytes.extend_from_slice(name.as_bytes());
            }
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    if bytes.is_empty() {
        bytes.push(b'.');
    }
    (bytes.len() < PATH_MAX).then(|| CString::new(bytes).ok()).flatten()
}

/// Opens `path` as seen by a process whose root directory is `root`.
pub(crate) fn open(root: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> sys::Result<OwnedFd> {
    sys::in_root::open(root, path, flags, Mode::empty())
}

/// Opens the directory `path` (made by [`in_cell`], one part long), making it if it is missing. A symbolic link in its
/// place is refused: kernel file systems are mounted only where programs look for them.
pub(crate) fn ensure_without_links(root: BorrowedFd<'_>, path: &CStr) -> sys::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat2(root, path, flags, Mode::empty(), resolve) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    rustix::fs::mkdirat(root, path, Mode::from_raw_mode(0o755))?;
    openat2(root, path, flags, Mode::empty(), resolve)
}

/// What stands at the end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
}

impl Kind {
    /// The kind of what `fd` is open on.
    pub(crate) fn of(fd: impl AsFd) -> sys::Result<Self> {
        rustix::fs::fstat(fd).map(|it| Self::of_mode(it.st_mode))
    }

    /// The kind that a file's mode tells.
    pub(crate) fn of_mode(mode: u32) -> Self {
        if FileType::from_raw_mode(mode) == FileType::Directory { Self::Directory } else { Self::File }
    }
}

/// Opens `path` (made by [`in_cell`]), making what is missing of it.
pub(crate) fn ensure(root: BorrowedFd<'_>, path: &CStr, kind: Kind) -> sys::Result<OwnedFd> {
    match open(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let bytes = path.to_bytes();
    let mut prefix = [0u8; PATH_MAX];
    let mut parent = open(root, c".", OFlags::PATH | OFlags::DIRECTORY)?;
    let mut start = 0;
    loop {
        let end = bytes.iter().skip(start).position(|b| *b == b'/').map_or(bytes.len(), |it| start + it);
        let (Some(name), Some(part)) = (bytes.get(start..end), bytes.get(..end)) else { return Err(Errno::INVAL) };
        let last = end == bytes.len();
        make(parent.as_fd(), name, if last { kind } else { Kind::Directory })?;
        let text = terminated(&mut prefix, part)?;
        parent = open(root, text, OFlags::PATH)?;
        if last {
            return Ok(parent);
        }
        start = end + 1;
    }
}

fn make(parent: BorrowedFd<'_>, name: &[u8], kind: Kind) -> sys::Result<()> {
    let mut buffer = [0u8; 256];
    let name = terminated(&mut buffer, name)?;
    let made = match kind {
        Kind::Directory => rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        Kind::File => rustix::fs::mknodat(parent, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0),
    };
    match made {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

fn terminated<'a>(buffer: &'a mut [u8], text: &[u8]) -> sys::Result<&'a CStr> {
    let length = text.len();
    buffer.get_mut(..length).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(text);
    *buffer.get_mut(length).ok_or(Errno::NAMETOOLONG)? = 0;
    CStr::from_bytes_with_nul(buffer.get(..=length).unwrap_or_default()).map_err(|_| Errno::INVAL)
}
