//! A process to attach to, with everything that the kernel tells of it.
//!
//! **The process cannot be mistaken for a later one with its number**: everything is read through a descriptor of its
//! directory in `/proc`, which stops working when the process ends, and a pidfd is opened before.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use model::NewPrivileges;
use rustix::fs::{CWD, Mode, OFlags};
use sys::Errno;
use sys::capability::CapabilitySet;
use sys::cgroup::Version;
use sys::namespace::{self, Namespaces};
use sys::seccomp::Instruction;

use crate::confinement::{Confinement, Privileges, Unmatched};
use crate::error::{Error, Result};
use crate::facts::{self, IdMap, Limit, SeccompMode, Status};
use crate::view::View;

/// What is read of one file of `/proc` at most; they are kilobytes.
const MAX_FILE: u64 = 16 << 20;

/// A process to attach to.
#[derive(Debug)]
pub struct Target {
    name: String,
    pid: u32,
    pidfd: OwnedFd,
    files: ProcFiles,
    pub(crate) root: OwnedFd,
    pub(crate) status: Status,
    /// Which of its namespaces, the pid and user ones aside, are not the caller's.
    pub(crate) namespaces: Namespaces,
    /// Its user namespace, when that is not the caller's.
    pub(crate) users: Option<OwnedFd>,
    pub(crate) uids: IdMap,
    pub(crate) gids: IdMap,
    filters: Filters,
    /// When it is not the process's own.
    environment: Option<Vec<u8>>,
}

/// What a program would run with that has not been started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unstarted {
    /// Its capabilities.
    pub capabilities: CapabilitySet,
    /// Whether an executed file may raise privileges.
    pub new_privileges: NewPrivileges,
    /// Its system call filters.
    pub filters: Vec<Vec<Instruction>>,
    /// `NAME=value` pairs.
    pub env: Vec<String>,
}

/// Where a target's system call filters are known from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filters {
    /// The kernel shows them to a privileged tracer.
    OfKernel,
    /// Whoever installed them knows.
    Known(Vec<Vec<Instruction>>),
}

/// How to get into the control groups of a target.
///
/// A process joins at once by a thread that writes itself to `tasks` (version 1) or by being made in the group (version
/// 2). Writing to `cgroup.procs` would do for both, but makes the kernel wait until no process of the machine is in the
/// middle of a fork: 5 to 20 ms, measured, and so much longer than all the rest.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) tasks: Vec<OwnedFd>,
    pub(crate) group: Option<OwnedFd>,
    /// What `/proc/self/cgroup` says of whoever is in all of them.
    pub(crate) told: Vec<u8>,
}

impl Target {
    /// The process `pid`, which people call `name`, and which began at `began` (in clock ticks since the machine did) if
    /// that is known.
    ///
    /// # Errors
    /// [`Error::NotRunning`] when there is no such process; [`Error::Kernel`] when it may not be looked at.
    pub fn open(name: &str, pid: u32, began: Option<u64>, filters: Filters) -> Result<Self> {
        let gone = || Error::NotRunning(name.to_owned());
        let pidfd = sys::process::open(pid).map_err(|_| gone())?;
        let files = ProcFiles::open(pid).map_err(|_| gone())?;
        let failed = |what: &str| {
            let what = format!("reading {what} of {name} (process {pid})");
            move |cause| {
                if cause == Errno::SRCH { Error::NotRunning(name.to_owned()) } else { Error::Kernel { what, cause } }
            }
        };
        let status = Status::parse(&files.text("status").map_err(failed("the state"))?).ok_or_else(gone)?;
        let root = files.directory("root").map_err(failed("the root directory"))?;
        let mut kinds = Namespaces::empty();
        let further = [(Namespaces::TIME, "time")];
        for (kind, link) in Namespaces::NAMED.into_iter().chain(further) {
            match namespace::shares(pid, link) {
                Ok(false) if kind != Namespaces::PID => kinds = kinds.and(kind),
                Ok(_) => {}
                // A kernel without time namespaces has no such link, of nobody.
                Err(Errno::NOENT) if kind == Namespaces::TIME => {}
                // What cannot be read is not taken for the caller's own.
                Err(cause) => return Err(failed("the namespaces")(cause)),
            }
        }
        let users = kinds.contains(Namespaces::USER).then(|| files.open_file("ns/user"));
        let users = users.transpose().map_err(failed("the user namespace"))?;
        let map = |file: &str| files.text(file).map(|text| IdMap::parse(&text)).map_err(failed("the map of users"));
        let (uids, gids) = match users {
            Some(_) => (map("uid_map")?, map("gid_map")?),
            // Read from inside, the file of one's own user namespace tells the numbers of the one above.
            None => (IdMap::identity(), IdMap::identity()),
        };
        let namespaces = kinds.without(Namespaces::USER);
        // If it lives still, then what was read by its number was its own.
        let same = began.is_none_or(|began| sys::process::start_time(pid) == Ok(began));
        if !same || sys::process::has_ended(&pidfd).map_err(failed("the end"))? {
            return Err(gone());
        }
        Ok(Self {
            name: name.to_owned(),
            pid,
            pidfd,
            files,
            root,
            status,
            namespaces,
            users,
            uids,
            gids,
            filters,
            environment: None,
        })
    }

