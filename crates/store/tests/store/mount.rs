//! Mounts a composed root file system for real, detached: no mount namespace sees it.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};
use store::Rootfs;

/// Whether this process may mount.
pub(crate) fn allowed() -> bool {
    rustix::process::geteuid().is_root()
}

fn finish(fs: OwnedFd) -> OwnedFd {
    fsconfig_create(&fs).expect("create the file system");
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY).expect("mount")
}

/// The root directory of a mounted file system, as a path.
pub(crate) struct Mounted {
    overlay: OwnedFd,
}

impl Mounted {
    pub(crate) fn path(&self) -> std::path::PathBuf {
        format!("/proc/self/fd/{}", self.overlay.as_raw_fd()).into()
    }
}

pub(crate) fn composed(rootfs: &Rootfs) -> Mounted {
    let Rootfs::Composed { metadata, objects } = rootfs else { panic!("not composed: {rootfs:?}") };
    let erofs = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).expect("open erofs");
    fsconfig_set_flag(&erofs, "ro").unwrap();
    fsconfig_set_string(&erofs, "source", metadata.as_path()).unwrap();
    let metadata = finish(erofs);

    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).expect("open overlay");
    fsconfig_set_string(&overlay, "metacopy", "on").unwrap();
    fsconfig_set_string(&overlay, "redirect_dir", "follow").unwrap();
    let lower = format!("/proc/self/fd/{}", metadata.as_raw_fd());
    fsconfig_set_string(&overlay, "lowerdir+", lower.as_str()).expect("the metadata layer");
    fsconfig_set_string(&overlay, "datadir+", objects.as_path()).expect("the data layer");
    let _ = CWD;
    Mounted { overlay: finish(overlay) }
}
