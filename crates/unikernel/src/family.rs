//! A family: the processes of one guest, their numbers, who descends from whom and who waits for whom.
//!
//! The account is one, under one lock, held for moments. A process's number is its own until its parent has taken note of
//! its end, as POSIX has it; orphans become children of the first process, and nobody waits for those.

mod children;
mod groups;
mod jobs;
mod news;
mod orders;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use abi::port::RUNNING;
use abi::signal::Info;
use sys::Errno;

use crate::calls::messages::Changes;
use crate::calls::queues::Notices;
use crate::calls::segments::Segments;
use crate::control::Word;
use crate::creds::Three;
use crate::desk::{Demand, Listener};
use crate::files::File;
use crate::futexes::Futexes;
use crate::guest::Handle;
use crate::library::Ledger;
use crate::link::{Shared, Stack};
use crate::locks::Locks;
use crate::neighbours::Board;
use crate::patched::Copies;
use crate::port::Mapped;
use crate::posts::Ticker;
use crate::seal::{Gate, Seal};
use crate::timers::Timers;
use crate::waits::Waits;

/// The first process.
pub(crate) const FIRST: u32 = 1;

/// A process of the family.
pub(crate) struct Process {
    pub(crate) parent: u32,
    /// The first process of the cell that it belongs to.
    pub(crate) cell: u32,
    /// What the program is called.
    pub(crate) name: Vec<u8>,
    /// Who wants to know of its end.
    listener: Option<Listener>,
    pub(crate) group: u32,
    pub(crate) session: u32,
    /// Who it is, for those who signal it.
    pub(crate) user: Three,
    children: Children,
    halt: Halt,
    state: State,
}

use children::Children;
pub(crate) use children::{Change, Taking, Wanted, Whom};
use jobs::Halt;

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
    pub(crate) fn tap(&self) {
        self.waits.ring();
        if self.port.state.load(Ordering::SeqCst) == RUNNING {
            self.handle.interrupt();
        }
    }

    fn signal(&self, info: Info) -> Result<(), Errno> {
        self.port.letters().send(&self.port.signals, info)?;
        self.tap();
        Ok(())
    }
}

/// Where a process comes from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// Forked from that one.
    Child(u32),
    /// It is the first of a cell, which has these standard streams.
    Cell { streams: Streams, listener: Option<Listener>, name: Vec<u8> },
    /// Somebody wants it to run in that cell.
    Outside { cell: u32, listener: Listener },
}

/// A cell's standard streams, while any process has them open.
pub(crate) type Streams = [Weak<File>; 3];

/// The account.
pub(crate) struct Family {
    state: Mutex<Account>,
    /// Told whenever a process ends.
    changed: Condvar,
    /// Calls that nothing implements, by number, and how often.
    unknown: Mutex<BTreeMap<u32, u64>>,
    /// Who is told of what nobody asked for.
    news: Mutex<Vec<Listener>>,
    pub(crate) calls: AtomicU64,
    /// Who stops those that post and do not stop.
    pub(crate) ticker: Ticker,
    pub(crate) timers: Timers,
    pub(crate) locks: Locks,
    /// Who wants to hear of messages.
    pub(crate) notices: Notices,
    pub(crate) gate: Gate,
    pub(crate) libraries: Ledger,
    pub(crate) copies: Copies,
    /// How many system calls came by a trap, of processes that have ended.
    pub(crate) traps: AtomicU64,
    /// Who sleeps on memory that processes share.
    pub(crate) futexes: Futexes,
    /// Who waits for messages and semaphores.
    pub(crate) changes: Changes,
    /// System V's shared memory.
    pub(crate) segments: Segments,
    /// Not 0 when the programs' sockets are of a stack in the guest, as the guest is told.
    pub(crate) stack: u32,
    /// The cell's link, if such a stack has one.
    pub(crate) link: Option<Shared>,
    /// What its tender tells those of other cells, if it shares anything with any.
    pub(crate) board: Option<Arc<Board>>,
}

struct Account {
    processes: BTreeMap<u32, Process>,
    next: u32,
    /// How the first process ended.
    outcome: Option<i32>,
    /// The standard streams of each cell, by its first process.
    streams: BTreeMap<u32, Streams>,
    /// What first processes are to do: make copies of themselves, or be kept.
    orders: BTreeMap<u32, VecDeque<Demand>>,
    /// The group that has the terminal, by session.
    foreground: BTreeMap<u32, u32>,
    /// Descriptors that tell of the end of a process.
    tellers: BTreeMap<u32, Vec<Weak<File>>>,
}

/// Numbers are not given again before so many were.
const LAST_NUMBER: u32 = 4 << 20;
const MOST_PROCESSES: usize = 16 << 10;

