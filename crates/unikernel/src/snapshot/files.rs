//! The open files of a snapshot: what each is, so that it can be opened again where the snapshot goes on.
//!
//! What is only there while the host runs is given up or refused, never forgotten: a connection to elsewhere is found hung
//! up; what nobody could make again is an error that names it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{CWD, FileType, Mode, OFlags, SeekFrom, fcntl_getfl, fstat, openat, seek, statat};
use rustix::net::sockopt;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use serde::{Deserialize, Serialize};
use sys::Errno;

use super::sockets::{self, Ends, SavedSocket};
use crate::calls::polling::EPOLL;
use crate::error::{Error, Result};
use crate::files::{File, Made, Waiting};
use crate::interests::Interest;
use crate::member::Member;

/// An open file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedFile {
    kind: SavedKind,
    waits: bool,
    path: Vec<u8>,
    patience: [u64; 2],
}

/// What it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
enum SavedKind {
    /// A standard stream of the cell.
    Stream(u8),
    /// A file, directory or device by its path, opened with these flags, and read and written from there.
    Named {
        path: Vec<u8>,
        flags: u32,
        position: u64,
    },
    /// A file that has no name, with its content.
    Nameless {
        content: Vec<u8>,
        position: u64,
    },
    Socket(SavedSocket),
    /// It was connected with somebody elsewhere.
    HungUp,
    /// Events with data, by which of the files they are of.
    Epoll(Vec<(u32, u32, u64)>),
    Event {
        flags: u32,
        count: u64,
    },
    Timer {
        clock: u32,
        left: u64,
        interval: u64,
    },
    /// An end of a pair, with what is on its way to it.
    Pair {
        pair: u64,
        which: u8,
        ends: Ends,
        content: Vec<u8>,
    },
}

/// So much of what has no name is kept.
const MOST_CONTENT: usize = 1 << 20;

/// What of a file's flags is asked for when it is opened again.
const OPENING: OFlags = OFlags::RWMODE
    .union(OFlags::APPEND)
    .union(OFlags::DIRECTORY)
    .union(OFlags::PATH)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::DIRECT)
    .union(OFlags::DSYNC)
    .union(OFlags::SYNC);

impl SavedFile {
    /// Whether what it refers to is among so many files.
    pub(super) fn is_right(&self, files: usize) -> bool {
        match &self.kind {
            SavedKind::Stream(number) => *number < 3,
            SavedKind::Named { path, .. } => path.first() == Some(&b'/') && !path.contains(&0),
            SavedKind::Epoll(interests) => interests.iter().all(|it| (it.0 as usize) < files),
            SavedKind::Pair { which, .. } => *which < 2,
            SavedKind::Socket(it) => it.is_right(),
            SavedKind::Nameless { .. } | SavedKind::HungUp | SavedKind::Event { .. } | SavedKind::Timer { .. } => true,
        }
    }
}

fn unkept(what: &str, file: &File) -> Error {
    let path = String::from_utf8_lossy(&file.path);
    Error::Unkept(if path.is_empty() { what.to_owned() } else { format!("{what} ({path})") })
}

/// What each of those files is. They stand still.
pub(super) fn keep(member: &Member, files: &[Arc<File>]) -> Result<Vec<SavedFile>> {
    let streams = member.family.streams(member.number);
    let stream = |file: &Arc<File>| streams.iter().position(|it| it.as_ref().is_some_and(|it| Arc::ptr_eq(it, file)));
    files
        .iter()
        .map(|file| {
            let kind = match stream(file) {
                Some(number) => SavedKind::Stream(number as u8),
                None => kind_of(member, file, files)?,
            };
            Ok(SavedFile {
                kind,
                waits: file.waiting() == Waiting::Yes,
                path: file.path.clone(),
                patience: file.patience.each_ref().map(|it| it.load(Ordering::Relaxed)),
            })
        })
        .collect()
}

