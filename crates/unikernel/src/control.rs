//! The line over which a family is asked for something from outside: the words, and both ends of it.
//!
//! The tender listens on a socket that its supervisor made, where only the cells' owner can reach it. A connection is for
//! one thing: a further program, a copy of a cell, the news, a list. Whoever holds the other end of a program's or a
//! copy's connection sends it signals and is told how it ends; **when the connection ends, so does the process**.
//!
//! A record is four numbers and, in lists, a name. This side is used between fork and execution, so it allocates nothing.

use std::ffi::CStr;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{MemfdFlags, OFlags, memfd_create};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};
use sys::Errno;

use crate::library::{self, Library, Updated};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "a cell is named by the number of its first process")]
pub enum Order {
    /// A further program in the cell of that first process. With its three streams, and a file by [`write_command`].
    Run { cell: u32 },
    /// Another cell that begins as that one is. With its three streams.
    Copy { cell: u32 },
    /// That cell's process is to be kept. With two files for it: what is said about it, and its pages.
    Keep { cell: u32 },
    /// Another cell that begins where the family did, when that was a snapshot. With its three streams.
    Another,
    /// What happens in the family that nobody asked for, from now on.
    News,
    /// The processes that there are.
    List,
    /// A signal for the process of this connection.
    Signal(i32),
    /// A key of that process's terminal, for a signal.
    Key(i32),
    /// The libraries that the processes of a cell have.
    Libraries { cell: u32 },
    /// A library in another's place. With its file, and a file by [`crate::library::write_request`].
    Update { cell: u32 },
    /// The first process of a cell is to be written down. With the file for it, which will be a core.
    Core { cell: u32 },
    /// Another family shares the IPC of this one: what comes with [`Word::Joined`] is for its tender.
    Join,
    /// A debugger speaks with the machine of that cell, in gdb's protocol. With the connection to it.
    Debugger,
}

/// What is said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "a cell is named by the number of its first process, and the rest as in the family")]
pub enum Word {
    /// The process has that number.
    Started { number: u32 },
    /// There will be none.
    Refused(Errno),
    /// It ended with that wait status.
    Ended { status: i32 },
    /// A program made a system call that nothing implements, so often by now.
    Unknown { call: u32, times: u64 },
    /// So many system calls came by a trap. Said when the family has ended.
    Traps { times: u64 },
    /// The process is kept, or written down.
    Kept,
    /// It cannot be, for that reason.
    Unkept { why: String },
    /// One of the list.
    Process { number: u32, parent: u32, cell: u32, name: String },
    /// One of a list of libraries.
    Library(Library),
    /// A library has taken another's place.
    Updated(Updated),
    /// It has not, for that reason; or there is no list.
    Unchanged(String),
    /// So it is. With the memory through which both tenders say what concerns the other.
    Joined,
}

const RECORD: usize = 16;
/// Names are cut to that.
const NAME: usize = 240;
/// The longest text of a record.
const TEXT: usize = crate::library::LONGEST;

fn record(words: [u32; 4]) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

fn words(bytes: &[u8]) -> Option<[u32; 4]> {
    let word = |at: usize| bytes.get(at * 4..at * 4 + 4)?.try_into().ok().map(u32::from_ne_bytes);
    Some([word(0)?, word(1)?, word(2)?, word(3)?])
}

impl Order {
    fn record(self) -> [u8; RECORD] {
        record(match self {
            Self::Run { cell } => [1, cell, 0, 0],
            Self::Copy { cell } => [2, cell, 0, 0],
            Self::News => [3, 0, 0, 0],
            Self::List => [4, 0, 0, 0],
            Self::Signal(signal) => [5, signal as u32, 0, 0],
            Self::Key(signal) => [8, signal as u32, 0, 0],
            Self::Keep { cell } => [6, cell, 0, 0],
            Self::Another => [7, 0, 0, 0],
            Self::Libraries { cell } => [16, cell, 0, 0],
            Self::Update { cell } => [17, cell, 0, 0],
            Self::Core { cell } => [19, cell, 0, 0],
            Self::Join => [20, 0, 0, 0],
            Self::Debugger => [21, 0, 0, 0],
        })
    }

    /// What a record asks for; nothing if it is none.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        Some(match words(bytes)? {
            [1, cell, ..] => Self::Run { cell },
            [2, cell, ..] => Self::Copy { cell },
            [3, ..] => Self::News,
            [4, ..] => Self::List,
            [6, cell, ..] => Self::Keep { cell },
            [7, ..] => Self::Another,
            [5, signal @ 1..=64, ..] => Self::Signal(signal as i32),
            [8, signal @ 1..=64, ..] => Self::Key(signal as i32),
            [16, cell, ..] => Self::Libraries { cell },
            [17, cell, ..] => Self::Update { cell },
            [19, cell, ..] => Self::Core { cell },
            [20, ..] => Self::Join,
            [21, ..] => Self::Debugger,
            _ => return None,
        })
    }
}

impl Word {
    /// Says it.
    pub fn say(&self, to: impl AsFd) -> Result<(), Errno> {
        self.say_with(to, &[])
    }

