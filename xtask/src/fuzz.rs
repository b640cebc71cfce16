//! `cargo xtask fuzz`: the properties of what a guest reads from strangers, and of what the tender and a machine's devices
//! read from guests, with many more cases than `test` has time for.
//!
//! They are ordinary tests, so `test` and CI run them as well. A seed says which cases there are: the same one gives the
//! same again.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::{Result, cargo, must, output_of};

/// How many cases each property has in a round.
const CASES: u32 = 1 << 17;

/// The files of tests, and the modules beside the code, that hold them, behind the package that has them.
const WHERE: &[&[&str]] = &[
    &["skep-unikernel", "--test", "headers", "--test", "patches", "--"],
    &["skep-unikernel", "--lib", "--", "properties::"],
    &["skep-machine", "--lib", "--", "harm_nobody", "damaged_files", "it_is_what_was_written"],
];

pub(crate) fn run(options: &[&str]) -> Result {
    let (time, first) = parse(options)?;
    let properties = list()?;
    println!(
        "xtask: {} tests, {CASES} cases of each property a round:\n  {}",
        properties.len(),
        properties.join("\n  ")
    );
    let end = Instant::now() + time;
    let mut seed = first;
    loop {
        println!("xtask: seed {seed}");
        for part in WHERE {
            let mut tests = tests(part, &[]);
            tests.env("PROPTEST_CASES", CASES.to_string()).env("PROPTEST_RNG_SEED", seed.to_string());
            // The seed tells how to see it again.
            tests.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
            must(&mut tests).map_err(|it| format!("{it}\nthe same again: cargo xtask fuzz --seed {seed}"))?;
        }
        seed = seed.wrapping_add(1);
        if Instant::now() >= end {
            break;
        }
    }
    println!("xtask: {} rounds, nothing found", seed.wrapping_sub(first));
    Ok(())
}

/// For how long, and from which seed on.
fn parse(options: &[&str]) -> Result<(Duration, u64)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
    let (mut time, mut seed) = (Duration::ZERO, now);
    let mut rest = options;
    loop {
        rest = match rest {
            [] => return Ok((time, seed)),
            ["--for", minutes, rest @ ..] => {
                let minutes: u32 = minutes.parse().map_err(|_| format!("'{minutes}' is no number of minutes"))?;
                time = Duration::from_secs(60) * minutes;
                rest
            }
            ["--seed", number, rest @ ..] => {
                seed = number.parse().map_err(|_| format!("'{number}' is no seed"))?;
                rest
            }
            [other, ..] => return Err(format!("fuzz knows --for MINUTES and --seed N, not '{other}'")),
        };
    }
}

fn tests(part: &[&str], options: &[&str]) -> std::process::Command {
    let mut command = cargo(&["test", "--quiet", "--package"]);
    command.args(part).args(options);
    command
}

/// What there is to be run.
fn list() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for part in WHERE {
        let listed = output_of(&mut tests(part, &["--list"]))?;
        let found: Vec<_> = listed.lines().filter_map(|it| it.strip_suffix(": test")).map(str::to_owned).collect();
        if found.is_empty() {
            return Err(format!("there is no test in {}", part.join(" ")));
        }
        names.extend(found);
    }
    Ok(names)
}
