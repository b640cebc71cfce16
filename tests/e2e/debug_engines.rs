//! Toolboxes at the containers of other engines: found by name, and confined as they are, whatever the engine.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use skep_tests::engines::{Containerd, Docker, FOREIGN_IDS, Lxc, Nspawn, Podman, RootlessPodman, Users};
use skep_tests::{Run, TestEnv, can_run};

use crate::debug::{COMPARE, TOOLBOX};

fn env(tools: &[&str]) -> Option<TestEnv> {
    can_run(&[&["root"], tools].concat()).then(|| TestEnv::with(TOOLBOX))
}

fn skep(env: &TestEnv, top: &Path, args: &[&str]) -> Run {
    env.finish(env.command(args).env("SKEP_ENGINES", top))
}

fn debug(env: &TestEnv, top: &Path, target: &str, script: &str) -> Run {
    skep(env, top, &["debug", target, "--trust-target", "--toolbox", TOOLBOX, "--", "sh", "-c", script])
}

/// What is listed as running, once the container of that name executes its program.
#[track_caller]
fn running(env: &TestEnv, top: &Path, target: &str) -> serde_json::Value {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let listed = skep(env, top, &["debug", "--json"]).json();
        let found = listed.iter().find(|it| it["target"] == target);
        let command = found.and_then(|it| std::fs::read_to_string(format!("/proc/{}/cmdline", it["pid"])).ok());
        if command.is_some_and(|it| it.contains("100000") && it.starts_with("/bin/busybox")) {
            return found.unwrap().clone();
        }
        assert!(Instant::now() < deadline, "{target} does not run: {listed:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The processes of a pid namespace, by their numbers in it, as the host sees them.
fn processes_beside(pid: u64) -> BTreeSet<u32> {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let wanted = namespace(&pid.to_string());
    let entries = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|it| it.file_name().into_string().ok());
    let beside = entries.filter(|it| it.bytes().all(|b| b.is_ascii_digit()) && namespace(it) == wanted);
    let number = |pid: String| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.lines().find_map(|it| it.strip_prefix("NSpid:"))?.split_whitespace().last()?.parse().ok()
    };
    beside.filter_map(number).collect()
}

/// A session at a container is all that the container's first process is, and sees what that sees.
#[track_caller]
fn is_matched(env: &TestEnv, top: &Path, target: &str, wanted: &[&str]) {
    let pid = running(env, top, target)["pid"].as_u64().unwrap();
    let processes = processes_beside(pid);
    let compare = COMPARE.replace("for p in 2 $$", "for p in 1 $$");
    let script = format!(
        "echo pids $(cd /proc; ls -d [0-9]*); echo bee $BEE; \
         touch /target/made 2>/dev/null && echo writable || echo read-only; {compare}"
    );
    let out = debug(env, top, target, &script).ok();
    let mut parts = out.split("process ");
    let mut part = || parts.next().unwrap_or_default().split_once('\n').unwrap_or_default();
    let (pids, _) = part();
    let (mut first, mut session) = (part(), part());
    (first.0, session.0) = ("", "");
    assert_eq!(session, first, "{target}");
    let seen: BTreeSet<u32> = pids.split(' ').filter_map(|it| it.parse().ok()).collect();
    let own = seen.difference(&processes).count();
    assert!(processes.is_subset(&seen) && (1..=5).contains(&own), "{target}: {processes:?} and {seen:?}");
    assert!(out.contains("bee busy\n"), "{target}: the variables are not the container's: {out}");
    for words in
        [&["CapEff:", "NoNewPrivs:", "Seccomp_filters:", "Max open files", "pid pid:[", "user user:["], wanted].concat()
    {
        assert!(out.contains(words), "{target}: no '{words}' in {out}");
    }
    let host = std::fs::read_link("/proc/self/ns/user").unwrap();
    let has_users = !out.contains(&host.display().to_string());
    assert_eq!(has_users, target.ends_with("users") || target.contains("alice"), "{target}: {out}");
}

