//! A cell's root: the image's file system below, what the cell writes above, one overlay of both.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use model::{Lifetime, StartStep};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::mount::{fsconfig_create, fsconfig_set_string, fsmount, fsopen};
use store::Rootfs;
use sys::Errno;
use sys::mount::{Reach, clone_tree};

use crate::error::{Error, Result};
use crate::overlay::{DIRECTORY, Durability, Layer, Layers, unmark};
use crate::protocol::{Failure, Stage};

/// Who mounts the overlay, and with it: whose name for an attribute it may use, and how its layers are reached.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mounter<'a> {
    /// The privileged parent.
    Parent,
    /// The privileged parent, for a cell whose users are mapped as this user namespace says.
    Mapping(BorrowedFd<'a>),
    /// The child, as root of an ordinary user's own user namespace.
    Child,
}

/// An overlay to be mounted: directories and options, nothing left to decide but what the kernel decides.
#[derive(Debug)]
pub(crate) struct Overlay {
    lower: Layer,
    data: Option<Layer>,
    written: Layer,
    options: &'static [(&'static CStr, &'static CStr)],
    durability: Durability,
}

/// Content of files by reference to another layer; renaming directories of the image; nothing kept for NFS.
const COMPOSED: &[(&CStr, &CStr)] = &[(c"metacopy", c"on"), (c"redirect_dir", c"on"), (c"index", c"off")];
const PLAIN: &[(&CStr, &CStr)] = &[(c"metacopy", c"off"), (c"redirect_dir", c"on"), (c"index", c"off")];
/// An ordinary user cannot write the privileged attributes that redirections need.
const ORDINARY: &[(&CStr, &CStr)] = &[(c"userxattr", c""), (c"index", c"off")];

impl Overlay {
    /// Finds the layers of `rootfs` and the directories `upper` and `work` in `upper`, making the two if need be.
    pub(crate) fn open(rootfs: &Rootfs, upper: &Path, lifetime: Lifetime, mounter: Mounter<'_>) -> Result<Self> {
        make_directory(&upper.join("upper"))?;
        let work = make_directory(&upper.join("work"))?;
        if lifetime == Lifetime::RemoveOnExit {
            unmark(work.as_fd());
        }
        let (lower, data) = mounter.image(rootfs)?;
        let options = mounter.options(data.as_ref());
        // What is thrown away with the cell need not reach the disk before.
        let durability = if lifetime == Lifetime::RemoveOnExit { Durability::Volatile } else { Durability::Synced };
        Ok(Self { lower, data, written: mounter.layer(upper)?, options, durability })
    }

    /// Mounts it nowhere yet. Fork-safe.
    pub(crate) fn mount(&self) -> std::result::Result<OwnedFd, Failure> {
        let Self { lower, data, written, options, durability } = self;
        let layers = Layers { lower, data: data.as_ref(), written, options, durability: *durability };
        layers.mount().map_err(|errno| Stage::Root.fail(errno))
    }
}

/// An image's root file system whose writes go to memory: everything but that memory is decided.
#[derive(Debug)]
pub struct ScratchRoot {
    lower: Layer,
    data: Option<Layer>,
    options: &'static [(&'static CStr, &'static CStr)],
}

impl ScratchRoot {
    /// The root of `rootfs`. With `users` the owners of the image's files are mapped as that user namespace says.
    ///
    /// # Errors
    /// [`StartStep::Image`] or [`StartStep::Mounts`], with what could not be opened.
    pub fn compile(rootfs: &Rootfs, users: Option<BorrowedFd<'_>>) -> Result<Self> {
        let mounter = match users {
            Some(namespace) if rustix::process::geteuid().is_root() => Mounter::Mapping(namespace),
            None if rustix::process::geteuid().is_root() => Mounter::Parent,
            _ => Mounter::Child,
        };
        let (lower, data) = mounter.image(rootfs)?;
        Ok(Self { options: mounter.options(data.as_ref()), lower, data })
    }

