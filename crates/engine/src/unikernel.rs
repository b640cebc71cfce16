//! The unikernel boundary as the engine sees it: a container in which, in the program's place, a tender runs the program as
//! a guest. What is outside the guest is the container's: its root file system, its network, its control groups.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use container::{Attendant, Body, Bond, Ended, Inhabitant, Prepared, Resident};
use model::{CellId, CellSpec, Degraded, Engine, NetStack, Process, Verb};
use store::Rootfs;
use unikernel::control::{CommandText, Line};

use crate::boundary::{
    self, Boundary, Companion, Forked, Keeping, ProgramStreams, Relative, StartRequest, Started, lacks,
};
use crate::cell::Cell;
use crate::container::{Containers, Handover};
use crate::error::{Error, Result};
use crate::family;
use crate::patched;
use crate::stats::Stats;
use crate::wire::CopyFrom;

/// The boundary.
pub(crate) struct Unikernels;

impl Boundary for Unikernels {
    fn kind(&self) -> model::Boundary {
        model::Boundary::Unikernel
    }

    fn engine(&self, _spec: &CellSpec) -> Result<Engine> {
        choose()
    }

    fn verbs(&self) -> &'static [Verb] {
        &[
            Verb::Exec,
            Verb::Logs,
            Verb::Copy,
            Verb::Attach,
            Verb::Pause,
            Verb::Set,
            Verb::Stats,
            Verb::Fork,
            Verb::Snapshot,
            Verb::Libraries,
            Verb::Debug,
            Verb::Dump,
        ]
    }

    fn start(&self, request: &StartRequest<'_>, streams: ProgramStreams) -> Result<Started> {
        unikernel::compare_clocks();
        let kvm = open_kvm(request.cell.record.engine)?;
        let spec = &request.cell.spec;
        let origin = match (request.origin, spec.labels.get(image::APPLIANCE_LABEL)) {
            (boundary::Origin::Snapshot(dir), _) => Origin::Snapshot(crate::snapshot::open(dir)?),
            // Only a virtual machine goes on from a snapshot: elsewhere the program begins.
            (_, Some(digest)) if kvm.is_some() => Origin::Appliance(digest.clone()),
            (_, _) => Origin::Program,
        };
        let mut seal = crate::appliance::seal(spec);
        if let (Origin::Program, Some(seal)) = (&origin, &mut seal) {
            // It has its libraries still to load.
            seal.code = unikernel::Code::Generated;
        }
        let (line, link) = match spec.network.stack {
            NetStack::Host => (None, None),
            NetStack::Guest => {
                let ends = sys::socket::pair().map_err(|e| Error::io("making a line for the cell's link", e))?;
                (Some(ends.0), Some(ends.1))
            }
        };
        let visibility = match rustix::process::geteuid().is_root() {
            true => unikernel::Visibility::Root,
            false => unikernel::Visibility::Owner,
        };
        let ipc = match (&request.neighbour, spec.ipc.is_private()) {
            (Some(other), _) => Joining::Other(family::join(other)?),
            (None, true) => Joining::Nobody,
            (None, false) => Joining::Anybody,
        };
        let (patches, patched) = sys::socket::pair().map_err(|e| Error::io("making a line for copies of code", e))?;
        let patched = Some(patched);
        let (control, machines) = (family::listen(request.cell)?, Mutex::default());
        let tender = Tender { kvm, machines, control, origin, seal, visibility, link, ipc, patched };
        let ready = |root: Option<BorrowedFd<'_>>| patched::hand_over(request, root, &patches);
        let handover = Handover { link: line, root: Some(Box::new(ready)) };
        let mut started = crate::container::start(request, streams, Body::Resident(Arc::new(tender)), handover)?;
        if let Some(why) = unikernel::jail::lacks() {
            started.degraded.push(Degraded { what: "a part of the tender's own jail".to_owned(), why: why.to_owned() });
        }
        Ok(family::listening_to_news(request.cell, started))
    }

    fn exec(
        &self,
        cell: &Cell,
        process: &Process,
        streams: ProgramStreams,
        bond: Bond,
        attendant: Option<&mut dyn Attendant>,
    ) -> Result<Companion> {
        if attendant.is_some() {
            // What it uses is its tender's to see, and that does not say.
            return Err(lacks(&cell.spec, Verb::Debug));
        }
        visit(cell, process, streams, bond)
    }

    fn fork(&self, cell: &Cell, streams: Vec<ProgramStreams>, from: CopyFrom) -> Result<Vec<Result<Forked>>> {
        family::fork(cell, streams, from)
    }

    fn keep(&self, cell: &Cell, keeping: &Keeping) -> Result<()> {
        family::keep(cell, keeping)
    }

    fn write_core(&self, cell: &Cell, file: OwnedFd) -> Result<()> {
        family::write_core(cell, &file)
    }

    fn family(&self, cell: &Cell) -> Result<Vec<Relative>> {
        family::list(cell)
    }

    fn stats(&self, cell: &Cell) -> Result<Stats> {
        Containers.stats(cell)
    }

    fn processes(&self, cell: &Cell) -> Result<Vec<u32>> {
        Containers.processes(cell)
    }

    fn root(&self, cell: &Cell, rootfs: &Rootfs) -> Result<OwnedFd> {
        Containers.root(cell, rootfs)
    }

    fn debug_target(&self, cell: &Cell) -> Result<toolbox::Target> {
        crate::container::resident_target(cell)
    }

    fn debug_stopped(&self, cell: &Cell, rootfs: &Rootfs) -> Result<(toolbox::Target, Prepared)> {
        Containers.debug_stopped(cell, rootfs)
    }

    fn clear(&self, cell: &Cell) -> Result<()> {
        Containers.clear(cell)
    }

    fn clear_remains(&self, id: CellId) -> Result<()> {
        Containers.clear_remains(id)
    }
}