/// What every engine's containers must stand: the errors, the beginnings of ids, the journal.
#[track_caller]
fn is_found(env: &TestEnv, top: &Path, target: &str) {
    let found = running(env, top, target);
    let (engine, name) = target.split_once(':').unwrap();
    let id = found["id"].as_str().unwrap();
    for wanted in [target, name, &format!("{engine}:{id}")] {
        assert_eq!(debug(env, top, wanted, "echo in $BEE").ok(), "in busy\n", "{wanted}");
    }
    if id.len() == 64 {
        assert_eq!(debug(env, top, &id[..16], "echo in $BEE").ok(), "in busy\n");
    }
    let error = debug(env, top, &format!("{target}x"), "true").fails(3);
    assert!(error.contains(&format!("did you mean '{target}'?")), "{error}");
    let table = skep(env, top, &["debug"]);
    assert!(table.err.contains("'skep debug ") && table.err.contains("attaches"), "{}", table.err);
    let rows = table.ok();
    assert!(rows.starts_with("ENGINE") && rows.contains(name), "{rows}");
    let events = env.skep(["events", "--json"]).json();
    assert!(events.iter().any(|it| it["event"] == "debugged" && it["name"] == target), "{events:?}");
}

/// State as podman and docker keep it, in which this test's own process is their container's.
fn fabricated(env: &TestEnv) -> std::path::PathBuf {
    let top = env.scratch().join("top");
    let write = |path: &str, text: &str| {
        let path = top.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let (podmans, dockers, pid) = ("1234".repeat(16), "abcd".repeat(16), std::process::id());
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let began = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap();
    let state = format!(r#"{{"init_process_pid":{pid},"init_process_start":{began}}}"#);
    let list = format!(
        r#"[{{"id":"{podmans}","names":["web"],"metadata":"{{\"image-name\":\"bb\"}}"}},{{"id":"5678","names":["idle"]}}]"#
    );
    write("var/lib/containers/storage/overlay-containers/containers.json", &list);
    write(&format!("run/runc/{podmans}/state.json"), &state);
    let config = format!(
        r#"{{"ID":"{dockers}","Name":"/web","State":{{"Running":true,"Pid":{pid}}},"Config":{{"Image":"cc"}}}}"#
    );
    write(&format!("var/lib/docker/containers/{dockers}/config.v2.json"), &config);
    write(&format!("run/docker/runtime-runc/moby/{dockers}/state.json"), &state);
    top
}

#[test]
fn what_runs_is_listed_named_and_completed() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::empty();
    let top = fabricated(&env);
    let table = skep(&env, &top, &["debug"]);
    assert!(table.err.contains("'skep debug podman:web' attaches"), "{}", table.err);
    let pid = std::process::id();
    let rows: Vec<Vec<String>> =
        table.ok().lines().map(|it| it.split_whitespace().map(str::to_owned).collect()).collect();
    let row = |engine: &str, id: &str, image: &str| {
        vec![engine.into(), "web".into(), id.into(), pid.to_string(), image.into()]
    };
    assert_eq!(rows[0], ["ENGINE", "NAME", "ID", "PID", "IMAGE"]);
    assert_eq!(rows[1..], [row("podman", "123412341234", "bb"), row("docker", "abcdabcdabcd", "cc")]);
    let listed = skep(&env, &top, &["debug", "--json"]).json();
    assert_eq!((listed.len(), listed[0]["target"].as_str()), (2, Some("podman:web")));
    let fails = |args: &[&str], code: i32, words: &[&str]| {
        let error = skep(&env, &top, &[&["debug"], args].concat()).fails(code);
        assert!(words.iter().all(|it| error.contains(it)), "{args:?}: {error}");
    };
    fails(&["web"], 4, &["'web' may be podman:web or docker:web", "name one of them"]);
    fails(&["docker:webs"], 3, &["nothing here is called 'docker:webs'", "did you mean 'docker:web'?"]);
    fails(&["ilde"], 3, &["did you mean 'idle'?"]);
    fails(&["nothing-like-it"], 3, &["'skep debug' lists"]);
    fails(&["podman:idle"], 4, &["podman:idle exists but does not run"]);
    fails(&["idle"], 4, &["podman:idle exists but does not run"]);
    fails(&["skep:web"], 3, &["no cell is called 'web'"]);
    fails(&["rkt:web"], 2, &["podman, docker"]);
    fails(&["--", "true"], 2, &["what shall be debugged?"]);
    let mut command = env.command(["--", "skep", "debug", "docker"]);
    command.env("SKEP_ENGINES", &top).env("SKEP_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", "2");
    command.env("_CLAP_IFS", "\n").env("_CLAP_COMPLETE_COMP_TYPE", "9").env("_CLAP_COMPLETE_SPACE", "true");
    assert_eq!(env.finish(&mut command).ok().trim(), "docker:web");
}

/// The cases that podman and docker spell the same.
const CASES: &[(&str, &[&str], &[&str])] = &[
    ("plain", &[], &["Seccomp:\t2"]),
    ("caps", &["--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE"], &["CapEff:\t0000000000000400"]),
    ("unconfined", &["--security-opt", "seccomp=unconfined"], &["Seccomp:\t0"]),
    ("readonly", &["--read-only"], &["read-only"]),
    ("limited", &["--memory", "64m", "--pids-limit", "40", "--cpus", "0.5"], &[]),
    ("settled", &["--security-opt", "no-new-privileges"], &["NoNewPrivs:\t1"]),
    ("somebody", &["--user", "33:33"], &["Uid:\t33"]),
    ("privileged", &["--privileged"], &["Seccomp:\t0"]),
];

#[test]
fn podmans_containers_are_matched() {
    let Some(env) = env(&["busybox", "podman", "runc", "conmon"]) else { return };
    let podman = Podman::start();
    let top = podman.place.top();
    let bee = ["-e", "BEE=busy"];
    for (name, options, wanted) in CASES {
        podman.run(name, &[&bee, *options].concat());
        is_matched(&env, top, &format!("podman:{name}"), wanted);
    }
    let ids = format!("0:{FOREIGN_IDS}:65536");
    podman.run("users", &[&bee[..], &["--uidmap", &ids, "--gidmap", &ids]].concat());
    is_matched(&env, top, "podman:users", &["Seccomp:\t2"]);
    is_found(&env, top, "podman:plain");
    let podmans = |verb: &str| skep_tests::engines::run(podman.command().args([verb, "plain"]));
    podmans("pause");
    assert!(debug(&env, top, "podman:plain", "true").fails(4).contains("is paused"));
    podmans("unpause");
    assert_eq!(debug(&env, top, "podman:plain", "echo $BEE").ok(), "busy\n");
    skep_tests::engines::run(podman.command().args(["stop", "-t", "0", "plain"]));
    assert!(debug(&env, top, "podman:plain", "true").fails(4).contains("exists but does not run"));
}

#[test]
fn containers_of_a_users_own_podman_are_matched_and_no_forged_ones() {
    let Some(env) = env(&["busybox", "podman", "runc", "conmon", "newuidmap"]) else { return };
    let podman = RootlessPodman::start();
    let top = podman.place.top();
    let bee = ["-e", "BEE=busy"];
    let rootless = ["plain", "caps", "unconfined", "readonly", "settled"];
    for (name, options, wanted) in CASES.iter().filter(|(name, ..)| rootless.contains(name)) {
        podman.run(name, &[&bee, *options].concat());
        is_matched(&env, top, &format!("podman:alice/{name}"), wanted);
    }
    is_found(&env, top, "podman:alice/plain");
    // As that user, they are found by their plain names. Filters are shown to root alone.
    std::fs::copy(skep_tests::binary(), top.join("skep")).unwrap();
    let own = |args: &[&str]| {
        let mut command = std::process::Command::new(top.join("skep"));
        command.args(args).env_clear().env("SKEP_ENGINES", top).env("SKEP_ROOT", podman.place.at("home/alice/skep"));
        command.env("PATH", "/usr/bin:/bin");
        podman.as_user(&mut command);
        env.finish(&mut command)
    };
    let listed = own(&["debug", "--json"]).json();
    assert!(listed.iter().any(|it| it["target"] == "podman:plain" && it["pid"].is_u64()), "{listed:?}");
    let session = |target: &str| {
        let script = "echo $BEE; /bin/busybox cat /proc/1/comm; /bin/busybox ls /target/bin/busybox";
        own(&["debug", target, "--toolbox", "host:/bin/busybox", "--", "/bin/busybox", "sh", "-c", script])
    };
    assert_eq!(session("unconfined").ok(), "busy\nbusybox\n/target/bin/busybox\n");
    assert!(session("plain").fails(125).contains("run it as root"));
    // Files that claim a process of root's to be a container's.
    let id = running(&env, top, "podman:alice/plain")["id"].as_str().unwrap().to_owned();
    let mut victim = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", victim.id())).unwrap();
    let began = stat.split(' ').nth(21).unwrap();
    let state = podman.place.at(&format!("run/user/{}/runc/{id}/state.json", podman.uid()));
    let forged = format!(r#"{{"init_process_pid":{},"init_process_start":{began}}}"#, victim.id());
    let real = std::fs::read(&state).unwrap();
    std::fs::write(&state, forged).unwrap();
    assert!(debug(&env, top, "podman:alice/plain", "true").fails(4).contains("does not run"));
    std::fs::write(&state, real).unwrap();
    assert_eq!(debug(&env, top, "podman:alice/plain", "echo $BEE").ok(), "busy\n");
    victim.kill().unwrap();
    victim.wait().unwrap();
}

#[test]
fn dockers_containers_are_matched() {
    let Some(env) = env(&["busybox", "dockerd"]) else { return };
    let bee = ["-e", "BEE=busy"];
    let docker = Docker::start(Users::Hosts);
    let top = docker.place.top();
    // Docker gives privileged ones all capabilities that there are, and fails where the machine has not all.
    for (name, options, wanted) in CASES.iter().filter(|it| it.0 != "privileged" || can_run(&["every capability"])) {
        docker.run(name, &[&bee, *options].concat());
        is_matched(&env, top, &format!("docker:{name}"), wanted);
    }
    is_found(&env, top, "docker:plain");
    skep_tests::engines::run(docker.command().args(["stop", "-t", "0", "plain"]));
    assert!(debug(&env, top, "docker:plain", "true").fails(4).contains("exists but does not run"));
    drop(docker);
    let docker = Docker::start(Users::Own);
    docker.run("users", &bee);
    is_matched(&env, docker.place.top(), "docker:users", &["Seccomp:\t2"]);
}

#[test]
fn containerds_containers_are_matched() {
    let Some(env) = env(&["busybox", "containerd", "runc"]) else { return };
    let containerd = Containerd::start();
    let top = containerd.place.top();
    let bee = ["--env", "BEE=busy"];
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("plain", &[], &["NoNewPrivs:\t1", "Seccomp:\t0"]),
        ("caps", &["--cap-drop", "CAP_CHOWN", "--cap-drop", "CAP_SETUID"], &["CapEff:\t00000000a804257a"]),
        ("seccomp", &["--seccomp"], &["Seccomp:\t2"]),
        ("readonly", &["--read-only"], &["read-only"]),
        ("limited", &["--memory-limit", "67108864"], &[]),
        ("raising", &["--allow-new-privs"], &["NoNewPrivs:\t0"]),
        ("privileged", &["--privileged"], &[]),
    ];
    for (name, options, wanted) in cases {
        containerd.run("default", name, &[&bee, *options].concat());
        is_matched(&env, top, &format!("containerd:default/{name}"), wanted);
    }
    is_found(&env, top, "containerd:default/plain");
    assert_eq!(debug(&env, top, "containerd:plain", "echo $BEE").ok(), "busy\n");
    // A pod as Kubernetes' runtime interface notes it, and a second one whose container has the same name.
    let note = |pod: &str| {
        let notes = [("container-type", "container"), ("sandbox-name", pod), ("sandbox-namespace", "shop")];
        let notes = notes.iter().chain(&[("container-name", "nginx"), ("image-name", "example/nginx:1")]);
        notes.flat_map(|(key, value)| ["--annotation".to_owned(), format!("io.kubernetes.cri.{key}={value}")]).collect()
    };
    for (id, pod) in [("aa01", "web-0"), ("aa02", "web-1")] {
        let notes: Vec<String> = note(pod);
        let notes: Vec<&str> = notes.iter().map(String::as_str).collect();
        containerd.run("k8s.io", id, &[&bee[..], &notes].concat());
    }
    is_matched(&env, top, "k8s:shop/web-0/nginx", &[]);
    for wanted in ["k8s:web-1", "k8s:shop/web-1", "web-1/nginx", "aa02"] {
        assert_eq!(
            debug(&env, top, wanted, "cat /proc/self/cgroup | grep -o aa02 | head -1").ok(),
            "aa02\n",
            "{wanted}"
        );
    }
    let error = debug(&env, top, "aa0", "true").fails(4);
    assert!(error.contains("k8s:shop/web-0/nginx or k8s:shop/web-1/nginx"), "{error}");
}

#[test]
fn lxcs_containers_are_matched() {
    let Some(env) = env(&["busybox", "lxc-start"]) else { return };
    let lxc = Lxc::new();
    let top = lxc.place.top();
    let seccomp = lxc.place.at("seccomp");
    std::fs::write(&seccomp, "2\ndenylist\n[all]\nkexec_load errno 1\nopen_by_handle_at errno 1\n").unwrap();
    let seccomp = format!("lxc.seccomp.profile = {seccomp}");
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("plain", &[], &["Seccomp:\t0"]),
        ("caps", &["lxc.cap.keep = net_bind_service kill"], &["CapEff:\t0000000000000420"]),
        ("seccomp", &[&seccomp], &["Seccomp:\t2"]),
        ("readonly", &["lxc.rootfs.options = ro"], &["read-only"]),
        ("limited", &["lxc.cgroup.memory.limit_in_bytes = 64M", "lxc.cgroup.pids.max = 40"], &[]),
        ("settled", &["lxc.no_new_privs = 1", "lxc.prlimit.nofile = 512"], &["NoNewPrivs:\t1"]),
    ];
    for (name, lines, wanted) in cases {
        lxc.run(name, lines, 0);
        is_matched(&env, top, &format!("lxc:{name}"), wanted);
    }
    let map = |kind: &str| format!("lxc.idmap = {kind} 0 {FOREIGN_IDS} 65536");
    lxc.run("users", &[&map("u"), &map("g")], FOREIGN_IDS);
    is_matched(&env, top, "lxc:users", &[]);
    is_found(&env, top, "lxc:plain");
    std::fs::create_dir_all(top.join("var/lib/lxc/idle")).unwrap();
    std::fs::write(top.join("var/lib/lxc/idle/config"), "").unwrap();
    assert!(debug(&env, top, "lxc:idle", "true").fails(4).contains("exists but does not run"));
}

