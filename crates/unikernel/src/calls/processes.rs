//! Processes: who they are, and who signals whom.

use abi::signal::Info;
use sys::Errno;

use super::Reply;
use crate::creds::Privilege;
use crate::member::Member;
use crate::signals::Sender;
use crate::timers::Timers;

pub(crate) fn answer(member: &mut Member, number: u32, [a, b, c, d, e, f]: [u64; 6]) -> Option<Reply> {
    let family = member.family.clone();
    let own = member.number;
    let other = |id: u64| if id == 0 { own } else { id as u32 };
    let credentials = &member.credentials;
    let sender = Sender { process: own, user: credentials.user };
    Some(
        match i64::from(number) {
            libc::SYS_getpid => Ok(u64::from(own)),
            // A number for a new thread.
            libc::SYS_gettid => {
                Timers::beat(&family);
                family.number().map(u64::from)
            }
            libc::SYS_getppid => family.with(own, |it| u64::from(it.parent)),
            libc::SYS_getpgrp => family.with(own, |it| u64::from(it.group)),
            libc::SYS_getpgid => family.with(other(a), |it| u64::from(it.group)),
            libc::SYS_getsid => family.with(other(a), |it| u64::from(it.session)),
            libc::SYS_setpgid if (b as i32) < 0 => Err(Errno::INVAL),
            libc::SYS_rt_sigaction => family.want_children(own, a, b, c),
            libc::SYS_setpgid => family.set_group(own, a as u32, b as u32).map(|()| 0),
            libc::SYS_setsid => family.set_session(own).map(u64::from),
            libc::SYS_kill => family.kill(sender, a as i32, b as i32).map(|()| 0),
            libc::SYS_tgkill => family.kill_thread(sender, a as i32, b as u32, c as i32).map(|()| 0),
            // As the guest has read them: whom, the signal, why, and the rest of what it says.
            libc::SYS_rt_sigqueueinfo | libc::SYS_rt_tgsigqueueinfo => {
                let info = Info { signal: b as i32, code: c as i32, thread: f as u32, first: d, second: e };
                family.send_to_one(sender, a as i32, info).map(|()| 0)
            }
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
