//! Message queues of POSIX: the host's, in the cell's IPC namespace. What the host sees never waits.

use rustix::time::{ClockId, clock_gettime};
use sys::Errno;

use super::Reply;
use super::table::{Kind, Row, row, waiting};
use crate::files::Waiting;
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
        libc::SYS_mq_getsetattr => attributes(member, a, b, c).into(),
        _ => return None,
    })
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
