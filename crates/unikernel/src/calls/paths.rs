//! Calls with paths that need more than passing on: opening, the working directory, and what exists for the guest alone.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use sys::Errno;

use super::Reply;
use super::pass::PATH;
use crate::files::{File, OnExec, Waiting};
use crate::member::Member;

pub(crate) fn answer(member: &mut Member, number: u32, [a, b, c, d, e, _]: [u64; 6]) -> Option<Reply> {
    Some(
        match i64::from(number) {
            libc::SYS_openat => match open(member, a, b, c, d) {
                // A fifo that nobody reads: who may wait tries again.
                Err(Errno::NXIO) if may_wait_for_reader(c) => return Some(Reply::AfterMoment),
                other => other,
            },
            libc::SYS_openat2 => match how_of(member, c, d) {
                Ok([flags, mode, 0]) => return answer(member, libc::SYS_openat as u32, [a, b, flags, mode, 0, 0]),
                Ok(how) => open_within(member, a, b, how),
                Err(errno) => Err(errno),
            },
            libc::SYS_chdir => change_directory(member, a),
            libc::SYS_fchdir => change_directory_to(member, a),
            libc::SYS_getcwd => working_directory(member, a, b),
            libc::SYS_umask => {
                let before = std::mem::replace(&mut member.umask, a as u32 & 0o777);
                Ok(u64::from(before))
            }
            libc::SYS_fchown => change_owner(member, Some(a), None, b, c),
            libc::SYS_fchownat => change_owner(member, None, Some((a, b, e)), c, d),
            libc::SYS_readlinkat => return read_own_link(member, b, c, d).map(Reply::from),
            _ => return None,
        }
        .into(),
    )
}

/// The text of a path, without its zero.
fn path(member: &Member, at: u64) -> Result<Vec<u8>, Errno> {
    let mut text = super::pass::path(member, at)?;
    text.pop();
    Ok(text)
}

/// The same path from the root on.
pub(crate) fn absolute(member: &Member, path: Vec<u8>) -> Result<Vec<u8>, Errno> {
    if path.first() == Some(&b'/') {
        return Ok(path);
    }
    let mut whole = own_path(member)?;
    if whole.last() != Some(&b'/') {
        whole.push(b'/');
    }
    whole.extend_from_slice(path.strip_prefix(b"./").unwrap_or(&path));
    Ok(whole)
}

/// Where a relative path begins.
fn directory(member: &Member, number: u64) -> Result<Arc<dyn AsFd + Send + Sync>, Errno> {
    if number as i32 == libc::AT_FDCWD {
        return Ok(member.cwd.clone());
    }
    Ok(member.table.get(number)?.clone())
}

fn open(member: &mut Member, at: u64, name: u64, flags: u64, mode: u64) -> Result<u64, Errno> {
    let path = path(member, name)?;
    let at_path = || match path.first() {
        Some(b'/') => Ok(member.cwd.clone() as Arc<dyn AsFd + Send + Sync>),
        _ => directory(member, at),
    };
    if let Some(number) = own_descriptor(&path).or_else(|| linked_descriptor(&*at_path().ok()?, &path)) {
        // On Linux this opens the file anew; to the few that do it, it is another name.
        let file = member.table.get(number)?.clone();
        return member.table.add(file, OnExec::by(flags), 0);
    }
    if let Some(content) = crate::procfs::content(member, &path) {
        let file = crate::procfs::file(&content)?;
        return member.table.add(File::new(file, Waiting::Yes, &path), OnExec::by(flags), 0);
    }
    let wanted = OFlags::from_bits_retain(flags as u32) | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let mode = Mode::from_raw_mode(mode as u32 & 0o7777 & !member.umask);
    let opened = rustix::fs::openat(&*at_path()?, &path[..], wanted, mode)?;
    member.table.add(File::named(opened, Waiting::by(flags), &path), OnExec::by(flags), 0)
}

/// openat2's last arguments: flags, mode, and how the path may lead.
fn how_of(member: &Member, at: u64, size: u64) -> Result<[u64; 3], Errno> {
    const SIZE: u64 = 24;
    const MOST: u64 = 4096;
    if size < SIZE {
        return Err(Errno::INVAL);
    }
    if size > MOST {
        return Err(Errno::TOOBIG);
    }
    let bytes = member.memory.bytes(at, size as usize)?;
    let (known, further) = bytes.split_at(SIZE as usize);
    if further.iter().any(|it| *it != 0) {
        return Err(Errno::TOOBIG);
    }
    let word = |at: usize| known[at..at + 8].try_into().map_or(0, u64::from_ne_bytes);
    let known = OFlags::all().bits() as u64;
    let ([flags, mode, resolve], making) =
        ([word(0), word(8), word(16)], libc::O_CREAT as u64 | libc::O_TMPFILE as u64);
    if flags & !known != 0 || mode != 0 && flags & making == 0 || mode & !0o7777 != 0 {
        return Err(Errno::INVAL);
    }
    Ok([flags, mode, resolve])
}

/// Opens a file by a path that may lead only in some ways, which the host sees to.
fn open_within(member: &mut Member, at: u64, name: u64, [flags, mode, resolve]: [u64; 3]) -> Result<u64, Errno> {
    let path = path(member, name)?;
    let resolve = ResolveFlags::from_bits(resolve).ok_or(Errno::INVAL)?;
    let wanted = OFlags::from_bits_retain(flags as u32) | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let mode = Mode::from_raw_mode(mode as u32 & !member.umask);
    let opened = rustix::fs::openat2(&*directory(member, at)?, &path[..], wanted, mode, resolve)?;
    member.table.add(File::named(opened, Waiting::by(flags), &path), OnExec::by(flags), 0)
}

