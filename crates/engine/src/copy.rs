//! `skep cp`: files between the host and a cell, running or not.
//!
//! The cell's side is reached only below a descriptor of its root: the path that was typed is resolved with
//! `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)`, and from there on names are opened one at a time without following
//! links. So a cell that swaps a directory for a symbolic link in the middle of a copy gains nothing: neither is a file
//! of the host written nor one read.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use model::Verb;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};

use crate::boundary::boundary_for;
use crate::cell::Cell;
use crate::error::{Error, Result};
use crate::table::Engine;

/// One end of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyEnd {
    /// A path of the host.
    Host(PathBuf),
    /// A path of the cell, from its root.
    Cell(PathBuf),
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyReport {
    /// Files, directories, links.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
}

/// Deeper trees are refused: nobody has made one in good faith.
const MAX_DEPTH: u32 = 256;

impl Engine {
    /// Copies a file or directory. A destination that is a directory takes the source under its own name, unless the
    /// source ends in `/.`, which means its content; a destination that does not exist becomes the copy.
    pub fn copy(&self, cell: &Cell, from: &CopyEnd, to: &CopyEnd) -> Result<CopyReport> {
        let boundary = boundary_for(&cell.spec, Verb::Copy)?;
        let rootfs = self.store.rootfs(&cell.spec.image.tree, crate::container::layout(&self.home.pool()), &())?;
        let root = boundary.root(cell, &rootfs)?;
        let side = |end: &CopyEnd| match end {
            CopyEnd::Host(path) => (Side { root: None }, path.clone()),
            CopyEnd::Cell(path) => (Side { root: Some(root.as_fd()) }, path.clone()),
        };
        let ((from_side, from_path), (to_side, to_path)) = (side(from), side(to));
        let copy = || -> io::Result<CopyReport> {
            let source = from_side.locate(&from_path)?;
            let target = to_side.destination(&to_path, &from_path, &source)?;
            let mut report = CopyReport::default();
            copy_entry(&source, &target, &mut report, 0)?;
            Ok(report)
        };
        copy().map_err(|e| Error::io(format!("copying {} to {}", from_path.display(), to_path.display()), e))
    }
}

/// Where paths of one end begin.
struct Side<'a> {
    /// The root that paths must not leave; none on the host.
    root: Option<BorrowedFd<'a>>,
}

/// A name in an open directory.
struct Place {
    dir: OwnedFd,
    name: CString,
}

impl Place {
    fn stat(&self) -> io::Result<Stat> {
        Ok(rustix::fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn open(&self, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        Ok(rustix::fs::openat(&self.dir, &self.name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode)?)
    }

    fn child(dir: &OwnedFd, name: &CStr) -> io::Result<Self> {
        Ok(Self { dir: dir.try_clone()?, name: name.to_owned() })
    }
}

impl Side<'_> {
    fn open_dir(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = match self.root {
            None => rustix::fs::openat(
                CWD,
                if path.as_os_str().is_empty() { Path::new(".") } else { path },
                flags,
                Mode::empty(),
            ),
            Some(root) => {
                let inside = path.strip_prefix("/").unwrap_or(path);
                let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
                let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
                rustix::fs::openat2(root, inside, flags, Mode::empty(), resolve)
            }
        };
        Ok(opened?)
    }

    /// The entry at the path; a trailing `/` or `/.` means the directory itself, following a link.
    fn locate(&self, path: &Path) -> io::Result<Place> {
        let bytes = path.as_os_str().as_bytes();
        match path.file_name() {
            Some(name) if !bytes.ends_with(b"/") && !bytes.ends_with(b"/.") => {
                let dir = self.open_dir(path.parent().unwrap_or(Path::new("")))?;
                Ok(Place { dir, name: c_string(name)? })
            }
            _ => Ok(Place { dir: self.open_dir(path)?, name: c".".to_owned() }),
        }
    }

    /// Where a copy of `source` goes.
    fn destination(&self, path: &Path, source_path: &Path, source: &Place) -> io::Result<Place> {
        let Ok(dir) = self.open_dir(path) else {
            if path.as_os_str().as_bytes().ends_with(b"/") {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the destination is no directory"));
            }
            return self.locate(path);
        };
        let content_only = source_path.as_os_str().as_bytes().ends_with(b"/.");
        if content_only && is_dir(&source.stat()?) {
            return Ok(Place { dir, name: c".".to_owned() });
        }
        match source_path.file_name() {
            Some(name) => Ok(Place { dir, name: c_string(name)? }),
            None => Ok(Place { dir, name: c".".to_owned() }),
        }
    }
}

fn c_string(name: &OsStr) -> io::Result<CString> {
    CString::new(name.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn copy_entry(from: &Place, to: &Place, report: &mut CopyReport, depth: u32) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other("the directories are nested too deeply"));
    }
    let stat = from.stat()?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    report.entries += 1;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => copy_dir(from, to, mode, report, depth)?,
        FileType::RegularFile => {
            report.bytes += copy_file(from, to, mode)?;
            copy_times(to, &stat);
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&from.dir, &from.name, Vec::new())?;
            remove_if_there(to)?;
            rustix::fs::symlinkat(&target, &to.dir, &to.name)?;
        }
        kind => {
            let what = format!("{} is a {kind:?}, which cp does not copy", from.name.to_string_lossy());
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
    }
    Ok(())
}

