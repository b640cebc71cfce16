//! Files that the program opens again and again, to read them ([`abi::kept`]): a server's pages, above all.
//!
//! Such a file stays open when the program closes it, and what the program asks of it the next time is answered here, as
//! long as the tender says that it is still what its path leads to. **Whatever is not answered here finds an ordinary open
//! file**: before, the file is let go, with its position where the program has it.

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use abi::call;
use abi::kept::{CLOSED, GIVEN_UP, LONGEST, MOST, NUMBER, STATUS, TAKEN};

use crate::errno::{EBUSY, EINVAL, Result};
use crate::sync::Local;
use crate::{clock, engine, number, port, user};

/// A file that is kept.
struct Kept {
    /// Which of the port's entries is its.
    entry: usize,
    number: u64,
    path: Vec<u8>,
    flags: u64,
    status: [u8; STATUS],
    /// How long it is; all of that is in `content` unless it is too long.
    size: u64,
    content: Vec<u8>,
    state: State,
    /// Whether no lower number is free: the program gets this one when it opens the file.
    is_lowest: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The program has it, at that position.
    Open(u64),
    Closed,
}

/// A file that may be kept when it is closed.
struct Opened {
    number: u64,
    path: Vec<u8>,
    flags: u64,
    is_lowest: bool,
}

struct Keeper {
    kept: Vec<Kept>,
    opened: Vec<Opened>,
    /// Paths by their hash, and how often each was opened.
    seen: [(u64, u8); 16],
    next_seen: usize,
}

/// When the tender looked last, by [`clock::monotonic`].
static CHECKED: AtomicU64 = AtomicU64::new(0);
/// What came since.
static NEWS: AtomicU8 = AtomicU8::new(NONE);
const NONE: u8 = 0;
/// From others, past the tender.
const FROM_OTHERS: u8 = 1;
/// From the tender or the family, or the program itself changed something.
const FROM_TENDER: u8 = 2;

static KEEPER: Local<Keeper> =
    Local::new(Keeper { kept: Vec::new(), opened: Vec::new(), seen: [(0, 0); 16], next_seen: 0 });

/// A file is kept when it was opened that often.
const OFTEN: u8 = 3;
/// One that cannot be.
const NEVER: u8 = u8::MAX;
const MOST_OPENED: usize = 16;

/// For how long a file is believed to be unchanged after news that came past the tender, in nanoseconds.
const TRUST: u64 = 1_000_000;

/// Makes the call without the tender, if it is of a file that is kept and can be made so.
pub fn directly(number: u32, arguments: [u64; 6]) -> Option<Result> {
    const EMPTY_PATH: u64 = 0x1000;
    let [a, b, c, d, ..] = arguments;
    match number {
        number::OPENAT => return open(b, c),
        number::OPEN => return open(a, b),
        number::CLOSE => return close(a),
        // What is closed by that number later is not what was opened.
        number::DUP2 | number::DUP3 => KEEPER.get().opened.retain(|it| it.number != b),
        number::SENDMSG | number::SENDMMSG | number::CLOSE_RANGE => let_all_go(),
        _ => {}
    }
    if KEEPER.get().kept.is_empty() {
        return None;
    }
    let own = match number {
        number::FSTAT => status(a, b),
        number::NEWFSTATAT if d == EMPTY_PATH && user::read::<u8>(b) == Ok(0) => status(a, c),
        number::READ => read(a, b, c, None),
        number::PREAD => read(a, b, c, Some(d)),
        number::LSEEK => seek(a, b, c),
        number::SENDFILE => send(a, b, c, d),
        _ => None,
    };
    if own.is_none() {
        let other = match number {
            number::DUP2 | number::DUP3 | number::SENDFILE | number::TEE => b,
            number::SPLICE | number::COPY_FILE_RANGE | number::EPOLL_CTL => c,
            _ => a,
        };
        [a, other].into_iter().for_each(let_go);
    }
    own
}

