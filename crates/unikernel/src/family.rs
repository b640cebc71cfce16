//! A family: the processes of one guest, their numbers, who descends from whom and who waits for whom.
//!
//! The account is one, under one lock, held for moments. A process's number is its own until its parent has taken note of
//! its end, as POSIX has it; orphans become children of the first process, and nobody waits for those.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use abi::port::RUNNING;
use sys::Errno;

use crate::guest::Handle;
use crate::port::Mapped;
use crate::server::Server;
use crate::waits::Waits;

/// The first process.
pub(crate) const FIRST: u32 = 1;

/// A process of the family.
pub(crate) struct Process {
    pub(crate) parent: u32,
    pub(crate) group: u32,
    pub(crate) session: u32,
    state: State,
}

enum State {
    Alive(Living),
    /// Ended with that wait status, and its parent does not know it yet.
    Ended(i32),
}

/// What reaches a process that runs.
#[derive(Clone)]
pub(crate) struct Living {
    pub(crate) port: Arc<Mapped>,
    pub(crate) waits: Arc<Waits>,
    pub(crate) handle: Arc<Handle>,
}

impl Living {
    /// Makes the guest look at what is pending, wherever it is.
    fn tap(&self) {
        self.waits.ring();
        if self.port.state.load(Ordering::SeqCst) == RUNNING {
            self.handle.interrupt();
        }
    }

    fn signal(&self, signal: u32, sender: u32) {
        if let Some(slot) = self.port.senders.get(signal as usize - 1) {
            slot.store(u64::from(sender), Ordering::Relaxed);
        }
        self.port.pending.fetch_or(1 << (signal - 1), Ordering::SeqCst);
        self.tap();
    }
}

/// The account.
pub(crate) struct Family {
    state: Mutex<Account>,
    /// Told whenever a process ends.
    changed: Condvar,
    /// Calls that nothing implements, by number, and how often.
    unknown: Mutex<BTreeMap<u32, u64>>,
    pub(crate) calls: AtomicU64,
    /// Who answers those that call often.
    pub(crate) server: Server,
}

struct Account {
    processes: BTreeMap<u32, Process>,
    next: u32,
    /// How the first process ended.
    outcome: Option<i32>,
}

/// Whom a process waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    Any,
    One(u32),
    Group(u32),
}

/// Numbers are not given again before so many were.
const LAST_NUMBER: u32 = 4 << 20;
const MOST_PROCESSES: usize = 16 << 10;

