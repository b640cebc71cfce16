//! The machine boundary as the engine sees it: a container in which, in the program's place, a whole machine is run that
//! has the container's root for its programs' root. What is outside the machine is the container's: its root file system,
//! its network, its control groups.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use container::{Acts, Attendant, Body, Bond, Ended, Inhabitant, Prepared, Resident};
use machine::Module;
use model::{Arch, ByteSize, CellId, CellSpec, Cpus, Engine, FirstProgram, NetStack, Process, Verb};
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create};
use store::Rootfs;

use crate::boundary::{
    self, Boundary, Companion, Copies, Keeping, ProgramStreams, Relative, Standing, StartRequest, Started, lacks,
};
use crate::cell::Cell;
use crate::container::{Containers, Handover};
use crate::error::{Error, Result};
use crate::family;
use crate::machine_disks::Received;
use crate::machine_means::Means;
use crate::machine_sockets::Door;
use crate::native;
use crate::stats::Stats;

/// The boundary.
pub(crate) struct Machines;

/// A machine's memory, unless it is told.
const MEMORY: ByteSize = ByteSize::mib(512);
/// What a machine needs beside its memory: its translator's code, its devices, its kernel's image while it is loaded; and
/// for each processor but the first, code of its own.
const BESIDE: u64 = 448 << 20;
const BESIDE_EACH: u64 = 320 << 20;

/// How many processors a machine has whose cell may use so much of the host's: enough to use it, and no more than the
/// host has, since each works on a thread of its own. One unless told: what most programs do is done soonest so.
fn processors(limit: Option<Cpus>) -> usize {
    let wanted = limit.map_or(1, |it| it.as_millis().div_ceil(1000) as usize);
    let there = std::thread::available_parallelism().map_or(1, usize::from);
    wanted.clamp(1, there.min(machine::MOST_PROCESSORS))
}

/// The processor of machines for that architecture, if there are any.
pub fn machine_processor(arch: Arch) -> Option<machine::Arch> {
    match arch {
        Arch::Riscv64 => Some(machine::Arch::Riscv64),
        Arch::Arm64 => Some(machine::Arch::Arm64),
        Arch::Amd64 if Arch::HOST == Arch::Amd64 => Some(machine::Arch::Amd64),
        _ => None,
    }
}

impl Boundary for Machines {
    fn kind(&self) -> model::Boundary {
        model::Boundary::Machine
    }

    fn engine(&self, spec: &CellSpec) -> Result<Engine> {
        Ok(if native::is_native(spec) { Engine::Kvm } else { Engine::Dbt })
    }