    /// The same for words that come with descriptors.
    pub(crate) fn say_with(&self, to: impl AsFd, descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let plain = |words| sys::socket::send(&to, &record(words), descriptors);
        let with = |words, text: &[u8]| sys::socket::send(&to, &[&record(words), text].concat(), &[]);
        let named = |words, text: &str| with(words, &text.as_bytes()[..text.len().min(NAME)]);
        match self {
            Self::Started { number } => plain([1, *number, 0, 0]),
            Self::Refused(errno) => plain([2, errno.raw_os_error() as u32, 0, 0]),
            Self::Ended { status } => plain([3, *status as u32, 0, 0]),
            Self::Unknown { call, times } => plain([4, *call, *times as u32, (*times >> 32) as u32]),
            Self::Traps { times } => plain([9, 0, *times as u32, (*times >> 32) as u32]),
            Self::Kept => plain([6, 0, 0, 0]),
            Self::Unkept { why } => named([7, 0, 0, 0], why),
            Self::Process { number, parent, cell, name } => named([5, *number, *parent, *cell], name),
            Self::Library(it) => {
                let (words, text) = library::library_word(it);
                with(words, &text)
            }
            Self::Updated(it) => {
                let (words, text) = library::updated_word(it);
                with(words, &text)
            }
            Self::Unchanged(why) => with([18, 0, 0, 0], &library::cut(why)),
            Self::Joined => plain([19, 0, 0, 0]),
        }
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        Some(match words(bytes)? {
            [19, ..] => Self::Joined,
            [1, number, ..] => Self::Started { number },
            [2, errno, ..] => Self::Refused(Errno::from_raw_os_error(errno.clamp(1, 4095) as i32)),
            [3, status, ..] => Self::Ended { status: status as i32 },
            [4, call, low, high] => Self::Unknown { call, times: u64::from(high) << 32 | u64::from(low) },
            [9, _, low, high] => Self::Traps { times: u64::from(high) << 32 | u64::from(low) },
            [6, ..] => Self::Kept,
            [7, ..] => Self::Unkept { why: String::from_utf8_lossy(bytes.get(RECORD..)?).into_owned() },
            [5, number, parent, cell] => {
                let name = String::from_utf8_lossy(bytes.get(RECORD..)?).into_owned();
                Self::Process { number, parent, cell, name }
            }
            words @ [16, ..] => Self::Library(library::library_of(words, bytes.get(RECORD..)?)?),
            words @ [17, ..] => Self::Updated(library::updated_of(words, bytes.get(RECORD..)?)),
            [18, ..] => Self::Unchanged(String::from_utf8_lossy(bytes.get(RECORD..)?).into_owned()),
            _ => return None,
        })
    }
}

/// The outer end of a connection.
#[derive(Debug)]
pub struct Line(OwnedFd);

impl Line {
    /// Makes the socket that the tender is to have. One that is there already is of a tender that is gone.
    pub fn listen(path: &Path) -> std::io::Result<OwnedFd> {
        const WAITING: i32 = 128;
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let socket = seqpacket()?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        listen(&socket, WAITING)?;
        Ok(socket)
    }

