//! A session from its caller's side: everything is gathered and decided here, as plain data and open descriptors, before
//! the process is made that carries it out ([`crate::usher`]).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use container::{Command, Line, Memory, Running, ScratchRoot, Stdio, Streams, Words};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::mount::MountAttrFlags;
use sys::Errno;
use sys::exec::GroupChange;
use sys::mount::{Reach, new_file_system, new_proc_of, set_attributes};
use sys::namespace::Namespaces;

use crate::confinement::{Privileges, Trust, could_take_over};
use crate::environment;
use crate::error::{Error, Result};
use crate::inside::open_file;
use crate::lazy::{Lazy, Scratch};
use crate::program::Program;
use crate::root::{self, Covers, Mounted, ProcMount, Root, RootPlan, ToolsMount};
use crate::steward::{Controlling, Steward};
use crate::swap::{self, Frame};
use crate::target::{Membership, Target};
use crate::usher::Script;

/// Which of the two file systems is the root of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// The toolbox is the root, the target's root is at `/target`.
    ToolboxAsRoot,
    /// The target's root is the root, the toolbox is at `/toolbox`: paths in the target's configuration are what they are
    /// for the target.
    TargetAsRoot,
}

/// Where the tools are.
#[derive(Debug)]
pub enum Tools<'a> {
    /// A root file system of the pool.
    Stored(&'a store::Rootfs),
    /// One whose files are unpacked when they are first read. It must outlive the session.
    Lazy(&'a Lazy),
}

/// What is wanted of a session.
#[derive(Debug)]
pub struct Wish {
    /// The command and its arguments.
    pub command: Vec<CString>,
    /// `NAME=value` pairs over the target's.
    pub env: Vec<String>,
    /// `NAME=value` pairs of the toolbox's own configuration.
    pub image_env: Vec<String>,
    /// The directory to start in; the root unless told otherwise.
    pub cwd: Option<PathBuf>,
    /// Which file system is the root.
    pub arrangement: Arrangement,
    /// More privileges than the target's?
    pub privileges: Privileges,
    /// What the target is thought capable of.
    pub trust: Trust,
    /// The terminal's kind (`TERM`), when there is one.
    pub terminal: Option<String>,
    /// The program's streams.
    pub stdio: Stdio,
}

/// The target's own files that a session has in the place of the toolbox's: they say what names mean.
const FILES: [&CStr; 5] = [c"etc/hosts", c"etc/hostname", c"etc/resolv.conf", c"etc/passwd", c"etc/group"];

/// Directories of a session's root that something is mounted on.
const PLACES: [&CStr; 5] = [c"target", c"proc", c"sys", c"dev", c"etc"];

/// Begins a session at `target`: returns when its program runs. From here on the kernel reaps the children of the calling
/// process, which should be one that exists for the session.
///
/// # Errors
/// Whatever keeps the session from being confined as its target is, or its program from running. Nothing is left then.
pub fn attach(target: &Target, tools: &Tools<'_>, wish: Wish) -> Result<Running> {
    let caller = Caller::of_this_process();
    // Before anything is asked of a target that may stand still.
    let Membership { tasks, group, told } = target.membership()?;
    let confinement = match caller {
        Caller::Root => target.confinement(wish.privileges)?,
        Caller::Ordinary => target.numbered_inside(target.confinement(wish.privileges)?)?,
    };
    let plan = plan(target, wish.arrangement, caller)?;
    let view = target.view()?;
    let proc = proc(target, &view.options, wish.trust, caller)?;
    let command = command(target, &wish)?;
    let words = words(&command, &plan, &view.covers);
    let recipe = Recipe::of(tools, target, &plan)?;
    let tools = match caller {
        Caller::Root => ToolsMount::Ready(recipe.mount_now(&plan)?),
        Caller::Ordinary => ToolsMount::Later(recipe),
    };
    let (streams, terminal) = match wish.stdio {
        Stdio::Pipes { stdin, stdout, stderr } => (Some(Streams::Three([stdin, stdout, stderr])), None),
        Stdio::Pty { size } => (None, Some(size)),
    };
    let controlling = if terminal.is_some() { Controlling::Terminal } else { Controlling::Nothing };
    let line = Line::new()?;
    let label = target.label()?;
    let working_directory = command.working_directory().to_owned();
    let steward = Steward::compile(command, &confinement, label.as_deref(), &line, controlling)?;
    let script = Script {
        first: caller.first(),
        tasks,
        membership: told,
        oom_score: target.oom_score()?,
        root: Root {
            namespaces: target.namespaces,
            target: target.pidfd(),
            target_root: target.root.as_fd(),
            tools,
            proc,
            plan,
            terminal,
            covers: Covers { access: view.access, options: view.options, covers: view.covers },
        },
        program: Program {
            // An ordinary user has entered it before, as nothing could be mounted without.
            users: target.user_namespace().filter(|_| caller == Caller::Root),
            group_change: caller.group_change(target),
            limits: target.limits()?,
            working_directory,
            streams,
            confinement,
        },
        steward,
    };
    sys::signal::reap_automatically()
        .map_err(|cause| Error::Kernel { what: "preparing to make the session".to_owned(), cause })?;
    let has_clock = target.namespaces.contains(Namespaces::TIME);
    let memory = if has_clock { Memory::Copied } else { Memory::Shared };
    let usher = |line: &Line| match script.usher(line) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    Ok(container::send_in(group.as_ref().map(AsFd::as_fd), memory, line, &words, usher)?)
}

/// The session's `/proc`. Root mounts it here, where no process of the target's need see that. Where the kernel does not let
/// it, a privileged process must do it inside, and that must not be one that the target can take over.
fn proc(target: &Target, options: &[(CString, CString)], trust: Trust, caller: Caller) -> Result<ProcMount> {
    let namespace = target.pid_namespace()?;
    if caller == Caller::Ordinary {
        return Ok(ProcMount::Later(namespace));
    }
    match new_proc_of(namespace.as_fd(), options, root::SAFE) {
        Ok(mount) => Ok(ProcMount::Ready(mount)),
        Err(Errno::INVAL) => {
            let takes_over = target.users.is_none() && could_take_over(&target.status);
            match takes_over && trust == Trust::Hostile {
                true => Err(Error::Distrusted(target.name().to_owned())),
                false => Ok(ProcMount::Later(namespace)),
            }
        }
        Err(cause) => Err(Error::Kernel { what: "mounting the session's /proc".to_owned(), cause }),
    }
}

/// Who attaches. Root does all of it with the host's privileges; an ordinary user has none but in the target's user
/// namespace, and must enter that first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    Root,
    Ordinary,
}

