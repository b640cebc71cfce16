//! `bench slim`: real services from Debian packages made slim: how much goes, and whether what was not observed works.
//!
//! The corpus is data, in `xtask/slim`. An original is what apt makes of a machine with nothing else on it: the essential
//! packages, the service and what it depends on, configured by their own scripts. Beside it, where the service runs from
//! skep's own lean image (no essential packages, no scripts), that image is made slim too. Built images stay beside the
//! build for the next time. Its peer, on the same image right after it, is the method that keeps what was opened (see
//! [`opened`]). The table in `docs/slim.md` is written anew.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

use super::opened::{self, Opened};
use super::{Bound, Row};
use crate::{Result, cargo, must, output_of, root, target_dir};

const DOCUMENT: &str = "docs/slim.md";
const BEGIN: &str = "<!-- written by cargo xtask bench slim: begin -->\n";
/// What the peer is called.
const PEER: &str = "opened files only";
const END: &str = "<!-- end -->\n";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Corpus {
    service: Vec<Service>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    name: String,
    /// Its Debian packages.
    image: String,
}

/// What came of one service.
struct Slimmed {
    before: f64,
    after: f64,
    /// How often something that was missed had to be added.
    grown: usize,
    calls: usize,
    /// The peer.
    opened: Option<Opened>,
}

pub(crate) fn run() -> Result<Vec<Row>> {
    if !rustix::process::geteuid().is_root() {
        return Err("bench slim watches cells, which takes root".to_owned());
    }
    must(&mut cargo(&["build", "--release", "--package", "skep"]))?;
    let index = std::fs::read_to_string(corpus_file("index")).map_err(|e| e.to_string())?;
    let corpus: Corpus = toml::from_str(&index).map_err(|e| format!("xtask/slim/index.toml: {e}"))?;
    let mut results = Vec::new();
    for service in &corpus.service {
        eprintln!("xtask: {}", service.name);
        let slimmed = pull(service).and_then(|image| {
            let (slimmed, report) = slim(service, &image, "slim")?;
            Ok(Slimmed { opened: peer(service, &image, &report), ..slimmed })
        });
        if let Err(error) = &slimmed {
            eprintln!("xtask: {}: {error}", service.name);
        }
        // Where it does not run there is nothing to compare.
        let lean = slim(service, &service.image, "lean").ok().map(|it| it.0);
        results.push((service, slimmed, lean));
    }
    write_table(&results)?;
    Ok(rows(&results))
}

fn corpus_file(name: &str) -> PathBuf {
    root().join("xtask/slim").join(format!("{name}.toml"))
}

fn skep() -> Command {
    let mut command = Command::new(target_dir().join("release/skep"));
    command.env("SKEP_ROOT", target_dir().join("bench-slim"));
    command
}

/// The image as apt would make it, from an earlier run or made now.
fn pull(service: &Service) -> Result<String> {
    let name = format!("{}-original", service.name);
    if output_of(skep().args(["image", "inspect", &name])).is_err() {
        output_of(skep().args(["image", "pull", "--configure", "--tag", &name, &service.image]))?;
        // The lean image goes by that name, when it is wanted.
        output_of(skep().args(["image", "rm", &service.image]))?;
    }
    Ok(name)
}

fn peer(service: &Service, image: &str, report: &Value) -> Option<Opened> {
    let opened = opened::keep_opened(skep, image, report, &corpus_file(&service.name));
    match &opened {
        Err(why) => eprintln!("xtask: {}, opened only: {why}", service.name),
        Ok(Opened { failure: Some(why), .. }) => eprintln!("xtask: {}, opened only: {why}", service.name),
        Ok(_) => {}
    }
    opened.ok()
}

fn slim(service: &Service, image: &str, suffix: &str) -> Result<(Slimmed, Value)> {
    let name = format!("{}-{suffix}", service.name);
    let mut command = skep();
    command.args(["image", "slim", "--json", "--tag", &name, "--workload"]).arg(corpus_file(&service.name)).arg(image);
    let text = output_of(&mut command)?;
    let report: Value = serde_json::from_str(text.trim()).map_err(|e| format!("{e} in: {text}"))?;
    let bytes = |which: &str| report[which]["bytes"].as_f64().ok_or(format!("no size in: {text}"));
    let count = |which: &str| report[which].as_array().map_or(0, Vec::len);
    let (before, after) = (bytes("before")?, bytes("after")?);
    let (grown, calls) = (count("rounds").saturating_sub(1), count("calls"));
    Ok((Slimmed { before, after, grown, calls, opened: None }, report))
}

impl Slimmed {
    fn removed(&self) -> f64 {
        100.0 * (1.0 - self.after / self.before)
    }

    /// The same of the peer.
    fn removed_by_peer(&self) -> Option<f64> {
        self.opened.as_ref().map(|it| 100.0 * (1.0 - it.after / self.before))
    }
}

type Outcome<'a> = (&'a Service, Result<Slimmed>, Option<Slimmed>);

