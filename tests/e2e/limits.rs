//! Limits are applied, reported, changed, and explained when they end a cell.

use skep_tests::{TestEnv, can_run};

const BUSYBOX: &str = "deb:busybox-static";

fn env() -> Option<TestEnv> {
    can_run(&["root"]).then(|| TestEnv::with(BUSYBOX))
}

#[test]
fn a_cell_over_its_memory_limit_is_told_so() {
    let Some(env) = env() else { return };
    let hog = "x=$(busybox head -c 200m /dev/zero | busybox tr '\\0' x); echo ${#x}";
    let run = env.skep(["run", "--net", "none", "--name", "m", "-m", "32m", BUSYBOX, "--", "busybox", "sh", "-c", hog]);
    let degraded = !env.skep(["ps", "-a", "--json"]).json()[0]["degraded"].as_array().unwrap().is_empty();
    if degraded {
        eprintln!("skipped: the memory limit cannot be applied here");
        return;
    }
    assert_eq!(run.code, 137, "{}", run.err);
    assert!(run.err.contains("out of memory (limit 32 MiB)"), "{}", run.err);
    let why = env.skep(["why", "m"]).ok();
    assert!(why.contains("it needed more memory than its limit of 32 MiB") && why.contains("--memory 64m"), "{why}");
}

#[test]
fn stats_show_limits_and_use_and_set_changes_them() {
    let Some(env) = env() else { return };
    let args = ["run", "-d", "--net", "none", "--name", "s", "-m", "64m", "--cpus", "0.5", "--pids-limit", "20"];
    env.skep(args.iter().chain(&[BUSYBOX, "--", "busybox", "sleep", "1000"])).ok();
    let stats = env.skep(["stats", "s", "--json"]).json().remove(0);
    if stats["memory_limit"].is_null() {
        eprintln!("skipped: the memory limit cannot be applied here");
        return;
    }
    assert_eq!(stats["memory_limit"], 64 << 20);
    assert!(stats["cpu_ns"].as_u64().unwrap() > 0 && stats["pids"].as_u64().unwrap() >= 1, "{stats}");
    env.skep(["set", "--memory", "96m", "s"]).ok();
    assert_eq!(env.skep(["stats", "s", "--json"]).json()[0]["memory_limit"], 96 << 20);
    assert!(env.skep(["set", "s"]).fails(2).contains("nothing to change"));
    let fork = "i=0; while [ $i -lt 40 ]; do busybox sleep 5 & i=$((i+1)); done; echo made $i";
    let run = env.skep(["exec", "s", "busybox", "sh", "-c", fork]);
    assert!(run.code != 0 && !run.out.contains("made 40"), "the process limit holds: {run:?}");
    let top = env.skep(["top", "s"]).ok();
    assert!(top.contains("busybox sleep 1000"), "{top}");
}

#[test]
fn a_limit_of_a_kind_that_a_cell_began_without_is_applied_while_it_runs() {
    let Some(env) = env() else { return };
    env.skep(["run", "-d", "--net", "none", "--name", "s", BUSYBOX, "--", "busybox", "sleep", "1000"]).ok();
    let set = env.skep(["set", "--cpus", "0.5", "s"]);
    let can = env.skep(["run", "--rm", "--net", "none", "--cpus", "0.5", BUSYBOX, "--", "busybox", "true"]);
    assert_eq!(set.err, can.err, "what can be applied at the start can be applied later");
    // A program that comes later is a member of the new group, too, and all of them go with the cell.
    env.skep(["exec", "s", "busybox", "true"]).ok();
    env.skep(["rm", "-f", "s"]).ok();
    assert!(env.skep(["set", "--pids-limit", "0", "s"]).fails(2).contains("0 is not in 1"));
}
