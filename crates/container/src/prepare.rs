//! The supervisor's side of a start: compile the plan, make the first process, follow it until the program runs.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use model::{Degraded, Init, StartStep};
use rustix::fs::{CWD, Mode, OFlags};
use sys::cgroup::Layout;
use sys::exec::Title;
use sys::fork;
use sys::namespace::{self, Namespaces};
use sys::process::{self, Ended};
use sys::socket;

use crate::attend::{self, Attendant};
use crate::cgroup::Cgroup;
use crate::child::{self, Loopback, Root, Script, StreamPlan, UserMode};
use crate::command::Streams;
use crate::error::{Error, Result};
use crate::ids::{self, Ids};
use crate::layout;
use crate::neighbour::Neighbour;
use crate::plan::{IpcNs, NetNs, Plan, Stdio};
use crate::program::{self, Program};
use crate::protocol::{self, Failure, Report, Stage};
use crate::rootfs::{Mounter, Overlay};
use crate::users;

/// A cell whose namespaces stand but whose program has not run. Dropping it ends it and removes its control groups.
#[derive(Debug)]
pub struct Prepared {
    cell: Unstarted,
    control: OwnedFd,
    netns: OwnedFd,
    root: Option<OwnedFd>,
    degraded: Vec<Degraded>,
    init: Init,
    words: Words,
    ids: Ids,
}

/// What must be undone when a start comes to nothing.
#[derive(Debug)]
struct Unstarted {
    child: Option<fork::Child>,
    cgroup: Cgroup,
}

impl Drop for Unstarted {
    fn drop(&mut self) {
        if let Some(child) = &self.child {
            // Both fail only when the process is gone and reaped already.
            let _ = process::kill(&child.pidfd);
            let _ = process::wait(&child.pidfd);
        }
        // What stays is found again by `Cgroup::leftovers`.
        let _ = self.cgroup.remove();
    }
}

/// A cell whose program runs.
#[derive(Debug)]
pub struct Running {
    /// Process 1 of the cell, by the host's number.
    pub pid: u32,
    /// A handle to it; polls readable when it ended.
    pub pidfd: OwnedFd,
    /// The controlling end of its terminal, when it has one.
    pub terminal: Option<OwnedFd>,
    /// Where the system calls that [`model::Seccomp::Strict`] refuses are announced.
    pub seccomp: Option<OwnedFd>,
    witness: Witness,
    /// Keeps the cell's range of user ids its own.
    _ids: Ids,
}

/// Who can tell how the program ended.
#[derive(Debug)]
enum Witness {
    /// The kernel: the program is our child.
    Kernel,
    /// Our child, the cell's init, over this socket.
    Init(OwnedFd),
    /// Our child, a program's guardian, over this socket.
    Guardian(fork::Child, OwnedFd),
    /// Our child, a program's parent, over this socket; the kernel reaps it.
    Steward(OwnedFd),
}

/// What the failures of a child are about, for people.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// The command that was to be executed.
    pub command: String,
    /// What was to be mounted, in order.
    pub mounts: Vec<String>,
}

