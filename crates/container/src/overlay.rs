//! Mounting an overlay on every kernel from 6.1 on.
//!
//! Kernels differ in how they let its layers be named. Since 6.13 that is by descriptor; before, by a path, for which a
//! descriptor's link in `/proc` serves (a path of the user's may be longer than the kernel takes here, and may hold its
//! separators). Before 6.15 a layer must lie in a mount that its mounter's namespace has, so a mount that nobody sees is
//! attached for that moment in a namespace that nobody shares. **Which way the kernel takes is found out by trying the
//! best one first**; [`Naming::after`] alone decides what comes next. Nothing here allocates.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::mount::{fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen};
use sys::mount::{Reach, attach, clone_tree, made_by_child, make_private, new_file_system};
use sys::namespace::Namespaces;
use sys::{Errno, Result};

/// A directory that takes part in an overlay.
#[derive(Debug)]
pub(crate) enum Layer {
    /// Somewhere in the caller's own tree of mounts.
    Attached(OwnedFd),
    /// The root of a mount that nobody sees.
    Detached(OwnedFd),
    /// To be opened by who mounts: the kernel takes no directory of another mount namespace.
    Path(CString),
}

/// The layers, and what else the kernel is told.
#[derive(Debug)]
pub(crate) struct Layers<'a> {
    /// The image.
    pub(crate) lower: &'a Layer,
    /// Where the content of the image's files is, if elsewhere.
    pub(crate) data: Option<&'a Layer>,
    /// The directory with `upper` and `work`, which must be reached by one mount.
    pub(crate) written: &'a Layer,
    /// An option with an empty value is a flag.
    pub(crate) options: &'static [(&'static CStr, &'static CStr)],
    pub(crate) durability: Durability,
}

/// Whether what is written must reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    Synced,
    Volatile,
}

/// How layers are named to the kernel, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Naming {
    Descriptors,
    Links,
    /// Links, by a process with a mount namespace of its own that all layers are attached in.
    LinksInNamespace,
}

/// Whether every layer lies in the mounter's own tree of mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Inside,
    Outside,
}

impl Naming {
    /// What to try when the kernel answered this one with `errno`; nothing when that answer stands.
    const fn after(self, errno: Errno, place: Place) -> Option<Self> {
        match (self, errno, place) {
            (Self::Descriptors, Errno::INVAL | Errno::OPNOTSUPP, Place::Inside) => Some(Self::Links),
            (Self::Descriptors, Errno::INVAL | Errno::OPNOTSUPP, Place::Outside) => Some(Self::LinksInNamespace),
            _ => None,
        }
    }
}

pub(crate) const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The layers as whoever mounts holds them.
struct Opened<'a> {
    lower: BorrowedFd<'a>,
    data: Option<BorrowedFd<'a>>,
    upper: OwnedFd,
    work: OwnedFd,
}

