//! A machine that is watched from outside: what it says, and what its process had taken of the host when it said so.
//!
//! A guest says `begin NAME` and `end NAME` around each piece of work, and `gave NAME RESULT` after it. A guest's own clock
//! is believed in nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::Result;

/// The line that a guest prints when it has come as far as its first program.
pub(super) const REACHED: &str = "INIT REACHED";

/// What something took, in seconds: of processors, by all threads, and by the clock on the wall.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    pub(super) processor: f64,
    pub(super) wall: f64,
}

/// What a machine did from its start to its end.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// Until its first program.
    pub(super) boot: Cost,
    /// Each piece of work.
    pub(super) work: BTreeMap<String, Cost>,
    /// What each gave.
    pub(super) results: BTreeMap<String, String>,
}

/// Runs a machine until it is switched off.
pub(super) fn watch(command: &mut Command) -> Result<Run> {
    let start = Instant::now();
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = spawned.map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    let console = child.stdout.take().ok_or("a console was asked for")?;
    let spent = |at: Cost| {
        let processor = processor_time(child.id()) - at.processor;
        Cost { processor, wall: start.elapsed().as_secs_f64() - at.wall }
    };
    let mut run = Run::default();
    let mut began: BTreeMap<String, Cost> = BTreeMap::new();
    let mut last = String::new();
    // A serial line may have any byte.
    for line in BufReader::new(console).split(b'\n').map_while(std::io::Result::ok) {
        let line = String::from_utf8_lossy(&line);
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["begin", name] => _ = began.insert((*name).to_owned(), spent(Cost::default())),
            ["end", name] => _ = began.get(*name).map(|at| run.work.insert((*name).to_owned(), spent(*at))),
            ["gave", name, result @ ..] => _ = run.results.insert((*name).to_owned(), result.join(" ")),
            _ if line.trim() == REACHED => run.boot = spent(Cost::default()),
            [] => continue,
            _ => {}
        }
        last = line.trim().to_owned();
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    if run.boot.wall == 0.0 || !status.success() {
        return Err(format!("{command:?} ended ({status}), having said at last: {last}"));
    }
    Ok(run)
}

/// Seconds of processors that a process' threads have had: those that there are.
fn processor_time(process: u32) -> f64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { return 0.0 };
    let had = |thread: fs::DirEntry| -> Option<f64> {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    threads.flatten().filter_map(had).sum::<f64>() / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(script: &str) -> Result<Run> {
        watch(Command::new("sh").args(["-c", script]))
    }

    #[test]
    fn what_a_machine_says_is_what_it_did() {
        let run =
            said("echo noise; echo INIT REACHED; echo begin a; sleep 0.1; echo end a; echo gave a 1 2; echo end b");
        let run = run.unwrap();
        assert_eq!(run.work.keys().collect::<Vec<_>>(), ["a"], "nobody began b");
        assert!(run.work["a"].wall >= 0.1 && run.boot.wall > 0.0);
        assert_eq!(run.results["a"], "1 2");
    }

    #[test]
    fn a_machine_that_does_not_come_up_is_an_error_with_its_last_word() {
        assert!(said("echo INIT REACHED; exit 3").is_err());
        assert!(said("echo panic; echo").unwrap_err().contains("panic"));
    }
}
