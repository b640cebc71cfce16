//! Processes: who they are, who waits for whom.

use sys::Errno;

use super::Reply;
use crate::creds::Privilege;
use crate::family::{Taking, Whom};
use crate::member::Member;
use crate::timers::{Timer, Timers};

pub(crate) fn answer(member: &mut Member, number: u32, [a, b, c, d, ..]: [u64; 6]) -> Option<Reply> {
    let family = member.family.clone();
    let own = member.number;
    let other = |id: u64| if id == 0 { own } else { id as u32 };
    let credentials = &member.credentials;
    Some(
        match i64::from(number) {
            libc::SYS_getpid => Ok(u64::from(own)),
            // A number for a new thread.
            libc::SYS_gettid => {
                Timers::beat(&family);
                family.number().map(u64::from)
            }
            libc::SYS_alarm | libc::SYS_setitimer | libc::SYS_getitimer => {
                return Some(timer(member, number, [a, b, c]).into());
            }
            libc::SYS_getppid => family.with(own, |it| u64::from(it.parent)),
            libc::SYS_getpgrp => family.with(own, |it| u64::from(it.group)),
            libc::SYS_getpgid => family.with(other(a), |it| u64::from(it.group)),
            libc::SYS_getsid => family.with(other(a), |it| u64::from(it.session)),
            libc::SYS_setpgid if (b as i32) < 0 => Err(Errno::INVAL),
            libc::SYS_rt_sigaction => family.want_children(own, a, b),
            libc::SYS_setpgid => family.set_group(own, a as u32, b as u32).map(|()| 0),
            libc::SYS_setsid => family.set_session(own).map(u64::from),
            libc::SYS_kill => family.kill(own, a as i32, b as u32).map(|()| 0),
            libc::SYS_wait4 => return Some(wait(member, a as i32, b, c, d)),
            libc::SYS_waitid => return Some(wait_by(member, a, b as u32, c, d)),
            libc::SYS_getuid => Ok(u64::from(credentials.user.real)),
            libc::SYS_geteuid => Ok(u64::from(credentials.user.effective)),
            libc::SYS_getgid => Ok(u64::from(credentials.group.real)),
            libc::SYS_getegid => Ok(u64::from(credentials.group.effective)),
            libc::SYS_getresuid => three(member, [a, b, c], credentials.user),
            libc::SYS_getresgid => three(member, [a, b, c], credentials.group),
            libc::SYS_setuid => change(&mut member.credentials, |it, how| {
                it.user = it.user.set(a as u32, how)?;
                Some(())
            }),
            libc::SYS_setgid => change(&mut member.credentials, |it, how| {
                it.group = it.group.set(a as u32, how)?;
                Some(())
            }),
            libc::SYS_setreuid => change(&mut member.credentials, |it, how| {
                it.user = it.user.set_each([a as u32, b as u32, b as u32], how)?;
                Some(())
            }),
            libc::SYS_setregid => change(&mut member.credentials, |it, how| {
                it.group = it.group.set_each([a as u32, b as u32, b as u32], how)?;
                Some(())
            }),
            libc::SYS_setresuid => change(&mut member.credentials, |it, how| {
                it.user = it.user.set_each([a, b, c].map(|it| it as u32), how)?;
                Some(())
            }),
            libc::SYS_setresgid => change(&mut member.credentials, |it, how| {
                it.group = it.group.set_each([a, b, c].map(|it| it as u32), how)?;
                Some(())
            }),
            libc::SYS_setfsuid => Ok(u64::from(credentials.user.effective)),
            libc::SYS_setfsgid => Ok(u64::from(credentials.group.effective)),
            libc::SYS_getgroups => groups(member, a, b),
            libc::SYS_setgroups => set_groups(member, a, b),
            _ => return None,
        }
        .into(),
    )
}

/// The timers that a process has by itself, each with its signal: of real time, and two of the processor's, for which real
/// time has to do.
fn timer(member: &Member, number: u32, [which, new, old]: [u64; 3]) -> Result<u64, Errno> {
    const SIGNALS: [u32; 3] = [14, 26, 27];
    const REAL: u32 = 14;
    const SECOND: u64 = 1_000_000_000;
    let (family, own) = (&member.family, member.number);
    if i64::from(number) == libc::SYS_alarm {
        let timer = Timer::once(u64::from(which as u32) * SECOND);
        // What is left counts as the next whole second.
        return Ok(Timers::set(family, own, REAL, timer).left.div_ceil(SECOND));
    }
    let signal = *SIGNALS.get(which as usize).ok_or(Errno::INVAL)?;
    let time = |bytes: &[u8]| -> Result<u64, Errno> {
        let word = |at: usize| bytes[at..at + 8].try_into().map_or(0, i64::from_ne_bytes);
        let (seconds, microseconds) = (u64::try_from(word(0)), u64::try_from(word(8)));
        match (seconds, microseconds) {
            (Ok(seconds), Ok(micro)) if micro < 1_000_000 => {
                Ok(seconds.saturating_mul(SECOND).saturating_add(micro * 1000))
            }
            _ => Err(Errno::INVAL),
        }
    };
    let (before, old) = match i64::from(number) {
        libc::SYS_getitimer => (Timers::get(family, own, signal), new),
        _ => {
            let bytes: [u8; 32] = if new == 0 { [0; 32] } else { member.memory.number(new)? };
            let timer = Timer { interval: time(&bytes[..16])?, left: time(&bytes[16..])? };
            (Timers::set(family, own, signal, timer), old)
        }
    };
    if old != 0 {
        let words = [before.interval, before.left].map(|it| [it / SECOND, it % SECOND / 1000]);
        member.memory.write(old, &words.as_flattened().iter().flat_map(|it| it.to_ne_bytes()).collect::<Vec<u8>>())?;
    }
    Ok(0)
}