    fn verbs(&self) -> &'static [Verb] {
        &[Verb::Exec, Verb::Logs, Verb::Copy, Verb::Attach, Verb::Pause, Verb::Stats, Verb::Fork, Verb::Snapshot]
    }

    fn start(&self, request: &StartRequest<'_>, streams: ProgramStreams) -> Result<Started> {
        let spec = &request.cell.spec;
        let (Some(arch), Some(files)) = (machine_processor(spec.image.arch), &spec.machine) else {
            return Err(Error::Refused(format!("there are no machines for {}", spec.image.arch)));
        };
        let memory = spec.limits.memory.unwrap_or(MEMORY);
        let processors = processors(spec.limits.cpus);
        let log = request.cell.kernel_log();
        let is_own = files.first == FirstProgram::Disks;
        let (line, link) = sys::socket::pair().map_err(|e| Error::io("making a line for the cell's link", e))?;
        machine::know(arch);
        let (origin, _told) = match request.origin {
            boundary::Origin::Program => {
                (Origin::Kernel { image: open(&files.kernel)?.into(), modules: pack(named(&files.modules))? }, None)
            }
            boundary::Origin::Snapshot(dir) => {
                let Keeping { state, bytes } = crate::snapshot::open(dir)?;
                told(&[state, bytes])?
            }
            boundary::Origin::Standing(files) => told(files)?,
        };
        let door = match request.origin {
            boundary::Origin::Standing(_) => Door::None,
            _ => Door::Open,
        };
        let monitor = Monitor {
            link,
            proc: File::open("/proc").map_err(|e| Error::io("opening /proc", e))?.into(),
            arch,
            memory: memory.get(),
            processors,
            hostname: spec.hostname.clone(),
            origin,
            given: crate::machine_disks::hand_over(files, door)?,
            first: files.first,
            control: family::listen(request.cell)?,
            means: Means::of(request.store, spec, arch)?,
            // A system of its own has one console, and says all it has to say there.
            log: if is_own { crate::supervisor::open_null()? } else { log_at(&log)?.into() },
            descriptors: Mutex::default(),
        };
        let mut cell = request.cell.clone();
        // The limit is the machine's memory, and what runs it needs some, too.
        let beside = BESIDE + BESIDE_EACH * (processors as u64 - 1);
        cell.spec.limits.memory = Some(ByteSize::bytes(memory.get() + beside));
        // Its sockets are its own kernel's.
        cell.spec.network.stack = NetStack::Guest;
        let request = StartRequest { cell: &cell, ..request.again() };
        let handover = Handover { link: Some(line), root: None };
        crate::container::start(&request, streams, Body::Resident(Arc::new(monitor)), handover)
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
            return Err(lacks(&cell.spec, Verb::Debug));
        }
        crate::unikernel::visit(cell, process, streams, bond)
    }

    fn copies(&self) -> Copies {
        Copies::Apart
    }

    fn stand(&self, cell: &Cell) -> Result<Standing> {
        family::stand(cell)
    }

    fn keep(&self, cell: &Cell, keeping: &Keeping) -> Result<()> {
        family::keep(cell, keeping)
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
        Err(lacks(&cell.spec, Verb::Debug))
    }

    fn debug_stopped(&self, cell: &Cell, _: &Rootfs) -> Result<(toolbox::Target, Prepared)> {
        Err(lacks(&cell.spec, Verb::Debug))
    }

    fn clear(&self, cell: &Cell) -> Result<()> {
        crate::machine_sockets::leave(&cell.spec);
        Containers.clear(cell)
    }

    fn clear_remains(&self, id: CellId) -> Result<()> {
        Containers.clear_remains(id)
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| Error::at("opening", path, e))
}

/// The file that the kernel's messages go to, begun anew.
fn log_at(path: &Path) -> Result<File> {
    File::create(path).map_err(|e| Error::at("making", path, e))
}

/// What a machine begins with, as its monitor has it.
#[derive(Debug)]
enum Origin {
    Kernel {
        image: OwnedFd,
        modules: OwnedFd,
    },
    /// Files that say where another stood come over this line.
    Frozen(OwnedFd),
}

/// Files on their way to a monitor, however many; they are on it as long as the other end is there.
fn told(files: &[OwnedFd]) -> Result<(Origin, Option<OwnedFd>)> {
    let failed = |e| Error::io("handing over where a machine stood", e);
    let (ours, theirs) = sys::socket::pair().map_err(failed)?;
    for some in files.chunks(sys::socket::MAX_DESCRIPTORS) {
        let some: Vec<_> = some.iter().map(AsFd::as_fd).collect();
        sys::socket::send(&ours, &[some.len() as u8], &some).map_err(failed)?;
    }
    sys::socket::send(&ours, &[0], &[]).map_err(failed)?;
    Ok((Origin::Frozen(theirs), Some(ours)))
}

/// All files that are on such a line.
fn hear_files(line: &OwnedFd) -> std::io::Result<Vec<OwnedFd>> {
    let mut files = Vec::new();
    loop {
        let mut count = [0];
        let (length, some) = sys::socket::receive(line, &mut count)?;
        if length == 0 || count == [0] {
            return Ok(files);
        }
        files.extend(some.into_iter().flatten());
    }
}

/// Files with what each is called.
fn named(files: &[PathBuf]) -> impl Iterator<Item = (&OsStr, &Path)> {
    files.iter().map(|it| (it.file_name().unwrap_or_default(), it.as_path()))
}

