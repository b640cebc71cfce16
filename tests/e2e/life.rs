//! The life of a cell by its verbs.

use skep_tests::{TestEnv, can_run};

const BUSYBOX: &str = "deb:busybox-static";

fn env() -> Option<TestEnv> {
    can_run(&["root"]).then(|| TestEnv::with(BUSYBOX))
}

#[test]
fn a_program_runs_and_its_exit_code_is_ours() {
    let Some(env) = env() else { return };
    let check = |command: &[&str], code: i32, out: &str| {
        let args = ["run", "--rm", "--net", "none", BUSYBOX, "--"];
        let run = env.skep(args.iter().chain(command));
        assert_eq!((run.code, run.out.as_str()), (code, out), "{command:?}: {}", run.err);
    };
    check(&["busybox", "echo", "hello"], 0, "hello\n");
    check(&["busybox", "sh", "-c", "exit 7"], 7, "");
    check(&["busybox", "sh", "-c", "kill -TERM $$"], 143, "");
    check(&["/no/such/program"], 127, "");
    check(&["/etc"], 126, "");
    assert_eq!(env.skep(["ps", "-aq"]).ok(), "", "--rm leaves no cell");
}

#[test]
fn a_detached_cell_goes_through_its_whole_life() {
    let Some(env) = env() else { return };
    let script = "trap 'echo bye; exit 3' TERM; echo up; while :; do busybox sleep 0.05; done";
    let id = env.skep(["run", "-d", "--net", "none", "--name", "a", BUSYBOX, "--", "busybox", "sh", "-c", script]).ok();
    let id = id.trim();
    assert_eq!(env.skep(["ps", "-q"]).ok().trim(), id);
    assert_eq!(env.skep(["exec", "a", "busybox", "hostname"]).ok(), "a\n");
    assert_eq!(env.skep(["exec", id, "busybox", "sh", "-c", "exit 9"]).code, 9);
    assert!(env.skep(["exec", "a", "nothing-like-it"]).fails(127).contains("nothing-like-it"));

    env.skep(["pause", &id[..6]]).ok();
    assert_eq!(state(&env, "a"), "paused");
    env.skep(["pause", "a"]).fails(1);
    env.skep(["resume", "a"]).ok();
    assert_eq!(state(&env, "a"), "running");

    env.skep(["rename", "a", "b"]).ok();
    assert!(env.skep(["rm", "b"]).fails(4).contains("skep stop b"));
    assert!(env.skep(["start", "b"]).fails(4).contains("cannot be started"));
    env.skep(["stop", "b"]).ok();
    assert_eq!(state(&env, "b"), "exited");
    assert_eq!(env.skep(["wait", "b"]).ok(), "3\n");
    assert_eq!(env.skep(["logs", "b"]).ok(), "up\nbye\n");
    let why = env.skep(["why", "b"]).ok();
    assert!(why.contains("exit code 3") && why.contains("somebody asked for it"), "{why}");

    env.skep(["start", "b"]).ok();
    assert_eq!(state(&env, "b"), "running");
    env.skep(["kill", "b"]).ok();
    assert_eq!(env.skep(["wait", "b"]).ok(), "137\n");
    env.skep(["rm", "b"]).ok();
    assert_eq!(env.skep(["ps", "-aq"]).ok(), "");
    let words: Vec<_> = env.skep(["events", "--json"]).json().iter().map(|it| it["event"].to_string()).collect();
    let expected = ["created", "started", "executed", "executed", "paused", "resumed", "renamed", "exited", "started"];
    let expected: Vec<_> = expected.iter().chain(&["exited", "removed"]).map(|it| format!("\"{it}\"")).collect();
    assert_eq!(words, expected);
}

/// The cell's state, as `ps` has it.
fn state(env: &TestEnv, name: &str) -> String {
    let rows = env.skep(["ps", "-a", "--json", "--filter", &format!("name={name}")]).json();
    rows[0]["state"].as_str().unwrap().to_owned()
}

#[test]
fn names_are_unique_and_ids_may_be_shortened() {
    let Some(env) = env() else { return };
    let create = |name: &str| env.skep(["create", "--net", "none", "--name", name, BUSYBOX, "--", "busybox", "true"]);
    let id = create("one").ok();
    let error = create("one").fails(4);
    assert!(error.contains("the name 'one' is taken by cell") && error.contains("skep rm one"), "{error}");
    let error = env.skep(["inspect", "onne"]).fails(3);
    assert!(error.contains("did you mean 'one'?"), "{error}");
    let inspected: serde_json::Value = serde_json::from_str(&env.skep(["inspect", &id[..5]]).ok()).unwrap();
    assert_eq!(inspected[0]["spec"]["name"], "one");
    env.skep(["rm", &id[..5]]).ok();
    env.skep(["rm", "one"]).fails(3);
}

#[test]
fn a_cell_restarts_as_its_policy_says() {
    let Some(env) = env() else { return };
    let script = "busybox test -e /n || echo -n > /n; echo -n x >> /n; busybox test $(busybox wc -c < /n) -ge 3";
    let args =
        ["run", "--net", "none", "--name", "r", "--restart", "on-failure:5", BUSYBOX, "--", "busybox", "sh", "-c"];
    env.skep(args.iter().chain(&[script])).ok();
    let inspected: serde_json::Value = serde_json::from_str(&env.skep(["inspect", "r"]).ok()).unwrap();
    assert_eq!(inspected[0]["record"]["runs"], 3, "two failures, then success");
    let why = env.skep(["why", "r"]).ok();
    assert!(why.contains("started 3 times"), "{why}");
}

#[test]
fn files_go_in_and_out_of_running_and_stopped_cells() {
    let Some(env) = env() else { return };
    std::fs::write(env.scratch().join("f"), "content").unwrap();
    let sleeper = ["busybox", "sleep", "1000"];
    env.skep(["run", "-d", "--net", "none", "--name", "c", BUSYBOX, "--"].iter().chain(&sleeper)).ok();
    env.skep(["cp", "f", "c:/tmp/g"]).ok();
    assert_eq!(env.skep(["exec", "c", "busybox", "cat", "/tmp/g"]).ok(), "content");
    env.skep(["cp", "c:/tmp/g", "back"]).ok();
    env.skep(["stop", "-t", "1s", "c"]).ok();
    env.skep(["cp", "c:/tmp/g", "back2"]).ok();
    assert_eq!(std::fs::read_to_string(env.scratch().join("back2")).unwrap(), "content");
    env.skep(["cp", "f", "c:/tmp/h"]).ok();
    env.skep(["start", "c"]).ok();
    assert_eq!(env.skep(["exec", "c", "busybox", "cat", "/tmp/h"]).ok(), "content");
    assert!(env.skep(["cp", "f", "g"]).fails(2).contains("CELL:PATH"));
    env.skep(["cp", "c:/no/such/file", "x"]).fails(1);
}
