//! Processes that are stopped and go on, and who has the terminal.

use sys::Errno;

use super::{Account, Change, Family, Process};
use crate::signals::Sender;

/// How far a process is stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Halt {
    /// By that signal.
    by: Option<i32>,
    /// What its parent has not heard of.
    pub(super) news: Option<Change>,
}

const SIGSTOP: i32 = 19;

impl Account {
    /// Whether nobody in the session would let a group go on that stops by itself: no parent of one of its processes is
    /// in another group of the same session.
    fn is_orphaned(&self, group: u32, session: u32) -> bool {
        !self.processes.values().filter(|it| it.group == group && it.is_alive()).any(|it| {
            let parent = self.processes.get(&it.parent).filter(|it| it.is_alive());
            parent.is_some_and(|it| it.session == session && it.group != group)
        })
    }

    /// Lets a process go on.
    pub(super) fn let_go_on(&mut self, number: u32) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        if process.halt.by.take().is_none() {
            return;
        }
        process.halt.news = Some(Change::Continued);
        if let Some(living) = process.living() {
            living.waits.ring();
        }
        self.tell_parent(number, Change::Continued);
    }
}

impl Process {
    pub(super) fn is_stopped(&self) -> bool {
        self.halt.by.is_some()
    }
}

impl Family {
    /// A signal stops a process that has taken so many signals, unless it was told to go on since. Says whether it does.
    pub(crate) fn stop(&self, number: u32, signal: i32, taken: u32) -> bool {
        let mut account = self.account();
        let Some(process) = account.processes.get(&number) else { return false };
        let orphaned = signal != SIGSTOP && account.is_orphaned(process.group, process.session);
        let continued = process.living().is_none_or(|it| it.port.letters().is_continued_since(taken));
        if orphaned || continued {
            return false;
        }
        if let Some(process) = account.processes.get_mut(&number) {
            (process.halt.by, process.halt.news) = (Some(signal), Some(Change::Stopped(signal)));
        }
        account.tell_parent(number, Change::Stopped(signal));
        true
    }

    /// Whether a process is of a group that nobody would let go on.
    pub(crate) fn is_in_orphaned_group(&self, number: u32) -> bool {
        let account = self.account();
        account.processes.get(&number).is_some_and(|it| account.is_orphaned(it.group, it.session))
    }

    /// Whether a process is stopped.
    pub(crate) fn is_stopped(&self, number: u32) -> bool {
        self.account().processes.get(&number).is_some_and(Process::is_stopped)
    }

    /// The group that has the terminal of a session, if it is still there.
    fn foreground_of(account: &Account, session: u32) -> Option<u32> {
        let group = *account.foreground.get(&session)?;
        account.processes.values().any(|it| it.group == group && it.is_alive()).then_some(group)
    }

    /// tcgetpgrp: which group has the terminal of a process's session.
    pub(crate) fn foreground(&self, number: u32) -> Result<u32, Errno> {
        let account = self.account();
        let session = account.processes.get(&number).ok_or(Errno::SRCH)?.session;
        let leaders = account.processes.get(&session).map_or(session, |it| it.group);
        Ok(Self::foreground_of(&account, session).unwrap_or(leaders))
    }

    /// tcsetpgrp.
    pub(crate) fn set_foreground(&self, number: u32, group: u32) -> Result<(), Errno> {
        let mut account = self.account();
        let session = account.processes.get(&number).ok_or(Errno::SRCH)?.session;
        if !account.processes.values().any(|it| it.group == group && it.session == session) {
            return Err(Errno::PERM);
        }
        account.foreground.insert(session, group);
        Ok(())
    }

    /// Whether a process may not read the terminal, which another group has: its group is told.
    pub(crate) fn is_in_background(&self, number: u32) -> bool {
        let account = self.account();
        let Some(process) = account.processes.get(&number) else { return false };
        Self::foreground_of(&account, process.session).is_some_and(|it| it != process.group)
    }

    /// A key was struck for a signal: those who have the terminal of the session of that process hear of it.
    pub(crate) fn signal_foreground(&self, leader: u32, signal: i32) {
        const SIGHUP: i32 = 1;
        let group = Self::foreground_of(&self.account(), leader);
        if signal == SIGHUP && group.is_some() {
            // The terminal is gone, which whoever had it first hears, too.
            let _ = self.kill(Sender::OUTSIDE, leader as i32, signal);
        }
        let to = group.map_or(leader as i32, |it| -(it as i32));
        let _ = self.kill(Sender::OUTSIDE, to, signal);
    }
}
