//! What a session's program may do: what its target may, decided as plain data before any process is made.

use sys::capability::CapabilitySet;
use sys::seccomp::Instruction;

use crate::facts::{IdMap, SeccompMode, Status};

/// Whether a session has more privileges than its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privileges {
    /// The target's, no more.
    AsTarget,
    /// `SYS_PTRACE` besides, and no system call filter: for debuggers of a target that may not trace. Whoever controls the
    /// target may attack the tools that look at it, so this is asked for, told and noted.
    Tracing,
}

/// Whether a session may be made at a target that could take its processes over, on a kernel that needs a privileged
/// process in the target's sight (before Linux 6.17: to mount its `/proc`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Not at one that may trace processes of the caller's own user namespace.
    Hostile,
    /// At any.
    Trusted,
}

/// Whether whoever has that status could take over a process of root's that it sees, without being as good as root of the
/// host anyway.
pub(crate) const fn could_take_over(status: &Status) -> bool {
    status.effective.contains(19) && !status.effective.contains(SYS_ADMIN)
}

const SYS_ADMIN: u8 = 21;
const SYS_PTRACE: CapabilitySet = CapabilitySet(1 << 19);

/// The confinement of a session's program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Confinement {
    /// User and group ids as the caller numbers them.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) umask: u32,
    /// What the program is to have.
    pub(crate) effective: CapabilitySet,
    /// No program that is executed gets any other.
    pub(crate) bounding: CapabilitySet,
    /// What a file may ask for when it is executed.
    pub(crate) inheritable: CapabilitySet,
    /// What a program has that is not root's.
    pub(crate) ambient: CapabilitySet,
    pub(crate) no_new_privileges: bool,
    /// In the order of installation.
    pub(crate) filters: Vec<Vec<Instruction>>,
}

/// Who puts the session's program under its filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Installer {
    /// The program itself, at last.
    Program,
    /// The usher, and so for the steward, too: it takes a privilege that nobody has who is seen in the target. A filter
    /// that does not let a process be made, waited for and signalled lets no session begin, or end what is left of it.
    Usher,
}

/// Why a target cannot be matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unmatched {
    /// It may read, write and exit, and nothing else: no program could start.
    StrictSeccomp,
    /// It is under so many filters, and so many were found.
    Filters { told: usize, found: usize },
}

impl Confinement {
    /// The confinement of `status`, under `filters`. `root` is whom its user namespace calls user 0, if anybody.
    ///
    /// A program's effective capabilities shall be the target's. What a root program has after `execve` are those of the
    /// bounding set (`capabilities(7)`, "Transformation of capabilities during execve()"), so that is cut down; what any
    /// other program has are the ambient ones.
    pub(crate) fn of(
        status: &Status,
        root: Option<u32>,
        filters: Vec<Vec<Instruction>>,
        privileges: Privileges,
    ) -> Result<Self, Unmatched> {
        let more = match privileges {
            Privileges::AsTarget => CapabilitySet(0),
            Privileges::Tracing => SYS_PTRACE,
        };
        let filters = match (status.seccomp, privileges) {
            (SeccompMode::Strict, _) => return Err(Unmatched::StrictSeccomp),
            (SeccompMode::Off, _) | (SeccompMode::Filter, Privileges::Tracing) => Vec::new(),
            (SeccompMode::Filter, Privileges::AsTarget) => {
                // An older kernel does not tell how many there are, but there is one.
                let told = status.filters.unwrap_or(filters.len().max(1));
                if told != filters.len() {
                    return Err(Unmatched::Filters { told, found: filters.len() });
                }
                filters
            }
        };
        let allowed = CapabilitySet(status.effective.0 | more.0);
        let is_root = root == Some(status.uid);
        let ambient = if is_root { CapabilitySet(0) } else { allowed };
        Ok(Self {
            uid: status.uid,
            gid: status.gid,
            groups: status.groups.clone(),
            umask: status.umask,
            effective: allowed,
            bounding: CapabilitySet(if is_root { allowed.0 } else { status.bounding.0 | more.0 }),
            // A root program gets these even if they are not in its bounding set: so no more than it shall have.
            inheritable: CapabilitySet(ambient.0 | status.inheritable.both(allowed).0),
            ambient,
            no_new_privileges: status.no_new_privileges,
            filters,
        })
    }
}

