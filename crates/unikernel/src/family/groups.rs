//! Who is signalled: one process, a group of them, everybody; and how processes come to be in groups and sessions.

use abi::signal::{BY_KILL, BY_TKILL, Info};
use sys::Errno;

use super::{FIRST, Family};
use crate::signals::Sender;

impl Family {
    /// Sends a signal as kill(2) does; signal 0 only asks whether one could. Whoever is in a cell reaches that cell alone;
    /// who is outside reaches all.
    pub(crate) fn kill(&self, sender: Sender, to: i32, signal: i32) -> Result<(), Errno> {
        let first = Info::from(sender.process, sender.user.real);
        self.send(sender, to, Info { signal, code: BY_KILL, thread: 0, first, second: 0 })
    }

    /// tgkill and tkill, to a thread of another process.
    pub(crate) fn kill_thread(&self, sender: Sender, to: i32, thread: u32, signal: i32) -> Result<(), Errno> {
        let first = Info::from(sender.process, sender.user.real);
        self.send_to_one(sender, to, Info { signal, code: BY_TKILL, thread, first, second: 0 })
    }

    /// Sends one process a signal of which there is more to say.
    pub(crate) fn send_to_one(&self, sender: Sender, to: i32, info: Info) -> Result<(), Errno> {
        if to <= 0 { Err(Errno::SRCH) } else { self.send(sender, to, info) }
    }

    fn send(&self, sender: Sender, to: i32, info: Info) -> Result<(), Errno> {
        const SIGKILL: i32 = 9;
        const SIGCONT: i32 = 18;
        if !(0..=64).contains(&info.signal) {
            return Err(Errno::INVAL);
        }
        let mut account = self.account();
        let own = account.processes.get(&sender.process);
        let group = match to {
            0 => own.map(|it| it.group),
            _ if to < -1 => Some(to.unsigned_abs()),
            _ => None,
        };
        let session = own.map(|it| it.session);
        let cell = (sender.process != 0).then(|| own.map_or(0, |it| it.cell));
        let (mut found, mut refused) = (false, None);
        let mut continued = Vec::new();
        for (&number, process) in account.processes.iter().filter(|(_, it)| cell.is_none_or(|cell| it.cell == cell)) {
            let meant = match (to, group) {
                (_, Some(group)) => process.group == group,
                // As Linux, everybody but the first process and the sender.
                (-1, None) => number != process.cell && number != sender.process,
                (one, None) => number as i32 == one,
            };
            if !meant {
                continue;
            }
            let in_session = info.signal == SIGCONT && Some(process.session) == session;
            if !sender.may(process.user) && !in_session {
                refused = Some(Errno::PERM);
                continue;
            }
            found = true;
            let Some(living) = process.living() else { continue };
            match info.signal {
                0 => {}
                SIGKILL => {
                    living.handle.kill();
                    living.port.disturb();
                    living.waits.ring();
                }
                _ => {
                    if let Err(errno) = living.signal(info) {
                        refused = Some(errno);
                    }
                    continued.push(number);
                }
            }
        }
        if info.signal == SIGCONT {
            continued.into_iter().for_each(|it| account.let_go_on(it));
        }
        match refused {
            _ if found && (group.is_some() || to == -1) => Ok(()),
            Some(errno) => Err(errno),
            None if found => Ok(()),
            None => Err(Errno::SRCH),
        }
    }

    /// A signal that no process sent.
    pub(crate) fn signal_by_nobody(&self, number: u32, info: Info) {
        let account = self.account();
        if let Some(living) = account.processes.get(&number).and_then(|it| it.living()) {
            // One that finds no room is lost.
            let _ = living.signal(info);
        }
    }

    /// Sends the first process a signal from outside.
    pub(crate) fn signal_first(&self, signal: i32) {
        let _ = self.kill(Sender::OUTSIDE, FIRST as i32, signal);
    }

    /// setpgid.
    pub(crate) fn set_group(&self, caller: u32, number: u32, group: u32) -> Result<(), Errno> {
        let number = if number == 0 { caller } else { number };
        let group = if group == 0 { number } else { group };
        let mut account = self.account();
        let session = account.processes.get(&caller).map(|it| it.session);
        let known =
            group == number || account.processes.values().any(|it| it.group == group && Some(it.session) == session);
        let process = account.processes.get_mut(&number).ok_or(Errno::SRCH)?;
        if number != caller && process.parent != caller {
            return Err(Errno::SRCH);
        }
        if process.session == number || Some(process.session) != session || !known {
            return Err(Errno::PERM);
        }
        process.group = group;
        Ok(())
    }

    /// setsid.
    pub(crate) fn set_session(&self, caller: u32) -> Result<u32, Errno> {
        let mut account = self.account();
        if account.processes.values().any(|it| it.group == caller) {
            return Err(Errno::PERM);
        }
        let process = account.processes.get_mut(&caller).ok_or(Errno::SRCH)?;
        (process.group, process.session) = (caller, caller);
        Ok(caller)
    }
}
