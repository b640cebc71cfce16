//! User namespaces, and cells of ordinary users.

use container::Ended;
use model::{Limits, Mount, MountAccess, MountKind, Security, UserNamespace};

use crate::fixture::{Fixture, can_run, pipes, process, run, start};

fn own_users() -> Security {
    Security { user_namespace: UserNamespace::Auto, ..Security::default() }
}

#[test]
fn a_cell_with_users_of_its_own_is_root_inside_and_nobody_outside() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let mut plan = fixture.plan(&[
        "sh",
        "-c",
        "id -u; touch /made /root/made; stat -c %u /made /bin/busybox /; chown 33 /made; stat -c %u /made; \
         echo x > /dev/null && ls /sys/class/net && cat /proc/self/uid_map && ps | wc -l",
    ]);
    plan.security = own_users();
    let outcome = run(&plan);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines.get(..6), Some(["0", "0", "0", "0", "33", "lo"].as_slice()), "{outcome:?}");
    let map: Vec<u32> = lines[6].split_whitespace().map(|it| it.parse().unwrap()).collect();
    assert!(map[0] == 0 && map[1] >= 65536 && map[2] == 65536, "{map:?}");
    assert_eq!(outcome.ended, Ended::Code(0), "{outcome:?}");
    // On disk the owners are the cell's own numbers, so an upper layer does not depend on the range of one run.
    let made = std::fs::metadata(fixture.dir.path().join("cell/upper/made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 33);
}

#[test]
fn exec_enters_the_user_namespace() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let mut plan = fixture.plan(&["sleep", "100"]);
    plan.security = own_users();
    let (mut running, cgroup, streams) = start(&plan);
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{}", running.pid)).unwrap());
    let (stdio, exec_streams) = pipes();
    let target = container::Target { pid: running.pid, cgroup: &cgroup };
    let script = "readlink /proc/self/ns/user; readlink /proc/1/ns/user; id -u; cat /proc/self/uid_map";
    let mut second = container::exec(&target, &process(&["sh", "-c", script]), &plan.security, stdio).unwrap();
    let outcome = exec_streams.finish(&mut second);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert!(lines.len() >= 3 && lines.contains(&"0"), "{outcome:?} {uid}");
    assert_ne!(lines[0], std::fs::read_link("/proc/self/ns/user").unwrap().to_str().unwrap());
    sys::process::kill(&running.pidfd).unwrap();
    assert_eq!(streams.finish(&mut running).ended, Ended::Signal(9));
    cgroup.remove().unwrap();
}

#[test]
fn host_files_reach_a_cell_whose_root_could_not_read_their_path() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let secret = fixture.dir.path().join("secret");
    std::fs::create_dir(&secret).unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::write(secret.join("shown"), "shown").unwrap();
    let mut plan = fixture.plan(&["sh", "-c", "cat /a/b; touch /a/b"]);
    plan.security = own_users();
    plan.mounts = vec![Mount {
        kind: MountKind::Bind(secret.join("shown")),
        target: "/a/b".into(),
        access: MountAccess::ReadOnly,
    }];
    let outcome = run(&plan);
    assert!(outcome.stdout == "shown" && outcome.stderr.contains("Read-only"), "{outcome:?}");
}

/// Runs `test` as an ordinary user in a process of its own; what it returns is the exit code.
fn as_ordinary_user(test: impl FnOnce() -> u8) -> Ended {
    let child = sys::fork::spawn(sys::namespace::Namespaces::empty(), None, || {
        sys::exec::become_user(12345, 12345, &[], sys::exec::GroupChange::Set).unwrap();
        // As after executing a program: whoever changed its user cannot be looked at.
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable).unwrap();
        test()
    });
    sys::process::wait(child.unwrap().pidfd).unwrap()
}

#[test]
fn an_ordinary_user_runs_a_cell_without_limits() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let cell = fixture.dir.path().join("cell");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(fixture.dir.path(), open).unwrap();
    std::os::unix::fs::chown(&cell, Some(12345), Some(12345)).unwrap();
    let script = "test $(id -u) = 0 && echo x > /made && test -c /dev/null && ls /proc/1 > /dev/null && \
                  test $(ls /sys/class/net) = lo && exit 9";
    let mut plan = fixture.plan(&["sh", "-c", script]);
    plan.limits = Limits { pids: Some(10), ..Limits::default() };
    let ended = as_ordinary_user(|| {
        let (stdio, streams) = pipes();
        let prepared = match container::prepare(&plan, stdio) {
            Ok(prepared) => prepared,
            Err(error) => {
                println!("{error}");
                return 1;
            }
        };
        let degraded = prepared.degraded().iter().map(|it| it.what.clone()).collect::<Vec<_>>();
        if degraded != ["--pids-limit"] {
            println!("{degraded:?}");
            return 2;
        }
        let mut running = match prepared.start() {
            Ok(running) => running,
            Err(error) => {
                println!("{error}");
                return 3;
            }
        };
        let outcome = streams.finish(&mut running);
        println!("{outcome:?}");
        if outcome.ended == Ended::Code(9) { 0 } else { 4 }
    });
    assert_eq!(ended, Ended::Code(0));
    let made = std::fs::metadata(cell.join("upper/made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 12345);
}
