//! What a cell's programs may do, and what they may not. The oracle is `runc` with the same settings where it is installed.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use container::Ended;
use model::{Capability, Init, NewPrivileges, RootAccess, Seccomp, Security};

use crate::fixture::{Fixture, can_run, pipes, process, run, start};

/// The lines `Name:\tvalue` of a status file.
fn status(text: &str) -> BTreeMap<String, String> {
    let line = |it: &str| it.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    text.lines().filter_map(line).collect()
}

fn default_bits() -> u64 {
    Capability::DEFAULT.iter().fold(0, |set, it| set | 1 << it.number())
}

#[test]
fn privileges_are_dropped_in_the_program_in_init_and_by_exec() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let own = status(&fixture.run(&["cat", "/proc/self/status"]).stdout);
    let bits = format!("{:016x}", default_bits());
    for (name, expected) in [
        ("CapEff", bits.as_str()),
        ("CapPrm", &bits),
        ("CapBnd", &bits),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("SigIgn", "0000000000000000"),
        ("SigBlk", "0000000000000000"),
        ("Umask", "0022"),
        ("Groups", ""),
    ] {
        assert_eq!(own.get(name).map(String::as_str), Some(expected), "{name}");
    }
    let plan = fixture.plan(&["sleep", "100"]);
    let (mut running, cgroup, streams) = start(&plan);
    let (stdio, exec_streams) = pipes();
    let target = container::Target { pid: running.pid, cgroup: &cgroup };
    let mut second = container::exec(
        &target,
        &process(&["cat", "/proc/self/status"]),
        &plan.security,
        stdio,
        container::Bond::DiesWithCaller,
    )
    .unwrap();
    let entered = status(&exec_streams.finish(&mut second).stdout);
    for name in ["CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb", "NoNewPrivs", "Seccomp", "SigIgn", "SigBlk", "Umask"]
    {
        assert_eq!(entered[name], own[name], "{name}");
    }
    // By the time that a start is reported, process 1 has dropped what only the start needed.
    let init = status(&std::fs::read_to_string(format!("/proc/{}/status", running.pid)).unwrap());
    assert_eq!(init["CapEff"], format!("{:016x}", 1 << Capability::Kill.number()));
    assert_eq!((init["CapBnd"].as_str(), init["NoNewPrivs"].as_str()), ("0000000000000000", "1"));
    sys::process::kill(&running.pidfd).unwrap();
    streams.finish(&mut running);
    cgroup.remove().unwrap();
}

#[test]
fn a_program_of_another_user_has_no_capabilities() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let mut plan = fixture.plan(&["sh", "-c", "id; echo $HOME; cat /proc/self/status; touch /x; touch /tmp/x"]);
    plan.process.user = "www-data".parse().unwrap();
    plan.process.cwd = "/made/here".into();
    let outcome = run(&plan);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines[0], "uid=33(www-data) gid=33(www-data) groups=4(adm)");
    assert_eq!(lines[1], "/var/www");
    let status = status(&outcome.stdout);
    assert_eq!((status["CapEff"].as_str(), status["CapPrm"].as_str()), ("0000000000000000", "0000000000000000"));
    assert!(outcome.stderr.contains("/x: Permission denied"), "{outcome:?}");
}

#[test]
fn every_namespace_is_the_cells_own() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let plan = fixture.plan(&["sleep", "100"]);
    let (mut running, cgroup, streams) = start(&plan);
    let link = |pid: u32, kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    let own = std::process::id();
    for kind in ["pid", "mnt", "uts", "ipc", "net", "cgroup"] {
        assert_ne!(link(running.pid, kind), link(own, kind), "{kind}");
    }
    assert_eq!(link(running.pid, "user"), link(own, "user"));
    // A program that exec starts is in the same ones, and in the same control groups.
    let (stdio, exec_streams) = pipes();
    let target = container::Target { pid: running.pid, cgroup: &cgroup };
    let mut second =
        container::exec(&target, &process(&["sleep", "100"]), &plan.security, stdio, container::Bond::DiesWithCaller)
            .unwrap();
    for kind in ["pid", "mnt", "uts", "ipc", "net", "cgroup", "user"] {
        assert_eq!(link(running.pid, kind), link(second.pid, kind), "{kind}");
    }
    let groups = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(groups(running.pid), groups(second.pid));
    assert!(groups(running.pid).contains(&plan.id.to_string()));
    // The first process of a pid namespace cannot end before every other one in it has been reaped.
    sys::process::kill(&second.pidfd).unwrap();
    assert_eq!(exec_streams.finish(&mut second).ended, Ended::Signal(9));
    sys::process::kill(&running.pidfd).unwrap();
    streams.finish(&mut running);
    cgroup.remove().unwrap();
}

