//! What a cell's root has mounted in it: the kernel's file systems, what hides parts of them, what the user asked for.

use std::cell::OnceCell;
use std::ffi::{CStr, CString};
use std::path::Path;

use model::{Capability, Mount, MountAccess, MountKind, RootAccess, StartStep};
use rustix::fs::CWD;
use rustix::mount::MountAttrFlags;

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::ids::Ids;
use crate::mounts::{DeviceFiles, Links, MountStep};
use crate::neighbour::Neighbour;
use crate::path::{Kind, in_cell};
use crate::plan::{Body, NetNs, Plan};

const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;
const NO_SUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
const NO_DEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;
const NO_EXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
/// What kernel file systems are mounted with.
const SAFE: MountAttrFlags = NO_SUID.union(NO_DEV).union(NO_EXEC);

/// Parts of `/proc` and `/sys` that tell or change what is the host's: what docker hides.
const HIDDEN: [&str; 12] = [
    "proc/acpi",
    "proc/asound",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/timer_list",
    "proc/timer_stats",
    "sys/devices/virtual/powercap",
    "sys/firmware",
];

/// Parts of `/proc` that may be read but not written.
const PROTECTED: [&str; 5] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];

/// The steps, each with what an error message calls it.
struct Steps<'a> {
    words: &'a mut Vec<String>,
    steps: Vec<MountStep>,
    gathering: Gathering,
}

/// Who copies the host's files that are put into the cell.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gathering {
    /// The cell's first process: the same user, or root as the parent is.
    ByChild,
    /// The parent: root of the cell's user namespace may not search the directories on the way.
    ByParent,
}

/// Everything to be mounted, in order.
pub(crate) fn steps(
    plan: &Plan,
    ids: &Ids,
    neighbour: Option<&Neighbour>,
    cgroup: &Cgroup,
    words: &mut Vec<String>,
) -> Result<Vec<MountStep>> {
    let gathering = if matches!(ids, Ids::Mapped(_)) { Gathering::ByParent } else { Gathering::ByChild };
    let mut steps = Steps { words, steps: Vec::with_capacity(32 + plan.mounts.len() + plan.files.len()), gathering };
    let privileged = plan.security.capabilities.contains(&Capability::SysAdmin);
    steps.kernel(plan, ids, if privileged { SAFE } else { SAFE | READ_ONLY });
    steps.ipc(neighbour)?;
    if !plan.limits.is_empty() && shows_kernel(plan) {
        steps.cgroups(cgroup);
    }
    for (host, target) in &plan.files {
        steps.host(host, target, MountAccess::ReadWrite)?;
    }
    for mount in &plan.mounts {
        steps.users(mount)?;
    }
    if plan.security.root == RootAccess::ReadOnly && !plan.mounts.iter().any(|it| it.target == Path::new("/tmp")) {
        steps.fresh(c"tmpfs", &[("mode", "1777")], NO_SUID | NO_DEV, "tmp", Links::Follow);
    }
    if !privileged && shows_kernel(plan) {
        HIDDEN.iter().for_each(|path| steps.add(path, MountStep::Hide { target: text(path) }));
        PROTECTED.iter().for_each(|path| steps.add(path, MountStep::Protect { target: text(path) }));
    }
    Ok(steps.steps)
}

/// Whether the kernel's file systems are there to be seen: a resident shows its guests its own, and whatever a guest gets
/// it to open must not be the host's.
fn shows_kernel(plan: &Plan) -> bool {
    matches!(plan.body, Body::Command)
}

/// A path of the cell, ready to be looked up in it.
pub(crate) fn cell_path(path: &Path) -> Result<CString> {
    in_cell(path).ok_or_else(|| {
        Error::refused(StartStep::Mounts, path.display().to_string(), "not a plain absolute path without '..'")
    })
}

