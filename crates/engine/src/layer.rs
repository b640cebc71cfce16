//! What a cell has written, had once more: the upper layer of its overlay, copied with all that means something there.
//!
//! Whiteouts are devices and directories' histories are attributes, so everything is copied as it is: owners, modes,
//! times, extended attributes, links between files, holes. Content is shared where the file system can. **The cell's side
//! is never followed by name**: who lives in the cell may have replaced a directory by a link since it was looked at.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat,
    copy_file_range, ftruncate, ioctl_ficlone, lgetxattr, llistxattr, lsetxattr, mknodat, open, openat, seek, statat,
    utimensat,
};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// What the layer is called in a cell's directory of layers.
const UPPER: &str = "upper";
/// Deeper trees are refused: nobody has made one in good faith.
const MAX_DEPTH: u32 = 256;

/// Copies what was written in the layer at `from` to the one at `to`, in which there is nothing yet.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let copied = open(from, flags, Mode::empty()).map_err(io::Error::from).and_then(|from| {
        let mut copying = Copying { links: HashMap::new() };
        copying.entry(&from, OsStr::new(UPPER), &to.join(UPPER), 0)
    });
    copied.map_err(|e| Error::at("copying what was written to", to, e))
}

struct Copying {
    /// Files of more than one name, by where their first was copied to.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Copying {
    fn entry(&mut self, dir: &OwnedFd, name: &OsStr, to: &Path, depth: u32) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::other("the directories are nested too deeply"));
        }
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let identity = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&identity) {
                return std::fs::hard_link(first, to);
            }
            self.links.insert(identity, to.to_owned());
        }
        match kind {
            FileType::Directory => self.directory(dir, name, to, depth)?,
            FileType::RegularFile => content(dir, name, to, &stat)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, name, Vec::new())?;
                rustix::fs::symlinkat(target, CWD, to)?;
            }
            other => mknodat(CWD, to, other, Mode::RUSR | Mode::WUSR, stat.st_rdev)?,
        }
        let (user, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        chownat(CWD, to, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
        if kind != FileType::Symlink {
            chmodat(CWD, to, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
        }
        attributes(dir, name, to)?;
        let time = |tv_sec, nsec: u64| Timespec { tv_sec, tv_nsec: nsec as _ };
        let times = Timestamps {
            last_access: time(stat.st_atime, stat.st_atime_nsec),
            last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
        };
        Ok(utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn directory(&mut self, dir: &OwnedFd, name: &OsStr, to: &Path, depth: u32) -> io::Result<()> {
        std::fs::create_dir(to)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let own = openat(dir, name, flags, Mode::empty())?;
        for entry in rustix::fs::Dir::read_from(&own)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                self.entry(&own, name, &to.join(name), depth + 1)?;
            }
        }
        Ok(())
    }
}

/// Copies a file's bytes, sharing them if that can be.
fn content(dir: &OwnedFd, name: &OsStr, to: &Path, stat: &Stat) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let from = openat(dir, name, flags, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let to = open(to, flags, Mode::RUSR | Mode::WUSR)?;
    if ioctl_ficlone(&to, &from).is_ok() {
        return Ok(());
    }
    let size = stat.st_size.unsigned_abs();
    ftruncate(&to, size)?;
    let mut at = 0;
    while at < size {
        let begin = match seek(&from, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        at = seek(&from, SeekFrom::Hole(begin))?.min(size);
        let (mut source, mut target) = (begin, begin);
        while source < at {
            let left = usize::try_from(at - source).unwrap_or(usize::MAX);
            if copy_file_range(&from, Some(&mut source), &to, Some(&mut target), left)? == 0 {
                break;
            }
        }
    }
    Ok(())
}

/// Copies extended attributes.
fn attributes(dir: &OwnedFd, name: &OsStr, to: &Path) -> io::Result<()> {
    /// The kernel has no longer ones (XATTR_SIZE_MAX).
    const MOST: usize = 64 << 10;
    let text = [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name.as_bytes()].concat();
    let from = CString::new(text).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut names = vec![0; MOST];
    let length = match llistxattr(from.as_c_str(), &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let mut value = Vec::new();
    for name in names[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        value.resize(MOST, 0);
        let length = lgetxattr(from.as_c_str(), name, &mut value[..])?;
        match lsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_layer_is_had_twice() {
        let base = tempfile::tempdir().unwrap();
        let (from, to) = (base.path().join("from"), base.path().join("to"));
        let upper = from.join(UPPER);
        std::fs::create_dir_all(upper.join("d/e")).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(upper.join("d/f"), "content").unwrap();
        std::fs::hard_link(upper.join("d/f"), upper.join("g")).unwrap();
        std::fs::set_permissions(upper.join("g"), PermissionsExt::from_mode(0o4711)).unwrap();
        symlink("/nowhere", upper.join("link")).unwrap();
        let sparse = std::fs::File::create(upper.join("sparse")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 8 << 20).unwrap();
        let has_attributes = rustix::fs::setxattr(upper.join("d"), "user.a", b"b", XattrFlags::empty()).is_ok();
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            mknodat(CWD, upper.join("whiteout"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        }
        copy(&from, &to).unwrap();
        let copied = to.join(UPPER);
        assert_eq!(std::fs::read_to_string(copied.join("g")).unwrap(), "content");
        let stat = |name: &str| std::fs::symlink_metadata(copied.join(name)).unwrap();
        assert_eq!((stat("g").ino(), stat("g").mode() & 0o7777), (stat("d/f").ino(), 0o4711));
        assert_ne!(stat("g").ino(), std::fs::metadata(upper.join("g")).unwrap().ino());
        assert!(stat("d/e").is_dir());
        assert_eq!(std::fs::read_link(copied.join("link")).unwrap(), Path::new("/nowhere"));
        assert_eq!(stat("sparse").len(), (8 << 20) + 3);
        assert!(stat("sparse").blocks() < 4096, "what was a hole is one");
        assert_eq!(&std::fs::read(copied.join("sparse")).unwrap()[8 << 20..], b"end");
        if has_attributes {
            let mut value = [0; 8];
            assert_eq!(rustix::fs::getxattr(copied.join("d"), "user.a", &mut value[..]), Ok(1));
        }
        if is_root {
            assert_eq!((stat("whiteout").rdev(), stat("whiteout").mode() & 0o170_000), (0, 0o020_000));
        }
    }
}
