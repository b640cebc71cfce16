//! Crashes: whatever is killed, the next command tells the truth and nothing is left on the host.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use skep_tests::{TestEnv, can_run};

const BUSYBOX: &str = "deb:busybox-static";

/// Everything on this host that could be left over from cells of one home: control groups, links, mounts, processes.
fn traces(ids: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        collect_dirs(&hierarchy.path(), 6, &mut |path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if ids.contains(&name) {
                found.push(path.display().to_string());
            }
        });
    }
    let links = std::fs::read_dir("/sys/class/net").unwrap().flatten().map(|it| it.file_name().into_string().unwrap());
    found.extend(links.filter(|name| ids.iter().any(|id| name.ends_with(id.as_str()))));
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    found.extend(mounts.lines().filter(|line| ids.iter().any(|id| line.contains(id.as_str()))).map(str::to_owned));
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        if ids.iter().any(|id| command.contains(id.as_str())) {
            found.push(format!("{}: {}", process.path().display(), command.replace('\0', " ")));
        }
    }
    found
}

fn collect_dirs(dir: &std::path::Path, depth: u32, found: &mut impl FnMut(&std::path::Path)) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    for path in entries.map(|it| it.path()).filter(|it| it.is_dir() && !it.is_symlink()) {
        found(&path);
        if depth > 0 {
            collect_dirs(&path, depth - 1, found);
        }
    }
}

/// A small generator of numbers: the same seed gives the same run.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn kill(pid: u64) {
    let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
}

/// Runs 200 cells and kills the command, the supervisor or the program of each at a random moment.
#[test]
fn whatever_is_killed_ps_tells_the_truth_and_nothing_is_left() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(BUSYBOX);
    let mut random = Seeded(0x5eed_0001);
    let mut ids = BTreeSet::new();
    for round in 0..200 {
        let name = format!("k{round}");
        let net = if random.below(4) == 0 { "default" } else { "none" };
        let args = ["run", "-d", "--net", net, "--name", &name, BUSYBOX, "--", "busybox", "sleep", "1000"];
        let mut child = env.spawn(args);
        let victim = random.below(3);
        if victim == 0 {
            std::thread::sleep(Duration::from_micros(random.below(20_000)));
            let _ = child.kill();
        }
        let _ = child.wait();
        let rows = env.skep(["ps", "-a", "--json", "--filter", &format!("name={name}")]).json();
        let Some(row) = rows.iter().find(|it| it["name"] == name.as_str()) else {
            assert_eq!(victim, 0, "round {round}: a cell that was acknowledged is gone");
            continue;
        };
        ids.insert(row["id"].as_str().unwrap().to_owned());
        let inspected: serde_json::Value = serde_json::from_str(&env.skep(["inspect", &name]).ok()).unwrap();
        let process = |which: &str| inspected[0]["record"][which]["pid"].as_u64();
        match victim {
            1 => process("supervisor").into_iter().for_each(kill),
            2 => process("process").into_iter().for_each(kill),
            _ => {}
        }
        check_truth(&env, &name, victim, round);
        if random.below(2) == 0 {
            env.skep(["rm", "-f", &name]).ok();
        }
    }
    let left = env.skep(["ps", "-aq"]).ok();
    if !left.is_empty() {
        env.skep(["rm", "-f"].into_iter().chain(left.lines())).ok();
    }
    // The kernel takes a dead network namespace apart at its leisure, and its end of a link with it.
    let mut found = traces(&ids);
    for _ in 0..100 {
        if found.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
        found = traces(&ids);
    }
    assert_eq!(found, Vec::<String>::new(), "left behind by {} cells", ids.len());
    for dir in ["cells", "names"] {
        assert_eq!(std::fs::read_dir(env.home().join(dir)).unwrap().count(), 0, "{dir} is empty again");
    }
}

/// What `ps` says agrees with whether the program exists.
fn check_truth(env: &TestEnv, name: &str, victim: u64, round: u32) {
    for _ in 0..400 {
        let text = env.skep(["inspect", name]).ok();
        let cell: serde_json::Value = serde_json::from_str(&text).unwrap();
        let state = cell[0]["record"]["state"]["state"].as_str().unwrap().to_owned();
        let alive = cell[0]["record"]["process"]["pid"].as_u64().is_some_and(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
        });
        match (victim, state.as_str()) {
            // Killed while it was being made: any state will do, as long as it is true.
            (0, "running") => return assert!(alive, "round {round}: said to be running"),
            (0, "created" | "exited") => return,
            (_, "exited") => return assert!(!alive, "round {round}: said to have exited"),
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    panic!("round {round}: {name} does not come to rest after kill {victim}: {}", env.skep(["inspect", name]).out);
}
