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
    env.skep(["pause", "a"]).fails(4);
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
    env.skep(["cp", "c:/no/such/file", "x"]).fails(3);
}

/// Stopping the terminal's job, or walking away from it, must not hold the cell.
#[test]
fn a_stopped_exec_does_not_keep_its_cell_from_ending() {
    let Some(env) = env() else { return };
    let sleeper = ["busybox", "sleep", "1000"];
    env.skep(["run", "-d", "--net", "none", "--name", "e", BUSYBOX, "--"].iter().chain(&sleeper)).ok();
    let mut exec = env.spawn(["exec", "e", "busybox", "sh", "-c", "echo ready; busybox sleep 2000"]);
    let mut ready = [0; 6];
    std::io::Read::read_exact(exec.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let pid = rustix::process::Pid::from_child(&exec);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    env.skep(["stop", "-t", "1s", "e"]).ok();
    assert!(env.skep(["ps", "-a"]).ok().contains("signal 15"));
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    assert_eq!(exec.wait().unwrap().code(), Some(137));
}

#[test]
fn a_detached_exec_goes_on_without_its_caller() {
    let Some(env) = env() else { return };
    let sleeper = ["busybox", "sleep", "1000"];
    env.skep(["run", "-d", "--net", "none", "--name", "d", BUSYBOX, "--"].iter().chain(&sleeper)).ok();
    let script = "busybox sleep 0.3; echo done > /done";
    env.skep(["exec", "-d", "d", "busybox", "sh", "-c", script]).ok();
    let waiting = "while ! busybox test -s /done; do busybox sleep 0.05; done; busybox cat /done";
    assert_eq!(env.skep(["exec", "d", "busybox", "timeout", "60", "busybox", "sh", "-c", waiting]).ok(), "done\n");
}

#[test]
fn what_a_state_forbids_is_a_conflict_with_the_next_step() {
    let Some(env) = env() else { return };
    env.skep(["run", "-d", "--net", "none", "--name", "p", BUSYBOX, "--", "busybox", "sleep", "1000"]).ok();
    let refused = env.skep(["resume", "p"]).fails(4);
    assert!(refused.starts_with("error: p: a cell that is running cannot be resumed\n"), "{refused}");
    env.skep(["pause", "p"]).ok();
    let refused = env.skep(["pause", "p"]).fails(4);
    let expected = "error: p: a cell that is paused cannot be paused\nhint: 'skep resume p' lets it go on\n";
    assert_eq!(refused, expected);
}

#[test]
fn an_image_is_not_taken_for_one_of_another_processor() {
    let Some(env) = env() else { return };
    env.skep(["image", "tag", BUSYBOX, "box"]).ok();
    let other = if cfg!(target_arch = "aarch64") { "amd64" } else { "arm64" };
    let refused = env.skep(["run", "--rm", "--net", "none", "--arch", other, "box", "--", "busybox", "true"]).fails(4);
    assert!(refused.contains(&format!(", not {other}")), "{refused}");
}

#[test]
fn a_cell_does_not_see_the_command_line_of_its_supervisor() {
    let Some(env) = env() else { return };
    let show = ["run", "--rm", "--net", "none", BUSYBOX, "--", "busybox", "cat", "/proc/1/cmdline"];
    let shown = env.skep(show).ok();
    assert_eq!(shown.trim_end_matches('\0'), "skep-init");
}

#[test]
fn a_capability_that_skep_lacks_is_reported_and_left_out() {
    if !can_run(&["root", "setpriv"]) {
        return;
    }
    let env = TestEnv::with(BUSYBOX);
    let skep = env.command(["run", "--rm", "--net", "none", "--privileged", BUSYBOX, "--", "busybox", "true"]);
    let mut lacking = std::process::Command::new("setpriv");
    lacking.args(["--bounding-set=-sys_time", "--inh-caps=-sys_time"]).arg(skep.get_program()).args(skep.get_args());
    lacking.env("SKEP_ROOT", env.home());
    let output = lacking.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    assert!(error.contains("capability SYS_TIME not applied: skep does not have it itself"), "{error}");
}
