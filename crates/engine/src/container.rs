//! The container boundary as the engine sees it: the container crate's cells, joined to the network.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use container::cgroup::Cgroup;
use container::{Attendant, Body, Bond, Ended, IpcNs, NetNs, Plan, Prepared, Running, Stdio, Target, WindowSize};
use model::{ByteSize, CellId, CellSpec, Engine, Exit, Limits, Missed, NetMode, NetStack, Process, Verb};
use store::{Layout, Rootfs};

use crate::boundary::{Boundary, Companion, Limited, LiveCell, ProgramStreams, StartRequest, Started};
use crate::cell::Cell;
use crate::clock::now;
use crate::error::{Error, Result};
use crate::stats::Stats;
use crate::watch::Watching;

/// The boundary.
pub(crate) struct Containers;

const SIGKILL: i32 = 9;
const SIGSYS: i32 = 31;

impl Boundary for Containers {
    fn kind(&self) -> model::Boundary {
        model::Boundary::Container
    }

    fn engine(&self, _spec: &CellSpec) -> Result<Engine> {
        Ok(Engine::Native)
    }

    fn verbs(&self) -> &'static [Verb] {
        &[Verb::Exec, Verb::Logs, Verb::Copy, Verb::Attach, Verb::Pause, Verb::Set, Verb::Stats, Verb::Debug]
    }

    fn start(&self, request: &StartRequest<'_>, streams: ProgramStreams) -> Result<Started> {
        start(request, streams, Body::Command, Handover::default())
    }

    fn exec(
        &self,
        cell: &Cell,
        process: &Process,
        streams: ProgramStreams,
        bond: Bond,
        attendant: Option<&mut dyn Attendant>,
    ) -> Result<Companion> {
        let (pid, cgroup) = whereabouts(cell)?;
        let target = Target { pid, cgroup };
        let (security, stdio) = (&cell.spec.security, stdio(streams));
        let running = match attendant {
            None => container::exec(&target, process, security, stdio, bond)?,
            Some(attendant) => container::exec_attended(&target, process, security, stdio, attendant)?,
        };
        Ok(Companion { running })
    }

    fn stats(&self, cell: &Cell) -> Result<Stats> {
        let (_, cgroup) = whereabouts(cell)?;
        let used = cgroup.stats();
        let traffic = cell.record.attachment.as_ref().and_then(net::Attachment::traffic);
        Ok(Stats {
            at: now(),
            cpu_ns: used.cpu_ns,
            throttled_ns: used.throttled_ns,
            memory: used.memory.map(ByteSize::bytes),
            memory_peak: used.memory_peak.map(ByteSize::bytes),
            memory_limit: used.memory_limit.map(ByteSize::bytes),
            pids: used.pids,
            io_read: used.io_read.map(ByteSize::bytes),
            io_write: used.io_written.map(ByteSize::bytes),
            net_received: traffic.map(|it| ByteSize::bytes(it.received)),
            net_sent: traffic.map(|it| ByteSize::bytes(it.sent)),
        })
    }

    fn processes(&self, cell: &Cell) -> Result<Vec<u32>> {
        let (pid, cgroup) = whereabouts(cell)?;
        let pids = cgroup.processes();
        // Without control groups, the tree below the first process is all that can be known.
        Ok(if pids.is_empty() { vec![pid] } else { pids })
    }

    fn root(&self, cell: &Cell, rootfs: &Rootfs) -> Result<OwnedFd> {
        match whereabouts(cell) {
            Ok((pid, _)) => Ok(container::root_of_running(pid)?),
            Err(_) => Ok(container::root_of_stopped(rootfs, &cell.layer(), cell.spec.lifetime)?),
        }
    }

    fn debug_target(&self, cell: &Cell) -> Result<toolbox::Target> {
        let (first, _) = whereabouts(cell)?;
        let program = container::program_of(first, cell.spec.init)?;
        // The kernel shows filters to a tracer only, and what a cell was given is known without.
        let filters = container::filter_of(&cell.spec.security).into_iter().collect();
        let name = cell.spec.name.as_str();
        Ok(toolbox::Target::open(name, program, None, toolbox::Filters::Known(filters))?)
    }

    fn debug_stopped(&self, cell: &Cell, rootfs: &Rootfs) -> Result<(toolbox::Target, Prepared)> {
        let files = Files::write(cell)?;
        let mut plan = plan(cell, rootfs.clone(), files.mounted(), Body::Command);
        // There is nothing to reach, and nobody who could be reached.
        plan.netns = NetNs::New;
        let null = crate::supervisor::open_null;
        let streams = Stdio::Pipes { stdin: null()?, stdout: null()?, stderr: null()? };
        let held = container::prepare(&plan, streams)?.hold()?;
        Ok((as_specified(cell, held.pid())?, held))
    }

    fn clear(&self, cell: &Cell) -> Result<()> {
        if let Some(process) = cell.record.process.filter(|it| it.is_alive())
            && let Ok(pidfd) = sys::process::open(process.pid)
        {
            let _ = sys::process::kill(&pidfd);
        }
        // The record may be from before the groups were made: what counts is what is there.
        self.clear_remains(cell.spec.id)
    }

    fn clear_remains(&self, id: CellId) -> Result<()> {
        let left = Cgroup::find(&control_groups()?, id);
        left.kill_all()?;
        Ok(left.remove()?)
    }
}

