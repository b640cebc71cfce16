//! The session's program, between the steward's fork and its own execution: it gives up everything that the target lacks.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};

use container::{Command, Failure, Stage, Streams};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::Rlimit;
use sys::exec::{self, GroupChange};
use sys::namespace::{self, Namespaces};
use sys::{Errno, capability};

use crate::confinement::Confinement;
use crate::facts::Limit;

type Done<T> = std::result::Result<T, Failure>;

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

impl Program<'_> {
    /// Becomes the program, in the steward's memory. Returns only when that failed. Fork-safe.
    pub(crate) fn become_it(&self, streams: &Streams) -> Done<Infallible> {
        exec::die_with_parent().map_err(|errno| Stage::Handshake.fail(errno))?;
        // Nothing of the host must be open when paths of the target are followed.
        match &self.users {
            Some(users) => streams.connect(self.confinement.uid, &[users.as_fd()])?,
            None => streams.connect(self.confinement.uid, &[])?,
        }
        let _ = rustix::process::umask(Mode::from_raw_mode(self.confinement.umask));
        self.set_limits()?;
        self.change_user()?;
        let capabilities = |errno| Stage::Capabilities.fail(errno);
        // Paths are followed with no more privileges than the target has.
        capability::use_only(self.confinement.effective).map_err(capabilities)?;
        exec::enter_directory(self.command.working_directory()).map_err(|errno| Stage::WorkingDirectory.fail(errno))?;
        capability::use_permitted().map_err(capabilities)?;
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
        // Changing users made the kernel forget both.
        exec::hide().map_err(fail)?;
        exec::die_with_parent().map_err(fail)
    }

    /// Capabilities, label, filters. The permitted set stays full until `execve`, which computes it anew from the bounding
    /// and the ambient set; so nothing need be done under the filters but to give up what is effective, where that could
    /// not be done before, and to execute.
    fn restrict(&self) -> Done<()> {
        let capabilities = |errno| Stage::Capabilities.fail(errno);
        capability::bound(self.confinement.bounding).map_err(capabilities)?;
        let Confinement { inheritable, ambient, .. } = self.confinement;
        capability::hand_on(inheritable, ambient).map_err(capabilities)?;
        if let Some(label) = &self.label {
            let fail = |errno| Stage::Label.fail(errno);
            let file =
                rustix::fs::openat(CWD, c"/proc/self/attr/exec", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
            rustix::io::write(file.map_err(fail)?, label.to_bytes()).map_err(fail)?;
        }
        let install = |filter: &Vec<_>| sys::seccomp::install(filter);
        let install =
            || self.confinement.filters.iter().try_for_each(install).map_err(|errno| Stage::Seccomp.fail(errno));
        let effective = || capability::use_only(self.confinement.effective).map_err(capabilities);
        if self.confinement.no_new_privileges {
            exec::no_new_privileges().map_err(|errno| Stage::NewPrivileges.fail(errno))?;
            effective()?;
            install()
        } else {
            // Installing takes a privilege then; a filter that does not let it be given up lets no session begin.
            install()?;
            effective()
        }
    }
}
