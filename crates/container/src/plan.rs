//! What a cell shall be, complete: nothing below this looks at a configuration file or an environment variable.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use model::{CellId, Init, Lifetime, Limits, Mount, Process, Security, Watch};
use store::Rootfs;
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
    /// Who is process 1.
    pub init: Init,
    /// Whether its writes must survive a power cut ([`Lifetime::Keep`]) or are thrown away with it.
    pub lifetime: Lifetime,
    /// What of its program's calls is announced: when anything is, it must be started with an attendant.
    pub watch: Watch,
}

/// A cell's network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetNs {
    /// One of its own, with a loopback interface that is up.
    New,
    /// The caller's.
    Host,
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
