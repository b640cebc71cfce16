//! Toolboxes at cells: what a session sees and may do, and what it leaves: nothing.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use skep_tests::{TestEnv, can_run};

pub(crate) const BUSYBOX: &str = "deb:busybox-static";
/// What `--toolbox deb:procps` stands for: named in full, so that it is fetched once for all tests.
pub(crate) const TOOLBOX: &str = "deb:bash,coreutils,dash,findutils,grep,less,mawk,ncurses-base,procps,sed";

pub(crate) fn env() -> Option<TestEnv> {
    can_run(&["root"]).then(|| {
        let env = TestEnv::with(TOOLBOX);
        env.pull(BUSYBOX);
        env
    })
}

pub(crate) fn run_cell(env: &TestEnv, options: &[&str], script: &str) {
    let args = ["run", "-d", "--net", "none"].iter().chain(options).chain(&[BUSYBOX, "--", "busybox", "sh", "-c"]);
    env.skep(args.chain(&[script])).ok();
}

pub(crate) const SLEEP: &str = "echo up; exec busybox sleep 1000";

pub(crate) fn debug(env: &TestEnv, cell: &str, options: &[&str], script: &str) -> skep_tests::Run {
    env.skep([&["debug", cell, "--toolbox", TOOLBOX], options, &["--", "sh", "-c", script]].concat())
}

#[test]
fn a_session_sees_the_target_with_tools_of_its_own() {
    let Some(env) = env() else { return };
    run_cell(&env, &["--name", "web", "-e", "BEE=busy"], SLEEP);
    let out = debug(
        &env,
        "web",
        &[],
        "ps -o comm= -p 2; echo $BEE; cat /target/etc/hostname; test -e /target/bin/ps || echo slim",
    );
    assert_eq!(out.ok(), "busybox\nbusy\nweb\nslim\n");
    let out = env.skep_fed(b"fed\n", ["debug", "web", "--toolbox", TOOLBOX, "--", "cat"]);
    assert_eq!(out.ok(), "fed\n");
    assert_eq!(debug(&env, "web", &[], "exit 9").code, 9);
    assert_eq!(debug(&env, "web", &[], "kill -TERM $$").code, 128 + 15);
    let error = env.skep(["debug", "web", "--toolbox", TOOLBOX, "--", "nothing-like-it"]).fails(127);
    assert!(error.contains("nothing-like-it") && error.contains("--toolbox"), "{error}");
    let words: Vec<_> = env.skep(["events", "--json", "--cell", "web"]).json();
    assert!(words.iter().any(|it| it["event"] == "debugged" && it["privileges"] == "target"), "{words:?}");
}

/// What the kernel tells of the target's program (process 2, below our init) and of the session's, by the same `/proc`.
pub(crate) const COMPARE: &str = "for p in 2 $$; do echo \"process $p\"; \
    grep -E '^(Uid|Gid|Groups|Umask|Cap|NoNewPrivs|Seccomp)' /proc/$p/status; cat /proc/$p/cgroup; \
    cat /proc/$p/limits; echo oom $(cat /proc/$p/oom_score_adj); \
    for n in pid net ipc uts user cgroup; do echo $n $(readlink /proc/$p/ns/$n); done; done";

#[test]
fn a_session_is_confined_as_its_target_is() {
    let Some(env) = env() else { return };
    let cases: &[(&str, &[&str])] = &[
        ("plain", &[]),
        ("users", &["--userns", "auto"]),
        ("caps", &["--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE"]),
        ("privileged", &["--privileged"]),
        ("unconfined", &["--seccomp", "unconfined"]),
        ("readonly", &["--read-only"]),
        ("limited", &["--memory", "64m", "--pids-limit", "40", "--cpus", "0.5"]),
        ("somebody", &["--user", "33:33"]),
    ];
    for (name, options) in cases {
        run_cell(&env, &[&["--name", name], *options].concat(), SLEEP);
        let out = debug(&env, name, &[], COMPARE).ok();
        let (target, session) = out.split_once("\nprocess ").unwrap();
        let target = target.split_once('\n').unwrap().1;
        let session = session.split_once('\n').unwrap().1.trim_end();
        assert_eq!(session, target.trim_end(), "{name}");
        assert!(target.contains("CapEff") && target.contains("pid pid:["), "{name}: {target}");
    }
}

