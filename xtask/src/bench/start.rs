//! `bench start`: how long it takes to run a program in a cell, and what an idle cell costs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::disk::Disk;
use super::sample::{Contender, interleave, median};
use super::{Bound, Row};
use crate::debian::{self, Tool};
use crate::{Result, cargo, must, output_of, target_dir};

const ROUNDS: usize = 25;
const IMAGE: &str = "deb:busybox-static";
const PEER_IMAGE: &str = "skep-bench-busybox";

const TOOLS: &[Tool] = &[
    Tool { program: "busybox", package: "busybox-static" },
    Tool { program: "runc", package: "runc" },
    Tool { program: "podman", package: "podman" },
    Tool { program: "netavark", package: "netavark" },
    Tool { program: "aardvark-dns", package: "aardvark-dns" },
];

pub(crate) fn run() -> Result<Vec<Row>> {
    if !rustix::process::geteuid().is_root() {
        return Err("bench start makes cells, which takes root".to_owned());
    }
    let missing = debian::ensure(TOOLS);
    for (tool, why) in &missing {
        eprintln!("xtask: the peer {} is missing: {why}", tool.program);
    }
    let has = |program: &str| !missing.iter().any(|(tool, _)| tool.program == program);
    must(&mut cargo(&["build", "--release", "--package", "skep"]))?;
    let bench = Bench::prepare(has("runc"), has("podman"))?;
    let mut rows = bench.starts()?;
    rows.extend(bench.execs()?);
    rows.push(bench.supervisor()?);
    Ok(rows)
}

/// Everything that the measurements share. Taken apart when it is dropped.
struct Bench {
    disk: Disk,
    has_runc: bool,
    has_podman: bool,
}

impl Bench {
    fn prepare(has_runc: bool, has_podman: bool) -> Result<Self> {
        let bench = Self { disk: Disk::mount()?, has_runc, has_podman };
        eprintln!("xtask: preparing the same root file system for all");
        output_of(bench.skep().args(["image", "pull", IMAGE]))?;
        // The peers get the very tree that our cells see, so that all execute the same file.
        let rootfs = bench.rootfs();
        output_of(bench.skep().args(["create", "--net", "none", "--name", "tree", IMAGE, "--", "/bin/true"]))?;
        std::fs::create_dir_all(&rootfs).map_err(|e| e.to_string())?;
        output_of(bench.skep().args(["cp", "tree:/."]).arg(&rootfs))?;
        output_of(bench.skep().args(["rm", "tree"]))?;
        for name in ["proc", "sys", "dev", "etc", "tmp", "run"] {
            std::fs::create_dir_all(rootfs.join(name)).map_err(|e| e.to_string())?;
        }
        if has_runc {
            bench.write_bundle("bundle", &["/bin/busybox", "true"])?;
            bench.write_bundle("sleeper", &["/bin/busybox", "sleep", "100000"])?;
        }
        if has_podman {
            bench.import_into_podman()?;
        }
        Ok(bench)
    }

    fn rootfs(&self) -> PathBuf {
        self.disk.path().join("rootfs")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.path().join(name)
    }

    fn skep(&self) -> Command {
        let mut command = Command::new(target_dir().join("release/skep"));
        command.env("SKEP_ROOT", self.path("home"));
        command
    }

