//! Passing a call on to the host, as its row says.

#![expect(unsafe_code, reason = "makes the calls of the table, which says how far the kernel follows each pointer")]

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec};
use sys::Errno;

use super::Reply;
use super::table::{Gives, Kind, Row};
use crate::files::{File, Made, OnExec, Waiting};
use crate::member::Member;
use crate::raw::{self, Argument};

/// The most that one call moves: the guest sees a short read or write, as from any pipe.
pub(crate) const MOST: usize = 1 << 20;

/// The longest path, with its zero.
pub(crate) const PATH: usize = 4096;

/// An argument in the tender's memory.
enum Local {
    Number(u64),
    Bytes(Vec<u8>),
    /// To be copied to the guest afterwards: whole, or as much as the result says.
    Out {
        bytes: Vec<u8>,
        at: u64,
        extent: Extent,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    Result,
}

pub(crate) fn on(member: &mut Member, row: &Row, arguments: [u64; 6]) -> Reply {
    if i64::from(row.number()) == libc::SYS_read && would_be_lost(member, arguments) {
        return Err(Errno::FAULT).into();
    }
    match try_on(member, row, arguments) {
        // Who opened a fifo before anybody wrote to it waited for that on Linux, and waits for it here when it reads.
        Ok(0)
            if i64::from(row.number()) == libc::SYS_read && arguments[2] > 0 && had_no_writer(member, arguments[0]) =>
        {
            later(member, arguments[0], super::IN, 0)
        }
        Err(Errno::AGAIN) if row.waits != 0 => later(member, arguments[0], row.waits, 0),
        Err(Errno::PIPE) => {
            super::sockets::broken_pipe(member);
            Err(Errno::PIPE).into()
        }
        other => Reply::Done(other),
    }
}

/// Whether there is something to be read of a file, and no place for it where the guest wants it.
pub(super) fn would_be_lost(member: &Member, [number, at, length, ..]: [u64; 6]) -> bool {
    if length == 0 || member.memory.is_writable(at) {
        return false;
    }
    let waiting = |file: &Arc<File>| rustix::io::ioctl_fionread(file).is_ok_and(|it| it > 0);
    member.table.get(number).is_ok_and(waiting)
}

/// Whether that is a fifo that nobody has written to since it was opened.
fn had_no_writer(member: &Member, descriptor: u64) -> bool {
    let Ok(file) = member.table.get(descriptor) else { return false };
    if !file.is_fifo || file.waiting() == Waiting::No {
        return false;
    }
    let mut asked = [PollFd::new(&**file, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // Once a writer has been there, its absence is an event.
    rustix::event::poll(&mut asked, Some(&now)).is_ok_and(|found| found == 0)
}

/// What to say after EAGAIN: whether the guest waits for that descriptor.
pub(crate) fn later(member: &Member, descriptor: u64, events: u32, argument: u32) -> Reply {
    match member.table.get(descriptor) {
        Ok(file) if file.waiting() == Waiting::Yes => Reply::Later { events, argument },
        _ => Reply::Done(Err(Errno::AGAIN)),
    }
}

fn try_on(member: &mut Member, row: &Row, given: [u64; 6]) -> Result<u64, Errno> {
    // Files stay open while the call runs, whatever it does to the table.
    let mut held: Vec<Arc<File>> = Vec::new();
    let mut locals: [Local; 6] = [const { Local::Number(0) }; 6];
    for (index, kind) in row.arguments.iter().enumerate() {
        locals[index] = local(member, *kind, index, given, &mut held)?;
    }
    // Lengths as they were clamped.
    for (index, kind) in row.arguments.iter().enumerate() {
        if let Kind::In(length) | Kind::Out(length) = kind {
            let fits = match &locals[index] {
                Local::Bytes(bytes) | Local::Out { bytes, .. } => bytes.len() as u64,
                Local::Number(_) => 0,
            };
            locals[*length] = Local::Number(fits);
        }
    }
    let mut words = locals.each_mut().map(|it| match it {
        Local::Number(number) => Argument::Number(*number),
        Local::Bytes(bytes) | Local::Out { bytes, .. } => Argument::Memory(bytes),
    });
    // SAFETY: every pointer of the call is one of the row's memories, which are as long as the kernel follows them: the
    // length arguments say so, or the row does, or a zero ends it.
    let mut call = || unsafe { raw::call(row.number(), &mut words) };
    let result = if row.is_from_directory() { super::paths::from_directory(member, call) } else { call() }?;
    for it in &locals {
        if let Local::Out { bytes, at, extent } = it {
            let length = if *extent == Extent::Result { bytes.len().min(result as usize) } else { bytes.len() };
            if length > 0 && *at != 0 {
                member.memory.write(*at, &bytes[..length])?;
            }
        }
    }
    match row.gives {
        Gives::Number => Ok(result),
        Gives::Descriptor(flags) => {
            let flags = given[flags];
            // SAFETY: the call gave a new descriptor, which nobody else knows of.
            let fd = unsafe { std::os::fd::FromRawFd::from_raw_fd(result as i32) };
            // The flag that closes on exec is everywhere the same but here.
            let closing =
                i64::from(row.number()) == libc::SYS_memfd_create && flags & u64::from(libc::MFD_CLOEXEC) != 0;
            let on_exec = if closing { OnExec::Close } else { OnExec::by(flags) };
            let made = Made::by(row.number(), given);
            member.table.add(File::made(fd, Waiting::by(flags), b"anon_inode", made), on_exec, 0)
        }
    }
}

/// A path of the guest's, with its zero.
pub(super) fn path(member: &Member, at: u64) -> Result<Vec<u8>, Errno> {
    let text = member.memory.string(at, PATH)?;
    // The tender has no /proc that could say it.
    if text == b"/proc/self/exe\0" && !member.program.path.is_empty() {
        return Ok([&member.program.path[..], b"\0"].concat());
    }
    Ok(text)
}

fn local(
    member: &Member,
    kind: Kind,
    index: usize,
    given: [u64; 6],
    held: &mut Vec<Arc<File>>,
) -> Result<Local, Errno> {
    let at = given[index];
    Ok(match kind {
        Kind::Number => Local::Number(at),
        Kind::Mode => Local::Number(at & !u64::from(member.umask)),
        Kind::File | Kind::Node => {
            let file = member.table.get(at)?.clone();
            let host = if kind == Kind::Node { file.host() } else { file.as_fd() };
            let number = host.as_raw_fd();
            held.push(file);
            Local::Number(number as u64)
        }
        Kind::Directory if at as i32 == libc::AT_FDCWD => Local::Number(member.cwd.as_raw_fd() as u64),
        // An absolute path does without.
        Kind::Directory => match member.table.get(at) {
            Ok(file) => {
                let number = file.host().as_raw_fd();
                held.push(file.clone());
                Local::Number(number as u64)
            }
            Err(_) => Local::Number(u64::MAX),
        },
        Kind::Path if at == 0 => Local::Number(0),
        Kind::Path => Local::Bytes(path(member, at)?),
        Kind::In(length) => Local::Bytes(member.memory.bytes(at, (given[length] as usize).min(MOST))?),
        Kind::Out(length) => {
            Local::Out { bytes: vec![0; (given[length] as usize).min(MOST)], at, extent: Extent::Result }
        }
        Kind::InFixed(_) if at == 0 => Local::Number(0),
        Kind::InFixed(length) => Local::Bytes(member.memory.bytes(at, length)?),
        Kind::OutFixed(_) if at == 0 => Local::Number(0),
        Kind::OutFixed(length) => Local::Out { bytes: vec![0; length], at, extent: Extent::Whole },
    })
}