impl Confinement {
    /// Who installs the filters.
    pub(crate) const fn installer(&self) -> Installer {
        if self.no_new_privileges || self.effective.contains(SYS_ADMIN) { Installer::Program } else { Installer::Usher }
    }

    /// The same for whoever is in the target's user namespace already: with its numbers. Groups that have none there cannot
    /// be named, and stay as they are.
    pub(crate) fn numbered_inside(self, uids: &IdMap, gids: &IdMap) -> Option<Self> {
        let (uid, gid) = (uids.inside(self.uid)?, gids.inside(self.gid)?);
        let groups = self.groups.iter().filter_map(|it| gids.inside(*it)).collect();
        Some(Self { uid, gid, groups, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(uid: u32, effective: u64, bounding: u64) -> Status {
        Status {
            uid,
            gid: 7,
            groups: vec![7],
            umask: 0o22,
            tracer: 0,
            inheritable: CapabilitySet(0),
            effective: CapabilitySet(effective),
            bounding: CapabilitySet(bounding),
            no_new_privileges: true,
            seccomp: SeccompMode::Off,
            filters: None,
        }
    }

    #[test]
    fn a_program_has_the_targets_effective_capabilities_whoever_it_runs_as() {
        let check = |status: Status, privileges, bounding, ambient| {
            let found = Confinement::of(&status, Some(0), Vec::new(), privileges).unwrap();
            assert_eq!((found.bounding, found.ambient), (CapabilitySet(bounding), CapabilitySet(ambient)));
        };
        check(status(0, 0xff, 0xff), Privileges::AsTarget, 0xff, 0);
        check(status(0, 0x0f, 0xff), Privileges::AsTarget, 0x0f, 0);
        check(status(33, 0, 0xff), Privileges::AsTarget, 0xff, 0);
        check(status(33, 0x400, 0xff), Privileges::AsTarget, 0xff, 0x400);
        check(status(0, 0x0f, 0xff), Privileges::Tracing, 0x8_000f, 0);
        check(status(33, 0, 0), Privileges::Tracing, 0x8_0000, 0x8_0000);
    }

    #[test]
    fn what_files_may_ask_for_is_the_targets_and_never_more_than_it_has() {
        let check = |uid, effective, inheritable, expected| {
            let status = Status { inheritable: CapabilitySet(inheritable), ..status(uid, effective, 0xff) };
            let found = Confinement::of(&status, Some(0), Vec::new(), Privileges::AsTarget).unwrap();
            assert_eq!(found.inheritable, CapabilitySet(expected));
        };
        check(0, 0x0f, 0, 0);
        check(0, 0x0f, 0x0f, 0x0f);
        check(0, 0x0f, 0xff, 0x0f);
        check(33, 0x01, 0xff, 0x01);
    }

    #[test]
    fn filters_are_all_there_or_the_session_does_not_begin() {
        let filter = || vec![Instruction { code: 6, jt: 0, jf: 0, k: 0 }];
        let check = |mode, told, found: usize, privileges, expected: Result<usize, Unmatched>| {
            let status = Status { seccomp: mode, filters: told, ..status(0, 1, 1) };
            let got = Confinement::of(&status, Some(0), vec![filter(); found], privileges).map(|it| it.filters.len());
            assert_eq!(got, expected);
        };
        let (own, more) = (Privileges::AsTarget, Privileges::Tracing);
        check(SeccompMode::Off, Some(0), 0, own, Ok(0));
        check(SeccompMode::Filter, Some(2), 2, own, Ok(2));
        check(SeccompMode::Filter, None, 1, own, Ok(1));
        check(SeccompMode::Filter, Some(2), 1, own, Err(Unmatched::Filters { told: 2, found: 1 }));
        check(SeccompMode::Filter, None, 0, own, Err(Unmatched::Filters { told: 1, found: 0 }));
        check(SeccompMode::Filter, Some(2), 0, more, Ok(0));
        check(SeccompMode::Strict, None, 0, more, Err(Unmatched::StrictSeccomp));
    }
}
