//! Who is signalled: one process, a group of them, everybody; and how processes come to be in groups and sessions.

use sys::Errno;

use super::{FIRST, Family};

impl Family {
    /// Sends a signal as kill(2) does; signal 0 only asks whether one could. Whoever is in a cell reaches that cell alone;
    /// number 0, which is outside, reaches all.
    pub(crate) fn kill(&self, sender: u32, to: i32, signal: u32) -> Result<(), Errno> {
        const SIGKILL: u32 = 9;
        let account = self.account();
        let group = match to {
            0 => account.processes.get(&sender).map(|it| it.group),
            _ if to < -1 => Some(to.unsigned_abs()),
            _ => None,
        };
        let cell = (sender != 0).then(|| account.processes.get(&sender).map_or(0, |it| it.cell));
        let mut found = false;
        for (&number, process) in account.processes.iter().filter(|(_, it)| cell.is_none_or(|cell| it.cell == cell)) {
            let meant = match (to, group) {
                (_, Some(group)) => process.group == group,
                // As Linux, everybody but the first process and the sender.
                (-1, None) => number != process.cell && number != sender,
                (one, None) => number as i32 == one,
            };
            if !meant {
                continue;
            }
            found = true;
            let Some(living) = process.living() else { continue };
            match signal {
                0 => {}
                SIGKILL => {
                    living.handle.kill();
                    living.port.disturb();
                    living.waits.ring();
                }
                _ => living.signal(signal, u64::from(sender)),
            }
        }
        if found { Ok(()) } else { Err(Errno::SRCH) }
    }

    /// Sends the first process a signal from outside.
    pub(crate) fn signal_first(&self, signal: u32) {
        let _ = self.kill(0, FIRST as i32, signal);
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