    /// The surroundings of a program that has not been started: `pid` is a process that stands in them, as root, without
    /// any confinement. A session there runs as their root, confined as the program would be.
    ///
    /// # Errors
    /// As [`Target::open`].
    pub fn open_unstarted(name: &str, pid: u32, program: Unstarted) -> Result<Self> {
        let mut target = Self::open(name, pid, None, Filters::OfKernel)?;
        let root = |map: &IdMap| map.outside(0).unwrap_or(0);
        target.status = Status {
            uid: root(&target.uids),
            gid: root(&target.gids),
            groups: Vec::new(),
            umask: 0o022,
            tracer: 0,
            inheritable: CapabilitySet(0),
            effective: program.capabilities,
            bounding: program.capabilities,
            no_new_privileges: program.new_privileges == NewPrivileges::Never,
            seccomp: if program.filters.is_empty() { SeccompMode::Off } else { SeccompMode::Filter },
            filters: Some(program.filters.len()),
        };
        target.filters = Filters::Known(program.filters);
        // What that process was executed with is none of a session's business.
        target.environment = Some(program.env.join("\0").into_bytes());
        Ok(target)
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number on the host.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A handle to it; polls readable when it ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Its user namespace, when that is not the caller's.
    pub fn user_namespace(&self) -> Option<BorrowedFd<'_>> {
        self.users.as_ref().map(AsFd::as_fd)
    }

    /// Its pid namespace, as a file.
    pub(crate) fn pid_namespace(&self) -> Result<OwnedFd> {
        self.files.open_file("ns/pid").map_err(|cause| self.failed("opening the pid namespace", cause))
    }

    /// Its confinement, for a session with those privileges.
    pub(crate) fn confinement(&self, privileges: Privileges) -> Result<Confinement> {
        let needed = self.status.seccomp == SeccompMode::Filter && privileges == Privileges::AsTarget;
        let filters = if needed { self.filters()? } else { Vec::new() };
        let root = self.uids.outside(0);
        Confinement::of(&self.status, root, filters, privileges).map_err(|unmatched| self.unmatched(unmatched))
    }

    /// The confinement as an ordinary user brings it about: from inside the target's user namespace.
    pub(crate) fn numbered_inside(&self, confinement: Confinement) -> Result<Confinement> {
        let unmatched = |why: &str| Error::Unmatched { target: self.name.clone(), why: why.to_owned() };
        if self.users.is_none() {
            return Err(unmatched("only root can attach to what has no user namespace of its own"));
        }
        confinement
            .numbered_inside(&self.uids, &self.gids)
            .ok_or_else(|| unmatched("its user does not exist in its user namespace"))
    }

    fn filters(&self) -> Result<Vec<Vec<Instruction>>> {
        match &self.filters {
            Filters::Known(filters) if self.status.filters.is_none_or(|told| told == filters.len()) => {
                Ok(filters.clone())
            }
            // It installed further ones itself.
            Filters::Known(_) | Filters::OfKernel => sys::ptrace::filters(self.pid).map_err(|cause| Error::Filters {
                target: self.name.clone(),
                tracer: Some(self.status.tracer).filter(|it| *it != 0),
                cause,
            }),
        }
    }