impl Caller {
    fn of_this_process() -> Self {
        if rustix::process::geteuid().is_root() { Self::Root } else { Self::Ordinary }
    }

    /// Root sets groups before it enters the target's user namespace, which may forbid that.
    fn group_change(self, target: &Target) -> GroupChange {
        match self {
            Self::Ordinary if !target.may_set_groups() => GroupChange::Leave,
            Self::Root | Self::Ordinary => GroupChange::Set,
        }
    }

    const fn first(self) -> Namespaces {
        match self {
            Self::Root => Namespaces::empty(),
            Self::Ordinary => Namespaces::USER,
        }
    }
}

fn plan(target: &Target, arrangement: Arrangement, caller: Caller) -> Result<RootPlan> {
    match (arrangement, caller) {
        (Arrangement::ToolboxAsRoot, _) => Ok(RootPlan::Toolbox(present(target))),
        (Arrangement::TargetAsRoot, Caller::Root) => {
            let frame = Frame::of(target.root.as_fd());
            frame.map(RootPlan::Target).map_err(|cause| target.failed("listing the root directory", cause))
        }
        (Arrangement::TargetAsRoot, Caller::Ordinary) => {
            let why = "only root can make the target's file system the root of a session (--swap)".to_owned();
            Err(Error::Unmatched { target: target.name().to_owned(), why })
        }
    }
}

fn command(target: &Target, wish: &Wish) -> Result<Command> {
    // With more privileges than the target, nothing that it says is heeded: variables make many programs run commands.
    let theirs = match wish.privileges {
        Privileges::AsTarget => target.environment()?,
        Privileges::Tracing => Vec::new(),
    };
    let environment =
        environment::compose(&theirs, &wish.image_env, &wish.env, wish.terminal.as_deref(), wish.arrangement);
    let cwd = wish.cwd.as_ref().map_or(&b"/"[..], |it| it.as_os_str().as_encoded_bytes());
    let cwd = CString::new(cwd).unwrap_or_else(|_| c"/".to_owned());
    Ok(Command::compile(wish.command.clone(), environment, cwd)?)
}

/// How the root of a session is mounted: the tools, with a scratch layer in memory above that has the places where things
/// will be mounted.
#[derive(Debug)]
pub(crate) struct Recipe<'a> {
    root: Base<'a>,
    places: &'static [&'static CStr],
    files: Vec<&'static CStr>,
    /// Root of the target, when that is not the caller's.
    owner: Option<(u32, u32)>,
}

/// What the scratch layer lies above.
#[derive(Debug)]
enum Base<'a> {
    Stored(ScratchRoot),
    Lazy(&'a Lazy),
}

