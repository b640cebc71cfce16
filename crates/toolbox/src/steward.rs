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
use std::os::fd::{BorrowedFd, OwnedFd};

use container::{Failure, Stage};
use rustix::fs::{CWD, Mode, OFlags};
use sys::Errno;
use sys::exec::{self, Title};
use sys::signal::{self, SignalSet};

use crate::inside::read_file;
use crate::program::Program;
use crate::reaper;
use crate::root::Root;

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
    pub(crate) root: Root<'a>,
    pub(crate) program: Program<'a>,
}

/// The steward's life: returns only when no program came of it. How the program ended is told over `ending`, if anybody
/// listens there, and by the exit code. Fork-safe.
pub(crate) fn live(script: &Script<'_>, control: BorrowedFd<'_>, ending: Option<BorrowedFd<'_>>) -> Done<Infallible> {
    let handshake = |errno| Stage::Handshake.fail(errno);
    script.title.take();
    signal::block(SignalSet::ALL).map_err(handshake)?;
    // Not to be killed with its caller, but to end its session then.
    exec::signal_with_parent(reaper::HANGUP).map_err(handshake)?;
    exec::adopt_orphans().map_err(handshake)?;
    script.join_cgroups()?;
    script.set_oom_score();
    let terminal = script.root.build(control)?;
    let streams = terminal.as_ref().or(script.program.streams.as_ref()).ok_or(Stage::Streams.fail(Errno::BADF))?;
    let program = container::start_program(|| script.program.become_it(streams))?;
    reaper::drop_privileges()?;
    // Nothing else is kept. Above all not the socket that failures are told by: its closing says that the program runs.
    match ending {
        Some(ending) => exec::go_on_with(ending, program.pid, |ending, program| {
            let code = reaper::serve(program);
            container::tell_end(ending, code);
            code
        }),
        None => exec::go_on_with(script.root.target, program.pid, |_, program| reaper::serve(program)),
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
}
