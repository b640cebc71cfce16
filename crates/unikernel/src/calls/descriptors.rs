//! Descriptors themselves: duplicating, closing, flags, and what makes new ones of nothing.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::OFlags;
use sys::Errno;

use super::Reply;
use crate::files::{Closing, File, Made, OnExec, Waiting};
use crate::member::Member;

pub(crate) fn answer(member: &mut Member, number: u32, [a, b, c, ..]: [u64; 6]) -> Option<Reply> {
    Some(
        match i64::from(number) {
            libc::SYS_close => member.table.close(a).map(|()| 0),
            libc::SYS_close_range => close_range(member, a, b, c),
            libc::SYS_dup => duplicate(member, a, 0, OnExec::Keep),
            libc::SYS_dup2 if a as u32 == b as u32 => member.table.get(a).map(|_| b),
            libc::SYS_dup2 => replace(member, a, b, 0),
            libc::SYS_dup3 if a as u32 == b as u32 || c & !u64::from(OFlags::CLOEXEC.bits()) != 0 => Err(Errno::INVAL),
            libc::SYS_dup3 => replace(member, a, b, c),
            libc::SYS_fcntl => control(member, a, b, c),
            libc::SYS_pipe2 => pipe(member, a, b),
            libc::SYS_ioctl => device(member, a, b, c),
            _ => return None,
        }
        .into(),
    )
}

fn close_range(member: &mut Member, first: u64, last: u64, flags: u64) -> Result<u64, Errno> {
    const CLOSE_ON_EXEC: u64 = 4;
    let (first, last) = (u64::from(first as u32), u64::from(last as u32));
    if first > last {
        return Err(Errno::INVAL);
    }
    let what = if flags & CLOSE_ON_EXEC != 0 { Closing::OnExec } else { Closing::Now };
    member.table.each_between(first, last, what);
    Ok(0)
}

fn duplicate(member: &mut Member, number: u64, lowest: usize, on_exec: OnExec) -> Result<u64, Errno> {
    let file = member.table.get(number)?.clone();
    member.table.add(file, on_exec, lowest)
}

fn replace(member: &mut Member, number: u64, target: u64, flags: u64) -> Result<u64, Errno> {
    let file = member.table.get(number)?.clone();
    let target = usize::try_from(target as u32).map_err(|_| Errno::BADF)?;
    member.table.put(target, file, OnExec::by(flags)).map_err(|_| Errno::BADF)
}

fn control(member: &mut Member, number: u64, operation: u64, argument: u64) -> Result<u64, Errno> {
    let lowest = argument as usize;
    match operation as i32 {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC if lowest >= member.table.limit => Err(Errno::INVAL),
        libc::F_DUPFD => duplicate(member, number, lowest, OnExec::Keep),
        libc::F_DUPFD_CLOEXEC => duplicate(member, number, lowest, OnExec::Close),
        libc::F_GETFD => member.table.on_exec(number).map(|it| u64::from(it == OnExec::Close)),
        libc::F_SETFD => {
            let on_exec = if argument & 1 != 0 { OnExec::Close } else { OnExec::Keep };
            member.table.set_on_exec(number, on_exec).map(|()| 0)
        }
        libc::F_GETFL => {
            let file = member.table.get(number)?;
            let mut flags = rustix::fs::fcntl_getfl(file.host())?;
            flags.set(OFlags::NONBLOCK, file.waiting() == Waiting::No);
            Ok(u64::from(flags.bits()))
        }
        libc::F_SETFL => {
            let file = member.table.get(number)?;
            member.set_waiting(file, Waiting::by(argument));
            let wanted = OFlags::from_bits_retain(argument as u32) | OFlags::NONBLOCK;
            let host = if wanted.contains(OFlags::DIRECT) { file.as_fd() } else { file.host() };
            rustix::fs::fcntl_setfl(host, wanted).map(|()| 0)
        }
        libc::F_GETOWN | libc::F_SETOWN => member.table.get(number).map(|_| 0),
        libc::F_GETPIPE_SZ => sys::file_control::number(member.table.get(number)?.host(), operation as i32, 0),
        libc::F_SETPIPE_SZ | libc::F_ADD_SEALS | libc::F_GET_SEALS => {
            let file = member.table.get(number)?;
            sys::file_control::number(file.as_fd(), operation as i32, argument)
        }
        _ => Err(Errno::INVAL),
    }
}

fn pipe(member: &mut Member, into: u64, flags: u64) -> Result<u64, Errno> {
    let allowed = rustix::pipe::PipeFlags::from_bits(flags as u32).ok_or(Errno::INVAL)?;
    let ends = rustix::pipe::pipe_with(allowed | rustix::pipe::PipeFlags::CLOEXEC)?;
    add_files(member, crate::pipes::files([ends.0, ends.1], flags), flags, into)
}