fn kind_of(member: &Member, file: &Arc<File>, files: &[Arc<File>]) -> Result<SavedKind> {
    let host = Error::host("looking at an open file");
    if file.path == EPOLL {
        let interests = file.interests.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |it: &Arc<File>| files.iter().position(|other| Arc::ptr_eq(it, other));
        let interest = |it: &Interest| Some((known(&it.file.upgrade()?)? as u32, it.events, it.number));
        return Ok(SavedKind::Epoll(interests.iter().filter_map(interest).collect()));
    }
    let stat = fstat(&**file).map_err(&host)?;
    match (file.made, FileType::from_raw_mode(stat.st_mode)) {
        (Made::Signals | Made::Process(_), _) => Err(unkept("a descriptor that tells of signals or a process", file)),
        (Made::Watch, _) => Err(unkept("an inotify instance", file)),
        (Made::Event(flags), _) => Ok(SavedKind::Event { flags, count: count_of(file, flags).map_err(host)? }),
        (Made::Timer(clock), _) => {
            let left = rustix::time::timerfd_gettime(&**file).map_err(host)?;
            let nanoseconds = |it: Timespec| (it.tv_sec as u64).saturating_mul(1_000_000_000) + it.tv_nsec as u64;
            let (left, interval) = (nanoseconds(left.it_value), nanoseconds(left.it_interval));
            Ok(SavedKind::Timer { clock, left, interval })
        }
        (Made::Pair(pair, which), kind) => {
            let ends = match kind {
                FileType::Fifo => Ends::Pipe,
                _ => Ends::Sockets(sockopt::socket_type(&**file).map_err(&host)?.as_raw()),
            };
            // What is on its way stands at the end that reads; the other end of a pipe has nothing to be read.
            let reads = ends != Ends::Pipe || which == 0;
            let content = if reads { content_of(file, ends).map_err(host)? } else { Vec::new() };
            let in_order = [Ends::Pipe, Ends::STREAM].contains(&ends);
            if content.len() > MOST_CONTENT || !(in_order || content.is_empty()) {
                return Err(unkept("what is on its way between two ends", file));
            }
            Ok(SavedKind::Pair { pair, which, ends, content })
        }
        (_, FileType::Socket) => match sockets::keep(file)? {
            Some(socket) => Ok(SavedKind::Socket(socket)),
            None => Ok(SavedKind::HungUp),
        },
        (_, FileType::RegularFile) if stat.st_nlink == 0 => nameless(file, stat.st_size as usize),
        (_, FileType::RegularFile | FileType::Directory | FileType::CharacterDevice) => named(member, file, &stat),
        (_, FileType::Fifo) => Err(unkept("a fifo", file)),
        _ => Err(unkept("a file of an unknown kind", file)),
    }
}

fn nameless(file: &Arc<File>, size: usize) -> Result<SavedKind> {
    if size > MOST_CONTENT {
        return Err(unkept("a large file that has no name", file));
    }
    let host = Error::host("reading an open file");
    let mut content = vec![0; size];
    let mut done = 0;
    while done < size {
        match rustix::io::pread(&**file, &mut content[done..], done as u64).map_err(&host)? {
            0 => break,
            count => done += count,
        }
    }
    content.truncate(done);
    Ok(SavedKind::Nameless { content, position: seek(&**file, SeekFrom::Current(0)).map_err(host)? })
}

/// One that has a name must be found by it.
fn named(member: &Member, file: &Arc<File>, stat: &rustix::fs::Stat) -> Result<SavedKind> {
    let path = match file.path.first() {
        Some(b'/') => file.path.clone(),
        _ => {
            let directory = crate::calls::path_of(member.cwd.as_fd()).unwrap_or_default();
            [&directory[..], b"/", &file.path].concat()
        }
    };
    let there = statat(CWD, &path[..], rustix::fs::AtFlags::empty());
    let same = there.is_ok_and(|it| (it.st_dev, it.st_ino, it.st_rdev) == (stat.st_dev, stat.st_ino, stat.st_rdev));
    let path = match FileType::from_raw_mode(stat.st_mode) {
        _ if same => path,
        FileType::Directory => {
            crate::calls::path_of(file.as_fd()).map_err(|_| unkept("a directory that was removed", file))?
        }
        _ => return Err(unkept("a file that has another name by now", file)),
    };
    let flags = fcntl_getfl(&**file).map_err(Error::host("looking at an open file"))? & OPENING;
    // Devices have no position.
    let position = if flags.contains(OFlags::PATH) { 0 } else { seek(&**file, SeekFrom::Current(0)).unwrap_or(0) };
    Ok(SavedKind::Named { path, flags: flags.bits(), position })
}

