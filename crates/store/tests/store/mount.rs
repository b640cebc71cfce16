//! Mounts for real, but detached: no mount namespace sees it, and it is gone with its handle.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};
use store::Rootfs;

/// Whether this process may mount.
pub(crate) fn allowed() -> bool {
    rustix::process::geteuid().is_root()
}

fn finish(fs: OwnedFd, attributes: MountAttrFlags) -> OwnedFd {
    fsconfig_create(&fs).expect("create the file system");
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).expect("mount")
}

/// A file system in memory with room for `size`.
pub(crate) fn tmpfs(size: &str) -> Mounted {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).expect("open tmpfs");
    fsconfig_set_string(&fs, "size", size).unwrap();
    Mounted { root: finish(fs, MountAttrFlags::empty()) }
}

/// The root directory of a mounted file system, as a path.
pub(crate) struct Mounted {
    root: OwnedFd,
}

impl Mounted {
    pub(crate) fn path(&self) -> std::path::PathBuf {
        format!("/proc/self/fd/{}", self.root.as_raw_fd()).into()
    }
}

pub(crate) fn composed(rootfs: &Rootfs) -> Mounted {
    let Rootfs::Composed { metadata, objects } = rootfs else { panic!("not composed: {rootfs:?}") };
    let erofs = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).expect("open erofs");
    fsconfig_set_flag(&erofs, "ro").unwrap();
    fsconfig_set_string(&erofs, "source", metadata.as_path()).unwrap();
    let metadata = finish(erofs, MountAttrFlags::MOUNT_ATTR_RDONLY);

    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).expect("open overlay");
    fsconfig_set_string(&overlay, "metacopy", "on").unwrap();
    fsconfig_set_string(&overlay, "redirect_dir", "follow").unwrap();
    let lower = format!("/proc/self/fd/{}", metadata.as_raw_fd());
    fsconfig_set_string(&overlay, "lowerdir+", lower.as_str()).expect("the metadata layer");
    fsconfig_set_string(&overlay, "datadir+", objects.as_path()).expect("the data layer");
    Mounted { root: finish(overlay, MountAttrFlags::MOUNT_ATTR_RDONLY) }
}
