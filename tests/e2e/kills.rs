//! Whatever of a family is killed at whatever moment: what is left ends, is told as it is, and leaves nothing behind.
//!
//! `SKEP_KILLS=500` does it that often instead of a few times; the seed is printed with a failure, and `SKEP_SEED` takes it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use skep_tests::{TestEnv, can_run, unikernel_engines as engines};

const BUSYBOX: &str = "deb:busybox-static";

/// Forks, pipes, waits and sleeps, so that every moment is another.
const BUSY: &str = "while :; do echo a | cat > /dev/null; sleep 0.02; done";

/// A family of cells on the host: its supervisor and all that descends from it, by what they are.
struct Tree {
    all: BTreeMap<u32, &'static str>,
}

impl Tree {
    fn of(env: &TestEnv) -> Self {
        let home = env.home();
        let home = home.to_string_lossy();
        let all: Vec<(u32, u32, String)> = std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|it| it.file_name().to_str()?.parse().ok())
            .filter_map(|pid: u32| Some((pid, parent(pid)?, command_line(pid)?)))
            .collect();
        let mut tree = BTreeMap::new();
        let is_supervisor = |line: &str| line.starts_with("skep supervise") && line.contains(&*home);
        let mut layer: Vec<u32> = all.iter().filter(|it| is_supervisor(&it.2)).map(|it| it.0).collect();
        for kind in ["supervisor", "init", "tender", "member"] {
            tree.extend(layer.iter().map(|pid| (*pid, kind)));
            layer = all.iter().filter(|it| layer.contains(&it.1)).map(|it| it.0).collect();
        }
        Self { all: tree }
    }

    fn victims(&self, kind: &str) -> Vec<u32> {
        self.all.iter().filter(|it| *it.1 == kind).map(|it| *it.0).collect()
    }

    fn alive(&self) -> Vec<(u32, &'static str)> {
        let lives = |pid: &u32| state(*pid).is_some_and(|it| it != 'Z');
        self.all.iter().filter(|(pid, _)| lives(pid)).map(|(pid, kind)| (*pid, *kind)).collect()
    }
}

fn status_line(pid: u32) -> Option<(char, u32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut words = text.rsplit_once(')')?.1.split_whitespace();
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

fn state(pid: u32) -> Option<char> {
    status_line(pid).map(|it| it.0)
}

fn parent(pid: u32) -> Option<u32> {
    status_line(pid).map(|it| it.1)
}

fn command_line(pid: u32) -> Option<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
}

/// Marsaglia's xorshift: the same seed, the same kills.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> Result<(), String>) {
    let begun = Instant::now();
    while let Err(why) = holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}: {why}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn states(env: &TestEnv) -> BTreeMap<String, String> {
    let word = |it: &serde_json::Value| it.as_str().unwrap_or_default().to_owned();
    env.skep(["ps", "-a", "--json"]).json().iter().map(|it| (word(&it["name"]), word(&it["state"]))).collect()
}

/// Makes a family of three cells, kills one process of it, and looks at what is left.
fn kill_one(env: &TestEnv, engine: &str, dice: &mut Dice) {
    let run = ["run", "-d", "--as", "unikernel", "--network", "none", "--name", "k", BUSYBOX, "--", "sh", "-c", BUSY];
    env.finish(env.command(run).env("SKEP_ENGINE", engine)).ok();
    env.skep(["fork", "k", "-n", "2"]).ok();
    std::thread::sleep(Duration::from_millis(dice.below(80)));
    let tree = Tree::of(env);
    let kinds: &[&str] = if engine == "kvm" {
        &["supervisor", "init", "tender"]
    } else {
        &["supervisor", "init", "tender", "member", "member"]
    };
    let kind = kinds[dice.below(kinds.len() as u64) as usize];
    let victims = tree.victims(kind);
    let victim = victims[dice.below(victims.len() as u64) as usize];
    let _ = rustix::process::kill_process(
        rustix::process::Pid::from_raw(victim as i32).unwrap(),
        rustix::process::Signal::KILL,
    );
    let what = format!("{engine}, {kind} killed");
    // A member may have been anybody's: one cell ends, or a pipeline in it. Of the others none lives on.
    if kind != "member" {
        until(&what, || match tree.alive() {
            alive if alive.is_empty() => Ok(()),
            alive => Err(format!("still there: {alive:?}")),
        });
        until(&what, || match states(env).into_iter().find(|it| it.1 != "exited") {
            None => Ok(()),
            Some((name, state)) => Err(format!("{name} is {state}")),
        });
    }
    for name in states(env).keys() {
        env.skep(["why", name]).ok();
    }
    for name in states(env).keys() {
        env.skep(["rm", "-f", name]).ok();
    }
    until(&what, || match tree.alive() {
        alive if alive.is_empty() => Ok(()),
        alive => Err(format!("still there when removed: {alive:?}")),
    });
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let home = env.home();
    let left: Vec<_> = mounts.lines().filter(|it| it.contains(&*home.join("cells").to_string_lossy())).collect();
    assert!(left.is_empty(), "{what}: mounts are left: {left:?}");
    assert!(states(env).is_empty(), "{what}");
}

#[test]
fn a_family_of_which_one_is_killed() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(BUSYBOX);
    let seed = number("SKEP_SEED").unwrap_or_else(|| u64::from(std::process::id()) + 1);
    println!("SKEP_SEED={seed}");
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for _ in 0..number("SKEP_KILLS").unwrap_or(6) {
        for engine in engines() {
            kill_one(&env, engine, &mut dice);
        }
    }
}