/// Files as one: for each its length, its name's length, its name, itself.
pub(crate) fn pack<'p>(files: impl IntoIterator<Item = (&'p OsStr, &'p Path)>) -> Result<OwnedFd> {
    let failed = |e| Error::io("keeping a machine's files", e);
    let file = memfd_create("files", MemfdFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    let mut file = File::from(file);
    for (name, path) in files {
        let content = std::fs::read(path).map_err(|e| Error::at("reading", path, e))?;
        let name = name.as_bytes();
        let lengths = [content.len() as u64, name.len() as u64].map(u64::to_ne_bytes).concat();
        for part in [lengths.as_slice(), name, &content] {
            std::io::Write::write_all(&mut file, part).map_err(failed)?;
        }
    }
    Ok(file.into())
}

pub(crate) fn unpack(mut bytes: &[u8]) -> Vec<Module> {
    let mut modules = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<16>() {
        let word = |it: &[u8]| it.iter().rev().fold(0usize, |word, byte| word << 8 | usize::from(*byte));
        let (length, name) = (word(&head[..8]), word(&head[8..]));
        let (Some(name), Some(content)) = (rest.get(..name), rest.get(name..).and_then(|it| it.get(..length))) else {
            break;
        };
        bytes = &rest[name.len() + length..];
        modules.push(Module { name: String::from_utf8_lossy(name).into_owned(), content: content.to_vec() });
    }
    modules
}

/// What runs the machine, in the cell's namespaces.
#[derive(Debug)]
struct Monitor {
    arch: machine::Arch,
    means: Means,
    memory: u64,
    processors: usize,
    hostname: String,
    origin: Origin,
    /// Where its disks, its seed and its sockets come from.
    given: OwnedFd,
    first: FirstProgram,
    /// Where further programs are asked for.
    control: OwnedFd,
    /// The host's `/proc`, until the process is prepared.
    proc: OwnedFd,
    /// Where the cell's link comes from.
    link: OwnedFd,
    /// Where the kernel's messages go.
    log: OwnedFd,
    /// By which it opens what it has found: there is no `/proc` where it lives. Of a `/proc` that nobody else sees, or, where
    /// such cannot be had (in a user namespace), of the host's, whose other processes that user namespace keeps it from.
    descriptors: Mutex<Option<OwnedFd>>,
}

