//! Locks of files: those of processes on parts, those of open files, those of whole files. None of them waits: who has to
//! asks again in a moment.

use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{OFlags, SeekFrom};
use sys::Errno;

use super::Reply;
use crate::files::{File, OnExec};
use crate::locks::{Carrier, END, Held, Key, Kind, Step};
use crate::member::Member;

pub(crate) fn answer(member: &mut Member, number: u32, [a, b, c, ..]: [u64; 6]) -> Option<Reply> {
    /// As a guest says that who waited for a lock was interrupted; the number is the kernel's own for that.
    const CANCEL: i32 = 1029;
    let again = |result: Result<u64, Errno>| match result {
        Err(Errno::AGAIN) => Reply::AfterMoment,
        other => other.into(),
    };
    match (i64::from(number), b as i32) {
        (libc::SYS_flock, _) => Some(whole(member, a, b)),
        (libc::SYS_fcntl, libc::F_OFD_GETLK | libc::F_OFD_SETLK) => Some(of_file(member, a, b as i32, c).into()),
        (libc::SYS_fcntl, libc::F_OFD_SETLKW) => Some(again(of_file(member, a, libc::F_OFD_SETLK, c))),
        (libc::SYS_fcntl, libc::F_GETLK) => Some(look(member, a, c).into()),
        (libc::SYS_fcntl, libc::F_SETLK) => Some(set(member, a, c).into()),
        (libc::SYS_fcntl, libc::F_SETLKW) => Some(match set(member, a, c) {
            Err(Errno::AGAIN) => again(wait(member, a, c)),
            other => other.into(),
        }),
        (libc::SYS_fcntl, CANCEL) => {
            member.family.locks.wait_no_more(member.number);
            Some(Ok(0).into())
        }
        _ => None,
    }
}

/// What a program asks for.
struct Asked {
    file: Arc<File>,
    key: Key,
    range: Range<u64>,
    /// Nothing to give it up.
    kind: Option<Kind>,
}

type Record = [u8; size_of::<libc::flock>()];

const START: usize = 8;
const LENGTH: usize = 16;
const HOLDER: Range<usize> = 24..28;

fn key_of(file: &File) -> Result<Key, Errno> {
    let stat = rustix::fs::fstat(file.host())?;
    Ok((stat.st_dev, stat.st_ino))
}

fn read(member: &Member, number: u64, at: u64) -> Result<Asked, Errno> {
    let file = member.table.get(number)?.clone();
    let record: Record = member.memory.number(at)?;
    let half = |at: usize| i32::from(i16::from_ne_bytes([record[at], record[at + 1]]));
    let word = |at: usize| record[at..at + 8].try_into().map_or(0, i64::from_ne_bytes);
    let kind = match half(0) {
        libc::F_RDLCK => Some(Kind::Read),
        libc::F_WRLCK => Some(Kind::Write),
        libc::F_UNLCK => None,
        _ => return Err(Errno::INVAL),
    };
    let flags = rustix::fs::fcntl_getfl(file.host())?;
    if flags.contains(OFlags::PATH) {
        return Err(Errno::BADF);
    }
    let from = match half(2) {
        libc::SEEK_SET => 0,
        libc::SEEK_CUR => rustix::fs::seek(file.host(), SeekFrom::Current(0))? as i64,
        libc::SEEK_END => rustix::fs::fstat(file.host())?.st_size,
        _ => return Err(Errno::INVAL),
    };
    let start = from.checked_add(word(START)).ok_or(Errno::OVERFLOW)?;
    let (start, end) = match word(LENGTH) {
        0 => (start, None),
        length if length > 0 => (start, Some(start.checked_add(length).ok_or(Errno::OVERFLOW)?)),
        length => (start.checked_add(length).ok_or(Errno::INVAL)?, Some(start)),
    };
    let start = u64::try_from(start).map_err(|_| Errno::INVAL)?;
    let end = end.map_or(Ok(END), |it| u64::try_from(it).map_err(|_| Errno::INVAL))?;
    Ok(Asked { key: key_of(&file)?, file, range: start..end, kind })
}

/// A lock as the kernel takes it and as programs are told of it.
fn record(range: &Range<u64>, kind: Option<Kind>, holder: u32) -> Record {
    let kind = match kind {
        Some(Kind::Read) => libc::F_RDLCK,
        Some(Kind::Write) => libc::F_WRLCK,
        None => libc::F_UNLCK,
    };
    let length = if range.end >= END { 0 } else { range.end - range.start };
    let mut record = [0; size_of::<libc::flock>()];
    record[..2].copy_from_slice(&(kind as i16).to_ne_bytes());
    record[START..START + 8].copy_from_slice(&range.start.to_ne_bytes());
    record[LENGTH..LENGTH + 8].copy_from_slice(&length.to_ne_bytes());
    record[HOLDER].copy_from_slice(&holder.to_ne_bytes());
    record
}

/// Makes it so at the host: locks of the open file, which last until it is closed for good.
fn at_host(step: &Step) -> Result<(), Errno> {
    let mut record = record(&step.range, step.kind, 0);
    sys::file_control::lock(step.carrier.0.as_fd(), libc::F_OFD_SETLK, &mut record)
}

