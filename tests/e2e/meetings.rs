//! Commands that meet: with each other, with signals, with a cell that ends or waits under them.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use skep_tests::{TestEnv, can_run};

const BUSYBOX: &str = "deb:busybox-static";
/// Says that it is there, and ends with 5 when it is asked to.
const POLITE: &str = "trap 'echo asked; exit 5' TERM INT; echo up; while :; do busybox sleep 0.05; done";

fn env() -> Option<TestEnv> {
    can_run(&["root"]).then(|| TestEnv::with(BUSYBOX))
}

fn run_detached(env: &TestEnv, options: &[&str], script: &str) {
    let args = ["run", "-d", "--net", "none"].iter().chain(options).chain(&[BUSYBOX, "--", "busybox", "sh", "-c"]);
    env.skep(args.chain(&[script])).ok();
}

fn row(env: &TestEnv, name: &str) -> serde_json::Value {
    let rows = env.skep(["ps", "-a", "--json"]).json();
    rows.into_iter().find(|it| it["name"] == name).unwrap_or_default()
}

/// Waits until the cell is in that state.
#[track_caller]
fn becomes(env: &TestEnv, name: &str, state: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while row(env, name)["state"] != state {
        assert!(Instant::now() < deadline, "{name} does not become {state}: {}", row(env, name));
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn signal(name: &str, pid: u64) {
    assert!(Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap().success());
}

fn supervisor_of(env: &TestEnv, name: &str) -> u64 {
    let inspected: serde_json::Value = serde_json::from_str(&env.skep(["inspect", name]).ok()).unwrap();
    inspected[0]["record"]["supervisor"]["pid"].as_u64().unwrap()
}

#[test]
fn signals_to_a_command_in_front_are_the_programs() {
    let Some(env) = env() else { return };
    // No name is the beginning of an id: the other cell's log would be taken for that of one that is still to come.
    for (name, word) in [("term", "TERM"), ("int", "INT")] {
        let child = env.spawn(["run", "--net", "none", "--name", name, BUSYBOX, "--", "busybox", "sh", "-c", POLITE]);
        let deadline = Instant::now() + Duration::from_secs(30);
        while !env.skep(["logs", name]).out.contains("up") {
            assert!(Instant::now() < deadline, "{name} does not come up");
        }
        signal(word, u64::from(child.id()));
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(5), "{word}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "up\nasked\n");
    }
}

#[test]
fn a_supervisor_that_is_asked_to_end_stops_its_cell() {
    let Some(env) = env() else { return };
    run_detached(&env, &["--name", "a"], POLITE);
    signal("TERM", supervisor_of(&env, "a"));
    becomes(&env, "a", "exited");
    assert_eq!(env.skep(["wait", "a"]).ok(), "5\n");
}

#[test]
fn a_program_whose_reader_went_away_is_told() {
    let Some(env) = env() else { return };
    let mut child = env.spawn(["run", "--net", "none", "--name", "y", BUSYBOX, "--", "busybox", "yes"]);
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(128 + 13));
    assert_eq!(row(&env, "y")["state"], "exited");
}

#[test]
fn a_cell_between_two_runs_can_be_stopped_killed_and_changed() {
    let Some(env) = env() else { return };
    let waiting = |name: &str| {
        // It is not started again within the test.
        let hold = "busybox test $(busybox wc -c < /n) -lt 6 || exit 1";
        let script = format!("echo x >> /n; {hold}; exit 1");
        run_detached(&env, &["--name", name, "--restart", "always"], &script);
        let deadline = Instant::now() + Duration::from_secs(30);
        while row(&env, name)["state"] != "restarting" {
            assert!(Instant::now() < deadline, "{name} does not wait");
        }
    };
    waiting("a");
    env.skep(["stop", "a"]).ok();
    becomes(&env, "a", "exited");
    waiting("b");
    env.skep(["kill", "b"]).ok();
    becomes(&env, "b", "exited");
    waiting("c");
    env.skep(["set", "--restart", "no", "c"]).ok();
    becomes(&env, "c", "exited");
    assert_eq!(row(&env, "c")["report"]["exit"]["code"], 1);
}

#[test]
fn a_killed_cell_does_not_come_back_and_a_crashed_one_does() {
    let Some(env) = env() else { return };
    run_detached(&env, &["--name", "a", "--restart", "always"], "while :; do busybox sleep 1; done");
    env.skep(["kill", "-s", "USR1", "a"]).ok();
    let deadline = Instant::now() + Duration::from_secs(30);
    let runs = || {
        let inspected: serde_json::Value = serde_json::from_str(&env.skep(["inspect", "a"]).ok()).unwrap();
        inspected[0]["record"]["runs"].as_u64().unwrap()
    };
    while runs() < 2 {
        assert!(Instant::now() < deadline, "it was not started again");
    }
    becomes(&env, "a", "running");
    env.skep(["kill", "a"]).ok();
    becomes(&env, "a", "exited");
}

#[test]
fn a_paused_cell_refuses_exec_and_can_be_stopped() {
    let Some(env) = env() else { return };
    run_detached(&env, &["--name", "a"], POLITE);
    env.skep(["pause", "a"]).ok();
    if row(&env, "a")["state"] != "paused" {
        return;
    }
    let error = env.skep(["exec", "a", "busybox", "true"]).fails(4);
    assert!(error.contains("paused") && error.contains("skep resume a"), "{error}");
    env.skep(["stop", "-t", "20s", "a"]).ok();
    assert_eq!(env.skep(["wait", "a"]).ok(), "5\n", "it could answer the signal");
}

#[test]
fn several_may_remove_or_stop_one_cell_at_once() {
    let Some(env) = env() else { return };
    for verb in [&["rm", "-f", "a"][..], &["stop", "-t", "0", "a"]] {
        for _ in 0..5 {
            run_detached(&env, &["--name", "a"], "busybox sleep 1000");
            let together: Vec<Child> = (0..4).map(|_| env.spawn(verb)).collect();
            for child in together {
                let output = child.wait_with_output().unwrap();
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                // Who comes too late finds nothing of that name, which is an answer, too.
                assert!(matches!(output.status.code(), Some(0 | 3)), "{verb:?}: {said}");
            }
            let _ = env.skep(["rm", "-f", "a"]);
        }
    }
}

#[test]
fn of_several_that_want_a_name_one_gets_it() {
    let Some(env) = env() else { return };
    let create =
        |name: &str| ["create", "--net", "none", "--name", name, BUSYBOX, "--", "busybox", "true"].map(str::to_owned);
    for round in 0..5 {
        let name = format!("n{round}");
        let lister = env.spawn(["ps", "-a"]);
        let together: Vec<Child> = (0..4).map(|_| env.spawn(create(&name))).collect();
        let codes: Vec<_> = together.into_iter().map(|it| it.wait_with_output().unwrap().status.code()).collect();
        lister.wait_with_output().unwrap();
        let count = |code| codes.iter().filter(|it| **it == Some(code)).count();
        assert_eq!((count(0), count(4)), (1, 3), "{codes:?}");
    }
    env.skep(["rename", "n0", "n1"]).fails(4);
    env.skep(["rename", "n0", "other"]).ok();
    assert_eq!(row(&env, "other")["name"], "other");
    env.skep(create("n0")).ok();
}

#[test]
fn what_crashes_leave_of_names_and_cells_counts_for_nothing() {
    let Some(env) = env() else { return };
    let create = |name: &str| env.skep(["create", "--net", "none", "--name", name, BUSYBOX, "--", "busybox", "true"]);
    let id = create("a").ok();
    // A rename that died after its claim, a removal that died half-way, a claim that was never written.
    std::fs::write(env.home().join("names/b"), &id).unwrap();
    std::fs::write(env.home().join("names/c"), "").unwrap();
    std::fs::create_dir(env.home().join("cells/.new-0123456789ab")).unwrap();
    std::fs::write(env.home().join("names/d"), "0123456789ab\n").unwrap();
    for name in ["b", "c", "d"] {
        create(name).ok();
    }
    // Power was lost: files that were not synced are empty.
    std::fs::write(env.home().join(format!("cells/{}/state.json", id.trim())), "").unwrap();
    assert_eq!(row(&env, "a")["report"]["exit"]["reason"], "supervisor-lost");
    let id = create("e").ok();
    std::fs::write(env.home().join(format!("cells/{}/spec.json", id.trim())), "").unwrap();
    let listed = env.skep(["ps", "-a"]);
    assert!(listed.err.contains(&format!("skep rm -f {}", id.trim())), "{listed:?}");
    assert_eq!(listed.ok().lines().count(), 1 + 4);
    env.skep(["rm", "-f", id.trim()]).ok();
    assert_eq!(env.skep(["ps", "-a"]).err, "");
    create("e").ok();
}

#[test]
fn a_cell_that_cannot_be_made_leaves_none() {
    let Some(env) = env() else { return };
    let error = env.skep(["run", "--as", "machine", "--net", "none", BUSYBOX, "--", "busybox", "true"]).fails(5);
    assert!(error.contains("--as container"), "{error}");
    for net in ["none", "host"] {
        let error = env.skep(["run", "-p", "8080:80", "--net", net, BUSYBOX, "--", "busybox", "true"]).fails(2);
        assert!(error.contains("cannot be published") && error.contains("leave out"), "{error}");
    }
    assert_eq!(env.skep(["ps", "-aq"]).ok(), "");
}

#[test]
fn a_reader_that_stops_reading_holds_nobody_up_for_ever() {
    let Some(env) = env() else { return };
    run_detached(&env, &["--name", "a"], "while :; do echo 0123456789012345678901234567890123456789; done");
    let mut deaf = env.command(["attach", "a"]).stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    // The pipe, its reader's socket and the supervisor's buffer fill up; then the log stands still.
    let log = env.home().join("cells").join(row(&env, "a")["id"].as_str().unwrap()).join("log/current");
    let length = || std::fs::metadata(&log).map_or(0, |it| it.len());
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let before = length();
        std::thread::sleep(Duration::from_millis(200));
        if before == length() || Instant::now() > deadline {
            break;
        }
    }
    let before = length();
    deaf.kill().unwrap();
    deaf.wait().unwrap();
    while length() == before {
        assert!(Instant::now() < deadline, "the cell does not go on when its reader is gone");
    }
    env.skep(["rm", "-f", "a"]).ok();
}