impl Layers<'_> {
    /// Mounts the overlay nowhere yet. Fork-safe.
    pub(crate) fn mount(&self) -> Result<OwnedFd> {
        let mut naming = Naming::Descriptors;
        loop {
            let errno = match self.mount_by(naming) {
                Ok(mount) => return Ok(mount),
                Err(errno) => errno,
            };
            naming = naming.after(errno, self.place()).ok_or(errno)?;
        }
    }

    fn place(&self) -> Place {
        let layers = [Some(self.lower), self.data, Some(self.written)];
        let outside = layers.into_iter().flatten().any(|it| matches!(it, Layer::Detached(_)));
        if outside { Place::Outside } else { Place::Inside }
    }

    fn mount_by(&self, naming: Naming) -> Result<OwnedFd> {
        if naming == Naming::LinksInNamespace {
            return self.mount_in_namespace();
        }
        let (mut lower, mut data, mut written) = (None, None, None);
        let data = self.data.map(|it| it.descriptor(&mut data)).transpose()?;
        let opened = Opened::of(self.lower.descriptor(&mut lower)?, data, self.written.descriptor(&mut written)?)?;
        self.mount_opened(&opened, naming)
    }

    fn mount_opened(&self, opened: &Opened<'_>, naming: Naming) -> Result<OwnedFd> {
        let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let context = context.as_fd();
        for (name, value) in self.options {
            if value.is_empty() {
                fsconfig_set_flag(context, *name)?;
            } else {
                fsconfig_set_string(context, *name, *value)?;
            }
        }
        if self.durability == Durability::Volatile {
            // An ordinary user may reach it only now, as root of a user namespace.
            unmark(opened.work.as_fd());
            fsconfig_set_flag(context, c"volatile")?;
        }
        match naming {
            Naming::Descriptors => opened.add_descriptors(context)?,
            Naming::Links | Naming::LinksInNamespace => opened.add_links(context)?,
        }
        fsconfig_create(context)?;
        fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    }

    /// Has the overlay mounted by a child that attaches all layers in a mount namespace of its own. The overlay holds its
    /// layers itself, so it outlives that.
    fn mount_in_namespace(&self) -> Result<OwnedFd> {
        let data = self.data.map(Layer::tree).transpose()?;
        let (lower, written) = (self.lower.tree()?, self.written.tree()?);
        made_by_child(Namespaces::MOUNT, || self.mount_attached(&lower, data.as_ref(), &written))
    }

    fn mount_attached(&self, lower: &OwnedFd, data: Option<&OwnedFd>, written: &OwnedFd) -> Result<OwnedFd> {
        let host = rustix::fs::openat(CWD, c"/", DIRECTORY, Mode::empty())?;
        make_private(&host, Reach::Tree)?;
        // It covers the root, but not for this process, whose root stays the covered one: /proc is still in sight.
        let places = new_file_system::<&CStr>(c"tmpfs", &[], MountAttrFlags::empty())?;
        attach(places.as_fd(), host.as_fd())?;
        for (name, tree) in [(c"lower", Some(lower)), (c"data", data), (c"written", Some(written))] {
            if let Some(tree) = tree {
                rustix::fs::mkdirat(&places, name, Mode::from_raw_mode(0o755))?;
                attach(tree.as_fd(), rustix::fs::openat(&places, name, DIRECTORY, Mode::empty())?.as_fd())?;
            }
        }
        let opened = Opened::of(lower.as_fd(), data.map(AsFd::as_fd), written.as_fd())?;
        self.mount_opened(&opened, Naming::LinksInNamespace)
    }
}

/// Takes away the mark by which the kernel refuses to mount a second time what may not have reached the disk. A cell that
/// is thrown away in the end may well start again before. Fork-safe.
pub(crate) fn unmark(work: BorrowedFd<'_>) {
    // What is not there needs no removal; what cannot be removed shows when the overlay is mounted.
    let _ = rustix::fs::unlinkat(work, c"work/incompat/volatile/dirty", AtFlags::empty());
    let _ = rustix::fs::unlinkat(work, c"work/incompat/volatile", AtFlags::REMOVEDIR);
}

impl Layer {
    /// The layer's descriptor, which lives in `opened` when there was none yet.
    fn descriptor<'a>(&'a self, opened: &'a mut Option<OwnedFd>) -> Result<BorrowedFd<'a>> {
        Ok(match self {
            Self::Attached(fd) | Self::Detached(fd) => fd.as_fd(),
            Self::Path(path) => {
                OwnedFd::as_fd(opened.insert(rustix::fs::openat(CWD, path.as_c_str(), DIRECTORY, Mode::empty())?))
            }
        })
    }

    /// The layer as a mount that can be attached once.
    fn tree(&self) -> Result<OwnedFd> {
        match self {
            Self::Attached(fd) => clone_tree(fd, c"", Reach::One),
            Self::Detached(fd) => rustix::io::fcntl_dupfd_cloexec(fd, 0),
            Self::Path(path) => clone_tree(CWD, path, Reach::One),
        }
    }
}

impl<'a> Opened<'a> {
    fn of(lower: BorrowedFd<'a>, data: Option<BorrowedFd<'a>>, written: BorrowedFd<'_>) -> Result<Self> {
        let open = |name: &CStr| rustix::fs::openat(written, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
        Ok(Self { lower, data, upper: open(c"upper")?, work: open(c"work")? })
    }

    fn add_descriptors(&self, context: BorrowedFd<'_>) -> Result<()> {
        fsconfig_set_fd(context, c"lowerdir+", self.lower)?;
        if let Some(data) = self.data {
            fsconfig_set_fd(context, c"datadir+", data)?;
        }
        fsconfig_set_fd(context, c"upperdir", &self.upper)?;
        fsconfig_set_fd(context, c"workdir", &self.work)
    }

    /// Data-only layers are named so since Linux 6.5; before, the kernel refuses the doubled colon.
    fn add_links(&self, context: BorrowedFd<'_>) -> Result<()> {
        let mut lower = Link::to(self.lower);
        if let Some(data) = self.data {
            lower.add(b"::", data);
        }
        fsconfig_set_string(context, c"lowerdir", lower.text()?)?;
        fsconfig_set_string(context, c"upperdir", Link::to(self.upper.as_fd()).text()?)?;
        fsconfig_set_string(context, c"workdir", Link::to(self.work.as_fd()).text()?)
    }
}

/// The paths of descriptors' links, as text without an allocation.
struct Link {
    /// Two links of at most 24 bytes, what separates them, and the terminating zero.
    bytes: [u8; 64],
    length: usize,
}

impl Link {
    fn to(fd: BorrowedFd<'_>) -> Self {
        let mut link = Self { bytes: [0; 64], length: 0 };
        link.add(b"", fd);
        link
    }

