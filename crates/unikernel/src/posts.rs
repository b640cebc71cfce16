//! Carrying out what a guest posted: see [`abi::post`].
//!
//! A guest that runs on without a stop is made to stop by the family's ticker: what it posted is on its way within a few
//! milliseconds. The ticker runs only while there may be posts.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use abi::post::{LONGEST, LONGEST_WRITE, MOST, MOST_RELEASED, Post, SEND, TAKE, WITHOUT_SIGNAL, WRITE};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use sys::Errno;

use crate::family::Family;
use crate::files::File;
use crate::member::{Body, Member};
use crate::memory::Memory;
use crate::tender::thread;

impl Member {
    /// Carries out what was posted, in its order. The guest stands still, outside of the library operating system.
    pub(crate) fn carry_out_posts(&mut self) {
        let port = self.living.port.clone();
        port.stops.fetch_add(1, Ordering::Relaxed);
        let count = port.posts.count.swap(0, Ordering::Acquire) as usize;
        for post in &port.posts.all[..count.min(MOST)] {
            // What a guest posts wrongly is nothing.
            let _ = self.carry_out(post);
        }
        let released = port.released.count.swap(0, Ordering::Acquire) as usize;
        if let Body::Machine(_, Some(guest)) = &self.body {
            let parts = &port.released.all[..released.min(MOST_RELEASED)];
            parts.iter().for_each(|it| guest.release(it.load(Ordering::Relaxed)));
        }
    }

    /// Says how long the files are that the guest has mapped to write to them.
    pub(crate) fn tell_sizes(&self) {
        let sizes = &self.living.port.sizes;
        for it in sizes {
            let of = it.of.load(Ordering::Relaxed);
            if of != 0 {
                let file = self.table.get(u64::from(of - 1));
                let size = file.and_then(|it| rustix::fs::fstat(&**it)).map_or(0, |it| it.st_size.unsigned_abs());
                it.size.store(size, Ordering::Relaxed);
                self.family.ticker.arm(&self.family);
            }
        }
    }

    /// The error of a post, when that is a call to tell it.
    pub(crate) fn late_error(&self, number: u32, arguments: [u64; 6]) -> Option<Errno> {
        let tells = matches!(
            i64::from(number),
            libc::SYS_write
                | libc::SYS_pwrite64
                | libc::SYS_writev
                | libc::SYS_pwritev
                | libc::SYS_pwritev2
                | libc::SYS_fsync
                | libc::SYS_fdatasync
                | libc::SYS_close
        );
        self.table.get(arguments[0]).ok().filter(|_| tells)?.take_late()
    }

    fn carry_out(&self, post: &Post) -> Result<(), Errno> {
        let wanted = Wanted::of(post)?;
        let file = self.table.get(u64::from(post.descriptor.load(Ordering::Relaxed)))?;
        let done = wanted.carry_out(file, &*self.memory);
        if done == Err(Errno::PIPE) && matches!(wanted, Wanted::Send { broken: Broken::Signal, .. }) {
            crate::calls::broken_pipe(self);
        }
        done
    }
}

/// What a post says, read once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Write { at: u64, length: usize, offset: u64 },
    Take { length: usize },
    Send { at: u64, length: usize, broken: Broken },
}

/// What comes of sending to a stream that nobody reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Signal,
    Nothing,
}

impl Wanted {
    fn of(post: &Post) -> Result<Self, Errno> {
        let at = post.at.load(Ordering::Relaxed);
        let length = post.length.load(Ordering::Relaxed) as usize;
        match post.kind.load(Ordering::Relaxed) {
            WRITE => {
                let offset = post.offset.load(Ordering::Relaxed);
                Ok(Self::Write { at, length: length.min(LONGEST_WRITE), offset })
            }
            TAKE => Ok(Self::Take { length: length.min(LONGEST) }),
            SEND => {
                let is_quiet = post.how.load(Ordering::Relaxed) & WITHOUT_SIGNAL != 0;
                let broken = if is_quiet { Broken::Nothing } else { Broken::Signal };
                Ok(Self::Send { at, length: length.min(LONGEST), broken })
            }
            _ => Err(Errno::NOSYS),
        }
    }

