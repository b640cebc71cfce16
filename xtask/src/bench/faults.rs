//! `bench faults`: thousands of killed writers, collectors and repairs of a pool, and what was lost: nothing, or it fails.

use std::process::Command;

use super::{Bound, Row};
use crate::{Result, cargo, must, output_of, target_dir};

const RUNS: usize = 3000;

pub(crate) fn run() -> Result<Vec<Row>> {
    must(&mut cargo(&["build", "--release", "--package", "skep-store", "--example", "faults"]))?;
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut faults = Command::new(target_dir().join("release/examples/faults"));
    let text = output_of(faults.args([&RUNS.to_string(), "1"]).arg(dir.path()))?;
    let report: serde_json::Value = serde_json::from_str(text.trim()).map_err(|e| e.to_string())?;
    let number = |name: &str| report[name].as_f64().ok_or(format!("no '{name}' in: {text}"));
    Ok(vec![
        Row::new("runs killed on the way", "", number("killed")?, None, RUNS, Bound::AtLeast(RUNS as f64 / 2.0)),
        Row::new("runs that lost something", "", number("failed")?, None, RUNS, Bound::AtMost(0.0)),
    ])
}