impl Family {
    pub(crate) fn new(seal: Option<&Seal>, stack: Stack, copies: Copies, board: Option<Arc<Board>>) -> Self {
        let (stack, link) = match stack {
            Stack::Host => (0, None),
            Stack::Guest(link) => (1, link.map(Shared::new)),
        };
        let account = Account {
            processes: BTreeMap::new(),
            next: FIRST,
            outcome: None,
            streams: BTreeMap::new(),
            orders: BTreeMap::new(),
            foreground: BTreeMap::new(),
            tellers: BTreeMap::new(),
        };
        Self {
            state: Mutex::new(account),
            changed: Condvar::new(),
            unknown: Mutex::default(),
            news: Mutex::default(),
            calls: AtomicU64::new(0),
            ticker: Ticker::default(),
            timers: Timers::default(),
            locks: Locks::default(),
            notices: Notices::default(),
            gate: Gate::new(seal),
            libraries: Ledger::default(),
            copies,
            traps: AtomicU64::new(0),
            futexes: Futexes::default(),
            changes: Changes::default(),
            segments: Segments::default(),
            stack,
            link,
            board,
        }
    }

    /// Messages or semaphores have changed: whoever waits for one looks again.
    pub(crate) fn note_change(&self) {
        self.changes.note();
        if let Some(board) = &self.board {
            board.tell_of_change();
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

    /// Adds a process. A child belongs to its parent's group and session.
    pub(crate) fn add(&self, number: u32, origin: Origin, living: Living) {
        let mut account = self.account();
        let account = &mut *account;
        let alone = |cell, listener| Process {
            parent: 0,
            cell,
            name: Vec::new(),
            listener,
            group: number,
            session: number,
            user: Three::all(0),
            children: Children::default(),
            halt: Halt::default(),
            state: State::Alive(living.clone()),
        };
        let process = match origin {
            Origin::Child(parent) => match account.processes.get(&parent) {
                Some(it) => Process {
                    parent,
                    group: it.group,
                    session: it.session,
                    name: it.name.clone(),
                    user: it.user,
                    children: it.children,
                    ..alone(it.cell, None)
                },
                None => alone(FIRST, None),
            },
            Origin::Cell { streams, listener, name } => {
                account.streams.insert(number, streams);
                // Under the lock: who hears of it and ends it finds it.
                if let Some(listener) = &listener {
                    listener.tell(&Word::Started { number });
                }
                Process { name, ..alone(number, listener) }
            }
            Origin::Outside { cell, listener } => alone(cell, Some(listener)),
        };
        account.processes.insert(number, process);
    }

    /// The number that was given last.
    pub(crate) fn last_number(&self) -> u32 {
        self.account().next.saturating_sub(1)
    }

    /// No number up to that one is given soon: a process may know it as that of a thread.
    pub(crate) fn number_after(&self, last: u32) {
        let mut account = self.account();
        account.next = account.next.max(last.saturating_add(1).min(LAST_NUMBER));
    }

    /// How many processes of a cell live beside its first.
    pub(crate) fn others(&self, cell: u32) -> usize {
        let account = self.account();
        account.processes.iter().filter(|(number, it)| **number != cell && it.cell == cell && it.is_alive()).count()
    }

    /// Looks at a process.
    pub(crate) fn with<T>(&self, number: u32, look: impl FnOnce(&mut Process) -> T) -> Result<T, Errno> {
        self.account().processes.get_mut(&number).map(look).ok_or(Errno::SRCH)
    }

    /// Lets the next thread of each program that has several run. Says how many such programs run.
    pub(crate) fn beat(&self) -> usize {
        let account = self.account();
        let mut running = 0;
        for living in account.processes.values().filter_map(Process::living) {
            if living.port.threads.load(Ordering::Relaxed) > 1 && living.port.state.load(Ordering::SeqCst) == RUNNING {
                living.handle.interrupt();
                running += 1;
            }
        }
        running
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

    /// The member that is this process of the host.
    pub(crate) fn by_host(&self, pid: rustix::process::Pid) -> Option<Living> {
        let account = self.account();
        account.processes.values().find_map(|it| {
            let living = it.living()?;
            (living.handle.pid() == Some(pid)).then(|| living.clone())
        })
    }

    /// How much of the processor's time a process has used, in nanoseconds.
    pub(crate) fn used_by(&self, number: u32) -> u64 {
        let handle = self.account().processes.get(&number).and_then(Process::living).map(|it| it.handle.clone());
        handle.and_then(|it| it.counted()).and_then(crate::clock::used).unwrap_or(0)
    }

    /// Does that with everyone who lives. Under the account's lock: for moments.
    pub(crate) fn each_living(&self, mut each: impl FnMut(u32, &Living)) {
        let account = self.account();
        let living = account.processes.iter().filter_map(|(number, it)| Some((*number, it.living()?)));
        living.for_each(|(number, it)| each(number, it));
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