    fn carry_out(self, file: &File, memory: &dyn Memory) -> Result<(), Errno> {
        match self {
            Self::Write { at, length, offset } => {
                let bytes = memory.bytes(at, length)?;
                write(file, &bytes, offset).inspect_err(|errno| file.note_late(*errno))
            }
            _ if !file.is_stream() => Err(Errno::INVAL),
            Self::Take { length } => take(file, length),
            Self::Send { at, length, .. } => send(file, &memory.bytes(at, length)?),
        }
    }
}

fn take(file: &File, mut length: usize) -> Result<(), Errno> {
    let mut bytes = vec![0; length];
    while length > 0 {
        match rustix::net::recv(file, &mut bytes[..length], RecvFlags::DONTWAIT)? {
            (0, _) => return Ok(()),
            (taken, _) => length -= taken.min(length),
        }
    }
    Ok(())
}

fn write(file: &File, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(file, bytes, offset) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(written) => {
                bytes = &bytes[written.min(bytes.len())..];
                offset = offset.saturating_add(written as u64);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Sends what the guest believes to be sent. The room for it was there a moment ago: should it be gone for long, the
/// connection is broken rather than bytes lost in the middle of it.
fn send(file: &File, mut bytes: &[u8]) -> Result<(), Errno> {
    const LONGEST_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
    while !bytes.is_empty() {
        match rustix::net::send(file, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => bytes = &bytes[sent.min(bytes.len())..],
            Err(Errno::AGAIN) => {
                let mut asked = [PollFd::new(file, PollFlags::OUT)];
                if poll(&mut asked, Some(&LONGEST_WAIT)) == Ok(0) {
                    let _ = rustix::net::shutdown(file, Shutdown::Both);
                    return Err(Errno::TIMEDOUT);
                }
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Stops those that posted and run on.
#[derive(Default)]
pub(crate) struct Ticker {
    state: Mutex<State>,
    wanted: Condvar,
}

#[derive(Default)]
struct State {
    /// Whether there is a thread. There is none before it is needed.
    runs: bool,
    /// Until when there may be posts.
    until: Option<Instant>,
}

/// How long a post waits, at least and at most twice.
const TICK: Duration = Duration::from_millis(2);

/// How long to go on ticking after a guest got the right to post.
const LINGER: Duration = Duration::from_millis(50);
const _: () = assert!(LINGER.as_nanos() > 2 * abi::post::TRUST as u128, "nobody posts when nobody looks");

impl Ticker {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ticks for a while from now on.
    pub(crate) fn arm(&self, family: &Arc<Family>) {
        let mut state = self.state();
        if !state.runs {
            let family = family.clone();
            state.runs = thread("ticker", move || family.ticker.run(&family)).is_ok();
        }
        if state.until.is_none() {
            self.wanted.notify_one();
        }
        state.until = Some(Instant::now() + LINGER);
    }

    fn run(&self, family: &Family) {
        loop {
            self.wait_until_wanted();
            let before = family.posters();
            std::thread::sleep(TICK);
            if let Some(link) = &family.link {
                link.carry_for_all();
            }
            let still = |it: &(u32, u64)| before.contains(it);
            let late: Vec<u32> = family.posters().into_iter().filter(still).map(|it| it.0).collect();
            late.into_iter().for_each(|number| family.stop_for_posts(number));
        }
    }

    fn wait_until_wanted(&self) {
        let mut state = self.state();
        while state.until.is_none_or(|it| it < Instant::now()) {
            state.until = None;
            state = self.wanted.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Family {
    /// Those that have posted something, and how often each has stopped.
    fn posters(&self) -> Vec<(u32, u64)> {
        let mut posters = Vec::new();
        self.each_living(|number, living| {
            if living.port.posts.count.load(Ordering::Relaxed) != 0 {
                posters.push((number, living.port.stops.load(Ordering::Relaxed)));
            }
        });
        posters
    }

    fn stop_for_posts(&self, number: u32) {
        self.each_living(|it, living| {
            if it == number {
                living.handle.interrupt();
            }
        });
    }
}

#[cfg(test)]
mod properties;