/// What a body is given of a cell that is ready, before it begins.
#[derive(Default)]
pub(crate) struct Handover<'a> {
    /// Over this line, the cell's link goes to who makes a network of it.
    pub(crate) link: Option<OwnedFd>,
    /// Told of the cell's root, if this process mounted it.
    pub(crate) root: Option<Ready<'a>>,
}

/// Somebody who is told of a cell's root.
pub(crate) type Ready<'a> = Box<dyn FnOnce(Option<BorrowedFd<'_>>) + 'a>;

/// Starts a cell in namespaces of the host, whose program that body executes.
pub(crate) fn start(
    request: &StartRequest<'_>,
    streams: ProgramStreams,
    body: Body,
    handover: Handover<'_>,
) -> Result<Started> {
    let spec = &request.cell.spec;
    let files = Files::write(request.cell)?;
    let mut plan = plan(request.cell, request.rootfs.clone(), files.mounted(), body);
    if let Some(neighbour) = &request.neighbour {
        plan.ipc = IpcNs::Of(whereabouts(neighbour)?.0);
    }
    let prepared = container::prepare(&plan, stdio(streams))?;
    if let Some(tell) = handover.root {
        tell(prepared.root());
    }
    let outcome = connect(request, &prepared, &files, handover.link);
    let (attachment, service) = match outcome {
        Ok(connected) => connected,
        Err(error) => {
            drop(prepared);
            let _ = request.net.detach(spec.id);
            return Err(error);
        }
    };
    let cgroup = prepared.cgroup().clone();
    let mut degraded = prepared.degraded().to_vec();
    degraded.extend(attachment.iter().flat_map(|it| it.degraded.clone()));
    let begun = Watching::begin(request, prepared.root(), prepared.pid()).and_then(|mut watching| {
        let started = prepared.start_attended(watching.as_mut().map(Watching::attendant));
        if let (Err(_), Some(watching)) = (&started, &mut watching) {
            // What a program that does not start was looking for is what its image lacks.
            let _ = watching.finish(&request.cell.dir);
        }
        Ok((started?, watching))
    });
    let (mut running, watching) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            drop(service);
            let _ = request.net.detach(spec.id);
            return Err(error);
        }
    };
    Ok(Started {
        pid: running.pid,
        terminal: running.terminal.take(),
        cgroup: Some(cgroup.clone()),
        attachment,
        service,
        degraded,
        live: Box::new(LiveContainer { id: spec.id, running, cgroup, watching, dir: request.cell.dir.clone() }),
    })
}

fn control_groups() -> Result<sys::cgroup::Layout> {
    sys::cgroup::Layout::discover().map_err(|e| Error::io("reading the control groups", e))
}

/// How the root file system of a cell is laid out: shared objects under metadata where the kernel can, hard links
/// elsewhere. A pool that was laid out the other way is laid out anew.
pub(crate) fn layout(pool: &Path) -> Layout {
    let is_root = rustix::process::geteuid().is_root();
    if is_root && holds_mountable_files(pool) && has_erofs_on_files() { Layout::Composed } else { Layout::Plain }
}

/// Whether a file of the file system there can be mounted as an image: those without a page cache of their own refuse
/// it (ENOTBLK), as does every system whose root is an overlay.
fn holds_mountable_files(pool: &Path) -> bool {
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    const OVERLAY: u64 = 0x794c_7630;
    rustix::fs::statfs(pool).is_ok_and(|it| ![TMPFS, RAMFS, OVERLAY].contains(&(it.f_type as u64)))
}

/// Whether the kernel mounts an EROFS image that is a plain file (Linux 6.12), which implies data-only layers (6.5). Read
/// from what the kernel says of itself: trying it would cost more than the start it is for.
fn has_erofs_on_files() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|it| it.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let known = || std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    version >= (6, 12) && known().lines().any(|line| line.trim_start_matches("nodev").trim() == "erofs")
}

