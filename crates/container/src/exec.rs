//! A further program in a running cell: same namespaces, same control groups, same confinement. [`crate::visit`] makes
//! its process.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use model::{Process, Security, StartStep, Watch};
use rustix::fs::OFlags;
use sys::exec::GroupChange;
use sys::namespace::{self, Namespaces};
use sys::{process, pty};

use crate::access;
use crate::attend::Attendant;
use crate::cgroup::Cgroup;
use crate::command::Streams;
use crate::error::{Error, Result};
use crate::ids;
use crate::path;
use crate::plan::{Body, Stdio};
use crate::prepare::{Running, Words};
use crate::program::Program;
use crate::protocol::{Failure, Stage};
use crate::users;
use crate::visit::{self, Bond, Visit};

/// A running cell to enter.
#[derive(Debug)]
pub struct Target<'a> {
    /// Process 1 of the cell, by the host's number.
    pub pid: u32,
    /// The cell's control groups: the program joins every one of them or does not run.
    pub cgroup: &'a Cgroup,
}

/// All that the cell may have of its own, but for its users. A network or other namespace that it shares is joined to no
/// effect.
const ALL: Namespaces =
    Namespaces::MOUNT.and(Namespaces::UTS).and(Namespaces::IPC).and(Namespaces::NET).and(Namespaces::CGROUP);

/// Runs `process` in the cell. The result's `pid` is that program; ending it does not end the cell.
pub fn exec(target: &Target<'_>, process: &Process, security: &Security, stdio: Stdio, bond: Bond) -> Result<Running> {
    run(target, process, security, stdio, (bond, Body::Command), None)
}

/// The same for a program that `body` executes.
pub fn exec_as(
    target: &Target<'_>,
    process: &Process,
    security: &Security,
    stdio: Stdio,
    bond: Bond,
    body: Body,
) -> Result<Running> {
    run(target, process, security, stdio, (bond, body), None)
}

/// The same for a program of which everything that it uses is announced. Its caller goes on attending.
pub fn exec_attended(
    target: &Target<'_>,
    process: &Process,
    security: &Security,
    stdio: Stdio,
    attendant: &mut dyn Attendant,
) -> Result<Running> {
    run(target, process, security, stdio, (Bond::DiesWithCaller, Body::Command), Some(attendant))
}

fn run(
    target: &Target<'_>,
    process: &Process,
    security: &Security,
    stdio: Stdio,
    how: (Bond, Body),
    attendant: Option<&mut dyn Attendant>,
) -> Result<Running> {
    let cell = process::open(access::visible(target.pid)).map_err(|_| Error::NotRunning)?;
    let ran = run_beside(cell.as_fd(), target, process, security, stdio, how, attendant);
    // It may end at any moment, and then whatever was asked of it next has failed: that is why.
    ran.map_err(|error| if process::has_ended(&cell).unwrap_or(false) { Error::NotRunning } else { error })
}

fn run_beside(
    cell: BorrowedFd<'_>,
    target: &Target<'_>,
    process: &Process,
    security: &Security,
    stdio: Stdio,
    (bond, body): (Bond, Body),
    attendant: Option<&mut dyn Attendant>,
) -> Result<Running> {
    let watch = if attendant.is_some() { Watch::Uses } else { Watch::Nothing };
    let seen = access::visible(target.pid);
    let root = access::root_of_running(target.pid)?;
    // Entering the user namespace that one is in already is an error of its own.
    let users = match namespace::shares(seen, "user").map_err(|_| Error::NotRunning)? {
        true => Namespaces::empty(),
        false => Namespaces::USER,
    };
    let (identity, group_change) = match rustix::process::geteuid().is_root() {
        true => (users::resolve(root.as_fd(), &process.user)?, GroupChange::Set),
        false => (ids::only_root(root.as_fd(), &process.user)?, GroupChange::Leave),
    };
    let owner = ids::outside_of(seen, identity.uid);
    let program = Program::compile(process, security, identity, group_change, watch, body)?;
    let words = Words { command: program.command(), mounts: Vec::new() };
    let (streams, terminal) = match stdio {
        Stdio::Pipes { stdin, stdout, stderr } => (Streams::Three([stdin, stdout, stderr]), None),
        Stdio::Pty { size } => {
            let devpts = path::open(root.as_fd(), c"dev/pts", OFlags::PATH | OFlags::DIRECTORY);
            let pty = devpts.and_then(|it| pty::open_in(it.as_fd(), size));
            let pty =
                pty.map_err(|errno| Error::start(StartStep::Security, "opening a terminal in the cell", errno))?;
            (Streams::Terminal(pty.terminal), Some(pty.controller))
        }
    };
    if let Some(owner) = owner {
        streams.give_to(owner);
    }
    let ordinary = !rustix::process::geteuid().is_root();
    let visitor = Visitor {
        kinds: if ordinary { ALL } else { ALL.and(users) },
        cgroups: target.cgroup.member_files()?,
        cell,
        program,
        streams,
    };
    let group = target.cgroup.directory()?;
    let first = if ordinary { users } else { Namespaces::empty() };
    let visit = Visit { host: cell, first, group: group.as_ref().map(AsFd::as_fd), bond };
    let inside = |control: BorrowedFd<'_>| match visitor.become_it(control) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    let mut running = visit::visit_attended(&visit, &words, inside, attendant)?;
    running.terminal = terminal;
    Ok(running)
}

/// All that the program's process needs, decided before it is made.
struct Visitor<'a> {
    kinds: Namespaces,
    cgroups: Vec<OwnedFd>,
    cell: BorrowedFd<'a>,
    program: Program,
    streams: Streams,
}

type Done<T> = std::result::Result<T, Failure>;

impl Visitor<'_> {
    /// Joins the cell and becomes the program. Fork-safe.
    fn become_it(&self, control: BorrowedFd<'_>) -> Done<Infallible> {
        for cgroup in &self.cgroups {
            rustix::io::write(cgroup, b"0").map_err(|errno| Stage::JoinCgroup.fail(errno))?;
        }
        namespace::join(self.cell, self.kinds).map_err(|errno| Stage::JoinNamespaces.fail(errno))?;
        self.program.become_it(&self.streams, control)
    }
}
