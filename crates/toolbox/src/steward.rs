//! What is done inside the target, by two processes.
//!
//! The **steward** is made in the target's pid namespace. It joins the control groups and namespaces, mounts the session's
//! root, and starts the **program**, which gives up everything that the target lacks and executes. Then the steward is no
//! more than the program's parent: with no capability but to signal, no descriptor and no memory worth reading, it hands on
//! signals, and **ends every process of the session before it ends itself**, also when its caller is gone.
//!
//! The order matters: the session's `/proc` and its root are made while the steward still is root of the host, every mount
//! is put in a mount namespace that nobody shares, and the program enters the target's user namespace last. Nothing here
//! allocates, locks or panics (see [`sys::fork::spawn`]); paths of the target are resolved inside its root.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use container::{Command, Failure, Stage, Streams, WindowSize};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};
use rustix::process::{Pid, Rlimit, WaitOptions, WaitStatus};
use sys::capability::{self, CapabilitySet};
use sys::exec::{self, GroupChange, Title};
use sys::mount::{Reach, attach, clone_tree, enter_root, make_slave, new_file_system, set_attributes};
use sys::mountinfo::Access;
use sys::namespace::{self, Namespaces};
use sys::pty::{self, Pty};
use sys::signal::{self, SignalSet};
use sys::{Errno, fork};

use crate::confinement::Confinement;
use crate::facts::Limit;
use crate::session::Recipe;
use crate::swap::Frame;
use crate::view::Cover;

type Done<T> = std::result::Result<T, Failure>;

/// All that the two processes need, decided before they are made.
pub(crate) struct Script<'a> {
    /// What those in the target see as the steward's command line, in place of the host's own.
    pub(crate) title: Title,
    /// Files of control groups (version 1) to write to.
    pub(crate) tasks: Vec<OwnedFd>,
    /// What the kernel must say of the steward's control groups then.
    pub(crate) membership: Vec<u8>,
    pub(crate) oom_score: Vec<u8>,
    /// Of the target, other than pid and user; the rest is the caller's own.
    pub(crate) namespaces: Namespaces,
    pub(crate) target: BorrowedFd<'a>,
    pub(crate) target_root: BorrowedFd<'a>,
    pub(crate) tools: ToolsMount,
    pub(crate) plan: RootPlan,
    /// The size of the program's terminal, when it gets one.
    pub(crate) terminal: Option<WindowSize>,
    pub(crate) covers: Covers,
    pub(crate) program: Program<'a>,
}

/// The toolbox.
pub(crate) enum ToolsMount {
    /// It is mounted, nowhere yet.
    Ready(OwnedFd),
    /// It is to be mounted by root of the target's user namespace, the caller being nobody in particular.
    Later(Recipe),
}

/// What the session's root is made of.
pub(crate) enum RootPlan {
    /// The toolbox, with these files of the target's over its own (relative to the root of either).
    Toolbox(Vec<&'static CStr>),
    /// The target.
    Target(Frame),
}

/// What is done to the new `/proc`.
pub(crate) struct Covers {
    pub(crate) access: Access,
    pub(crate) covers: Vec<(CString, Cover)>,
}

/// The session's program and all that it starts with.
pub(crate) struct Program<'a> {
    pub(crate) users: Option<BorrowedFd<'a>>,
    pub(crate) group_change: GroupChange,
    pub(crate) confinement: Confinement,
    pub(crate) limits: Vec<Limit>,
    pub(crate) label: Option<CString>,
    pub(crate) command: Command,
    /// None when it gets a terminal.
    pub(crate) streams: Option<Streams>,
}

