//! Cells that share their IPC (`--ipc`): by consent, as processes of one system do, and whatever becomes of one of them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use skep_tests::{TestEnv, can_run};

use crate::debug::OrdinaryUser;

const IMAGE: &str = "deb:busybox-static";

/// By what numbers go from one to the other and back.
const KINDS: [&str; 7] = ["queue", "semaphore", "condition", "message", "set", "segment", "fifo"];

/// A boundary, and what executes its cells.
type Kind = (&'static str, &'static str);

const CONTAINER: Kind = ("container", "native");
const MACHINE: Kind = ("unikernel", "kvm");
const PROCESS: Kind = ("unikernel", "process");

/// The program that serves and asks, built for any Linux.
fn build(into: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/neighbours.c");
    let program = into.join("neighbours");
    let status = Command::new("cc").args(["-O1", "-static", "-pthread", "-o"]).arg(&program).arg(source).status();
    status.ok().filter(|it| it.success()).map(|_| program)
}

/// A home, and the program as cells get it.
struct Place {
    env: TestEnv,
    volume: String,
}

impl Place {
    fn new(kinds: &[Kind]) -> Option<Self> {
        let needs: &[&str] = if kinds.contains(&MACHINE) { &["root", "cc", "kvm"] } else { &["root", "cc"] };
        if !can_run(needs) {
            return None;
        }
        let env = TestEnv::with(IMAGE);
        let volume = format!("{}:/neighbours:ro", build(&env.scratch())?.display());
        Some(Self { env, volume })
    }

    fn command(&self, (boundary, engine): Kind, options: &[&str], words: &[&str]) -> Command {
        let begin = ["run", "--as", boundary, "--net", "none", "-v", &self.volume];
        let args = begin.iter().chain(options).chain(&[IMAGE, "--", "/neighbours"]).chain(words);
        let mut command = self.env.command(args);
        command.env("SKEP_ENGINE", if engine == "native" { "process" } else { engine });
        command
    }

    /// Runs it to its end.
    fn run(&self, kind: Kind, options: &[&str], words: &[&str]) -> skep_tests::Run {
        self.env.finish(&mut self.command(kind, options, words))
    }

    /// Starts a cell of that name, and waits until it says that.
    fn start(&self, kind: Kind, name: &str, ipc: &str, words: &[&str], says: &str) {
        self.run(kind, &["-d", "--name", name, "--ipc", ipc], words).ok();
        self.until(name, says);
    }

