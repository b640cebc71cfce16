//! What is done for a session before anything of it is in the target: by the **usher**, a process outside the target's
//! pid namespace, in skep's own memory.
//!
//! It joins the control groups and namespaces, mounts the session's root, gives up everything that the target lacks, and
//! executes the steward, which makes the process that is born inside. So the one that is privileged is never seen by those
//! in the target, and the one that they see has nothing that they lack. **The order matters**: mounts are made while the
//! usher still is root of the host, every mount is put in a mount namespace that nobody shares, and the target's user
//! namespace is entered after that. Nothing here allocates, locks or panics (see [`sys::fork::spawn`]); paths of the target
//! are resolved inside its root.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};

use container::{Failure, Line, Stage};
use rustix::fs::{CWD, Mode, OFlags};
use sys::Errno;
use sys::namespace::{self, Namespaces};

use crate::inside::read_file;
use crate::program::Program;
use crate::root::Root;
use crate::steward::Steward;

type Done<T> = std::result::Result<T, Failure>;

/// All that is needed, decided before the usher is made.
pub(crate) struct Script<'a> {
    /// What of the target's namespaces must be entered before anything else, because only its privileges let the rest be
    /// done: the user namespace, for an ordinary user.
    pub(crate) first: Namespaces,
    /// Files of control groups (version 1) to write to.
    pub(crate) tasks: Vec<OwnedFd>,
    /// What the kernel must say of the usher's control groups then.
    pub(crate) membership: Vec<u8>,
    pub(crate) oom_score: Vec<u8>,
    pub(crate) root: Root<'a>,
    pub(crate) program: Program<'a>,
    pub(crate) steward: Steward,
}

impl Script<'_> {
    /// The usher's life: returns only when nothing came of it. Fork-safe.
    pub(crate) fn usher(&self, line: &Line) -> Done<Infallible> {
        let join = |kinds| namespace::join(self.root.target, kinds).map_err(|errno| Stage::JoinNamespaces.fail(errno));
        if self.first != Namespaces::empty() {
            join(self.first)?;
            // Gaining privileges made the kernel forget it.
            sys::exec::die_with_parent().map_err(|errno| Stage::Handshake.fail(errno))?;
        }
        self.join_cgroups()?;
        self.set_oom_score();
        let terminal = self.root.build(line.control())?;
        let streams = terminal.as_ref().or(self.program.streams.as_ref()).ok_or(Stage::Streams.fail(Errno::BADF))?;
        // For the steward's child alone: this process stays where nobody in the target sees it.
        join(Namespaces::PID)?;
        self.program.confine(streams, &self.steward, line)?;
        self.steward.execute(line)
    }

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
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        if let Ok(file) = rustix::fs::openat(CWD, c"/proc/self/oom_score_adj", flags, Mode::empty()) {
            let _ = rustix::io::write(file.as_fd(), &self.oom_score);
        }
    }
}
