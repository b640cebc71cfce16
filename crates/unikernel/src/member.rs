//! A member's own thread: it takes the member's calls one by one, until the member has ended.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use abi::port::{RUNNING, WAITING};
use abi::{call, port::Engine};
use sys::Errno;

use crate::calls::{self, Reply};
use crate::creds::Credentials;
use crate::family::{Family, Living};
use crate::files::Table;
use crate::guest::Handle;
use crate::memory::{Memory, OfProcess};
use crate::port::Mapped;
use crate::waits::Waits;
use crate::{clock, process};

/// A process of a guest, in the hands of its thread.
pub(crate) struct Member {
    pub(crate) number: u32,
    pub(crate) family: Arc<Family>,
    pub(crate) living: Living,
    /// Where descriptors for its own process go.
    pub(crate) socket: OwnedFd,
    pub(crate) memory: Box<dyn Memory>,
    pub(crate) table: Table,
    pub(crate) cwd: Arc<OwnedFd>,
    pub(crate) umask: u32,
    pub(crate) credentials: Credentials,
    pub(crate) program: Program,
    /// What it shall be, until it asked.
    pub(crate) boot: Option<Vec<u8>>,
}

/// The program that a process is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    pub(crate) path: Vec<u8>,
    /// Its arguments, separated by zeroes.
    pub(crate) arguments: Vec<u8>,
}

/// How many turns to look for a call before sleeping: about as long as being woken takes.
const PATIENCE: u32 = 2000;

/// A member whose process of the host is gone is noticed by its reaper, which disturbs this sleep; this is in case it came
/// a moment too early.
const LONGEST_SLEEP: Duration = Duration::from_millis(200);

impl Member {
    /// Serves the member until it has ended.
    pub(crate) fn serve(&mut self) {
        while self.is_alive() {
            if !self.living.port.wait_for_call(PATIENCE, LONGEST_SLEEP) {
                continue;
            }
            self.family.calls.fetch_add(1, Ordering::Relaxed);
            let port = &self.living.port;
            let number = port.call.number.load(Ordering::Relaxed);
            let arguments = port.call.arguments.each_ref().map(|it| it.load(Ordering::Relaxed));
            match self.own_call(number, arguments) {
                Some(reply) => {
                    if std::env::var_os("SKEP_TRACE").is_some() { eprintln!("[{}] {number:#x}/{number} {arguments:x?} = {reply:?}", self.number); }
                    let (result, wait) = reply.words();
                    self.living.port.answer(result, wait);
                }
                None => return,
            }
        }
    }

    fn is_alive(&self) -> bool {
        self.family.with(self.number, |it| it.is_alive()).unwrap_or(false)
    }

