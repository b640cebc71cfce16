//! `bench build`: a clean release build from nothing, and the binary that it makes.

use std::process::Command;
use std::time::Instant;

use super::{Bound, Row};
use crate::{Result, cargo, must, output_of};

pub(crate) fn run() -> Result<Vec<Row>> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    must(&mut cargo(&["fetch", "--locked"]))?;
    let begun = Instant::now();
    must(cargo(&["build", "--release", "--locked", "--package", "skep"]).env("CARGO_TARGET_DIR", dir.path()))?;
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    let binary = dir.path().join("release/skep");
    let size = std::fs::metadata(&binary).map_err(|e| e.to_string())?.len();
    let linked = output_of(Command::new("ldd").arg(&binary)).unwrap_or_else(|_| "statically linked".to_owned());
    // What is not part of the C library itself: the kernel's own page and the loader do not count.
    let is_libc = |line: &str| {
        ["libc.so", "libm.so", "ld-linux", "linux-vdso", "statically linked"].iter().any(|it| line.contains(it))
    };
    let foreign = linked.lines().filter(|line| !line.trim().is_empty() && !is_libc(line)).count();
    Ok(vec![
        Row::new("clean release build", "min", minutes, None, 1, Bound::AtMost(6.0)),
        Row::new("binary", "MiB", size as f64 / f64::from(1 << 20), None, 1, Bound::AtMost(20.0)),
        Row::new("libraries besides libc", "", foreign as f64, None, 1, Bound::AtMost(0.0)),
    ])
}
