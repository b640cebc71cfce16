//! `bench dbt [SET…]`: Debian's kernels for foreign processors and programs in them, on our processors and on qemu's.
//!
//! Each run boots a kernel, does the chosen sets, and switches the machine off. Runs alternate: ours, then qemu's in each of
//! its fastest configurations; what counts is the best of those. What is compared is the time of the host's processors
//! that a machine's process takes, seen from outside; the mean of the wall's time stands beside it. A program says what it
//! computed: that has to be the same everywhere.

mod guest;
mod micro;
mod packages;
mod programs;
mod table;
mod target;
mod watch;

use std::fs;
use std::path::Path;

use self::guest::{Contents, Guest};
use self::table::{Series, Set};
use self::target::{ARM, RISCV, Target};
use super::{Bound, Row};
use crate::debian::{self, Tool};
use crate::{Result, cargo, must, root};

const TOOLS: &[Tool] = &[
    Tool { program: "qemu-system-aarch64", package: "qemu-system-arm" },
    Tool { program: "qemu-system-riscv64", package: "qemu-system-misc" },
    Tool { program: "aarch64-linux-gnu-gcc", package: "gcc-aarch64-linux-gnu libc6-dev-arm64-cross" },
    Tool { program: "riscv64-linux-gnu-gcc", package: "gcc-riscv64-linux-gnu libc6-dev-riscv64-cross" },
];

/// What can be chosen; everything, if nothing is.
const SETS: [&str; 7] = ["integer", "float", "system", "micro", "boot", "riscv", "lines"];
const ROUNDS: usize = 5;

/// What was asked for.
struct Options<'a> {
    sets: Vec<&'a str>,
    rounds: usize,
    /// Where CoreMark's sources are: no registry has them, so nobody but the user can bring them.
    coremark: Option<&'a Path>,
}

pub(super) fn run(options: &[&str]) -> Result<Vec<Row>> {
    let options = parse(options)?;
    if let Some((tool, why)) = debian::ensure(TOOLS).first() {
        return Err(format!("needs {}: {why}", tool.program));
    }
    let is_chosen = |set: &str| options.sets.contains(&set);
    if options.coremark.is_none() && (is_chosen("integer") || is_chosen("riscv")) {
        eprintln!("xtask: CoreMark is left out: --coremark DIR has its sources");
    }
    must(&mut cargo(&["build", "--release", "--package", "skep-machine", "--example", "boot"]))?;
    let mut rows = guest(&ARM, &is_chosen, &options)?;
    if is_chosen("micro") {
        rows.extend(micro::measure(&ARM, options.rounds)?);
    }
    if is_chosen("boot") {
        rows.extend(boot(&ARM, options.rounds)?);
    }
    if is_chosen("riscv") {
        rows.extend(guest(&RISCV, &|_| true, &options)?);
        rows.extend(boot(&RISCV, options.rounds)?);
    }
    if is_chosen("lines") {
        rows.extend([lines(&ARM)?, lines(&RISCV)?]);
    }
    Ok(rows)
}

/// `[--rounds N] [--coremark DIR] [SET…]`
fn parse<'a>(options: &[&'a str]) -> Result<Options<'a>> {
    let mut parsed = Options { sets: Vec::new(), rounds: ROUNDS, coremark: None };
    let mut options = options.iter().copied();
    while let Some(option) = options.next() {
        match option {
            "--rounds" => {
                let number = options.next().and_then(|it| it.parse().ok()).filter(|it| *it > 0);
                parsed.rounds = number.ok_or("--rounds takes a number")?;
            }
            "--coremark" => parsed.coremark = Some(Path::new(options.next().ok_or("--coremark takes a directory")?)),
            set if SETS.contains(&set) => parsed.sets.push(set),
            other => return Err(format!("there is no set '{other}': there are {}", SETS.join(", "))),
        }
    }
    if parsed.sets.is_empty() {
        parsed.sets = SETS.to_vec();
    }
    Ok(parsed)
}

/// Programs in a guest; whoever chooses whole numbers chooses CoreMark.
fn guest(target: &Target, is_chosen: &dyn Fn(&str) -> bool, options: &Options<'_>) -> Result<Vec<Row>> {
    let is_meant = |name: &str| match name {
        "coremark" => options.coremark.is_some() && is_chosen("integer"),
        _ => is_chosen(name),
    };
    let sets: Vec<Set> = table::sets(target).into_iter().filter(|set| is_meant(set.name)).collect();
    if sets.is_empty() {
        return Ok(Vec::new());
    }
    let guest = Guest::prepare(target, Contents::Everything(options.coremark))?;
    let names: Vec<&str> = sets.iter().map(|set| set.name).collect();
    let series = alternate(Series::new(target, target.peers.iter().collect()), options.rounds, &guest, &names)?;
    let mut rows = Vec::new();
    for set in &sets {
        rows.extend(series.rows(set)?);
    }
    rows.extend(sets.iter().flat_map(|set| series.means(set)));
    Ok(rows)
}

/// The way to the first program, and no further: of a machine that translates everything, and of one that has what another
/// has translated.
fn boot(target: &Target, rounds: usize) -> Result<Vec<Row>> {
    let guest = Guest::prepare(target, Contents::Init)?;
    let translations = packages::directory(target)?.join("translations");
    fs::write(&translations, "").map_err(|e| format!("writing {}: {e}", translations.display()))?;
    watch::watch(&mut guest.ours_again(&[], &translations))?;
    let mut again = Vec::new();
    let mut series = Series::new(target, target.peers.iter().collect());
    for _ in 0..rounds {
        series = alternate(series, 1, &guest, &[])?;
        again.push(watch::watch(&mut guest.ours_again(&[], &translations))?);
    }
    let row = |series: &Series<'_>, what: &str, times| series.row(what, &|run| Some(run.boot), table::times(times));
    let cold = row(&series, "boot to init, cold", 1.5);
    let warm = row(&Series { ours: again, ..series }, "boot to init, translated before", 3.0);
    Ok(vec![cold, warm])
}

/// Runs ours and its peers in turn.
fn alternate<'a>(mut series: Series<'a>, rounds: usize, guest: &Guest<'_>, sets: &[&str]) -> Result<Series<'a>> {
    for _ in 0..rounds {
        series.ours.push(watch::watch(&mut guest.ours(sets))?);
        for (peer, runs) in series.peers.iter().zip(&mut series.theirs) {
            runs.push(watch::watch(&mut guest.theirs(peer, sets))?);
        }
    }
    Ok(series)
}

/// How long a description is.
fn lines(target: &Target) -> Result<Row> {
    let directory = root().join("isa").join(target.name);
    let files = fs::read_dir(&directory).map_err(|e| format!("reading {}: {e}", directory.display()))?;
    let mut lines = 0;
    for file in files.flatten().map(|it| it.path()) {
        lines += fs::read_to_string(&file).map_err(|e| format!("reading {}: {e}", file.display()))?.lines().count();
    }
    Ok(Row::new(&format!("{} description", target.name), "lines", lines as f64, None, 1, Bound::AtMost(target.lines)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_chosen_or_all_are() {
        let all = parse(&[]).unwrap();
        assert_eq!((all.sets.as_slice(), all.rounds, all.coremark), (&SETS[..], ROUNDS, None));
        let some = parse(&["float", "--rounds", "2", "--coremark", "dir", "micro"]).unwrap();
        assert_eq!((some.sets, some.rounds, some.coremark), (vec!["float", "micro"], 2, Some(Path::new("dir"))));
        for wrong in [&["flaot"][..], &["--rounds"], &["--rounds", "0"], &["--rounds", "many"], &["--coremark"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
