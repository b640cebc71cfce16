//! Open files and the numbers by which a process knows them.
//!
//! The host's descriptors never wait, whatever the guest asked for: each is set to O_NONBLOCK, and whether the guest wants
//! to wait is remembered here, with the open file, as Linux does.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use rustix::fs::{FileType, OFlags};
use rustix::net::{AddressFamily, SocketType, sockopt};
use sys::Errno;

use crate::interests::Interests;
use crate::pipes::End;

/// An open file of a guest.
#[derive(Debug)]
pub(crate) struct File {
    fd: OwnedFd,
    /// What it is of a pipe between members.
    end: Option<End>,
    waits: AtomicBool,
    /// A connection was begun for a guest that waits for its end.
    pub(crate) connecting: AtomicBool,
    /// How long a guest waits to receive and to send at most, in nanoseconds; 0 for ever.
    pub(crate) patience: [AtomicU64; 2],
    /// It was opened by a path, and is a fifo.
    pub(crate) is_fifo: bool,
    /// How it was found, for `/proc/self/fd`.
    pub(crate) path: Vec<u8>,
    /// What made it, where the host does not say.
    pub(crate) made: Made,
    /// For an epoll instance, what is in it.
    pub(crate) interests: Mutex<Interests>,
    /// Of which signals it tells, if it does.
    pub(crate) signals: AtomicU64,
    is_stream: OnceLock<bool>,
    is_terminal: OnceLock<bool>,
    /// What went wrong with something that was posted; 0 for nothing.
    late: AtomicI32,
}

impl File {
    /// Takes up a descriptor that the host opened. `waiting` is what the guest asked for.
    pub(crate) fn new(fd: OwnedFd, waiting: Waiting, path: &[u8]) -> Arc<Self> {
        if let Ok(flags) = rustix::fs::fcntl_getfl(&fd) {
            // Regular files accept it, too, and take no notice.
            let _ = rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK);
        }
        Arc::new(Self {
            fd,
            end: None,
            waits: AtomicBool::new(waiting == Waiting::Yes),
            connecting: AtomicBool::new(false),
            patience: [const { AtomicU64::new(0) }; 2],
            is_fifo: false,
            path: path.to_vec(),
            made: Made::Otherwise,
            interests: Mutex::default(),
            signals: AtomicU64::new(0),
            is_stream: OnceLock::new(),
            is_terminal: OnceLock::new(),
            late: AtomicI32::new(0),
        })
    }

    /// The same of one of which the host will not say what it is.
    pub(crate) fn made(fd: OwnedFd, waiting: Waiting, path: &[u8], made: Made) -> Arc<Self> {
        let mut file = Self::new(fd, waiting, path);
        if let Some(file) = Arc::get_mut(&mut file) {
            file.made = made;
        }
        file
    }

    /// The same of one that was opened by its path.
    pub(crate) fn named(fd: OwnedFd, waiting: Waiting, path: &[u8]) -> Arc<Self> {
        let is_fifo = rustix::fs::fstat(&fd).is_ok_and(|it| FileType::from_raw_mode(it.st_mode) == FileType::Fifo);
        let mut file = Self::new(fd, waiting, path);
        if let Some(file) = Arc::get_mut(&mut file) {
            file.is_fifo = is_fifo;
        }
        file
    }

    /// Something went wrong of which nobody heard yet.
    pub(crate) fn note_late(&self, errno: Errno) {
        self.late.store(errno.raw_os_error(), Ordering::Relaxed);
    }

    /// What went wrong, once.
    pub(crate) fn take_late(&self) -> Option<Errno> {
        match self.late.load(Ordering::Relaxed) {
            0 => None,
            _ => {
                Some(Errno::from_raw_os_error(self.late.swap(0, Ordering::Relaxed))).filter(|it| it.raw_os_error() != 0)
            }
        }
    }

    /// Whether it is a socket of a stream over the network, which carries bytes and nothing else.
    pub(crate) fn is_stream(&self) -> bool {
        *self.is_stream.get_or_init(|| {
            let domain = sockopt::socket_domain(&self.fd);
            domain.is_ok_and(|it| [AddressFamily::INET, AddressFamily::INET6].contains(&it))
                && sockopt::socket_type(&self.fd) == Ok(SocketType::STREAM)
        })
    }

    /// Whether it is a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        *self.is_terminal.get_or_init(|| self.end.is_none() && rustix::termios::isatty(&self.fd))
    }

    /// An end of a pipe that was just made.
    pub(crate) fn of_pipe(fd: OwnedFd, waiting: Waiting, end: Option<End>, made: Made) -> Arc<Self> {
        let mut file = Self::new(fd, waiting, b"pipe");
        if let Some(file) = Arc::get_mut(&mut file) {
            (file.end, file.made) = (end, made);
            file.set_waiting(waiting);
        }
        file
    }

    /// What it is of a pipe between members, which may be the host's by now.
    pub(crate) fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// The host's descriptor, for what a pipe's bytes do not matter to. [`File::as_fd`] makes it the host's pipe first.
    pub(crate) fn host(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether the guest wants to wait for it.
    pub(crate) fn waiting(&self) -> Waiting {
        if self.waits.load(Ordering::Relaxed) { Waiting::Yes } else { Waiting::No }
    }

    /// Notes what the guest wants.
    pub(crate) fn set_waiting(&self, waiting: Waiting) {
        self.waits.store(waiting == Waiting::Yes, Ordering::Relaxed);
        if let Some(end) = &self.end {
            end.set_waiting(waiting);
        }
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        if let Some(end) = &self.end {
            end.surrender();
        }
        self.fd.as_fd()
    }
}

