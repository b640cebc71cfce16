//! Families of unikernel cells: further programs in them, and running cells made again by fork.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use skep_tests::{Run, TestEnv, can_run, free_port, unikernel_engines};

const BUSYBOX: &str = "deb:busybox-static";
const PYTHON: &str = "deb:python3-minimal";
const REDIS: &str = "deb:redis-server";

/// Does that on each engine that there is here, with a running cell by the engine's name.
fn with_cell(image: &str, options: &[&str], command: &[&str], check: impl Fn(&TestEnv, &str)) {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(image);
    for engine in unikernel_engines() {
        let begin = ["run", "-d", "--as", "unikernel", "--name", engine];
        let args = begin.iter().chain(options).chain([&image, &"--"]).chain(command);
        env.finish(env.command(args).env("SKEP_ENGINE", engine)).ok();
        check(&env, engine);
        env.skep(["rm", "-f", engine]).ok();
    }
}

/// A cell that counts.
fn with_counter(check: impl Fn(&TestEnv, &str)) {
    let script = "i=0; while :; do echo $i; i=$((i+1)); busybox sleep 0.05; done";
    with_cell(BUSYBOX, &["--network", "none"], &["busybox", "sh", "-c", script], check);
}

fn until(what: &str, happened: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !happened() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn inspected(env: &TestEnv, cell: &str) -> serde_json::Value {
    let all: serde_json::Value = serde_json::from_str(&env.skep(["inspect", cell]).ok()).unwrap();
    all[0].clone()
}

fn state(env: &TestEnv, cell: &str) -> String {
    inspected(env, cell)["record"]["state"]["state"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_further_program_runs_as_in_a_container() {
    with_counter(|env, cell| {
        let exec = |options: &[&str], script: &str| -> Run {
            let args = ["exec"].iter().chain(options).chain([&cell, &"busybox", &"sh", &"-c", &script]);
            env.skep_fed(b"fed\n", args)
        };
        assert_eq!(
            exec(&[], "echo out; echo err >&2; exit 7"),
            Run { code: 7, out: "out\n".into(), err: "err\n".into() }
        );
        let surroundings = exec(
            &["-i", "-u", "33", "-w", "/usr/bin", "-e", "BEE=honey"],
            "busybox cat; pwd; echo $BEE; busybox id -u",
        );
        assert_eq!(surroundings.ok(), "fed\n/usr/bin\nhoney\n33\n");
        assert_eq!(exec(&[], "kill -TERM $$").code, 143);
        assert_eq!(exec(&["-t"], "busybox test -t 1 && echo terminal").ok(), "terminal\r\n");
        assert!(env.skep(["exec", cell, "nothing-like-it"]).fails(127).contains("nothing-like-it"));
        // It sees the family, and leaves the cell's own program alone.
        assert_eq!(exec(&[], "kill -0 1 && echo there").ok(), "there\n");
        assert_eq!(state(env, cell), "running");
    });
}

#[test]
fn a_detached_program_is_signalled_and_ends_with_its_visitor() {
    with_counter(|env, cell| {
        // The counter's own children are programs by another name.
        let programs = || env.skep(["tree", "-p", cell]).ok().lines().filter(|it| it.ends_with(" busybox")).count();
        let pid = env.skep(["exec", "-d", cell, "busybox", "sleep", "1000"]).ok();
        until("it is there", || programs() == 2);
        let kill = std::process::Command::new("kill").args(["-TERM", pid.trim()]).status().unwrap();
        assert!(kill.success());
        until("it ends", || programs() == 1);
        assert_eq!(state(env, cell), "running");
    });
}

#[test]
fn a_fork_is_a_cell_that_goes_on_from_where_the_other_stands() {
    with_counter(|env, cell| {
        let counted = |cell: &str| env.skep(["logs", cell]).ok().lines().count();
        until("it counts", || counted(cell) > 3);
        let names: Vec<String> = (1..=3).map(|it| format!("{cell}-{it}")).collect();
        assert_eq!(env.skep(["fork", cell, "-n", "3"]).ok().lines().collect::<Vec<_>>(), names);
        for name in &names {
            until("a copy counts", || counted(name) > 1);
            let first: u32 = env.skep(["logs", name]).ok().lines().next().unwrap().parse().unwrap();
            assert!(first > 2, "{name} began anew: {first}");
            assert_eq!(inspected(env, name)["record"]["kin"]["parent"], inspected(env, cell)["spec"]["id"]);
        }
        // Numbers that are taken are passed over, and a copy is as good as an original.
        assert_eq!(env.skep(["fork", cell]).ok(), format!("{cell}-4\n"));
        assert_eq!(env.skep(["fork", &names[2], "--name", "deep"]).ok(), "deep-1\n");
        let tree = env.skep(["tree", cell]).ok();
        let lines: Vec<_> = tree.lines().map(|it| it.split(" (").next().unwrap().to_owned()).collect();
        assert_eq!(lines.len(), 6, "{tree}");
        assert!(lines.contains(&"│  └─ deep-1".to_owned()), "{tree}");

        // Each has an end of its own.
        env.skep(["stop", &names[0]]).ok();
        env.skep(["kill", "-s", "USR1", &names[1]]).ok();
        assert_eq!(env.skep(["wait", &names[0]]).ok(), "143\n");
        assert_eq!(env.skep(["wait", &names[1]]).ok(), "138\n");
        let why = env.skep(["why", &names[0]]).ok();
        assert!(why.contains("SIGTERM") && why.contains("forked"), "{why}");
        env.skep(["rm", &names[0], &names[1]]).ok();
        assert_eq!(env.skep(["exec", &names[2], "busybox", "echo", "hi"]).ok(), "hi\n");
        assert!(env.skep(["pause", &names[2]]).fails(1).contains("family"));
        for it in [cell, &names[2], "deep-1"] {
            assert_eq!(state(env, it), "running", "{it}");
        }
        // All are gone when the first is.
        env.skep(["stop", cell]).ok();
        for it in [&names[2], "deep-1"] {
            until("it ends with its family", || state(env, it) == "exited");
            env.skep(["rm", it]).ok();
        }
        env.skep(["rm", &format!("{cell}-4")]).ok();
    });
}

#[test]
fn threads_go_on_in_a_fork_and_what_must_differ_differs() {
    let program = "import os,threading,time\n\
                   def work(own):\n while True: print(own, os.getpid(), os.urandom(8).hex(), flush=True); time.sleep(.1)\n\
                   for own in 'abc': threading.Thread(target=work, args=(own,)).start()";
    with_cell(PYTHON, &["--network", "none"], &["python3", "-c", program], |env, cell| {
        let words = |cell: &str, at: usize| -> BTreeSet<String> {
            let text = env.skep(["logs", cell]).ok();
            text.lines().filter_map(|it| it.split(' ').nth(at).map(str::to_owned)).collect()
        };
        until("it has threads", || words(cell, 0).len() == 3);
        env.skep(["fork", cell]).ok();
        let copy = format!("{cell}-1");
        until("its copy has as many", || words(&copy, 0).len() == 3);
        for differing in [1, 2] {
            assert!(words(cell, differing).is_disjoint(&words(&copy, differing)));
        }
        env.skep(["rm", "-f", &copy]).ok();
    });
}

#[test]
fn a_program_that_never_rests_is_forked() {
    with_cell(BUSYBOX, &["--network", "none"], &["busybox", "sh", "-c", "while :; do :; done"], |env, cell| {
        env.skep(["fork", cell]).ok();
        let copy = format!("{cell}-1");
        assert_eq!(state(env, &copy), "running");
        env.skep(["rm", "-f", &copy]).ok();
        assert_eq!(state(env, cell), "running");
    });
}

#[test]
fn forks_of_a_server_answer_with_what_it_knew() {
    let port = free_port();
    let publish = format!("{port}:6379");
    with_cell(REDIS, &["-p", &publish], &["redis-server", "--protected-mode", "no"], |env, cell| {
        let say = |words: &str, stream: &mut TcpStream| {
            let mut answer = [0; 64];
            stream.write_all(words.as_bytes()).unwrap();
            let count = stream.read(&mut answer).unwrap_or(0);
            String::from_utf8_lossy(&answer[..count]).into_owned()
        };
        let connect = || TcpStream::connect(("127.0.0.1", port)).unwrap();
        until("it listens", || say("SET bee honey\r\n", &mut connect()) == "+OK\r\n");
        let mut before = connect();
        assert_eq!(say("GET bee\r\n", &mut before), "$5\r\nhoney\r\n");
        env.skep(["fork", cell, "-n", "4"]).ok();
        // A connection from before is the original's alone; new ones are answered by whichever is free.
        for _ in 0..20 {
            assert_eq!(say("GET bee\r\n", &mut before), "$5\r\nhoney\r\n");
            assert_eq!(say("GET bee\r\n", &mut connect()), "$5\r\nhoney\r\n");
        }
        env.skep(["stop", &format!("{cell}-1")]).ok();
        assert_eq!(say("GET bee\r\n", &mut connect()), "$5\r\nhoney\r\n");
        assert_eq!(state(env, &format!("{cell}-2")), "running");
        env.skep(["stop", cell]).ok();
        for it in 1..=4 {
            let name = format!("{cell}-{it}");
            until("it ends with its family", || state(env, &name) == "exited");
            env.skep(["rm", &name]).ok();
        }
    });
}

#[test]
fn a_boundary_without_forks_says_which_has_them() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(BUSYBOX);
    env.skep(["run", "-d", "--network", "none", "--name", "a", BUSYBOX, "--", "busybox", "sleep", "100"]).ok();
    assert!(env.skep(["fork", "a"]).fails(5).contains("--as unikernel"));
    env.skep(["rm", "-f", "a"]).ok();
}

#[test]
fn system_calls_that_are_missing_are_told() {
    with_counter(|env, cell| {
        assert_ne!(env.skep(["exec", cell, "busybox", "unshare", "-m", "true"]).code, 0);
        until("it is told", || env.skep(["why", cell]).ok().contains("unshare"));
        assert_eq!(inspected(env, cell)["record"]["unknown"][0]["call"], 272);
        env.skep(["stop", cell]).ok();
        assert!(env.skep(["why", cell]).ok().contains("unshare"));
    });
}