/// Takes out what it counts and puts it back.
fn count_of(file: &File, flags: u32) -> std::result::Result<u64, Errno> {
    let one = EventfdFlags::from_bits_retain(flags).contains(EventfdFlags::SEMAPHORE);
    let mut count = 0u64;
    loop {
        let mut bytes = [0; 8];
        match rustix::io::read(file, &mut bytes) {
            Ok(_) => count = count.saturating_add(u64::from_ne_bytes(bytes)),
            Err(Errno::AGAIN) => break,
            Err(errno) => return Err(errno),
        }
        if !one {
            break;
        }
    }
    if count > 0 {
        rustix::io::write(file, &count.to_ne_bytes())?;
    }
    Ok(count)
}

/// What can be read of it, which stays there.
fn content_of(file: &File, ends: Ends) -> std::result::Result<Vec<u8>, Errno> {
    let mut content = vec![0; MOST_CONTENT + 1];
    let count = if ends == Ends::Pipe {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let _ = rustix::pipe::fcntl_setpipe_size(&writer, MOST_CONTENT);
        match rustix::pipe::tee(file, &writer, MOST_CONTENT, rustix::pipe::SpliceFlags::NONBLOCK) {
            Ok(0) | Err(Errno::AGAIN) => 0,
            Ok(copied) => {
                let mut done = 0;
                while done < copied {
                    done += rustix::io::read(&reader, &mut content[done..copied])?.max(1);
                }
                copied
            }
            Err(errno) => return Err(errno),
        }
    } else {
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        match rustix::net::recv(file, &mut content[..], flags) {
            Ok((count, _)) => count,
            Err(Errno::AGAIN | Errno::NOTCONN | Errno::CONNRESET) => 0,
            Err(errno) => return Err(errno),
        }
    };
    content.truncate(count);
    Ok(content)
}

/// Which of them are sockets that listen.
pub(super) fn listening(saved: &[SavedFile]) -> impl Iterator<Item = usize> {
    let listens = |it: &SavedFile| matches!(&it.kind, SavedKind::Socket(socket) if socket.listens());
    saved.iter().enumerate().filter(move |(_, it)| listens(it)).map(|(index, _)| index)
}

/// Opens them all again, but for those that are there already.
pub(super) fn open(
    saved: &[SavedFile],
    streams: &[Arc<File>; 3],
    there: impl Fn(usize) -> Option<Arc<File>>,
) -> Result<Vec<Arc<File>>> {
    let mut files: Vec<Arc<File>> = Vec::with_capacity(saved.len());
    let mut ends: Vec<(u64, u8, OwnedFd)> = Vec::new();
    for (index, it) in saved.iter().enumerate() {
        if let Some(file) = there(index) {
            files.push(file);
            continue;
        }
        let made = match it.kind {
            SavedKind::Event { flags, .. } => Made::Event(flags),
            SavedKind::Timer { clock, .. } => Made::Timer(clock),
            // Numbers of pairs that are made from here on are others.
            SavedKind::Pair { pair, which, .. } => Made::Pair(pair | 1 << 63, which),
            _ => Made::Otherwise,
        };
        if let SavedKind::Stream(number) = it.kind {
            files.push(streams[usize::from(number)].clone());
            continue;
        }
        let fd = open_one(&it.kind, &mut ends)?;
        let waiting = if it.waits { Waiting::Yes } else { Waiting::No };
        let file = File::made(fd, waiting, &it.path, made);
        for (place, patience) in file.patience.iter().zip(it.patience) {
            place.store(patience, Ordering::Relaxed);
        }
        files.push(file);
    }
    send_again(saved, &files, &ends)?;
    for (it, set) in saved.iter().zip(&files) {
        if let SavedKind::Epoll(interests) = &it.kind {
            let mut noted = set.interests.lock().unwrap_or_else(PoisonError::into_inner);
            for (index, events, data) in interests {
                let file = &files[*index as usize];
                let flags = EventFlags::from_bits_retain(*events);
                if epoll::add(&**set, &**file, EventData::new_u64(*data), flags).is_ok() {
                    // By which descriptor it was added is not kept: what an event tells of is found by the program.
                    let (file, host) = (Arc::downgrade(file), file.as_fd().as_raw_fd());
                    noted.put(host, Interest { file, descriptor: u64::MAX, events: *events, number: *data });
                }
            }
        }
    }
    Ok(files)
}