#[test]
fn kernel_files_are_hidden_or_read_only() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let script = "cat /proc/kcore /proc/keys /proc/interrupts 2>/dev/null | wc -c; ls /sys/firmware | wc -l; \
                  echo 1 > /proc/sys/kernel/domainname; mkdir /sys/x; \
                  mount -t tmpfs none /tmp; hostname other; unshare -m true; mknod /tmp/m b 254 0; ls -a /dev | seq 0";
    let outcome = fixture.shell(script);
    assert!(outcome.stdout.starts_with("0\n0\n"), "{outcome:?}");
    for refusal in [
        "can't create /proc/sys/kernel/domainname: Read-only",
        "'/sys/x': Read-only",
        "mount: permission denied",
        "hostname: sethostname: Operation not permitted",
        "unshare(0x20000): Operation not permitted",
        "/tmp/m: Operation not permitted",
    ] {
        assert!(outcome.stderr.contains(refusal), "{refusal}: {}", outcome.stderr);
    }
}

#[test]
fn a_read_only_root_is_read_only_but_for_tmp() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let mut plan =
        fixture.plan(&["sh", "-c", "touch /x; touch /bin/true; touch /tmp/y && touch /dev/shm/z && echo ok"]);
    plan.security.root = RootAccess::ReadOnly;
    let outcome = run(&plan);
    assert_eq!(outcome.stdout, "ok\n");
    assert_eq!(outcome.stderr.matches("Read-only file system").count(), 2, "{outcome:?}");
}

#[test]
fn without_a_filter_and_with_privileges_allowed_a_cell_can_be_opened_up() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let mut plan = fixture.plan(&["sh", "-c", "mount -t tmpfs none /tmp && touch /tmp/x && cat /proc/self/status"]);
    // What this process lacks of it is left out.
    plan.security = Security::privileged();
    let outcome = run(&plan);
    let privileged = status(&outcome.stdout);
    assert_eq!((privileged["NoNewPrivs"].as_str(), privileged["Seccomp"].as_str()), ("0", "0"), "{outcome:?}");
    plan.security = Security { new_privileges: NewPrivileges::Allowed, ..Security::default() };
    plan.process = process(&["cat", "/proc/self/status"]);
    let filtered = status(&run(&plan).stdout);
    assert_eq!((filtered["NoNewPrivs"].as_str(), filtered["Seccomp"].as_str()), ("0", "2"));
}

#[test]
fn strict_tells_the_supervisor_which_call_it_was() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    for init in [Init::Reaper, Init::Program] {
        let mut plan = fixture.plan(&["mount", "-t", "tmpfs", "none", "/tmp"]);
        plan.security.seccomp = Seccomp::Strict;
        plan.init = init;
        let (mut running, cgroup, streams) = start(&plan);
        let listener = running.seccomp.take().unwrap();
        let refused = sys::seccomp::next(&listener).unwrap();
        assert_eq!(container::syscall_name(refused.number), Some("mount"));
        sys::process::kill(&running.pidfd).unwrap();
        assert_eq!(streams.finish(&mut running).ended, Ended::Signal(9));
        cgroup.remove().unwrap();
    }
}

/// The files of a cell's processes that could reach our own program (CVE-2019-5736).
#[test]
fn the_cell_cannot_open_the_program_of_its_init() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let outcome = fixture.shell(
        "readlink /proc/1/exe; cat /proc/1/exe | head -c 1; cat /proc/1/maps; readlink /proc/1/fd/0; ls /proc/1/root/",
    );
    assert_eq!(outcome.stdout, "", "{outcome:?}");
}

#[test]
fn nothing_survives_a_supervisor_that_is_killed() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    for init in [Init::Reaper, Init::Program] {
        let mut plan = fixture.plan(&["sh", "-c", "sleep 1000 & sleep 1000"]);
        plan.init = init;
        let (ours, theirs) = sys::socket::pair().unwrap();
        let supervisor = sys::fork::spawn(sys::namespace::Namespaces::empty(), None, || {
            let (running, _cgroup, _streams) = start(&plan);
            sys::socket::send(&theirs, &running.pid.to_ne_bytes(), &[]).unwrap();
            std::thread::sleep(std::time::Duration::from_secs(100));
            0
        })
        .unwrap();
        let mut pid = [0; 4];
        sys::socket::receive(&ours, &mut pid).unwrap();
        let first = sys::process::open(u32::from_ne_bytes(pid)).unwrap();
        sys::process::kill(&supervisor.pidfd).unwrap();
        sys::process::wait(&supervisor.pidfd).unwrap();
        let mut poll = [rustix::event::PollFd::new(&first, rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut poll, Some(&limit)).unwrap(), 1, "the cell lives on");
        let layout = sys::cgroup::Layout::discover().unwrap();
        assert!(container::cgroup::Cgroup::leftovers(&layout).contains(&plan.id));
        let left = container::cgroup::Cgroup::find(&layout, plan.id);
        left.remove().unwrap();
        assert!(!container::cgroup::Cgroup::leftovers(&layout).contains(&plan.id));
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(fixture.dir.path().to_str().unwrap()));
    }
}

#[test]
fn device_files_are_the_usual_ones() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let outcome = fixture.shell(
        "ls /dev; echo a > /dev/null; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; \
                                 ls /dev/fd/ > /dev/null; cat /dev/full | head -c 2 | wc -c",
    );
    let expected =
        "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n4\n4\n2\n";
    assert_eq!(outcome.stdout, expected, "{outcome:?}");
    let host = std::fs::metadata("/dev/null").unwrap();
    assert!(Path::new("/dev/null").exists() && host.rdev() == rustix::fs::makedev(1, 3));
}