/// The ending in the engine's words.
pub(crate) fn exit_of(ended: Ended) -> Exit {
    match ended {
        Ended::Code(code) => Exit::Code { code },
        Ended::Signal(SIGSYS) => Exit::Seccomp { syscall: None },
        Ended::Signal(signal) => Exit::Signal { signal },
    }
}

/// Runs a further program in a cell whose program something else than the kernel executes, which executes this, too.
pub(crate) fn exec_as(
    cell: &Cell,
    process: &Process,
    streams: ProgramStreams,
    bond: Bond,
    body: Body,
) -> Result<Companion> {
    let (pid, cgroup) = whereabouts(cell)?;
    let target = Target { pid, cgroup };
    let running = container::exec_as(&target, process, &cell.spec.security, stdio(streams), bond, body)?;
    Ok(Companion { running })
}

fn whereabouts(cell: &Cell) -> Result<(u32, &Cgroup)> {
    match (&cell.record.process, &cell.record.cgroup) {
        (Some(process), Some(cgroup)) => Ok((process.pid, cgroup)),
        _ => Err(Error::NotRunning { cell: cell.spec.name.clone(), state: cell.record.state.word() }),
    }
}

/// The surroundings of a process that stands for a cell's program, with what the cell's specification gives a program, and
/// not with what that process has.
fn as_specified(cell: &Cell, pid: u32) -> Result<toolbox::Target> {
    let security = &cell.spec.security;
    let program = toolbox::Unstarted {
        capabilities: container::capabilities_of(security),
        new_privileges: security.new_privileges,
        filters: container::filter_of(security).into_iter().collect(),
        env: cell.spec.process.env.clone(),
    };
    Ok(toolbox::Target::open_unstarted(cell.spec.name.as_str(), pid, program)?)
}

/// A running cell whose program is nobody's that a toolbox could be attached to, by what stands for it.
pub(crate) fn resident_target(cell: &Cell) -> Result<toolbox::Target> {
    let (first, _) = whereabouts(cell)?;
    as_specified(cell, container::program_of(first, cell.spec.init)?)
}

/// The streams in the container crate's words.
pub(crate) fn stdio(streams: ProgramStreams) -> Stdio {
    match streams {
        ProgramStreams::Pty(rows, columns) => Stdio::Pty { size: WindowSize { rows, columns } },
        ProgramStreams::Three { stdin, stdout, stderr } => Stdio::Pipes { stdin, stdout, stderr },
    }
}

fn plan(cell: &Cell, rootfs: Rootfs, files: Vec<(PathBuf, PathBuf)>, body: Body) -> Plan {
    let spec = &cell.spec;
    Plan {
        id: spec.id,
        rootfs,
        upper: cell.layer(),
        hostname: spec.hostname.clone(),
        process: spec.process.clone(),
        mounts: spec.mounts.clone(),
        files,
        security: spec.security.clone(),
        limits: spec.limits.clone(),
        // Whom it joins is known to who starts it.
        ipc: IpcNs::New,
        netns: if spec.network.mode == NetMode::Host { NetNs::Host } else { NetNs::New },
        init: spec.init,
        lifetime: spec.lifetime,
        watch: spec.watch,
        body,
    }
}

type Connected = (Option<net::Attachment>, Option<net::Service>);

/// Joins a prepared cell to its network, before its program can notice that it was without.
fn connect(request: &StartRequest<'_>, prepared: &Prepared, files: &Files, line: Option<OwnedFd>) -> Result<Connected> {
    let spec = &request.cell.spec;
    if matches!(spec.network.mode, NetMode::None | NetMode::Host) {
        // The cell brings its loopback interface up itself, which an ordinary user could not do from outside.
        return Ok((None, None));
    }
    let attachment = request.net.attach(spec.id, &spec.name, &spec.network, prepared.netns())?;
    let Some(attachment) = attachment else { return Ok((None, None)) };
    files.set_hosts(&attachment.hosts(&spec.hostname, &spec.name))?;
    if spec.network.stack == NetStack::Guest {
        // The resolver in its namespace is the kernel's to reach.
        let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        files.set("resolv.conf", &net::Attachment::resolv_conf(&host, attachment.gateway))?;
    }
    if let Some(line) = line {
        let link = request.net.link(&attachment, prepared.netns())?;
        sys::socket::send(&line, &link.record(), &[link.socket.as_fd()])
            .map_err(|e| Error::io("handing over the cell's link", e))?;
    }
    let service = request.net.service(&attachment, &spec.network, prepared.netns())?;
    Ok((Some(attachment), Some(service)))
}

/// The files of a cell that the engine writes and the boundary puts over those of the image.
struct Files {
    dir: PathBuf,
}

