//! Unmodified programs as guests of the library operating system, in virtual machines and in confined processes: what a
//! user sees of them is what is seen of a container.

use skep_tests::{Run, TestEnv, can_run, unikernel_engines as engines};

const BUSYBOX: &str = "deb:busybox-static";
const PYTHON: &str = "deb:python3-minimal";

fn run(env: &TestEnv, engine: &str, options: &[&str], image: &str, command: &[&str]) -> Run {
    let args = ["run", "--as", "unikernel"].iter().chain(options).chain([&image, &"--"]).chain(command);
    env.finish(env.command(args).env("SKEP_ENGINE", engine))
}

#[track_caller]
fn check(image: &str, command: &[&str], code: i32, out: &str) {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(image);
    for engine in engines() {
        let run = run(&env, engine, &["--rm", "--network", "none"], image, command);
        assert_eq!((run.code, run.out.as_str()), (code, out), "{engine}: {}", run.err);
    }
}

#[test]
fn a_shell_pipes_forks_and_waits() {
    check(
        BUSYBOX,
        &["sh", "-c", "echo a | tr a b; for i in 3 1 2; do echo $i; done | sort | tail -n 1; exit 3"],
        3,
        "b\n3\n",
    );
}

#[test]
fn what_ends_a_guest_is_told_as_of_any_process() {
    check(BUSYBOX, &["sh", "-c", "kill -TERM $$"], 143, "");
    check(BUSYBOX, &["sh", "-c", "(exit 7); echo $?; (kill -9 $(sh -c 'echo $PPID')); echo $?"], 0, "7\n137\n");
    check(BUSYBOX, &["nosuch"], 127, "");
}

#[test]
fn a_process_of_two_threads_of_control() {
    let program = "import os;p=os.fork();print('parent' if p else 'child', flush=True) if not p else \
                   (os.wait(), print('parent', flush=True))";
    check(PYTHON, &["python3", "-c", program], 0, "child\nparent\n");
}

/// What a process uses often may reach the host by another way than at first.
#[test]
fn files_that_are_used_often_stay_what_they_are() {
    let program = "\
import os, time
r, w = os.pipe()
def often():
    for i in range(10):
        os.write(w, b'x'); os.read(r, 9)
def child(what):
    p = os.fork()
    if p == 0:
        what(); os._exit(0)
    return p
often()
other, end = os.pipe()
os.write(end, b'other'); os.dup2(other, r); print(os.read(r, 9))
r, w = os.pipe(); often()
os.waitpid(child(lambda: os.set_blocking(r, False)), 0)
try: os.read(r, 9)
except BlockingIOError: print('does not wait')
p = child(lambda: (os.set_blocking(r, True), os.write(end, b'now'), time.sleep(0.1), os.write(w, b'late')))
os.read(other, 9); print(os.read(r, 9)); os.waitpid(p, 0)
p = child(lambda: (often(), os.write(w, b'last')))
os.waitpid(p, 0); os.close(w); print(os.read(r, 9), os.read(r, 9))
";
    check(PYTHON, &["python3", "-c", program], 0, "b'other'\ndoes not wait\nb'late'\nb'last' b''\n");
}

#[test]
fn a_fault_is_the_guests_own_and_why_tells_it() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(PYTHON);
    for engine in engines() {
        let program = "import os,signal;os.kill(os.getpid(),signal.SIGSEGV)";
        let crashed = run(&env, engine, &["--name", engine, "--network", "none"], PYTHON, &["python3", "-c", program]);
        assert_eq!(crashed.code, 139, "{engine}: {}", crashed.err);
        let why = env.skep(["why", engine]).ok();
        assert!(why.contains("SIGSEGV"), "{engine}: {why}");
        let shown = env.skep(["inspect", engine]).ok();
        assert!(shown.contains(&format!("\"engine\": \"{engine}\"")), "{shown}");
    }
}

#[test]
fn files_a_guest_writes_are_the_cells() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(BUSYBOX);
    for engine in engines() {
        let command = ["sh", "-c", "cd /tmp && mkdir d && echo honey > d/f && cat d/f && pwd && ls /proc | wc -l"];
        let out = run(&env, engine, &["--name", engine, "--network", "none"], BUSYBOX, &command).ok();
        // The host's /proc is not there to be seen.
        assert_eq!(out, "honey\n/tmp\n0\n", "{engine}");
        let copy = env.scratch().join(engine);
        env.skep(["cp", &format!("{engine}:/tmp/d/f"), copy.to_str().unwrap()]).ok();
        assert_eq!(std::fs::read_to_string(&copy).unwrap(), "honey\n", "{engine}");
    }
}

#[test]
fn a_guest_is_paused_stopped_and_its_output_kept() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(BUSYBOX);
    for engine in engines() {
        let command = ["sh", "-c", "trap 'echo asked; exit 5' TERM; echo ready; while :; do sleep 0.05; done"];
        let _ = run(&env, engine, &["-d", "--name", engine, "--network", "none"], BUSYBOX, &command).ok();
        while !env.skep(["logs", engine]).ok().contains("ready") {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        env.skep(["pause", engine]).ok();
        env.skep(["resume", engine]).ok();
        env.skep(["stop", engine]).ok();
        assert_eq!(env.skep(["logs", engine]).ok(), "ready\nasked\n", "{engine}");
        let why = env.skep(["why", engine]).ok();
        assert!(why.contains('5'), "{engine}: {why}");
    }
}

#[test]
fn an_engine_that_is_none_is_told() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(BUSYBOX);
    let said = run(&env, "dbt", &["--rm"], BUSYBOX, &["true"]).fails(2);
    assert!(said.contains("'kvm' or 'process'"), "{said}");
}

/// A port is published before the program listens on it: who comes early waits, also when he speaks first.
#[test]
fn a_connection_from_before_the_server_listened_is_answered() {
    use std::io::{Read, Write};
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with("deb:redis-server");
    for engine in skep_tests::unikernel_engines() {
        for round in 0..4 {
            let port = skep_tests::free_port();
            let publish = format!("{port}:6379");
            let run = ["run", "-d", "--as", "unikernel", "--name", "early", "-p", &publish, "deb:redis-server"];
            env.finish(env.command(run).env("SKEP_ENGINE", engine)).ok();
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(b"PING\r\n").unwrap();
            let mut answer = String::new();
            let _ = stream.take(7).read_to_string(&mut answer);
            assert_eq!(answer, "+PONG\r\n", "{engine}, round {round}");
            env.skep(["rm", "-f", "early"]).ok();
        }
    }
}
