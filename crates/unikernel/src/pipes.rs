//! Pipes between members, in memory that they share: their library operating systems move the bytes ([`abi::ring`]), and
//! nobody is asked while there are bytes or room.
//!
//! A pipe begins as a ring, with a pipe of the host's beside it that is empty and that nobody has. It is **surrendered**,
//! once and for ever, when somebody wants of it what a ring cannot do: what is in the ring moves into the host's pipe,
//! which it is from then on for all. That is what waiting for it together with others does (poll, epoll), handing it to a
//! process over a socket, splicing, opening it by `/proc`, another size, and the end of either side, whose consequences
//! are then the host's: no bytes are left behind, and then the reader finds the end and the writer a broken pipe. **Nobody
//! gets the host's descriptor of a pipe whose ring lives**: asking a [`crate::files::File`] for it surrenders the ring.
//!
//! What a guest writes into a ring's counters costs the bytes of that pipe: they are read as numbers, never as places in
//! the tender's memory; and whoever is in the way of a surrender is waited for only so long.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use abi::ring::{BYTES, LIVE, PIECE, READER, Ring, SIZE, SURRENDERED, WHOLE, WRITER};
use rustix::event::{EventfdFlags, eventfd};
use sys::Errno;

use crate::calls::Reply;
use crate::files::{File, Waiting};
use crate::fixed::Mapped;
use crate::member::{Body, Member};
use crate::process;

/// A pipe.
#[derive(Debug)]
pub(crate) struct Pipe {
    ring: Mapped<Ring>,
    /// What each side sleeps on, once somebody uses the ring.
    bells: OnceLock<Bells>,
    /// The way into the host's pipe, as long as it is not in use.
    host: Mutex<Option<OwnedFd>>,
    surrendered: AtomicBool,
}

/// What each side of a pipe sleeps on.
pub(crate) type Bells = Arc<[OwnedFd; 2]>;

/// An end of a pipe, as an open file has it.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pipe: Arc<Pipe>,
    side: usize,
}

/// No guest holds a side for longer, but those that are made to: where some did, none is waited for so long any more.
const LONGEST_HOLD: Duration = Duration::from_secs(1);
const SHORT_HOLD: Duration = Duration::from_millis(2);
static LET_DOWN: AtomicU32 = AtomicU32::new(0);
const MOST_LET_DOWN: u32 = 3;

/// Whoever surrenders a pipe holds it in this name: no process has the number.
const TENDER: u32 = u32::MAX;

impl Pipe {
    /// The ends of a pipe of which the host's is that. Nothing when it has to do alone.
    pub(crate) fn over(writer: &OwnedFd) -> Option<[End; 2]> {
        // Where the host gives less, what is in a ring would not fit.
        let room = rustix::pipe::fcntl_getpipe_size(writer).ok()?;
        if room < SIZE {
            return None;
        }
        let pipe = Arc::new(Self {
            ring: Mapped::new(|it: &mut Ring| *it.state.get_mut() = LIVE).ok()?,
            bells: OnceLock::new(),
            host: Mutex::new(Some(rustix::io::fcntl_dupfd_cloexec(writer, 0).ok()?)),
            surrendered: AtomicBool::new(false),
        });
        Some([READER, WRITER].map(|side| End { pipe: pipe.clone(), side }))
    }

    fn bells(&self) -> Result<&Bells, Errno> {
        if let Some(bells) = self.bells.get() {
            return Ok(bells);
        }
        let bell = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let bells = Arc::new([bell()?, bell()?]);
        Ok(self.bells.get_or_init(|| bells))
    }

    fn ring(&self, side: usize) {
        if let Some(bells) = self.bells.get() {
            let _ = rustix::io::write(&bells[side], &1u64.to_ne_bytes());
        }
    }

    /// Makes it a pipe of the host's.
    fn surrender(&self) {
        if self.surrendered.load(Ordering::Acquire) {
            return;
        }
        let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(writer) = host.take() else { return };
        let distrusts = LET_DOWN.load(Ordering::Relaxed) >= MOST_LET_DOWN;
        let deadline = Instant::now() + if distrusts { SHORT_HOLD } else { LONGEST_HOLD };
        for side in [READER, WRITER] {
            self.take_hold(side, deadline);
        }
        self.ring.state.store(SURRENDERED, Ordering::SeqCst);
        self.move_bytes(&writer);
        drop(writer);
        self.surrendered.store(true, Ordering::Release);
        for side in [READER, WRITER] {
            self.ring.locks[side].0.store(0, Ordering::Release);
            self.ring(side);
        }
    }

