//! `cargo xtask bench NAME`: the promised numbers, each measured beside a peer in the same run.
//!
//! Runs of ours and of the peers alternate, so that a machine whose speed drifts drifts for all; medians are compared,
//! and what is judged is their ratio. A peer that is missing is installed; one that cannot be is reported as missing.

mod boot;
mod build;
mod dbt;
mod debug;
mod debug_engines;
mod disk;
mod faults;
mod fork;
mod guest;
mod ingest;
mod ipc;
mod lazy;
mod link;
mod opened;
mod runc;
mod sample;
mod servers;
mod slim;
mod start;
mod unikernel;

use serde::Serialize;

use crate::Result;

/// One measured number beside its peer's.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) name: String,
    /// Its unit.
    pub(crate) unit: &'static str,
    /// Our median.
    pub(crate) ours: f64,
    /// Whom we are compared with; a bound in itself has none.
    pub(crate) peer: Option<String>,
    /// The peer's median; absent when the peer is missing.
    pub(crate) theirs: Option<f64>,
    /// Ours divided by theirs.
    pub(crate) ratio: Option<f64>,
    /// How often each was measured.
    pub(crate) n: usize,
    /// What each peer took, where there are several and the best counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) each: Vec<(String, f64)>,
    /// What was promised: `ratio <= 0.6`, `ours >= 200`.
    pub(crate) bound: String,
    /// Whether it holds; absent when it cannot be judged.
    pub(crate) holds: Option<bool>,
}

/// What is promised of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    RatioAtMost(f64),
    RatioAtLeast(f64),
    AtMost(f64),
    AtLeast(f64),
}

impl Row {
    pub(crate) fn new(
        name: &str,
        unit: &'static str,
        ours: f64,
        peer: Option<(&str, Option<f64>)>,
        n: usize,
        bound: Bound,
    ) -> Self {
        let theirs = peer.and_then(|(_, theirs)| theirs);
        let ratio = theirs.map(|theirs| ours / theirs);
        let (bound, holds) = match bound {
            Bound::RatioAtMost(limit) => (format!("ratio <= {limit}"), ratio.map(|it| it <= limit)),
            Bound::RatioAtLeast(limit) => (format!("ratio >= {limit}"), ratio.map(|it| it >= limit)),
            Bound::AtMost(limit) => (format!("ours <= {limit}"), Some(ours <= limit)),
            Bound::AtLeast(limit) => (format!("ours >= {limit}"), Some(ours >= limit)),
        };
        let peer = peer.map(|(name, _)| name.to_owned());
        Self { name: name.to_owned(), unit, ours, peer, theirs, ratio, each: Vec::new(), n, bound, holds }
    }

    /// The same, with what each of several peers took.
    pub(crate) fn beside(self, each: Vec<(String, f64)>) -> Self {
        Self { each, ..self }
    }
}

pub(crate) fn run(name: &str, options: &[&str]) -> Result {
    let json = options.contains(&"--json");
    let options: Vec<&str> = options.iter().copied().filter(|it| *it != "--json").collect();
    if name != "dbt" && !options.is_empty() {
        return Err("the only option is --json".to_owned());
    }
    let rows = match name {
        "start" => start::run()?,
        "ingest" => ingest::run()?,
        "debug" => debug::run()?,
        "boot" => boot::run()?,
        "build" => build::run()?,
        "faults" => faults::run()?,
        "slim" => slim::run()?,
        "lazy" => lazy::run()?,
        "unikernel" => unikernel::run()?,
        "fork" => fork::run()?,
        "ipc" => ipc::run()?,
        "link" => link::run()?,
        "dbt" => dbt::run(&options)?,
        _ => {
            return Err(format!(
                "there is no bench '{name}': there are start, ingest, debug, lazy, build, faults, slim, unikernel, boot, fork, ipc, link, dbt"
            ));
        }
    };
    for row in &rows {
        if json {
            println!("{}", serde_json::to_string(row).map_err(|e| e.to_string())?);
        }
    }
    if !json {
        print_table(&rows);
    }
    Ok(())
}

fn print_table(rows: &[Row]) {
    let number = |it: f64| if it >= 100.0 { format!("{it:.0}") } else { format!("{it:.2}") };
    let cells: Vec<[String; 9]> = rows
        .iter()
        .map(|row| {
            [
                row.name.clone(),
                format!("{} {}", number(row.ours), row.unit),
                row.peer.clone().unwrap_or_else(|| "-".to_owned()),
                match (&row.peer, row.theirs) {
                    (Some(_), None) => "missing".to_owned(),
                    (_, theirs) => theirs.map_or("-".to_owned(), |it| format!("{} {}", number(it), row.unit)),
                },
                row.ratio.map_or("-".to_owned(), number),
                row.n.to_string(),
                row.bound.clone(),
                match row.holds {
                    Some(true) => "holds".to_owned(),
                    Some(false) => "FAILS".to_owned(),
                    None => "unknown".to_owned(),
                },
                row.each
                    .iter()
                    .map(|(peer, theirs)| format!("{peer} {}", number(*theirs)))
                    .collect::<Vec<_>>()
                    .join(", "),
            ]
        })
        .collect();
    let titles = ["what", "ours", "peer", "theirs", "ratio", "n", "promised", "", ""].map(str::to_owned);
    let widths: Vec<usize> =
        (0..9).map(|i| cells.iter().chain([&titles]).map(|it| it[i].len()).max().unwrap_or(0)).collect();
    for row in std::iter::once(&titles).chain(&cells) {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("{}", line.join("  ").trim_end());
    }
}