/// A call was made of the tender, for the program.
pub fn after(number: u32, arguments: &[u64; 6], result: &Result) {
    let (path, flags) = match number {
        number::OPENAT => (arguments[1], arguments[2]),
        number::OPEN => (arguments[0], arguments[1]),
        _ => return,
    };
    if let (Ok(number), true) = (result, is_to_read(flags))
        && let Ok(path) = user::string(path, 4096)
        && path.first() == Some(&b'/')
    {
        let mut keeper = KEEPER.get();
        if keeper.see(&path, |times| times.saturating_add(1)) >= OFTEN && keeper.opened.len() < MOST_OPENED {
            keeper.opened.push(Opened { number: *number as u64, path, flags, is_lowest: true });
        }
    }
}

/// Something came past the tender from somebody who may have changed files before.
pub fn doubt() {
    NEWS.fetch_max(FROM_OTHERS, Ordering::Relaxed);
}

/// Something came from another process of the family.
pub fn hear() {
    NEWS.store(FROM_TENDER, Ordering::Relaxed);
}

/// The tender has looked whether files are what they were.
pub fn believe() {
    NEWS.store(NONE, Ordering::Relaxed);
    CHECKED.store(clock::monotonic(), Ordering::Relaxed);
}

/// Whether a call to the tender tells nothing of what others did.
fn tells_nothing(number: u32) -> bool {
    let is_of_linux = matches!(
        number,
        number::WRITE
            | number::PWRITE
            | number::WRITEV
            | number::SENDTO
            | number::SENDFILE
            | number::CLOSE
            | number::EPOLL_CTL
    );
    is_of_linux || number >= call::BOOT && !matches!(number, call::WAIT | call::RING_SLEEP)
}

/// The tender is about to be asked.
pub fn before(number: u32, arguments: &[u64; 6]) {
    match number {
        call::FORK | call::EXECUTED => let_all_go(),
        call::MAP => let_go(arguments[0]),
        _ => {}
    }
}

/// The tender has answered.
pub fn answered(number: u32) {
    match number {
        number::EPOLL_WAIT => believe(),
        _ if tells_nothing(number) => {}
        _ => hear(),
    }
}

/// Whatever will be asked next is asked of ordinary files.
pub fn let_all_go() {
    loop {
        let Some(number) = KEEPER.get().kept.first().map(|it| it.number) else { break };
        forget(number);
    }
    KEEPER.get().opened.clear();
}

/// Makes an ordinary open file of one that the program has open.
pub fn let_go(number: u64) {
    let is_open = |it: &Kept| it.number == number && it.state != State::Closed;
    if KEEPER.get().kept.iter().any(is_open) {
        forget(number);
    }
}

fn forget(number: u64) {
    let Some(kept) = KEEPER.get().take(number) else { return };
    let entry = &engine::port().kept[kept.entry];
    if u64::from(entry.load(Ordering::Relaxed) & NUMBER) == number {
        let said = if kept.state == State::Closed { 0 } else { TAKEN | GIVEN_UP | number as u32 };
        entry.store(said, Ordering::Relaxed);
    }
    give_position(&kept);
}

/// Whether a file is opened to be read and nothing else.
fn is_to_read(flags: u64) -> bool {
    const NO_CONTROL: u64 = 0o400;
    const DONT_WAIT: u64 = 0o4000;
    const LARGE: u64 = 0o100_000;
    const CLOSE_ON_EXEC: u64 = 0o2_000_000;
    flags as u32 as u64 & !(NO_CONTROL | DONT_WAIT | LARGE | CLOSE_ON_EXEC) == 0
}

impl Keeper {
    /// Takes note of a path; gives how often it was seen by now.
    fn see(&mut self, path: &[u8], change: impl FnOnce(u8) -> u8) -> u8 {
        // Fowler, Noll and Vo's hash (FNV-1a); who finds two paths with the same gains nothing.
        let hash = path
            .iter()
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        let place = match self.seen.iter().position(|it| it.0 == hash) {
            Some(place) => place,
            None => {
                let place = self.next_seen;
                self.next_seen = (place + 1) % self.seen.len();
                self.seen[place] = (hash, 0);
                place
            }
        };
        if self.seen[place].1 != NEVER {
            self.seen[place].1 = change(self.seen[place].1);
        }
        let times = self.seen[place].1;
        if times == NEVER { 0 } else { times }
    }