/// What made a file, as far as nobody can be asked later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    /// Whatever it is can be seen.
    Otherwise,
    /// eventfd, with these flags.
    Event(u32),
    /// timerfd_create, for that clock.
    Timer(u32),
    /// inotify_init.
    Watch,
    /// signalfd.
    Signals,
    /// pidfd_open, of that process.
    Process(u32),
    /// It is the first or second of a pair of pipe ends or sockets: both have the same number.
    Pair(u64, u8),
}

impl Made {
    /// By the call that gives a new descriptor.
    pub(crate) fn by(number: u32, [first, second, ..]: [u64; 6]) -> Self {
        match i64::from(number) {
            libc::SYS_eventfd2 => Self::Event(second as u32),
            libc::SYS_timerfd_create => Self::Timer(first as u32),
            libc::SYS_inotify_init1 => Self::Watch,
            _ => Self::Otherwise,
        }
    }

    /// For both ends of a new pair.
    pub(crate) fn pair() -> [Self; 2] {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        [Self::Pair(number, 0), Self::Pair(number, 1)]
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // Before the host's end is closed.
        if let Some(end) = &self.end {
            end.surrender();
        }
    }
}

/// Whether a guest waits when a file has nothing for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    Yes,
    No,
}

impl Waiting {
    /// By the flags of open, socket, pipe…: O_NONBLOCK has the same value in all of them.
    pub(crate) fn by(flags: u64) -> Self {
        if flags & u64::from(OFlags::NONBLOCK.bits()) == 0 { Self::Yes } else { Self::No }
    }
}

/// What happens to a descriptor when the process becomes another program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnExec {
    Keep,
    Close,
}

impl OnExec {
    /// By the flags of open, socket, pipe…: O_CLOEXEC has the same value in all of them.
    pub(crate) fn by(flags: u64) -> Self {
        if flags & u64::from(OFlags::CLOEXEC.bits()) == 0 { Self::Keep } else { Self::Close }
    }
}

#[derive(Clone, Debug)]
struct Slot {
    file: Arc<File>,
    on_exec: OnExec,
}

/// A process's descriptors.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    slots: Vec<Option<Slot>>,
    /// No number reaches it.
    pub(crate) limit: usize,
}

impl Table {
    pub(crate) fn new(limit: usize) -> Self {
        Self { slots: Vec::new(), limit }
    }

    pub(crate) fn get(&self, number: u64) -> Result<&Arc<File>, Errno> {
        self.slot(number).map(|it| &it.file)
    }

    fn slot(&self, number: u64) -> Result<&Slot, Errno> {
        let at = usize::try_from(number as u32).map_err(|_| Errno::BADF)?;
        self.slots.get(at).and_then(Option::as_ref).ok_or(Errno::BADF)
    }

    /// Gives a file the lowest free number that is no lower than that.
    pub(crate) fn add(&mut self, file: Arc<File>, on_exec: OnExec, lowest: usize) -> Result<u64, Errno> {
        let free = (lowest..).find(|at| self.slots.get(*at).is_none_or(Option::is_none)).ok_or(Errno::MFILE)?;
        self.put(free, file, on_exec)
    }

