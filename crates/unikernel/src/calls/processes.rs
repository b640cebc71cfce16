//! Processes: their numbers, groups and sessions, and who signals whom.

use abi::signal::{BY_TKILL, Info};
use sys::Errno;

use super::Reply;
use crate::member::Member;
use crate::signals::Sender;
use crate::timers::Timers;

pub(crate) fn answer(member: &mut Member, number: u32, [a, b, c, d, e, f]: [u64; 6]) -> Option<Reply> {
    let family = member.family.clone();
    let own = member.number;
    let other = |id: u64| if id == 0 { own } else { id as u32 };
    let sender = Sender { process: own, user: member.credentials.user };
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
            libc::SYS_rt_sigqueueinfo | libc::SYS_rt_tgsigqueueinfo
                if (c as i32 >= 0 || c as i32 == BY_TKILL) && a as u32 != own =>
            {
                Err(Errno::PERM)
            }
            libc::SYS_rt_sigqueueinfo | libc::SYS_rt_tgsigqueueinfo => {
                let info = Info { signal: b as i32, code: c as i32, thread: f as u32, first: d, second: e };
                family.send_to_one(sender, a as i32, info).map(|()| 0)
            }
            _ => return None,
        }
        .into(),
    )
}
