//! The target's file system as the root of a session, with the toolbox in `/toolbox`.
//!
//! Nothing may be made in the target, not even a mount point. So the root is a **frame**: a small file system in memory
//! with a mount point for each entry of the target's root directory, a copy of each of its links, and `toolbox`. What lies
//! at the root is thus as it was when the session began; everything below is the target's own. The frame cannot be written:
//! what somebody made at its root would not be the target's.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::mount::MountAttrFlags;
use sys::mount::new_file_system;

use crate::inside::open_inside;
use crate::launcher;

/// Where launchers are, in the toolbox.
pub(crate) const LAUNCHERS: &str = "/toolbox/launch";

/// The most entries of a root directory that a frame has; the rest is left out.
const MAX_ENTRIES: usize = 4096;

/// A frame, mounted nowhere, and what of the target's root is to be mounted in it.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) mount: OwnedFd,
    pub(crate) entries: Vec<Entry>,
}

/// Something at the root of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: CString,
    pub(crate) kind: FileType,
}

impl Frame {
    /// The frame for a target with that root directory.
    pub(crate) fn of(root: BorrowedFd<'_>) -> sys::Result<Self> {
        let mount = new_file_system(c"tmpfs", &[(c"mode", c"0755")], MountAttrFlags::empty())?;
        let mode = Mode::from_raw_mode(0o755);
        rustix::fs::mkdirat(&mount, c"toolbox", mode)?;
        let mut entries = Vec::new();
        let listed =
            rustix::fs::openat(root, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        for entry in Dir::new(listed)?.take(MAX_ENTRIES) {
            let name = entry?.file_name().to_owned();
            if [c".", c"..", c"toolbox"].contains(&name.as_c_str()) {
                continue;
            }
            // What is taken away meanwhile is not there.
            let Ok(stat) = rustix::fs::statat(root, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let kind = FileType::from_raw_mode(stat.st_mode);
            match kind {
                FileType::Directory => rustix::fs::mkdirat(&mount, &name, mode)?,
                FileType::RegularFile => rustix::fs::mknodat(&mount, &name, kind, mode, 0)?,
                FileType::Symlink => {
                    let Ok(target) = rustix::fs::readlinkat(root, &name, Vec::new()) else { continue };
                    rustix::fs::symlinkat(target, &mount, &name)?;
                    continue;
                }
                _ => continue,
            }
            entries.push(Entry { name, kind });
        }
        if !entries.iter().any(|it| it.name.as_c_str() == c"proc") {
            rustix::fs::mkdirat(&mount, c"proc", mode)?;
        }
        Ok(Self { mount, entries })
    }
}

/// Puts a launcher for each program of the toolbox whose root is `tools` into its directory `launch`.
pub(crate) fn make_launchers(tools: BorrowedFd<'_>) -> sys::Result<()> {
    let libraries = libraries(tools);
    for directory in ["usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin"] {
        let Some(directory) = open_plain(tools, directory) else { continue };
        for name in names(directory.as_fd())? {
            let Some(program) = Found::open(tools, directory.as_fd(), &name) else { continue };
            let path = CString::new([b"launch/", name.to_bytes()].concat()).unwrap_or_default();
            let made = match program.prefix(tools, &name, &libraries) {
                Some(prefix) => {
                    let prefix: Vec<&[u8]> = prefix.iter().map(Vec::as_slice).collect();
                    write(tools, &path, &launcher::x86_64(&prefix))
                }
                None => rustix::fs::symlinkat(in_toolbox(&program.path), tools, &path),
            };
            match made {
                // Another directory has a program of that name, and comes first.
                Ok(()) | Err(sys::Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(())
}

/// A directory that is one itself, and not by a link: systems that have `/bin` in `/usr` would count twice.
fn open_plain(tools: BorrowedFd<'_>, path: &str) -> Option<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(tools, path, flags, Mode::empty(), resolve).ok()
}

fn names(directory: BorrowedFd<'_>) -> sys::Result<Vec<CString>> {
    let entries = Dir::read_from(directory)?;
    let names = entries.map(|it| it.map(|it| it.file_name().to_owned()));
    names.filter(|it| !matches!(it.as_deref(), Ok(name) if name == c"." || name == c"..")).collect()
}

/// A program of the toolbox: where its file really is, and how it begins.
struct Found {
    path: Vec<u8>,
    beginning: Vec<u8>,
}

impl Found {
    fn open(tools: BorrowedFd<'_>, directory: BorrowedFd<'_>, name: &CStr) -> Option<Self> {
        let base = path_of(directory)?;
        let path = CString::new([base.as_slice(), b"/", name.to_bytes()].concat()).ok()?;
        Self::at(tools, &path)
    }

    fn at(tools: BorrowedFd<'_>, path: &CStr) -> Option<Self> {
        let file = open_inside(tools, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_mode & 0o111 == 0 {
            return None;
        }
        let path = path_of(file.as_fd())?;
        let mut beginning = Vec::new();
        File::from(file).take(4096).read_to_end(&mut beginning).ok()?;
        Some(Self { path, beginning })
    }

    /// What a launcher puts before the arguments, for a program that needs one.
    fn prefix(&self, tools: BorrowedFd<'_>, name: &CStr, libraries: &[u8]) -> Option<Vec<Vec<u8>>> {
        if let Some((interpreter, argument)) = shebang(&self.beginning) {
            let interpreter = Self::at(tools, &CString::new(interpreter).ok()?)?;
            let called = CString::new(in_toolbox(&interpreter.path)).ok()?;
            let mut prefix = match interpreter.prefix(tools, &called, libraries) {
                Some(prefix) => prefix,
                None => vec![called.into_bytes()],
            };
            prefix.extend(argument);
            prefix.push(in_toolbox(&self.path));
            return Some(prefix);
        }
        let loader = image::interpreter(&self.beginning)?;
        let loader = Self::at(tools, &CString::new(loader).ok()?)?;
        let words = [b"--library-path".to_vec(), libraries.to_vec(), b"--argv0".to_vec(), name.to_bytes().to_vec()];
        let (first, last) = (in_toolbox(&loader.path), in_toolbox(&self.path));
        Some([first].into_iter().chain(words).chain([last]).collect())
    }
}

/// The interpreter of a script, and the one argument that it is given.
fn shebang(beginning: &[u8]) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let line = beginning.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?.trim_ascii();
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let (interpreter, argument) = line.split_at_checked(end)?;
    let argument = argument.trim_ascii();
    (!interpreter.is_empty()).then(|| (interpreter.to_vec(), (!argument.is_empty()).then(|| argument.to_vec())))
}

/// The directories of the toolbox's libraries, as its loader takes them.
fn libraries(tools: BorrowedFd<'_>) -> Vec<u8> {
    let mut found = Vec::new();
    for base in ["usr/local/lib", "usr/lib", "lib", "usr/lib64", "lib64"] {
        let Some(directory) = open_plain(tools, base) else { continue };
        let triplets = names(directory.as_fd()).unwrap_or_default().into_iter().map(CString::into_bytes);
        for triplet in triplets.filter(|it| it.windows(7).any(|part| part == b"-linux-")) {
            found.push([b"/toolbox/", base.as_bytes(), b"/", &triplet].concat());
        }
        found.push([b"/toolbox/", base.as_bytes()].concat());
    }
    found.join(&b':')
}

fn in_toolbox(path: &[u8]) -> Vec<u8> {
    [b"/toolbox", path].concat()
}

/// The path of something in a mount that is attached nowhere: relative to its root, with a slash in front.
fn path_of(fd: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let number = sys::process::number(fd);
    std::fs::read_link(format!("/proc/self/fd/{number}")).ok().map(|it| it.into_os_string().into_vec())
}

fn write(tools: BorrowedFd<'_>, path: &CStr, bytes: &[u8]) -> sys::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(tools, path, flags, Mode::from_raw_mode(0o755))?;
    rustix::io::write(&file, bytes).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_name_their_interpreter() {
        let check = |text: &[u8], expected: Option<(&[u8], Option<&[u8]>)>| {
            let expected = expected.map(|(it, argument)| (it.to_vec(), argument.map(<[u8]>::to_vec)));
            assert_eq!(shebang(text), expected);
        };
        check(b"#!/bin/sh\necho", Some((b"/bin/sh", None)));
        check(b"#! /usr/bin/env  perl -w \nx", Some((b"/usr/bin/env", Some(b"perl -w"))));
        check(b"#!\n", None);
        check(b"\x7fELF", None);
    }

    #[test]
    fn a_frame_has_the_targets_entries_and_changes_nothing_of_it() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let target = tempfile::tempdir().unwrap();
        std::fs::create_dir(target.path().join("etc")).unwrap();
        std::fs::write(target.path().join("init"), "x").unwrap();
        std::os::unix::fs::symlink("usr/bin", target.path().join("bin")).unwrap();
        let root = File::open(target.path()).unwrap();
        let frame = Frame::of(root.as_fd()).unwrap();
        let mut found: Vec<_> = frame.entries.iter().map(|it| (it.name.to_str().unwrap(), it.kind)).collect();
        found.sort_unstable_by_key(|it| it.0);
        assert_eq!(found, [("etc", FileType::Directory), ("init", FileType::RegularFile)]);
        let link = rustix::fs::readlinkat(&frame.mount, "bin", Vec::new()).unwrap();
        assert_eq!(link.as_c_str(), c"usr/bin");
        assert!(rustix::fs::statat(&frame.mount, "proc", AtFlags::empty()).is_ok());
        assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 3);
    }
}