    fn take(&mut self, number: u64) -> Option<Kept> {
        let at = self.kept.iter().position(|it| it.number == number)?;
        Some(self.kept.remove(at))
    }

    /// The number is free: a higher one is not the lowest.
    fn note_free(&mut self, number: u64) {
        self.kept.iter_mut().filter(|it| it.number > number).for_each(|it| it.is_lowest = false);
        self.opened.iter_mut().filter(|it| it.number > number).for_each(|it| it.is_lowest = false);
    }

    /// What the program has open by that number.
    fn open_at(&mut self, number: u64) -> Option<&mut Kept> {
        self.kept.iter_mut().find(|it| it.number == number && it.state != State::Closed)
    }
}

/// Has the tender look if there is doubt, and forgets what it keeps no more.
fn be_sure() {
    let is_late = || clock::monotonic() > CHECKED.load(Ordering::Relaxed).saturating_add(TRUST);
    let is_doubtful = match NEWS.load(Ordering::Relaxed) {
        NONE => false,
        FROM_OTHERS => is_late(),
        _ => true,
    };
    if is_doubtful && port::call(call::CHECK, [0; 6]).is_ok() {
        believe();
    }
    refresh();
}

/// Forgets what the tender does not keep any more.
fn refresh() {
    let port = engine::port();
    let is_lost = |it: &Kept| {
        let entry = port.kept[it.entry].load(Ordering::Relaxed);
        entry & TAKEN == 0 || u64::from(entry & NUMBER) != it.number
    };
    loop {
        let lost = KEEPER.get().kept.iter().position(is_lost);
        let Some(lost) = lost.map(|at| KEEPER.get().kept.swap_remove(at)) else { break };
        give_position(&lost);
    }
}

/// An ordinary file is where the program has it.
fn give_position(it: &Kept) {
    if let State::Open(position @ 1..) = it.state {
        let _ = port::call(number::LSEEK, [it.number, position, 0, 0, 0, 0]);
    }
}

fn open(path: u64, flags: u64) -> Option<Result> {
    if KEEPER.get().kept.is_empty() || !is_to_read(flags) {
        return None;
    }
    let path = user::string(path, 4096).ok()?;
    let is_it = |it: &&mut Kept| it.is_lowest && it.state == State::Closed && it.flags == flags && it.path == path;
    KEEPER.get().kept.iter_mut().find(is_it)?;
    be_sure();
    let mut keeper = KEEPER.get();
    let it = keeper.kept.iter_mut().find(is_it)?;
    it.state = State::Open(0);
    engine::port().kept[it.entry].store(TAKEN | it.number as u32, Ordering::Relaxed);
    Some(Ok(it.number as usize))
}

fn close(number: u64) -> Option<Result> {
    let opened = {
        let mut keeper = KEEPER.get();
        if keeper.kept.is_empty() && keeper.opened.is_empty() {
            return None;
        }
        keeper.note_free(number);
        if let Some(it) = keeper.open_at(number) {
            it.state = State::Closed;
            engine::port().kept[it.entry].fetch_or(CLOSED, Ordering::Relaxed);
            return Some(Ok(0));
        }
        let at = keeper.opened.iter().position(|it| it.number == number)?;
        keeper.opened.swap_remove(at)
    };
    keep(opened)
}

/// Gives up the file that was kept first of those that the program does not have open, when there is no room for another.
fn make_room() {
    let first = {
        let keeper = KEEPER.get();
        let closed = keeper.kept.iter().find(|it| it.state == State::Closed);
        closed.filter(|_| keeper.kept.len() >= MOST).map(|it| it.number)
    };
    first.into_iter().for_each(forget);
}