/// Of texts without zero bytes: our own, and numbers.
fn text(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

impl Steps<'_> {
    fn add(&mut self, what: &str, step: MountStep) {
        self.words.push(format!("/{}", what.trim_start_matches('/')));
        self.steps.push(step);
    }

    /// A new file system.
    fn fresh(
        &mut self,
        kind: &'static CStr,
        options: &[(&str, &str)],
        attributes: MountAttrFlags,
        target: &str,
        links: Links,
    ) {
        let options = options.iter().map(|(name, value)| (text(name), text(value))).collect();
        let gathered = OnceCell::new();
        self.add(target, MountStep::New { kind, options, attributes, target: text(target), links, gathered });
    }

    fn kernel(&mut self, plan: &Plan, ids: &Ids, sys_attributes: MountAttrFlags) {
        if shows_kernel(plan) {
            self.fresh(c"proc", &[], SAFE, "proc", Links::Refuse);
        }
        if !shows_kernel(plan) {
            // Nothing is mounted there.
        } else if plan.netns == NetNs::Host && !matches!(ids, Ids::Host) {
            // A sysfs shows a network namespace, and only its owner may mount one.
            let (path, target) = (c"/sys".to_owned(), c"sys".to_owned());
            let (access, kind, gathered) = (MountAccess::ReadOnly, Kind::Directory, OnceCell::new());
            self.add("sys", MountStep::Host { path, access, target, kind, gathered });
        } else {
            self.fresh(c"sysfs", &[], sys_attributes, "sys", Links::Refuse);
        }
        self.fresh(c"tmpfs", &[("mode", "755"), ("size", "65536k")], NO_SUID, "dev", Links::Refuse);
        let files = match ids {
            Ids::Host => DeviceFiles::Made,
            Ids::Mapped(_) | Ids::Ordinary(_) => DeviceFiles::Hosts(Default::default()),
        };
        self.add("dev", MountStep::Devices(files));
        let mut pts = vec![("newinstance", ""), ("mode", "620"), ("ptmxmode", "666")];
        if !matches!(ids, Ids::Ordinary(_)) {
            pts.push(("gid", "5"));
        }
        self.fresh(c"devpts", &pts, NO_SUID | NO_EXEC, "dev/pts", Links::Follow);
    }

    /// What programs share with each other, and with those of another cell.
    fn ipc(&mut self, neighbour: Option<&Neighbour>) -> Result<()> {
        let Some(Neighbour { memory, queues, .. }) = neighbour else {
            self.fresh(c"tmpfs", &[("mode", "1777"), ("size", "65536k")], SAFE, "dev/shm", Links::Follow);
            self.fresh(c"mqueue", &[], SAFE, "dev/mqueue", Links::Follow);
            return Ok(());
        };
        for (what, tree) in [("dev/shm", memory), ("dev/mqueue", queues)] {
            let tree = rustix::io::fcntl_dupfd_cloexec(tree, 0);
            let tree = tree.map_err(|errno| Error::start(StartStep::Mounts, format!("mounting /{what}"), errno))?;
            let (path, kind, gathered) = (text(what), Kind::Directory, OnceCell::from(tree));
            let (access, target) = (MountAccess::ReadWrite, path.clone());
            self.add(what, MountStep::Host { path, access, target, kind, gathered });
        }
        Ok(())
    }

    /// The cell's own view of its control groups, for programs that size themselves by their limits.
    fn cgroups(&mut self, cgroup: &Cgroup) {
        let attributes = SAFE | READ_ONLY;
        if cgroup.is_only_v2() {
            self.fresh(c"cgroup2", &[], attributes, "sys/fs/cgroup", Links::Follow);
            return;
        }
        self.fresh(c"tmpfs", &[("mode", "755")], SAFE, "sys/fs/cgroup", Links::Follow);
        for controllers in cgroup.v1_hierarchies() {
            let options: Vec<(&str, &str)> = controllers.iter().map(|it| (it.as_str(), "")).collect();
            let target = format!("sys/fs/cgroup/{}", controllers.join(","));
            self.fresh(c"cgroup", &options, attributes, &target, Links::Follow);
        }
    }

    /// A file or directory of the host.
    fn host(&mut self, host: &Path, target: &Path, access: MountAccess) -> Result<()> {
        let wrong = |errno| Error::start(StartStep::Mounts, format!("opening {}", host.display()), errno);
        let path = CString::new(host.as_os_str().as_encoded_bytes()).map_err(|_| wrong(sys::Errno::INVAL))?;
        let stat = rustix::fs::statat(CWD, &path, rustix::fs::AtFlags::empty()).map_err(wrong)?;
        let kind = Kind::of_mode(stat.st_mode);
        let what = target.to_string_lossy().into_owned();
        let target = cell_path(target)?;
        let step = MountStep::Host { path, access, target, kind, gathered: OnceCell::new() };
        if self.gathering == Gathering::ByParent {
            step.gather().map_err(|failure| wrong(failure.errno))?;
        }
        self.add(&what, step);
        Ok(())
    }

    /// What the user asked for.
    fn users(&mut self, mount: &Mount) -> Result<()> {
        match &mount.kind {
            MountKind::Bind(host) => self.host(host, &mount.target, mount.access),
            MountKind::Tmpfs(size) => {
                let mut options = vec![(text("mode"), text("1777"))];
                options.extend(size.map(|it| (text("size"), text(&it.get().to_string()))));
                let access = if mount.access == MountAccess::ReadOnly { READ_ONLY } else { MountAttrFlags::empty() };
                let attributes = NO_SUID | NO_DEV | access;
                let target = cell_path(&mount.target)?;
                let what = mount.target.to_string_lossy();
                let (kind, links, gathered) = (c"tmpfs", Links::Follow, OnceCell::new());
                self.add(&what, MountStep::New { kind, options, attributes, target, links, gathered });
                Ok(())
            }
        }
    }
}
