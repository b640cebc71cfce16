//! What a cell uses, read from whichever version has it.

use serde::{Deserialize, Serialize};

use super::{Cgroup, Group};

/// What a cell uses. What this machine cannot tell is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stats {
    /// Processor time so far, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// Time that its quota kept it from running, in nanoseconds.
    pub throttled_ns: Option<u64>,
    /// Memory now, page cache included, in bytes.
    pub memory: Option<u64>,
    /// The most memory so far, in bytes.
    pub memory_peak: Option<u64>,
    /// The memory limit, in bytes, when there is one.
    pub memory_limit: Option<u64>,
    /// The part of the memory that is page cache, in bytes.
    pub memory_file: Option<u64>,
    /// Processes and threads now.
    pub pids: Option<u64>,
    /// Bytes read from block devices so far.
    pub io_read: Option<u64>,
    /// Bytes written to block devices so far.
    pub io_written: Option<u64>,
}

pub(super) fn read(cgroup: &Cgroup) -> Stats {
    let v2 = cgroup.v2();
    let number = |group: Option<&Group>, file: &str| group?.read(file).ok()?.trim().parse::<u64>().ok();
    let field = |group: Option<&Group>, file: &str, name: &str| find(&group?.read(file).ok()?, name);
    let memory = cgroup.v1("memory");
    let (io_read, io_written) = io(cgroup);
    // Version 1 says "no limit" by the largest multiple of the page size.
    let no_limit = |limit: &u64| *limit < i64::MAX as u64 - 0xffff;
    Stats {
        cpu_ns: number(cgroup.v1("cpuacct"), "cpuacct.usage")
            .or_else(|| field(v2, "cpu.stat", "usage_usec").map(|it| it.saturating_mul(1000))),
        throttled_ns: field(cgroup.v1("cpu"), "cpu.stat", "throttled_time")
            .or_else(|| field(v2, "cpu.stat", "throttled_usec").map(|it| it.saturating_mul(1000))),
        memory: number(memory, "memory.usage_in_bytes").or_else(|| number(v2, "memory.current")),
        memory_peak: number(memory, "memory.max_usage_in_bytes").or_else(|| number(v2, "memory.peak")),
        memory_limit: number(memory, "memory.limit_in_bytes").or_else(|| number(v2, "memory.max")).filter(no_limit),
        memory_file: field(memory, "memory.stat", "total_cache").or_else(|| field(v2, "memory.stat", "file")),
        pids: number(cgroup.v1("pids"), "pids.current").or_else(|| number(v2, "pids.current")),
        io_read,
        io_written,
    }
}

pub(super) fn oom_kills(cgroup: &Cgroup) -> u64 {
    let (group, file) = match cgroup.v1("memory") {
        Some(group) => (Some(group), "memory.oom_control"),
        None => (cgroup.v2(), "memory.events"),
    };
    group.and_then(|it| find(&it.read(file).ok()?, "oom_kill")).unwrap_or(0)
}

/// The number after `name` at the start of a line.
fn find(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn io(cgroup: &Cgroup) -> (Option<u64>, Option<u64>) {
    if let Some(text) = cgroup.v1("blkio").and_then(|it| it.read("blkio.throttle.io_service_bytes_recursive").ok()) {
        let sum = |word: &str| text.lines().filter_map(|line| after(line, word)).sum();
        return (Some(sum("Read")), Some(sum("Write")));
    }
    match cgroup.v2().and_then(|it| it.read("io.stat").ok()) {
        None => (None, None),
        Some(text) => {
            let sum = |key: &str| {
                text.split_whitespace().filter_map(|it| it.strip_prefix(key)?.parse::<u64>().ok()).sum::<u64>()
            };
            (Some(sum("rbytes=")), Some(sum("wbytes=")))
        }
    }
}

/// The number after `word` in a line like `254:0 Read 4096`.
fn after(line: &str, word: &str) -> Option<u64> {
    let mut words = line.split_whitespace();
    words.find(|it| *it == word)?;
    words.next()?.parse().ok()
}
