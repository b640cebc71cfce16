//! `bench lazy`: file work in a tree that is unpacked as it is read, against the same files in memory, and how long it takes
//! to attach a gigabyte of them, against unpacking it.
//!
//! A first pass writes what it unpacks, so the disk takes part: see [`super::disk`].

use std::process::Command;

use serde_json::Value;

use super::disk::Disk;
use super::sample::median;
use super::{Bound, Row};
use crate::{Result, cargo, must, output_of, target_dir};

const ROUNDS: usize = 20;

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
    let disk = Disk::mount()?;
    let mut measure = Command::new(target_dir().join("release/examples/lazy"));
    let text = output_of(measure.arg(disk.path()).arg(ROUNDS.to_string()))?;
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
