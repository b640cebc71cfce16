//! Directories that engines keep their state in, and how far they are trusted.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, openat2};
use sys::Errno;

/// No file of an engine that is read here is larger.
const MAX_FILE: u64 = 8 << 20;
/// No directory is looked at further.
const MAX_ENTRIES: usize = 10_000;

/// Who can have written what lies in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeper {
    /// Root, or the caller.
    Trusted,
    /// A user of this machine, who is not the caller.
    User(u32),
}

/// A directory of an engine's.
#[derive(Debug)]
pub(super) struct Place {
    dir: OwnedFd,
    keeper: Keeper,
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Place {
    /// That directory, if it is there. A user's must be that user's.
    pub(super) fn open(path: &Path, keeper: Keeper) -> Option<Self> {
        let flags = match keeper {
            Keeper::Trusted => DIRECTORY,
            Keeper::User(_) => DIRECTORY | OFlags::NOFOLLOW,
        };
        let dir = rustix::fs::openat(CWD, path, flags, Mode::empty()).ok()?;
        let stat = rustix::fs::fstat(&dir).ok()?;
        let is_theirs = match keeper {
            Keeper::Trusted => true,
            Keeper::User(uid) => stat.st_uid == uid,
        };
        is_theirs.then_some(Self { dir, keeper })
    }

    /// A directory in it.
    pub(super) fn inside(&self, path: impl AsRef<Path>) -> Option<Self> {
        let dir = self.open_in(path.as_ref(), DIRECTORY).ok()?;
        Some(Self { dir, keeper: self.keeper })
    }

    /// Who can have written what lies here.
    pub(super) fn keeper(&self) -> Keeper {
        self.keeper
    }

    /// What a file in it holds: nothing if that is no plain file, too large, or of somebody else.
    pub(super) fn read(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        // Opening a pipe must not wait for whoever would write to it.
        let file = self.open_in(path.as_ref(), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        let is_theirs = match self.keeper {
            Keeper::Trusted => true,
            Keeper::User(uid) => stat.st_uid == uid,
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || !is_theirs {
            return None;
        }
        let mut bytes = Vec::new();
        File::from(file).take(MAX_FILE + 1).read_to_end(&mut bytes).ok()?;
        (bytes.len() as u64 <= MAX_FILE).then_some(bytes)
    }

    /// Whether there is such a file, of whatever kind. It is not opened: for a pipe that would be a message.
    pub(super) fn has(&self, path: impl AsRef<Path>) -> bool {
        self.open_in(path.as_ref(), OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC).is_ok()
    }

    /// What a file in it holds, as JSON of that form.
    pub(super) fn read_json<T: serde::de::DeserializeOwned>(&self, path: impl AsRef<Path>) -> Option<T> {
        serde_json::from_slice(&self.read(path)?).ok()
    }

    /// The same, as a number in digits.
    pub(super) fn read_number(&self, path: impl AsRef<Path>) -> Option<u32> {
        model::process_number(std::str::from_utf8(&self.read(path)?).ok()?.trim())
    }

    /// The names of what lies in it.
    pub(super) fn entries(&self) -> Vec<String> {
        let listed = rustix::fs::openat(&self.dir, c".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            .and_then(rustix::fs::Dir::new);
        let Ok(entries) = listed else { return Vec::new() };
        let names = entries.flatten().filter_map(|it| it.file_name().to_str().ok().map(str::to_owned));
        names.filter(|it| !it.starts_with('.')).take(MAX_ENTRIES).collect()
    }

    fn open_in(&self, path: &Path, flags: OFlags) -> sys::Result<OwnedFd> {
        let resolve = match self.keeper {
            Keeper::Trusted => ResolveFlags::NO_MAGICLINKS,
            // A user could lay a link to a file of somebody else's, or mount a file system that never answers.
            Keeper::User(_) => {
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV
            }
        };
        for _ in 0..16 {
            match openat2(&self.dir, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }
}
