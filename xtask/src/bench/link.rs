//! `bench link`: a library of zlib's size opened by a running program, beside the host's dlopen; and zlib replaced in a cell
//! whose program uses it all the time.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use super::disk::Disk;
use super::guest::{self, Way};
use super::sample::median;
use super::{Bound, Row};
use crate::{Result, cargo, must, output_of, target_dir};

/// Prints for each time how many microseconds it took to open the library and find a function in it.
const PROGRAM: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
#include <time.h>

static double now(void)
{
    struct timespec it;
    clock_gettime(CLOCK_MONOTONIC, &it);
    return it.tv_sec * 1e6 + it.tv_nsec / 1e3;
}

int main(void)
{
    for (int round = 0; round < 22; round++) {
        double begun = now();
        void *library = dlopen("libz.so.1", RTLD_NOW);
        if (!library || !dlsym(library, "zlibVersion"))
            return 1;
        double took = now() - begun;
        dlclose(library);
        // The first two read what the others find in memory.
        if (round >= 2)
            printf("%.1f\n", took);
    }
}
"#;

const USER: &str = "\
import zlib, time
text = bytes(range(256)) * 100
while True:
    assert zlib.decompress(zlib.compress(text)) == text
    time.sleep(0.001)
";

const IMAGE: &str = "deb:python3-minimal";
const LIBRARY: &str = "libz.so.1=deb:zlib1g";
const ROUNDS: usize = 5;
const UPDATES: usize = 60;

pub(crate) fn run() -> Result<Vec<Row>> {
    if !rustix::process::geteuid().is_root() {
        return Err("bench link makes cells, which takes root".to_owned());
    }
    guest::prepare()?;
    must(&mut cargo(&["build", "--release", "--package", "skep"]))?;
    let mut rows = links()?;
    let bench = Bench { disk: Disk::mount()? };
    output_of(bench.skep().args(["image", "pull", IMAGE]))?;
    output_of(bench.skep().args(["image", "pull", "deb:zlib1g"]))?;
    for way in guest::ours() {
        rows.extend(bench.updates(way)?);
    }
    Ok(rows)
}

/// The time that no more than one in a hundred exceeds.
fn slowest(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn links() -> Result<Vec<Row>> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let program = guest::compile_with(dir.path(), "links", PROGRAM, &["-ldl"])?;
    let all = guest::columns::<1>(&program, &[], ROUNDS)?;
    let host = all.iter().find(|it| it.0 == Way::Host).map(|it| &it.1[0]);
    let mut rows = Vec::new();
    for (way, [times]) in all.iter().filter(|it| it.0 != Way::Host) {
        let row = |what: &str, of: fn(&[f64]) -> f64, bound| {
            let name = format!("{what} ({})", way.name());
            let theirs = host.map(|it| of(it) / 1e3);
            Row::new(&name, "ms", of(times) / 1e3, Some(("host's dlopen", theirs)), times.len(), Bound::AtMost(bound))
        };
        rows.push(row("dlopen of zlib", median, 1.0));
        rows.push(row("dlopen of zlib, p99", slowest, 20.0));
    }
    Ok(rows)
}

struct Bench {
    disk: Disk,
}

impl Bench {
    fn skep(&self) -> Command {
        let home: PathBuf = self.disk.path().join("home");
        let mut command = Command::new(target_dir().join("release/skep"));
        command.env("SKEP_ROOT", home);
        command
    }

    fn updates(&self, way: Way) -> Result<Vec<Row>> {
        let name = way.name();
        let options = ["run", "-d", "--as", "unikernel", "--network", "none", "--name", name, IMAGE];
        output_of(self.skep().env("SKEP_ENGINE", name).args(options).args(["--", "python3", "-c", USER]))?;
        let measured = self.measure(name);
        output_of(self.skep().args(["rm", "-f", name]))?;
        let (still, whole) = measured?;
        let row = |what: &str, ours: f64, bound| {
            Row::new(&format!("{what} ({name})"), "ms", ours, None, still.len(), Bound::AtMost(bound))
        };
        Ok(vec![
            row("live update of zlib, threads stand still", median(&still), 2.0),
            row("the same, p99", slowest(&still), 20.0),
            row("live update of zlib, the whole command", median(&whole), 50.0),
        ])
    }

    /// How long the threads stood still, and how long the whole command took, in milliseconds.
    fn measure(&self, cell: &str) -> Result<(Vec<f64>, Vec<f64>)> {
        let (mut still, mut whole) = (Vec::new(), Vec::new());
        for _ in 0..UPDATES {
            let begun = Instant::now();
            let said = output_of(self.skep().args(["lib", "update", "--json", cell, LIBRARY]))?;
            whole.push(begun.elapsed().as_secs_f64() * 1e3);
            let report: serde_json::Value = serde_json::from_str(&said).map_err(|e| e.to_string())?;
            still.push(report["stood_still"].as_f64().ok_or("an update said nothing of its time")? / 1e6);
        }
        Ok((still, whole))
    }
}