/// Whether a file that cannot be opened for want of a reader was to be opened as soon as there is one.
fn may_wait_for_reader(flags: u64) -> bool {
    let flags = OFlags::from_bits_retain(flags as u32);
    flags & OFlags::RWMODE == OFlags::WRONLY && !flags.contains(OFlags::NONBLOCK)
}

/// The descriptor that a path is another name of.
fn own_descriptor(path: &[u8]) -> Option<u64> {
    match path {
        b"/dev/stdin" => return Some(0),
        b"/dev/stdout" => return Some(1),
        b"/dev/stderr" => return Some(2),
        _ => {}
    }
    let number = path.strip_prefix(b"/dev/fd/").or_else(|| path.strip_prefix(b"/proc/self/fd/"))?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// The same of a link that ends so, as images have them in the place of log files.
fn linked_descriptor(directory: &dyn AsFd, path: &[u8]) -> Option<u64> {
    let target = rustix::fs::readlinkat(directory, path, Vec::new()).ok()?;
    own_descriptor(target.to_bytes())
}

fn read_own_link(member: &Member, name: u64, into: u64, size: u64) -> Option<Result<u64, Errno>> {
    let mut path = member.memory.string(name, PATH).ok()?;
    path.pop();
    let target = match own_descriptor(&path).filter(|_| path.starts_with(b"/proc")) {
        Some(number) => member.table.get(number).map(|it| it.path.clone()),
        None if path == b"/proc/self/exe" => Ok(member.program.path.clone()),
        None if path == b"/proc/self" => Ok(member.number.to_string().into_bytes()),
        None => return None,
    };
    Some(target.and_then(|target| {
        let length = target.len().min(size as usize);
        member.memory.write(into, &target[..length])?;
        Ok(length as u64)
    }))
}

fn change_directory(member: &mut Member, name: u64) -> Result<u64, Errno> {
    let path = path(member, name)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let new = rustix::fs::openat(&*member.cwd, &path[..], flags, Mode::empty())?;
    // To be in a directory takes the right to search it, which opening it alone does not ask for.
    member.cwd = Arc::new(rustix::fs::openat(&new, ".", flags, Mode::empty())?);
    Ok(0)
}

/// Makes a call whose paths begin at the working directory of the calling process, which all members share: each has it
/// for the time of such a call. None of them waits.
pub(super) fn from_directory<T>(member: &Member, call: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    static TAKEN: Mutex<()> = Mutex::new(());
    let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    rustix::process::fchdir(&member.cwd)?;
    let result = call();
    drop(taken);
    result
}

fn change_directory_to(member: &mut Member, number: u64) -> Result<u64, Errno> {
    let file = member.table.get(number)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let new = rustix::fs::openat(&**file, ".", flags, Mode::empty())?;
    member.cwd = Arc::new(new);
    Ok(0)
}

/// The path of the working directory, also where the process may not look for it.
fn own_path(member: &Member) -> Result<Vec<u8>, Errno> {
    crate::identity::as_tender(|| path_of(member.cwd.as_fd()))
}

fn working_directory(member: &Member, into: u64, size: u64) -> Result<u64, Errno> {
    let mut text = own_path(member)?;
    text.push(0);
    if text.len() as u64 > size {
        return Err(Errno::RANGE);
    }
    member.memory.write(into, &text)?;
    Ok(text.len() as u64)
}

/// The path of a directory, found from below: the name by which each parent knows its child. (The kernel tells the path of
/// a working directory only, which all threads of the tender share.)
pub(crate) fn path_of(directory: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    const DEEPEST: usize = 256;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut child = rustix::fs::openat(directory, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    for _ in 0..DEEPEST {
        let parent = rustix::fs::openat(&child, "..", flags, Mode::empty())?;
        let (own, above) = (rustix::fs::fstat(&child)?, rustix::fs::fstat(&parent)?);
        if (own.st_dev, own.st_ino) == (above.st_dev, above.st_ino) {
            names.reverse();
            return Ok([b"/", &names.join(&b'/')[..]].concat());
        }
        let mut entries = rustix::fs::Dir::read_from(&parent)?;
        let name = entries.find_map(|entry| {
            let name = entry.ok()?.file_name().to_owned();
            let stat = rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            let same =
                (stat.st_dev, stat.st_ino) == (own.st_dev, own.st_ino) && !matches!(name.to_bytes(), b"." | b"..");
            same.then(|| name.into_bytes())
        });
        // It was removed.
        names.push(name.ok_or(Errno::NOENT)?);
        child = parent;
    }
    Err(Errno::NAMETOOLONG)
}

/// Where nobody but the tender's own user exists: to the guest's administrator, giving a file away works; whose it
/// is is not kept.
fn change_owner(
    member: &Member,
    file: Option<u64>,
    named: Option<(u64, u64, u64)>,
    user: u64,
    group: u64,
) -> Result<u64, Errno> {
    let stat = match (file, named) {
        (Some(number), _) => rustix::fs::fstat(&**member.table.get(number)?)?,
        (None, Some((at, name, flags))) => {
            let flags = AtFlags::from_bits_truncate(flags as u32);
            rustix::fs::statat(&*directory(member, at)?, path(member, name)?, flags)?
        }
        (None, None) => return Err(Errno::INVAL),
    };
    let keeps = |new: u64, old: u32| new as u32 == u32::MAX || new as u32 == old;
    if member.credentials.user.effective == 0 || (keeps(user, stat.st_uid) && keeps(group, stat.st_gid)) {
        return Ok(0);
    }
    Err(Errno::PERM)
}