    /// Waits until nobody moves bytes on that side; who will not let go is not waited for.
    fn take_hold(&self, side: usize, deadline: Instant) {
        let lock = &self.ring.locks[side].0;
        while lock.compare_exchange(0, TENDER, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            if Instant::now() > deadline {
                let _ = LET_DOWN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |it| it.checked_add(1));
                lock.store(TENDER, Ordering::Release);
                return;
            }
            std::thread::sleep(Duration::from_micros(20));
        }
    }

    /// All that is in the ring fits into the host's pipe, which is empty.
    fn move_bytes(&self, writer: &OwnedFd) {
        let mut bytes = vec![0; self.ring.used().unwrap_or(0) as usize];
        let begin = self.ring.positions[READER].count.load(Ordering::Acquire) % SIZE as u64;
        let begin = begin as usize;
        let whole = bytes.len();
        let (first, second) = bytes.split_at_mut((SIZE - begin).min(whole));
        let read = |into: &mut [u8], at: usize| match into {
            [] => Ok(0),
            into => rustix::io::pread(self.ring.file(), into, (BYTES + at) as u64),
        };
        if read(first, begin).and_then(|_| read(second, 0)).is_ok() && !bytes.is_empty() {
            let _ = rustix::io::write(writer, &bytes);
        }
    }

    /// A process has ended: what it held, others may have.
    fn forget_holder(&self, number: u32) {
        for side in [READER, WRITER] {
            let _ = self.ring.locks[side].0.compare_exchange(number, 0, Ordering::AcqRel, Ordering::Relaxed);
            // It may have been about to.
            self.ring(side);
        }
    }
}

impl End {
    /// Makes it an end of a pipe of the host's.
    pub(crate) fn surrender(&self) {
        self.pipe.surrender();
    }

    /// Whether it is an end of a ring.
    pub(crate) fn is_ring(&self) -> bool {
        !self.pipe.surrendered.load(Ordering::Acquire)
    }

    /// Notes whether the program wants to wait for this side.
    pub(crate) fn set_waiting(&self, waiting: Waiting) {
        self.pipe.ring.unwilling[self.side].store(u32::from(waiting == Waiting::No), Ordering::SeqCst);
    }

    /// A process has ended, which had this.
    pub(crate) fn forget_holder(&self, number: u32) {
        if self.is_ring() {
            self.pipe.forget_holder(number);
        }
    }

    /// How many bytes can be read, for whoever only asks.
    pub(crate) fn used(&self) -> Option<u32> {
        self.is_ring().then(|| self.pipe.ring.used().unwrap_or(0))
    }

    /// What to sleep on until there is something for this side; nothing if there is already.
    pub(crate) fn bell(&self) -> Result<Option<BorrowedFd<'_>>, Errno> {
        let (pipe, ring) = (&*self.pipe, &self.pipe.ring);
        let bell = &pipe.bells()?[self.side];
        let _ = rustix::io::read(bell, &mut [0; 8]);
        ring.forget_bell(self.side);
        if !ring.is_live() {
            // What was forgotten was for all.
            pipe.ring(self.side);
            return Ok(None);
        }
        Ok((!ring.has_for(self.side, PIECE)).then(|| bell.as_fd()))
    }
}

/// Answers a call that moves bytes through a pipe whose ring lives: the guest is to do it by itself. Nothing for other
/// calls, and where the guest cannot be given the ring.
pub(crate) fn hand_over(member: &mut Member, number: u32, descriptor: u64) -> Option<Reply> {
    let end = moved_by(member, number, descriptor)?;
    let (memory, bells) = (end.pipe.ring.file(), end.pipe.bells().ok()?);
    let at = match &mut member.body {
        Body::Process(socket) => {
            process::send(socket, &[memory.as_fd(), bells[READER].as_fd(), bells[WRITER].as_fd()]).ok().map(|()| 0)
        }
        Body::Machine(_, Some(guest)) => guest.map_shared(memory.as_fd(), WHOLE).ok(),
        Body::Machine(_, None) => None,
    };
    at.map(|at| Reply::Ring { at })
}

/// The end of a ring through which that call moves bytes.
fn moved_by(member: &Member, number: u32, descriptor: u64) -> Option<End> {
    let side = match i64::from(number) {
        libc::SYS_read | libc::SYS_readv => READER,
        libc::SYS_write | libc::SYS_writev => WRITER,
        _ => return None,
    };
    let end = member.table.get(descriptor).ok()?.end()?;
    (end.side == side && end.is_ring()).then(|| end.clone())
}

impl Member {
    /// Sleeps on a ring.
    pub(crate) fn sleep_on_ring(&self, descriptor: u64, nanoseconds: u64) -> Result<u64, Errno> {
        let file = self.table.get(descriptor)?;
        let end = file.end().ok_or(Errno::INVAL)?;
        if let Some(bell) = end.bell()? {
            self.doze(bell, crate::calls::IN, nanoseconds);
        }
        Ok(0)
    }