fn set(member: &Member, number: u64, at: u64) -> Result<u64, Errno> {
    let asked = read(member, number, at)?;
    let mode = rustix::fs::fcntl_getfl(asked.file.host())? & OFlags::RWMODE;
    let fits = match asked.kind {
        Some(Kind::Read) => mode != OFlags::WRONLY,
        Some(Kind::Write) => mode != OFlags::RDONLY,
        None => true,
    };
    if !fits {
        return Err(Errno::BADF);
    }
    let (family, whose) = (&member.family, (member.number, &Carrier(asked.file)));
    family.locks.set(asked.key, whose, &asked.range, asked.kind, &mut at_host).map(|()| 0)
}

/// Somebody is in the way, and the process waits; EAGAIN if there is nothing against that.
fn wait(member: &Member, number: u64, at: u64) -> Result<u64, Errno> {
    let asked = read(member, number, at)?;
    let kind = asked.kind.ok_or(Errno::AGAIN)?;
    member.family.locks.wait(asked.key, member.number, &asked.range, kind)?;
    Err(Errno::AGAIN)
}

fn look(member: &Member, number: u64, at: u64) -> Result<u64, Errno> {
    let asked = read(member, number, at)?;
    let kind = asked.kind.ok_or(Errno::INVAL)?;
    let told = match member.family.locks.look(asked.key, member.number, &asked.range, kind) {
        Ok(Held { owner, kind, range, .. }) => record(&range, Some(kind), owner),
        Err(carrier) => {
            let file = carrier.map_or(asked.file, |it| it.0);
            let mut record = record(&asked.range, Some(kind), 0);
            sys::file_control::lock(file.as_fd(), libc::F_OFD_GETLK, &mut record)?;
            record
        }
    };
    if i16::from_ne_bytes([told[0], told[1]]) == libc::F_UNLCK as i16 {
        // All else stays as the program wrote it.
        return member.memory.write(at, &told[..2]).map(|()| 0);
    }
    member.memory.write(at, &told).map(|()| 0)
}

/// Locks of an open file, which are the host's.
fn of_file(member: &Member, number: u64, operation: i32, at: u64) -> Result<u64, Errno> {
    let file = member.table.get(number)?;
    let mut record: Record = member.memory.number(at)?;
    sys::file_control::lock(file.as_fd(), operation, &mut record)?;
    member.memory.write(at, &record)?;
    Ok(0)
}

/// flock. Who waits for a lock asks again.
fn whole(member: &Member, number: u64, operation: u64) -> Reply {
    use rustix::fs::FlockOperation;
    let lock = |operation| member.table.get(number).and_then(|file| rustix::fs::flock(file, operation)).map(|()| 0);
    let result = match operation as i32 & !libc::LOCK_NB {
        libc::LOCK_SH => lock(FlockOperation::NonBlockingLockShared),
        libc::LOCK_EX => lock(FlockOperation::NonBlockingLockExclusive),
        libc::LOCK_UN => lock(FlockOperation::Unlock),
        _ => member.table.get(number).and(Err(Errno::INVAL)),
    };
    match result {
        Err(Errno::AGAIN) if operation as i32 & libc::LOCK_NB == 0 => Reply::AfterMoment,
        other => other.into(),
    }
}

/// Which files a call closes a descriptor of, where that is of interest: a process that closes any descriptor of a file
/// gives up its locks there.
pub(crate) fn closed_by(member: &Member, number: u32, [a, b, c, ..]: [u64; 6]) -> Vec<Key> {
    const CLOSE_ON_EXEC: u64 = 4;
    let each = |first: u64, last: u64| {
        let there = member.table.each().filter(|it| (first..=last).contains(&(it.0 as u64)));
        there.filter_map(|it| key_of(it.1).ok()).collect()
    };
    let (a, b) = (u64::from(a as u32), u64::from(b as u32));
    match i64::from(number) {
        libc::SYS_close | libc::SYS_close_range | libc::SYS_dup2 | libc::SYS_dup3
            if !member.family.locks.has(member.number) =>
        {
            Vec::new()
        }
        libc::SYS_close => each(a, a),
        libc::SYS_dup2 | libc::SYS_dup3 if a != b => each(b, b),
        libc::SYS_close_range if c & CLOSE_ON_EXEC == 0 => each(a, b),
        _ => Vec::new(),
    }
}

impl Member {
    /// Descriptors of those files were closed.
    pub(crate) fn give_up_locks(&self, keys: &[Key]) {
        keys.iter().for_each(|key| self.family.locks.give_up(*key, self.number, &mut at_host));
    }

    /// The process becomes another program, and closes what is marked so.
    pub(crate) fn give_up_locks_on_exec(&self) {
        if self.family.locks.has(self.number) {
            let closed = self.table.each().filter(|it| it.2 == OnExec::Close);
            self.give_up_locks(&closed.filter_map(|it| key_of(it.1).ok()).collect::<Vec<_>>());
        }
    }

    /// The process has ended.
    pub(crate) fn give_up_all_locks(&self) {
        self.family.locks.end(self.number, &mut at_host);
    }
}
