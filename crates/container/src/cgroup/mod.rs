//! A cell's control groups: one directory in each hierarchy that is needed for its limits, statistics, pausing, killing.
//!
//! Version 1 cells lie in `skep/ID` below the caller's own group of each hierarchy, version 2 cells in `skep/ID` below
//! the root of the mount. A directory for a version 1 controller that only limits (cpu, blkio) is made when a limit
//! asks for it. **A limit that cannot be applied becomes a [`Degraded`]**; failing to be a member of a group that
//! exists is an error: no program of a cell runs outside its groups.

mod limits;
mod members;
mod stats;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::{CellId, Degraded, Limits, StartStep};
use rustix::fs::{CWD, Mode, OFlags};
use serde::{Deserialize, Serialize};
use sys::Errno;
use sys::cgroup::{Hierarchy, Layout, Version};

use crate::error::{Error, Result};

pub use stats::Stats;

/// The directory that holds all cells in a hierarchy.
const PARENT: &str = "skep";

/// Names another directory, relative to the root of each hierarchy's mount, to hold all cells.
const PARENT_VARIABLE: &str = "SKEP_CGROUP_PARENT";

/// Version 1 controllers that every cell is a member of: without them it could be neither measured nor killed whole.
const ALWAYS: [&str; 3] = ["memory", "cpuacct", "pids"];

/// The control groups of one cell: enough to find them again after a crash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cgroup {
    groups: Vec<Group>,
}

/// A cell's directory in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    /// Version 1: its controllers. Version 2: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    v1: Vec<String>,
    path: PathBuf,
}

impl Group {
    fn is_v2(&self) -> bool {
        self.v1.is_empty()
    }

    fn write(&self, file: &str, value: &str) -> sys::Result<()> {
        write(&self.path.join(file), value)
    }

    fn read(&self, file: &str) -> sys::Result<String> {
        read(&self.path.join(file))
    }
}

impl Cgroup {
    /// No groups at all.
    pub(crate) const fn none() -> Self {
        Self { groups: Vec::new() }
    }

