//! A program about to be executed: everything that the last process before it does to itself, compiled beforehand.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};

use model::{Capability, Degraded, NewPrivileges, Process, Security, StartStep, Watch};
use rustix::fs::{Mode, OFlags};
use sys::capability::{self, CapabilitySet};
use sys::exec::{self, GroupChange};
use sys::fork;
use sys::process::Ended;
use sys::seccomp::Instruction;

use crate::command::{Command, DEFAULT_PATH, Streams};
use crate::error::{Error, Result};
use crate::plan::{Acts, Body, Inhabitant, Resident};
use crate::protocol::{Failure, Report, Stage, report};
use crate::seccomp::{self, Refusal};
use crate::users::Identity;

/// A program and all that it starts with.
pub(crate) struct Program {
    command: Command,
    identity: Identity,
    group_change: GroupChange,
    capabilities: CapabilitySet,
    new_privileges: NewPrivileges,
    filter: Option<Filter>,
    body: Body,
}

struct Filter {
    instructions: Vec<Instruction>,
    listener: Listener,
}

/// Whether the filter announces calls.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Listener {
    None,
    Told,
}

impl Program {
    /// Compiles `process`, to run as `identity` under `security`.
    pub(crate) fn compile(
        process: &Process,
        security: &Security,
        identity: Identity,
        group_change: GroupChange,
        watch: Watch,
        body: Body,
    ) -> Result<Self> {
        let text = |it: &str| {
            CString::new(it).map_err(|_| {
                Error::refused(StartStep::CommandNotExecutable, "compiling the command", "it holds a zero byte")
            })
        };
        let mut environment = process.env.clone();
        let has = |name: &str| process.env.iter().any(|it| it.split_once('=').is_some_and(|(key, _)| key == name));
        if !has("PATH") {
            environment.push(format!("PATH={DEFAULT_PATH}"));
        }
        if !has("HOME") {
            environment.push(format!("HOME={}", identity.home));
        }
        if !has("TERM") && process.terminal == model::Terminal::Pty {
            environment.push("TERM=xterm".to_owned());
        }
        let texts = |strings: &[String]| strings.iter().map(|it| text(it)).collect::<Result<Vec<_>>>();
        let working_directory = text(&process.cwd.to_string_lossy())?;
        Ok(Self {
            command: Command::compile(texts(&process.argv)?, texts(&environment)?, working_directory)?,
            group_change,
            capabilities: capabilities_of(security),
            new_privileges: security.new_privileges,
            filter: filter(security, watch),
            identity,
            body,
        })
    }

    /// Becomes the program. Returns only when that failed. Fork-safe.
    pub(crate) fn become_it(
        &self,
        streams: &Streams,
        control: BorrowedFd<'_>,
    ) -> std::result::Result<Infallible, Failure> {
        self.approach(streams, control, control)?;
        self.arrive(control)
    }

    /// What can be done before the cell's root is there: takes its streams, and closes all else but `control`, `signal` and what
    /// it needs. Fork-safe.
    pub(crate) fn approach(
        &self,
        streams: &Streams,
        control: BorrowedFd<'_>,
        signal: BorrowedFd<'_>,
    ) -> std::result::Result<(), Failure> {
        match &self.body {
            Body::Command => streams.connect(self.identity.uid, &[control, signal]),
            Body::Resident(resident) => {
                let [a, b, c, d, e, f, g, h] = resident.keeps().map(|it| it.unwrap_or(control));
                streams.connect(self.acting().uid, &[control, signal, a, b, c, d, e, f, g, h])?;
                resident.begin();
                Ok(())
            }
        }
    }

    /// Becomes the program once it has approached it. Returns only when that failed. Fork-safe.
    pub(crate) fn arrive(&self, control: BorrowedFd<'_>) -> std::result::Result<Infallible, Failure> {
        if let Body::Resident(resident) = &self.body {
            resident.prepare();
        }
        own_null_devices().map_err(|errno| Stage::Streams.fail(errno))?;
        let _ = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        self.confine(control)?;
        match &self.body {
            Body::Command => self.command.execute(),
            Body::Resident(resident) => self.let_live(resident.as_ref(), control),
        }
    }

    /// Whether it becomes the program by executing it: else it needs memory of its own.
    pub(crate) fn executes(&self) -> bool {
        matches!(self.body, Body::Command)
    }

    fn let_live(&self, resident: &dyn Resident, control: BorrowedFd<'_>) -> std::result::Result<Infallible, Failure> {
        let path = self.command.find()?;
        report(control, Report::Started, &[]).map_err(|errno| Stage::Handshake.fail(errno))?;
        exec::close_for_good(control);
        let ended = resident.live(&Inhabitant {
            path,
            arguments: self.command.arguments(),
            environment: self.command.environment(),
            working_directory: self.command.working_directory(),
            uid: self.identity.uid,
            gid: self.identity.gid,
            groups: &self.identity.groups,
        });
        match ended {
            Ended::Code(code) => fork::exit_now(code),
            Ended::Signal(signal) => sys::signal::die_of(signal),
        }
    }

    /// Who this process becomes.
    fn acting(&self) -> &Identity {
        static ROOT: Identity = Identity { uid: 0, gid: 0, groups: Vec::new(), home: String::new() };
        match &self.body {
            Body::Resident(resident) if resident.acts() == Acts::AsRoot => &ROOT,
            _ => &self.identity,
        }
    }

