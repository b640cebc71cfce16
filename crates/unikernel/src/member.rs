//! A member's own thread: it takes the member's calls one by one, until the member has ended.

mod fork;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use abi::call;
use abi::port::{RUNNING, WAITING};
use sys::Errno;
use vm::Exit;

use crate::calls::messages::{Undo, Waited};
use crate::calls::segments::Attached;
use crate::calls::{self, Reply};
use crate::creds::Credentials;
use crate::family::{Family, Living};
use crate::files::{File, Made, Table, Waiting};
use crate::kept::Kept;
use crate::kvm::{Guest, Kvm};
use crate::memory::Memory;
use crate::waits::{self};
use crate::{clock, process};

/// A process of a guest, in the hands of its thread.
pub(crate) struct Member {
    pub(crate) number: u32,
    pub(crate) family: Arc<Family>,
    pub(crate) living: Living,
    pub(crate) body: Body,
    pub(crate) memory: Box<dyn Memory>,
    pub(crate) table: Table,
    pub(crate) kept: Kept,
    pub(crate) cwd: Arc<OwnedFd>,
    pub(crate) umask: u32,
    pub(crate) credentials: Credentials,
    pub(crate) program: Program,
    /// What it shall be, until it asked.
    pub(crate) boot: Option<Vec<u8>>,
    /// What of System V's shared memory it has attached.
    pub(crate) attached: Attached,
    /// What is to be taken back when it ends.
    pub(crate) undo: Undo,
    /// The latest call, if it had to wait for a message queue or a semaphore.
    pub(crate) waited: Option<Waited>,
    /// How many lines it has logged.
    pub(crate) logged: u32,
}

/// What executes a member.
pub(crate) enum Body {
    /// A process of the host, to which descriptors go over the socket.
    Process(OwnedFd),
    /// A virtual machine; one that is made already, but elsewhere, is put here before anything else happens.
    Machine(Arc<Kvm>, Option<Box<Guest>>),
}

/// The program that a process is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    pub(crate) path: Vec<u8>,
    /// Its arguments, separated by zeroes.
    pub(crate) arguments: Vec<u8>,
}

/// How many turns to look for a call before sleeping, at first: about as long as being woken takes.
const PATIENCE: u32 = 1000;

/// A member whose process of the host is gone is noticed by its reaper, which disturbs this sleep; this is in case it came
/// a moment too early.
const LONGEST_SLEEP: Duration = Duration::from_millis(200);

impl Member {
    /// Serves the member until it has ended.
    pub(crate) fn serve(mut self) {
        self.be_who_it_is();
        match self.body {
            Body::Process(_) => self.serve_process(),
            Body::Machine(..) => self.serve_machine(),
        }
    }

    fn serve_process(&mut self) {
        let mut turns = PATIENCE;
        while self.is_alive() {
            if let Some(status) = self.living.handle.ended() {
                return self.end(status);
            }
            if self.living.port.wait_for_call(&mut turns, LONGEST_SLEEP) && self.answer().is_none() {
                return;
            }
        }
    }

    fn serve_machine(&mut self) {
        const SIGBUS: i32 = 7;
        const SIGSEGV: i32 = 11;
        let handle = self.living.handle.clone();
        match self.guest().map(|it| it.adopt()) {
            Some(Ok(thread)) => handle.set_thread(Some(thread)),
            _ => return self.end(KILLED),
        }
        // One that was made ahead has called already.
        if self.living.port.is_called() && self.answer().is_none() {
            return handle.set_thread(None);
        }
        loop {
            if handle.is_killed() {
                self.carry_out_posts();
                self.end(KILLED);
                break;
            }
            let Some(guest) = self.guest() else { break };
            match guest.run() {
                Exit::Doorbell => {
                    self.carry_out_posts();
                    if self.answer().is_none() {
                        break;
                    }
                }
                // What is pending is looked for on every way out of the library operating system, an interrupt in there
                // would meet a stack that may be in use, and a post be half made. One that waits would stop it at each
                // instruction.
                Exit::Interrupted if guest.is_within_libos() => guest.leave_alone(),
                Exit::Interrupted => {
                    guest.tap();
                    self.carry_out_posts();
                }
                Exit::NoMemory if guest.mend() => {}
                Exit::NoMemory => {
                    self.family
                        .log(&format!("process {}: there is nothing behind memory that it touched", self.number));
                    self.carry_out_posts();
                    self.end(SIGBUS);
                    break;
                }
                Exit::Broken(why) => {
                    let whereabouts = guest.whereabouts();
                    self.family.log(&format!("process {} is broken: {why} ({whereabouts})", self.number));
                    self.carry_out_posts();
                    self.end(SIGSEGV);
                    break;
                }
            }
        }
        handle.set_thread(None);
    }