/// Makes the cell: control groups with their limits, namespaces; its first process begins on the root file system and the
/// mounts in it, and then waits for [`Prepared::start`]. What goes wrong there is told by `start`, so that the caller can
/// connect the network meanwhile: each wait of one process for another costs a wake-up, which under load is milliseconds.
///
/// The calling thread must live as long as the cell: when it ends, the kernel kills the cell.
pub fn prepare(plan: &Plan, stdio: Stdio) -> Result<Prepared> {
    let layout = Layout::discover().map_err(|error| {
        let errno = sys::Errno::from_io_error(&error).unwrap_or(sys::Errno::IO);
        Error::start(StartStep::Limits, "reading /proc/self/mountinfo", errno)
    })?;
    let (cgroup, mut degraded) = Cgroup::create(&layout, plan.id, &plan.limits)?;
    let mut cell = Unstarted { child: None, cgroup };
    let mut words = Words { command: String::new(), mounts: Vec::new() };
    let ids = Ids::choose(plan)?;
    if matches!(ids, Ids::Host) {
        degraded.extend(program::ungivable(&plan.security)?);
    }
    let neighbour = match plan.ipc {
        IpcNs::New => None,
        IpcNs::Of(first) => Some(Neighbour::open(first)?),
    };
    let script = compile(plan, stdio, &cell.cgroup, &ids, neighbour.as_ref(), &mut words)?;
    let handshake = |errno| Error::start(StartStep::Namespaces, "making the cell's first process", errno);
    let (control, theirs) = socket::pair().map_err(handshake)?;
    let group = cell.cgroup.directory()?;
    let joined = neighbour.as_ref().map_or(Namespaces::empty(), Neighbour::kinds);
    let kinds = namespaces(plan, script.user).without(joined);
    let (group, live) = (group.as_ref().map(AsFd::as_fd), || child::live(&script, theirs.as_fd()));
    let child = match &neighbour {
        None => fork::spawn(kinds, group, live),
        Some(it) => it.spawn(kinds, group, live),
    };
    let pid = cell.child.insert(child.map_err(handshake)?).pid;
    let root = script.root_handle();
    drop((theirs, script));
    // Before the process hides itself from an ordinary user, which it does as soon as its map is written.
    let netns = format!("/proc/{pid}/ns/net");
    let netns = rustix::fs::openat(CWD, netns, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    if let Some((map, writer)) = ids.map() {
        if kinds.contains(Namespaces::USER) {
            namespace::write_id_map(pid, map, writer).map_err(|errno| {
                Error::start(StartStep::Namespaces, "mapping the users of the cell (--userns)", errno)
            })?;
        }
        protocol::go(control.as_fd()).map_err(handshake)?;
    }
    let netns = match netns {
        Ok(netns) => netns,
        // It died in the meantime, and its last words tell why.
        Err(errno) => match protocol::receive(control.as_fd()) {
            Ok(Some((Report::Failed(failure), _))) => return Err(words.error(failure)),
            _ => return Err(handshake(errno)),
        },
    };
    Ok(Prepared { cell, control, netns, root, degraded, init: plan.init, words, ids })
}

fn namespaces(plan: &Plan, user: UserMode) -> Namespaces {
    let mut kinds = Namespaces::PID.and(Namespaces::MOUNT).and(Namespaces::UTS).and(Namespaces::IPC);
    if plan.netns == NetNs::New {
        kinds = kinds.and(Namespaces::NET);
    }
    match user {
        UserMode::Own(_) => kinds.and(Namespaces::USER),
        UserMode::Host => kinds,
    }
}

fn compile(
    plan: &Plan,
    stdio: Stdio,
    cgroup: &Cgroup,
    ids: &Ids,
    neighbour: Option<&Neighbour>,
    words: &mut Words,
) -> Result<Script> {
    let mapping = match ids {
        Ids::Mapped(claim) => Some(
            namespace::user_namespace(claim.map())
                .map_err(|errno| Error::start(StartStep::Namespaces, "making the user namespace (--userns)", errno))?,
        ),
        Ids::Host | Ids::Ordinary(_) => None,
    };
    let mounter = match (ids, &mapping) {
        (_, Some(namespace)) => Mounter::Mapping(namespace.as_fd()),
        (Ids::Ordinary(_), None) => Mounter::Child,
        (_, None) => Mounter::Parent,
    };
    let overlay = Overlay::open(&plan.rootfs, &plan.upper, plan.lifetime, mounter)?;
    let (root, identity) = match ids {
        Ids::Ordinary(_) => {
            let identity = ids::ordinary_identity(&plan.process.user, &plan.rootfs)?;
            (Root::Overlay(overlay), identity)
        }
        Ids::Host | Ids::Mapped(_) => {
            let root = match ids.map() {
                None => Ok(overlay.mount()),
                // The overlay writes to its layers as who mounted it, and uid 0 of the host does not exist in mapped ones.
                Some((map, _)) => sys::file_identity::with(map.outside_uid, map.outside_gid, || overlay.mount()),
            };
            let root = root.map_err(|errno| Stage::Root.fail(errno)).flatten().map_err(|it| words.error(it))?;
            let identity = users::resolve(root.as_fd(), &plan.process.user)?;
            (Root::Mounted(root), identity)
        }
    };
    let owner = ids.outside(identity.uid);
    let program =
        Program::compile(&plan.process, &plan.security, identity, ids.group_change(), plan.watch, plan.body.clone())?;
    words.command = program.command();
    let streams = match stdio {
        Stdio::Pty { size } => StreamPlan::Terminal(size),
        Stdio::Pipes { stdin, stdout, stderr } => StreamPlan::Given(Streams::Three([stdin, stdout, stderr])),
    };
    if let StreamPlan::Given(streams) = &streams {
        streams.give_to(owner);
    }
    let hostname = CString::new(plan.hostname.as_str())
        .map_err(|_| Error::refused(StartStep::Namespaces, "setting the host name", "it holds a zero byte"))?;
    Ok(Script {
        cgroups: cgroup.member_files()?,
        late_namespaces: Namespaces::CGROUP,
        hostname,
        loopback: if plan.netns == NetNs::New { Loopback::BringUp } else { Loopback::Leave },
        user: ids.mode(),
        root,
        mounts: layout::steps(plan, ids, neighbour, cgroup, &mut words.mounts)?,
        title: Title::of_this_process(c"skep-init"),
        root_access: plan.security.root,
        working_directory: layout::cell_path(&plan.process.cwd)?,
        init: plan.init,
        program,
        streams,
    })
}

impl Words {
    /// A child's failure as an error for people.
    pub fn error(&self, failure: Failure) -> Error {
        let mut what = failure.stage.words().to_owned();
        let detail = match failure.stage.step() {
            StartStep::Mounts if failure.stage.is_of_one_mount() => {
                self.mounts.get(failure.index as usize).map(String::as_str)
            }
            StartStep::CommandNotFound | StartStep::CommandNotExecutable => Some(self.command.as_str()),
            _ => None,
        };
        if let Some(detail) = detail {
            what.push(' ');
            what.push_str(detail);
        }
        Error::start(failure.stage.step(), what, failure.errno)
    }
}

impl Prepared {
    /// Process 1 of the cell, by the host's number.
    pub fn pid(&self) -> u32 {
        self.cell.child.as_ref().map_or(0, |it| it.pid)
    }

    /// The cell's network namespace.
    pub fn netns(&self) -> BorrowedFd<'_> {
        self.netns.as_fd()
    }

    /// The cell's control groups.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cell.cgroup
    }

    /// The cell's root file system, when this process mounted it: for whoever watches it. A look at it before the cell's
    /// own mounts are in place.
    pub fn root(&self) -> Option<BorrowedFd<'_>> {
        self.root.as_ref().map(AsFd::as_fd)
    }

    /// What was asked for and could not be given.
    pub fn degraded(&self) -> &[Degraded] {
        &self.degraded
    }

    /// Waits until the root file system and the mounts are in place, and leaves it at that: the program does not run, but
    /// its surroundings are there to be looked at, until this is dropped.
    pub fn hold(self) -> Result<Self> {
        let lost = |errno| Error::start(StartStep::Namespaces, "preparing the cell", errno);
        match protocol::receive(self.control.as_fd()).map_err(lost)? {
            Some((Report::Ready, _)) => Ok(self),
            Some((Report::Failed(failure), _)) => Err(self.words.error(failure)),
            _ => Err(lost(sys::Errno::PIPE)),
        }
    }

    /// Lets the program run. When that fails, nothing of the cell is left but what the caller holds.
    pub fn start(self) -> Result<Running> {
        self.start_attended(None)
    }

    /// The same for a watched program: what it asks before it is known to run is answered by the attendant, who is to go on
    /// answering.
    pub fn start_attended(mut self, mut attendant: Option<&mut dyn Attendant>) -> Result<Running> {
        let lost = |errno| Error::start(StartStep::Namespaces, "starting the program", errno);
        // If it is dead already, its last words are still to be read, and tell more than this failure.
        let _ = protocol::go(self.control.as_fd());
        let (mut terminal, mut seccomp) = (None, None);
        loop {
            match attend::receive(self.control.as_fd(), &mut attendant).map_err(lost)? {
                Some((Report::Ready, [controller, ..])) => terminal = controller,
                Some((Report::Listener, [listener, ..])) => seccomp = listener,
                Some((Report::Failed(failure), _)) => return Err(self.words.error(failure)),
                Some((Report::Started, _)) => break,
                // Executing the program closed the socket; without an init that is the only sign.
                None if self.init == Init::Program => break,
                _ => {
                    return Err(Error::refused(
                        StartStep::Namespaces,
                        "starting the program",
                        "the cell's first process was killed",
                    ));
                }
            }
        }
        let child = self.cell.child.take().ok_or(Error::NotRunning)?;
        // It runs: from here on its groups are the caller's to remove.
        self.cell.cgroup = Cgroup::none();
        let witness = match self.init {
            Init::Program => Witness::Kernel,
            Init::Reaper => Witness::Init(self.control),
        };
        let (pid, pidfd) = (child.pid, child.pidfd);
        Ok(Running { pid, pidfd, terminal, seccomp, witness, _ids: self.ids })
    }
}

