//! Message queues of POSIX: the host's, in the cell's IPC namespace. What the host sees never waits.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use abi::signal::{BY_QUEUE, Info};
use rustix::time::{ClockId, clock_gettime};
use sys::Errno;
use sys::signal::Telling;

use super::Reply;
use super::table::{Kind, Row, row, waiting};
use crate::files::{File, Waiting};
use crate::member::Member;

/// `struct mq_attr`, whose first word is the flags.
const ATTRIBUTES: usize = 64;

pub(crate) fn answer(member: &mut Member, number: u32, arguments: [u64; 6]) -> Option<Reply> {
    let [a, b, c, _, time, _] = arguments;
    Some(match i64::from(number) {
        libc::SYS_mq_timedsend | libc::SYS_mq_timedreceive => {
            let row = if i64::from(number) == libc::SYS_mq_timedsend { &SEND } else { &RECEIVE };
            match super::pass::on(member, row, arguments) {
                Reply::Later { events, argument } => match limit(member, time) {
                    Ok(limit) => Reply::LaterWithin { events, argument, limit },
                    Err(errno) => Err(errno).into(),
                },
                other => other,
            }
        }
        libc::SYS_mq_notify => notify(member, a, b).into(),
        libc::SYS_mq_getsetattr => attributes(member, a, b, c).into(),
        _ => return None,
    })
}

/// Who wants to hear of a message. To the host it is the tender in any case, which passes it on.
#[derive(Default)]
pub(crate) struct Notices {
    state: Mutex<(u64, BTreeMap<u64, Notice>)>,
}

struct Notice {
    process: u32,
    queue: Weak<File>,
    /// What the process is sent, if it is sent something.
    info: Option<Info>,
}

/// What the host sends the tender: any that nobody is likely to send it otherwise. It is told by where it comes from.
const BY_HOST: i32 = 60;

impl Notices {
    fn state(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Notice>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host has told of that one: whom to send what.
    pub(crate) fn take(&self, number: u64) -> Option<(u32, Info)> {
        let notice = self.state().1.remove(&number)?;
        Some((notice.process, notice.info?))
    }

    /// A process does not want to hear any more: of that queue, or of any.
    pub(crate) fn forget(&self, process: u32, queue: Option<&Arc<File>>) {
        self.state().1.retain(|_, it| {
            let same = |file: &Arc<File>| queue.is_none_or(|queue| Arc::ptr_eq(file, queue));
            let file = it.queue.upgrade();
            if it.process != process || file.as_ref().is_some_and(|it| !same(it)) {
                return file.is_some();
            }
            if let Some(file) = file {
                let _ = sys::signal::tell_of_message(file.as_fd(), None);
            }
            false
        });
    }
}

/// mq_notify.
fn notify(member: &Member, queue: u64, event: u64) -> Result<u64, Errno> {
    let notices = &member.family.notices;
    if event == 0 {
        let file = member.table.get(queue)?;
        notices.forget(member.number, Some(file));
        return Ok(0);
    }
    let bytes: [u8; 16] = member.memory.number(event)?;
    let word = |at: usize| bytes[at..at + 4].try_into().map_or(0, i32::from_ne_bytes);
    let value = bytes[..8].try_into().map_or(0, u64::from_ne_bytes);
    let (signal, way) = (word(8), word(12));
    let info = match way {
        libc::SIGEV_NONE => None,
        libc::SIGEV_SIGNAL if (0..=64).contains(&signal) => {
            Some(Info { signal, code: BY_QUEUE, thread: 0, first: 0, second: value }).filter(|_| signal != 0)
        }
        // By a socket of a kind that there is not.
        libc::SIGEV_THREAD => return Err(Errno::NOSYS),
        _ => return Err(Errno::INVAL),
    };
    let file = member.table.get(queue)?;
    let mut state = notices.state();
    let number = state.0;
    let how = if info.is_some() { Telling::BySignal(BY_HOST) } else { Telling::Nobody };
    sys::signal::tell_of_message(file.as_fd(), Some((how, number)))?;
    let notice = Notice { process: member.number, queue: Arc::downgrade(file), info };
    state.0 += 1;
    // The host has taken this one, so whatever it was told before of the same queue is done with.
    let is_spent =
        |it: &Notice| it.queue.upgrade().is_none_or(|other| it.process == member.number && Arc::ptr_eq(&other, file));
    state.1.retain(|_, it| !is_spent(it));
    state.1.insert(number, notice);
    Ok(0)
}

const SEND: Row = waiting(libc::SYS_mq_timedsend, &[Kind::File, Kind::In(2), Kind::Number, Kind::Number], super::OUT);
const RECEIVE: Row =
    waiting(libc::SYS_mq_timedreceive, &[Kind::File, Kind::Out(2), Kind::Number, Kind::OutFixed(4)], super::IN);

const ASK: Row = row(libc::SYS_mq_getsetattr, &[Kind::File, Kind::InFixed(ATTRIBUTES), Kind::OutFixed(ATTRIBUTES)]);

/// How long it is until that time of the wall clock's, in nanoseconds; 0 for ever.
fn limit(member: &Member, time: u64) -> Result<u64, Errno> {
    const SECOND: i128 = 1_000_000_000;
    if time == 0 {
        return Ok(0);
    }
    let bytes: [u8; 16] = member.memory.number(time)?;
    let word = |at: usize| bytes[at..at + 8].try_into().map_or(0, i64::from_ne_bytes);
    let (seconds, nanoseconds) = (word(0), word(8));
    if seconds < 0 || !(0..SECOND as i64).contains(&nanoseconds) {
        return Err(Errno::INVAL);
    }
    let now = clock_gettime(ClockId::Realtime);
    let left = (i128::from(seconds) - i128::from(now.tv_sec)) * SECOND + i128::from(nanoseconds - now.tv_nsec);
    if left <= 0 { Err(Errno::TIMEDOUT) } else { Ok(u64::try_from(left).unwrap_or(u64::MAX)) }
}

/// mq_getsetattr. All that can be set is whether the program waits, which is kept here.
fn attributes(member: &mut Member, queue: u64, new: u64, old: u64) -> Result<u64, Errno> {
    const NONBLOCK: u64 = libc::O_NONBLOCK as u64;
    let wanted = match new {
        0 => None,
        new => Some(u64::from_ne_bytes(member.memory.number(new)?)),
    };
    if wanted.is_some_and(|it| it & !NONBLOCK != 0) {
        return Err(Errno::INVAL);
    }
    if let Reply::Done(Err(errno)) = super::pass::on(member, &ASK, [queue, 0, old, 0, 0, 0]) {
        return Err(errno);
    }
    let file = member.table.get(queue)?.clone();
    if old != 0 {
        let flags = if file.waiting() == Waiting::No { NONBLOCK } else { 0 };
        member.memory.write(old, &flags.to_ne_bytes())?;
    }
    if let Some(wanted) = wanted {
        member.set_waiting(&file, Waiting::by(wanted));
    }
    Ok(0)
}
