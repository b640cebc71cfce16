//! Toolboxes at unikernels, and their memory for debuggers: a tender stands for a guest where tools look for a process.

use std::time::{Duration, Instant};

use skep_tests::{TestEnv, unikernel_engines as engines};

use crate::debug::{BUSYBOX, SLEEP, debug, env};

/// Starts a unikernel that sleeps.
fn sleeping(env: &TestEnv, engine: &str) {
    let script = format!("echo kept > /tmp/x; {SLEEP}");
    let options = ["run", "-d", "--as", "unikernel", "--name", engine, "-e", "BEE=a-busy-one"];
    let command = [BUSYBOX, "--", "busybox", "sh", "-c", &script];
    let args = options.iter().chain(&command);
    env.finish(env.command(args).env("SKEP_ENGINE", engine)).ok();
    let end = Instant::now() + Duration::from_secs(20);
    while env.skep(["logs", engine]).out != "up\n" {
        assert!(Instant::now() < end, "{engine}: it does not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_toolbox_attaches_to_a_unikernel() {
    let Some(env) = env() else { return };
    for engine in engines() {
        sleeping(&env, engine);
        let script = "cat /target/tmp/x; echo $BEE; id -u; echo new > /target/tmp/y";
        assert_eq!(debug(&env, engine, &[], script).ok(), "kept\na-busy-one\n0\n", "{engine}");
        assert_eq!(debug(&env, engine, &["--swap"], "cat /tmp/x; ls /toolbox/bin/ps").ok(), "kept\n/toolbox/bin/ps\n");
        assert_eq!(env.skep(["exec", engine, "busybox", "cat", "/tmp/y"]).ok(), "new\n", "{engine}");
        env.skep(["stop", "-t", "0s", engine]).ok();
        assert_eq!(debug(&env, engine, &[], "cat /target/tmp/y").ok(), "new\n", "{engine}: stopped");
    }
}

struct Segment {
    kind: u64,
    flags: u64,
    offset: usize,
    begin: u64,
    end: u64,
    in_file: usize,
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn segments(core: &[u8]) -> Vec<Segment> {
    assert_eq!((&core[..4], core[16]), (b"\x7fELF".as_slice(), 4), "no core");
    let count = usize::from(core[56]) + usize::from(core[57]) * 256;
    let headers = (0..count).map(|it| 64 + 56 * it);
    let segment = |at: usize| Segment {
        kind: word(core, at) & 0xffff_ffff,
        flags: word(core, at) >> 32,
        offset: word(core, at + 8) as usize,
        begin: word(core, at + 16),
        in_file: word(core, at + 32) as usize,
        end: word(core, at + 16) + word(core, at + 40),
    };
    headers.map(segment).collect()
}

#[test]
fn a_unikernel_is_written_down_and_goes_on() {
    const EXECUTABLE: u64 = 1;
    const LOADED: u64 = 1;
    const CLOCK_NANOSLEEP: u64 = 230;
    let Some(env) = env() else { return };
    for engine in engines() {
        sleeping(&env, engine);
        let path = env.scratch().join(format!("{engine}.core"));
        let path_text = path.to_str().unwrap();
        // The shell said that it is up before it became the program that sleeps.
        let end = Instant::now() + Duration::from_secs(20);
        let (core, segments, registers) = loop {
            env.skep(["debug", engine, "--core", path_text]).ok();
            let core = std::fs::read(&path).unwrap();
            let segments = segments(&core);
            // The first note is the first thread's status: behind twenty bytes are 112, then its registers.
            let registers = segments[0].offset + 20 + 112;
            if word(&core, registers + 15 * 8) == CLOCK_NANOSLEEP {
                break (core, segments, registers);
            }
            assert!(Instant::now() < end, "{engine}: not the call that it sleeps in");
            std::fs::remove_file(&path).unwrap();
        };
        let at = word(&core, registers + 16 * 8);
        let code = segments.iter().find(|it| it.kind == LOADED && (it.begin..it.end).contains(&at)).unwrap();
        assert_eq!(code.flags & EXECUTABLE, EXECUTABLE, "{engine}: {at:#x} is no code");
        let stack = word(&core, registers + 19 * 8);
        let stack = segments.iter().find(|it| it.kind == LOADED && (it.begin..it.end).contains(&stack)).unwrap();
        let stack = &core[stack.offset..stack.offset + stack.in_file];
        assert!(stack.windows(14).any(|it| it == b"BEE=a-busy-one"), "{engine}: its stack is another's");
        assert_eq!(env.skep(["exec", engine, "busybox", "cat", "/tmp/x"]).ok(), "kept\n", "{engine}: it stood still");
        let error = env.skep(["debug", engine, "--core", path_text]).fails(1);
        assert!(error.contains("exists"), "{error}");
        env.skep(["kill", engine]).ok();
        let _ = env.skep(["wait", engine]);
        let late = env.scratch().join("late.core");
        let error = env.skep(["debug", engine, "--core", late.to_str().unwrap()]).fails(4);
        assert!(error.contains("not running") && !late.exists(), "{error}");
    }
}

#[test]
fn what_cannot_be_written_down_is_refused() {
    let Some(env) = env() else { return };
    crate::debug::run_cell(&env, &["--name", "c"], SLEEP);
    let path = env.scratch().join("c.core");
    let error = env.skep(["debug", "c", "--core", path.to_str().unwrap()]).fails(5);
    assert!(error.contains("cannot dump") && error.contains("unikernel"), "{error}");
    assert!(!path.exists(), "half a core stays");
}
