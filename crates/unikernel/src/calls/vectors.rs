//! Reading and writing with lists of buffers, and from file to file.

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::pipe::SpliceFlags;
use sys::Errno;

use super::pass::{MOST, later};
use super::{IN, OUT, Reply};
use crate::member::Member;

pub(crate) fn answer(member: &mut Member, number: u32, arguments: [u64; 6]) -> Option<Reply> {
    let [a, b, c, d, e, _] = arguments;
    match i64::from(number) {
        libc::SYS_splice => return Some(move_on(member, arguments, 2, splice)),
        libc::SYS_tee => return Some(move_on(member, [a, 0, b, 0, c, d], 1, tee)),
        // The pipe has a copy of what was in the memory, so that it is the program's to change at once.
        libc::SYS_vmsplice if d & !SPLICE_FLAGS != 0 => return Some(Err(Errno::INVAL).into()),
        libc::SYS_vmsplice => return vmsplice(member, [a, b, c, d]),
        _ => {}
    }
    let (result, events, descriptor) = match i64::from(number) {
        libc::SYS_readv => (read(member, a, b, c, None), IN, 0),
        libc::SYS_preadv | libc::SYS_preadv2 => (read(member, a, b, c, offset(d)), IN, 0),
        libc::SYS_writev => (write(member, a, b, c, None), OUT, 0),
        libc::SYS_pwritev | libc::SYS_pwritev2 => (write(member, a, b, c, offset(d)), OUT, 0),
        libc::SYS_sendfile => (send_file(member, a, b, c, d), OUT, 0),
        libc::SYS_copy_file_range => (copy_range(member, [a, b, c, d, e]), 0, 0),
        _ => return None,
    };
    let waits = [a, b][descriptor as usize];
    Some(match result {
        Err(Errno::AGAIN) if events != 0 => later(member, waits, events, descriptor),
        Err(Errno::PIPE) => {
            super::sockets::broken_pipe(member);
            Err(Errno::PIPE).into()
        }
        other => other.into(),
    })
}

/// Flags of splice and its kin: hints, but for the one by which nobody waits.
const SPLICE_FLAGS: u64 = 0xf;
const DONT_WAIT: u64 = 2;

/// splice and tee: from, its offset, to, its offset, how much, flags.
type Moving = fn(&Member, [u64; 6]) -> Result<u64, Errno>;

/// Moves bytes from file to file. Who has to wait does so for the one that is not ready; `to` is which of the guest's
/// arguments the second one is.
fn move_on(member: &Member, arguments: [u64; 6], to: u32, moving: Moving) -> Reply {
    let [from, _, _, _, _, flags] = arguments;
    if flags & !SPLICE_FLAGS != 0 {
        return Err(Errno::INVAL).into();
    }
    let result = moving(member, arguments);
    if result != Err(Errno::AGAIN) || flags & DONT_WAIT != 0 {
        return result.into();
    }
    let is_readable = |file: &std::sync::Arc<crate::files::File>| {
        let mut asked = [PollFd::new(&**file, PollFlags::IN)];
        rustix::event::poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|it| it > 0)
    };
    match member.table.get(from).map(is_readable) {
        Ok(false) => later(member, from, IN, 0),
        Ok(true) => later(member, arguments[2], OUT, to),
        Err(errno) => Err(errno).into(),
    }
}

fn splice(member: &Member, [from, from_at, to, to_at, count, flags]: [u64; 6]) -> Result<u64, Errno> {
    let (source, target) = (member.table.get(from)?, member.table.get(to)?);
    let load = |at: u64| match at {
        0 => Ok(None),
        at => member.memory.number(at).map(|it| Some(u64::from_ne_bytes(it))),
    };
    let (mut read_at, mut write_at) = (load(from_at)?, load(to_at)?);
    let flags = SpliceFlags::from_bits_truncate(flags as u32) | SpliceFlags::NONBLOCK;
    let count = (count as usize).min(MOST);
    let moved =
        rustix::pipe::splice(source.as_fd(), read_at.as_mut(), target.as_fd(), write_at.as_mut(), count, flags)?;
    for (at, value) in [(from_at, read_at), (to_at, write_at)] {
        if let Some(value) = value {
            member.memory.write(at, &value.to_ne_bytes())?;
        }
    }
    Ok(moved as u64)
}

fn tee(member: &Member, [from, _, to, _, count, flags]: [u64; 6]) -> Result<u64, Errno> {
    let flags = SpliceFlags::from_bits_truncate(flags as u32) | SpliceFlags::NONBLOCK;
    let (source, target) = (member.table.get(from)?, member.table.get(to)?);
    rustix::pipe::tee(source.as_fd(), target.as_fd(), (count as usize).min(MOST), flags).map(|it| it as u64)
}