/// Asks the steward to end its session: nobody else sends it that, as it blocks what the kernel would do.
const HANGUP: i32 = 1;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The steward's life: returns only when no program came of it. How the program ended is told over `ending`, if anybody
/// listens there, and by the exit code. Fork-safe.
pub(crate) fn live(script: &Script<'_>, control: BorrowedFd<'_>, ending: Option<BorrowedFd<'_>>) -> Done<Infallible> {
    let handshake = |errno| Stage::Handshake.fail(errno);
    script.title.take();
    signal::block(SignalSet::ALL).map_err(handshake)?;
    // Not to be killed with its caller, but to end its session then.
    exec::signal_with_parent(HANGUP).map_err(handshake)?;
    exec::adopt_orphans().map_err(handshake)?;
    script.join_cgroups()?;
    script.set_oom_score();
    let terminal = script.build_root(control)?;
    let streams = terminal.as_ref().or(script.program.streams.as_ref()).ok_or(Stage::Streams.fail(Errno::BADF))?;
    let mut failure = None;
    let program = fork::spawn_to_exec(|| {
        failure = match script.program.become_it(streams) {
            Ok(never) => match never {},
            Err(failure) => Some(failure),
        };
        125
    });
    let program = program.map_err(|errno| Stage::Fork.fail(errno))?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    drop_to_steward()?;
    // Nothing else is kept. Above all not the socket that failures are told by: its closing says that the program runs.
    match ending {
        Some(ending) => exec::go_on_with(ending, program.pid, |ending, program| {
            let code = serve(program);
            container::tell_end(ending, code);
            code
        }),
        None => exec::go_on_with(script.target, program.pid, |_, program| serve(program)),
    }
}

impl Script<'_> {
    fn join_cgroups(&self) -> Done<()> {
        let failed = |errno| Stage::JoinCgroup.fail(errno);
        for cgroup in &self.tasks {
            rustix::io::write(cgroup, b"0").map_err(failed)?;
        }
        // Believed is what the kernel says, and not that the writing went well.
        let mut text = [0; 16 << 10];
        let length = read_file(c"/proc/self/cgroup", &mut text).map_err(failed)?;
        match text.get(..length) {
            Some(now) if now == self.membership => Ok(()),
            _ => Err(failed(Errno::XDEV)),
        }
    }

    /// Lowering it takes a privilege that the caller may lack; being killed sooner than the target is no gain.
    fn set_oom_score(&self) {
        if let Ok(file) = rustix::fs::openat(CWD, c"/proc/self/oom_score_adj", OFlags::WRONLY, Mode::empty()) {
            let _ = rustix::io::write(file, &self.oom_score);
        }
    }

    /// Makes the session's tree of mounts and enters it; the program's terminal, if it gets one. The numbers are those of
    /// [`crate::session::words`].
    fn build_root(&self, control: BorrowedFd<'_>) -> Done<Option<Streams>> {
        let mut made = None;
        let tools = match &self.tools {
            ToolsMount::Ready(tools) => tools,
            ToolsMount::Later(recipe) => {
                // Only in a mount namespace of its own user namespace may its root mount anything.
                namespace::leave(Namespaces::MOUNT).map_err(|errno| Stage::Unshare.fail(errno))?;
                made.insert(recipe.mount().map_err(|errno| Stage::Root.fail(errno))?)
            }
        };
        let terminal = self.terminal.map(Terminal::make).transpose().map_err(|errno| Stage::Terminal.fail(errno))?;
        // While the caller's mount namespace is around: in the target's the kernel may refuse a new `/proc`.
        let safe =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let proc = new_file_system::<&CStr>(c"proc", &[], safe).map_err(mount(1))?;
        if self.namespaces != Namespaces::empty() {
            namespace::join(self.target, self.namespaces).map_err(|errno| Stage::JoinNamespaces.fail(errno))?;
        }
        let tree = |errno| Stage::Tree.fail(errno);
        let target = clone_tree(self.target_root, c"", Reach::Tree).map_err(tree)?;
        // What is mounted in the target from now on is seen here, and never the other way round.
        make_slave(&target, Reach::Tree).map_err(tree)?;
        namespace::leave(Namespaces::MOUNT).map_err(|errno| Stage::Unshare.fail(errno))?;
        let base = match &self.plan {
            RootPlan::Toolbox(_) => tools.as_fd(),
            RootPlan::Target(frame) => frame.mount.as_fd(),
        };
        let root = enter_root(base).map_err(|errno| Stage::Pivot.fail(errno))?;
        let root = root.as_fd();
        let target = target.as_fd();
        match &self.plan {
            RootPlan::Toolbox(files) => {
                put(target, root, c"target").map_err(mount(0))?;
                put(proc.as_fd(), root, c"proc").map_err(mount(1))?;
                for (index, name) in [(2, c"sys"), (3, c"dev")] {
                    // A target that has none goes without.
                    if let Ok(theirs) = open_inside(target, name, DIRECTORY) {
                        copy(theirs.as_fd(), root, name).map_err(mount(index))?;
                    }
                }
                for (index, file) in (FIXED..).zip(files) {
                    // It was there a moment ago; that a target takes it away now is its own affair.
                    let Ok(theirs) = open_file(target, file) else { continue };
                    copy(theirs.as_fd(), root, file).map_err(mount(index))?;
                }
            }
            RootPlan::Target(frame) => {
                // Older kernels copy only what is mounted somewhere.
                put(target, root, c"toolbox").map_err(mount(0))?;
                for (index, entry) in (FIXED..).zip(&frame.entries) {
                    let theirs = open_inside(target, &entry.name, OFlags::PATH | OFlags::NOFOLLOW);
                    let Ok(theirs) = theirs else { continue };
                    let kind = rustix::fs::fstat(&theirs).map(|it| FileType::from_raw_mode(it.st_mode));
                    if kind == Ok(entry.kind) {
                        copy(theirs.as_fd(), root, &entry.name).map_err(mount(index))?;
                    }
                }
                unmount(c"/toolbox", UnmountFlags::DETACH).map_err(mount(0))?;
                put(tools.as_fd(), root, c"toolbox").map_err(mount(0))?;
                put(proc.as_fd(), root, c"proc").map_err(mount(1))?;
                set_attributes(root, MountAttrFlags::MOUNT_ATTR_RDONLY, Reach::One).map_err(mount(2))?;
            }
        }
        self.cover_proc(proc.as_fd())?;
        let Some(terminal) = terminal else { return Ok(None) };
        if let Ok(place) = open_inside(root, c"dev/pts", DIRECTORY) {
            attach(terminal.devpts, place).map_err(mount(4))?;
        }
        container::tell_terminal(control, terminal.pty.controller.as_fd())
            .map_err(|errno| Stage::Terminal.fail(errno))?;
        Ok(Some(Streams::Terminal(terminal.pty.terminal)))
    }

    fn cover_proc(&self, proc: BorrowedFd<'_>) -> Done<()> {
        let first = match &self.plan {
            RootPlan::Toolbox(files) => FIXED + files.len() as u32,
            RootPlan::Target(frame) => FIXED + frame.entries.len() as u32,
        };
        for (index, (path, cover)) in (first..).zip(&self.covers.covers) {
            self::cover(proc, path, *cover).map_err(|errno| Failure { index, ..Stage::Mask.fail(errno) })?;
        }
        if self.covers.access == Access::ReadOnly {
            let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY;
            set_attributes(proc, read_only, Reach::One).map_err(|errno| Stage::Mask.fail(errno))?;
        }
        Ok(())
    }
}

