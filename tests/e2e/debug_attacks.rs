//! `skep debug` at targets that want to gain by it.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::debug::{SLEEP, TOOLBOX, debug, env, run_cell};

#[test]
fn a_hostile_target_gains_nothing_and_hides_nothing() {
    let Some(env) = env() else { return };
    let secret = env.scratch().join("secret");
    std::fs::write(&secret, "of the host").unwrap();
    let climb = format!("{}{}", "../".repeat(40), secret.display());
    // Links that lead out, a pipe in place of a file, file systems over /proc, devices that are files.
    let farm = format!(
        "cd /etc; for f in hosts passwd; do busybox umount /etc/$f 2>/dev/null; busybox rm -f $f; \
         busybox ln -s {climb} $f; done; busybox rm -f group; busybox mkfifo group; \
         busybox umount /etc/resolv.conf; busybox rm -f resolv.conf; busybox ln -s resolv.conf resolv.conf; \
         busybox mount -t tmpfs t /proc/1; busybox mount -t tmpfs t /proc/sys; \
         busybox mount -t tmpfs t /dev/pts; echo fake > /dev/pts/ptmx; \
         busybox mount -t tmpfs t /proc; echo fake > /proc/uptime; echo up; exec busybox sleep 1000"
    );
    run_cell(&env, &["--name", "a", "--privileged"], &farm);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !env.skep(["logs", "a"]).out.contains("up") {
        assert!(Instant::now() < deadline, "{:?}", env.skep(["logs", "a"]));
    }
    let script =
        "cat /etc/hosts /etc/passwd 2>&1; cat /proc/uptime; ls -d /proc/1/status /proc/2/status; cat /proc/2/comm";
    let out = debug(&env, "a", &[], script);
    assert!(!out.out.contains("of the host") && !out.err.contains("of the host"), "{out:?}");
    assert!(
        !out.out.contains("fake") && out.out.contains("/proc/1/status") && out.out.ends_with("busybox\n"),
        "{out:?}"
    );
}

/// A target that exchanges its root's content all the while: every look-up is answered in it or not at all.
#[test]
fn a_target_that_swaps_its_files_while_a_session_begins_leads_nobody_outside() {
    let Some(env) = env() else { return };
    let secret = env.scratch().join("secret");
    std::fs::write(&secret, "of the host").unwrap();
    let directory = env.scratch().display().to_string();
    let climb = format!("{}{directory}", "../".repeat(40));
    let swap = format!(
        "busybox umount /etc/hosts /etc/hostname /etc/resolv.conf; busybox mkdir /real; echo own > /real/secret; \
         busybox ln -s {climb} /link; busybox rm -rf /etc/hosts; busybox ln -s /x/secret /etc/hosts; echo up; \
         while :; do busybox ln -sfn /real /x; busybox ln -sfn /link /x; done"
    );
    run_cell(&env, &["--name", "a", "--privileged"], &swap);
    for _ in 0..30 {
        let out = debug(&env, "a", &[], "cat /etc/hosts");
        assert!(!out.out.contains("of the host"), "{out:?}");
    }
}

/// What a target puts in the place of a directory may lead to what a process has open: never to what skep has open.
#[test]
fn the_directory_to_start_in_leads_nobody_outside() {
    let Some(env) = env() else { return };
    run_cell(
        &env,
        &["--name", "a"],
        "i=3; while [ $i -lt 40 ]; do busybox ln -s /proc/self/fd/$i /d$i; i=$((i+1)); done; echo up; exec busybox sleep 1000",
    );
    let deadline = Instant::now() + Duration::from_secs(20);
    while !env.skep(["logs", "a"]).out.contains("up") {
        assert!(Instant::now() < deadline, "the cell does not come up");
    }
    for number in 3..40 {
        let link = format!("/d{number}");
        env.skep(["exec", "-w", &link, "a", "busybox", "true"]).fails(125);
        let inside = format!("/target{link}");
        env.skep(["debug", "a", "-w", &inside, "--toolbox", TOOLBOX, "--", "true"]).fails(125);
    }
}