/// vmsplice is writev to a pipe, or readv from one.
fn vmsplice(member: &mut Member, [pipe, at, count, flags]: [u64; 4]) -> Option<Reply> {
    let kind = |file: &std::sync::Arc<crate::files::File>| {
        let stat = rustix::fs::fstat(file.host())?;
        let is_pipe = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo;
        let mode = rustix::fs::fcntl_getfl(file.host())? & rustix::fs::OFlags::RWMODE;
        if is_pipe { Ok(mode) } else { Err(Errno::BADF) }
    };
    let number = match member.table.get(pipe).and_then(kind) {
        Ok(rustix::fs::OFlags::RDONLY) => libc::SYS_readv,
        Ok(_) => libc::SYS_writev,
        Err(errno) => return Some(Err(errno).into()),
    };
    match answer(member, number as u32, [pipe, at, count, 0, 0, 0]) {
        Some(Reply::Later { .. }) if flags & DONT_WAIT != 0 => Some(Err(Errno::AGAIN).into()),
        other => other,
    }
}

/// preadv2 takes -1 for "where the file is".
fn offset(at: u64) -> Option<u64> {
    (at != u64::MAX).then_some(at)
}

/// A guest's list of buffers: where each is and how long.
pub(super) fn parts(member: &Member, at: u64, count: u64) -> Result<Vec<(u64, usize)>, Errno> {
    const MOST_PARTS: u64 = 1024;
    if count > MOST_PARTS {
        return Err(Errno::INVAL);
    }
    let bytes = member.memory.bytes(at, count as usize * 16)?;
    let mut left = MOST;
    let mut parts = Vec::with_capacity(count as usize);
    for part in bytes.chunks_exact(16) {
        let (base, length) = part.split_at(8);
        let word = |it: &[u8]| it.try_into().map_or(0, u64::from_ne_bytes);
        let (base, length) = (word(base), word(length));
        if length > i64::MAX as u64 {
            return Err(Errno::INVAL);
        }
        let length = usize::try_from(length).map_or(left, |it| it.min(left));
        left -= length;
        parts.push((base, length));
    }
    Ok(parts)
}

/// All that the buffers hold, in a row.
pub(super) fn gather(member: &Member, parts: &[(u64, usize)]) -> Result<Vec<u8>, Errno> {
    let mut all = vec![0; parts.iter().map(|it| it.1).sum()];
    let mut rest = &mut all[..];
    for &(at, length) in parts {
        let (part, others) = rest.split_at_mut(length);
        member.memory.read(at, part)?;
        rest = others;
    }
    Ok(all)
}

/// Fills the buffers one after the other.
pub(super) fn scatter(member: &Member, parts: &[(u64, usize)], mut bytes: &[u8]) -> Result<(), Errno> {
    for &(at, length) in parts {
        let (part, rest) = bytes.split_at(length.min(bytes.len()));
        if !part.is_empty() {
            member.memory.write(at, part)?;
        }
        bytes = rest;
    }
    Ok(())
}

fn read(member: &Member, number: u64, at: u64, count: u64, offset: Option<u64>) -> Result<u64, Errno> {
    let file = member.table.get(number)?;
    let parts = parts(member, at, count)?;
    let mut bytes = vec![0; parts.iter().map(|it| it.1).sum()];
    let length = match offset {
        None => rustix::io::read(&**file, &mut bytes[..]),
        Some(offset) => rustix::io::pread(&**file, &mut bytes[..], offset),
    }?;
    scatter(member, &parts, &bytes[..length])?;
    Ok(length as u64)
}

fn write(member: &Member, number: u64, at: u64, count: u64, offset: Option<u64>) -> Result<u64, Errno> {
    let file = member.table.get(number)?;
    let bytes = gather(member, &parts(member, at, count)?)?;
    match offset {
        None => rustix::io::write(&**file, &bytes),
        Some(offset) => rustix::io::pwrite(&**file, &bytes, offset),
    }
    .map(|it| it as u64)
}

fn send_file(member: &Member, to: u64, from: u64, position: u64, count: u64) -> Result<u64, Errno> {
    let (to, from) = (member.table.get(to)?, member.table.get(from)?);
    let count = (count as usize).min(MOST);
    if position == 0 {
        return rustix::fs::sendfile(to.as_fd(), from.as_fd(), None, count).map(|it| it as u64);
    }
    let mut offset = u64::from_ne_bytes(member.memory.number(position)?);
    let sent = rustix::fs::sendfile(to.as_fd(), from.as_fd(), Some(&mut offset), count)?;
    member.memory.write(position, &offset.to_ne_bytes())?;
    Ok(sent as u64)
}

fn copy_range(member: &Member, [from, from_at, to, to_at, count]: [u64; 5]) -> Result<u64, Errno> {
    let (source, target) = (member.table.get(from)?, member.table.get(to)?);
    let load = |at: u64| match at {
        0 => Ok(None),
        at => member.memory.number(at).map(|it| Some(u64::from_ne_bytes(it))),
    };
    let (mut read_at, mut write_at) = (load(from_at)?, load(to_at)?);
    let copied = rustix::fs::copy_file_range(
        source.as_fd(),
        read_at.as_mut(),
        target.as_fd(),
        write_at.as_mut(),
        (count as usize).min(1 << 30),
    )?;
    for (at, value) in [(from_at, read_at), (to_at, write_at)] {
        if let Some(value) = value {
            member.memory.write(at, &value.to_ne_bytes())?;
        }
    }
    Ok(copied as u64)
}
