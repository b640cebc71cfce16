//! `bench boot`: how long a program takes to begin: a whole cell, the tender alone, an appliance, and another cell of a
//! family that is there, beside a container and runc.

use std::path::Path;
use std::process::Command;

use super::guest::{self, Way};
use super::sample::{Contender, interleave, median};
use super::{Bound, Row, runc};
use crate::{Result, cargo, must, output_of, target_dir};

const HELLO: &str = r#"
#include <stdio.h>

int main(void)
{
    puts("hello");
}
"#;

/// Says something, and again whenever it has slept.
const WARM: &str = r#"
#include <time.h>
#include <unistd.h>

int main(void)
{
    struct timespec moment = {0, 20000000};
    for (;;) {
        if (write(1, "warm\n", 5) != 5)
            return 1;
        nanosleep(&moment, 0);
    }
}
"#;

/// Ends as soon as it goes on from where it was kept.
const APPLIANCE: &str = r#"
#include <time.h>
#include <unistd.h>

int main(void)
{
    struct timespec moment = {0, 200000000};
    if (write(1, "warm\n", 5) != 5)
        return 1;
    nanosleep(&moment, 0);
}
"#;

const ROUNDS: usize = 50;
const STARTS: usize = 200;

pub(crate) fn run() -> Result<Vec<Row>> {
    guest::prepare()?;
    must(&mut cargo(&["build", "--release", "--package", "skep-unikernel", "--example", "boot"]))?;
    must(&mut cargo(&["build", "--release", "--package", "skep"]))?;
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut rows = cold_start(dir.path())?;
    if guest::ours().contains(&Way::Kvm) {
        rows.extend(warm_start(dir.path())?);
    }
    Ok(rows)
}

/// Another cell, from the order to the first byte that its program writes.
fn warm_start(dir: &Path) -> Result<Vec<Row>> {
    let program = guest::compile(dir, "warm", WARM)?;
    let mut command = Command::new(target_dir().join("release/examples/boot"));
    let text = output_of(command.arg(&program).arg(STARTS.to_string()))?;
    let mut times: Vec<f64> = text.lines().filter_map(|it| it.parse().ok()).map(|it: f64| it / 1e3).collect();
    let idle = times.pop().unwrap_or(f64::NAN) * 1e3;
    times.sort_by(f64::total_cmp);
    let late = times.get(times.len() * 99 / 100).copied().unwrap_or(f64::NAN);
    Ok(vec![
        Row::new("another cell from a warm template", "ms", median(&times), None, times.len(), Bound::AtMost(0.6)),
        Row::new("another cell from a warm template, p99", "ms", late, None, times.len(), Bound::AtMost(10.0)),
        Row::new("a process that was made ahead", "KiB", idle, None, 2, Bound::AtMost(320.0)),
    ])
}

/// A whole cell, from the command to its end; and the tender alone.
fn cold_start(dir: &Path) -> Result<Vec<Row>> {
    let hello = guest::compile(dir, "hello", HELLO)?;
    let skep = || {
        let mut command = Command::new(target_dir().join("release/skep"));
        command.env("SKEP_ROOT", dir.join("home"));
        command
    };
    let image = format!("host:{}", hello.display());
    output_of(skep().args(["image", "pull", &image]))?;
    let cell = |boundary: &'static str, engine: &'static str| {
        let (image, hello) = (image.clone(), hello.clone());
        move || {
            let mut command = skep();
            command.env("SKEP_ENGINE", engine).args(["run", "--rm", "--net", "none", "--as", boundary]);
            command.arg(&image).arg("--").arg(&hello);
            command
        }
    };
    let appliance = guest::ours().contains(&Way::Kvm).then(|| appliance(dir, skep)).transpose()?;
    let bundle = crate::has_program("runc").then(|| runc::alone(dir, &hello)).transpose()?;
    let mut contenders: Vec<Contender<'_>> =
        vec![Contender { name: "container", command: Box::new(cell("container", "")) }];
    for way in guest::ours() {
        let alone = hello.clone();
        contenders.push(Contender { name: way.name(), command: Box::new(cell("unikernel", way.name())) });
        let name = if way == Way::Kvm { "kvm, no cell" } else { "process, no cell" };
        contenders.push(Contender { name, command: Box::new(move || way.command(&alone)) });
    }
    if let Some(name) = appliance {
        let run = move || {
            let mut command = skep();
            command.env("SKEP_ENGINE", "kvm").args(["run", "--rm", "--net", "none", name]);
            command
        };
        contenders.push(Contender { name: "appliance, kvm", command: Box::new(run) });
    }
    if let Some(bundle) = &bundle {
        contenders.push(Contender { name: "runc", command: Box::new(|| bundle.command()) });
    }
    let times = interleave(&contenders, ROUNDS)?;
    let of = |name: &str| contenders.iter().position(|it| it.name == name).map(|index| median(&times[index]));
    let mut rows = Vec::new();
    for it in contenders.iter().map(|it| it.name).filter(|it| !["container", "runc"].contains(it)) {
        let (name, ours) = (format!("static hello ({it})"), of(it).unwrap_or(f64::NAN));
        if it.ends_with("cell") {
            rows.push(Row::new(&name, "ms", ours, None, ROUNDS, Bound::AtMost(10.0)));
            continue;
        }
        for peer in ["container", "runc"] {
            rows.push(Row::new(&name, "ms", ours, Some((peer, of(peer))), ROUNDS, Bound::RatioAtMost(1.0)));
        }
    }
    Ok(rows)
}

/// Makes an appliance that ends soon.
fn appliance(dir: &Path, skep: impl Fn() -> Command) -> Result<&'static str> {
    const NAME: &str = "bench-appliance";
    let program = guest::compile(dir, "appliance", APPLIANCE)?;
    let image = format!("host:{}", program.display());
    let build = ["image", "build", "--as", "unikernel", "-t", NAME, "--warm-until", "log warm"];
    output_of(skep().env("SKEP_ENGINE", "kvm").args(build).args([&image, "--"]).arg(&program))?;
    Ok(NAME)
}
