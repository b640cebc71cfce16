//! The server: a file system that has no files, whose look-ups make files appear elsewhere.
//!
//! What always holds: **an answer "nothing here" is given only when the content is where whoever asks looks next**, and then
//! it is right for ever; **a content that cannot be had is an error for whoever asked for it**, and for nobody else;
//! **nobody waits for a dead server**: its descriptor is the last one, so the kernel fails what is asked of it.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};

use model::ObjectId;
use rustix::fs::{CWD, Mode, OFlags};
use store::{Filler, Need, Store};
use sys::Errno;
use sys::landlock::{self, Access};

use super::ahead::{self, Ahead, Flights, Order};
use super::wire::{self, Answer, Request};
use crate::error::{Error, Result};

/// As many threads unpack ahead.
const AHEAD: usize = 2;

const ROOT: u64 = 1;
/// The directory that is asked for a content.
const ASK: u64 = 2;
/// The one that is asked when a content is in none of them: without it that would read as a file that does not exist.
const FAIL: u64 = 3;
/// The directory of the ids that begin with a byte has this number and that byte.
const FIRST_FAN: u64 = 16;

pub(super) const ASK_NAME: &std::ffi::CStr = c"ask";
pub(super) const FAIL_NAME: &std::ffi::CStr = c"fail";

/// What a name in the file system stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Directory(u64),
    Content(ObjectId),
    Nothing,
    /// A content that could not be unpacked.
    Failed,
}

fn meaning(directory: u64, name: &[u8]) -> Meaning {
    let text = std::str::from_utf8(name).unwrap_or_default();
    match directory {
        ROOT if name == ASK_NAME.to_bytes() => Meaning::Directory(ASK),
        ROOT if name == FAIL_NAME.to_bytes() => Meaning::Directory(FAIL),
        ASK => match u8::from_str_radix(text, 16) {
            Ok(byte) if format!("{byte:02x}") == text => Meaning::Directory(FIRST_FAN + u64::from(byte)),
            _ => Meaning::Nothing,
        },
        FAIL => Meaning::Failed,
        _ => {
            let fan = directory.checked_sub(FIRST_FAN).and_then(|it| u8::try_from(it).ok());
            let id = fan.and_then(|fan| format!("{fan:02x}{text}").parse().ok());
            id.map_or(Meaning::Nothing, Meaning::Content)
        }
    }
}

/// One of the server's threads.
struct Worker<'a> {
    device: BorrowedFd<'a>,
    filler: Filler,
    flights: &'a Flights,
    asked: Sender<ObjectId>,
}

impl Worker<'_> {
    fn run(&self) -> Result<()> {
        let mut buffer = vec![0; wire::MAX_REQUEST];
        loop {
            let length = match rustix::io::read(self.device, &mut buffer[..]) {
                Ok(length) => length,
                // The file system is in use no longer.
                Err(Errno::NODEV) => return Ok(()),
                // Interrupted, or the request was withdrawn.
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => continue,
                Err(cause) => return Err(Error::kernel("reading from /dev/fuse", cause)),
            };
            let Some(answer) = buffer.get(..length).and_then(|it| self.answer(it)) else { continue };
            match rustix::io::write(self.device, &answer) {
                // Whoever asked is gone.
                Ok(_) | Err(Errno::NOENT | Errno::INTR) => {}
                Err(Errno::NODEV) => return Ok(()),
                Err(cause) => return Err(Error::kernel("writing to /dev/fuse", cause)),
            }
        }
    }

    fn answer(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let (header, request) = wire::parse(bytes)?;
        Some(match request {
            Request::Told => return None,
            Request::Init { minor } => Answer::init(header, minor),
            Request::Attributes { node } => Answer::attributes_of(header, node),
            Request::Statistics => Answer::statistics(header),
            Request::Other => Answer::error(header, Errno::NOSYS),
            Request::Lookup { directory, name } => match meaning(directory, name) {
                Meaning::Directory(node) => Answer::directory(header, node),
                Meaning::Failed => Answer::error(header, Errno::IO),
                Meaning::Nothing => Answer::nothing(header),
                Meaning::Content(id) => self.content(header, &id),
            },
        })
    }

    fn content(&self, header: wire::Header, id: &ObjectId) -> Vec<u8> {
        // Before the work: while this is unpacked, another processor can go on with the next.
        let _ = self.asked.send(*id);
        match self.flights.fill(&self.filler, id, Need::Now) {
            Ok(()) => Answer::nothing(header),
            Err(_) => Answer::error(header, Errno::IO),
        }
    }
}

