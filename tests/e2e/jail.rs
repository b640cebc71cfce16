//! What confines a tender and its guests beside the cell: seen from the host, and by programs that try.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use skep_tests::{TestEnv, can_run, unikernel_engines as engines};

const BUSYBOX: &str = "deb:busybox-static";

/// A field of a process's status.
fn field(pid: u32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix(name)?.strip_prefix(":\t")).unwrap();
    line.trim().to_owned()
}

fn capabilities(pid: u32, set: &str) -> u64 {
    u64::from_str_radix(&field(pid, set), 16).unwrap()
}

fn children(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let text = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        found.extend(text.split_whitespace().filter_map(|it| it.parse::<u32>().ok()));
    }
    found
}

/// A cell's tender, in its jail: the child of its process 1.
fn tender(env: &TestEnv, cell: &str) -> u32 {
    let shown = env.skep(["inspect", cell]).ok();
    let first = shown.split("\"process\": {").nth(1).and_then(|it| it.split("\"pid\": ").nth(1)).unwrap();
    let first: u32 = first.split(|it: char| !it.is_ascii_digit()).next().unwrap().parse().unwrap();
    let [tender] = children(first)[..] else { panic!("{first} has not one child") };
    let deadline = Instant::now() + Duration::from_secs(30);
    // The cell's filter, and its own.
    while field(tender, "Seccomp_filters") != "2" {
        assert!(Instant::now() < deadline, "it has no filter of its own");
        std::thread::sleep(Duration::from_millis(20));
    }
    tender
}

/// `CHOWN`, `DAC_OVERRIDE`, `FOWNER`, `FSETID`, `SETGID`, `SETUID`, `NET_BIND_SERVICE`, `SETFCAP`: what is left of a cell's
/// usual ones.
const USUAL: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 31;
const FOWNER: u64 = 1 << 3;
const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_ADMIN: u64 = 1 << 12;

#[test]
fn a_tender_has_a_filter_of_its_own_and_few_capabilities() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(BUSYBOX);
    let asked: [(&[&str], u64); 4] = [
        (&[], USUAL),
        (&["--cap-drop", "FOWNER"], USUAL & !FOWNER),
        (&["--cap-add", "NET_ADMIN", "--cap-add", "SYS_PTRACE"], USUAL | NET_ADMIN),
        (&["--user", "1000"], 0),
    ];
    for engine in engines() {
        for (options, expected) in asked {
            let begin = ["run", "-d", "--as", "unikernel", "--network", "none", "--name", "t"];
            let command = begin.iter().chain(options).chain(&[BUSYBOX, "--", "busybox", "sleep", "1000"]);
            env.finish(env.command(command).env("SKEP_ENGINE", engine)).ok();
            let tender = tender(&env, "t");
            assert_eq!(capabilities(tender, "CapEff"), expected, "{engine} {options:?}");
            assert_eq!(capabilities(tender, "CapPrm"), expected, "{engine} {options:?}");
            assert_eq!((field(tender, "NoNewPrivs"), field(tender, "Seccomp")), ("1".into(), "2".into()));
            for guest in children(tender) {
                assert_eq!(engine, "process");
                // Until it executes the library operating system it is a copy of the tender.
                let deadline = Instant::now() + Duration::from_secs(30);
                while !field(guest, "Name").contains("libos") {
                    assert!(Instant::now() < deadline, "no guest: {}", field(guest, "Name"));
                    std::thread::sleep(Duration::from_millis(5));
                }
                assert_eq!(capabilities(guest, "CapPrm"), 0);
            }
            env.skep(["rm", "-f", "t"]).ok();
        }
    }
}

#[test]
fn an_appliance_holds_the_capabilities_that_its_calls_need() {
    if !can_run(&["root", "kvm"]) {
        return;
    }
    let env = TestEnv::with(BUSYBOX);
    let build = |name: &str, script: &str| {
        let begin = ["image", "build", "--as", "unikernel", "-t", name, "--warm-until", "log warm", BUSYBOX, "--"];
        env.skep(begin.iter().chain(&["busybox", "ash", "-c", script])).ok();
        env.skep(["run", "-d", "--network", "none", "--name", name, name]).ok();
        let held = capabilities(tender(&env, name), "CapEff");
        env.skep(["rm", "-f", name]).ok();
        held
    };
    // It has opened files before it was kept, as any program.
    let held = build("plain", "echo warm; while read -t 1000 it; do :; done; busybox sleep 1000");
    assert_eq!(held & !USUAL, 0);
    assert_eq!(held & NET_BIND_SERVICE, 0, "no sockets, so nothing for them: {held:x}");
}

/// What a program of [`tables.c`] says of an attempt.
fn outcome<'a>(said: &'a str, attempt: &str) -> &'a str {
    let of = |line: &'a str| line.strip_prefix(attempt)?.strip_prefix(": ");
    said.lines().find_map(of).unwrap_or_else(|| panic!("{attempt} is missing: {said}"))
}

#[test]
fn who_has_taken_a_sealed_guest_over_makes_no_code() {
    if !can_run(&["root", "kvm", "cc"]) {
        return;
    }
    let env = TestEnv::with(BUSYBOX);
    let program = env.scratch().join("tables");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/tables.c");
    let built = Command::new("cc").args(["-O1", "-w", "-static", "-o"]).arg(&program).arg(source).status().unwrap();
    assert!(built.success());
    let image = format!("host:{}", program.display());
    let run = |name: &str, image: &str, options: &[&str]| {
        let begin = ["run", "--network", "none", "--name", name];
        let ended = env.finish(env.command(begin.iter().chain(options).chain(&[image])).env("SKEP_ENGINE", "kvm"));
        let said = env.skep(["logs", name]).out;
        assert_eq!(ended.code, 0, "{name}: {said} {}", ended.err);
        said
    };
    let open = run("open", &image, &["--as", "unikernel"]);
    let build = ["image", "build", "--as", "unikernel", "-t", "tables", "--warm-until", "log warm", &image];
    env.skep(build).ok();
    let sealed = run("sealed", "tables", &[]);
    let attempts = [
        "write an entry",
        "have it followed",
        "write a large entry",
        "write to code",
        "write to the gates",
        "write to the descriptors",
        "write to the gates' frame",
    ];
    for attempt in attempts {
        assert_eq!((outcome(&open, attempt), outcome(&sealed, attempt)), ("done", "refused"), "{attempt}");
    }
    for said in [&open, &sealed] {
        for (what, expected) in [("found", "done"), ("code was found", "done"), ("the end", "done")] {
            assert_eq!(outcome(said, what), expected, "{what}: {said}");
        }
        for what in ["what is unmapped", "what is protected"] {
            assert_eq!(outcome(said, what), "refused", "{what}: {said}");
        }
    }
}