    #[track_caller]
    fn until(&self, name: &str, says: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.env.skep(["logs", name]).out.contains(says) {
            assert!(Instant::now() < deadline, "{name} does not say '{says}': {:?}", self.env.skep(["logs", name]));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn inspect(&self, name: &str) -> serde_json::Value {
        let all: serde_json::Value = serde_json::from_str(&self.env.skep(["inspect", name]).ok()).unwrap();
        all[0].clone()
    }

    /// Ends all processes of a cell at once.
    fn kill(&self, name: &str) {
        let pid = self.inspect(name)["record"]["process"]["pid"].as_u64().unwrap();
        assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
        self.env.skep(["wait", name]).ok();
    }
}

fn talk(first: Kind, second: Kind) {
    let Some(place) = Place::new(&[first, second]) else { return };
    place.start(first, "one", "shareable", &["serve"], "ready");
    for kind in KINDS {
        let told = place.run(second, &["--rm", "--ipc", "cell:one"], &["ask", kind, "20"]);
        assert_eq!(told.ok(), format!("{kind}: 20 right\n"), "{first:?} {second:?}");
    }
    place.start(first, "told", "cell:one", &["told"], "listening");
    place.run(second, &["--rm", "--ipc", "cell:one"], &["tell"]).ok();
    place.until("told", "told 1");
    // Who reads a FIFO hears that nobody writes it any more.
    place.until("one", "its other end is gone");
    assert_eq!(
        place.run(second, &["--rm", "--ipc", "cell:one"], &["fill"]).ok().split(':').next(),
        Some("queue full after 4")
    );
}

#[test]
fn containers_that_share_their_ipc_talk() {
    talk(CONTAINER, CONTAINER);
}

#[test]
fn machines_that_share_their_ipc_talk() {
    talk(MACHINE, MACHINE);
}

#[test]
fn confined_processes_that_share_their_ipc_talk() {
    talk(PROCESS, PROCESS);
}

#[test]
fn machines_and_confined_processes_that_share_their_ipc_talk() {
    talk(MACHINE, PROCESS);
    talk(PROCESS, MACHINE);
}

/// Whatever becomes of one cell, the others have what they share.
fn outlive(kind: Kind) {
    let Some(place) = Place::new(&[kind]) else { return };
    place.start(kind, "one", "shareable", &["hold"], "held");
    place.start(kind, "two", "cell:one", &["serve"], "ready");
    // In the midst of writing and reading.
    place.start(kind, "three", "cell:one", &["keep", "fifo"], "asking");
    place.kill("three");
    place.until("two", "its other end is gone");
    let ask = |what: &[&str]| place.env.skep(["exec", "two", "/neighbours"].iter().chain(what)).ok();
    place.kill("one");
    assert_eq!(ask(&["look"]), "held\n", "{kind:?}: nobody gave it back");
    for what in ["queue", "semaphore", "condition", "message", "set", "segment"] {
        assert_eq!(ask(&["ask", what, "10"]), format!("{what}: 10 right\n"), "{kind:?}");
    }
    // The memory that all have mapped is cut off under them.
    assert_eq!(ask(&["cut"]), "");
    assert_eq!(ask(&["ask", "queue", "10"]), "queue: 10 right\n", "{kind:?}");
    assert_eq!(place.inspect("two")["record"]["state"]["state"], "running");
    // Whom it joined is gone: it starts again when that does.
    place.env.skep(["stop", "-t", "100ms", "two"]).ok();
    let refused = place.env.skep(["start", "two"]).fails(4);
    assert!(refused.contains("one: it is not running"), "{refused}");
    place.env.skep(["start", "one"]).ok();
    place.env.skep(["start", "two"]).ok();
    place.until("one", "held");
    assert_eq!(place.inspect("two")["spec"]["ipc"], "cell:one");
    let again = || place.env.skep(["exec", "two", "/neighbours", "ask", "queue", "3"]);
    let deadline = Instant::now() + Duration::from_secs(30);
    while again().out != "queue: 3 right\n" {
        assert!(Instant::now() < deadline, "{kind:?}: {:?}", again());
    }
}

#[test]
fn a_container_outlives_those_it_shares_with() {
    outlive(CONTAINER);
}

#[test]
fn a_machine_outlives_those_it_shares_with() {
    outlive(MACHINE);
}

#[test]
fn a_confined_process_outlives_those_it_shares_with() {
    outlive(PROCESS);
}

#[test]
fn nobody_is_joined_who_does_not_agree() {
    let Some(place) = Place::new(&[CONTAINER]) else { return };
    let container = |name: &str, ipc: &str| place.start(CONTAINER, name, ipc, &["hold"], "held");
    container("own", "private");
    container("open", "shareable");
    place.start(CONTAINER, "joined", "cell:open", &["stay"], "here");
    let idle = ["create", "--name", "idle", "--ipc", "shareable", IMAGE, "--", "busybox", "true"];
    place.env.skep(idle).ok();
    let check = |code: i32, kind: Kind, options: &[&str], says: &str| {
        let refused = place.run(kind, &[&["--name", "new"], options].concat(), &["look"]).fails(code);
        assert!(refused.contains(says), "{options:?}: {refused}");
        // And nothing is left of it.
        assert!(!place.env.skep(["ps", "-a"]).out.contains("new"), "{options:?}");
    };
    check(3, CONTAINER, &["--ipc", "cell:nobody"], "there is no such cell of yours");
    check(4, CONTAINER, &["--ipc", "cell:own"], "it keeps its own to itself");
    check(4, CONTAINER, &["--ipc", "cell:idle"], "it is not running (it is created)");
    check(4, CONTAINER, &["--ipc", "cell:joined"], "it has joined open itself");
    check(5, PROCESS, &["--ipc", "cell:open"], "it is a container");
    check(5, CONTAINER, &["--ipc", "cell:open", "--userns", "auto"], "no users in common");
    check(2, CONTAINER, &["--ipc", "host"], "private, shareable, or cell:NAME");
    place.env.skep(["pause", "open"]).ok();
    check(4, CONTAINER, &["--ipc", "cell:open"], "'skep resume open'");
    place.env.skep(["resume", "open"]).ok();
    // What a cell keeps to itself is not seen by one that joined another.
    assert_eq!(place.run(CONTAINER, &["--rm"], &["look"]).ok(), "free\n");
    assert_eq!(place.run(CONTAINER, &["--rm", "--ipc", "cell:open"], &["look"]).ok(), "held\n");
}

#[test]
fn an_ordinary_users_cells_share_their_ipc_with_each_other_alone() {
    if !can_run(&["root", "busybox", "cc"]) {
        return;
    }
    let user = OrdinaryUser::new();
    let Some(program) = build(user.place()) else { return };
    let volume = format!("{}:/neighbours:ro", program.display());
    let text = |output: &[u8]| String::from_utf8_lossy(output).into_owned();
    for boundary in ["container", "unikernel"] {
        let run = |options: &[&str], words: &[&str]| {
            let begin = ["run", "--as", boundary, "--net", "none", "--entrypoint", "/neighbours", "-v", &volume];
            user.skep(&[&begin, options, &["host:/bin/busybox"], words].concat())
        };
        let started = run(&["-d", "--name", "a", "--ipc", "shareable"], &["serve"]);
        assert!(started.status.success(), "{}", text(&started.stderr));
        let deadline = Instant::now() + Duration::from_secs(30);
        while text(&user.skep(&["logs", "a"]).stdout) != "ready\n" {
            assert!(Instant::now() < deadline, "{}", text(&user.skep(&["logs", "a"]).stderr));
        }
        for kind in KINDS {
            let told = run(&["--rm", "--ipc", "cell:a"], &["ask", kind, "10"]);
            assert_eq!(text(&told.stdout), format!("{kind}: 10 right\n"), "{boundary}: {}", text(&told.stderr));
        }
        // Root finds no such cell, and its own is not that user's.
        if boundary == "container" {
            let env = TestEnv::with(IMAGE);
            let refused =
                env.skep(["run", "--net", "none", "--ipc", "cell:a", IMAGE, "--", "busybox", "true"]).fails(3);
            assert!(refused.contains("no such cell of yours"), "{refused}");
        }
        user.skep(&["rm", "-f", "a"]);
    }
}