fn rows(results: &[Outcome<'_>]) -> Vec<Row> {
    let good: Vec<&Slimmed> = results.iter().filter_map(|(_, slimmed, _)| slimmed.as_ref().ok()).collect();
    let lean: Vec<&Slimmed> = results.iter().filter_map(|(_, _, lean)| lean.as_ref()).collect();
    let count = results.len();
    let passed = 100.0 * good.len() as f64 / count as f64;
    let at_once = 100.0 * good.iter().filter(|it| it.grown == 0).count() as f64 / count as f64;
    let peers: Vec<&Opened> = good.iter().filter_map(|it| it.opened.as_ref()).collect();
    let passed_peer = 100.0 * peers.iter().filter(|it| it.failure.is_none()).count() as f64 / peers.len() as f64;
    let removed: Vec<f64> = good.iter().filter_map(|it| it.removed_by_peer()).collect();
    let removed_by_peer = removed.iter().sum::<f64>() / removed.len() as f64;
    let beside = |value: f64| Some((PEER, Some(value).filter(|it| it.is_finite())));
    let mut rows = vec![
        Row::new("services made slim", "", count as f64, None, 1, Bound::AtLeast(20.0)),
        Row::new("mean size removed", "%", mean(&good), beside(removed_by_peer), good.len(), Bound::AtLeast(75.0)),
        Row::new("pass their unseen workload", "%", passed, beside(passed_peer), count, Bound::AtLeast(100.0)),
        Row::new("of these, nothing was added for it", "%", at_once, None, count, Bound::AtLeast(0.0)),
        Row::new("mean size removed, lean originals", "%", mean(&lean), None, lean.len(), Bound::AtLeast(0.0)),
    ];
    for (service, slimmed, _) in results {
        let removed = slimmed.as_ref().map_or(f64::NAN, Slimmed::removed);
        let theirs = slimmed.as_ref().ok().and_then(Slimmed::removed_by_peer);
        let name = format!("{}: size removed", service.name);
        rows.push(Row::new(&name, "%", removed, Some((PEER, theirs)), 1, Bound::AtLeast(0.0)));
    }
    rows
}

fn mean(slimmed: &[&Slimmed]) -> f64 {
    slimmed.iter().map(|it| it.removed()).sum::<f64>() / slimmed.len() as f64
}

/// Puts the table into the document, in place of the one of an earlier run.
fn write_table(results: &[Outcome<'_>]) -> Result<()> {
    let path: &Path = &root().join(DOCUMENT);
    let text = std::fs::read_to_string(path).map_err(|e| format!("{DOCUMENT}: {e}"))?;
    let (before, rest) = text.split_once(BEGIN).ok_or(format!("{DOCUMENT} has no place for the table"))?;
    let (_, after) = rest.split_once(END).ok_or(format!("{DOCUMENT} has no end of the table"))?;
    std::fs::write(path, format!("{before}{BEGIN}{}{END}{after}", table(results))).map_err(|e| e.to_string())
}

fn table(results: &[Outcome<'_>]) -> String {
    let mib = |bytes: f64| format!("{:.0}", bytes / f64::from(1 << 20));
    let mut text = "| service | packages | before, MiB | slim, MiB | removed | further rounds | system calls \
                    | opened only: removed | works | lean, MiB | removed of lean |\n\
                    |---|---|--:|--:|--:|--:|--:|--:|--|--:|--:|\n"
        .to_owned();
    for (service, slimmed, lean) in results {
        let cells = match slimmed {
            Ok(it) => [
                mib(it.before),
                mib(it.after),
                format!("{:.1} %", it.removed()),
                it.grown.to_string(),
                it.calls.to_string(),
                it.removed_by_peer().map_or("-".to_owned(), |removed| format!("{removed:.1} %")),
                it.opened.as_ref().map_or("-", |it| if it.failure.is_none() { "yes" } else { "no" }).to_owned(),
            ],
            Err(_) => ["", "", "FAILED", "", "", "", ""].map(str::to_owned),
        };
        let lean = match lean {
            Some(it) => [mib(it.before), format!("{:.1} %", it.removed())],
            None => ["-", "-"].map(str::to_owned),
        };
        let packages = service.image.trim_start_matches("deb:").replace(',', ", ");
        text.push_str(&format!("| {} | {packages} | {} | {} |\n", service.name, cells.join(" | "), lean.join(" | ")));
    }
    let good: Vec<&Slimmed> = results.iter().filter_map(|(_, slimmed, _)| slimmed.as_ref().ok()).collect();
    let lean: Vec<&Slimmed> = results.iter().filter_map(|(_, _, lean)| lean.as_ref()).collect();
    let (count, all) = (good.len(), results.len());
    let peers: Vec<&Opened> = good.iter().filter_map(|it| it.opened.as_ref()).collect();
    let working = peers.iter().filter(|it| it.failure.is_none()).count();
    text.push_str(&format!(
        "\nMean size removed: **{:.1} %** of {count} originals, {:.1} % of the {} lean ones that run their service. \
         {count} of {all} pass their unseen workload; of the {} that keep opened files only, {working} do.\n",
        mean(&good),
        mean(&lean),
        lean.len(),
        peers.len()
    ));
    text
}
