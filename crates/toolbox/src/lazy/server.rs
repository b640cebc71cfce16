//! The server: a file system that has no files, whose look-ups make files appear elsewhere.
//!
//! What always holds: **an answer "nothing here" is given only when the content is in the pool's own directories**, and
//! then it is right for ever; **a content that cannot be had is an error for whoever asked for it**, and for nobody else;
//! **nobody waits for a dead server**: its descriptor is the last one, so the kernel fails what is asked of it.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use model::ObjectId;
use store::{Filler, Store};
use sys::Errno;

use super::wire::{self, Answer, Request};
use crate::error::{Error, Result};

const ROOT: u64 = 1;
/// The directory of the ids that begin with a byte has this number and that byte.
const FIRST_FAN: u64 = 2;

/// What a name in the file system stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// The directory of the ids that begin with that byte.
    Fan(u8),
    Content(ObjectId),
    Nothing,
}

fn meaning(directory: u64, name: &[u8]) -> Meaning {
    let text = std::str::from_utf8(name).unwrap_or_default();
    if directory == ROOT {
        return match u8::from_str_radix(text, 16) {
            Ok(byte) if format!("{byte:02x}") == text => Meaning::Fan(byte),
            _ => Meaning::Nothing,
        };
    }
    let fan = directory.checked_sub(FIRST_FAN).and_then(|it| u8::try_from(it).ok());
    let id = fan.and_then(|fan| format!("{fan:02x}{text}").parse().ok());
    id.map_or(Meaning::Nothing, Meaning::Content)
}

/// One of the server's threads.
struct Worker<'a> {
    device: BorrowedFd<'a>,
    filler: Filler,
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
                Meaning::Fan(byte) => Answer::directory(header, FIRST_FAN + u64::from(byte)),
                Meaning::Nothing => Answer::nothing(header),
                Meaning::Content(id) => match self.filler.fill(&id) {
                    Ok(()) => Answer::nothing(header),
                    Err(_) => Answer::error(header, Errno::IO),
                },
            },
        })
    }
}

/// Serves until the file system is in use no longer.
pub(super) fn serve(device: BorrowedFd<'_>, store: &Store, workers: usize) -> Result<()> {
    std::thread::scope(|scope| {
        let work = || Worker { device, filler: store.filler()? }.run();
        let others: Vec<_> = (1..workers).map(|_| scope.spawn(work)).collect();
        let mine = work();
        others.into_iter().filter_map(|it| it.join().ok()).fold(mine, Result::and)
    })
}

/// Runs the server in this process, which was executed for it: the last of `args` are the pool and the descriptor.
pub fn server_main(args: impl IntoIterator<Item = OsString>) -> Result<()> {
    let mut args: Vec<_> = args.into_iter().collect();
    let number = args.pop().and_then(|it| it.to_str()?.parse().ok()).unwrap_or(-1);
    let device: OwnedFd = sys::inherit::adopt(number).map_err(|cause| Error::kernel("taking over /dev/fuse", cause))?;
    let store = Store::open(args.pop().map(PathBuf::from).unwrap_or_default())?;
    serve(device.as_fd(), &store, super::WORKERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_mean_something() {
        let check = |directory, name: &[u8], expected| assert_eq!(meaning(directory, name), expected);
        check(ROOT, b"ab", Meaning::Fan(0xab));
        for name in [&b"AB"[..], b"a", b"abc", b"+1", b"\xff\xff", b""] {
            check(ROOT, name, Meaning::Nothing);
        }
        let rest = "c".repeat(62);
        let id = format!("ab{rest}").parse().unwrap();
        check(FIRST_FAN + 0xab, rest.as_bytes(), Meaning::Content(id));
        check(FIRST_FAN + 256, rest.as_bytes(), Meaning::Nothing);
        check(FIRST_FAN + 0xab, &rest.as_bytes()[1..], Meaning::Nothing);
        check(0, rest.as_bytes(), Meaning::Nothing);
    }
}