    /// A bundle as `runc spec` makes it, with our command and without limits that need privileges we may lack.
    fn write_bundle(&self, name: &str, command: &[&str]) -> Result {
        let bundle = self.path(name);
        std::fs::create_dir_all(&bundle).map_err(|e| e.to_string())?;
        must(Command::new("runc").arg("spec").current_dir(&bundle))?;
        let path = bundle.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|e| e.to_string())?;
        let mut spec: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        spec["process"]["terminal"] = false.into();
        spec["process"]["args"] = command.into();
        spec["process"]["rlimits"] = serde_json::json!([]);
        spec["root"]["path"] = self.rootfs().display().to_string().into();
        std::fs::write(&path, spec.to_string()).map_err(|e| e.to_string())
    }

    fn runc(&self) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.path("runc"));
        command
    }

    fn import_into_podman(&self) -> Result {
        let tar = self.path("rootfs.tar");
        must(Command::new("tar").arg("-C").arg(self.rootfs()).arg("-cf").arg(&tar).arg("."))?;
        output_of(Command::new("podman").args(["import", "--quiet"]).arg(&tar).arg(PEER_IMAGE)).map(drop)
    }

    /// Podman with the options that let it run where rlimits cannot be raised and crun does not work.
    fn podman_run(&self) -> Command {
        let mut command = Command::new("podman");
        command.args([
            "--runtime",
            "runc",
            "run",
            "--rm",
            "--ulimit",
            "nofile=1024:20000",
            "--ulimit",
            "nproc=30000:30000",
        ]);
        command
    }

    fn starts(&self) -> Result<Vec<Row>> {
        let ours = |net: &'static str| {
            move || {
                let mut command = self.skep();
                command.args(["run", "--rm", "--net", net, IMAGE, "--", "/bin/busybox", "true"]);
                command
            }
        };
        let floor = || {
            let mut command = Command::new("unshare");
            command.arg("-mpuinf").arg("chroot").arg(self.rootfs()).args(["/bin/busybox", "true"]);
            command
        };
        let runc = || {
            let mut command = self.runc();
            command.arg("run").arg("--bundle").arg(self.path("bundle")).arg("skep-bench");
            command
        };
        let podman = || {
            let mut command = self.podman_run();
            command.args([PEER_IMAGE, "/bin/busybox", "true"]);
            command
        };
        let mut contenders: Vec<Contender<'_>> = vec![
            Contender { name: "skep none", command: Box::new(ours("none")) },
            Contender { name: "unshare", command: Box::new(floor) },
            Contender { name: "skep bridge", command: Box::new(ours("default")) },
        ];
        if self.has_runc {
            contenders.push(Contender { name: "runc", command: Box::new(runc) });
        }
        if self.has_podman {
            contenders.push(Contender { name: "podman", command: Box::new(podman) });
        }
        let times = interleave(&contenders, ROUNDS)?;
        let of = |name: &str| {
            let index = contenders.iter().position(|it| it.name == name)?;
            Some(median(&times[index]))
        };
        let none = of("skep none").unwrap_or(f64::NAN);
        let bridge = of("skep bridge").unwrap_or(f64::NAN);
        let row = |name, ours, peer, bound| Row::new(name, "ms", ours, Some(peer), ROUNDS, bound);
        Ok(vec![
            row("run --rm, no network", none, ("runc run", of("runc")), Bound::RatioAtMost(0.6)),
            row("run --rm, no network", none, ("unshare + chroot", of("unshare")), Bound::RatioAtMost(3.0)),
            row("run --rm, bridge", bridge, ("podman run --rm", of("podman")), Bound::RatioAtMost(0.15)),
        ])
    }

    fn execs(&self) -> Result<Vec<Row>> {
        let sleeper = ["--", "/bin/busybox", "sleep", "100000"];
        output_of(self.skep().args(["run", "-d", "--net", "none", "--name", "sleeper", IMAGE]).args(sleeper))?;
        let mut stop = vec![{
            let mut command = self.skep();
            command.args(["rm", "-f", "sleeper"]);
            command
        }];
        let ours = || {
            let mut command = self.skep();
            command.args(["exec", "sleeper", "/bin/busybox", "true"]);
            command
        };
        let runc = || {
            let mut command = self.runc();
            command.args(["exec", "skep-bench-sleeper", "/bin/busybox", "true"]);
            command
        };
        let podman = || {
            let mut command = Command::new("podman");
            command.args(["exec", "skep-bench-sleeper", "/bin/busybox", "true"]);
            command
        };
        let mut contenders: Vec<Contender<'_>> = vec![Contender { name: "skep", command: Box::new(ours) }];
        if self.has_runc {
            let mut start = self.runc();
            start.args(["run", "--detach", "--bundle"]).arg(self.path("sleeper")).arg("skep-bench-sleeper");
            must(start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))?;
            let mut delete = self.runc();
            delete.args(["delete", "--force", "skep-bench-sleeper"]);
            stop.push(delete);
            contenders.push(Contender { name: "runc", command: Box::new(runc) });
        }
        if self.has_podman {
            let mut start = self.podman_run();
            start.args(["--detach", "--name", "skep-bench-sleeper", PEER_IMAGE, "/bin/busybox", "sleep", "100000"]);
            output_of(&mut start)?;
            let mut remove = Command::new("podman");
            remove.args(["rm", "--force", "--time", "0", "skep-bench-sleeper"]);
            stop.push(remove);
            contenders.push(Contender { name: "podman", command: Box::new(podman) });
        }
        let times = interleave(&contenders, ROUNDS);
        for command in &mut stop {
            let _ = output_of(command);
        }
        let times = times?;
        let of = |name: &str| contenders.iter().position(|it| it.name == name).map(|index| median(&times[index]));
        let skep = of("skep").unwrap_or(f64::NAN);
        Ok(vec![
            Row::new("exec", "ms", skep, Some(("runc exec", of("runc"))), ROUNDS, Bound::RatioAtMost(0.33)),
            Row::new("exec", "ms", skep, Some(("podman exec", of("podman"))), ROUNDS, Bound::RatioAtMost(0.1)),
        ])
    }

    /// What the supervisor of an idle cell with a network holds in memory; the peer is podman's monitor.
    fn supervisor(&self) -> Result<Row> {
        let sleeper = ["--", "/bin/busybox", "sleep", "100000"];
        output_of(self.skep().args(["run", "-d", "--name", "idle", IMAGE]).args(sleeper))?;
        let inspected = output_of(self.skep().args(["inspect", "idle"]));
        let resident = inspected.and_then(|text| {
            let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
            let pid = value[0]["record"]["supervisor"]["pid"].as_u64().ok_or("the cell has no supervisor")?;
            resident_mib(&format!("/proc/{pid}"))
        });
        output_of(self.skep().args(["rm", "-f", "idle"]))?;
        let peer = self.has_podman.then(|| self.conmon()).transpose()?;
        Ok(Row::new("supervisor, resident", "MiB", resident?, Some(("conmon", peer)), 1, Bound::AtMost(6.0)))
    }

    fn conmon(&self) -> Result<f64> {
        let mut start = self.podman_run();
        start.args(["--detach", "--name", "skep-bench-idle", PEER_IMAGE, "/bin/busybox", "sleep", "100000"]);
        output_of(&mut start)?;
        let format = ["inspect", "--format", "{{.State.ConmonPid}}", "skep-bench-idle"];
        let pid = output_of(Command::new("podman").args(format));
        let resident = pid.and_then(|pid| resident_mib(&format!("/proc/{}", pid.trim())));
        output_of(Command::new("podman").args(["rm", "--force", "--time", "0", "skep-bench-idle"]))?;
        resident
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if self.has_podman {
            let _ = output_of(Command::new("podman").args(["rmi", "--force", PEER_IMAGE]));
        }
    }
}

/// `VmRSS` of a process, by its directory in `/proc`.
fn resident_mib(process: &str) -> Result<f64> {
    let path = Path::new(process).join("status");
    let status = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|it| it.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    Ok(kib.ok_or("the process has no resident size")? / 1024.0)
}
