//! Running a family from its first process to its end.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use abi::boot::Header;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, WaitOptions};
use sys::signal::SignalSet;
use vm::Host as Kvm;

use crate::creds::Credentials;
use crate::error::{Error, Result};
use crate::family::{FIRST, Family, Living};
use crate::files::{File, OnExec, Table, Waiting};
use crate::guest::Handle;
use crate::kvm::{self, OfGuest};
use crate::member::{Body, Member};
use crate::memory::{Memory, OfProcess};
use crate::port::Mapped;
use crate::waits::Waits;
use crate::{clock, process};

/// What a family begins as.
#[derive(Debug)]
pub struct Guest {
    /// The program's path, as execve takes it.
    pub path: PathBuf,
    /// Its arguments, the first of them its name.
    pub arguments: Vec<String>,
    /// Its environment, `NAME=value`.
    pub environment: Vec<String>,
    /// Where it begins.
    pub directory: PathBuf,
    /// Who it is, by its own account.
    pub user: u32,
    /// Its group.
    pub group: u32,
    /// Its further groups.
    pub groups: Vec<u32>,
    /// Its standard input, output and error.
    pub streams: [OwnedFd; 3],
    /// How many files a process of it may have open.
    pub open_files: usize,
    /// What executes it.
    pub engine: Engine,
}

/// What executes a family's members.
#[derive(Debug)]
pub enum Engine {
    /// Processes of the host.
    Process,
    /// Virtual machines, made with that handle on the host's, from [`crate::open_kvm`].
    Kvm(OwnedFd),
}

/// How a family ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The wait status of the first process, as wait(2) gives it.
    pub status: i32,
    /// System calls that its programs made and nothing implements: number, and how often.
    pub unknown: Vec<(u32, u64)>,
}

/// Runs a family until its first process ends, which ends all others. Makes threads, and waits for any child of the calling
/// process: for a process that does nothing else.
pub fn run(guest: Guest) -> Result<Outcome> {
    let host = Error::host("blocking signals");
    // Each thread leaves them to the one that passes them on.
    sys::signal::block(SignalSet::ALL).map_err(host)?;
    let family = Arc::new(Family::new());
    let number = family.number().map_err(Error::host("numbering the first process"))?;
    debug_assert_eq!(number, FIRST);
    let boot = boot_text(&guest)?;
    let cwd = open_directory(&guest.directory)?;
    let mut table = Table::new(guest.open_files);
    for stream in guest.streams {
        let added = table.add(File::new(stream, Waiting::Yes, b""), OnExec::Keep, 0);
        added.map_err(Error::host("opening the standard streams"))?;
    }
    let waits = Arc::new(Waits::new()?);
    let (living, body, memory): (_, _, Box<dyn Memory>) = match guest.engine {
        Engine::Process => {
            let port = Arc::new(Mapped::new(abi::port::Engine::Process)?);
            clock::write(&port.clock);
            let (socket, theirs) = process::socket_pair()?;
            let pid = process::spawn(&port, &theirs)?;
            let living = Living { port, waits, handle: Arc::new(Handle::process(Some(pid))) };
            (living, Body::Process(socket), Box::new(OfProcess(pid)))
        }
        Engine::Kvm(kvm) => {
            let kvm = Kvm::from(kvm);
            let port = Arc::new(Mapped::new(abi::port::Engine::Kvm)?);
            clock::write(&port.clock);
            let guest = kvm::Guest::first(&kvm, &port)?;
            let memory = Box::new(OfGuest(guest.space()));
            let living = Living { port, waits, handle: Arc::new(Handle::machine()) };
            (living, Body::Machine(Arc::new(kvm), Some(Box::new(guest))), memory)
        }
    };
    family.add(number, 0, living.clone());
    let member = Member {
        number,
        family: family.clone(),
        living,
        body,
        memory,
        table,
        cwd: Arc::new(cwd),
        umask: 0o022,
        credentials: Credentials::of(guest.user, guest.group, guest.groups),
        program: crate::member::Program::default(),
        boot: Some(boot),
        logged: 0,
    };
    thread("member 1", move || member.serve())?;
    let reaped = family.clone();
    thread("reaper", move || reap(&reaped))?;
    let signalled = family.clone();
    thread("signals", move || pass_signals_on(&signalled))?;
    let status = family.wait_for_first();
    let unknown = family.unknown().into_iter().collect();
    Ok(Outcome { status, unknown })
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    /// None of them calls anything deep.
    const STACK: usize = 256 << 10;
    let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK);
    thread.spawn(body).map(drop).map_err(|_| Error::host("making a thread")(sys::Errno::AGAIN))
}

/// Signals for the tender are meant for its guest's first process.
fn pass_signals_on(family: &Family) {
    const SIGCHLD: i32 = 17;
    loop {
        match sys::signal::wait(SignalSet::ALL) {
            // Being frozen interrupts it, too.
            Ok(SIGCHLD) | Err(sys::Errno::INTR) => {}
            Ok(signal) => family.signal_first(signal as u32),
            Err(_) => return,
        }
    }
}

fn open_directory(path: &std::path::Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(Error::host("entering the working directory"))
}

/// Takes note of the host's processes that end. Runs until there are none.
fn reap(family: &Family) {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) => family.host_ended(pid, status.as_raw()),
            Err(sys::Errno::INTR) | Ok(None) => {}
            Err(_) => return,
        }
    }
}

/// What the first process asks for with [`abi::call::BOOT`].
fn boot_text(guest: &Guest) -> Result<Vec<u8>> {
    let (first, second) = rustix::param::linux_hwcap();
    let header = Header {
        arguments: guest.arguments.len() as u32,
        variables: guest.environment.len() as u32,
        uid: guest.user,
        gid: guest.group,
        pid: FIRST,
        processors: 1,
        memory: 0,
        capabilities: first as u64,
        capabilities2: second as u64,
    };
    let mut text = header_bytes(&header);
    let strings = std::iter::once(guest.path.as_os_str().as_bytes())
        .chain(guest.arguments.iter().map(String::as_bytes))
        .chain(guest.environment.iter().map(String::as_bytes));
    for string in strings {
        if string.contains(&0) {
            return Err(Error::Command);
        }
        text.extend_from_slice(string);
        text.push(0);
    }
    Ok(text)
}

fn header_bytes(it: &Header) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(Header::SIZE);
    for number in [it.arguments, it.variables, it.uid, it.gid, it.pid, it.processors] {
        bytes.extend_from_slice(&number.to_ne_bytes());
    }
    for number in [it.memory, it.capabilities, it.capabilities2] {
        bytes.extend_from_slice(&number.to_ne_bytes());
    }
    debug_assert_eq!(bytes.len(), Header::SIZE);
    bytes
}

impl Family {
    /// A process of the host has ended: unless its member said so before, it was killed.
    fn host_ended(&self, pid: Pid, status: i32) {
        if let Some((number, living)) = self.by_host(pid) {
            living.handle.set_pid(None);
            self.end(number, status);
            living.port.disturb();
            living.waits.ring();
        }
    }
}
