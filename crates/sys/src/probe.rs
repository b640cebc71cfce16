//! What this machine can do, found out by doing it: the data behind `skep doctor`.
//!
//! Nothing here trusts a version number or the presence of a file. What must be tried inside new namespaces is tried in a
//! child process, so the caller and the machine stay as they were.

#![expect(unsafe_code, reason = "asks the kernel for calls that it may lack")]

use std::ffi::{CStr, CString};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_string,
    fsmount, fsopen, move_mount,
};

use crate::cgroup::{Layout, Version};
use crate::mount::{Reach, clone_tree, make_private, map_owners, new_file_system};
use crate::namespace::{IdMap, Namespaces};
use crate::process::Ended;
use crate::{Errno, Result, check, fork, process};

/// One capability of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is, in a few words.
    pub name: &'static str,
    /// Whether it is there.
    pub state: State,
}

/// Whether a capability is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is; with a detail worth knowing, or nothing.
    Ok(String),
    /// It is not.
    Missing {
        /// What was tried and what the system answered.
        why: String,
        /// What would help.
        fix: &'static str,
    },
}

/// Tries everything. `scratch` is a directory on the file system that skep keeps its state on.
pub fn measure(scratch: &Path) -> Vec<Finding> {
    let mut findings = vec![namespaces(), user_namespaces(), cgroups()];
    findings.extend([
        finding("overlay file system", in_child(plain_overlay), "load the kernel module: modprobe overlay"),
        finding(
            "composed images (EROFS + data-only overlay)",
            composed(scratch),
            "needs Linux 6.12 with EROFS_FS and EROFS_FS_BACKED_BY_FILE; plain directories are used instead",
        ),
        finding(
            "id-mapped mounts",
            mapped(scratch),
            "run as root, on a file system that has them (ext4, xfs, btrfs, tmpfs)",
        ),
        finding("seccomp with a listener", listener(), "needs a kernel with SECCOMP_FILTER"),
        finding_of(
            "landlock",
            crate::landlock::version().map(|it| format!("version {it}")),
            "boot with lsm=…,landlock",
        ),
        finding("clone3 and pidfd", in_child(|| Ok(())), "needs Linux 5.3"),
        finding("openat2", openat2(), "needs Linux 5.6"),
        finding("mount_setattr", mount_setattr(), "needs Linux 5.12"),
        finding(
            "FUSE (files unpacked as they are read)",
            fuse(),
            "modprobe fuse, and be root; whole images are unpacked instead",
        ),
        finding(
            "tun devices",
            open("/dev/net/tun"),
            "modprobe tun, and be root or in the group that owns /dev/net/tun",
        ),
        finding_of(
            "KVM",
            crate::kvm::measure().map(|it| it.to_string()),
            "load kvm_intel or kvm_amd, and be in the group kvm; other engines work without",
        ),
    ]);
    findings
}

fn finding(name: &'static str, tried: Result<()>, fix: &'static str) -> Finding {
    finding_of(name, tried.map(|()| String::new()), fix)
}

fn finding_of(name: &'static str, tried: Result<String>, fix: &'static str) -> Finding {
    let state = match tried {
        Ok(detail) => State::Ok(detail),
        Err(errno) => State::Missing { why: errno.to_string(), fix },
    };
    Finding { name, state }
}

/// Runs `attempt` in a process with a mount namespace (and, for an ordinary user, a user namespace) of its own.
fn in_child(attempt: impl FnOnce() -> Result<()>) -> Result<()> {
    let kinds =
        if rustix::process::geteuid().is_root() { Namespaces::MOUNT } else { Namespaces::MOUNT.and(Namespaces::USER) };
    let child = fork::spawn(kinds, None, || match attempt() {
        Ok(()) => 0,
        // Error numbers that these calls give fit in a byte.
        Err(errno) => u8::try_from(errno.raw_os_error()).unwrap_or(u8::MAX),
    })?;
    match process::wait(&child.pidfd)? {
        Ended::Code(0) => Ok(()),
        Ended::Code(errno) => Err(Errno::from_raw_os_error(i32::from(errno))),
        Ended::Signal(_) => Err(Errno::INTR),
    }
}

fn namespaces() -> Finding {
    let privileged = rustix::process::geteuid().is_root();
    let beside = if privileged { Namespaces::empty() } else { Namespaces::USER };
    let refused: Vec<String> = Namespaces::NAMED
        .iter()
        .filter(|(kind, _)| *kind != Namespaces::USER)
        .filter_map(|(kind, name)| {
            let child = fork::spawn(kind.and(beside), None, || 0);
            let ended = child.and_then(|it| process::wait(it.pidfd));
            ended.err().map(|errno| format!("{name}: {errno}"))
        })
        .collect();
    let state = if refused.is_empty() {
        State::Ok("pid mnt uts ipc net cgroup".to_owned())
    } else {
        State::Missing { why: refused.join(", "), fix: "run as root, or allow user namespaces" }
    };
    Finding { name: "namespaces", state }
}

