//! Kills a pool's user at random places, over and over, and checks each time that nothing acknowledged was lost:
//! `faults RUNS [SEED] [DIR]`. Prints one line of JSON; ends with 1 when a run failed.

mod scenario;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use scenario::{Random, live, random_script, run_one, script};

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a program's own output")]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, base, seed] = &arguments[..]
        && word == "child"
    {
        return child(Path::new(base), seed.parse().unwrap_or(0));
    }
    let number = |place: usize, default: u64| arguments.get(place).and_then(|it| it.parse().ok()).unwrap_or(default);
    let (runs, seed) = (number(0, 100), number(1, 1));
    let dir = arguments.get(2).map_or_else(std::env::temp_dir, PathBuf::from);
    let base = dir.join(format!("skep-faults-{}", std::process::id()));
    let (mut killed, mut failed) = (0, 0);
    let mut random = Random(seed);
    for run in 0..runs {
        match one(&base, seed + run, &mut random) {
            Ok(true) => killed += 1,
            Ok(false) => {}
            Err(why) => {
                failed += 1;
                eprintln!("run {run} (seed {}): {why}", seed + run);
            }
        }
        let _ = std::fs::remove_dir_all(&base);
    }
    println!("{}", serde_json::json!({ "runs": runs, "killed": killed, "failed": failed, "seed": seed }));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn child(base: &Path, seed: u64) -> ExitCode {
    // Every third life is the one that passes every point.
    let steps = if seed.is_multiple_of(3) { script() } else { random_script(seed) };
    match live(base, &steps) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(3),
    }
}

fn one(base: &Path, seed: u64, random: &mut Random) -> Result<bool, String> {
    std::fs::create_dir_all(base).map_err(|why| why.to_string())?;
    let action = ["kill", "kill", "power", "power", "enospc"][random.below(5) as usize];
    let fault = format!("any:{}:{action}", 1 + random.below(150));
    let mut child = Command::new(std::env::current_exe().map_err(|why| why.to_string())?);
    child.arg("child").arg(base).arg(seed.to_string());
    run_one(base, &fault, child).map(|status| status.code().is_none())
}