    fn add(&mut self, separator: &[u8], fd: BorrowedFd<'_>) {
        let number = fd.as_raw_fd().unsigned_abs();
        let digits = number.checked_ilog10().unwrap_or(0);
        let digits = (0..=digits).rev().map(|place| b'0' + (number / 10u32.pow(place) % 10) as u8);
        for byte in separator.iter().chain(b"/proc/self/fd/").copied().chain(digits) {
            if let Some(slot) = self.bytes.get_mut(self.length) {
                *slot = byte;
                self.length += 1;
            }
        }
    }

    fn text(&self) -> Result<&CStr> {
        CStr::from_bytes_until_nul(&self.bytes).map_err(|_| Errno::NAMETOOLONG)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_kernel_refuses_is_tried_another_way() {
        let check = |naming: Naming, errno, place, next| assert_eq!(naming.after(errno, place), next, "{naming:?}");
        for errno in [Errno::INVAL, Errno::OPNOTSUPP] {
            check(Naming::Descriptors, errno, Place::Inside, Some(Naming::Links));
            check(Naming::Descriptors, errno, Place::Outside, Some(Naming::LinksInNamespace));
            for place in [Place::Inside, Place::Outside] {
                check(Naming::Links, errno, place, None);
                check(Naming::LinksInNamespace, errno, place, None);
            }
        }
        // An answer that no other way would change.
        for errno in [Errno::PERM, Errno::NOENT, Errno::NODEV, Errno::BUSY, Errno::LOOP] {
            check(Naming::Descriptors, errno, Place::Outside, None);
        }
    }

    #[test]
    fn links_are_the_descriptors_own() {
        let file = std::fs::File::open("/").unwrap();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut link = Link::to(file.as_fd());
        assert_eq!(link.text().unwrap().to_str().unwrap(), path);
        link.add(b"::", file.as_fd());
        assert_eq!(link.text().unwrap().to_str().unwrap(), format!("{path}::{path}"));
    }

    /// Every way that this kernel takes gives the same overlay.
    #[test]
    fn each_way_of_naming_mounts_the_same() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        for naming in [Naming::Descriptors, Naming::Links, Naming::LinksInNamespace] {
            let dir = tempfile::tempdir().unwrap();
            for name in ["lower", "written", "written/upper", "written/work"] {
                std::fs::create_dir(dir.path().join(name)).unwrap();
            }
            std::fs::write(dir.path().join("lower/file"), "below").unwrap();
            let open = |name: &str| rustix::fs::openat(CWD, dir.path().join(name), DIRECTORY, Mode::empty()).unwrap();
            let lower = open("lower");
            let lower = match naming {
                Naming::LinksInNamespace => Layer::Detached(clone_tree(&lower, c"", Reach::One).unwrap()),
                Naming::Descriptors | Naming::Links => Layer::Attached(lower),
            };
            let written = Layer::Attached(open("written"));
            let layers = Layers {
                lower: &lower,
                data: None,
                written: &written,
                options: &[(c"index", c"off")],
                durability: Durability::Volatile,
            };
            match (layers.mount_by(naming), naming) {
                // Linux before 6.13.
                (Err(Errno::INVAL), Naming::Descriptors) => {}
                (mounted, _) => {
                    let path = format!("/proc/self/fd/{}/file", mounted.as_ref().unwrap().as_raw_fd());
                    assert_eq!(std::fs::read_to_string(&path).unwrap(), "below", "{naming:?}");
                    std::fs::write(&path, "above").unwrap();
                    assert_eq!(std::fs::read_to_string(dir.path().join("written/upper/file")).unwrap(), "above");
                }
            }
        }
    }
}