    /// Makes the groups of a cell and sets its limits.
    pub fn create(layout: &Layout, id: CellId, limits: &Limits) -> Result<(Self, Vec<Degraded>)> {
        let mut made = Self::none();
        let mut wanted: Vec<&Hierarchy> = Vec::with_capacity(8);
        let mut want = |hierarchy: Option<&'_ Hierarchy>| {
            if let Some(found) = hierarchy
                && !wanted.iter().any(|it| it.mount_point == found.mount_point)
            {
                // The lifetime of `layout` outlives this list.
                wanted.push(layout.hierarchies.iter().find(|it| *it == found).unwrap_or(&layout.hierarchies[0]));
            }
        };
        want(layout.v2());
        ALWAYS.iter().for_each(|name| want(layout.v1(name)));
        if layout.v2().is_none() {
            want(layout.v1("freezer"));
        }
        if limits.cpus.is_some() || limits.cpu_weight.is_some() {
            want(layout.v1("cpu"));
        }
        if !limits.io.is_empty() {
            want(layout.v1("blkio"));
        }
        for hierarchy in wanted {
            match make(hierarchy, id, limits) {
                Ok(group) => made.groups.push(group),
                // An ordinary user may own no group: the limits that need one are reported below.
                Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => {}
                Err(errno) => {
                    let _ = made.remove();
                    let what = format!("making a control group in {}", hierarchy.mount_point.display());
                    return Err(Error::start(StartStep::Limits, what, errno));
                }
            }
        }
        let degraded = made.apply(limits);
        Ok((made, degraded))
    }

    /// Sets limits; what is not set in `limits` stays as it is. What could not be applied comes back.
    pub fn apply(&self, limits: &Limits) -> Vec<Degraded> {
        limits::apply(self, limits)
    }

    /// What the cell uses now.
    pub fn stats(&self) -> Stats {
        stats::read(self)
    }

    /// How often the kernel killed a process of the cell because it was over its memory limit.
    pub fn oom_kills(&self) -> u64 {
        stats::oom_kills(self)
    }

    /// Stops every process of the cell where it is, and returns when they have stopped.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen("1", "FROZEN")
    }

    /// Lets them go on.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen("0", "THAWED")
    }

    fn set_frozen(&self, v2: &str, v1: &str) -> Result<()> {
        if let Some(group) = self.v2() {
            group.write("cgroup.freeze", v2).map_err(|errno| self.error(&group.path, errno))?;
            let wanted = format!("frozen {v2}");
            return self.poll(&group.path, || Ok(group.read("cgroup.events")?.lines().any(|line| line == wanted)));
        }
        let group = self.v1("freezer").ok_or_else(|| self.error(Path::new("freezer"), Errno::NOSYS))?;
        self.poll(&group.path, || {
            // Writing again makes the kernel try again with processes that were not stoppable the last time.
            group.write("freezer.state", v1)?;
            Ok(group.read("freezer.state")?.trim_end() == v1)
        })
    }

    /// Kills every process of the cell, frozen ones included.
    pub fn kill_all(&self) -> Result<()> {
        if let Some(group) = self.v2()
            && group.write("cgroup.kill", "1").is_ok()
        {
            return Ok(());
        }
        let Some(group) = self.groups.first() else { return Ok(()) };
        self.poll(&group.path, || {
            let members = group.read("cgroup.procs")?;
            for pid in members.lines().filter_map(|it| it.parse().ok()) {
                if let Ok(pidfd) = sys::process::open(pid) {
                    sys::process::kill(pidfd)?;
                }
            }
            if !members.is_empty() && self.v1("freezer").is_some() {
                let _ = self.thaw();
            }
            Ok(members.is_empty())
        })
    }

    /// Removes the groups. Processes that are just dying are waited for; others make it fail.
    pub fn remove(&self) -> Result<()> {
        self.groups.iter().try_for_each(|group| {
            self.poll(&group.path, || match rustix::fs::unlinkat(CWD, &group.path, rustix::fs::AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => Ok(true),
                Err(Errno::BUSY) => Ok(false),
                Err(errno) => Err(errno),
            })
        })
    }

    /// The identities of all cells that have control groups, living or left by a crash.
    pub fn leftovers(layout: &Layout) -> Vec<CellId> {
        let mut found: Vec<CellId> = Vec::new();
        for hierarchy in &layout.hierarchies {
            let Ok(entries) = std::fs::read_dir(parent(hierarchy)) else { continue };
            let names = entries.filter_map(|it| it.ok()?.file_name().into_string().ok());
            found.extend(names.filter_map(|it| it.parse::<CellId>().ok()));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The groups of that cell as far as they exist: what a crash left.
    pub fn find(layout: &Layout, id: CellId) -> Self {
        let groups = layout.hierarchies.iter().map(|it| group(it, id)).filter(|it| it.path.exists()).collect();
        Self { groups }
    }

    /// The files that a process of the cell writes itself into, version 1.
    pub(crate) fn member_files(&self) -> Result<Vec<OwnedFd>> {
        // `tasks` moves the one thread that writes, for which the kernel need not stop the others' forks.
        let open = |group: &Group| self.open(&group.path.join("tasks"), OFlags::WRONLY);
        self.groups.iter().filter(|it| !it.is_v2()).map(open).collect()
    }

    /// The directory for making a process right in the group, version 2.
    pub(crate) fn directory(&self) -> Result<Option<OwnedFd>> {
        self.v2().map(|group| self.open(&group.path, OFlags::PATH | OFlags::DIRECTORY)).transpose()
    }

    fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd> {
        rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| self.error(path, errno))
    }

    /// Whether the cell has a version 2 group with everything and no other.
    pub(crate) fn is_only_v2(&self) -> bool {
        self.groups.iter().all(Group::is_v2)
    }

    /// The controllers of each version 1 hierarchy that the cell has a group in.
    pub(crate) fn v1_hierarchies(&self) -> impl Iterator<Item = &[String]> {
        self.groups.iter().filter(|it| !it.is_v2()).map(|it| it.v1.as_slice())
    }

    fn v2(&self) -> Option<&Group> {
        self.groups.iter().find(|it| it.is_v2())
    }

    fn v1(&self, controller: &str) -> Option<&Group> {
        self.groups.iter().find(|it| it.v1.iter().any(|name| name == controller))
    }

    #[expect(clippy::unused_self, reason = "reads as the group's own error")]
    fn error(&self, path: &Path, cause: Errno) -> Error {
        Error::Cgroup { path: path.display().to_string(), cause }
    }

    /// Repeats `step` until it says that it is done, for up to two seconds.
    fn poll(&self, path: &Path, mut step: impl FnMut() -> sys::Result<bool>) -> Result<()> {
        let mut pause = Duration::from_micros(50);
        let mut waited = Duration::ZERO;
        loop {
            if step().map_err(|errno| self.error(path, errno))? {
                return Ok(());
            }
            if waited > Duration::from_secs(2) {
                return Err(self.error(path, Errno::BUSY));
            }
            std::thread::sleep(pause);
            waited += pause;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

/// The directory that holds all cells in `hierarchy`.
fn parent(hierarchy: &Hierarchy) -> PathBuf {
    match std::env::var_os(PARENT_VARIABLE) {
        Some(chosen) => {
            let relative = Path::new(&chosen).strip_prefix("/").unwrap_or(Path::new(&chosen)).to_owned();
            hierarchy.mount_point.join(relative)
        }
        None if hierarchy.version == Version::V2 => hierarchy.mount_point.join(PARENT),
        None => hierarchy.own.join(PARENT),
    }
}

fn group(hierarchy: &Hierarchy, id: CellId) -> Group {
    let v1 = if hierarchy.version == Version::V1 { hierarchy.controllers.clone() } else { Vec::new() };
    Group { v1, path: parent(hierarchy).join(id.to_string()) }
}

fn make(hierarchy: &Hierarchy, id: CellId, limits: &Limits) -> sys::Result<Group> {
    let group = group(hierarchy, id);
    let directory = |path: &Path| rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o755));
    match directory(&group.path) {
        Err(Errno::NOENT) => {
            let parent = parent(hierarchy);
            match directory(&parent) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            directory(&group.path)?;
        }
        Err(Errno::EXIST) => {}
        other => other?,
    }
    if group.is_v2() {
        limits::delegate(hierarchy, &group.path, limits);
    }
    Ok(group)
}

fn write(path: &Path, value: &str) -> sys::Result<()> {
    let file = rustix::fs::openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, value.as_bytes()).map(drop)
}

fn read(path: &Path) -> sys::Result<String> {
    std::fs::read_to_string(path).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))
}
