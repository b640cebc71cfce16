//! The server: a file system that has no files, whose look-ups make files appear elsewhere.
//!
//! What always holds: **an answer "nothing here" is given only when the content is where whoever asks looks next**, and then
//! it is right for ever; **a content that cannot be had is an error for whoever asked for it**, and for nobody else;
//! **nobody waits for a dead server**: its descriptor is the last one, so the kernel fails what is asked of it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};

use image::{Catalogue, Supply};
use model::ObjectId;
use rustix::fs::{CWD, Mode, OFlags};
use store::Store;
use sys::Errno;
use sys::landlock::{self, Access};

use super::DIRECTORY;
use super::ahead::{self, Ahead, Order};
use super::origin::{Flights, Log, Origin, Registry, Unavailable};
use super::wire::{self, Answer, Request};
use crate::error::{Error, Result};

/// As many threads unpack ahead.
const AHEAD: usize = 2;
/// As many answer. More of them when most of the time they wait for a network.
const WORKERS: usize = 2;
const WORKERS_OF_REMOTE: usize = 6;

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
    origin: Origin<'a>,
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
        match self.origin.ask(id) {
            Ok(()) => Answer::nothing(header),
            Err(Unavailable) => Answer::error(header, Errno::IO),
        }
    }
}

/// What is served.
pub(super) enum Files {
    /// A tree of the pool.
    Stored(ObjectId),
    /// A tree of a registry's image, and where to write down what goes wrong.
    Remote { supply: Supply, log: File },
}

/// Serves until the file system is in use no longer.
pub(super) fn serve(device: BorrowedFd<'_>, store: &Store, files: Files) -> Result<()> {
    let flights = &Flights::default();
    match files {
        Files::Stored(tree) => {
            let order =
                || store.reader().and_then(|it| it.tree(&tree)).map_or_else(|_| Order::default(), |it| Order::of(&it));
            let origin = || Ok(Origin::new(store.filler()?, flights, None));
            run(device, WORKERS, order, &origin)
        }
        Files::Remote { supply, log } => {
            let (catalogue, log) = (&Catalogue::of(&supply), &Log::new(log));
            let order = || {
                let mut order = Order::default();
                supply.contents().for_each(|content| order.push(content));
                order
            };
            let registry = || Some(Registry::new(catalogue, log));
            let origin = || Ok(Origin::new(store.filler_from_elsewhere()?, flights, registry()));
            run(device, WORKERS_OF_REMOTE, order, &origin)
        }
    }
}

fn run<'a>(
    device: BorrowedFd<'a>,
    workers: usize,
    order: impl FnOnce() -> Order + Send,
    origin: &(dyn Fn() -> store::Result<Origin<'a>> + Sync),
) -> Result<()> {
    let (asked, asking) = mpsc::channel();
    let ahead = &Ahead::new(asking, order);
    let work = move |asked| Worker { device, origin: origin()?, asked }.run();
    std::thread::scope(|scope| {
        for _ in 0..AHEAD {
            scope.spawn(|| origin().map(|origin| ahead::run(ahead, &origin)));
        }
        let others: Vec<_> = (1..workers)
            .map(|_| {
                scope.spawn({
                    let asked = asked.clone();
                    move || work(asked)
                })
            })
            .collect();
        let mine = work(asked);
        others.into_iter().fold(mine, |ended, other| ended.and(other.join().unwrap_or(Ok(()))))
    })
}

/// Runs the server in this process, which was executed for it: the last of `args` are the pool, what is served and the
/// descriptor.
pub fn server_main(args: impl IntoIterator<Item = OsString>) -> Result<()> {
    let mut args: Vec<_> = args.into_iter().collect();
    let number = args.pop().and_then(|it| it.to_str()?.parse().ok()).unwrap_or(-1);
    let device: OwnedFd = sys::inherit::adopt(number).map_err(|cause| Error::kernel("taking over /dev/fuse", cause))?;
    let files = files(args.pop().unwrap_or_default().to_str().unwrap_or_default())?;
    let store = Store::open(args.pop().map(PathBuf::from).unwrap_or_default())?;
    withdraw(&store, &files).map_err(|cause| Error::kernel("giving up what a server does not need", cause))?;
    serve(device.as_fd(), &store, files)
}

/// What the word says that is served: a tree's id, or the descriptors of a supply and of a log.
fn files(word: &str) -> Result<Files> {
    let wrong = |cause| Error::kernel("reading what to serve", cause);
    let Some((supply, log)) = word.split_once(',') else {
        return word.parse().map(Files::Stored).map_err(|_| wrong(Errno::INVAL));
    };
    let adopt = |number: &str| sys::inherit::adopt(number.parse().unwrap_or(-1)).map(File::from).map_err(wrong);
    let (mut supply, log) = (adopt(supply)?, adopt(log)?);
    let mut bytes = Vec::new();
    let read = supply.seek(SeekFrom::Start(0)).and_then(|_| supply.read_to_end(&mut bytes));
    read.map_err(|_| wrong(Errno::IO))?;
    let supply = Supply::from_bytes(&bytes).map_err(|_| wrong(Errno::INVAL))?;
    Ok(Files::Remote { supply, log })
}

/// What is read to find a registry and to know it: its address, the authorities that vouch for it, credentials; and the
/// libraries that the C library looks addresses up with.
const FOR_NETWORK: [&str; 8] = [
    "/etc",
    "/run/systemd/resolve",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/lib",
    "/lib",
    "/usr/lib64",
    "/lib64",
];

/// Lets go of the launcher's directory and standard streams, which would keep a pipeline from ending, and of every file
/// but the pool's and what the network needs, where the kernel has Landlock.
fn withdraw(store: &Store, files: &Files) -> sys::Result<()> {
    let open = |path: &Path, flags| rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty());
    let null = open(Path::new("/dev/null"), OFlags::RDWR)?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    rustix::process::chdir("/")?;
    let pool = open(store.dir(), OFlags::PATH)?;
    let boot = open(Path::new("/proc/sys/kernel/random"), OFlags::PATH)?;
    let network: &[&str] = if matches!(files, Files::Remote { .. }) { &FOR_NETWORK } else { &[] };
    let chosen = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().filter_map(|it| std::env::var_os(it).map(PathBuf::from));
    let chosen = chosen.filter(|_| !network.is_empty()).map(|path| match path.parent() {
        Some(parent) if !path.is_dir() => parent.to_owned(),
        _ => path,
    });
    // One that is not there is not needed.
    let network = network.iter().map(PathBuf::from).chain(chosen);
    let network: Vec<_> = network.filter_map(|it| open(&it, DIRECTORY).ok()).collect();
    let readable = network.iter().map(|it| (it.as_fd(), Access::Read));
    let allowed: Vec<_> =
        [(pool.as_fd(), Access::All), (boot.as_fd(), Access::Read)].into_iter().chain(readable).collect();
    match landlock::confine(&allowed) {
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