    fn unmatched(&self, unmatched: Unmatched) -> Error {
        let why = match unmatched {
            Unmatched::StrictSeccomp => "it may do nothing but read, write and exit".to_owned(),
            Unmatched::Filters { told, found } => {
                format!("it is under {told} system call filters, and {found} were found")
            }
        };
        Error::Unmatched { target: self.name.clone(), why }
    }

    /// How to get into its control groups.
    pub(crate) fn membership(&self) -> Result<Membership> {
        let read = |path: &str| std::fs::read(path).map_err(|error| Error::system(format!("reading {path}"), &error));
        let told = self.files.bytes("cgroup").map_err(|cause| self.failed("reading the control groups", cause))?;
        let places = sys::cgroup::to_join(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?, &told);
        let places = places.map_err(|line| Error::Unmatched {
            target: self.name.clone(),
            why: format!("its control group '{line}' is in no hierarchy that is mounted here"),
        })?;
        let open = |path: &Path, flags: OFlags| {
            rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())
                .map_err(|cause| self.failed(&format!("opening the control group {}", path.display()), cause))
        };
        let mut membership = Membership { tasks: Vec::new(), group: None, told };
        for (version, place) in places {
            // Whoever joins a group that stands still does so, too, and nobody could end the session.
            if stands_still(version, &place) {
                return Err(Error::Paused(self.name.clone()));
            }
            match version {
                Version::V1 => membership.tasks.push(open(&place.join("tasks"), OFlags::WRONLY)?),
                Version::V2 => membership.group = Some(open(&place, OFlags::PATH | OFlags::DIRECTORY)?),
            }
        }
        Ok(membership)
    }

    /// What of the new `/proc` of a session is covered.
    pub(crate) fn view(&self) -> Result<View> {
        let mounts = self.files.bytes("mountinfo").map_err(|cause| self.failed("reading the mounts", cause))?;
        Ok(View::of(&sys::mountinfo::parse(&mounts)))
    }

    pub(crate) fn environment(&self) -> Result<Vec<u8>> {
        if let Some(environment) = &self.environment {
            return Ok(environment.clone());
        }
        self.files.bytes("environ").map_err(|cause| self.failed("reading the environment", cause))
    }

    pub(crate) fn limits(&self) -> Result<Vec<Limit>> {
        let text = self.files.text("limits").map_err(|cause| self.failed("reading the resource limits", cause))?;
        Ok(facts::limits(&text))
    }

    /// How willing the kernel is to kill it for memory, as text.
    pub(crate) fn oom_score(&self) -> Result<Vec<u8>> {
        self.files
            .bytes("oom_score_adj")
            .map_err(|cause| self.failed("reading the score for running out of memory", cause))
    }

    /// What must be written to `/proc/self/attr/exec` for a program to get its label; nothing where no module labels
    /// processes, or this one is not confined by a label.
    pub(crate) fn label(&self) -> Result<Option<CString>> {
        let text = match self.files.text("attr/current") {
            Err(Errno::INVAL | Errno::NOENT | Errno::OPNOTSUPP) => return Ok(None),
            other => other.map_err(|cause| self.failed("reading the security label", cause))?,
        };
        let label = text.trim_end_matches(['\0', '\n']);
        let apparmor = Path::new("/proc/self/attr/apparmor").exists();
        Ok(label_request(label, apparmor))
    }

    /// Whether groups can be set in its user namespace.
    pub(crate) fn may_set_groups(&self) -> bool {
        self.users.is_none() || !self.files.text("setgroups").is_ok_and(|text| text.trim() == "deny")
    }

    pub(crate) fn failed(&self, what: &str, cause: Errno) -> Error {
        match cause {
            Errno::SRCH => Error::NotRunning(self.name.clone()),
            cause => Error::Kernel { what: format!("{what} of {}", self.name), cause },
        }
    }
}

