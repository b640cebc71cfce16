//! Guests that try to get at their tender, and programs that are none. Each costs nobody but itself: the shell that started
//! it goes on, in the same family, and the cell's end is told as it was.

use std::path::PathBuf;
use std::process::Command;

use skep_tests::{TestEnv, can_run, unikernel_engines as engines};

const BUSYBOX: &str = "deb:busybox-static";

/// The hostile program, compiled, in a directory of its own.
fn compile(env: &TestEnv) -> PathBuf {
    let dir = env.scratch().join("programs");
    std::fs::create_dir_all(&dir).unwrap();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/programs/hostile.c");
    let status = Command::new("cc").args(["-static", "-O1", "-w", "-o"]).arg(dir.join("hostile")).arg(source).status();
    assert!(status.unwrap().success(), "install a C compiler and the C library's static archive");
    dir
}

#[track_caller]
fn check(options: &[&str], script: &str, judge: impl Fn(&str, i32, &str)) {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(BUSYBOX);
    let volume = format!("{}:/h:ro", compile(&env).display());
    for engine in engines() {
        let args = ["run", "--as", "unikernel", "--network", "none", "--name", engine, "-v", &volume];
        let command = [BUSYBOX, "--", "sh", "-c", script];
        let args = args.iter().chain(options).chain(&command);
        let run = env.finish(env.command(args).env("SKEP_ENGINE", engine));
        judge(engine, run.code, &run.out);
        let states = env.skep(["ps", "-a", "--json"]).ok();
        assert!(!states.contains("\"running\""), "{engine}: it still runs: {states}");
        env.skep(["why", engine]).ok();
    }
}

/// The program does not end well, and the shell goes on.
#[track_caller]
fn check_alone(what: &str) {
    // Some of it is a loop without end, as any program may be.
    check(&[], &format!("timeout -s KILL 10 /h/hostile {what}; echo ended $?; echo end"), |engine, code, out| {
        assert_eq!(code, 0, "{engine}, {what}: the shell was taken along: {out}");
        assert!(out.ends_with("end\n") && !out.contains("still here"), "{engine}, {what}: {out}");
        assert!(!out.contains("ended 0\n"), "{engine}, {what}: it should not have ended well: {out}");
    });
}

macro_rules! attacks {
    ($($name:ident: $what:literal;)+) => { $(#[test] fn $name() { check_alone($what); })+ };
}

attacks! {
    calls_without_meaning: "calls";
    other_calls_without_meaning: "calls 7";
    a_port_full_of_noise: "scribble";
    a_stack_that_is_gone: "unmap";
    a_jump_into_the_library: "jump";
    writing_to_the_librarys_text: "text";
    gates_that_lead_nowhere: "gates";
    tables_full_of_noise: "tables";
    a_stack_at_the_wrong_place: "stack";
    pipes_full_of_noise: "rings";
}

#[test]
fn a_fork_bomb_is_held_by_the_cells_limit() {
    check(&["--pids-limit", "48"], "/h/hostile bomb & sleep 2; exit 9", |engine, code, out| {
        assert_eq!(code, 9, "{engine}: {out}");
    });
}

#[test]
fn memory_without_end_is_the_cells_own() {
    check(&["-m", "96m"], "/h/hostile memory; echo $?", |engine, code, out| {
        assert!(code == 137 || out == "137\n", "{engine}: {code}, {out}");
    });
}

/// Copies of a good program with a few bytes of its headers changed.
#[test]
fn headers_that_say_anything() {
    const COPIES: usize = 60;
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(BUSYBOX);
    let dir = env.scratch().join("headers");
    std::fs::create_dir_all(&dir).unwrap();
    let good = std::fs::read(compile(&env).join("hostile")).unwrap();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for copy in 0..COPIES {
        let mut bytes = good.clone();
        for _ in 0..1 + next() % 4 {
            let at = 4 + (next() % 400) as usize;
            bytes[at] = [0, 0xff, 0x7f, 0x80, next() as u8][(next() % 5) as usize];
        }
        bytes.truncate(if copy % 10 == 0 { (next() % 2000) as usize } else { good.len() });
        let path = dir.join(format!("p{copy}"));
        std::fs::write(&path, bytes).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, executable).unwrap();
    }
    for engine in engines() {
        let script = "for p in /h/*; do timeout 5 $p >/dev/null 2>&1; done; echo end";
        let volume = format!("{}:/h:ro", dir.display());
        let args =
            ["run", "--rm", "--as", "unikernel", "--network", "none", "-v", &volume, BUSYBOX, "--", "sh", "-c", script];
        let run = env.finish(env.command(args).env("SKEP_ENGINE", engine));
        assert_eq!((run.code, run.out.as_str()), (0, "end\n"), "{engine}: {}", run.err);
        assert!(!run.err.contains("library operating system failed"), "{engine}: {}", run.err);
    }
}

/// What a cell is given as its standard input is not the host's own device, of which its root could change the mode.
#[test]
fn the_hosts_null_device_is_no_cells() {
    use std::os::unix::fs::PermissionsExt;
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(BUSYBOX);
    let before = std::fs::metadata("/dev/null").unwrap().permissions();
    for (boundary, engine) in [("container", "kvm"), ("unikernel", "process")] {
        let args = ["run", "--rm", "--network", "none", "--as", boundary, BUSYBOX, "--", "chmod", "600", "/dev/stdin"];
        let run = env.finish(env.command(args).env("SKEP_ENGINE", engine));
        let after = std::fs::metadata("/dev/null").unwrap().permissions();
        std::fs::set_permissions("/dev/null", before.clone()).unwrap();
        assert_eq!(after.mode(), before.mode(), "{boundary}: {}", run.err);
    }
}
