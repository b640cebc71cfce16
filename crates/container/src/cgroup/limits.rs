//! Limits as files of either version.

use std::path::Path;

use model::{ByteSize, Cpus, Degraded, IoLimit, Limits, Weight};
use rustix::fs::{CWD, FileType};
use sys::Errno;
use sys::cgroup::Hierarchy;

use super::{Cgroup, Group};

/// The length of a bandwidth period, in microseconds.
const PERIOD_US: u64 = 100_000;

/// Why a limit was not applied.
type Why = String;

pub(super) fn apply(cgroup: &Cgroup, limits: &Limits) -> Vec<Degraded> {
    let mut degraded = Vec::new();
    let mut note = |what: &str, done: Result<(), Why>| {
        if let Err(why) = done {
            degraded.push(Degraded { what: what.to_owned(), why });
        }
    };
    if let Some(memory) = limits.memory {
        note("--memory", set_memory(cgroup, memory));
    }
    if let Some(cpus) = limits.cpus {
        note("--cpus", set_cpus(cgroup, cpus));
    }
    if let Some(weight) = limits.cpu_weight {
        note("--cpu-weight", set_weight(cgroup, weight));
    }
    if let Some(pids) = limits.pids {
        note("--pids-limit", set(cgroup, "pids", "pids.max", "pids.max", &pids.to_string(), &pids.to_string()));
    }
    for io in &limits.io {
        note("--io", set_io(cgroup, io));
    }
    degraded
}

/// Lets the controllers that `limits` and the statistics need reach down to the version 2 group at `path`. What cannot
/// be enabled shows when a limit is written.
pub(super) fn delegate(hierarchy: &Hierarchy, path: &Path, limits: &Limits) {
    let available = super::read(&hierarchy.mount_point.join("cgroup.controllers")).unwrap_or_default();
    let has = |name: &str| available.split_whitespace().any(|it| it == name);
    let wanted = ["cpu", "memory", "pids", "io"];
    let io = !limits.io.is_empty();
    let enable: Vec<String> =
        wanted.iter().filter(|it| has(it) && (**it != "io" || io)).map(|it| format!("+{it}")).collect();
    if enable.is_empty() {
        return;
    }
    let mut above: Vec<&Path> =
        path.ancestors().skip(1).take_while(|it| it.starts_with(&hierarchy.mount_point)).collect();
    above.reverse();
    for directory in above {
        let file = directory.join("cgroup.subtree_control");
        if super::write(&file, &enable.join(" ")).is_err() {
            // All or nothing failed: take what can be had.
            for one in &enable {
                let _ = super::write(&file, one);
            }
        }
    }
}

fn set(cgroup: &Cgroup, controller: &str, v1: &str, v2: &str, v1_value: &str, v2_value: &str) -> Result<(), Why> {
    if let Some(group) = cgroup.v1(controller) {
        return write(group, v1, v1_value);
    }
    let missing = || format!("no control group with the {controller} controller can be used here");
    let group = cgroup.v2().ok_or_else(missing)?;
    match group.write(v2, v2_value) {
        Err(Errno::NOENT) => Err(missing()),
        Err(errno) => Err(format!("writing {v2}: {errno}")),
        Ok(()) => Ok(()),
    }
}

fn write(group: &Group, file: &str, value: &str) -> Result<(), Why> {
    group.write(file, value).map_err(|errno| format!("writing {file}: {errno}"))
}

fn set_memory(cgroup: &Cgroup, limit: ByteSize) -> Result<(), Why> {
    let value = limit.get().to_string();
    let Some(group) = cgroup.v1("memory") else {
        set(cgroup, "memory", "", "memory.max", "", &value)?;
        if let Some(group) = cgroup.v2() {
            // No swap beside it; absent where the kernel has no swap accounting.
            let _ = group.write("memory.swap.max", "0");
        }
        return Ok(());
    };
    // Memory and swap together may never be below memory alone, so their order depends on the direction.
    let with_swap = |group: &Group| match group.write("memory.memsw.limit_in_bytes", &value) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    };
    let first = with_swap(group);
    write(group, "memory.limit_in_bytes", &value)?;
    first.or_else(|_| with_swap(group)).map_err(|errno| format!("writing memory.memsw.limit_in_bytes: {errno}"))
}

fn set_cpus(cgroup: &Cgroup, cpus: Cpus) -> Result<(), Why> {
    let quota = cpus.quota_us(PERIOD_US).max(1000);
    if let Some(group) = cgroup.v1("cpu") {
        write(group, "cpu.cfs_period_us", &PERIOD_US.to_string())?;
        return write(group, "cpu.cfs_quota_us", &quota.to_string());
    }
    set(cgroup, "cpu", "", "cpu.max", "", &format!("{quota} {PERIOD_US}"))
}

fn set_weight(cgroup: &Cgroup, weight: Weight) -> Result<(), Why> {
    let (v1, v2) = (weight.v1_shares().to_string(), weight.v2().to_string());
    set(cgroup, "cpu", "cpu.shares", "cpu.weight", &v1, &v2)
}

fn set_io(cgroup: &Cgroup, limit: &IoLimit) -> Result<(), Why> {
    let stat = rustix::fs::statat(CWD, limit.device.as_str(), rustix::fs::AtFlags::empty())
        .map_err(|errno| format!("{}: {errno}", limit.device))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::BlockDevice {
        return Err(format!("{} is not a block device", limit.device));
    }
    let device = format!("{}:{}", rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let rate = |rate: Option<ByteSize>| rate.map(ByteSize::get);
    let (read, write_rate) = (rate(limit.read), rate(limit.write));
    if let Some(group) = cgroup.v1("blkio") {
        for (file, value) in [("read_bps_device", read), ("write_bps_device", write_rate)] {
            if let Some(value) = value {
                write(group, &format!("blkio.throttle.{file}"), &format!("{device} {value}"))?;
            }
        }
        return Ok(());
    }
    let word = |name: &str, value: Option<u64>| value.map_or(String::new(), |it| format!(" {name}={it}"));
    let line = format!("{device}{}{}", word("rbps", read), word("wbps", write_rate));
    set(cgroup, "io", "", "io.max", "", &line)
}