    /// The mount of the image's files when it is mounted nowhere, for who wants to give it a place.
    pub fn image(&self) -> Option<BorrowedFd<'_>> {
        match &self.lower {
            Layer::Detached(mount) => Some(mount.as_fd()),
            Layer::Attached(_) | Layer::Path(_) => None,
        }
    }

    /// Mounts it nowhere yet, above the mount `scratch`, which is mounted nowhere either and has the directories `upper`
    /// and `work`. What is in there has its owners as they are. An ordinary user does that as root of a user namespace, in
    /// a mount namespace of its own that shows what the caller of [`ScratchRoot::compile`] saw. Fork-safe.
    pub fn mount(&self, scratch: BorrowedFd<'_>) -> sys::Result<OwnedFd> {
        let written = Layer::Detached(rustix::io::fcntl_dupfd_cloexec(scratch, 0)?);
        // It lies in memory, where nothing is ever synced.
        let durability = Durability::Synced;
        let (lower, data) = (&self.lower, self.data.as_ref());
        Layers { lower, data, written: &written, options: self.options, durability }.mount()
    }
}

impl Mounter<'_> {
    /// The layers of an image: its files, and where their content is when that is elsewhere.
    fn image(self, rootfs: &Rootfs) -> Result<(Layer, Option<Layer>)> {
        match rootfs {
            Rootfs::Plain { dir, .. } => Ok((self.layer(dir)?, None)),
            Rootfs::Composed { metadata, objects } => {
                if matches!(self, Mounter::Child) {
                    let what = format!("mounting {}", metadata.display());
                    return Err(Error::refused(StartStep::Image, what, "only root can mount a composed image"));
                }
                let lower = self.mapped(erofs(metadata)?)?;
                Ok((Layer::Detached(lower), Some(Layer::Attached(directory(objects)?))))
            }
            _ => Err(Error::refused(StartStep::Image, "mounting the image", "a kind of root unknown here")),
        }
    }

    const fn options(self, data: Option<&Layer>) -> &'static [(&'static CStr, &'static CStr)] {
        match (self, data) {
            (Self::Child, _) => ORDINARY,
            (_, None) => PLAIN,
            (_, Some(_)) => COMPOSED,
        }
    }

    fn layer(self, path: &Path) -> Result<Layer> {
        Ok(match self {
            Self::Parent => Layer::Attached(directory(path)?),
            Self::Mapping(_) => Layer::Detached(self.mapped(clone(path)?)?),
            Self::Child => Layer::Path(text(path)?),
        })
    }

    fn mapped(self, tree: OwnedFd) -> Result<OwnedFd> {
        if let Self::Mapping(namespace) = self {
            sys::mount::map_owners(&tree, namespace, Reach::One).map_err(|errno| {
                Error::start(StartStep::Mounts, "mapping the owners of the root file system's files", errno)
            })?;
        }
        Ok(tree)
    }
}

fn failed(doing: &str, path: &Path, errno: Errno) -> Error {
    Error::start(StartStep::Mounts, format!("{doing} {}", path.display()), errno)
}

fn text(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| failed("opening", path, Errno::INVAL))
}

fn clone(path: &Path) -> Result<OwnedFd> {
    clone_tree(CWD, &text(path)?, Reach::One).map_err(|errno| failed("opening", path, errno))
}

fn directory(path: &Path) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty())
        .map_err(|errno| Error::start(StartStep::Image, format!("opening {}", path.display()), errno))
}

fn make_directory(path: &Path) -> Result<OwnedFd> {
    match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed("making", path, errno)),
    }
    let opened = rustix::fs::openat(CWD, path, DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
    opened.map_err(|errno| failed("opening", path, errno))
}

/// Mounts an EROFS image that is a plain file.
fn erofs(image: &Path) -> Result<OwnedFd> {
    let wrong = |errno| Error::start(StartStep::Image, format!("mounting {}", image.display()), errno);
    let file = rustix::fs::openat(CWD, image, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(wrong)?;
    let context = fsopen(c"erofs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(wrong)?;
    // By descriptor: the kernel takes no text longer than 255 bytes here, which a path may well be.
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    fsconfig_set_string(context.as_fd(), c"source", source).map_err(wrong)?;
    fsconfig_create(context.as_fd()).map_err(wrong)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(wrong)
}