fn change(
    credentials: &mut crate::creds::Credentials,
    how: impl FnOnce(&mut crate::creds::Credentials, Privilege) -> Option<()>,
) -> Result<u64, Errno> {
    let privilege = credentials.privilege();
    how(credentials, privilege).map(|()| 0).ok_or(Errno::PERM)
}

fn three(member: &Member, places: [u64; 3], it: crate::creds::Three) -> Result<u64, Errno> {
    for (place, id) in places.into_iter().zip([it.real, it.effective, it.saved]) {
        member.memory.write(place, &id.to_ne_bytes())?;
    }
    Ok(0)
}

fn groups(member: &Member, size: u64, into: u64) -> Result<u64, Errno> {
    let groups = &member.credentials.groups;
    if size == 0 {
        return Ok(groups.len() as u64);
    }
    if (size as usize) < groups.len() {
        return Err(Errno::INVAL);
    }
    let bytes: Vec<u8> = groups.iter().flat_map(|it| it.to_ne_bytes()).collect();
    member.memory.write(into, &bytes)?;
    Ok(groups.len() as u64)
}

fn set_groups(member: &mut Member, count: u64, at: u64) -> Result<u64, Errno> {
    const MOST: u64 = 65536;
    if member.credentials.privilege() == Privilege::None {
        return Err(Errno::PERM);
    }
    if count > MOST {
        return Err(Errno::INVAL);
    }
    let bytes = member.memory.bytes(at, count as usize * 4)?;
    let number = |it: &[u8]| it.try_into().map_or(0, u32::from_ne_bytes);
    member.credentials.groups = bytes.chunks_exact(4).map(number).collect();
    Ok(0)
}

const NO_HANG: u64 = 1;

/// What waitpid's first argument means.
fn whom(number: i32) -> Whom {
    match number {
        -1 => Whom::Any,
        0 => Whom::Group(0),
        _ if number < 0 => Whom::Group(number.unsigned_abs()),
        one => Whom::One(one as u32),
    }
}

/// Nothing has ended yet: whether the guest wants to hear of it at once.
fn none_yet(errno: Errno, options: u64) -> Reply {
    match errno {
        Errno::AGAIN if options & NO_HANG != 0 => Ok(0).into(),
        Errno::AGAIN => Reply::AfterChild,
        other => Err(other).into(),
    }
}

fn wait(member: &Member, number: i32, status: u64, options: u64, usage: u64) -> Reply {
    /// Of threads, groups and stopped children there is nothing more to be heard.
    const KNOWN: u64 = 0xe000_000b;
    if options & !KNOWN != 0 {
        return Err(Errno::INVAL).into();
    }
    member.living.waits.forget_child();
    match member.family.ended_child(member.number, whom(number), Taking::Reap) {
        Err(errno) => none_yet(errno, options),
        Ok((child, ended)) => {
            let written = match status {
                0 => Ok(()),
                at => member.memory.write(at, &ended.to_ne_bytes()),
            };
            let cleared = match usage {
                0 => Ok(()),
                at => member.memory.write(at, &[0; 144]),
            };
            written.and(cleared).map(|()| u64::from(child)).into()
        }
    }
}

/// waitid, which describes the end in a `siginfo_t`.
fn wait_by(member: &Member, kind: u64, id: u32, into: u64, options: u64) -> Reply {
    const LEAVE: u64 = 0x0100_0000;
    const EXITED: u64 = 4;
    let whom = match kind {
        0 => Whom::Any,
        1 => Whom::One(id),
        2 => Whom::Group(id),
        _ => return Err(Errno::INVAL).into(),
    };
    if options & EXITED == 0 {
        return Err(Errno::INVAL).into();
    }
    member.living.waits.forget_child();
    let taking = if options & LEAVE != 0 { Taking::Leave } else { Taking::Reap };
    let (child, status) = match member.family.ended_child(member.number, whom, taking) {
        Ok(ended) => ended,
        Err(Errno::AGAIN) if options & NO_HANG != 0 => {
            return member.memory.write(into, &[0; 128]).map(|()| 0).into();
        }
        Err(errno) => return none_yet(errno, options),
    };
    if into == 0 {
        return Ok(0).into();
    }
    const SIGCHLD: i32 = 17;
    let (code, value) = match status & 0x7f {
        0 => (1, status >> 8 & 0xff),
        signal => (2, signal),
    };
    let mut info = [0u8; 128];
    for (at, number) in [(0, SIGCHLD), (8, code), (16, child as i32), (24, value)] {
        info[at..at + 4].copy_from_slice(&number.to_ne_bytes());
    }
    member.memory.write(into, &info).map(|()| 0).into()
}
