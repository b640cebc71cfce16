//! Machines that run are had once more, kept, and go back.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use skep_tests::{TestEnv, can_run, free_port};

const RISCV: &str = "deb:busybox-static@trixie/riscv64";
const ARM: &str = "deb:busybox-static/arm64";
const NGINX: &str = "deb:nginx-light/arm64";

/// Waits until something is so.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A cell, and what is asked of it.
struct Machine<'e> {
    env: &'e TestEnv,
    name: &'e str,
}

impl Machine<'_> {
    /// What a script prints in it.
    #[track_caller]
    fn sh(&self, script: &str) -> String {
        self.env.skep(["exec", self.name, "--", "busybox", "sh", "-c", script]).ok()
    }

    /// What it takes for the time is the time, but for what an answer takes and for a clock of whole seconds.
    #[track_caller]
    fn knows_the_time(&self) {
        let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let before = now();
        let told: u64 = self.sh("busybox date +%s").trim().parse().unwrap();
        assert!((before - 2..=now() + 1).contains(&told), "{}: {told}, and it was {before}", self.name);
    }

    fn logged(&self) -> String {
        self.env.skep(["logs", self.name]).out
    }

    fn inspected(&self) -> serde_json::Value {
        let all: serde_json::Value = serde_json::from_str(&self.env.skep(["inspect", self.name]).ok()).unwrap();
        all[0].clone()
    }

    fn state(&self) -> String {
        self.inspected()["record"]["state"]["state"].as_str().unwrap_or_default().to_owned()
    }

    fn pid(&self) -> u64 {
        self.inspected()["record"]["process"]["pid"].as_u64().unwrap()
    }

    /// What its web server gives, by the address that it has for itself.
    fn page(&self) -> String {
        let address = self.inspected()["record"]["attachment"]["address"].as_str().unwrap().to_owned();
        get(&format!("http://{address}/"))
    }
}

fn get(url: &str) -> String {
    let got = std::process::Command::new("curl").args(["-sf", "--max-time", "10", url]).output().unwrap();
    String::from_utf8_lossy(&got.stdout).into_owned()
}

/// A machine's memory in a process of the host: what of it is that process's alone, and what others have, too.
fn memory_of(pid: u64) -> (u64, u64) {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut is_guest = false;
    let mut sums = (0, 0);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if !first.ends_with(':') {
            is_guest = line.contains("/memfd:guest");
        } else if is_guest {
            let kibibytes: u64 = second.parse().unwrap_or(0);
            match first {
                "Private_Clean:" | "Private_Dirty:" => sums.0 += kibibytes << 10,
                "Shared_Clean:" | "Shared_Dirty:" => sums.1 += kibibytes << 10,
                _ => {}
            }
        }
    }
    sums
}

/// How much there is in the files that a process has its machine's memory in.
fn memory_files(pid: u64) -> u64 {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let of_guest = |it: &PathBuf| std::fs::read_link(it).is_ok_and(|it| it.starts_with("/memfd:guest (deleted)"));
    let files = files.map(|it| it.unwrap().path()).filter(|it| of_guest(it));
    let mut sizes: Vec<_> = files.filter_map(|it| std::fs::metadata(it).ok()).collect();
    sizes.sort_by_key(MetadataExt::ino);
    sizes.dedup_by_key(|it| it.ino());
    sizes.iter().map(|it| it.blocks() * 512).sum()
}

/// The process that runs a machine: the one below the cell's first that has its memory, or that one.
fn runner_of(first: u64) -> u64 {
    let children = std::fs::read_to_string(format!("/proc/{first}/task/{first}/children")).unwrap_or_default();
    let below = children.split_whitespace().filter_map(|it| it.parse().ok());
    std::iter::once(first).chain(below).find(|it| memory_files(*it) > 0).unwrap()
}