    /// Gives a file that number, in place of whatever has it.
    pub(crate) fn put(&mut self, at: usize, file: Arc<File>, on_exec: OnExec) -> Result<u64, Errno> {
        if at >= self.limit {
            return Err(Errno::MFILE);
        }
        if self.slots.len() <= at {
            self.slots.resize(at + 1, None);
        }
        self.slots[at] = Some(Slot { file, on_exec });
        Ok(at as u64)
    }

    pub(crate) fn close(&mut self, number: u64) -> Result<(), Errno> {
        self.slot(number)?;
        self.slots[number as u32 as usize] = None;
        Ok(())
    }

    /// Does that to every descriptor from the first to the last that there is.
    pub(crate) fn each_between(&mut self, first: u64, last: u64, what: Closing) {
        let end = usize::try_from(last).map_or(usize::MAX, |it| it.saturating_add(1)).min(self.slots.len());
        for slot in self.slots.iter_mut().take(end).skip(usize::try_from(first).unwrap_or(usize::MAX)) {
            match (what, slot.as_mut()) {
                (Closing::Now, _) => *slot = None,
                (Closing::OnExec, Some(slot)) => slot.on_exec = OnExec::Close,
                (Closing::OnExec, None) => {}
            }
        }
    }

    pub(crate) fn on_exec(&self, number: u64) -> Result<OnExec, Errno> {
        self.slot(number).map(|it| it.on_exec)
    }

    pub(crate) fn set_on_exec(&mut self, number: u64, on_exec: OnExec) -> Result<(), Errno> {
        self.slot(number)?;
        if let Some(Some(slot)) = self.slots.get_mut(number as u32 as usize) {
            slot.on_exec = on_exec;
        }
        Ok(())
    }

    /// Every descriptor: its number, its file, and what becomes of it.
    pub(crate) fn each(&self) -> impl Iterator<Item = (usize, &Arc<File>, OnExec)> {
        self.slots.iter().enumerate().filter_map(|(at, it)| it.as_ref().map(|it| (at, &it.file, it.on_exec)))
    }

    /// Every file that has a number; one that has several comes as often.
    pub(crate) fn files_mut(&mut self) -> impl Iterator<Item = &mut Arc<File>> {
        self.slots.iter_mut().flatten().map(|it| &mut it.file)
    }

    /// The process has become another program.
    pub(crate) fn executed(&mut self) {
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(|it| it.on_exec == OnExec::Close) {
                *slot = None;
            }
        }
    }
}

/// What [`Table::each_between`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    Now,
    OnExec,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Arc<File> {
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty());
        File::new(null.unwrap(), Waiting::Yes, b"/dev/null")
    }

    fn numbers(table: &Table) -> Vec<u64> {
        (0..table.slots.len() as u64).filter(|it| table.get(*it).is_ok()).collect()
    }

    #[test]
    fn numbers_are_the_lowest_free_ones_up_to_the_limit() {
        let mut table = Table::new(3);
        assert_eq!([0, 0, 0].map(|lowest| table.add(file(), OnExec::Keep, lowest)), [Ok(0), Ok(1), Ok(2)]);
        assert_eq!(table.add(file(), OnExec::Keep, 0), Err(Errno::MFILE));
        table.close(1).unwrap();
        assert_eq!(table.close(1), Err(Errno::BADF));
        assert_eq!(table.add(file(), OnExec::Keep, 2), Err(Errno::MFILE));
        assert_eq!(table.add(file(), OnExec::Keep, 0), Ok(1));
        // As the kernel, only the lower half of the register counts.
        assert!(table.get(1 | 7 << 32).is_ok());
        assert_eq!(table.get(u64::MAX).map(drop), Err(Errno::BADF));
    }

    #[test]
    fn executing_closes_what_was_marked() {
        let mut table = Table::new(16);
        for on_exec in [OnExec::Keep, OnExec::Close, OnExec::Keep, OnExec::Keep] {
            table.add(file(), on_exec, 0).unwrap();
        }
        table.each_between(3, u64::MAX, Closing::OnExec);
        table.executed();
        assert_eq!(numbers(&table), [0, 2]);
        table.each_between(1, 2, Closing::Now);
        assert_eq!(numbers(&table), [0]);
    }
}