fn copy_dir(from: &Place, to: &Place, mode: Mode, report: &mut CopyReport, depth: u32) -> io::Result<()> {
    let directory = OFlags::RDONLY | OFlags::DIRECTORY;
    match rustix::fs::mkdirat(&to.dir, &to.name, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    let (source, target) = (from.open(directory, Mode::empty())?, to.open(directory, Mode::empty())?);
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&source)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(entry.file_name().to_owned());
        }
    }
    for name in names {
        copy_entry(&Place::child(&source, &name)?, &Place::child(&target, &name)?, report, depth + 1)?;
    }
    if to.name.as_c_str() != c"." {
        rustix::fs::fchmod(&target, mode)?;
    }
    Ok(())
}

fn copy_file(from: &Place, to: &Place, mode: Mode) -> io::Result<u64> {
    let mut source = File::from(from.open(OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?);
    // A new file in place of the old one: what has the old one open keeps it, as with any careful copy.
    remove_if_there(to)?;
    let created = to.open(OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, Mode::RUSR | Mode::WUSR)?;
    let mut target = File::from(created);
    let mut buffer = vec![0; 128 << 10];
    let mut copied = 0;
    loop {
        let count = source.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        target.write_all(&buffer[..count])?;
        copied += count as u64;
    }
    rustix::fs::fchmod(&target, mode)?;
    Ok(copied)
}

fn remove_if_there(to: &Place) -> io::Result<()> {
    match to.stat() {
        Ok(stat) if is_dir(&stat) => Err(io::Error::new(
            io::ErrorKind::IsADirectory,
            format!("{} is a directory there and no directory here", to.name.to_string_lossy()),
        )),
        Ok(_) => Ok(rustix::fs::unlinkat(&to.dir, &to.name, AtFlags::empty())?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Times are a courtesy: a file system that does not take them does not fail a copy.
fn copy_times(to: &Place, stat: &Stat) {
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: rustix::fs::Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
    };
    let _ = rustix::fs::utimensat(&to.dir, &to.name, &times, AtFlags::SYMLINK_NOFOLLOW);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(root: &Path, from: CopyEnd, to: CopyEnd) -> io::Result<CopyReport> {
        let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        let side = |end: &CopyEnd| match end {
            CopyEnd::Host(path) => (Side { root: None }, path.clone()),
            CopyEnd::Cell(path) => (Side { root: Some(root.as_fd()) }, path.clone()),
        };
        let ((a, from), (b, to)) = (side(&from), side(&to));
        let source = a.locate(&from)?;
        let target = b.destination(&to, &from, &source)?;
        let mut report = CopyReport::default();
        copy_entry(&source, &target, &mut report, 0)?;
        Ok(report)
    }

    #[test]
    fn names_and_directories_go_where_docker_puts_them() {
        let base = tempfile::tempdir().unwrap();
        let (host, cell) = (base.path().join("host"), base.path().join("cell"));
        std::fs::create_dir_all(host.join("d/sub")).unwrap();
        std::fs::create_dir_all(cell.join("etc")).unwrap();
        std::fs::write(host.join("d/sub/f"), "hello").unwrap();
        let into =
            |from: &str, to: &str| copy(&cell, CopyEnd::Host(host.join(from)), CopyEnd::Cell(to.into())).unwrap();
        assert_eq!(into("d/sub/f", "/etc"), CopyReport { entries: 1, bytes: 5 });
        assert!(cell.join("etc/f").is_file());
        into("d", "/etc/new");
        assert!(cell.join("etc/new/sub/f").is_file());
        into("d", "/etc");
        assert!(cell.join("etc/d/sub/f").is_file());
        into("d/.", "/etc");
        assert!(cell.join("etc/sub/f").is_file());
        copy(&cell, CopyEnd::Cell("/etc/d".into()), CopyEnd::Host(host.join("back"))).unwrap();
        assert_eq!(std::fs::read_to_string(host.join("back/sub/f")).unwrap(), "hello");
    }

    #[test]
    fn a_hostile_cell_neither_writes_nor_reads_outside() {
        let base = tempfile::tempdir().unwrap();
        let (host, cell) = (base.path().join("host"), base.path().join("cell"));
        std::fs::create_dir_all(&host).unwrap();
        std::fs::create_dir_all(&cell).unwrap();
        std::fs::write(host.join("secret"), "secret").unwrap();
        std::os::unix::fs::symlink(&host, cell.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../host", cell.join("relative")).unwrap();
        std::os::unix::fs::symlink(host.join("secret"), cell.join("file")).unwrap();
        for path in ["/absolute/secret", "/relative/secret", "/absolute/", "/../host/secret"] {
            let out = host.join("stolen");
            assert!(copy(&cell, CopyEnd::Cell(path.into()), CopyEnd::Host(out.clone())).is_err(), "{path}");
            assert!(!out.exists());
        }
        // The link itself is what is copied, not what it leads to.
        copy(&cell, CopyEnd::Cell("/file".into()), CopyEnd::Host(host.join("link"))).unwrap();
        assert!(host.join("link").is_symlink());
        copy(&cell, CopyEnd::Host(host.join("secret")), CopyEnd::Cell("/file".into())).unwrap();
        assert!(!cell.join("file").is_symlink(), "the link was replaced, not written through");
        assert!(copy(&cell, CopyEnd::Host(host.join("secret")), CopyEnd::Cell("/absolute/x".into())).is_err());
        assert!(!host.join("x").exists());
    }
}