#[test]
fn machines_of_systemd_nspawn_are_matched() {
    let Some(env) = env(&["busybox", "systemd-nspawn"]) else { return };
    let mut nspawn = Nspawn::new();
    let top = nspawn.place.top().to_owned();
    let limit = "echo 64M > /sys/fs/cgroup/memory/$GROUP/memory.limit_in_bytes 2>/dev/null";
    let limit = limit.replace("$GROUP", &nspawn.place.group());
    let users = format!("--private-users={FOREIGN_IDS}");
    let cases: &[(&str, &[&str], &str, &[&str])] = &[
        ("plain", &[], "", &["Seccomp:\t2"]),
        ("caps", &["--drop-capability=CAP_CHOWN,CAP_SYS_ADMIN"], "", &[]),
        ("filtered", &["--system-call-filter=~mount"], "", &["Seccomp:\t2"]),
        ("readonly", &["--read-only"], "", &["read-only"]),
        ("settled", &["--no-new-privileges=yes", "--rlimit=NOFILE=512:1024"], "", &["NoNewPrivs:\t1"]),
        ("users", &[&users, "--private-users-ownership=chown"], "", &[]),
        ("limited", &[], &limit, &[]),
    ];
    for (name, options, before, wanted) in cases {
        nspawn.run(name, options, before);
        is_matched(&env, &top, &format!("nspawn:{name}"), wanted);
    }
    is_found(&env, &top, "nspawn:plain");
    std::fs::create_dir_all(top.join("var/lib/machines/idle")).unwrap();
    assert!(debug(&env, &top, "nspawn:idle", "true").fails(4).contains("exists but does not run"));
}
