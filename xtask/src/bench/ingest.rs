//! `bench ingest`: taking Debian root file systems into the pool, against restic and borg, in processor seconds.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::sample::median;
use super::{Bound, Row};
use crate::debian::{self, Tool};
use crate::{Result, cargo, must, output_of, target_dir};

const ROUNDS: usize = 20;

/// How often a tree is taken in again for one sample: the system's account counts in hundredths of a second, which is too
/// coarse for one.
const AGAIN: u32 = 4;

const TOOLS: &[Tool] = &[
    Tool { program: "mmdebstrap", package: "mmdebstrap" },
    Tool { program: "restic", package: "restic" },
    Tool { program: "borg", package: "borgbackup" },
];

/// The two root file systems: minimal Debian with servers in it.
const TREES: [(&str, &str); 2] = [("redis", "redis-server"), ("web", "nginx-light,python3-minimal")];

pub(crate) fn run() -> Result<Vec<Row>> {
    let missing = debian::ensure(TOOLS);
    let has = |program: &str| !missing.iter().any(|(tool, _)| tool.program == program);
    if !has("mmdebstrap") {
        return Err("mmdebstrap makes the root file systems, and is missing".to_owned());
    }
    must(&mut cargo(&["build", "--release", "--package", "skep-store", "--example", "ingest"]))?;
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let bench = Bench { dir: dir.path().to_owned() };
    bench.make_trees()?;
    bench.measure(has("restic"), has("borg"))
}

struct Bench {
    dir: PathBuf,
}

impl Bench {
    fn tree(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn make_trees(&self) -> Result {
        for (name, packages) in TREES {
            eprintln!("xtask: making the root file system '{name}'");
            let mut make = Command::new("mmdebstrap");
            make.args(["--quiet", "--variant=minbase", "--include", packages, "bookworm"]).arg(self.tree(name));
            // Whatever the machine's sources are, they are copied; nothing here knows a mirror.
            output_of(make.arg("-").stdin(sources()?))?;
        }
        Ok(())
    }

    fn measure(&self, has_restic: bool, has_borg: bool) -> Result<Vec<Row>> {
        let (mut ours, mut again) = (Vec::new(), Vec::new());
        let (mut restic, mut borg) = (Vec::new(), Vec::new());
        let first = self.tree(TREES[0].0);
        let bytes = self.content_bytes(&first)?;
        for round in 0..ROUNDS {
            eprintln!("xtask: round {} of {ROUNDS}", round + 1);
            let pool = self.fresh("pool")?;
            ours.push(self.ingest(&first, &pool)?);
            let mut seconds = 0.0;
            for _ in 0..AGAIN {
                seconds += self.ingest(&first, &pool)?;
            }
            again.push(seconds / f64::from(AGAIN));
            if has_restic {
                restic.push(self.restic(&first)?);
            }
            if has_borg {
                let repository = self.borg_repository()?;
                borg.push(self.borg(&first, &repository, "one")?);
            }
        }
        let rate = |seconds: &[f64]| bytes / 1e6 / median(seconds);
        let theirs = |seconds: &[f64]| (!seconds.is_empty()).then(|| rate(seconds));
        let peers = [("restic", theirs(&restic)), ("borg", theirs(&borg))];
        let (cold, again) = (rate(&ours), rate(&again));
        let unit = "MB/CPU-s";
        let mut rows = vec![Row::new("cold ingest", unit, cold, None, ROUNDS, Bound::AtLeast(200.0))];
        for peer in peers {
            rows.push(Row::new("cold ingest", unit, cold, Some(peer), ROUNDS, Bound::RatioAtLeast(2.5)));
        }
        rows.push(Row::new("ingest again", unit, again, None, ROUNDS, Bound::AtLeast(1000.0)));
        rows.push(self.stored_sizes(has_borg)?);
        Ok(rows)
    }

    /// Both trees in one pool and in one repository, with everything that either keeps.
    fn stored_sizes(&self, has_borg: bool) -> Result<Row> {
        let pool = self.fresh("pool")?;
        for (name, _) in TREES {
            self.ingest(&self.tree(name), &pool)?;
        }
        let theirs = has_borg.then(|| -> Result<f64> {
            let repository = self.borg_repository()?;
            for (name, _) in TREES {
                self.borg(&self.tree(name), &repository, name)?;
            }
            disk_use(&repository)
        });
        Ok(Row::new(
            "two images, stored",
            "MiB",
            disk_use(&pool)?,
            Some(("borg", theirs.transpose()?)),
            1,
            Bound::RatioAtMost(1.0),
        ))
    }

    fn fresh(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir).map_err(|e| e.to_string())?;
        }
        Ok(dir)
    }

    /// Bytes of file content in a tree: directories and links count for nothing, a file with several names once.
    fn content_bytes(&self, tree: &Path) -> Result<f64> {
        let text = output_of(&mut ingest_command(tree, &self.fresh("pool")?))?;
        let report: serde_json::Value = serde_json::from_str(text.trim()).map_err(|e| e.to_string())?;
        report["bytes"].as_f64().ok_or_else(|| format!("no 'bytes' in: {text}"))
    }

    /// Processor seconds of taking a tree into a pool, everything synced.
    fn ingest(&self, tree: &Path, pool: &Path) -> Result<f64> {
        cpu_seconds(&mut ingest_command(tree, pool))
    }

    fn restic(&self, tree: &Path) -> Result<f64> {
        let repository = self.fresh("restic")?;
        let restic = || {
            let mut command = Command::new("restic");
            command.arg("--no-cache").arg("-r").arg(&repository).env("RESTIC_PASSWORD", "bench");
            command
        };
        output_of(restic().arg("init"))?;
        cpu_seconds(restic().args(["--quiet", "backup"]).arg(tree))
    }

    fn borg_repository(&self) -> Result<PathBuf> {
        let repository = self.fresh("borg")?;
        self.fresh("borg-base")?;
        output_of(self.borg_command().args(["init", "-e", "none"]).arg(&repository))?;
        Ok(repository)
    }

    fn borg_command(&self) -> Command {
        let mut command = Command::new("borg");
        command
            .env("BORG_BASE_DIR", self.dir.join("borg-base"))
            .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
        command
    }

    fn borg(&self, tree: &Path, repository: &Path, name: &str) -> Result<f64> {
        let archive = format!("{}::{name}", repository.display());
        cpu_seconds(self.borg_command().args(["create", "-C", "zstd,3", &archive, "."]).current_dir(tree))
    }
}

