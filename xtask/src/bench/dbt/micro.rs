//! What a processor does beside computing, one thing at a time, by a program on a bare machine.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::guest::Guest;
use super::packages;
use super::table::{Series, times};
use super::target::Target;
use crate::bench::{Bound, Row};
use crate::{Result, must};

const SOURCES: [(&str, &str); 3] = [
    ("start.S", include_str!("micro/start.S")),
    ("main.c", include_str!("micro/main.c")),
    ("image.ld", include_str!("micro/image.ld")),
];

/// In the program's order.
const WORK: [&str; 20] = [
    "hot-physical",
    "cold-physical",
    "hot",
    "cold",
    "unprivileged",
    "flush-all",
    "flush-one",
    "code-small",
    "code-large",
    "direct",
    "direct-far",
    "indirect",
    "indirect-far",
    "call",
    "undefined",
    "data-fault",
    "code-fault",
    "interrupt",
    "device",
    "register",
];
/// How many have to be faster than qemu, and what none falls below.
const FASTER: f64 = 15.0;
const LEAST: f64 = 0.7;

/// There is no kernel, so those of qemu's configurations that differ in a kernel's arguments are one.
pub(super) fn measure(target: &Target, rounds: usize) -> Result<Vec<Row>> {
    let guest = Guest::bare(target, image(target)?);
    let peers = target.peers.iter().filter(|peer| peer.arguments.is_empty()).collect();
    let series = super::alternate(Series::new(target, peers), rounds, &guest, &[])?;
    let mut rows = Vec::new();
    for work in WORK {
        rows.push(series.work(work, times(LEAST))?);
    }
    let faster = rows.iter().filter(|row| row.ratio.is_some_and(|ratio| ratio < 1.0)).count();
    let name = format!("{} micro, faster than qemu, of {}", target.name, WORK.len());
    rows.push(Row::new(&name, "", faster as f64, None, rounds, Bound::AtLeast(FASTER)));
    Ok(rows)
}

/// Compiles the program to what a machine loads as a kernel.
fn image(target: &Target) -> Result<PathBuf> {
    let sources = packages::directory(target)?.join("micro");
    fs::create_dir_all(&sources).map_err(|e| format!("making {}: {e}", sources.display()))?;
    for (name, text) in SOURCES {
        fs::write(sources.join(name), text).map_err(|e| format!("writing {name}: {e}"))?;
    }
    let (linked, image) = (sources.join("micro"), sources.join("image"));
    let tool = |name: &str| Command::new(format!("{}-linux-gnu-{name}", target.name));
    let mut compiler = tool("gcc");
    compiler.args(["-O2", "-ffreestanding", "-nostdlib", "-static", "-fno-pic", "-no-pie", "-mgeneral-regs-only"]);
    // Without translation, memory is a device, which is not read across its words.
    compiler.args(["-mstrict-align", "-T", "image.ld", "-Wl,--build-id=none,--no-warn-rwx-segments", "-o"]);
    must(compiler.arg(&linked).args(["start.S", "main.c"]).current_dir(&sources))?;
    must(tool("objcopy").args(["-O", "binary"]).args([linked.as_path(), image.as_path()]))?;
    Ok(image)
}
