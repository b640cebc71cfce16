//! What a cell shall be, complete: nothing below this looks at a configuration file or an environment variable.

use std::ffi::{CStr, CString};
use std::fmt::Debug;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use model::{CellId, Init, Lifetime, Limits, Mount, Process, Security, Watch};
use store::Rootfs;
use sys::process::Ended;
use sys::pty::WindowSize;

/// A cell to make.
#[derive(Debug)]
pub struct Plan {
    /// Its identity; names its control groups.
    pub id: CellId,
    /// The image's root file system.
    pub rootfs: Rootfs,
    /// The directory that holds (or will hold) `upper/` and `work/`: what the cell writes.
    pub upper: PathBuf,
    /// Its host name.
    pub hostname: String,
    /// Its program.
    pub process: Process,
    /// What the user mounts in it.
    pub mounts: Vec<Mount>,
    /// Files of the host put over files of the cell: `(host path, absolute path in the cell)`, writable.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// What its programs may do.
    pub security: Security,
    /// What it may use.
    pub limits: Limits,
    /// Its network namespace.
    pub netns: NetNs,
    /// With whom it exchanges messages and shares memory.
    pub ipc: IpcNs,
    /// Who is process 1.
    pub init: Init,
    /// Whether its writes must survive a power cut ([`Lifetime::Keep`]) or are thrown away with it.
    pub lifetime: Lifetime,
    /// What of its program's calls is announced: when anything is, it must be started with an attendant.
    pub watch: Watch,
    /// Who executes the program.
    pub body: Body,
}

/// Who executes a cell's program.
#[derive(Clone, Debug)]
pub enum Body {
    /// The host's kernel.
    Command,
    /// A part of our own program, in the place where the command would be: in the cell's namespaces, on its root, under its
    /// limits and with its privileges. The kernel's own file systems are kept out of its sight.
    Resident(Arc<dyn Resident>),
}

/// What executes a program that the kernel does not.
pub trait Resident: Debug + Send + Sync {
    /// The descriptors that it needs and would not find in the cell.
    fn keeps(&self) -> [Option<BorrowedFd<'_>>; 8];

    /// Who it is while the command lives.
    fn acts(&self) -> Acts {
        Acts::AsProgram
    }

    /// Begins what takes long and needs nothing of the cell, while the cell's root and mounts are still being made: it must not
    /// be what slows those down. A thread that it makes keeps its privileges: it must have ended before there is anything to
    /// fear.
    fn begin(&self) {}

    /// Does what the cell's privileges do not allow, before they are all that is left. It must not be what a hostile root
    /// can lead astray.
    fn prepare(&self);

    /// Executes the command to its end. In a process of its own, whose only threads are those that it began, with the cell's standard
    /// streams as descriptors 0, 1 and 2, what it keeps and has prepared, and nothing else open.
    fn live(&self, command: &Inhabitant<'_>) -> Ended;
}

/// Who executes a program that the kernel does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acts {
    /// Whoever the program runs as.
    AsProgram,
    /// The cell's root, with the cell's capabilities: the program's own user is known inside only.
    AsRoot,
}

/// The command of a cell with everything that it starts with.
#[derive(Debug)]
pub struct Inhabitant<'a> {
    /// The file.
    pub path: &'a CStr,
    /// The arguments, the command first.
    pub arguments: &'a [CString],
    /// The environment, `NAME=value`.
    pub environment: &'a [CString],
    /// Where it starts.
    pub working_directory: &'a CStr,
    /// Who it runs as.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its further groups.
    pub groups: &'a [u32],
}

/// A cell's network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetNs {
    /// One of its own, with a loopback interface that is up.
    New,
    /// The caller's.
    Host,
}

/// A cell's IPC namespace, and the memory at `/dev/shm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpcNs {
    /// Its own.
    New,
    /// Those of the cell with that first process, by the host's number.
    Of(u32),
}

/// What a program's three standard streams are.
#[derive(Debug)]
pub enum Stdio {
    /// A pseudo-terminal of the cell's own, all three.
    Pty {
        /// Its size to begin with.
        size: WindowSize,
    },
    /// Those descriptors.
    Pipes {
        /// Descriptor 0.
        stdin: OwnedFd,
        /// Descriptor 1.
        stdout: OwnedFd,
        /// Descriptor 2.
        stderr: OwnedFd,
    },
}
