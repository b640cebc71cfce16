//! Death at every fail point, and what is left.

#[path = "../../examples/faults/scenario.rs"]
pub(crate) mod scenario;

use std::path::{Path, PathBuf};
use std::process::Command;

use scenario::{live, random_script, run_one, script};
use store::fail::Point;
use tempfile::TempDir;

const BASE: &str = "SKEP_TEST_BASE";
const SCRIPT: &str = "SKEP_TEST_SCRIPT";

/// A directory in memory, if there is such a place: a killed process loses nothing there that it would keep elsewhere.
pub(crate) fn fast_dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap()
}

/// Not a test of its own: what the other tests run in a process that may die.
#[test]
fn child() {
    let Ok(base) = std::env::var(BASE) else { return };
    let steps = match std::env::var(SCRIPT).ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => random_script(seed),
        None => script(),
    };
    if live(&PathBuf::from(base), &steps).is_err() {
        std::process::exit(3);
    }
}

fn child_in(base: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "faults::child", "--test-threads=1"]).env(BASE, base);
    command
}

/// Whether the fault came to pass.
fn run(fault: &str, seed: Option<u64>) -> bool {
    let base = fast_dir();
    let mut command = child_in(base.path());
    if let Some(seed) = seed {
        command.env(SCRIPT, seed.to_string());
    }
    let status = run_one(base.path(), fault, command).unwrap_or_else(|why| panic!("{why}"));
    !status.success()
}

/// Each point at its first passages and at later ones.
fn every_point(action: &str, passages: &[u64]) {
    for point in Point::ALL {
        for passage in passages {
            let happened = run(&format!("{}:{passage}:{action}", point.name()), None);
            // Nothing is damaged here, so nothing is set aside; `damage.rs` stops repairs that do.
            let reachable = *point != Point::FsckSetAside;
            assert!(happened || *passage > 1 || !reachable, "{} is never passed", point.name());
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_a_kill_at_any_point_first() {
    every_point("kill", &[1, 2, 3]);
}

#[test]
fn nothing_acknowledged_is_lost_by_a_kill_at_any_point_later() {
    every_point("kill", &[4, 5, 6, 9, 14]);
}

#[test]
fn nothing_acknowledged_is_lost_by_a_full_disk_at_any_point() {
    every_point("enospc", &[1, 2, 5]);
}

#[test]
fn nothing_acknowledged_is_lost_by_a_power_cut_at_any_point() {
    every_point("power", &[1, 2, 4, 6]);
}

#[test]
fn nothing_acknowledged_is_lost_in_random_lives() {
    for seed in 0..60 {
        let action = if seed % 2 == 0 { "kill" } else { "power" };
        run(&format!("any:{}:{action}", 1 + (seed * 37) % 230), Some(seed));
    }
}