/// Keeps a file instead of closing it.
fn keep(it: Opened) -> Option<Result> {
    refresh();
    make_room();
    let entry = engine::port().kept.iter().position(|it| it.load(Ordering::Relaxed) & TAKEN == 0)?;
    let mut status = [0; STATUS];
    let mut content = vec![0u8; LONGEST];
    // The number is another file's soon.
    engine::forget(it.number);
    // Before the tender keeps it: at each stop, it gives up what is not entered.
    let said = &engine::port().kept[entry];
    said.store(TAKEN | CLOSED | it.number as u32, Ordering::Relaxed);
    let arguments = [it.number, status.as_mut_ptr() as u64, content.as_mut_ptr() as u64, content.len() as u64, 0, 0];
    let size = match port::call(call::KEEP, arguments) {
        Ok(size) => size,
        Err(errno) => {
            said.store(0, Ordering::Relaxed);
            // It has just changed: perhaps later.
            KEEPER.get().see(&it.path, |_| if errno == EBUSY { 0 } else { NEVER });
            return None;
        }
    };
    content.truncate(if size <= LONGEST { size } else { 0 });
    content.shrink_to_fit();
    let Opened { number, path, flags, is_lowest } = it;
    let state = State::Closed;
    let size = size as u64;
    KEEPER.get().kept.push(Kept { entry, number, path, flags, status, size, content, state, is_lowest });
    believe();
    Some(Ok(0))
}

/// Does that with what the program has open by that number, if it is kept, as it is now.
fn with<T>(number: u64, what: impl FnOnce(&mut Kept) -> Option<T>) -> Option<T> {
    KEEPER.get().open_at(number)?;
    be_sure();
    what(KEEPER.get().open_at(number)?)
}

fn status(number: u64, into: u64) -> Option<Result> {
    with(number, |it| Some(user::write_all(into, &it.status).map(|()| 0)))
}

/// Where a part of the content is that begins at `offset` and is no longer than that.
fn part(it: &Kept, offset: u64, length: u64) -> Option<core::ops::Range<usize>> {
    if it.content.len() as u64 != it.size || offset > i64::MAX as u64 {
        return None;
    }
    let begin = offset.min(it.size) as usize;
    let end = offset.saturating_add(length).min(it.size) as usize;
    Some(begin..end.max(begin))
}

fn read(number: u64, into: u64, length: u64, offset: Option<u64>) -> Option<Result> {
    with(number, |it| {
        let State::Open(position) = it.state else { return None };
        let part = part(it, offset.unwrap_or(position), length)?;
        let done = user::write_all(into, &it.content[part.clone()]);
        if done.is_ok() && offset.is_none() {
            it.state = State::Open(position + part.len() as u64);
        }
        Some(done.map(|()| part.len()))
    })
}

fn seek(number: u64, offset: u64, whence: u64) -> Option<Result> {
    const SET: u64 = 0;
    const CURRENT: u64 = 1;
    const END: u64 = 2;
    with(number, |it| {
        let State::Open(position) = it.state else { return None };
        let from = match whence {
            SET => 0,
            CURRENT => position,
            END => it.size,
            _ => return None,
        };
        let Some(to) = from.checked_add_signed(offset as i64).filter(|to| *to <= i64::MAX as u64) else {
            return Some(Err(EINVAL));
        };
        it.state = State::Open(to);
        Some(Ok(to as usize))
    })
}

/// sendfile, from a file that is kept.
fn send(to: u64, number: u64, offset_at: u64, length: u64) -> Option<Result> {
    with(number, |it| {
        let State::Open(position) = it.state else { return None };
        let offset = if offset_at == 0 { position } else { user::read(offset_at).ok()? };
        let part = part(it, offset, length)?;
        let sent = match part.len() {
            0 => 0,
            _ => send_bytes(to, &it.content[part])?,
        };
        let end = offset + sent as u64;
        match offset_at {
            0 => it.state = State::Open(end),
            _ => user::write(offset_at, end).ok()?,
        }
        Some(Ok(sent))
    })
}

fn send_bytes(to: u64, bytes: &[u8]) -> Option<usize> {
    let by_tender = || port::call(number::WRITE, [to, bytes.as_ptr() as u64, bytes.len() as u64, 0, 0, 0]).ok();
    engine::send(to, bytes).or_else(by_tender)
}