    /// Its machine, if it is one.
    fn guest(&mut self) -> Option<&mut Guest> {
        match &mut self.body {
            Body::Machine(_, guest) => guest.as_deref_mut(),
            Body::Process(_) => None,
        }
    }

    /// Answers the call in the port; nothing when the member has ended by it.
    fn answer(&mut self) -> Option<()> {
        let call = &self.living.port.call;
        let number = call.number.load(Ordering::Relaxed);
        let arguments = call.arguments.each_ref().map(|it| it.load(Ordering::Relaxed));
        self.answer_this(number, arguments)
    }

    fn answer_this(&mut self, number: u32, arguments: [u64; 6]) -> Option<()> {
        self.family.calls.fetch_add(1, Ordering::Relaxed);
        self.settle_kept();
        let mut reply = self.own_call(number, arguments)?;
        let port = self.living.port.clone();
        let limit = self.limit(reply, arguments);
        let patience = port.call.patience.load(Ordering::Relaxed);
        if patience > 0
            && limit == 0
            && let Some((descriptor, events)) = waits::is_for(number, reply, arguments)
            && let Ok(file) = self.table.get(descriptor).cloned()
            && self.doze(file.as_fd(), events, patience)
        {
            reply = self.own_call(number, arguments)?;
        }
        self.yield_kept();
        self.tell_sizes();
        port.call.limit.store(self.limit(reply, arguments), Ordering::Relaxed);
        let (result, wait) = reply.words();
        port.answer(result, wait);
        Some(())
    }

    /// The process has ended. Its files are closed before anybody hears of that.
    pub(crate) fn end(&mut self, status: i32) {
        self.family.traps.fetch_add(self.living.port.traps.load(Ordering::Relaxed).into(), Ordering::Relaxed);
        self.let_go();
        self.give_up_all_locks();
        self.family.notices.forget(self.number, None);
        self.table = Table::new(0);
        self.family.end(self.number, status);
    }

    /// For how long at most the guest waits after that, in nanoseconds; 0 for ever.
    fn limit(&self, reply: Reply, arguments: [u64; 6]) -> u64 {
        let (events, argument) = match reply {
            Reply::Later { events, argument } => (events, argument),
            Reply::LaterWithin { limit, .. } | Reply::AfterChange { limit } => return limit,
            Reply::Ring { at } => return at,
            Reply::Mapped { memory, .. } => return memory,
            Reply::Signals { set, .. } => return set,
            _ => return 0,
        };
        let which = usize::from(events & calls::OUT != 0);
        let file = self.table.get(arguments[argument as usize]);
        file.map_or(0, |it| it.patience[which].load(Ordering::Relaxed))
    }

    fn is_alive(&self) -> bool {
        self.family.with(self.number, |it| it.is_alive()).unwrap_or(false)
    }