/// A terminal of a session, and the file system that it lies in: one of its own, so that nobody in the target can write to
/// it or read what is typed.
struct Terminal {
    devpts: OwnedFd,
    pty: Pty,
}

impl Terminal {
    fn make(size: WindowSize) -> sys::Result<Self> {
        let all = [(c"newinstance", c""), (c"mode", c"620"), (c"ptmxmode", c"666"), (c"gid", c"5")];
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let devpts = match new_file_system(c"devpts", &all, attributes) {
            // A user namespace that has no such group.
            Err(Errno::INVAL) => new_file_system(c"devpts", &all[..3], attributes)?,
            other => other?,
        };
        let pty = pty::open_in(devpts.as_fd(), size)?;
        Ok(Self { devpts, pty })
    }
}

/// So many mounts come before those of files or entries.
const FIXED: u32 = 5;

fn mount(index: u32) -> impl Fn(Errno) -> Failure {
    move |errno| Failure { index, ..Stage::Mount.fail(errno) }
}

/// Mounts a tree at a place in our own root.
fn put(tree: BorrowedFd<'_>, root: BorrowedFd<'_>, place: &CStr) -> sys::Result<()> {
    attach(tree, rustix::fs::openat(root, place, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

/// Mounts a copy of something, with what is mounted beneath it, at a place in our own root.
fn copy(theirs: BorrowedFd<'_>, root: BorrowedFd<'_>, place: &CStr) -> sys::Result<()> {
    put(clone_tree(theirs, c"", Reach::Tree)?.as_fd(), root, place)
}

/// Covers a part of the new `/proc`, if it is there.
fn cover(proc: BorrowedFd<'_>, path: &CStr, cover: Cover) -> sys::Result<()> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let place = match openat2(proc, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let safe = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let is_directory = FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode) == FileType::Directory;
    let cover = match (cover, is_directory) {
        (Cover::Protect, _) => {
            let copy = clone_tree(&place, c"", Reach::Tree)?;
            set_attributes(&copy, MountAttrFlags::MOUNT_ATTR_RDONLY | safe, Reach::Tree)?;
            copy
        }
        (Cover::Hide, true) => {
            new_file_system(c"tmpfs", &[(c"size", c"0"), (c"nr_inodes", c"1")], MountAttrFlags::MOUNT_ATTR_RDONLY)?
        }
        (Cover::Hide, false) => empty_file()?,
    };
    attach(cover, place)
}

/// A file of nothing, as a mount. (The target's `/dev/null` may be anything.)
fn empty_file() -> sys::Result<OwnedFd> {
    let memory = new_file_system(c"tmpfs", &[(c"size", c"0"), (c"nr_inodes", c"2")], MountAttrFlags::empty())?;
    rustix::fs::mknodat(&memory, c"empty", FileType::RegularFile, Mode::from_raw_mode(0o444), 0)?;
    let file = clone_tree(&memory, c"empty", Reach::One)?;
    set_attributes(&file, MountAttrFlags::MOUNT_ATTR_RDONLY, Reach::One)?;
    Ok(file)
}

/// Opens a path as a process whose root is `root` would, never leaving it. Fork-safe.
pub(crate) fn open_inside(root: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> sys::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..16 {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Something was renamed meanwhile, and the kernel cannot tell whether that led outside.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// The same, for a plain file only: anything else that a target may have put there is refused. Fork-safe.
pub(crate) fn open_file(root: BorrowedFd<'_>, path: &CStr) -> sys::Result<OwnedFd> {
    let file = open_inside(root, path, OFlags::PATH)?;
    match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file),
        _ => Err(Errno::NODEV),
    }
}

/// Reads a small file; how much of `buffer` it filled.
fn read_file(path: &CStr, buffer: &mut [u8]) -> sys::Result<usize> {
    let file = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|it| !it.is_empty()) {
        match rustix::io::read(&file, rest) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(length)
}

impl Program<'_> {
    /// Becomes the program, in the steward's memory. Returns only when that failed. Fork-safe.
    fn become_it(&self, streams: &Streams) -> Done<Infallible> {
        exec::die_with_parent().map_err(|errno| Stage::Handshake.fail(errno))?;
        signal::block(SignalSet::NONE).map_err(|errno| Stage::Handshake.fail(errno))?;
        streams.connect(self.confinement.uid)?;
        let _ = rustix::process::umask(Mode::from_raw_mode(self.confinement.umask));
        self.set_limits()?;
        self.change_user()?;
        rustix::process::chdir(self.command.working_directory())
            .map_err(|errno| Stage::WorkingDirectory.fail(errno))?;
        self.restrict()?;
        self.command.execute()
    }

    fn set_limits(&self) -> Done<()> {
        for limit in &self.limits {
            let wanted = Rlimit { current: limit.soft, maximum: limit.hard };
            match rustix::process::setrlimit(limit.resource, wanted) {
                // The target may do more than its caller: a lower limit is no gain.
                Ok(()) | Err(Errno::PERM) => {}
                Err(errno) => return Err(Stage::ResourceLimits.fail(errno)),
            }
        }
        Ok(())
    }

    /// Ids first, by the host's numbers, then the user namespace, which gives back every capability in it.
    fn change_user(&self) -> Done<()> {
        let fail = |errno| Stage::Identity.fail(errno);
        let Confinement { uid, gid, groups, .. } = &self.confinement;
        capability::keep_over_user_change().map_err(fail)?;
        exec::become_user(*uid, *gid, groups, self.group_change).map_err(fail)?;
        capability::use_permitted().map_err(fail)?;
        if let Some(users) = self.users {
            namespace::join(users, Namespaces::USER).map_err(|errno| Stage::UserNamespace.fail(errno))?;
        }
        // Changing users made the kernel forget it.
        exec::die_with_parent().map_err(fail)
    }

    /// Capabilities, label, filters. The permitted set stays full until `execve`, which computes it anew from the bounding
    /// and the ambient set; so nothing need be done under the filters but to execute.
    fn restrict(&self) -> Done<()> {
        let capabilities = |errno| Stage::Capabilities.fail(errno);
        capability::bound(self.confinement.bounding).map_err(capabilities)?;
        capability::hand_on(self.confinement.ambient).map_err(capabilities)?;
        if let Some(label) = &self.label {
            let fail = |errno| Stage::Label.fail(errno);
            let file =
                rustix::fs::openat(CWD, c"/proc/self/attr/exec", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
            rustix::io::write(file.map_err(fail)?, label.to_bytes()).map_err(fail)?;
        }
        if self.confinement.no_new_privileges {
            exec::no_new_privileges().map_err(|errno| Stage::NewPrivileges.fail(errno))?;
        }
        let install = |filter: &Vec<_>| sys::seccomp::install(filter);
        self.confinement.filters.iter().try_for_each(install).map_err(|errno| Stage::Seccomp.fail(errno))
    }
}

/// What is left of the steward once the program runs: it may signal its own, and nothing else. Fork-safe.
fn drop_to_steward() -> Done<()> {
    const KILL: CapabilitySet = CapabilitySet(1 << 5);
    let fail = |errno| Stage::Capabilities.fail(errno);
    capability::bound(CapabilitySet(0)).map_err(fail)?;
    capability::set(KILL).map_err(fail)?;
    exec::no_new_privileges().map_err(|errno| Stage::NewPrivileges.fail(errno))
}

/// Hands signals on to the program until it ends, then ends whatever else belongs to the session. The program's exit code,
/// or 128 and the signal that ended it.
fn serve(program: u32) -> u8 {
    let program = i32::try_from(program).ok().and_then(Pid::from_raw);
    let code = loop {
        if let Some(code) = reap(program) {
            break code;
        }
        match signal::wait(SignalSet::ALL) {
            Ok(SIGCHLD) | Err(_) => {}
            Ok(HANGUP) => break 128 + HANGUP as u8,
            Ok(number) => {
                if let (Some(program), Ok(number)) = (program, signal::named(number)) {
                    // Fails only when the program just ended, which the next round sees.
                    let _ = rustix::process::kill_process(program, number);
                }
            }
        }
    };
    end_session();
    code
}

const SIGCHLD: i32 = 17;

/// Reaps every child that ended; how the program ended when it is among them.
fn reap(program: Option<Pid>) -> Option<u8> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if Some(pid) == program => return Some(code_of(status)),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return None,
            // It has no child any more, so there is no program.
            Err(_) => return Some(125),
        }
    }
}

fn code_of(status: WaitStatus) -> u8 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code as u8,
        (None, signal) => 128u8.wrapping_add(signal.unwrap_or(9) as u8),
    }
}

/// Kills children, which hands their own children to the steward, until there is none. A program that forks faster than it
/// is killed is held by the target's limit on processes.
fn end_session() {
    loop {
        let mut text = [0; 4096];
        // A list that is longer than the buffer is read anew when those at its beginning are gone.
        let Ok(length) = read_file(c"/proc/thread-self/children", &mut text) else { return };
        kill_each(text.get(..length).unwrap_or_default());
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Kills the processes of a list of numbers, each followed by a space; a last number that is not was cut off.
fn kill_each(list: &[u8]) {
    let mut number = 0i32;
    for byte in list {
        match byte {
            b'0'..=b'9' => number = number.wrapping_mul(10).wrapping_add(i32::from(byte - b'0')),
            _ => {
                if let Some(pid) = Pid::from_raw(number) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
                number = 0;
            }
        }
    }
}