    /// Wakes who sleeps on that side of a ring, and sees to it that the guest can do so by itself.
    pub(crate) fn wake_ring(&mut self, descriptor: u64, side: u64) -> Result<u64, Errno> {
        let side = if side == READER as u64 { READER } else { WRITER };
        let end = self.table.get(descriptor)?.end().ok_or(Errno::INVAL)?.clone();
        let bells = end.pipe.bells()?.clone();
        end.pipe.ring(side);
        match &mut self.body {
            Body::Machine(_, Some(guest)) => Ok(guest.bell(&bells, side)),
            Body::Process(_) | Body::Machine(_, None) => Err(Errno::NOSYS),
        }
    }

    /// The process has ended: nobody shall wait for what it held.
    pub(crate) fn let_go(&mut self) {
        let number = self.number;
        self.family.futexes.forget(number);
        self.take_back();
        self.attached = crate::calls::segments::Attached::default();
        self.table.files_mut().filter_map(|it| it.end()).for_each(|it| it.forget_holder(number));
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// The files of a new pipe.
pub(crate) fn files([reader, writer]: [OwnedFd; 2], flags: u64) -> [Arc<File>; 2] {
    // Packets have their bounds.
    let packets = flags & u64::from(rustix::fs::OFlags::DIRECT.bits()) != 0;
    let [read_end, write_end] = match Pipe::over(&writer).filter(|_| !packets) {
        Some(ends) => ends.map(Some),
        None => [None, None],
    };
    let [first, second] = crate::files::Made::pair();
    let new = |fd, end, made| File::of_pipe(fd, Waiting::by(flags), end, made);
    [new(reader, read_end, first), new(writer, write_end, second)]
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Made {
        reader: OwnedFd,
        ends: [End; 2],
    }

    /// A pipe whose ring holds what `written` and `read` positions leave of it; `bytes` are those at the first position.
    fn pipe(read: u64, written: u64, bytes: &[u8]) -> Made {
        let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
        let (reader, writer) = rustix::pipe::pipe_with(flags).unwrap();
        let ends = Pipe::over(&writer).unwrap();
        let ring = &ends[0].pipe.ring;
        for (at, byte) in bytes.iter().enumerate() {
            let place = BYTES as u64 + read.wrapping_add(at as u64) % SIZE as u64;
            rustix::io::pwrite(ring.file(), &[*byte], place).unwrap();
        }
        ring.positions[READER].count.store(read, Ordering::SeqCst);
        ring.positions[WRITER].count.store(written, Ordering::SeqCst);
        Made { reader, ends }
    }

    fn found(it: &Made) -> Vec<u8> {
        let mut bytes = vec![0; 2 * SIZE];
        let length = rustix::io::read(&it.reader, &mut bytes[..]).unwrap_or(0);
        bytes.truncate(length);
        bytes
    }

    #[test]
    fn a_surrendered_ring_leaves_its_bytes_to_the_hosts_pipe() {
        let wraps = SIZE as u64 * 3 - 2;
        let cases: [(u64, u64, &[u8], usize); 6] = [
            (0, 0, b"", 0),
            (7, 10, b"abc", 3),
            (wraps, wraps + 5, b"abcde", 5),
            (u64::MAX - 1, 3, b"wraps", 5),
            // Whole, and what no ring can hold.
            (5, 5 + SIZE as u64, b"abcd", SIZE),
            (5, 6 + SIZE as u64, b"abcd", 0),
        ];
        for (read, written, bytes, length) in cases {
            let made = pipe(read, written, bytes);
            made.ends[WRITER].surrender();
            made.ends[READER].surrender();
            let found = found(&made);
            assert_eq!(found.len(), length, "from {read} to {written}");
            assert!(found.starts_with(&bytes[..bytes.len().min(length)]), "from {read} to {written}: {found:?}");
            assert!(!made.ends[READER].is_ring() && made.ends[READER].used().is_none());
        }
    }

    #[test]
    fn who_holds_a_side_for_ever_is_not_waited_for() {
        let made = pipe(0, 2, b"ab");
        made.ends[0].pipe.ring.locks[WRITER].0.store(77, Ordering::SeqCst);
        made.ends[READER].surrender();
        assert_eq!(found(&made), b"ab");
        // One that has ended holds nothing.
        let made = pipe(0, 2, b"cd");
        made.ends[0].pipe.ring.locks[WRITER].0.store(77, Ordering::SeqCst);
        made.ends[READER].forget_holder(77);
        assert_eq!(made.ends[0].pipe.ring.locks[WRITER].0.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn nobody_sleeps_where_there_is_something() {
        for (read, written, side, sleeps) in [
            (0, 0, READER, true),
            (0, 1, READER, false),
            (0, 1, WRITER, false),
            (0, SIZE as u64 - 100, WRITER, true),
            (9, 3, READER, true),
        ] {
            let made = pipe(read, written, b"");
            assert_eq!(made.ends[side].bell().unwrap().is_some(), sleeps, "{read} to {written}, side {side}");
            made.ends[0].surrender();
            assert!(made.ends[side].bell().unwrap().is_none(), "a surrendered ring is nothing to sleep on");
        }
    }
}

#[cfg(test)]
mod properties;
