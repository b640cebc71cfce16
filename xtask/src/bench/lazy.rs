//! `bench lazy`: file work in a tree that is unpacked as it is read, against the same files in memory, and how long it takes
//! to attach a gigabyte of them, against unpacking it.
//!
//! A first pass writes what it unpacks, so the disk takes part. It is a file system of its own in a file, mounted for this
//! bench alone: ext4 without a journal (as some virtual machines have it) searches up to a millisecond for the inode of each new
//! file when many were deleted in the last minutes, and whoever runs benches and tests deletes many.

use std::process::Command;

use serde_json::Value;

use super::sample::median;
use super::{Bound, Row};
use crate::debian::{self, Tool};
use crate::{Result, cargo, must, output_of, target_dir};

const ROUNDS: usize = 20;
const DISK: u64 = 16 << 30;
const TOOLS: &[Tool] = &[Tool { program: "mkfs.ext4", package: "e2fsprogs" }];

/// Mounts the disk `$1` at `$2`, seen by nobody else and gone at the end, and measures there.
const MEASURE: &str = "mount -o loop \"$1\" \"$2\" && exec \"$3\" \"$2\" \"$4\"";

/// What is measured, under which names the example tells it, beside what, and what is promised.
const ROWS: [(&str, &str, (&str, &str), Bound); 8] = [
    ("find + stat, first pass", "find first", ("tmpfs", "native find first"), Bound::RatioAtMost(3.0)),
    ("find + stat, second pass", "find again", ("tmpfs", "native find again"), Bound::RatioAtMost(1.2)),
    ("tar, first pass, compressed in the pool", "tar first", ("tmpfs", "native tar first"), Bound::RatioAtMost(3.0)),
    (
        "tar, first pass, unpacked in the pool",
        "tar of unpacked",
        ("tmpfs", "native tar first"),
        Bound::RatioAtMost(3.0),
    ),
    ("tar, second pass", "tar again", ("tmpfs", "native tar again"), Bound::RatioAtMost(1.2)),
    ("attach 1 GB, first time", "attach first", ("unpacking it", "unpack large"), Bound::RatioAtMost(0.05)),
    ("attach 1 GB, again", "attach again", ("unpacking it", "unpack large"), Bound::RatioAtMost(0.005)),
    ("first read of one file", "one file first", ("the next", "one file again"), Bound::AtMost(5.0)),
];

pub(crate) fn run() -> Result<Vec<Row>> {
    if !rustix::process::geteuid().is_root() {
        return Err("bench lazy mounts file systems, which takes root".to_owned());
    }
    must(&mut cargo(&["build", "--release", "--package", "skep-toolbox", "--example", "lazy"]))?;
    if let Some((tool, why)) = debian::ensure(TOOLS).first() {
        return Err(format!("{} is missing: {why}", tool.program));
    }
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (disk, place) = (dir.path().join("disk"), dir.path().join("place"));
    std::fs::create_dir(&place).map_err(|e| e.to_string())?;
    std::fs::File::create(&disk).and_then(|it| it.set_len(DISK)).map_err(|e| e.to_string())?;
    output_of(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk))?;
    let mut measure = Command::new("unshare");
    measure.args(["--mount", "sh", "-c", MEASURE, "sh"]).arg(&disk).arg(&place);
    let text = output_of(measure.arg(target_dir().join("release/examples/lazy")).arg(ROUNDS.to_string()))?;
    let report: Value = serde_json::from_str(text.trim()).map_err(|e| e.to_string())?;
    let of = |name: &str| {
        let times: Option<Vec<f64>> = report[name].as_array().map(|it| it.iter().filter_map(Value::as_f64).collect());
        times.map(|it| median(&it)).ok_or(format!("no '{name}' in: {text}"))
    };
    let row = |(what, ours, (peer, theirs), bound): (&str, &str, (&str, &str), Bound)| {
        Ok(Row::new(what, "ms", of(ours)?, Some((peer, Some(of(theirs)?))), ROUNDS, bound))
    };
    ROWS.into_iter().map(row).collect()
}