/// Serves until the file system is in use no longer.
pub(super) fn serve(device: BorrowedFd<'_>, store: &Store, tree: &ObjectId) -> Result<()> {
    let flights = &Flights::default();
    let (asked, asking) = mpsc::channel();
    let order = || store.reader().and_then(|it| it.tree(tree)).map_or_else(|_| Order::default(), |it| Order::of(&it));
    let ahead = &Ahead::new(asking, order);
    let work = |asked| Worker { device, filler: store.filler()?, flights, asked }.run();
    std::thread::scope(|scope| {
        for _ in 0..AHEAD {
            scope.spawn(|| store.filler().map(|filler| ahead::run(ahead, &filler, flights)));
        }
        let for_other = asked.clone();
        let other = scope.spawn(move || work(for_other));
        let mine = work(asked);
        other.join().unwrap_or(Ok(())).and(mine)
    })
}

/// Runs the server in this process, which was executed for it: the last of `args` are the pool, the tree and the
/// descriptor.
pub fn server_main(args: impl IntoIterator<Item = OsString>) -> Result<()> {
    let mut args: Vec<_> = args.into_iter().collect();
    let number = args.pop().and_then(|it| it.to_str()?.parse().ok()).unwrap_or(-1);
    let device: OwnedFd = sys::inherit::adopt(number).map_err(|cause| Error::kernel("taking over /dev/fuse", cause))?;
    let tree = args.pop().and_then(|it| it.to_str()?.parse().ok());
    let tree = tree.ok_or_else(|| Error::kernel("reading which tree to serve", Errno::INVAL))?;
    let store = Store::open(args.pop().map(PathBuf::from).unwrap_or_default())?;
    withdraw(&store).map_err(|cause| Error::kernel("giving up what a server does not need", cause))?;
    serve(device.as_fd(), &store, &tree)
}

/// Lets go of the launcher's directory and standard streams, which would keep a pipeline from ending, and of every file
/// but the pool's, where the kernel has Landlock.
fn withdraw(store: &Store) -> sys::Result<()> {
    let open = |path: &Path, flags| rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty());
    let null = open(Path::new("/dev/null"), OFlags::RDWR)?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    rustix::process::chdir("/")?;
    let pool = open(store.dir(), OFlags::PATH)?;
    let boot = open(Path::new("/proc/sys/kernel/random"), OFlags::PATH)?;
    match landlock::confine(&[(pool.as_fd(), Access::All), (boot.as_fd(), Access::Read)]) {
        Err(Errno::NOSYS | Errno::OPNOTSUPP) => Ok(()),
        confined => confined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_mean_something() {
        let check = |directory, name: &[u8], expected| assert_eq!(meaning(directory, name), expected);
        check(ROOT, b"ask", Meaning::Directory(ASK));
        check(ROOT, b"fail", Meaning::Directory(FAIL));
        check(ROOT, b"ab", Meaning::Nothing);
        check(ASK, b"ab", Meaning::Directory(FIRST_FAN + 0xab));
        for name in [&b"AB"[..], b"a", b"abc", b"+1", b"\xff\xff", b"ask", b""] {
            check(ASK, name, Meaning::Nothing);
        }
        check(FAIL, b"ab", Meaning::Failed);
        let rest = "c".repeat(62);
        let id = format!("ab{rest}").parse().unwrap();
        check(FIRST_FAN + 0xab, rest.as_bytes(), Meaning::Content(id));
        check(FIRST_FAN + 256, rest.as_bytes(), Meaning::Nothing);
        check(FIRST_FAN + 0xab, &rest.as_bytes()[1..], Meaning::Nothing);
        check(0, rest.as_bytes(), Meaning::Nothing);
    }
}