fn user_namespaces() -> Finding {
    let made = fork::spawn(Namespaces::USER, None, || 0).and_then(|it| process::wait(it.pidfd)).map(drop);
    finding("user namespaces", made, "sysctl user.max_user_namespaces=65536 kernel.unprivileged_userns_clone=1")
}

/// Which hierarchies there are, and in which a group can be made.
fn cgroups() -> Finding {
    let layout = Layout::discover().unwrap_or_default();
    let (mut able, mut unable) = (Vec::new(), Vec::new());
    for hierarchy in &layout.hierarchies {
        let name = match hierarchy.version {
            Version::V1 => hierarchy.controllers.join(","),
            Version::V2 => {
                let file = hierarchy.mount_point.join("cgroup.controllers");
                format!("v2({})", std::fs::read_to_string(file).unwrap_or_default().trim_end())
            }
        };
        let path = hierarchy.own.join(format!("skep-probe-{}", std::process::id()));
        match std::fs::create_dir(&path).and_then(|()| std::fs::remove_dir(&path)) {
            Ok(()) => able.push(name),
            Err(_) => unable.push(name),
        }
    }
    let mode = match (layout.v2().is_some(), layout.v1("memory").or_else(|| layout.v1("cpu")).is_some()) {
        (true, true) => "hybrid",
        (true, false) => "version 2",
        (false, true) => "version 1",
        (false, false) => "none",
    };
    let state = if able.is_empty() {
        let why = format!("{mode}; no group can be made in {}", unable.join(" "));
        State::Missing { why, fix: "run as root, or delegate a group to this user (systemd: Delegate=yes)" }
    } else {
        State::Ok(format!("{mode}; writable: {}", able.join(" ")))
    };
    Finding { name: "control groups", state }
}