impl Files {
    const NAMES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

    fn write(cell: &Cell) -> Result<Self> {
        let files = Self { dir: cell.dir.clone() };
        let host_resolver = || std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let resolver = match cell.spec.network.mode {
            NetMode::None => String::new(),
            NetMode::Host => host_resolver(),
            NetMode::Default | NetMode::Named(_) => net::Attachment::resolv_conf(&host_resolver(), net::RESOLVER),
        };
        files.set("resolv.conf", &resolver)?;
        files.set("hostname", &format!("{}\n", cell.spec.hostname))?;
        files.set_hosts(&hosts_without_network(&cell.spec))?;
        Ok(files)
    }

    fn set_hosts(&self, text: &str) -> Result<()> {
        self.set("hosts", text)
    }

    fn set(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join(name);
        // Written in place: the file may be mounted already, and a mount stays with the file that it was made of.
        std::fs::write(&path, text).map_err(|e| Error::at("writing", &path, e))
    }

    fn mounted(&self) -> Vec<(PathBuf, PathBuf)> {
        Self::NAMES.iter().map(|name| (self.dir.join(name), Path::new("/etc").join(name))).collect()
    }
}

fn hosts_without_network(spec: &CellSpec) -> String {
    match spec.network.mode {
        NetMode::Host => std::fs::read_to_string("/etc/hosts").unwrap_or_default(),
        _ => format!("127.0.0.1\tlocalhost {}\n::1\tlocalhost ip6-localhost ip6-loopback\n", spec.hostname),
    }
}

/// A running container in the hands of its supervisor.
struct LiveContainer {
    id: CellId,
    running: Running,
    cgroup: Cgroup,
    watching: Option<Watching>,
    /// The cell's directory.
    dir: PathBuf,
}

impl LiveCell for LiveContainer {
    fn ended(&self) -> BorrowedFd<'_> {
        self.running.pidfd.as_fd()
    }

    fn notices(&self) -> Option<BorrowedFd<'_>> {
        let refusals = self.running.seccomp.as_ref().map(AsFd::as_fd);
        self.watching.as_ref().map(Watching::questions).or(refusals)
    }

    fn notice(&mut self) -> Result<Option<Exit>> {
        if let Some(watching) = &mut self.watching {
            let attended = watching.attendant().attend();
            return attended.map(|()| None).map_err(|e| Error::io("answering for the cell", e));
        }
        let Some(listener) = &self.running.seccomp else { return Ok(None) };
        match sys::seccomp::next(listener) {
            Ok(call) => Ok(Some(Exit::Seccomp { syscall: Some(call.number) })),
            // The thread that made the call was killed for another reason before it could be asked about.
            Err(sys::Errno::NOENT) => Ok(None),
            Err(e) => Err(Error::io("hearing the system call filter", e)),
        }
    }

    fn missed(&mut self) -> Vec<Missed> {
        self.watching.as_mut().map(Watching::missed).unwrap_or_default()
    }

    fn reap(&mut self, limits: &Limits) -> Result<Exit> {
        if let Some(watching) = &mut self.watching {
            // Whoever wanted it finds that it is not there.
            let _ = watching.finish(&self.dir);
        }
        let ended = self.running.reap()?;
        // The kernel's killer sends SIGKILL, and so does whoever kills on purpose: the counter tells which it was.
        if ended == Ended::Signal(SIGKILL) && self.cgroup.oom_kills() > 0 {
            return Ok(Exit::OutOfMemory { limit: limits.memory });
        }
        Ok(exit_of(ended))
    }

    fn signal(&self, signal: i32) -> Result<()> {
        let sent = sys::process::send_signal(self.running.pidfd.as_fd(), signal);
        sent.map_err(|e| Error::io(format!("sending {}", crate::why::signal_name(signal)), e))
    }

    fn kill(&self) -> Result<()> {
        // The first process takes all others of its namespace with it; a frozen one dies too, once it is let go.
        let killed = sys::process::kill(self.running.pidfd.as_fd());
        let _ = self.cgroup.kill_all();
        killed.map_err(|e| Error::io("killing the cell", e))
    }

    fn pause(&self) -> Result<()> {
        Ok(self.cgroup.freeze()?)
    }

    fn resume(&self) -> Result<()> {
        Ok(self.cgroup.thaw()?)
    }

    fn set(&mut self, limits: &Limits) -> Result<Limited> {
        let degraded = self.cgroup.change(&control_groups()?, self.id, limits);
        Ok(Limited { degraded, cgroup: Some(self.cgroup.clone()) })
    }

    fn dismantle(&mut self) -> Result<()> {
        Ok(self.cgroup.remove()?)
    }
}
