//! What is mounted in a cell's root, step by step, by the cell's own first process. **Nothing here allocates**; every
//! path is resolved inside the new root (see [`crate::path`]).

use std::cell::OnceCell;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use model::MountAccess;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::MountAttrFlags;
use sys::Errno;
use sys::mount::{Reach, attach, clone_tree, new_file_system, set_attributes};

use crate::path::{self, Kind};
use crate::protocol::{Failure, Stage};

type Result<T> = std::result::Result<T, Failure>;

/// One thing to mount in the new root, in order. What it takes from the host's tree, or what the kernel grants only while
/// that is in sight, is gathered before the root changes.
pub(crate) enum MountStep {
    /// A new file system.
    New {
        kind: &'static CStr,
        options: Vec<(CString, CString)>,
        attributes: MountAttrFlags,
        target: CString,
        links: Links,
        gathered: OnceCell<OwnedFd>,
    },
    /// The usual device files, links and directories in `/dev`.
    Devices(DeviceFiles),
    /// A file or directory of the host, with what is mounted beneath it.
    Host { path: CString, access: MountAccess, target: CString, kind: Kind, gathered: OnceCell<OwnedFd> },
    /// Hides a file or directory of the kernel, if it exists.
    Hide { target: CString },
    /// Makes a directory of the kernel read-only, if it exists.
    Protect { target: CString },
}

/// How device files come about.
pub(crate) enum DeviceFiles {
    /// They are made.
    Made,
    /// The host's are put there: root of a user namespace may not make any.
    Hosts([OnceCell<OwnedFd>; DEVICES.len()]),
}

/// Whether symbolic links of the image on the way to a mount point are followed (inside the cell).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    /// Users' mounts may go through them.
    Follow,
    /// Kernel file systems must be where programs expect them.
    Refuse,
}

impl MountStep {
    /// Makes or copies what is to be mounted, while the host's tree is still the root.
    pub(crate) fn gather(&self) -> Result<()> {
        let mount = |errno| Stage::Mount.fail(errno);
        let (tree, gathered) = match self {
            // The parent may have done it: root of another user namespace does not reach every path.
            Self::Host { gathered, .. } if gathered.get().is_some() => return Ok(()),
            Self::New { kind, options, attributes, gathered, .. } => {
                (new_file_system(kind, options, *attributes).map_err(mount)?, gathered)
            }
            Self::Host { path, access, gathered, .. } => {
                let tree = clone_tree(CWD, path, Reach::Tree).map_err(mount)?;
                if *access == MountAccess::ReadOnly {
                    set_attributes(&tree, MountAttrFlags::MOUNT_ATTR_RDONLY, Reach::Tree).map_err(mount)?;
                }
                (tree, gathered)
            }
            Self::Devices(DeviceFiles::Hosts(files)) => {
                for (device, file) in DEVICES.iter().zip(files) {
                    let tree = clone_tree(CWD, device.host, Reach::One).map_err(|errno| Stage::Device.fail(errno))?;
                    let _ = file.set(tree);
                }
                return Ok(());
            }
            Self::Devices(DeviceFiles::Made) | Self::Hide { .. } | Self::Protect { .. } => return Ok(()),
        };
        // Nobody gathers twice.
        let _ = gathered.set(tree);
        Ok(())
    }

    /// Puts it where it belongs in the new root.
    pub(crate) fn perform(&self, root: BorrowedFd<'_>) -> Result<()> {
        let target_failed = |errno| Stage::Target.fail(errno);
        let (target, gathered) = match self {
            Self::New { target, links: Links::Refuse, gathered, .. } => {
                (path::ensure_without_links(root, target), gathered)
            }
            Self::New { target, gathered, .. } => (path::ensure(root, target, Kind::Directory), gathered),
            Self::Host { target, kind, gathered, .. } => (path::ensure(root, target, *kind), gathered),
            Self::Devices(files) => return make_devices(root, files).map_err(|errno| Stage::Device.fail(errno)),
            Self::Hide { target } => return hide(root, target).map_err(|errno| Stage::Mask.fail(errno)),
            Self::Protect { target } => return protect(root, target).map_err(|errno| Stage::Mask.fail(errno)),
        };
        let target = target.map_err(target_failed)?;
        let tree = gathered.get().ok_or(Stage::Mount.fail(Errno::BADF))?;
        attach(tree.as_fd(), target.as_fd()).map_err(|errno| Stage::Mount.fail(errno))
    }
}

/// A device file: where on the host, where in the cell, its numbers.
struct Device {
    host: &'static CStr,
    cell: &'static CStr,
    major: u32,
    minor: u32,
}

const fn device(host: &'static CStr, cell: &'static CStr, major: u32, minor: u32) -> Device {
    Device { host, cell, major, minor }
}

const DEVICES: [Device; 6] = [
    device(c"/dev/null", c"dev/null", 1, 3),
    device(c"/dev/zero", c"dev/zero", 1, 5),
    device(c"/dev/full", c"dev/full", 1, 7),
    device(c"/dev/random", c"dev/random", 1, 8),
    device(c"/dev/urandom", c"dev/urandom", 1, 9),
    device(c"/dev/tty", c"dev/tty", 5, 0),
];

const LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"dev/fd"),
    (c"/proc/self/fd/0", c"dev/stdin"),
    (c"/proc/self/fd/1", c"dev/stdout"),
    (c"/proc/self/fd/2", c"dev/stderr"),
    (c"pts/ptmx", c"dev/ptmx"),
];

const DIRECTORIES: [&CStr; 3] = [c"dev/pts", c"dev/shm", c"dev/mqueue"];

/// Fills the new, empty file system at `/dev`, which nobody else can see yet: plain paths are safe in it.
fn make_devices(root: BorrowedFd<'_>, files: &DeviceFiles) -> sys::Result<()> {
    let mode = Mode::from_raw_mode(0o666);
    for (index, device) in DEVICES.iter().enumerate() {
        match files {
            DeviceFiles::Made => {
                let number = rustix::fs::makedev(device.major, device.minor);
                rustix::fs::mknodat(root, device.cell, FileType::CharacterDevice, mode, number)?;
            }
            DeviceFiles::Hosts(trees) => {
                let target = path::ensure(root, device.cell, Kind::File)?;
                let tree = trees.get(index).and_then(OnceCell::get).ok_or(Errno::BADF)?;
                attach(tree.as_fd(), target.as_fd())?;
            }
        }
    }
    for (target, path) in LINKS {
        rustix::fs::symlinkat(target, root, path)?;
    }
    DIRECTORIES.iter().try_for_each(|path| rustix::fs::mkdirat(root, *path, Mode::from_raw_mode(0o755)))
}

fn hide(root: BorrowedFd<'_>, target: &CStr) -> sys::Result<()> {
    let target = match path::open(root, target, OFlags::PATH) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let cover = match Kind::of(&target)? {
        Kind::File => clone_tree(root, c"dev/null", Reach::One)?,
        Kind::Directory => {
            let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
            new_file_system(c"tmpfs", &[(c"size", c"0"), (c"nr_inodes", c"1")], attributes)?
        }
    };
    attach(cover.as_fd(), target.as_fd())
}

fn protect(root: BorrowedFd<'_>, target: &CStr) -> sys::Result<()> {
    let target = match path::open(root, target, OFlags::PATH) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let tree = clone_tree(&target, c"", Reach::Tree)?;
    let safe = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    set_attributes(&tree, MountAttrFlags::MOUNT_ATTR_RDONLY | safe, Reach::Tree)?;
    attach(tree.as_fd(), target.as_fd())
}