/// What will execute a unikernel here: the one that the environment names, or the best that there is.
fn choose() -> Result<Engine> {
    /// For tests and comparisons.
    const VARIABLE: &str = "SKEP_ENGINE";
    match std::env::var(VARIABLE).ok().as_deref() {
        Some("process") => Ok(Engine::Process),
        Some("kvm") => Ok(Engine::Kvm),
        Some(other) => Err(Error::UnknownEngine(other.to_owned())),
        None => Ok(if unikernel::open_kvm().is_ok() { Engine::Kvm } else { Engine::Process }),
    }
}

fn open_kvm(engine: Engine) -> Result<Option<OwnedFd>> {
    match engine {
        Engine::Kvm => Ok(Some(unikernel::open_kvm()?)),
        _ => Ok(None),
    }
}

/// The tender, in the cell's namespaces.
#[derive(Debug)]
struct Tender {
    /// The host's virtual machines, for members that are some.
    kvm: Option<OwnedFd>,
    /// What the tender made of that, until it is used.
    machines: Mutex<Option<unikernel::Machines>>,
    /// Where it takes orders.
    control: OwnedFd,
    origin: Origin,
    seal: Option<unikernel::Seal>,
    visibility: unikernel::Visibility,
    /// Where copies of code come from.
    patched: Option<OwnedFd>,
    /// Where the cell's link comes from, if its programs' sockets are of a stack in the guest.
    link: Option<OwnedFd>,
    ipc: Joining,
}

/// With whom it shares its messages and memory.
#[derive(Debug)]
enum Joining {
    Nobody,
    Anybody,
    /// A running family, by what that one's tender gave.
    Other(OwnedFd),
}

impl Joining {
    fn board(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Nobody | Self::Anybody => None,
            Self::Other(board) => Some(board.as_fd()),
        }
    }

    fn tenders(&self) -> std::io::Result<unikernel::Ipc> {
        Ok(match self {
            Self::Nobody => unikernel::Ipc::Private,
            Self::Anybody => unikernel::Ipc::Shareable,
            Self::Other(board) => unikernel::Ipc::Joined(board.try_clone()?),
        })
    }
}

/// What a family begins with.
#[derive(Debug)]
enum Origin {
    /// The cell's program.
    Program,
    /// Where a process was kept.
    Snapshot(Keeping),
    /// The snapshot in the cell's own root, by what it must hash to.
    Appliance(String),
}

impl Origin {
    fn snapshot(&self) -> std::io::Result<Option<unikernel::Snapshot>> {
        let open = |path: &str| std::fs::File::open(path).map(OwnedFd::from);
        Ok(match self {
            Self::Program => None,
            Self::Snapshot(it) => {
                let (state, bytes) = (it.state.try_clone()?, it.bytes.try_clone()?);
                Some(unikernel::Snapshot { state, bytes, digest: None })
            }
            Self::Appliance(digest) => {
                let (state, bytes) = (open(image::STATE_PATH)?, open(image::BYTES_PATH)?);
                Some(unikernel::Snapshot { state, bytes, digest: Some(digest.clone()) })
            }
        })
    }
}

impl Tender {
    fn machines(&self) -> MutexGuard<'_, Option<unikernel::Machines>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many files a process of a guest may have open, unless it asks for fewer.
const OPEN_FILES: usize = 1024;

impl Resident for Tender {
    fn keeps(&self) -> [Option<BorrowedFd<'_>>; 8] {
        let (state, bytes) = match &self.origin {
            Origin::Program | Origin::Appliance(_) => (None, None),
            Origin::Snapshot(it) => (Some(it.state.as_fd()), Some(it.bytes.as_fd())),
        };
        let link = self.link.as_ref().map(AsFd::as_fd);
        let patched = self.patched.as_ref().map(AsFd::as_fd);
        let kvm = self.kvm.as_ref().map(AsFd::as_fd);
        [kvm, Some(self.control.as_fd()), state, bytes, link, patched, self.ipc.board(), None]
    }

