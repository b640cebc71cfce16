//! What a cell's first process and its supervisor tell each other while it starts: small fixed records.

use std::os::fd::{BorrowedFd, OwnedFd};

use model::StartStep;
use sys::Errno;
use sys::socket::{self, MAX_DESCRIPTORS};

/// What the child was doing. Its words go into the error that people see.
macro_rules! stages {
    ($($variant:ident = $step:ident $words:literal,)+) => {
        /// What a child that sets itself up was doing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "`words` says what each is")]
        pub enum Stage { $($variant,)+ }

        impl Stage {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The step of a start that it belongs to.
            pub const fn step(self) -> StartStep {
                match self { $(Self::$variant => StartStep::$step,)+ }
            }

            /// In words, for the error that people see.
            pub const fn words(self) -> &'static str {
                match self { $(Self::$variant => $words,)+ }
            }
        }
    };
}

stages! {
    Handshake = Namespaces "talking to the supervisor",
    UserNamespace = Namespaces "becoming root of the cell",
    JoinCgroup = Limits "joining the control groups",
    Unshare = Namespaces "making namespaces",
    JoinNamespaces = Namespaces "joining the cell's namespaces",
    Hostname = Namespaces "setting the host name",
    Loopback = Network "bringing the loopback interface up",
    Root = Mounts "mounting the root file system",
    Pivot = Mounts "changing to the root file system",
    Target = Mounts "making the mount point",
    Mount = Mounts "mounting",
    Device = Mounts "making the device files",
    Mask = Mounts "hiding kernel files",
    ReadOnlyRoot = Mounts "making the root file system read-only",
    WorkingDirectory = Mounts "changing to the working directory",
    Terminal = Security "setting up the terminal",
    Streams = Security "setting up the standard streams",
    Identity = Security "changing to the program's user",
    Capabilities = Security "dropping capabilities",
    NewPrivileges = Security "forbidding new privileges",
    Seccomp = Security "installing the system call filter",
    ResourceLimits = Limits "setting the resource limits",
    Label = Security "setting the security label",
    Tree = Mounts "copying the tree of mounts",
    Fork = Namespaces "starting the program's process",
    NotFound = CommandNotFound "executing the program",
    NotExecutable = CommandNotExecutable "executing the program",
}

/// A step that failed in the child, as it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What was being done.
    pub stage: Stage,
    /// The kernel's answer.
    pub errno: Errno,
    /// Which of several like things (mounts, devices), counted from 0.
    pub index: u32,
}

impl Stage {
    /// Whether it is about one of the mounts, and a failure's index tells about which.
    pub(crate) const fn is_of_one_mount(self) -> bool {
        matches!(self, Self::Target | Self::Mount | Self::Device | Self::Mask)
    }

    /// Turns the error of a system call made at this stage into a failure.
    pub const fn fail(self, errno: Errno) -> Failure {
        Failure { stage: self, errno, index: 0 }
    }
}

/// What the child reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// All is set up; it waits for the word to go. Comes with the terminal's controller when there is a terminal.
    Ready,
    /// The seccomp listener comes with this.
    Listener,
    /// The program was executed.
    Started,
    /// It gave up.
    Failed(Failure),
    /// The program ended with this wait status; the child ends now, too.
    Ended(i32),
    /// The process of a further program is made, with that number on the host; its pidfd comes with this.
    Made(u32),
}

const RECORD: usize = 12;

/// Sends a report. Fork-safe.
pub(crate) fn report(socket: BorrowedFd<'_>, report: Report, descriptors: &[BorrowedFd<'_>]) -> sys::Result<()> {
    let (tag, stage, value, index) = match report {
        Report::Ready => (0, 0, 0, 0),
        Report::Listener => (1, 0, 0, 0),
        Report::Started => (2, 0, 0, 0),
        Report::Failed(it) => (3, it.stage as u8, it.errno.raw_os_error(), it.index),
        Report::Ended(status) => (4, 0, status, 0),
        Report::Made(pid) => (5, 0, 0, pid),
    };
    let mut record = [tag, stage, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    record[4..8].copy_from_slice(&value.to_ne_bytes());
    record[8..12].copy_from_slice(&index.to_ne_bytes());
    socket::send(socket, &record, descriptors)
}

/// Receives a report, or nothing when the child (or, once executed, the program) closed its end.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> sys::Result<Option<(Report, [Option<OwnedFd>; MAX_DESCRIPTORS])>> {
    let mut record = [0u8; RECORD];
    let received = match socket::receive(socket, &mut record) {
        // It ended without reading what we sent. The kernel tells that first, and once; its last words come after it.
        Err(Errno::CONNRESET) => socket::receive(socket, &mut record),
        other => other,
    };
    let (length, descriptors) = match received {
        Err(Errno::CONNRESET) => return Ok(None),
        other => other?,
    };
    let [tag, stage, _, _, a, b, c, d, e, f, g, h] = record;
    let (value, index) = (i32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]));
    let stage = Stage::ALL.get(usize::from(stage)).copied().unwrap_or(Stage::Handshake);
    let report = match (length, tag) {
        (0, _) => return Ok(None),
        (RECORD, 0) => Report::Ready,
        (RECORD, 1) => Report::Listener,
        (RECORD, 2) => Report::Started,
        (RECORD, 3) => Report::Failed(Failure { stage, errno: Errno::from_raw_os_error(value), index }),
        (RECORD, 4) => Report::Ended(value),
        (RECORD, 5) => Report::Made(index),
        _ => return Err(Errno::PROTO),
    };
    Ok(Some((report, descriptors)))
}

/// Tells the child to go on. Fork-safe.
pub(crate) fn go(socket: BorrowedFd<'_>) -> sys::Result<()> {
    socket::send(socket, &[1], &[])
}

/// Waits for the word to go on; that the supervisor is gone is an error. Fork-safe.
pub(crate) fn wait_for_go(socket: BorrowedFd<'_>) -> sys::Result<()> {
    let mut byte = [0u8];
    match socket::receive(socket, &mut byte)? {
        (1, _) => Ok(()),
        _ => Err(Errno::PIPE),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_last_words_of_a_child_that_read_nothing_are_heard() {
        let (ours, theirs) = socket::pair().unwrap();
        let failure = Stage::Root.fail(Errno::NOENT);
        go(ours.as_fd()).unwrap();
        report(theirs.as_fd(), Report::Failed(failure), &[]).unwrap();
        drop(theirs);
        let (heard, _) = receive(ours.as_fd()).unwrap().unwrap();
        assert_eq!(heard, Report::Failed(failure));
        assert!(receive(ours.as_fd()).unwrap().is_none());
    }
}