    /// Those that are not Linux's; nothing when there is nobody left to answer.
    fn own_call(&mut self, number: u32, arguments: [u64; 6]) -> Option<Reply> {
        let [a, b, c, ..] = arguments;
        if let Some(refused) = self.family.gate.refuses(number, arguments) {
            self.family.note_unknown(refused | call::OUTSIDE);
            return Some(Err(Errno::PERM).into());
        }
        if let Some(errno) = self.late_error(number, arguments) {
            if number == libc::SYS_close as u32 {
                let _ = calls::answer(self, number, arguments);
            }
            return Some(Err(errno).into());
        }
        Some(match number {
            call::BOOT => self.hand_over_boot(a, b).into(),
            call::WAIT => self.wait(a, b, c).into(),
            call::WATCH => self.watch(a, b, c).into(),
            call::UNWATCH => {
                self.living.waits.unwatch(a);
                self.family.changes.unwatch(&self.living.waits, Some(a));
                Ok(0).into()
            }
            call::EXIT => {
                self.end(a as u32 as i32 & 0xffff);
                // Its process ends by itself; should it not, there is nobody to answer its calls.
                self.living.handle.kill();
                return None;
            }
            call::FORK => self.fork_for(a).into(),
            call::MAP => self.lend(arguments).unwrap_or_else(|errno| Err(errno).into()),
            abi::library::VISIT => self.stand_still(arguments).into(),
            call::EXECUTED => self.executed(arguments).into(),
            call::LEND => self.lend_open(a).into(),
            call::KEEP => self.keep(arguments).into(),
            call::CHECK => {
                self.check_kept();
                self.carry_frames();
                Ok(0).into()
            }
            call::SIGNALS => Ok(self.living.port.letters().hand_over(&self.living.port.signals)).into(),
            call::PENDING => {
                calls::tellers::note_pending(&self.table, a);
                Ok(0).into()
            }
            call::STOP => {
                self.stop(a as i32, b as u32);
                Ok(0).into()
            }
            call::FUTEX_SLEEP => self.sleep_on_word(arguments).into(),
            call::FUTEX_WAKE => Ok(self.wake_on_word(arguments)).into(),
            call::FUTEX_LEAVE => Ok(self.leave_word(arguments)).into(),
            call::LINK => self.hand_over_link(),
            call::FUTEX_COUNTERS => self.hand_over_counters().into(),
            call::RING_SLEEP => self.sleep_on_ring(a, b).into(),
            call::RING_WAKE => self.wake_ring(a, b).into(),
            call::LOG => self.log(a, b).into(),
            call::GROW | call::FOLLOW | call::DISCARD => match &mut self.body {
                Body::Machine(_, Some(guest)) => guest.own_call(number, arguments).into(),
                Body::Process(_) | Body::Machine(_, None) => Err(Errno::NOSYS).into(),
            },
            call::UNKNOWN => {
                self.family.note_unknown(a as u32);
                Ok(0).into()
            }
            _ => calls::answer(self, number, arguments),
        })
    }

    fn hand_over_boot(&mut self, into: u64, length: u64) -> Result<u64, Errno> {
        let text = self.boot.as_ref().ok_or(Errno::INVAL)?;
        let whole = text.len() as u64;
        if length >= whole {
            self.memory.write(into, text)?;
            self.boot = None;
        }
        Ok(whole)
    }

    fn watch(&self, descriptor: u64, events: u64, cookie: u64) -> Result<u64, Errno> {
        match descriptor {
            call::CHILDREN => self.living.waits.watch_children(cookie),
            call::CHANGES => self.family.changes.watch(&self.living.waits, cookie, self.waited),
            _ => self.living.waits.watch(self.table.get(descriptor)?, events as u32, cookie)?,
        }
        Ok(0)
    }

    fn wait(&self, into: u64, most: u64, nanoseconds: u64) -> Result<u64, Errno> {
        let Living { port, waits, .. } = &self.living;
        // Who only looks does so often.
        if nanoseconds > 0 {
            clock::write(&port.clock);
        }
        port.state.store(WAITING, Ordering::SeqCst);
        // A signal from before this is seen here; one from after it rings.
        let nanoseconds = if port.signals.has_news() { 0 } else { nanoseconds };
        let nanoseconds = if self.carry_frames() { 0 } else { nanoseconds };
        let cookies = waits.sleep(nanoseconds);
        self.carry_frames();
        port.state.store(RUNNING, Ordering::SeqCst);
        let count = cookies.len().min(most as usize);
        let bytes: Vec<u8> = cookies[..count].iter().flat_map(|it| it.to_ne_bytes()).collect();
        self.memory.write(into, &bytes)?;
        Ok(count as u64)
    }

