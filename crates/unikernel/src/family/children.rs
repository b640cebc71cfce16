//! What becomes of processes: how they end, are stopped and go on, and how their parents hear of it.

use std::sync::{Arc, Weak};

use abi::signal::{EXITED, Info, KILLED};
use sys::Errno;

use super::{Account, FIRST, Family, Process, State};
use crate::calls::tellers;
use crate::control::Word;
use crate::files::{File, Waiting};

/// What a process wants to hear of its children.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Children {
    ends: Interest,
    stops: Interest,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Interest {
    #[default]
    Wanted,
    Unwanted,
}

impl Interest {
    fn by(unwanted: u64) -> Self {
        if unwanted == 0 { Self::Wanted } else { Self::Unwanted }
    }
}

/// Whom a process waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    Any,
    One(u32),
    Group(u32),
}

/// What became of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It ended, with that wait status.
    Ended(i32),
    /// That signal stopped it.
    Stopped(i32),
    Continued,
}

impl Change {
    /// As wait4 tells of it.
    pub(crate) fn status(self) -> i32 {
        match self {
            Self::Ended(status) => status,
            Self::Stopped(signal) => signal << 8 | 0x7f,
            Self::Continued => 0xffff,
        }
    }

    /// As a `siginfo_t` does: why, and which signal or exit code.
    pub(crate) fn code_and_value(self) -> (i32, i32) {
        const SIGCONT: i32 = 18;
        match self {
            Self::Ended(status) if status & 0x7f == 0 => (EXITED, status >> 8 & 0xff),
            Self::Ended(status) => (KILLED, status & 0x7f),
            Self::Stopped(signal) => (abi::signal::STOPPED, signal),
            Self::Continued => (abi::signal::CONTINUED, SIGCONT),
        }
    }
}

/// What a parent waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) ended: bool,
    pub(crate) stopped: bool,
    pub(crate) continued: bool,
}

/// Whether a child's change is forgotten by being looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taking {
    Reap,
    Leave,
}

impl Account {
    /// Tells a process's parent what became of it.
    pub(super) fn tell_parent(&self, number: u32, change: Change) {
        const SIGCHLD: i32 = 17;
        let Some(process) = self.processes.get(&number) else { return };
        let Some(parent) = self.processes.get(&process.parent) else { return };
        let Some(living) = parent.living() else { return };
        let (code, value) = change.code_and_value();
        let quiet = !matches!(change, Change::Ended(_)) && parent.children.stops == Interest::Unwanted;
        if !quiet {
            let first = Info::from(number, process.user.real);
            // One that is told of already stands for all.
            let _ = living.signal(Info { signal: SIGCHLD, code, first, second: value as u32 as u64, thread: 0 });
        }
        living.waits.note_child();
    }
}

impl Family {
    /// A process has ended. Its children are orphans, its parent is told.
    pub(crate) fn end(&self, number: u32, status: i32) {
        let mut account = self.account();
        let Some(process) = account.processes.get_mut(&number) else { return };
        let State::Alive(living) = std::mem::replace(&mut process.state, State::Ended(status)) else {
            process.state = State::Ended(status);
            return;
        };
        let (parent, cell) = (process.parent, process.cell);
        if let Some(listener) = process.listener.take() {
            listener.tell(&Word::Ended { status });
        }
        drop(living);
        if number == FIRST {
            account.outcome = Some(status);
        }
        if number == cell {
            account.streams.remove(&cell);
            for order in account.orders.remove(&cell).into_iter().flatten() {
                order.listener().tell(&Word::Refused(Errno::SRCH));
            }
            // A cell ends with its first process, and the family with its first cell.
            for living in
                account.processes.values().filter(|it| cell == FIRST || it.cell == cell).filter_map(Process::living)
            {
                living.handle.kill();
                living.port.disturb();
                living.waits.ring();
            }
        }
        // Orphans are the first process's; when that is gone, nobody's.
        let heir = if number == cell { 0 } else { cell };
        account.processes.retain(|_, it| it.parent != number || heir != 0 || it.is_alive());
        for orphan in account.processes.values_mut().filter(|it| it.parent == number) {
            orphan.parent = heir;
        }
        let parents = account.processes.get(&parent).filter(|it| it.is_alive());
        let unwanted = parents.is_some_and(|it| it.children.ends == Interest::Unwanted);
        if parents.is_some() {
            account.tell_parent(number, Change::Ended(status));
            if unwanted {
                account.processes.remove(&number);
            }
        } else if number != FIRST {
            account.processes.remove(&number);
        }
        account.foreground.remove(&number);
        account
            .tellers
            .remove(&number)
            .iter()
            .flatten()
            .filter_map(Weak::upgrade)
            .for_each(|it| tellers::tell_end(&it));
        self.changed.notify_all();
        self.timers.forget(number);
        if let Some(link) = &self.link {
            link.release(number);
        }
        self.libraries.forget(number);
    }

