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

    /// Makes the groups of a cell and sets its limits. What could not be applied comes back beside it.
    pub fn create(layout: &Layout, id: CellId, limits: &Limits) -> Result<(Self, Vec<Degraded>)> {
        let mut made = Self::none();
        if let Err(errno) = made.extend(layout, id, limits) {
            let _ = made.remove();
            return Err(Error::start(StartStep::Limits, "making the control groups", errno));
        }
        let degraded = made.apply(limits);
        Ok((made, degraded))
    }

    /// Changes the limits of a running cell; what is not set in `limits` stays as it is. A controller that the cell has
    /// no group for yet gets one, which all its processes are moved to. What could not be applied comes back.
    pub fn change(&mut self, layout: &Layout, id: CellId, limits: &Limits) -> Vec<Degraded> {
        let before = self.groups.len();
        // A group that cannot be made shows when its limit is applied.
        let _ = self.extend(layout, id, limits);
        let (known, added) = self.groups.split_at(before);
        if let Some(source) = known.first() {
            added.iter().for_each(|group| move_members(source, group));
        }
        self.apply(limits)
    }

    /// Makes the groups that a cell with those limits needs and does not have.
    fn extend(&mut self, layout: &Layout, id: CellId, limits: &Limits) -> sys::Result<()> {
        let mut names: Vec<&str> = ALWAYS.to_vec();
        if layout.v2().is_none() {
            names.push("freezer");
        }
        if limits.cpus.is_some() || limits.cpu_weight.is_some() {
            names.push("cpu");
        }
        if !limits.io.is_empty() {
            names.push("blkio");
        }
        for hierarchy in layout.v2().into_iter().chain(names.into_iter().filter_map(|name| layout.v1(name))) {
            let wanted = group(hierarchy, id);
            if self.groups.contains(&wanted) {
                continue;
            }
            match make(hierarchy, &wanted, limits) {
                Ok(()) => self.groups.push(wanted),
                // An ordinary user may own no group: the limits that need one are reported when they are applied.
                Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
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

    /// Stops every process of the cell where it is, and returns when they have stopped. If they do not, they go on.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen("1", "FROZEN").inspect_err(|_| drop(self.thaw()))
    }

    /// Lets them go on.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen("0", "THAWED")
    }

    fn set_frozen(&self, v2: &str, v1: &str) -> Result<()> {
        if let Some(group) = self.v2() {
            group.write("cgroup.freeze", v2).map_err(|errno| self.error(&group.path, errno))?;
            let wanted = format!("frozen {v2}");
            return self.poll(&group.path, || {
                let is_said = group.read("cgroup.events")?.lines().any(|line| line == wanted);
                Ok(is_said || (v2 == "1" && members::stand_but_for_the_kernels(group)?))
            });
        }
        let group = self.v1("freezer").ok_or(Error::NoFreezer)?;
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

fn make(hierarchy: &Hierarchy, group: &Group, limits: &Limits) -> sys::Result<()> {
    let directory = |path: &Path| match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    };
    match directory(&group.path) {
        Err(Errno::NOENT) => {
            directory(&parent(hierarchy))?;
            directory(&group.path)?;
        }
        other => other?,
    }
    if group.is_v2() {
        limits::delegate(hierarchy, &group.path, limits);
    }
    Ok(())
}

/// Moves every process of `from` to `to`, until no new one appears.
fn move_members(from: &Group, to: &Group) {
    for _ in 0..100 {
        let members = |group: &Group| group.read("cgroup.procs").unwrap_or_default();
        let there = members(to);
        let left: Vec<String> =
            members(from).lines().filter(|pid| !there.lines().any(|it| it == *pid)).map(str::to_owned).collect();
        if left.is_empty() {
            return;
        }
        // One that just ended needs no moving.
        for pid in left {
            let _ = to.write("cgroup.procs", &pid);
        }
    }
}

fn write(path: &Path, value: &str) -> sys::Result<()> {
    let file = rustix::fs::openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, value.as_bytes()).map(drop)
}

fn read(path: &Path) -> sys::Result<String> {
    std::fs::read_to_string(path).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))
}

#[cfg(test)]
mod tests;
