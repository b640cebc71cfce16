//! `bench dbt [SET…]`: Debian's kernels for foreign processors and programs in them, on our processors and on qemu's.
//!
//! Each run boots a kernel, does the chosen sets, and switches the machine off. Runs alternate: ours, then qemu's in each of
//! its fastest configurations; what counts is the best of those. What is compared is the time of the host's processors
//! that a machine's process takes, seen from outside; the mean of the wall's time stands beside it. A program says what it
//! computed: that has to be the same everywhere.

mod guest;
mod packages;
mod programs;
mod table;
mod target;
mod watch;

use self::guest::{Contents, Guest};
use self::table::{Series, Set};
use self::target::{ARM, RISCV, Target};
use super::{Bound, Row};
use crate::debian::{self, Tool};
use crate::{Result, cargo, must};

const TOOLS: &[Tool] = &[
    Tool { program: "qemu-system-aarch64", package: "qemu-system-arm" },
    Tool { program: "qemu-system-riscv64", package: "qemu-system-misc" },
    Tool { program: "aarch64-linux-gnu-gcc", package: "gcc-aarch64-linux-gnu libc6-dev-arm64-cross" },
    Tool { program: "riscv64-linux-gnu-gcc", package: "gcc-riscv64-linux-gnu libc6-dev-riscv64-cross" },
];

/// What can be chosen; everything, if nothing is.
const SETS: [&str; 5] = ["integer", "float", "system", "boot", "riscv"];
const ROUNDS: usize = 5;

pub(super) fn run(options: &[&str]) -> Result<Vec<Row>> {
    let (chosen, rounds) = parse(options)?;
    if let Some((tool, why)) = debian::ensure(TOOLS).first() {
        return Err(format!("needs {}: {why}", tool.program));
    }
    must(&mut cargo(&["build", "--release", "--package", "skep-machine", "--example", "boot"]))?;
    let is_chosen = |set: &str| chosen.contains(&set);
    let mut rows = Vec::new();
    let sets: Vec<Set> = table::sets(&ARM).into_iter().filter(|set| is_chosen(set.name)).collect();
    if !sets.is_empty() {
        rows.extend(measure(&ARM, &sets, rounds)?);
    }
    if is_chosen("boot") {
        rows.extend(boot(&ARM, rounds)?);
    }
    if is_chosen("riscv") {
        rows.extend(measure(&RISCV, &table::sets(&RISCV), rounds)?);
        rows.extend(boot(&RISCV, rounds)?);
    }
    Ok(rows)
}

/// `[--rounds N] [SET…]`
fn parse<'a>(options: &[&'a str]) -> Result<(Vec<&'a str>, usize)> {
    let (mut chosen, mut rounds) = (Vec::new(), ROUNDS);
    let mut options = options.iter().copied();
    while let Some(option) = options.next() {
        match option {
            "--rounds" => {
                let number = options.next().and_then(|it| it.parse().ok()).filter(|it| *it > 0);
                rounds = number.ok_or("--rounds takes a number")?;
            }
            set if SETS.contains(&set) => chosen.push(set),
            other => return Err(format!("there is no set '{other}': there are {}", SETS.join(", "))),
        }
    }
    Ok((if chosen.is_empty() { SETS.to_vec() } else { chosen }, rounds))
}

fn measure(target: &Target, sets: &[Set], rounds: usize) -> Result<Vec<Row>> {
    let guest = Guest::prepare(target, Contents::Everything)?;
    let names: Vec<&str> = sets.iter().map(|set| set.name).collect();
    let series = alternate(target, rounds, &guest, &names)?;
    let mut rows = Vec::new();
    for set in sets {
        rows.extend(series.rows(set)?);
    }
    let means: Vec<Row> = sets.iter().flat_map(|set| series.means(set)).collect();
    rows.extend(means);
    Ok(rows)
}

/// The way to the first program, and no further.
fn boot(target: &Target, rounds: usize) -> Result<Vec<Row>> {
    let guest = Guest::prepare(target, Contents::Init)?;
    let series = alternate(target, rounds, &guest, &[])?;
    Ok(vec![series.row("boot to init, cold", &|run| Some(run.boot), Bound::RatioAtMost(1.0 / 1.5))])
}

fn alternate<'a>(target: &'a Target, rounds: usize, guest: &Guest<'_>, sets: &[&str]) -> Result<Series<'a>> {
    let mut series = Series::new(target);
    for _ in 0..rounds {
        series.ours.push(watch::watch(&mut guest.ours(sets))?);
        for (peer, runs) in target.peers.iter().zip(&mut series.theirs) {
            runs.push(watch::watch(&mut guest.theirs(peer, sets))?);
        }
    }
    Ok(series)
}