    /// A signal stops the process until it is told to go on or has ended.
    fn stop(&self, signal: i32, taken: u32) {
        if !self.family.stop(self.number, signal, taken) {
            return;
        }
        let Living { port, waits, handle } = &self.living;
        port.state.store(WAITING, Ordering::SeqCst);
        while self.family.is_stopped(self.number) && !handle.is_killed() && handle.ended().is_none() {
            waits.pause();
        }
        port.state.store(RUNNING, Ordering::SeqCst);
    }

    /// Sleeps until a file has one of those events; says whether it has. Nothing that else wakes the member is lost: it is
    /// left where the next [`call::WAIT`] finds it.
    pub(crate) fn doze(&self, file: BorrowedFd<'_>, events: u32, nanoseconds: u64) -> bool {
        let Living { port, waits, .. } = &self.living;
        clock::write(&port.clock);
        port.state.store(WAITING, Ordering::SeqCst);
        // As in `wait`.
        let quiet = !port.signals.has_news();
        let ready = quiet && waits.doze(file, events, nanoseconds);
        port.state.store(RUNNING, Ordering::SeqCst);
        ready
    }

    /// Notes whether the guest wants to wait for a file.
    pub(crate) fn set_waiting(&self, file: &Arc<File>, waiting: Waiting) {
        if file.waiting() != waiting {
            file.set_waiting(waiting);
            // Its own guest knows. A count that is too high for a moment does no harm.
            if Arc::strong_count(file) > 1 {
                self.family.note_wish();
            }
        }
    }

    /// Lends an open file. Those that only move bytes, for as long as they are open: what a guest can do with one is what
    /// it can ask us to do.
    fn lend_open(&self, descriptor: u64) -> Result<u64, Errno> {
        let Body::Process(socket) = &self.body else { return Err(Errno::NOSYS) };
        if descriptor == u64::MAX {
            return process::send(socket, &[self.living.waits.set()]).map(|()| 0);
        }
        let file = self.table.get(descriptor)?;
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&**file)?.st_mode);
        let moves_bytes = match kind {
            rustix::fs::FileType::Socket | rustix::fs::FileType::Fifo | rustix::fs::FileType::RegularFile => true,
            _ if matches!(file.made, Made::Signals | Made::Process(_)) => false,
            rustix::fs::FileType::Unknown => file.path.starts_with(b"anon_inode"),
            _ => false,
        };
        // Who waits for a time only, waits here.
        let in_a_hurry = file.patience.iter().any(|it| it.load(Ordering::Relaxed) != 0);
        if !moves_bytes || in_a_hurry {
            return Err(Errno::INVAL);
        }
        process::send(socket, &[file.as_fd()])?;
        Ok(u64::from(file.waiting() == Waiting::Yes))
    }

    /// A guest's last words, or those of somebody who speaks in its place: so many, and no more.
    fn log(&mut self, at: u64, length: u64) -> Result<u64, Errno> {
        const MOST: u32 = 8;
        const LONGEST: u64 = 1024;
        if self.logged < MOST {
            self.logged += 1;
            let text = self.memory.bytes(at, length.min(LONGEST) as usize)?;
            let text = String::from_utf8_lossy(&text);
            self.family.log(&text.replace(|it: char| it.is_control(), " "));
        }
        Ok(0)
    }

    fn executed(&mut self, [path, path_length, arguments, length, ..]: [u64; 6]) -> Result<u64, Errno> {
        const LONGEST: u64 = 2 << 20;
        self.give_up_locks_on_exec();
        self.table.executed();
        self.family.libraries.forget(self.number);
        self.family.timers.forget_made(self.number);
        self.attached = Attached::default();
        let name = self.memory.bytes(path, path_length.min(4096) as usize)?;
        let name = name.rsplit(|it| *it == b'/').next().unwrap_or_default().to_vec();
        let _ = self.family.with(self.number, |it| it.name = name);
        let path = self.memory.bytes(path, path_length.min(4096) as usize)?;
        self.program = Program {
            path: crate::calls::absolute(self, path)?,
            arguments: self.memory.bytes(arguments, length.min(LONGEST) as usize)?,
        };
        Ok(0)
    }
}

/// The wait status of what SIGKILL ended.
pub(crate) const KILLED: i32 = 9;