#[test]
fn privileges_beyond_the_targets_are_asked_for_told_and_noted() {
    let Some(env) = env() else { return };
    run_cell(&env, &["--name", "a"], SLEEP);
    let run = debug(&env, "a", &["--privileged-tools"], "grep -E 'CapEff|Seccomp:' /proc/self/status");
    assert!(run.err.contains("SYS_PTRACE"), "{}", run.err);
    let out = run.ok();
    let effective = out.lines().find_map(|it| it.strip_prefix("CapEff:\t")).unwrap();
    assert_eq!(u64::from_str_radix(effective, 16).unwrap() >> 19 & 1, 1);
    assert!(out.contains("Seccomp:\t0"), "{out}");
    assert!(env.skep(["events"]).ok().contains("tracing privileges"));
}

#[test]
fn the_targets_file_system_can_be_the_root() {
    let Some(env) = env() else { return };
    run_cell(&env, &["--name", "a"], "echo own > /own; echo up; exec busybox sleep 1000");
    let script = "ps -o comm= -p 2; cat /own; echo more > /tmp/x; cat /etc/hostname";
    let args = ["debug", "a", "--swap", "--toolbox", TOOLBOX, "--", "/toolbox/launch/bash", "-c", script];
    let deadline = Instant::now() + Duration::from_secs(20);
    while !env.skep(["logs", "a"]).out.contains("up") {
        assert!(Instant::now() < deadline, "the cell does not come up");
    }
    assert_eq!(env.skep(args).ok(), "busybox\nown\na\n");
    assert_eq!(env.skep(["exec", "a", "busybox", "cat", "/tmp/x"]).ok(), "more\n", "what is written is written there");
    assert_eq!(env.skep(["exec", "a", "busybox", "ls", "-d", "/toolbox"]).code, 1, "nothing was made in the target");
}

#[test]
fn stopped_cells_and_images_can_be_opened() {
    let Some(env) = env() else { return };
    let create = ["create", "--net", "none", "--name", "a", BUSYBOX, "--", "busybox", "cat", "/made"];
    env.skep(create).ok();
    let out =
        debug(&env, "a", &[], "echo hello > /target/made; ls /target/bin/busybox; grep Seccomp: /proc/self/status");
    assert_eq!(out.ok(), "/target/bin/busybox\nSeccomp:\t2\n");
    assert_eq!(env.skep(["start", "-a", "a"]).ok(), "hello\n");
    let image = ["debug", "--image", BUSYBOX, "--toolbox", TOOLBOX, "--", "ls", "/target/bin/busybox"];
    assert_eq!(env.skep(image).ok(), "/target/bin/busybox\n");
    assert_eq!(env.skep(["ps", "-aq"]).ok().lines().count(), 1, "no cell is left of the image");
    let mut open = env.spawn(["debug", "a", "--toolbox", TOOLBOX, "--", "sh", "-c", "echo open; sleep 100"]);
    std::io::Read::read_exact(open.stdout.as_mut().unwrap(), &mut [0; 5]).unwrap();
    assert!(env.skep(["start", "a"]).fails(4).contains("cannot be started"));
    open.kill().unwrap();
    open.wait().unwrap();
}

/// Processes whose mount namespace is none of the given ones: those of sessions, when there is nothing else.
fn processes_with(marker: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|it| it.path());
    let command = |path: &std::path::Path| std::fs::read_to_string(path.join("cmdline")).unwrap_or_default();
    processes.map(|it| command(&it).replace('\0', " ")).filter(|it| it.contains(marker)).collect()
}

#[track_caller]
fn nothing_with(marker: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !processes_with(marker).is_empty() {
        assert!(Instant::now() < deadline, "left behind: {:?}", processes_with(marker));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn nothing_is_left_however_a_session_ends() {
    let Some(env) = env() else { return };
    run_cell(&env, &["--name", "a"], SLEEP);
    let mounts = || env.skep(["exec", "a", "busybox", "cat", "/proc/self/mountinfo"]).ok();
    let files = || env.skep(["exec", "a", "busybox", "find", "/", "-xdev"]).ok();
    let before = (mounts(), files());
    // It ends by itself, and what it put in the background with it.
    debug(&env, "a", &[], "sleep 87001 & (setsid sleep 87001 &) ; exit 0").ok();
    nothing_with("sleep 87001");
    // Its caller is killed; it is killed itself.
    for (victim, number) in [("caller", "$$"), ("session", "$$"), ("steward", "$PPID")] {
        let script = format!("(setsid sleep 87002 &); echo {number} up; exec sleep 87002");
        let mut child = env.spawn(["debug", "a", "--toolbox", TOOLBOX, "--", "sh", "-c", &script]);
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line).unwrap();
        match victim {
            "caller" => child.kill().unwrap(),
            _ => drop(debug(&env, "a", &[], &format!("kill -KILL {}", line.trim_end_matches(" up\n")))),
        }
        child.wait().unwrap();
        nothing_with("sleep 87002");
    }
    assert_eq!((mounts(), files()), before, "the target is as it was");
    let host = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!host.contains(&env.home().display().to_string()), "{host}");
}