/// Forks diverge from where their parent stands, which goes on.
fn check_forks(image: &str) {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(image);
    let script = "i=0; while :; do echo $i; i=$((i+1)); busybox sleep 0.1; done";
    let volume = env.scratch().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let mount = format!("{}:/volume", volume.display());
    env.skep(["run", "-d", "--name", "m", "-v", &mount, image, "--", "busybox", "sh", "-c", script]).ok();
    let machine = |name| Machine { env: &env, name };
    let m = machine("m");
    until("it counts", || m.logged().lines().count() > 3);
    m.sh("echo before > /root/file; busybox mkdir /root/dir; busybox rm /etc/issue; busybox chmod 700 /etc/group");
    let asked = env.skep(["exec", "-d", "m", "--", "busybox", "sleep", "1000"]).ok();
    assert!(!asked.is_empty());
    until("it sleeps", || m.sh("busybox ps").contains("sleep 1000"));
    assert_eq!(env.skep(["fork", "m", "-n", "2"]).ok(), "m-1\nm-2\n");

    let (one, two) = (machine("m-1"), machine("m-2"));
    let said: Vec<String> = [&m, &one, &two].map(|it| it.sh("busybox cat /proc/sys/kernel/random/uuid")).into();
    assert!(said.iter().enumerate().all(|(at, it)| said.iter().skip(at + 1).all(|other| it != other)), "{said:?}");
    // Each has what was written before, and its own from then on; volumes are one.
    for it in [&m, &one, &two] {
        assert_eq!(it.sh("busybox cat /root/file; busybox ls -d /root/dir"), "before\n/root/dir\n", "{}", it.name);
        assert_eq!(it.sh("test -e /etc/issue && echo there; busybox stat -c %a /etc/group"), "700\n");
        it.sh(&format!("echo {} > /root/file; echo {0} > /tmp/own; echo {0} >> /volume/all", it.name));
    }
    for it in [&m, &one, &two] {
        assert_eq!(it.sh("busybox cat /root/file /tmp/own"), format!("{0}\n{0}\n", it.name));
    }
    assert_eq!(std::fs::read_to_string(volume.join("all")).unwrap(), "m\nm-1\nm-2\n");
    // Programs that were asked for from outside are the parent's.
    assert!(m.sh("busybox ps").contains("sleep 1000"));
    [&one, &two].iter().for_each(|it| assert!(!it.sh("busybox ps").contains("sleep 1000"), "{}", it.name));
    // The program goes on in each, and each has a log.
    for it in [&one, &two] {
        until("a copy counts", || it.logged().lines().count() > 1);
        let first: u32 = it.logged().lines().next().unwrap().parse().unwrap();
        assert!(first > 2, "{} began anew: {first}", it.name);
    }
    // They know what time it is.
    for it in [&m, &one, &two] {
        it.knows_the_time();
    }
    // Memory is had once.
    let (runner, copy) = (runner_of(m.pid()), runner_of(one.pid()));
    assert_ne!(runner, copy);
    let (whole, (own, others)) = (memory_files(copy), memory_of(copy));
    assert!(whole > 32 << 20, "{whole} bytes are in the parent's memory");
    assert!(own < whole / 2 && others > 0, "of {whole} bytes it has {own} alone and {others} with others");
    // A copy of a copy, and ends of their own.
    env.skep(["fork", "m-1", "--name", "deep"]).ok();
    let deep = machine("deep-1");
    assert_eq!(deep.sh("busybox cat /root/file"), "m-1\n");
    let tree = env.skep(["tree", "m"]).ok();
    assert_eq!(tree.lines().count(), 4, "{tree}");
    env.skep(["stop", "m-2"]).ok();
    assert_eq!(env.skep(["wait", "m-2"]).ok(), "143\n");
    env.skep(["pause", "m-1"]).ok();
    env.skep(["resume", "m-1"]).ok();
    // Its parent's end is not its own.
    env.skep(["kill", "m"]).ok();
    until("it is gone", || m.state() == "exited");
    assert_eq!(one.sh("busybox cat /root/file"), "m-1\n");
    assert_eq!(deep.sh("echo on"), "on\n");
    let counted = one.logged().lines().count();
    until("it counts on", || one.logged().lines().count() > counted);
    env.skep(["rm", "-f", "m", "m-1", "m-2", "deep-1"]).ok();
}