fn ingest_command(tree: &Path, pool: &Path) -> Command {
    let mut command = Command::new(target_dir().join("release/examples/ingest"));
    command.arg(tree).arg(pool).arg(tree.file_name().unwrap_or_default());
    command
}

/// The machine's own package sources, in either of the two formats that Debian has: `mmdebstrap` tells them apart, but
/// takes one at a time.
fn sources() -> Result<Stdio> {
    let places = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];
    let file = places.into_iter().find_map(|place| File::open(place).ok());
    file.map(Stdio::from).ok_or_else(|| format!("no package sources: neither {} nor {}", places[0], places[1]))
}

/// User and system time of a command and its children, by the account of the system.
fn cpu_seconds(command: &mut Command) -> Result<f64> {
    let before = children_time()?;
    output_of(command)?;
    Ok(children_time()? - before)
}

/// Processor time of all children that have ended: the third and fourth times of `/proc/self/stat`, in ticks.
fn children_time() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").map_err(|e| e.to_string())?;
    let (_, rest) = stat.rsplit_once(')').ok_or("no name in /proc/self/stat")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|it| it.parse::<f64>().ok()).ok_or("short /proc/self/stat");
    Ok((ticks(13)? + ticks(14)?) / rustix::param::clock_ticks_per_second() as f64)
}

fn disk_use(dir: &Path) -> Result<f64> {
    let text = output_of(Command::new("du").args(["-sb"]).arg(dir))?;
    let bytes: f64 = text.split_ascii_whitespace().next().and_then(|it| it.parse().ok()).ok_or("du gave no number")?;
    Ok(bytes / f64::from(1 << 20))
}