impl Family {
    pub(crate) fn new() -> Self {
        let account = Account { processes: BTreeMap::new(), next: FIRST, outcome: None };
        Self {
            state: Mutex::new(account),
            changed: Condvar::new(),
            unknown: Mutex::default(),
            calls: AtomicU64::new(0),
            server: Server::new(),
        }
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that no process has.
    pub(crate) fn number(&self) -> Result<u32, Errno> {
        let mut account = self.account();
        if account.processes.len() >= MOST_PROCESSES {
            return Err(Errno::AGAIN);
        }
        loop {
            let number = account.next;
            account.next = if number >= LAST_NUMBER { 2 } else { number + 1 };
            if !account.processes.contains_key(&number) {
                return Ok(number);
            }
        }
    }

    /// Adds a process. It belongs to its parent's group and session.
    pub(crate) fn add(&self, number: u32, parent: u32, living: Living) {
        let mut account = self.account();
        let (group, session) = account.processes.get(&parent).map_or((number, number), |it| (it.group, it.session));
        let process = Process { parent, group, session, state: State::Alive(living) };
        account.processes.insert(number, process);
    }

    /// Looks at a process.
    pub(crate) fn with<T>(&self, number: u32, look: impl FnOnce(&mut Process) -> T) -> Result<T, Errno> {
        self.account().processes.get_mut(&number).map(look).ok_or(Errno::SRCH)
    }

    /// A process has ended. Its children are orphans, its parent is told.
    pub(crate) fn end(&self, number: u32, status: i32) {
        const SIGCHLD: u32 = 17;
        let mut account = self.account();
        let Some(process) = account.processes.get_mut(&number) else { return };
        let State::Alive(living) = std::mem::replace(&mut process.state, State::Ended(status)) else {
            process.state = State::Ended(status);
            return;
        };
        let parent = process.parent;
        drop(living);
        if number == FIRST {
            account.outcome = Some(status);
            for living in account.processes.values().filter_map(Process::living) {
                living.handle.kill();
                living.port.disturb();
            }
        }
        for orphan in account.processes.values_mut().filter(|it| it.parent == number) {
            orphan.parent = FIRST;
        }
        account.processes.retain(|_, it| it.parent != number || matches!(it.state, State::Alive(_)));
        match account.processes.get(&parent).and_then(Process::living) {
            Some(living) => {
                living.signal(SIGCHLD, number);
                living.waits.note_child();
            }
            None if number != FIRST => drop(account.processes.remove(&number)),
            None => {}
        }
        self.changed.notify_all();
    }

    /// The end of a child, if one of those has ended; EAGAIN if they all live.
    pub(crate) fn ended_child(&self, parent: u32, whom: Whom, taking: Taking) -> Result<(u32, i32), Errno> {
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
        let mut any = false;
        let mut found = None;
        for (&number, process) in &account.processes {
            if number != FIRST && of_interest(number, process) {
                any = true;
                if let State::Ended(status) = process.state {
                    found = Some((number, status));
                    break;
                }
            }
        }
        let (number, status) = found.ok_or(if any { Errno::AGAIN } else { Errno::CHILD })?;
        if taking == Taking::Reap {
            account.processes.remove(&number);
        }
        Ok((number, status))
    }

    /// Sends a signal as kill(2) does; signal 0 only asks whether one could.
    pub(crate) fn kill(&self, sender: u32, to: i32, signal: u32) -> Result<(), Errno> {
        const SIGKILL: u32 = 9;
        let account = self.account();
        let group = match to {
            0 => account.processes.get(&sender).map(|it| it.group),
            _ if to < -1 => Some(to.unsigned_abs()),
            _ => None,
        };
        let mut found = false;
        for (&number, process) in &account.processes {
            let meant = match (to, group) {
                (_, Some(group)) => process.group == group,
                // As Linux, everybody but the first process and the sender.
                (-1, None) => number != FIRST && number != sender,
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
                _ => living.signal(signal, sender),
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

    /// Waits for the first process to end; gives its wait status.
    pub(crate) fn wait_for_first(&self) -> i32 {
        let mut account = self.account();
        loop {
            if let Some(status) = account.outcome {
                return status;
            }
            account = self.changed.wait(account).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A line of a library operating system's, which says something only when something is wrong.
    pub(crate) fn log(&self, text: &str) {
        crate::say(text);
    }

    /// Counts a call that nothing implements.
    pub(crate) fn note_unknown(&self, number: u32) {
        *self.unknown.lock().unwrap_or_else(PoisonError::into_inner).entry(number).or_default() += 1;
    }

    /// Those counts.
    pub(crate) fn unknown(&self) -> BTreeMap<u32, u64> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The member that is this process of the host.
    pub(crate) fn by_host(&self, pid: rustix::process::Pid) -> Option<(u32, Living)> {
        let account = self.account();
        account.processes.iter().find_map(|(number, it)| {
            let living = it.living()?;
            (living.handle.pid() == Some(pid)).then(|| (*number, living.clone()))
        })
    }

    /// Somebody changed whether a file that several have is waited for.
    pub(crate) fn note_wish(&self) {
        for living in self.account().processes.values().filter_map(Process::living) {
            living.port.wishes.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// How many processes live.
    pub(crate) fn alive(&self) -> usize {
        self.account().processes.values().filter(|it| it.living().is_some()).count()
    }
}

impl Process {
    pub(crate) fn is_alive(&self) -> bool {
        self.living().is_some()
    }

    fn living(&self) -> Option<&Living> {
        match &self.state {
            State::Alive(living) => Some(living),
            State::Ended(_) => None,
        }
    }
}

/// Whether a child that ended is forgotten by being looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taking {
    Reap,
    Leave,
}