impl Monitor {
    fn descriptors(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.descriptors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own_descriptors(&self) -> std::io::Result<OwnedFd> {
        match &*self.descriptors() {
            Some(it) => it.try_clone(),
            None => Err(std::io::Error::other("there is no /proc to be had")),
        }
    }

    fn network(&self) -> Option<machine::Network> {
        crate::unikernel::receive_link(&self.link).map(|it| machine::Network {
            frames: it.socket,
            hardware: it.hardware,
            address: it.address,
            prefix: it.prefix,
            gateway: it.gateway,
        })
    }

    fn system(&self) -> std::io::Result<machine::System> {
        let Received { disks, seed, sockets } = crate::machine_disks::receive(&self.given)?;
        let Origin::Kernel { image, modules } = &self.origin else {
            return Err(std::io::Error::other("a system of disks begins with its kernel"));
        };
        Ok(machine::System {
            arch: self.arch,
            kvm: self.means.kvm()?,
            translations: self.means.translations()?,
            kernel: File::from(image.try_clone()?),
            modules: unpack(&read_all(modules)?),
            memory: self.memory,
            processors: self.processors,
            hostname: self.hostname.clone(),
            disks,
            seed,
            sockets,
            descriptors: self.own_descriptors()?,
            console: [std::io::stdin().as_fd().try_clone_to_owned()?, std::io::stdout().as_fd().try_clone_to_owned()?],
            network: self.network(),
            control: Some(self.control.try_clone()?),
        })
    }

    fn guest(&self, command: &Inhabitant<'_>) -> std::io::Result<machine::Guest> {
        let Received { disks, sockets, .. } = crate::machine_disks::receive(&self.given)?;
        let text = |it: &std::ffi::CString| it.to_string_lossy().into_owned();
        let root = rustix::fs::open(c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let stream = |it: BorrowedFd<'_>| it.try_clone_to_owned();
        Ok(machine::Guest {
            arch: self.arch,
            kvm: self.means.kvm()?,
            origin: match &self.origin {
                Origin::Kernel { image, modules } => machine::Origin::Kernel {
                    image: File::from(image.try_clone()?),
                    modules: unpack(&read_all(modules)?),
                    memory: self.memory,
                    processors: self.processors,
                },
                Origin::Frozen(line) => machine::Origin::Frozen(hear_files(line)?),
            },
            hostname: self.hostname.clone(),
            command: unikernel::Command {
                path: PathBuf::from(std::ffi::OsStr::from_bytes(command.path.to_bytes())),
                arguments: command.arguments.iter().map(text).collect(),
                environment: command.environment.iter().map(text).collect(),
                directory: PathBuf::from(std::ffi::OsStr::from_bytes(command.working_directory.to_bytes())),
                user: command.uid,
                group: command.gid,
                groups: command.groups.to_vec(),
            },
            streams: [
                stream(std::io::stdin().as_fd())?,
                stream(std::io::stdout().as_fd())?,
                stream(std::io::stderr().as_fd())?,
            ],
            control: Some(self.control.try_clone()?),
            log: File::from(self.log.try_clone()?),
            root,
            network: self.network(),
            disks,
            sockets,
            translations: self.means.translations()?,
            descriptors: self.own_descriptors()?,
        })
    }
}

/// A file from its beginning.
pub(crate) fn read_all(file: &OwnedFd) -> std::io::Result<Vec<u8>> {
    let length = rustix::fs::fstat(file)?.st_size as usize;
    let mut bytes = vec![0; length];
    let mut done = 0;
    while done < length {
        match rustix::io::pread(file, &mut bytes[done..], done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// What a command ends with that never began.
const NOT_BEGUN: Ended = Ended::Code(125);

impl Resident for Monitor {
    fn keeps(&self) -> [Option<BorrowedFd<'_>>; 8] {
        let [a, b, c, d] = [&self.control, &self.log, &self.link, &self.proc].map(|it| Some(it.as_fd()));
        let (e, f) = match &self.origin {
            Origin::Kernel { image, modules } => (image, Some(modules.as_fd())),
            Origin::Frozen(line) => (line, None),
        };
        let means = self.means.descriptor().map(AsFd::as_fd);
        [a, b, c, d, Some(e.as_fd()), f, Some(self.given.as_fd()), means]
    }

    fn acts(&self) -> Acts {
        Acts::AsRoot
    }

    fn begin(&self) {
        // To be frozen more than once.
        sys::pagemap::prepare(Some(self.proc.as_fd()));
    }

    fn prepare(&self) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let outer = || rustix::fs::openat(&self.proc, "self/fd", flags, Mode::empty());
        *self.descriptors() = sys::process::own_descriptors().or_else(|_| outer()).ok();
        // Nothing of other processes is to be within reach of what follows.
        sys::exec::close_for_good(self.proc.as_fd());
    }

    fn live(&self, command: &Inhabitant<'_>) -> Ended {
        let outcome = match self.first {
            FirstProgram::Images => self.guest(command).map(machine::run),
            FirstProgram::Disks => self.system().map(machine::boot),
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                unikernel::say(&format!("the machine did not start: {error}"));
                return NOT_BEGUN;
            }
        };
        match outcome {
            Ok(status) => Ended::from_wait_status(status),
            Err(machine::Error::Program { path, source }) => {
                unikernel::say(&format!("{}: {source}", path.display()));
                Ended::Code(126)
            }
            Err(error) => {
                unikernel::say(&format!("the machine ended: {error}"));
                NOT_BEGUN
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_processors_for_what_its_cell_may_use() {
        let there = std::thread::available_parallelism().unwrap().get().min(machine::MOST_PROCESSORS);
        for (limit, wanted) in
            [(None, 1), (Some(1), 1), (Some(1000), 1), (Some(1001), 2), (Some(2000), 2), (Some(64_000), 64)]
        {
            assert_eq!(processors(limit.map(Cpus::millis)), wanted.min(there), "{limit:?}");
        }
    }
}