    fn begin(&self) {
        let Some(Ok(kvm)) = self.kvm.as_ref().map(OwnedFd::try_clone) else { return };
        let beginning = match &self.origin {
            Origin::Program => unikernel::Beginning::Program,
            Origin::Snapshot(_) | Origin::Appliance(_) => unikernel::Beginning::Snapshot,
        };
        *self.machines() = Some(unikernel::Machines::begin(kvm, beginning));
    }

    fn prepare(&self) {
        // Not with the above: it takes a mount apart, behind which the cell's own would wait for 0.2 ms.
        unikernel::prepare();
    }

    fn live(&self, command: &Inhabitant<'_>) -> Ended {
        let text = |it: &std::ffi::CString| it.to_string_lossy().into_owned();
        let stream = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned();
        let streams =
            (stream(std::io::stdin().as_fd()), stream(std::io::stdout().as_fd()), stream(std::io::stderr().as_fd()));
        let (Ok(stdin), Ok(stdout), Ok(stderr)) = streams else { return Ended::Code(125) };
        let engine = match (&self.kvm, self.machines().take()) {
            (None, _) => unikernel::Engine::Process,
            (Some(_), Some(machines)) => unikernel::Engine::Kvm(machines),
            (Some(_), None) => return Ended::Code(125),
        };
        let snapshot = match self.origin.snapshot() {
            Ok(snapshot) => snapshot,
            Err(error) => {
                unikernel::say(&format!("the appliance did not start: its snapshot: {error}"));
                return Ended::Code(125);
            }
        };
        let stack = match &self.link {
            None => unikernel::Stack::Host,
            Some(line) => unikernel::Stack::Guest(receive_link(line)),
        };
        let Ok(ipc) = self.ipc.tenders() else { return Ended::Code(125) };
        let guest = unikernel::Guest {
            patched: self.patched.as_ref().map(unikernel::Patched::receive_all).unwrap_or_default(),
            snapshot,
            ipc,
            seal: self.seal.clone(),
            visibility: self.visibility,
            stack,
            command: unikernel::Command {
                path: PathBuf::from(std::ffi::OsStr::from_bytes(command.path.to_bytes())),
                arguments: command.arguments.iter().map(text).collect(),
                environment: command.environment.iter().map(text).collect(),
                directory: PathBuf::from(std::ffi::OsStr::from_bytes(command.working_directory.to_bytes())),
                user: command.uid,
                group: command.gid,
                groups: command.groups.to_vec(),
            },
            control: self.control.try_clone().ok(),
            streams: [stdin, stdout, stderr],
            open_files: OPEN_FILES,
            engine,
        };
        match unikernel::run(guest) {
            Ok(outcome) => Ended::from_wait_status(outcome.status),
            Err(error) => {
                unikernel::say(&format!("the unikernel did not start: {error}"));
                Ended::Code(125)
            }
        }
    }
}

/// The cell's link, as [`crate::container::start`] sent it; nothing when the cell is on no network.
pub(crate) fn receive_link(line: &OwnedFd) -> Option<net::Link> {
    let mut record = [0; net::Link::RECORD];
    let (length, [socket, ..]) = sys::socket::receive(line, &mut record).ok()?;
    Some(net::Link::of(socket.filter(|_| length == record.len())?, record))
}

/// Runs a further program in a cell whose tender listens for such.
pub(crate) fn visit(cell: &Cell, process: &Process, streams: ProgramStreams, bond: Bond) -> Result<Companion> {
    let visitor = Visitor { line: family::connect(cell)?, cell: family::first_process(cell) };
    crate::container::exec_as(cell, process, streams, bond, Body::Resident(Arc::new(visitor)))
}

/// Stands for a further program of a family, in its cell's namespaces.
#[derive(Debug)]
struct Visitor {
    line: Line,
    cell: u32,
}

impl Resident for Visitor {
    fn keeps(&self) -> [Option<BorrowedFd<'_>>; 8] {
        [Some(self.line.as_fd()), None, None, None, None, None, None, None]
    }

    fn prepare(&self) {}

    fn live(&self, command: &Inhabitant<'_>) -> Ended {
        let text = CommandText {
            path: command.path,
            arguments: command.arguments,
            environment: command.environment,
            directory: command.working_directory,
            user: command.uid,
            group: command.gid,
            groups: command.groups,
        };
        match unikernel::accompany(&self.line, self.cell, &text) {
            Ok(status) => Ended::from_wait_status(status),
            Err(_) => Ended::Code(126),
        }
    }
}