/// Adds two new files and writes their numbers for the guest.
pub(super) fn add_pair(
    member: &mut Member,
    ends: [OwnedFd; 2],
    flags: u64,
    into: u64,
    name: &[u8],
) -> Result<u64, Errno> {
    let ([first, second], made) = (ends, Made::pair());
    let new = |fd, which: usize| File::made(fd, Waiting::by(flags), name, made[which]);
    add_files(member, [new(first, 0), new(second, 1)], flags, into)
}

fn add_files(member: &mut Member, [first, second]: [Arc<File>; 2], flags: u64, into: u64) -> Result<u64, Errno> {
    let mut add = |file| member.table.add(file, OnExec::by(flags), 0);
    let first = add(first)?;
    let second = match add(second) {
        Ok(second) => second,
        Err(errno) => {
            let _ = member.table.close(first);
            return Err(errno);
        }
    };
    let numbers = [first as i32, second as i32].map(i32::to_ne_bytes).concat();
    let written = member.memory.write(into, &numbers);
    if written.is_err() {
        let _ = member.table.close(first);
        let _ = member.table.close(second);
    }
    written.map(|()| 0)
}

fn must_be_terminal(file: &File) -> Result<(), Errno> {
    if file.is_terminal() { Ok(()) } else { Err(Errno::NOTTY) }
}

/// The few that programs make of files, sockets and terminals. Others have nothing to be made of here.
fn device(member: &mut Member, number: u64, request: u64, argument: u64) -> Result<u64, Errno> {
    /// The kernel's `struct termios`, which is shorter than the C library's.
    const TERMIOS: usize = 36;
    /// What the request does with memory, by its number; terminals' are older than the scheme that tells by the number.
    const FIOASYNC: u64 = 0x5452;
    const IN: [(u64, usize); 7] = [
        (libc::TCSETS, TERMIOS),
        (libc::TCSETSW, TERMIOS),
        (libc::TCSETSF, TERMIOS),
        (libc::TIOCSWINSZ, 8),
        (libc::TIOCSPGRP, 4),
        (libc::FIONBIO, 4),
        (FIOASYNC, 4),
    ];
    const OUT: [(u64, usize); 4] =
        [(libc::TCGETS, TERMIOS), (libc::TIOCGWINSZ, 8), (libc::FIONREAD, 4), (libc::TIOCOUTQ, 4)];
    /// Questions about network interfaces, each in a `struct ifreq` in which the answer is, too.
    const INTERFACE: [u64; 8] = [
        libc::SIOCGIFNAME,
        libc::SIOCGIFFLAGS,
        libc::SIOCGIFADDR,
        libc::SIOCGIFBRDADDR,
        libc::SIOCGIFNETMASK,
        libc::SIOCGIFMTU,
        libc::SIOCGIFHWADDR,
        libc::SIOCGIFINDEX,
    ];
    const INTERFACE_SIZE: usize = 40;
    match request {
        libc::FIOCLEX => return member.table.set_on_exec(number, OnExec::Close).map(|()| 0),
        // Whoever has a terminal open has it.
        libc::TIOCSCTTY => return must_be_terminal(member.table.get(number)?).map(|()| 0),
        libc::FIONCLEX => return member.table.set_on_exec(number, OnExec::Keep).map(|()| 0),
        _ => {}
    }
    let file = member.table.get(number)?;
    if let Some((_, size)) = IN.iter().find(|it| it.0 == request) {
        let mut bytes = member.memory.bytes(argument, *size)?;
        if request == libc::FIONBIO {
            let waiting = if bytes.iter().any(|it| *it != 0) { Waiting::No } else { Waiting::Yes };
            member.set_waiting(file, waiting);
            return Ok(0);
        }
        if request == FIOASYNC {
            // Who asks for SIGIO looks for input by itself, too.
            return Ok(0);
        }
        if request == libc::TIOCSPGRP {
            // Process groups of the guest are not the host's.
            let group = bytes.first_chunk().map_or(0, |it| u32::from_ne_bytes(*it));
            must_be_terminal(file)?;
            return member.family.set_foreground(member.number, group).map(|()| 0);
        }
        return sys::file_control::device(file.host(), request, &mut bytes);
    }
    if request == libc::TIOCGPGRP {
        must_be_terminal(file)?;
        let group = member.family.foreground(member.number)?;
        return member.memory.write(argument, &group.to_ne_bytes()).map(|()| 0);
    }
    if INTERFACE.contains(&request) {
        let mut bytes = member.memory.bytes(argument, INTERFACE_SIZE)?;
        let result = sys::file_control::device(file.as_fd(), request, &mut bytes)?;
        member.memory.write(argument, &bytes)?;
        return Ok(result);
    }
    let (_, size) = OUT.iter().find(|it| it.0 == request).ok_or(Errno::NOTTY)?;
    if let Some(used) = file.end().filter(|_| request == libc::FIONREAD).and_then(|it| it.used()) {
        return member.memory.write(argument, &used.to_ne_bytes()).map(|()| 0);
    }
    let mut bytes = vec![0; *size];
    let result = sys::file_control::device(file.host(), request, &mut bytes)?;
    member.memory.write(argument, &bytes)?;
    Ok(result)
}
