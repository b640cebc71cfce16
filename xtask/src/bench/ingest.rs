//! `bench ingest`: taking Debian root file systems into the pool, against restic and borg, in processor seconds.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::sample::median;
use super::{Bound, Row};
use crate::debian::{self, Tool};
use crate::{Result, cargo, must, output_of, target_dir};

const ROUNDS: usize = 20;

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
    let bytes = bench.make_trees()?;
    bench.measure(bytes, has("restic"), has("borg"))
}

struct Bench {
    dir: PathBuf,
}

impl Bench {
    fn tree(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes the trees; gives the bytes of file content of the first.
    fn make_trees(&self) -> Result<u64> {
        for (name, packages) in TREES {
            eprintln!("xtask: making the root file system '{name}'");
            let mut make = Command::new("mmdebstrap");
            make.args(["--quiet", "--variant=minbase", "--include", packages, "bookworm"]).arg(self.tree(name));
            // Whatever the machine's sources are, they are copied; nothing here knows a mirror.
            output_of(make.arg("-").stdin(sources()?))?;
        }
        let size = output_of(Command::new("du").args(["--apparent-size", "-sb"]).arg(self.tree(TREES[0].0)))?;
        size.split_ascii_whitespace()
            .next()
            .and_then(|it| it.parse().ok())
            .ok_or_else(|| "du gave no number".to_owned())
    }

    fn measure(&self, bytes: u64, has_restic: bool, has_borg: bool) -> Result<Vec<Row>> {
        let (mut ours, mut again) = (Vec::new(), Vec::new());
        let (mut restic, mut borg) = (Vec::new(), Vec::new());
        let first = self.tree(TREES[0].0);
        for round in 0..ROUNDS {
            eprintln!("xtask: round {} of {ROUNDS}", round + 1);
            let pool = self.fresh("pool")?;
            ours.push(self.ingest(&first, &pool)?);
            again.push(self.ingest(&first, &pool)?);
            if has_restic {
                restic.push(self.restic(&first)?);
            }
            if has_borg {
                let repository = self.borg_repository()?;
                borg.push(self.borg(&first, &repository, "one")?);
            }
        }
        let rate = |seconds: &[f64]| bytes as f64 / 1e6 / median(seconds);
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

    /// Processor seconds of taking a tree into a pool, everything synced.
    fn ingest(&self, tree: &Path, pool: &Path) -> Result<f64> {
        let mut command = Command::new(target_dir().join("release/examples/ingest"));
        let name = tree.file_name().unwrap_or_default();
        cpu_seconds(command.arg(tree).arg(pool).arg(name))
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

/// The machine's own package sources, as one stream.
fn sources() -> Result<Stdio> {
    let dump = "cat /etc/apt/sources.list /etc/apt/sources.list.d/debian.* 2>/dev/null; true";
    let child = Command::new("sh").args(["-c", dump]).stdout(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
    child.stdout.map(Stdio::from).ok_or_else(|| "sh has no output".to_owned())
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
