//! Limits hold, are counted, and are reported when they cannot be.

use std::time::{Duration, Instant};

use container::Ended;
use model::{ByteSize, Cpus, IoLimit, Limits, Weight};

use crate::fixture::{Fixture, can_run, pipes, start};

/// Waits until `holds`, for as long as a slow machine may take.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn too_much_memory_is_an_out_of_memory_kill() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let mut plan = fixture.plan(&["sh", "-c", "x=$(yes | head -c 100000000); echo survived"]);
    plan.limits.memory = Some(ByteSize::mib(16));
    let (stdio, streams) = pipes();
    let prepared = container::prepare(&plan, stdio).unwrap();
    assert_eq!(prepared.degraded(), []);
    let cgroup = prepared.cgroup().clone();
    assert_eq!(cgroup.stats().memory_limit, Some(16 << 20));
    let mut running = prepared.start().unwrap();
    let outcome = streams.finish(&mut running);
    assert!(cgroup.oom_kills() >= 1 && !outcome.stdout.contains("survived"), "{outcome:?}");
    assert!(cgroup.stats().memory_peak.unwrap() > 8 << 20);
    cgroup.remove().unwrap();
}

#[test]
fn a_limit_of_processes_makes_forks_fail() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let mut plan = fixture.plan(&["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 100 & done; echo survived"]);
    plan.limits.pids = Some(5);
    let (mut running, cgroup, streams) = start(&plan);
    let outcome = streams.finish(&mut running);
    assert!(outcome.stderr.contains("can't fork") && outcome.ended != Ended::Code(0), "{outcome:?}");
    cgroup.remove().unwrap();
}

#[test]
fn a_quota_throttles_and_time_is_counted() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let mut plan = fixture.plan(&["sh", "-c", "while true; do :; done"]);
    plan.limits.cpus = Some(Cpus::millis(100));
    plan.limits.cpu_weight = Some(Weight::DEFAULT);
    let (mut running, cgroup, streams) = start(&plan);
    eventually("it is throttled", || cgroup.stats().throttled_ns.unwrap_or(0) > 0);
    assert!(cgroup.stats().cpu_ns.unwrap() > 0 && cgroup.stats().pids.unwrap() >= 2);
    sys::process::kill(&running.pidfd).unwrap();
    streams.finish(&mut running);
    cgroup.remove().unwrap();
}

#[test]
fn limits_of_a_running_cell_change() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let plan = fixture.plan(&["sh", "-c", "while true; do :; done"]);
    let (mut running, mut cgroup, streams) = start(&plan);
    let layout = sys::cgroup::Layout::discover().unwrap();
    let limits =
        Limits { memory: Some(ByteSize::mib(64)), cpus: Some(Cpus::millis(50)), pids: Some(7), ..Limits::default() };
    assert_eq!(cgroup.change(&layout, plan.id, &limits), []);
    eventually("it is throttled", || cgroup.stats().throttled_ns.unwrap_or(0) > 0);
    assert_eq!(cgroup.stats().memory_limit, Some(64 << 20));
    let less = Limits { memory: Some(ByteSize::mib(32)), ..Limits::default() };
    assert_eq!(cgroup.change(&layout, plan.id, &less), []);
    assert_eq!(cgroup.stats().memory_limit, Some(32 << 20));
    sys::process::kill(&running.pidfd).unwrap();
    streams.finish(&mut running);
    cgroup.remove().unwrap();
}

#[test]
fn a_paused_cell_stands_still_and_can_be_killed() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let plan = fixture.plan(&["sh", "-c", "while true; do :; done"]);
    let (mut running, cgroup, streams) = start(&plan);
    let time = || cgroup.stats().cpu_ns.unwrap();
    eventually("it runs", || time() > 0);
    cgroup.freeze().unwrap();
    let frozen = time();
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(time(), frozen);
    cgroup.thaw().unwrap();
    eventually("it runs again", || time() > frozen);
    cgroup.freeze().unwrap();
    cgroup.kill_all().unwrap();
    assert_eq!(streams.finish(&mut running).ended, Ended::Signal(9));
    cgroup.remove().unwrap();
}

#[test]
fn a_limit_that_cannot_be_applied_is_told() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let mut plan = fixture.plan(&["true"]);
    plan.limits.io = vec![IoLimit { device: "/dev/null".to_owned(), read: Some(ByteSize::mib(1)), write: None }];
    let (stdio, _streams) = pipes();
    let prepared = container::prepare(&plan, stdio).unwrap();
    let [degraded] = prepared.degraded() else { panic!("{:?}", prepared.degraded()) };
    assert_eq!((degraded.what.as_str(), degraded.why.as_str()), ("--io", "/dev/null is not a block device"));
    // Never started: dropping it takes everything back.
    let id = plan.id;
    drop(prepared);
    let layout = sys::cgroup::Layout::discover().unwrap();
    assert!(!container::cgroup::Cgroup::leftovers(&layout).contains(&id));
}

#[test]
fn a_limited_cell_sees_its_own_limits() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let mut plan = fixture.plan(&[
        "sh",
        "-c",
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; \
                                                mkdir /sys/fs/cgroup/memory/x || mkdir /sys/fs/cgroup/x",
    ]);
    plan.limits.memory = Some(ByteSize::mib(48));
    let (mut running, cgroup, streams) = start(&plan);
    let outcome = streams.finish(&mut running);
    assert_eq!(outcome.stdout, format!("{}\n", 48 << 20), "{outcome:?}");
    assert!(outcome.stderr.contains("Read-only file system"), "{outcome:?}");
    cgroup.remove().unwrap();
}