/// Until another program is executed in a target, `/proc/self/exe` leads to our own: it must not be writable that way.
#[test]
fn our_own_program_cannot_be_written_through_what_enters_a_target() {
    let Some(env) = env() else { return };
    run_cell(&env, &["--name", "a"], SLEEP);
    let begin = |args: &[&str]| {
        let mut child = env.spawn(args);
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 1]).unwrap();
        child
    };
    let end = |mut child: std::process::Child| {
        drop(child.stdin.take());
        child.wait().unwrap();
    };
    let child = begin(&["exec", "-i", "a", "busybox", "cat"]);
    // While it runs it cannot be written anyway; that its mount is read-only counts afterwards.
    let mount = rustix::fs::statvfs(format!("/proc/{}/exe", child.id())).unwrap();
    assert!(mount.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    end(child);
    // A session's is a file in memory, which is sealed.
    let child = begin(&["debug", "a", "--toolbox", TOOLBOX, "--", "cat"]);
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
    let steward = format!("/proc/{}", children.trim());
    assert_eq!(
        std::fs::read_to_string(format!("{steward}/cmdline")).unwrap().trim_end_matches(['\0', '.']),
        "skep-debug"
    );
    let inside = |process: &str| std::fs::read_link(format!("{process}/ns/pid")).unwrap();
    assert_ne!(inside(&steward), inside("/proc/self"));
    assert_eq!(inside(&format!("/proc/{}", child.id())), inside("/proc/self"));
    let program = std::fs::read_link(format!("{steward}/exe")).unwrap();
    assert!(program.to_string_lossy().starts_with("/memfd:skep-debug"), "{program:?}");
    let file = std::fs::File::open(format!("{steward}/exe")).unwrap();
    end(child);
    let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let written = std::fs::OpenOptions::new().write(true).open(again).and_then(|mut it| it.write(b"x"));
    assert!(written.is_err(), "{written:?}");
}

/// A target that may trace sees whatever of a session is in its pid namespace, and could take it over. There must be
/// nothing worth it: no privileges but to signal, and no file of skep's.
#[test]
fn a_target_that_may_trace_sees_nothing_that_it_gains_by() {
    let Some(env) = env() else { return };
    let watch = "own=$(while read k v; do case $k in CapBnd:) echo $v;; esac; done < /proc/self/status); \
        (while :; do for p in /proc/[0-9]*; do case $p in /proc/1) continue;; esac; \
        while read k v; do case $k in CapPrm:) case $v in $own|0000000000000020) ;; *) echo caps $v;; esac;; esac; \
        done < $p/status; done; done 2>/dev/null) & \
        (while :; do for p in /proc/[0-9]*; do case $p in /proc/1) continue;; esac; \
        case $(busybox readlink $p/exe) in *busybox*|*memfd:skep-debug*|*/usr/bin/*|'') ;; *) echo file $p;; esac; \
        done; done 2>/dev/null) & echo own $own; wait";
    run_cell(&env, &["--name", "a", "--cap-add", "SYS_PTRACE"], watch);
    if !kernel_has_proc_of_others() {
        let error = debug(&env, "a", &[], "true").fails(5);
        assert!(error.contains("SYS_PTRACE") && error.contains("--trust-target"), "{error}");
        debug(&env, "a", &["--trust-target"], "true").ok();
        return;
    }
    for _ in 0..40 {
        debug(&env, "a", &[], "true").ok();
    }
    let seen = env.skep(["logs", "a"]).ok();
    assert_eq!(seen.lines().filter(|it| !it.starts_with("own ")).collect::<Vec<_>>(), [""; 0], "{seen}");
    // In a user namespace of its own it cannot trace what is root's.
    run_cell(&env, &["--name", "b", "--userns", "auto", "--cap-add", "SYS_PTRACE"], SLEEP);
    debug(&env, "b", &[], "true").ok();
}

/// Whether a `/proc` can be mounted for a pid namespace that the mounting process is not in.
fn kernel_has_proc_of_others() -> bool {
    let version = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = version.split(['.', '-']).map_while(|it| it.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(17))
}

/// A filter that only somebody privileged may install is on every process of a session that is seen inside.
#[test]
fn a_session_is_under_filters_that_its_program_could_not_install() {
    let Some(env) = env() else { return };
    run_cell(&env, &["--name", "a", "--allow-new-privileges"], SLEEP);
    let out =
        debug(&env, "a", &[], "for p in 2 $$ $PPID; do grep -E '^(NoNewPrivs|Seccomp)' /proc/$p/status; done").ok();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 9, "{out}");
    assert_eq!((&lines[..3], lines[7]), (&lines[3..6], "Seccomp:\t2"), "{out}");
    assert_eq!(lines[0], "NoNewPrivs:\t0", "{out}");
}