/// Whether the processes of a control group are stopped, by it or by one above it.
fn stands_still(version: Version, group: &Path) -> bool {
    let read = |file: &str| std::fs::read_to_string(group.join(file)).unwrap_or_default();
    match version {
        Version::V1 => ["FROZEN", "FREEZING"].contains(&read("freezer.state").trim()),
        Version::V2 => read("cgroup.events").lines().any(|it| it == "frozen 1"),
    }
}

/// AppArmor takes `exec PROFILE` and shows `PROFILE (MODE)`; SELinux shows and takes a context.
fn label_request(label: &str, apparmor: bool) -> Option<CString> {
    if label.is_empty() || label == "unconfined" || label == "kernel" {
        return None;
    }
    let request = match label.rsplit_once(" (") {
        Some((profile, _)) if apparmor => format!("exec {profile}"),
        None if apparmor => format!("exec {label}"),
        _ => label.to_owned(),
    };
    CString::new(request).ok()
}

/// The directory of one process in `/proc`.
#[derive(Debug)]
struct ProcFiles(OwnedFd);

impl ProcFiles {
    fn open(pid: u32) -> sys::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, format!("/proc/{pid}"), flags, Mode::empty()).map(Self)
    }

    fn open_file(&self, name: &str) -> sys::Result<OwnedFd> {
        rustix::fs::openat(&self.0, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    }

    fn directory(&self, name: &str) -> sys::Result<OwnedFd> {
        rustix::fs::openat(&self.0, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    }

    fn bytes(&self, name: &str) -> sys::Result<Vec<u8>> {
        let file = File::from(self.open_file(name)?);
        let mut bytes = Vec::with_capacity(8 << 10);
        let read = file.take(MAX_FILE).read_to_end(&mut bytes);
        read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok(bytes)
    }

    fn text(&self, name: &str) -> sys::Result<String> {
        self.bytes(name).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_asked_for_as_each_module_takes_them() {
        let check = |label, apparmor, expected: Option<&std::ffi::CStr>| {
            assert_eq!(label_request(label, apparmor).as_deref(), expected, "{label}");
        };
        check("", true, None);
        check("unconfined", true, None);
        check("docker-default (enforce)", true, Some(c"exec docker-default"));
        check("a b//c (complain)", true, Some(c"exec a b//c"));
        check("system_u:system_r:container_t:s0:c1,c2", false, Some(c"system_u:system_r:container_t:s0:c1,c2"));
    }

    #[test]
    fn groups_that_stand_still_are_told_by_either_version() {
        let group = tempfile::tempdir().unwrap();
        let check = |version, file: &str, text: &str, expected| {
            std::fs::write(group.path().join(file), text).unwrap();
            assert_eq!(stands_still(version, group.path()), expected, "{text}");
        };
        assert!(!stands_still(Version::V1, group.path()) && !stands_still(Version::V2, group.path()));
        check(Version::V1, "freezer.state", "THAWED\n", false);
        check(Version::V1, "freezer.state", "FREEZING\n", true);
        check(Version::V1, "freezer.state", "FROZEN\n", true);
        check(Version::V2, "cgroup.events", "populated 1\nfrozen 0\n", false);
        check(Version::V2, "cgroup.events", "populated 1\nfrozen 1\n", true);
    }

    #[test]
    fn a_process_that_is_not_there_is_said_not_to_run() {
        let error = Target::open("web", u32::MAX, None, Filters::OfKernel).unwrap_err();
        assert_eq!(error.to_string(), "web does not run");
    }

    #[test]
    fn a_process_of_this_machine_is_read_whole() {
        let pid = std::process::id();
        let target = Target::open("own", pid, None, Filters::OfKernel).unwrap();
        assert_eq!(target.namespaces, Namespaces::empty());
        assert!(target.users.is_none() && target.may_set_groups());
        assert!(target.environment().unwrap().windows(5).any(|it| it == b"PATH="));
        let membership = target.membership().unwrap();
        assert!(Target::open("own", pid, Some(1), Filters::OfKernel).is_err(), "another one had that number");
        assert!(membership.tasks.is_empty() && membership.group.is_none());
        assert_eq!(membership.told, std::fs::read("/proc/self/cgroup").unwrap());
    }
}