/// What was on its way to an end comes from the other, which may have been closed since.
fn send_again(saved: &[SavedFile], files: &[Arc<File>], closed: &[(u64, u8, OwnedFd)]) -> Result<()> {
    let is = |it: &SavedFile, pair: u64, which: u8| matches!(it.kind, SavedKind::Pair { pair: a, which: b, .. } if (a, b) == (pair, which));
    for it in saved {
        let SavedKind::Pair { pair, which, ends, content } = &it.kind else { continue };
        if content.is_empty() {
            continue;
        }
        let other = saved.iter().position(|it| is(it, *pair, 1 - *which)).map(|at| files[at].as_fd());
        let other =
            other.or_else(|| closed.iter().find(|it| (it.0, it.1) == (*pair, 1 - *which)).map(|it| it.2.as_fd()));
        let Some(other) = other else { continue };
        let host = Error::host("filling a pipe of a snapshot again");
        if *ends == Ends::Pipe {
            rustix::pipe::fcntl_setpipe_size(other, content.len().max(1 << 16)).map_err(&host)?;
        }
        rustix::fs::fcntl_setfl(other, fcntl_getfl(other).map_err(&host)? | OFlags::NONBLOCK).map_err(&host)?;
        let mut rest = &content[..];
        while !rest.is_empty() {
            rest = &rest[rustix::io::write(other, rest).map_err(&host)?..];
        }
    }
    Ok(())
}

fn open_one(kind: &SavedKind, ends: &mut Vec<(u64, u8, OwnedFd)>) -> Result<OwnedFd> {
    let host = Error::host("opening a file of a snapshot again");
    match kind {
        SavedKind::Stream(_) | SavedKind::HungUp => sockets::hung_up().map_err(host),
        SavedKind::Named { path, flags, position } => {
            let flags = OFlags::from_bits_retain(*flags) & OPENING;
            let opened = openat(CWD, &path[..], flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty());
            let opened =
                opened.map_err(|errno| Error::Elsewhere(format!("{}: {errno}", String::from_utf8_lossy(path))))?;
            if *position > 0 {
                seek(&opened, SeekFrom::Start(*position)).map_err(host)?;
            }
            Ok(opened)
        }
        SavedKind::Nameless { content, position } => {
            let file = crate::procfs::file(content).map_err(&host)?;
            seek(&file, SeekFrom::Start(*position)).map_err(host)?;
            Ok(file)
        }
        SavedKind::Socket(socket) => sockets::open(socket),
        SavedKind::Epoll(_) => epoll::create(CreateFlags::CLOEXEC).map_err(host),
        SavedKind::Event { flags, count } => {
            let flags = EventfdFlags::from_bits_truncate(*flags) | EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
            let event = eventfd(0, flags).map_err(&host)?;
            if *count > 0 {
                rustix::io::write(&event, &count.to_ne_bytes()).map_err(host)?;
            }
            Ok(event)
        }
        SavedKind::Timer { clock, left, interval } => {
            let clock = match i32::try_from(*clock) {
                Ok(libc::CLOCK_REALTIME) => TimerfdClockId::Realtime,
                Ok(libc::CLOCK_BOOTTIME) => TimerfdClockId::Boottime,
                _ => TimerfdClockId::Monotonic,
            };
            let timer = rustix::time::timerfd_create(clock, TimerfdFlags::CLOEXEC).map_err(&host)?;
            let time = |it: u64| Timespec { tv_sec: (it / 1_000_000_000) as i64, tv_nsec: (it % 1_000_000_000) as i64 };
            let value = Itimerspec { it_value: time(*left), it_interval: time(*interval) };
            rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &value).map_err(host)?;
            Ok(timer)
        }
        SavedKind::Pair { pair, which, ends: kind, .. } => {
            if let Some(at) = ends.iter().position(|it| (it.0, it.1) == (*pair, *which)) {
                return Ok(ends.swap_remove(at).2);
            }
            let (first, second) = sockets::pair(*kind).map_err(host)?;
            let (own, other) = if *which == 0 { (first, second) } else { (second, first) };
            ends.push((*pair, 1 - *which, other));
            Ok(own)
        }
    }
}