    /// Calls the tender there.
    pub fn connect(path: &Path) -> std::io::Result<Self> {
        let socket = seqpacket()?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(socket))
    }

    /// Takes up one that somebody else made.
    pub fn of(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Asks for something. Fork-safe.
    pub fn ask(&self, order: Order, descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        sys::socket::send(&self.0, &order.record(), descriptors)
    }

    /// What is said next; waits for it. Nothing when the family is gone. Fork-safe but for [`Word::Process`].
    pub fn hear(&self) -> Result<Option<Word>, Errno> {
        self.hear_with().map(|it| it.0)
    }

    /// The same, with the descriptor that came with it.
    pub fn hear_with(&self) -> Result<(Option<Word>, Option<OwnedFd>), Errno> {
        let mut bytes = [0; RECORD + TEXT];
        let (length, [descriptor, ..]) = sys::socket::receive(&self.0, &mut bytes)?;
        if length == 0 {
            return Ok((None, None));
        }
        Word::of(&bytes[..length]).map(|it| (Some(it), descriptor)).ok_or(Errno::BADMSG)
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn seqpacket() -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// What a further program is, as whoever asks for it has it.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "each field is the one of `Command` by that name")]
pub struct CommandText<'a> {
    pub path: &'a CStr,
    pub arguments: &'a [std::ffi::CString],
    pub environment: &'a [std::ffi::CString],
    pub directory: &'a CStr,
    pub user: u32,
    pub group: u32,
    pub groups: &'a [u32],
}

/// Makes a file that holds it. Fork-safe.
pub fn write_command(it: &CommandText<'_>) -> Result<OwnedFd, Errno> {
    let file = memfd_create("command", MemfdFlags::CLOEXEC)?;
    let write = |mut bytes: &[u8]| {
        while !bytes.is_empty() {
            bytes = &bytes[rustix::io::write(&file, bytes)?..];
        }
        Ok::<_, Errno>(())
    };
    let counts = [it.arguments.len(), it.environment.len(), it.groups.len()].map(|it| it as u32);
    for word in counts.iter().chain(&[it.user, it.group]).chain(it.groups) {
        write(&word.to_ne_bytes())?;
    }
    write(it.path.to_bytes_with_nul())?;
    write(it.directory.to_bytes_with_nul())?;
    for text in it.arguments.iter().chain(it.environment) {
        write(text.to_bytes_with_nul())?;
    }
    Ok(file)
}

/// Reads what [`write_command`] wrote; nothing if somebody else did.
pub fn read_command(file: &OwnedFd) -> Option<crate::Command> {
    /// What the kernel takes, and the numbers.
    const MOST: u64 = 4 << 20;
    let length = rustix::fs::fstat(file).ok()?.st_size as u64;
    if length > MOST {
        return None;
    }
    let mut bytes = vec![0; length as usize];
    let mut read = 0;
    while read < bytes.len() {
        match rustix::io::pread(file, &mut bytes[read..], read as u64).ok()? {
            0 => return None,
            count => read += count,
        }
    }
    parse_command(&bytes)
}

fn parse_command(bytes: &[u8]) -> Option<crate::Command> {
    let mut rest = bytes;
    let mut number = || {
        let (word, after) = rest.split_first_chunk::<4>()?;
        rest = after;
        Some(u32::from_ne_bytes(*word))
    };
    let [arguments, environment, groups, user, group] = [number()?, number()?, number()?, number()?, number()?];
    let groups = (0..groups).map(|_| number()).collect::<Option<Vec<_>>>()?;
    let mut text = || {
        let text = CStr::from_bytes_until_nul(rest).ok()?;
        rest = &rest[text.to_bytes_with_nul().len()..];
        Some(text.to_string_lossy().into_owned())
    };
    Some(crate::Command {
        path: text()?.into(),
        directory: text()?.into(),
        arguments: (0..arguments).map(|_| text()).collect::<Option<_>>()?,
        environment: (0..environment).map(|_| text()).collect::<Option<_>>()?,
        user,
        group,
        groups,
    })
}

/// Sets what was accepted to fail instead of wait.
pub(crate) fn never_wait(socket: &OwnedFd) -> Result<(), Errno> {
    rustix::fs::fcntl_setfl(socket, rustix::fs::fcntl_getfl(socket)? | OFlags::NONBLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_line() {
        let (ours, theirs) = sys::socket::pair().unwrap();
        let line = Line::of(ours);
        for word in [
            Word::Started { number: 7 },
            Word::Refused(Errno::AGAIN),
            Word::Ended { status: 0x0f00 },
            Word::Unknown { call: 435, times: 1 << 33 },
            Word::Kept,
            Word::Unkept { why: "an inotify instance".into() },
            Word::Process { number: 2, parent: 1, cell: 1, name: "sh".into() },
            Word::Joined,
            Word::Unchanged("it lacks 'a'".into()),
            Word::Updated(Updated { processes: 1, stood_still: 7, root: String::new() }),
        ] {
            word.say(&theirs).unwrap();
            assert_eq!(line.hear().unwrap(), Some(word));
        }
        let orders = [
            Order::Run { cell: 1 },
            Order::Copy { cell: 9 },
            Order::News,
            Order::List,
            Order::Signal(15),
            Order::Key(2),
            Order::Join,
        ];
        for order in orders.into_iter().chain([Order::Keep { cell: 4 }, Order::Another, Order::Libraries { cell: 1 }]) {
            assert_eq!(Order::of(&order.record()), Some(order));
        }
        for wrong in [[0; 16].as_slice(), &[1; 16], &[], &record([5, 65, 0, 0])] {
            assert_eq!(Order::of(wrong), None);
        }
        drop(theirs);
        assert_eq!(line.hear().unwrap(), None);
    }

    #[test]
    fn a_command_is_read_as_it_was_written() {
        let text = |it: &str| std::ffi::CString::new(it).unwrap();
        let (arguments, environment) = ([text("sh"), text("-c"), text("")], [text("A=b")]);
        let written = CommandText {
            path: c"/bin/sh",
            arguments: &arguments,
            environment: &environment,
            directory: c"/srv",
            user: 1,
            group: 2,
            groups: &[3, 4],
        };
        let command = read_command(&write_command(&written).unwrap()).unwrap();
        assert_eq!(command.arguments, ["sh", "-c", ""]);
        assert_eq!(command.environment, ["A=b"]);
        assert_eq!((command.user, command.group, command.groups.as_slice()), (1, 2, &[3, 4][..]));
        assert_eq!(command.directory.to_str(), Some("/srv"));
    }

    #[test]
    fn half_a_command_is_none() {
        let whole = [1u32, 0, 0, 0, 0].iter().flat_map(|it| it.to_ne_bytes()).chain(*b"/x\0/\0x\0").collect::<Vec<_>>();
        assert!(parse_command(&whole).is_some());
        for length in 0..whole.len() {
            assert!(parse_command(&whole[..length]).is_none(), "{length}");
        }
        assert!(parse_command(&[255; 64]).is_none());
    }
}
