//! Processes that wait for others: for the end of a child, its being stopped, its going on.

use abi::signal::Info;
use sys::Errno;

use super::Reply;
use crate::family::{Change, Taking, Wanted, Whom};
use crate::files::Waiting;
use crate::member::Member;

pub(crate) fn answer(member: &mut Member, number: u32, [a, b, c, d, ..]: [u64; 6]) -> Option<Reply> {
    Some(match i64::from(number) {
        libc::SYS_wait4 => wait(member, a as i32, b, c, d),
        libc::SYS_waitid => wait_by(member, a, b as u32, c, d),
        _ => return None,
    })
}

const NO_HANG: u64 = libc::WNOHANG as u64;
const CONTINUED: u64 = libc::WCONTINUED as u64;
const STOPPED: u64 = libc::WSTOPPED as u64;
const EXITED: u64 = libc::WEXITED as u64;
const LEAVE: u64 = libc::WNOWAIT as u64;
/// Of threads and of the like there is nothing to be heard.
const KINDS: u64 = 0xe000_0000;

/// What waitpid's first argument means.
fn whom(number: i32) -> Whom {
    match number {
        -1 => Whom::Any,
        0 => Whom::Group(0),
        _ if number < 0 => Whom::Group(number.unsigned_abs()),
        one => Whom::One(one as u32),
    }
}

/// Nothing has changed yet: whether the guest wants to hear of it at once.
fn none_yet(errno: Errno, options: u64) -> Reply {
    match errno {
        Errno::AGAIN if options & NO_HANG != 0 => Ok(0).into(),
        Errno::AGAIN => Reply::AfterChild,
        other => Err(other).into(),
    }
}

fn wait(member: &Member, number: i32, status: u64, options: u64, usage: u64) -> Reply {
    if options & !(NO_HANG | STOPPED | CONTINUED | KINDS) != 0 {
        return Err(Errno::INVAL).into();
    }
    let wanted = Wanted { ended: true, stopped: options & STOPPED != 0, continued: options & CONTINUED != 0 };
    member.living.waits.forget_child();
    match member.family.changed_child(member.number, whom(number), wanted, Taking::Reap) {
        Err(errno) => none_yet(errno, options),
        Ok((child, change)) => {
            let written = match status {
                0 => Ok(()),
                at => member.memory.write(at, &change.status().to_ne_bytes()),
            };
            let cleared = match usage {
                0 => Ok(()),
                at => member.memory.write(at, &[0; 144]),
            };
            written.and(cleared).map(|()| u64::from(child)).into()
        }
    }
}

/// waitid, which describes the change in a `siginfo_t`.
fn wait_by(member: &Member, kind: u64, id: u32, into: u64, options: u64) -> Reply {
    let mut hurry = None;
    let whom = match kind as u32 {
        libc::P_ALL => Whom::Any,
        libc::P_PID => Whom::One(id),
        libc::P_PGID => Whom::Group(id),
        libc::P_PIDFD => match super::tellers::process_of(member, u64::from(id)) {
            Ok((process, waiting)) => {
                hurry = Some(Errno::AGAIN).filter(|_| waiting == Waiting::No);
                Whom::One(process)
            }
            Err(errno) => return Err(errno).into(),
        },
        _ => return Err(Errno::INVAL).into(),
    };
    let has = |option| options & option != 0;
    if !has(EXITED | STOPPED | CONTINUED) || has(!(NO_HANG | EXITED | STOPPED | CONTINUED | LEAVE | KINDS)) {
        return Err(Errno::INVAL).into();
    }
    let wanted = Wanted { ended: has(EXITED), stopped: has(STOPPED), continued: has(CONTINUED) };
    member.living.waits.forget_child();
    let taking = if has(LEAVE) { Taking::Leave } else { Taking::Reap };
    let (child, change) = match member.family.changed_child(member.number, whom, wanted, taking) {
        Ok(changed) => changed,
        Err(Errno::AGAIN) if has(NO_HANG) && into != 0 => {
            return member.memory.write(into, &[0; 128]).map(|()| 0).into();
        }
        Err(errno) if Some(errno) == hurry => return Err(errno).into(),
        Err(errno) => return none_yet(errno, options),
    };
    if into == 0 {
        return Ok(0).into();
    }
    member.memory.write(into, &description(child, change)).map(|()| 0).into()
}

fn description(child: u32, change: Change) -> [u8; 128] {
    const SIGCHLD: i32 = 17;
    let (code, value) = change.code_and_value();
    let info = Info { signal: SIGCHLD, code, first: u64::from(child), second: value as u32 as u64, thread: 0 };
    let mut bytes = [0; 128];
    bytes[..4].copy_from_slice(&info.signal.to_ne_bytes());
    bytes[8..12].copy_from_slice(&info.code.to_ne_bytes());
    bytes[16..24].copy_from_slice(&info.first.to_ne_bytes());
    bytes[24..32].copy_from_slice(&info.second.to_ne_bytes());
    bytes
}
