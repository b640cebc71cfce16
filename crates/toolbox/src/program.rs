//! What a session's program may do, brought about: the usher gives up everything that the target lacks, for the steward and
//! the program that come after it.

use std::ffi::CString;
use std::os::fd::BorrowedFd;

use container::{Failure, Line, Stage, Streams};
use rustix::fs::Mode;
use rustix::process::Rlimit;
use sys::Errno;
use sys::capability::{self, CapabilitySet};
use sys::exec::{self, GroupChange};
use sys::namespace::{self, Namespaces};

use crate::confinement::{Confinement, Installer};
use crate::facts::Limit;
use crate::steward::Steward;

type Done<T> = std::result::Result<T, Failure>;

/// What the steward has beyond the target: it is to end whatever its session has become.
const KILL: CapabilitySet = CapabilitySet(1 << 5);

/// All that the session's program starts with.
pub(crate) struct Program<'a> {
    pub(crate) users: Option<BorrowedFd<'a>>,
    pub(crate) group_change: GroupChange,
    pub(crate) confinement: Confinement,
    pub(crate) limits: Vec<Limit>,
    pub(crate) working_directory: CString,
    /// None when it gets a terminal.
    pub(crate) streams: Option<Streams>,
}

impl Program<'_> {
    /// Gives up what the program is not to have, all but what goes when the steward is executed. Fork-safe.
    pub(crate) fn confine(&self, streams: &Streams, steward: &Steward, line: &Line) -> Done<()> {
        // Nothing of the host must be open when paths of the target are followed.
        let mut keep = [line.control(); 5];
        let wanted = [Some(line.ending()), self.users].into_iter().chain(steward.files()).flatten();
        keep.iter_mut().skip(1).zip(wanted).for_each(|(slot, fd)| *slot = fd);
        streams.lay_out(self.confinement.uid, &keep)?;
        let _ = rustix::process::umask(Mode::from_raw_mode(self.confinement.umask));
        self.set_limits()?;
        self.change_user()?;
        let capabilities = |errno| Stage::Capabilities.fail(errno);
        // Paths are followed with no more privileges than the target has.
        capability::use_only(self.confinement.effective).map_err(capabilities)?;
        exec::enter_directory(&self.working_directory).map_err(|errno| Stage::WorkingDirectory.fail(errno))?;
        capability::use_permitted().map_err(capabilities)?;
        self.restrict()
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

    /// Capabilities and filters. The permitted set stays full until `execve`, which computes it anew from the bounding, the
    /// inheritable and the ambient set.
    fn restrict(&self) -> Done<()> {
        let capabilities = |errno| Stage::Capabilities.fail(errno);
        let Confinement { inheritable, ambient, bounding, effective, .. } = self.confinement;
        // The program gives it back. The bounding set need not have it for that, which is the program's for good.
        let kill = capability::effective().map_err(capabilities)?.both(KILL);
        let with_kill = |set: CapabilitySet| CapabilitySet(set.0 | kill.0);
        capability::hand_on(with_kill(inheritable), with_kill(ambient)).map_err(capabilities)?;
        capability::bound(bounding).map_err(capabilities)?;
        if self.confinement.installer() == Installer::Usher {
            let install = |filter: &Vec<_>| sys::seccomp::install(filter);
            self.confinement.filters.iter().try_for_each(install).map_err(|errno| Stage::Seccomp.fail(errno))?;
        }
        if self.confinement.no_new_privileges {
            exec::no_new_privileges().map_err(|errno| Stage::NewPrivileges.fail(errno))?;
        }
        capability::use_only(effective).map_err(capabilities)
    }
}