/// An empty file system that only the calling (child) process sees, mounted over `/tmp`; its root.
fn private_tmpfs() -> Result<OwnedFd> {
    let host = rustix::fs::openat(CWD, c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    make_private(&host, Reach::Tree)?;
    let tree = new_file_system::<&CStr>(c"tmpfs", &[], MountAttrFlags::empty())?;
    move_mount(&tree, c"", CWD, c"/tmp", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    for name in [c"lower", c"upper", c"work"] {
        rustix::fs::mkdirat(&tree, name, Mode::from_raw_mode(0o755))?;
    }
    Ok(tree)
}

/// An overlay on `lower`, its layers named by descriptor as Linux 6.13 takes them or, for older ones, by path.
fn overlay(tmpfs: &OwnedFd, lower: &OwnedFd, content: Content) -> Result<()> {
    match overlay_of_descriptors(tmpfs, lower, content) {
        Err(Errno::INVAL | Errno::OPNOTSUPP) => {}
        other => return other,
    }
    let (context, lowerdir) = match content {
        Content::Inside => (fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?, c"/tmp/lower"),
        Content::Elsewhere => {
            rustix::fs::mkdirat(tmpfs, c"image", Mode::from_raw_mode(0o755))?;
            move_mount(lower, c"", tmpfs, c"image", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
            let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_set_string(context.as_fd(), c"metacopy", c"on")?;
            (context, c"/tmp/image::/tmp/lower")
        }
    };
    for (name, path) in [(c"lowerdir", lowerdir), (c"upperdir", c"/tmp/upper"), (c"workdir", c"/tmp/work")] {
        fsconfig_set_string(context.as_fd(), name, path)?;
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map(drop)
}

/// Where the content of a layer's files is.
#[derive(Clone, Copy)]
enum Content {
    Inside,
    Elsewhere,
}

fn overlay_of_descriptors(tmpfs: &OwnedFd, lower: &OwnedFd, content: Content) -> Result<()> {
    let directory = |name: &CStr| rustix::fs::openat(tmpfs, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_fd(context.as_fd(), c"lowerdir+", lower)?;
    if let Content::Elsewhere = content {
        fsconfig_set_string(context.as_fd(), c"metacopy", c"on")?;
        fsconfig_set_fd(context.as_fd(), c"datadir+", directory(c"lower")?)?;
    }
    fsconfig_set_fd(context.as_fd(), c"upperdir", directory(c"upper")?)?;
    fsconfig_set_fd(context.as_fd(), c"workdir", directory(c"work")?)?;
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map(drop)
}

fn plain_overlay() -> Result<()> {
    let tmpfs = private_tmpfs()?;
    let lower = rustix::fs::openat(&tmpfs, c"lower", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    overlay(&tmpfs, &lower, Content::Inside)
}

fn composed(scratch: &Path) -> Result<()> {
    let io = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let path = scratch.join(format!("skep-probe-{}.erofs", std::process::id()));
    let mut file = std::fs::File::options().read(true).write(true).create_new(true).open(&path).map_err(io)?;
    std::fs::remove_file(&path).map_err(io)?;
    file.write_all(&empty_erofs()).map_err(io)?;
    let source = std::ffi::CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|_| Errno::INVAL)?;
    in_child(|| {
        let tmpfs = private_tmpfs()?;
        let image = new_file_system(c"erofs", &[(c"source", source.as_c_str())], MountAttrFlags::MOUNT_ATTR_RDONLY)?;
        overlay(&tmpfs, &image, Content::Elsewhere)
    })
}

/// The least EROFS image: one block with a superblock and an empty root directory. The layout is that of the kernel's
/// `fs/erofs/erofs_fs.h`.
fn empty_erofs() -> Vec<u8> {
    const SUPERBLOCK: usize = 1024;
    /// Where the root's inode lies, in units of 32 bytes.
    const ROOT: u16 = 40;
    let mut image = vec![0u8; 4096];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(slot) = image.get_mut(at..at + bytes.len()) {
            slot.copy_from_slice(bytes);
        }
    };
    put(SUPERBLOCK, &0xe0f5_e1e2_u32.to_le_bytes());
    put(SUPERBLOCK + 12, &[12]);
    put(SUPERBLOCK + 14, &ROOT.to_le_bytes());
    put(SUPERBLOCK + 16, &1u64.to_le_bytes());
    put(SUPERBLOCK + 36, &1u32.to_le_bytes());
    let inode = usize::from(ROOT) * 32;
    // A compact inode whose data follows it.
    put(inode, &4u16.to_le_bytes());
    put(inode + 4, &0o040_755_u16.to_le_bytes());
    put(inode + 6, &2u16.to_le_bytes());
    put(inode + 8, &27u32.to_le_bytes());
    for (index, (name_at, name)) in [(24u16, &b"."[..]), (25, b"..")].into_iter().enumerate() {
        let entry = inode + 32 + 12 * index;
        put(entry, &u64::from(ROOT).to_le_bytes());
        put(entry + 8, &name_at.to_le_bytes());
        put(entry + 10, &[2]);
        put(inode + 32 + usize::from(name_at), name);
    }
    image
}

fn mapped(scratch: &Path) -> Result<()> {
    let map = IdMap { outside_uid: 1 << 30, outside_gid: 1 << 30, count: 65536 };
    let namespace = crate::namespace::user_namespace(map)?;
    let path = std::ffi::CString::new(scratch.as_os_str().as_encoded_bytes()).map_err(|_| Errno::INVAL)?;
    map_owners(clone_tree(CWD, &path, Reach::One)?, namespace.as_fd(), Reach::One)
}

fn listener() -> Result<()> {
    let action: u32 = 0x7fc0_0000;
    // SAFETY: asks whether an action, given by a pointer to its number, is known.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) }).map(drop)
}

fn openat2() -> Result<()> {
    rustix::fs::openat2(CWD, c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT).map(drop)
}

fn mount_setattr() -> Result<()> {
    // SAFETY: no structure is passed (its size is 0), which the kernel refuses if it has the call at all.
    match check(unsafe { libc::syscall(libc::SYS_mount_setattr, -1, c"".as_ptr(), 0, 0, 0) }) {
        Err(Errno::NOSYS) => Err(Errno::NOSYS),
        _ => Ok(()),
    }
}

/// A FUSE file system that is mounted nowhere and has no server: the kernel asks nothing of it before it is used.
fn fuse() -> Result<()> {
    let device = rustix::fs::openat(CWD, "/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let number = CString::new(device.as_raw_fd().to_string()).map_err(|_| Errno::INVAL)?;
    let options: [(&CStr, &CStr); 4] =
        [(c"fd", &number), (c"rootmode", c"40555"), (c"user_id", c"0"), (c"group_id", c"0")];
    new_file_system(c"fuse", &options, MountAttrFlags::MOUNT_ATTR_RDONLY).map(drop)
}

fn open(path: &str) -> Result<()> {
    rustix::fs::openat(CWD, path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map(drop)
}

/// What the processor can do, as the kernel told this program when it began: `AT_HWCAP` and `AT_HWCAP2` of
/// [`getauxval`](https://man7.org/linux/man-pages/man3/getauxval.3.html). Needs no `/proc`.
pub fn hardware_capabilities() -> [u64; 2] {
    // SAFETY: reads what was given to the program; no preconditions.
    [libc::AT_HWCAP, libc::AT_HWCAP2].map(|it| unsafe { libc::getauxval(it) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_tried_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let findings = measure(dir.path());
        println!("{findings:#?}");
        assert_eq!(findings.len(), 14);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let ok = |name: &str| findings.iter().any(|it| it.name == name && matches!(it.state, State::Ok(_)));
        // What no supported kernel lacks.
        assert!(ok("openat2") && ok("mount_setattr") && ok("seccomp with a listener"), "{findings:?}");
    }
}
