//! Beginning a process that descends from no other: the first of a family, and further programs beside it.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};

use abi::boot::Header;
use rustix::fs::{Mode, OFlags};

use crate::calls::messages::Undo;
use crate::calls::segments::Attached;
use crate::creds::Credentials;
use crate::desk::Listener;
use crate::error::{Error, Result};
use crate::family::{Family, Living, Origin};
use crate::files::{File, OnExec, Table, Waiting};
use crate::guest::Handle;
use crate::kvm::{self, Kvm, OfGuest};
use crate::member::{Body, Member, Program};
use crate::memory::{Memory, OfProcess};
use crate::port::Mapped;
use crate::snapshot::{Snapshot, Template};
use crate::tender::{Command, Engine, thread};
use crate::waits::Waits;
use crate::{clock, process};

/// What makes processes.
pub(crate) struct Starter {
    kvm: Option<Arc<Kvm>>,
    open_files: usize,
    /// What the family went on from.
    template: OnceLock<Template>,
}

impl Starter {
    pub(crate) fn new(engine: Engine, open_files: usize) -> Self {
        let kvm = match engine {
            Engine::Process => None,
            Engine::Kvm(machines) => Some(Arc::new(Kvm::new(machines))),
        };
        Self { kvm, open_files, template: OnceLock::new() }
    }

    /// The first process of a family. Gives its number.
    pub(crate) fn first(&self, family: &Arc<Family>, command: Command, streams: [OwnedFd; 3]) -> Result<u32> {
        let streams = streams.map(|it| File::new(it, Waiting::Yes, b""));
        let origin = Origin::Cell { streams: streams.each_ref().map(Arc::downgrade), listener: None, name: Vec::new() };
        self.begin(family, command, &streams, origin)
    }

    /// The first process of a family, from where it was kept. Gives its number.
    pub(crate) fn go_on(&self, family: &Arc<Family>, snapshot: Snapshot, streams: [OwnedFd; 3]) -> Result<u32> {
        let streams = streams.map(|it| File::new(it, Waiting::Yes, b""));
        let kvm = self.kvm.as_ref().ok_or_else(|| Error::Elsewhere("it takes the kvm engine".to_owned()))?;
        let template = Template::of(snapshot)?;
        self.template.get_or_init(|| template).begin(family, kvm, &streams, None)
    }

    /// Another cell of the family, from the same snapshot.
    pub(crate) fn another(&self, family: &Arc<Family>, streams: [OwnedFd; 3], listener: Listener) -> Result<u32> {
        let streams = streams.map(|it| File::new(it, Waiting::Yes, b""));
        let (Some(template), Some(kvm)) = (self.template.get(), &self.kvm) else {
            return Err(Error::Elsewhere("the family began with a program".to_owned()));
        };
        template.begin(family, kvm, &streams, Some(listener))
    }

    /// A further program in a cell.
    pub(crate) fn run(
        &self,
        family: &Arc<Family>,
        command: Command,
        streams: [OwnedFd; 3],
        cell: u32,
        listener: Listener,
    ) -> Result<u32> {
        let streams = streams.map(|it| File::new(it, Waiting::Yes, b""));
        self.begin(family, command, &streams, Origin::Outside { cell, listener })
    }

    fn begin(&self, family: &Arc<Family>, command: Command, streams: &[Arc<File>; 3], origin: Origin) -> Result<u32> {
        let number = family.number().map_err(Error::host("numbering a process"))?;
        let boot = boot_text(&command, number)?;
        let cwd = open_directory(&command.directory)?;
        let mut table = Table::new(self.open_files);
        for stream in streams {
            let added = table.add(stream.clone(), OnExec::Keep, 0);
            added.map_err(Error::host("opening the standard streams"))?;
        }
        let waits = Arc::new(Waits::new()?);
        let (living, body, memory): (_, _, Box<dyn Memory>) = match &self.kvm {
            None => {
                let port = Arc::new(Mapped::new(abi::port::Engine::Process)?);
                clock::write(&port.clock);
                let (socket, theirs) = process::socket_pair()?;
                let pid = process::spawn(&port, &theirs)?;
                let living = Living { port, waits, handle: Arc::new(Handle::process(Some(pid))) };
                (living, Body::Process(socket), Box::new(OfProcess(pid)))
            }
            Some(kvm) => {
                let (guest, port) = kvm::Guest::first(kvm)?;
                clock::write(&port.clock);
                let memory = Box::new(OfGuest(guest.space()));
                let living = Living { port, waits, handle: Arc::new(Handle::machine()) };
                (living, Body::Machine(kvm.clone(), Some(Box::new(guest))), memory)
            }
        };
        living.port.stack.store(family.stack, std::sync::atomic::Ordering::Relaxed);
        family.add(number, origin, living.clone());
        let member = Member {
            number,
            family: family.clone(),
            living,
            body,
            memory,
            table,
            kept: crate::kept::Kept::default(),
            cwd: Arc::new(cwd),
            umask: 0o022,
            credentials: Credentials::of(command.user, command.group, command.groups),
            program: Program::default(),
            boot: Some(boot),
            attached: Attached::default(),
            undo: Undo::default(),
            waited: None,
            logged: 0,
        };
        thread(&format!("member {number}"), move || member.serve())?;
        Ok(number)
    }
}

fn open_directory(path: &std::path::Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(Error::host("entering the working directory"))
}

/// What a process that begins asks for with [`abi::call::BOOT`].
fn boot_text(guest: &Command, pid: u32) -> Result<Vec<u8>> {
    let [capabilities, capabilities2] = sys::probe::hardware_capabilities();
    let header = Header {
        arguments: guest.arguments.len() as u32,
        variables: guest.environment.len() as u32,
        uid: guest.user,
        gid: guest.group,
        pid,
        processors: 1,
        memory: 0,
        capabilities,
        capabilities2,
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