#[test]
fn a_target_that_ends_takes_its_sessions_along() {
    let Some(env) = env() else { return };
    for round in 0..25u64 {
        run_cell(&env, &["--name", "a"], SLEEP);
        let marker = format!("8710{round:02}");
        let child = env.spawn(["debug", "a", "--toolbox", TOOLBOX, "--", "sh", "-c", &format!("exec sleep {marker}")]);
        // From before the session is made to after.
        std::thread::sleep(Duration::from_millis(round * 3));
        env.skep(["rm", "-f", "a"]).ok();
        let output = child.wait_with_output().unwrap();
        assert_ne!(output.status.code(), Some(0), "round {round}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "round {round}");
        nothing_with(&marker);
    }
}

#[test]
fn a_fork_bomb_in_a_session_is_held_by_the_targets_limit() {
    let Some(env) = env() else { return };
    run_cell(&env, &["--name", "a", "--pids-limit", "50"], SLEEP);
    let bomb = "f() { f | f & }; f 2>/dev/null; sleep 1; exit 3";
    let begun = Instant::now();
    assert!(matches!(debug(&env, "a", &[], bomb).code, 2 | 3), "the shell may be refused its last fork");
    assert!(begun.elapsed() < Duration::from_secs(60));
    let alive: u64 = env.skep(["stats", "a", "--json"]).json()[0]["pids"].as_u64().unwrap();
    assert!(alive <= 3, "{alive} processes are in the cell");
}

#[test]
fn debuggers_and_tracers_really_work() {
    if !can_run(&["root"]) {
        return;
    }
    const TOOLS: &str = "deb:bash,coreutils,dash,findutils,gdb,grep,iproute2,less,lsof,mawk,ncurses-base,sed,strace";
    let env = TestEnv::with(TOOLS);
    env.pull("deb:nginx-light");
    env.skep(["run", "-d", "--name", "web", "deb:nginx-light"]).ok();
    let debug = |options: &[&str], script: &str| {
        env.skep([&["debug", "web", "--toolbox", TOOLS], options, &["--", "sh", "-c", script]].concat()).ok()
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while !debug(&[], "ss -tln").contains(":80 ") {
        assert!(Instant::now() < deadline, "nginx does not listen");
    }
    let sockets = debug(&["--privileged-tools"], "ss -tlnp");
    assert!(sockets.contains("users:((\"nginx\""), "{sockets}");
    let files = debug(&[], "lsof -p 2");
    assert!(files.contains("/target/usr/sbin/nginx") || files.contains("/usr/sbin/nginx"), "{files}");
    let traced = debug(&[], "timeout 2 strace -f -p 2 2>&1 & sleep 1; kill -HUP 2; wait");
    assert!(traced.contains("SIGHUP"), "{traced}");
    let stack = debug(&[], "gdb -batch -p 2 -ex 'info registers rip' -ex detach 2>&1");
    assert!(stack.contains("rip"), "{stack}");
    // A worker is somebody else's: tracing it takes more than the target has.
    let script = "for p in /proc/[0-9]*; do grep -qs 'worker process' $p/cmdline && basename $p; done | head -1";
    let worker = debug(&[], script);
    let refused = debug(&[], &format!("gdb -batch -p {} 2>&1 || true", worker.trim()));
    assert!(refused.contains("not permitted"), "{refused}");
    let allowed =
        debug(&["--privileged-tools"], &format!("gdb -batch -p {} -ex 'info registers rip' 2>&1", worker.trim()));
    assert!(allowed.contains("rip"), "{allowed}");
}

#[test]
fn a_session_has_the_targets_variables() {
    let Some(env) = env() else { return };
    run_cell(
        &env,
        &["--name", "a", "-e", "ONE=1", "-e", "LD_PRELOAD=/evil.so", "-e", "PATH=/own:/bin"],
        "exec /bin/busybox sleep 1000",
    );
    let variables = |run: skep_tests::Run| -> BTreeMap<String, String> {
        let out = run.ok();
        out.lines()
            .filter_map(|it| it.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    };
    let found = variables(env.skep(["debug", "a", "--toolbox", TOOLBOX, "-e", "TWO=2", "--", "env"]));
    assert_eq!(found["ONE"], "1");
    assert_eq!(found["TWO"], "2");
    assert!(!found.contains_key("LD_PRELOAD"), "it would load a file of another root");
    assert!(found["PATH"].contains("/usr/bin"), "{found:?}");
}

#[test]
fn a_lazy_toolbox_unpacks_what_is_read_and_ends_with_its_session() {
    let Some(env) = env() else { return };
    // What a toolbox has that was never unpacked here: the seed of this home was, so it is taken away again.
    for dir in ["roots", "objects"] {
        let entries = std::fs::read_dir(env.home().join("pool").join(dir)).unwrap().flatten();
        entries.for_each(|it| {
            std::fs::remove_dir_all(it.path()).or_else(|_| std::fs::remove_file(it.path())).unwrap();
        });
    }
    let unpacked = |dir: &str| {
        let output = Command::new("find").arg(env.home().join("pool").join(dir)).args(["-type", "f"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().count()
    };
    for (name, options) in [("plain", &[][..]), ("users", &["--userns", "auto"])] {
        run_cell(&env, &[&["--name", name], options].concat(), SLEEP);
        let before = unpacked("fresh");
        let out =
            debug(&env, name, &["--lazy"], "ps -o comm= -p 2; touch /scratch; ls -ln /usr/bin/ps | cut -d' ' -f3,4");
        assert_eq!(out.ok(), "busybox\n0 0\n", "{name}");
        assert!(unpacked("fresh") > before || name == "users", "{name}: nothing was unpacked on demand");
    }
    assert!(unpacked("fresh") < 200, "only what was read is unpacked");
    nothing_with(&format!("lazy-serve {}", env.home().display()));
}

#[test]
fn any_process_can_be_a_target_and_none_is_mistaken() {
    if !can_run(&["busybox"]) {
        return;
    }
    let Some(env) = env() else { return };
    let mut process = Command::new("sleep").arg("1000").stdout(Stdio::null()).spawn().unwrap();
    let target = format!("pid:{}", process.id());
    let args =
        ["debug", &target, "--toolbox", TOOLBOX, "--", "sh", "-c", "test -d /target/proc/1 && cat /proc/$0/comm"];
    let pid = process.id().to_string();
    assert_eq!(env.skep(args.iter().chain(&[pid.as_str()])).ok(), "sleep\n");
    // One whose root is a directory of a larger tree sees that directory, and so does its session.
    let root = env.scratch().join("root");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let mut jailed = Command::new("chroot").arg(&root).args(["/bin/busybox", "sleep", "1000"]).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::fs::read_to_string(format!("/proc/{}/comm", jailed.id())).unwrap() != "busybox\n" {
        assert!(Instant::now() < deadline, "the jailed process does not start");
    }
    let target_jailed = format!("pid:{}", jailed.id());
    let seen = env.skep(["debug", &target_jailed, "--toolbox", TOOLBOX, "--", "ls", "/target"]);
    jailed.kill().unwrap();
    jailed.wait().unwrap();
    assert_eq!(seen.ok(), "bin\n");
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(env.skep(["debug", &target, "--toolbox", TOOLBOX, "--", "true"]).fails(3).contains("does not run"));
    env.skep(["debug", "pid:x"]).fails(2);
}

/// Somebody without privileges, with a home and a copy of the binary.
pub(crate) struct OrdinaryUser {
    dir: tempfile::TempDir,
}

impl OrdinaryUser {
    const UID: u32 = 42_424;

    pub(crate) fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(skep_tests::binary(), dir.path().join("skep")).unwrap();
        let (mode, uid) = (std::fs::Permissions::from_mode(0o755), Some(Self::UID));
        std::fs::set_permissions(dir.path(), mode).unwrap();
        std::os::unix::fs::chown(dir.path(), uid, uid).unwrap();
        Self { dir }
    }

    /// A directory that is the user's.
    pub(crate) fn place(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub(crate) fn skep(&self, args: &[&str]) -> std::process::Output {
        let id = Self::UID.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(self.dir.path().join("skep")).args(args);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", self.dir.path());
        command.env("SKEP_ROOT", self.dir.path().join("home")).current_dir("/").stdin(Stdio::null()).output().unwrap()
    }
}

impl Drop for OrdinaryUser {
    fn drop(&mut self) {
        self.skep(&["rm", "-f", "a"]);
    }
}

#[test]
fn an_ordinary_user_attaches_to_a_cell_and_to_nothing_else() {
    if !can_run(&["root", "busybox"]) {
        return;
    }
    let user = OrdinaryUser::new();
    let text = |output: &[u8]| String::from_utf8_lossy(output).into_owned();
    let run = ["run", "-d", "--net", "none", "--name", "a", "host:/bin/busybox", "--", "/bin/busybox", "sleep", "1000"];
    let started = user.skep(&run);
    assert!(started.status.success(), "{}", text(&started.stderr));
    let session = |target: &str, options: &[&str], script: &str| {
        let toolbox = ["debug", target, "--toolbox", "host:/bin/busybox"];
        user.skep(&[&toolbox, options, &["--", "/bin/busybox", "sh", "-c", script]].concat())
    };
    let script = "b=/bin/busybox; $b cat /proc/2/comm; $b ls /target/bin; $b touch /target/made; \
        for p in 2 self; do $b grep -E '^(Cap|NoNewPrivs|Seccomp)' /proc/$p/status | $b md5sum; done";
    let seen = session("a", &[], script);
    let lines: Vec<String> = text(&seen.stdout).lines().map(str::to_owned).collect();
    assert_eq!(lines.get(..2), Some(&["busybox".to_owned(), "busybox".to_owned()][..]), "{}", text(&seen.stderr));
    assert!(lines.len() == 4 && lines[2] == lines[3], "{lines:?}");
    let made = user.skep(&["exec", "a", "/bin/busybox", "ls", "/made"]);
    assert_eq!(text(&made.stdout), "/made\n");
    let swapped = session("a", &["--swap"], "true");
    assert!(text(&swapped.stderr).contains("only root"), "{}", text(&swapped.stderr));
    let own = format!("pid:{}", std::process::id());
    assert!(!session(&own, &[], "true").status.success());
}

#[test]
fn an_ordinary_user_reaches_into_a_unikernel() {
    if !can_run(&["root", "busybox"]) {
        return;
    }
    let user = OrdinaryUser::new();
    let text = |output: &[u8]| String::from_utf8_lossy(output).into_owned();
    let image = ["--net", "none", "--name", "a", "host:/bin/busybox", "--", "/bin/busybox"];
    let started = user.skep(&[&["run", "-d", "--as", "unikernel"], image.as_slice(), &["sleep", "1000"]].concat());
    assert!(started.status.success(), "{}", text(&started.stderr));
    let made = user.skep(&["exec", "a", "/bin/busybox", "sh", "-c", "echo inside > /made; /bin/busybox cat /made"]);
    assert_eq!(text(&made.stdout), "inside\n", "{}", text(&made.stderr));
    let place = user.dir.path().join("copied");
    let copied = user.skep(&["cp", "a:/made", place.to_str().unwrap()]);
    assert!(copied.status.success(), "{}", text(&copied.stderr));
    assert_eq!(std::fs::read_to_string(place).unwrap(), "inside\n");
    let script = ["--toolbox", "host:/bin/busybox", "--", "/bin/busybox", "cat", "/target/made"];
    let seen = user.skep(&[&["debug", "a"], script.as_slice()].concat());
    assert_eq!(text(&seen.stdout), "inside\n", "{}", text(&seen.stderr));
    // Its code is a copy in which calls are jumps, as in root's cells.
    user.skep(&["rm", "-f", "a"]);
    let ran = user.skep(&[&["run", "--as", "unikernel"], image.as_slice(), &["true"]].concat());
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let cells: serde_json::Value = serde_json::from_slice(&user.skep(&["inspect", "a"]).stdout).unwrap();
    assert!(cells[0]["record"]["traps"].as_u64().unwrap() <= 2, "{cells}");
}