impl Running {
    /// A further program in a cell, with a guardian that waits for it.
    pub(crate) fn visiting(
        program: fork::Child,
        seccomp: Option<OwnedFd>,
        guardian: fork::Child,
        ending: OwnedFd,
    ) -> Self {
        let fork::Child { pid, pidfd } = program;
        Self { pid, pidfd, terminal: None, seccomp, witness: Witness::Guardian(guardian, ending), _ids: Ids::Host }
    }

    /// The same with a parent that tells of its end over that socket, and is reaped by the kernel.
    pub(crate) fn telling(steward: fork::Child, seccomp: Option<OwnedFd>, ending: OwnedFd) -> Self {
        let fork::Child { pid, pidfd } = steward;
        Self { pid, pidfd, terminal: None, seccomp, witness: Witness::Steward(ending), _ids: Ids::Host }
    }

    /// Becomes readable when [`Running::reap`] need not wait.
    pub fn ended(&self) -> BorrowedFd<'_> {
        match &self.witness {
            Witness::Steward(socket) => socket.as_fd(),
            Witness::Kernel | Witness::Init(_) | Witness::Guardian(..) => self.pidfd.as_fd(),
        }
    }

    /// Waits until the first process (or the further program) ended, at once when [`Running::pidfd`] is readable, and
    /// reaps it: how the *program* ended, also when an init of ours was process 1.
    pub fn reap(&mut self) -> Result<Ended> {
        let told = match &self.witness {
            Witness::Kernel => None,
            Witness::Init(socket) | Witness::Guardian(_, socket) => ended(socket),
            // The kernel is still taking its namespaces apart, which takes longer than all of a short program.
            // Whoever ended without a word was killed.
            Witness::Steward(socket) => return Ok(ended(socket).unwrap_or(Ended::Signal(9))),
        };
        let child = match &self.witness {
            Witness::Kernel | Witness::Init(_) | Witness::Steward(_) => &self.pidfd,
            Witness::Guardian(guardian, _) => &guardian.pidfd,
        };
        let child = process::wait(child)
            .map_err(|cause| Error::Kernel { what: "waiting for the cell's first process", cause })?;
        Ok(told.unwrap_or(child))
    }
}

/// What is told of the program's end, if anything is before the teller ends.
fn ended(socket: &OwnedFd) -> Option<Ended> {
    while let Ok(Some((report, _))) = protocol::receive(socket.as_fd()) {
        if let Report::Ended(status) = report {
            return Some(Ended::from_wait_status(status));
        }
    }
    None
}