impl<'a> Recipe<'a> {
    fn of(tools: &Tools<'a>, target: &Target, plan: &RootPlan) -> Result<Self> {
        let (places, files) = match plan {
            RootPlan::Toolbox(files) => (PLACES.as_slice(), files.clone()),
            RootPlan::Target(_) => ([c"launch"].as_slice(), Vec::new()),
        };
        let is_root = rustix::process::geteuid().is_root();
        let owner = target.uids.outside(0).zip(target.gids.outside(0));
        let owner = owner.filter(|_| is_root && target.users.is_some());
        let root = match tools {
            Tools::Stored(rootfs) => Base::Stored(ScratchRoot::compile(rootfs, target.user_namespace())?),
            Tools::Lazy(lazy) => Base::Lazy(lazy),
        };
        Ok(Self { root, places, files, owner })
    }

    /// Mounts it nowhere yet. Fork-safe.
    pub(crate) fn mount(&self) -> sys::Result<Mounted> {
        let scratch = scratch(self.places, &self.files, self.owner)?;
        let root = match &self.root {
            Base::Stored(root) => root.mount(scratch.as_fd())?,
            Base::Lazy(lazy) => {
                let open = |name| rustix::fs::openat(&scratch, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
                let (upper, work) = (open(c"upper")?, open(c"work")?);
                lazy.overlay(Some(Scratch { upper: upper.as_fd(), work: work.as_fd() }))?
            }
        };
        // A toolbox brings programs that its target never had: none of them may raise privileges.
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        set_attributes(&root, attributes, Reach::One)?;
        let image = match &self.root {
            Base::Stored(root) => root.image().map(|it| rustix::io::fcntl_dupfd_cloexec(it, 0)).transpose()?,
            Base::Lazy(_) => None,
        };
        Ok(Mounted { root, scratch, image })
    }

    fn mount_now(&self, plan: &RootPlan) -> Result<Mounted> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |cause| Error::Kernel { what, cause }
        };
        let mounted = self.mount().map_err(failed("mounting the toolbox"))?;
        if matches!(plan, RootPlan::Target(_)) {
            swap::make_launchers(mounted.root.as_fd())
                .map_err(failed("making the toolbox's programs run in the target"))?;
        }
        Ok(mounted)
    }
}

/// A file system in memory: the directories `upper` and `work`, with the mount points of a session, owned by root of the
/// target, and beside them what hides parts of `/proc`. Fork-safe.
fn scratch(places: &[&CStr], files: &[&CStr], owner: Option<(u32, u32)>) -> sys::Result<OwnedFd> {
    let scratch = new_file_system(c"tmpfs", &[(c"mode", c"0755")], MountAttrFlags::empty())?;
    let directory = |parent: BorrowedFd<'_>, name: &CStr| -> sys::Result<()> {
        rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
        own(parent, name, owner)
    };
    directory(scratch.as_fd(), c"work")?;
    directory(scratch.as_fd(), c"upper")?;
    root::make_nothing(scratch.as_fd())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let upper = rustix::fs::openat(&scratch, c"upper", flags, Mode::empty())?;
    for place in places {
        directory(upper.as_fd(), place)?;
    }
    for file in files {
        rustix::fs::mknodat(&upper, *file, FileType::RegularFile, Mode::from_raw_mode(0o644), 0)?;
        own(upper.as_fd(), file, owner)?;
    }
    Ok(scratch)
}

fn own(parent: BorrowedFd<'_>, name: &CStr, owner: Option<(u32, u32)>) -> sys::Result<()> {
    let Some((uid, gid)) = owner else { return Ok(()) };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(parent, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags)
}

/// Which of [`FILES`] the target has, as plain files.
fn present(target: &Target) -> Vec<&'static CStr> {
    let is_file = |path: &&CStr| open_file(target.root.as_fd(), path).is_ok();
    FILES.into_iter().filter(is_file).collect()
}

/// What goes with [`Script`]'s mounts, in the same order.
pub(crate) fn words(command: &Command, plan: &RootPlan, covers: &[(CString, crate::view::Cover)]) -> Words {
    let (fixed, more): (_, Vec<&CStr>) = match plan {
        RootPlan::Toolbox(files) => (["/target", "/proc", "/sys", "/dev", "/dev/pts"], files.clone()),
        RootPlan::Target(frame) => (
            ["/toolbox", "/proc", "/", "/dev", "/dev/pts"],
            frame.entries.iter().map(|it| it.name.as_c_str()).collect(),
        ),
    };
    let fixed = fixed.map(str::to_owned);
    let files = more.iter().map(|it| format!("/{}", it.to_string_lossy()));
    let covers = covers.iter().map(|(path, _)| format!("/proc/{}", path.to_string_lossy()));
    Words { command: command.name(), mounts: fixed.into_iter().chain(files).chain(covers).collect() }
}