    fn confine(&self, control: BorrowedFd<'_>) -> std::result::Result<(), Failure> {
        // What skep lacks itself it cannot give; whoever prepared the cell has reported it.
        let own = capability::effective().map_err(|errno| Stage::Capabilities.fail(errno))?;
        let capabilities = self.capabilities.both(own);
        capability::bound(capabilities).map_err(|errno| Stage::Capabilities.fail(errno))?;
        let privileged_filter = self.new_privileges == NewPrivileges::Allowed;
        if privileged_filter {
            // Without no-new-privileges only somebody privileged may install a filter, so it comes before all is dropped.
            self.install_filter(control)?;
        }
        let acting = self.acting();
        exec::become_user(acting.uid, acting.gid, &acting.groups, self.group_change)
            .map_err(|errno| Stage::Identity.fail(errno))?;
        // Changing users made the kernel forget it. (It forgets again when a program that gains privileges by its file is
        // executed: then only the cell's control groups, or its process 1, take the program with them.)
        exec::die_with_parent().map_err(|errno| Stage::Identity.fail(errno))?;
        exec::enter_directory(self.command.working_directory()).map_err(|errno| Stage::WorkingDirectory.fail(errno))?;
        if acting.uid == 0 {
            capability::set(capabilities).map_err(|errno| Stage::Capabilities.fail(errno))?;
        }
        capability::clear_ambient().map_err(|errno| Stage::Capabilities.fail(errno))?;
        if !privileged_filter {
            exec::no_new_privileges().map_err(|errno| Stage::NewPrivileges.fail(errno))?;
            self.install_filter(control)?;
        }
        Ok(())
    }

    fn install_filter(&self, control: BorrowedFd<'_>) -> std::result::Result<(), Failure> {
        let fail = |errno| Stage::Seccomp.fail(errno);
        match &self.filter {
            None => Ok(()),
            Some(Filter { instructions, listener: Listener::None }) => {
                sys::seccomp::install(instructions).map_err(fail)
            }
            Some(Filter { instructions, listener: Listener::Told }) => {
                let listener = sys::seccomp::install_with_listener(instructions).map_err(fail)?;
                report(control, Report::Listener, &[listener.as_fd()]).map_err(fail)
            }
        }
    }

    /// What is left of our own process 1 once the program runs: it needs to signal the program, whoever that runs as, and
    /// nothing else. Fork-safe.
    pub(crate) fn drop_to_reaper(&self) -> std::result::Result<(), Failure> {
        const KILL: CapabilitySet = CapabilitySet(1 << 5);
        let fail = |errno| Stage::Capabilities.fail(errno);
        capability::bound(CapabilitySet(0)).map_err(fail)?;
        capability::set(KILL).map_err(fail)?;
        exec::no_new_privileges().map_err(|errno| Stage::NewPrivileges.fail(errno))
    }

    /// The command as given, for messages.
    pub(crate) fn command(&self) -> String {
        self.command.name()
    }
}

/// Puts the cell's own null device in the place of the host's, where that is a standard stream: root of a cell could change
/// whose the host's is, and who may open it. In the cell's root. Fork-safe.
fn own_null_devices() -> sys::Result<()> {
    let null = rustix::fs::makedev(1, 3);
    let is_null = |fd: BorrowedFd<'_>| {
        rustix::fs::fstat(fd).is_ok_and(|it| {
            rustix::fs::FileType::from_raw_mode(it.st_mode) == rustix::fs::FileType::CharacterDevice
                && it.st_rdev == null
        })
    };
    let standard = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    if !standard.iter().any(|it| is_null(*it)) {
        return Ok(());
    }
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let own = rustix::fs::open(c"/dev/null", flags, Mode::empty())?;
    if !is_null(own.as_fd()) {
        return Err(sys::Errno::NODEV);
    }
    let with = standard.map(|it| if is_null(it) { own.as_fd() } else { it });
    exec::set_stdio(with)
}

/// The capabilities that programs under `security` have, as the kernel's set.
pub fn capabilities_of(security: &Security) -> CapabilitySet {
    CapabilitySet(security.capabilities.iter().fold(0, |set, it| set | 1u64 << it.number()))
}

/// The capabilities that a cell in skep's own user namespace is to have and skep cannot give: it lacks them itself, as in
/// a container of another engine.
pub(crate) fn ungivable(security: &Security) -> Result<Vec<Degraded>> {
    let own = capability::effective()
        .map_err(|errno| Error::start(StartStep::Security, "reading the capabilities of skep itself", errno))?;
    let lacking = security.capabilities.iter().filter(|it| !own.contains(it.number()));
    let report = |it: &Capability| Degraded {
        what: format!("capability {}", it.as_str()),
        why: "skep does not have it itself".to_owned(),
    };
    Ok(lacking.map(report).collect())
}

fn filter(security: &Security, watch: Watch) -> Option<Filter> {
    let refusal = match Refusal::of(security.seccomp) {
        None if watch == Watch::Nothing => return None,
        None => Refusal::Nothing,
        Some(refusal) => refusal,
    };
    let announces = watch != Watch::Nothing || refusal == Refusal::Announce;
    let listener = if announces { Listener::Told } else { Listener::None };
    Some(Filter { instructions: seccomp::compile(&security.capabilities, refusal, watch), listener })
}