    /// Those that are not Linux's; nothing when there is nobody left to answer.
    fn own_call(&mut self, number: u32, arguments: [u64; 6]) -> Option<Reply> {
        let [a, b, c, ..] = arguments;
        Some(match number {
            call::BOOT => self.hand_over_boot(a, b).into(),
            call::WAIT => self.wait(a, b, c).into(),
            call::WATCH => self.watch(a, b, c).into(),
            call::UNWATCH => {
                self.living.waits.unwatch(a);
                Ok(0).into()
            }
            call::EXIT => {
                self.family.end(self.number, a as u32 as i32 & 0xffff);
                // Its process ends by itself; should it not, there is nobody to answer its calls.
                self.living.handle.kill();
                return None;
            }
            call::FORK => self.fork().into(),
            call::MAP => self.lend(arguments).into(),
            call::EXECUTED => self.executed(arguments).into(),
            call::LOG => {
                let text = self.memory.bytes(a, (b as usize).min(4096)).unwrap_or_default();
                self.family.log(&String::from_utf8_lossy(&text));
                Ok(0).into()
            }
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
            u64::MAX => self.living.waits.watch_children(cookie),
            _ => self.living.waits.watch(self.table.get(descriptor)?, events as u32, cookie)?,
        }
        Ok(0)
    }

    fn wait(&self, into: u64, most: u64, nanoseconds: u64) -> Result<u64, Errno> {
        let Living { port, waits, .. } = &self.living;
        clock::write(&port.clock);
        port.state.store(WAITING, Ordering::SeqCst);
        // A signal from before this is seen here; one from after it rings.
        let nanoseconds = if port.pending.load(Ordering::SeqCst) == 0 { nanoseconds } else { 0 };
        let cookies = waits.sleep(nanoseconds);
        port.state.store(RUNNING, Ordering::SeqCst);
        let count = cookies.len().min(most as usize);
        let bytes: Vec<u8> = cookies[..count].iter().flat_map(|it| it.to_ne_bytes()).collect();
        self.memory.write(into, &bytes)?;
        Ok(count as u64)
    }

    /// Makes all that a second process needs before it exists. The member makes it and says which it is.
    fn fork(&mut self) -> Result<u64, Errno> {
        let again = |_| Errno::AGAIN;
        let number = self.family.number()?;
        let port = Arc::new(Mapped::new(Engine::Process).map_err(again)?);
        clock::write(&port.clock);
        let (socket, theirs) = process::socket_pair().map_err(again)?;
        let living =
            Living { port, waits: Arc::new(Waits::new().map_err(again)?), handle: Arc::new(Handle::process(None)) };
        let (table, cwd, umask) = (self.table.clone(), self.cwd.clone(), self.umask);
        let (credentials, program) = (self.credentials.clone(), self.program.clone());
        let (family, parent) = (self.family.clone(), self.number);
        let user = credentials.user.real;
        self.family.add(number, parent, user, living.clone());
        let sent = process::send(&self.socket, &[living.port.file(), &theirs].map(std::os::fd::AsFd::as_fd));
        drop(theirs);
        let thread = std::thread::Builder::new().name(format!("member {number}")).stack_size(STACK);
        let spawned = thread.spawn(move || {
            let Some(pid) = process::receive_word(&socket) else {
                // It never came to be.
                return family.end(number, KILLED);
            };
            living.handle.set_pid(Some(pid));
            let memory = Box::new(OfProcess(pid));
            let mut child =
                Self { number, family, living, socket, memory, table, cwd, umask, credentials, program, boot: None };
            child.serve();
        });
        if sent.is_err() || spawned.is_err() {
            self.family.end(number, KILLED);
            return Err(Errno::AGAIN);
        }
        Ok(u64::from(number))
    }

    /// Sends the member a descriptor to map.
    fn lend(&mut self, [descriptor, _, _, how, ..]: [u64; 6]) -> Result<u64, Errno> {
        const WRITE: u64 = 2;
        let file = self.table.get(descriptor)?;
        let flags = rustix::fs::fcntl_getfl(file)?;
        let mode = flags & rustix::fs::OFlags::RWMODE;
        if mode == rustix::fs::OFlags::WRONLY || flags.contains(rustix::fs::OFlags::PATH) {
            return Err(Errno::ACCESS);
        }
        if how & call::MAP_SHARED != 0 && how & WRITE != 0 && mode != rustix::fs::OFlags::RDWR {
            return Err(Errno::ACCESS);
        }
        process::send(&self.socket, &[std::os::fd::AsFd::as_fd(file)])?;
        Ok(0)
    }

    fn executed(&mut self, [path, path_length, arguments, length, ..]: [u64; 6]) -> Result<u64, Errno> {
        const LONGEST: u64 = 2 << 20;
        self.table.executed();
        self.program = Program {
            path: self.memory.bytes(path, path_length.min(4096) as usize)?,
            arguments: self.memory.bytes(arguments, length.min(LONGEST) as usize)?,
        };
        Ok(0)
    }
}

/// The wait status of what SIGKILL ended.
const KILLED: i32 = 9;

/// A member's thread calls nothing deep.
const STACK: usize = 256 << 10;
