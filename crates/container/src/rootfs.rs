//! A cell's root: the image's file system below, what the cell writes above, one overlay of both.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use model::{Lifetime, StartStep};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::mount::{fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen};
use store::Rootfs;
use sys::Errno;

use crate::error::{Error, Result};
use crate::protocol::{Failure, Stage};

/// An overlay to be mounted: open directories and options, nothing left to decide.
#[derive(Debug)]
pub(crate) struct Overlay {
    lower: OwnedFd,
    data: Option<OwnedFd>,
    upper: OwnedFd,
    work: OwnedFd,
    flags: Vec<CString>,
    options: Vec<(CString, CString)>,
}

impl Overlay {
    /// Opens the layers of `rootfs` and the directories `upper` and `work` in `upper`, making the two if need be.
    pub(crate) fn open(rootfs: &Rootfs, upper: &Path, lifetime: Lifetime) -> Result<Self> {
        let (lower, data) = match rootfs {
            Rootfs::Plain { dir, .. } => (directory(dir)?, None),
            Rootfs::Composed { metadata, objects } => (erofs(metadata)?, Some(directory(objects)?)),
            _ => return Err(Error::refused(StartStep::Image, "mounting the image", "a kind of root unknown here")),
        };
        let onoff = |on: bool| if on { c"on".to_owned() } else { c"off".to_owned() };
        let composed = data.is_some();
        let options = vec![
            (c"metacopy".to_owned(), onoff(composed)),
            (c"redirect_dir".to_owned(), onoff(true)),
            (c"index".to_owned(), onoff(false)),
        ];
        let flags = match lifetime {
            // What is thrown away with the cell need not reach the disk before.
            Lifetime::RemoveOnExit => vec![c"volatile".to_owned()],
            Lifetime::Keep => Vec::new(),
        };
        let (upper, work) = (make_directory(upper, "upper")?, make_directory(upper, "work")?);
        if lifetime == Lifetime::RemoveOnExit {
            // The mark by which the kernel refuses to mount a second time what may not have reached the disk. A cell that
            // is thrown away in the end may well start again before.
            let _ = rustix::fs::unlinkat(&work, c"work/incompat/volatile/dirty", AtFlags::empty());
            let _ = rustix::fs::unlinkat(&work, c"work/incompat/volatile", AtFlags::REMOVEDIR);
        }
        Ok(Self { lower, data, upper, work, flags, options })
    }

    /// Mounts it nowhere yet. Fork-safe.
    pub(crate) fn mount(&self) -> std::result::Result<OwnedFd, Failure> {
        self.try_mount().map_err(|errno| Stage::Root.fail(errno))
    }

    fn try_mount(&self) -> sys::Result<OwnedFd> {
        let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let context = context.as_fd();
        for flag in &self.flags {
            fsconfig_set_flag(context, flag)?;
        }
        for (name, value) in &self.options {
            fsconfig_set_string(context, name, value)?;
        }
        fsconfig_set_fd(context, c"lowerdir+", &self.lower)?;
        if let Some(data) = &self.data {
            fsconfig_set_fd(context, c"datadir+", data)?;
        }
        fsconfig_set_fd(context, c"upperdir", &self.upper)?;
        fsconfig_set_fd(context, c"workdir", &self.work)?;
        fsconfig_create(context)?;
        fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    }
}

fn directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|errno| Error::start(StartStep::Image, format!("opening {}", path.display()), errno))
}

fn make_directory(parent: &Path, name: &str) -> Result<OwnedFd> {
    let path = parent.join(name);
    let wrong = |errno| Error::start(StartStep::Mounts, format!("making {}", path.display()), errno);
    match rustix::fs::mkdirat(CWD, &path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(wrong(errno)),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(CWD, &path, flags, Mode::empty()).map_err(wrong)
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