#[test]
fn forks_of_a_riscv_machine_go_their_ways() {
    check_forks(RISCV);
}

#[test]
fn forks_of_an_arm_machine_go_their_ways() {
    check_forks(ARM);
}

#[test]
fn forks_of_a_server_answer_each_by_itself() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(NGINX);
    let port = free_port();
    let publish = format!("127.0.0.1:{port}:80");
    env.skep(["run", "-d", "--name", "fw", "-p", &publish, NGINX]).ok();
    let page = || get(&format!("http://127.0.0.1:{port}/"));
    until("it answers", || page().contains("nginx"));
    assert!(env.skep(["exec", "fw", "--", "nginx", "-v"]).err.contains("nginx version"));
    env.skep(["fork", "fw", "-n", "2"]).ok();
    for name in ["fw-1", "fw-2"] {
        let copy = Machine { env: &env, name };
        assert!(copy.page().contains("nginx"), "{name} answers at an address of its own");
        until("it says so in a log of its own", || copy.logged().contains("GET /"));
        let ports = copy.inspected()["spec"]["network"]["ports"].clone();
        assert!(ports.as_array().is_none_or(Vec::is_empty), "ports are the parent's: {ports}");
        assert!(env.skep(["exec", name, "--", "nginx", "-v"]).err.contains("nginx version"));
    }
    assert!(page().contains("nginx"));
    // Another copy at the address that one had a moment ago.
    env.skep(["rm", "-f", "fw-1", "fw-2"]).ok();
    env.skep(["fork", "fw"]).ok();
    assert!(Machine { env: &env, name: "fw-1" }.page().contains("nginx"));
    env.skep(["rm", "-f", "fw", "fw-1"]).ok();
}

/// A machine goes back to where it was kept, also when what it was then is gone.
fn check_snapshots(image: &str) {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(image);
    let script = "i=0; while :; do echo $i; i=$((i+1)); busybox sleep 0.1; done";
    env.skep(["run", "-d", "--name", "m", image, "--", "busybox", "sh", "-c", script]).ok();
    let m = Machine { env: &env, name: "m" };
    until("it counts", || m.logged().lines().count() > 5);
    // What is in the memory of its kernel alone.
    m.sh("echo kept > /dev/shm/word; exec 3> /dev/null; busybox uptime > /dev/null");
    assert_eq!(env.skep(["snapshot", "m"]).ok(), "s1\n");
    m.sh("echo other > /dev/shm/word");
    let listed = env.skep(["snapshot", "ls", "m", "--json"]).json();
    let size = listed[0]["bytes"].as_u64().unwrap();
    assert!((8 << 20..400 << 20).contains(&size), "{size}");

    env.skep(["rollback", "m", "s1"]).ok();
    assert_eq!(m.sh("busybox cat /dev/shm/word"), "kept\n");
    let uuid = m.sh("busybox cat /proc/sys/kernel/random/uuid");
    // Its process is gone, and another has begun.
    env.skep(["kill", "m"]).ok();
    until("it is gone", || m.state() == "exited");
    env.skep(["start", "m"]).ok();
    until("it runs", || env.skep(["exec", "m", "--", "busybox", "true"]).code == 0);
    assert_eq!(m.sh("busybox cat /dev/shm/word 2> /dev/null; :"), "");
    env.skep(["rollback", "m", "s1"]).ok();
    assert_eq!(m.sh("busybox cat /dev/shm/word"), "kept\n");
    assert_ne!(m.sh("busybox cat /proc/sys/kernel/random/uuid"), uuid, "the same state twice, other randomness");
    m.knows_the_time();
    let before = m.logged().lines().count();
    until("its program goes on", || m.logged().lines().count() > before);
    // What went on from a snapshot is copied and kept like any other.
    env.skep(["fork", "m"]).ok();
    let copy = Machine { env: &env, name: "m-1" };
    assert_eq!(copy.sh("busybox cat /dev/shm/word; echo copied > /dev/shm/word"), "kept\n");
    assert_eq!(env.skep(["snapshot", "m-1", "own"]).ok(), "own\n");
    copy.sh("echo spoilt > /dev/shm/word");
    env.skep(["rollback", "m-1", "own"]).ok();
    assert_eq!(copy.sh("busybox cat /dev/shm/word"), "copied\n");
    assert_eq!(m.sh("busybox cat /dev/shm/word"), "kept\n");
    // A snapshot that was spoilt is told of.
    let snapshots = m.inspected()["spec"]["id"].as_str().map(|id| snapshots_of(&env, id)).unwrap();
    std::fs::write(snapshots.join("s1/state"), "{}").unwrap();
    let said = env.skep(["rollback", "m", "s1"]).fails(1);
    assert!(said.contains("did not go on"), "{said}");
    let told = || env.skep(["logs", "m"]).err;
    until("why is in its log", || told().contains("cannot go on from where it was kept"));
    env.skep(["rm", "-f", "m", "m-1"]).ok();
}