    /// A descriptor that tells of a process in the caller's cell.
    pub(crate) fn teller(&self, caller: u32, number: u32, waiting: Waiting) -> Result<Arc<File>, Errno> {
        let mut account = self.account();
        let cell = account.processes.get(&caller).map(|it| it.cell);
        let process = account.processes.get(&number).filter(|it| Some(it.cell) == cell).ok_or(Errno::SRCH)?;
        let file = tellers::teller(number, waiting)?;
        if process.is_alive() {
            let all = account.tellers.entry(number).or_default();
            all.retain(|it| it.strong_count() > 0);
            all.push(Arc::downgrade(&file));
        } else {
            tellers::tell_end(&file);
        }
        Ok(file)
    }

    /// What a process does about SIGCHLD: the number of the signal, whether it does not want to hear of its children's
    /// ends, and of their being stopped.
    pub(crate) fn want_children(&self, number: u32, signal: u64, unwanted: u64, quiet: u64) -> Result<u64, Errno> {
        const SIGCHLD: u64 = 17;
        if signal != SIGCHLD {
            return Err(Errno::INVAL);
        }
        let children = Children { ends: Interest::by(unwanted), stops: Interest::by(quiet) };
        self.with(number, |it| it.children = children)?;
        Ok(0)
    }

    /// What became of a child, if something of that has of one of those; EAGAIN if nothing has.
    pub(crate) fn changed_child(
        &self,
        parent: u32,
        whom: Whom,
        wanted: Wanted,
        taking: Taking,
    ) -> Result<(u32, Change), Errno> {
        let mut account = self.account();
        let own_group = account.processes.get(&parent).map(|it| it.group);
        let of_interest = |number: u32, it: &Process| {
            it.parent == parent
                && match whom {
                    Whom::Any => true,
                    Whom::One(one) => one == number,
                    Whom::Group(0) => Some(it.group) == own_group,
                    Whom::Group(group) => it.group == group,
                }
        };
        let change = |it: &Process| match (&it.state, it.halt.news) {
            (State::Ended(status), _) => wanted.ended.then_some(Change::Ended(*status)),
            (_, Some(Change::Continued)) => wanted.continued.then_some(Change::Continued),
            (_, news) => news.filter(|_| wanted.stopped),
        };
        let mut children = account.processes.iter().filter(|it| *it.0 != FIRST && of_interest(*it.0, it.1)).peekable();
        let none = if children.peek().is_some() { Errno::AGAIN } else { Errno::CHILD };
        let (number, change) = children.find_map(|(number, it)| Some((*number, change(it)?))).ok_or(none)?;
        match change {
            _ if taking == Taking::Leave => {}
            Change::Ended(_) => drop(account.processes.remove(&number)),
            Change::Stopped(_) | Change::Continued => {
                if let Some(process) = account.processes.get_mut(&number) {
                    process.halt.news = None;
                }
            }
        }
        Ok((number, change))
    }
}