fn snapshots_of(env: &TestEnv, id: &str) -> PathBuf {
    env.home().join("cells").join(Path::new(id)).join("snapshots")
}

#[test]
fn a_riscv_machine_goes_back_to_where_it_was_kept() {
    check_snapshots(RISCV);
}

#[test]
fn an_arm_machine_goes_back_to_where_it_was_kept() {
    check_snapshots(ARM);
}

#[test]
fn what_of_a_machine_cannot_be_copied_is_refused_by_name() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(RISCV);
    let begin =
        ["run", "-d", "--net", "none", "--name", "m", "--tmpfs", "/mem", RISCV, "--", "busybox", "sleep", "1000"];
    env.skep(begin).ok();
    for verb in ["fork", "snapshot"] {
        let said = env.skep([verb, "m"]).fails(5);
        assert!(said.contains("/mem") && said.contains("the cell goes on as before"), "{verb}: {said}");
    }
    assert_eq!(env.skep(["snapshot", "ls", "m", "--json"]).json(), Vec::<serde_json::Value>::new());
    assert!(env.skep(["fork", "m", "--anew"]).fails(1).contains("where it stands"));
    assert!(env.skep(["ps", "-a"]).ok().lines().count() == 2, "nothing is left of them");
    let m = Machine { env: &env, name: "m" };
    assert_eq!(m.sh("echo on"), "on\n");
    env.skep(["rm", "-f", "m"]).ok();
}

#[test]
fn a_machine_with_a_terminal_and_users_of_its_own_is_forked() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(RISCV);
    let begin =
        ["run", "-d", "-t", "--userns", "auto", "--net", "none", "--name", "m", RISCV, "--", "busybox", "sh", "-c"];
    env.skep(
        begin.iter().chain(&["busybox tty; busybox touch /root/own; while :; do echo on; busybox sleep 0.2; done"]),
    )
    .ok();
    let m = Machine { env: &env, name: "m" };
    until("it prints", || m.logged().contains("on"));
    // More than once: the second time, what was written since the first is found.
    env.skep(["fork", "m"]).ok();
    env.skep(["fork", "m"]).ok();
    for name in ["m-1", "m-2"] {
        let copy = Machine { env: &env, name };
        until("a copy prints", || copy.logged().contains("on"));
        assert_eq!(copy.sh("busybox stat -c %u /root/own"), "0\n");
    }
    env.skep(["rm", "-f", "m", "m-1", "m-2"]).ok();
}
