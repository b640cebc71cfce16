//! `bench debug`: how long it takes to attach a toolbox, and what work on files costs in a session.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::disk::Disk;
use super::sample::{Contender, interleave, median};
use super::{Bound, Row};
use crate::{Result, cargo, must, output_of, target_dir};

const ROUNDS: usize = 40;
const FILE_ROUNDS: usize = 20;
const CELL: &str = "deb:busybox-static";
const TOOLBOX: &str = "deb:bash,coreutils,dash,findutils,grep,less,mawk,ncurses-base,sed,tar";

/// For measuring what it takes to attach: the program that `nsenter` finds in the target, so that both execute the same.
const SMALL: &str = "host:/bin/busybox";

/// The operations of [`WORK`], in the order in which it prints them.
const OPERATIONS: [&str; 6] = ["find + stat", "tar, read", "create", "delete", "write", "read"];

/// Does each operation in the directory `$1` and prints how many microseconds it took. The tree there has the shape of the
/// measurements that peers published: some 1800 files, 130 MB.
const WORK: &str = r#"
set -e
cd "$1"
now() { local t=$EPOCHREALTIME; echo ${t/./}; }
lap() { local t; t=$(now); echo $((t - begun)); }
begun=$(now); find tree -printf '%s %m %U\n' > /dev/null; lap
begun=$(now); tar -cf - tree | cat > /dev/null; lap
mkdir made; begun=$(now); for ((i = 0; i < 1500; i++)); do : > made/$i; done; lap
begun=$(now); rm -rf made; lap
begun=$(now); dd if=/dev/zero of=big bs=1M count=128 status=none; lap
begun=$(now); dd if=big of=/dev/null bs=1M status=none; lap
rm big
"#;

pub(crate) fn run() -> Result<Vec<Row>> {
    if !rustix::process::geteuid().is_root() {
        return Err("bench debug attaches to a cell, which takes root".to_owned());
    }
    must(&mut cargo(&["build", "--release", "--package", "skep"]))?;
    let bench = Bench::prepare()?;
    let mut rows = bench.attaching()?;
    rows.extend(super::debug_engines::rows(&|target| bench.session(target, SMALL))?);
    rows.extend(bench.files()?);
    drop(bench);
    rows.extend(super::lazy::run()?);
    Ok(rows)
}

/// A cell that sleeps, with a directory in memory mounted at `/work`. Taken apart when it is dropped.
struct Bench {
    disk: Disk,
    /// The cell's program, by the host's number.
    pid: u32,
}

impl Bench {
    fn prepare() -> Result<Self> {
        let mut bench = Self { disk: Disk::mount()?, pid: 0 };
        eprintln!("xtask: preparing a cell, a toolbox and a tree of files in memory");
        let work = bench.work();
        std::fs::create_dir_all(&work).map_err(|e| e.to_string())?;
        must(Command::new("mount").args(["-t", "tmpfs", "skep-bench"]).arg(&work))?;
        bench.make_tree()?;
        for image in [CELL, TOOLBOX, SMALL] {
            output_of(bench.skep().args(["image", "pull", image]))?;
        }
        let mount = format!("{}:/work", work.display());
        let run = ["run", "-d", "--net", "none", "--name", "target", "-v", &mount, CELL, "--"];
        output_of(bench.skep().args(run).args(["/bin/busybox", "sleep", "100000"]))?;
        let inspected = output_of(bench.skep().args(["inspect", "target"]))?;
        let value: serde_json::Value = serde_json::from_str(&inspected).map_err(|e| e.to_string())?;
        let first = value[0]["record"]["process"]["pid"].as_u64().ok_or("the cell has no process")?;
        let children = std::fs::read_to_string(format!("/proc/{first}/task/{first}/children"));
        let children = children.map_err(|e| e.to_string())?;
        bench.pid = children.split(' ').next().and_then(|it| it.parse().ok()).ok_or("the cell has no program")?;
        Ok(bench)
    }

    fn work(&self) -> PathBuf {
        self.disk.path().join("work")
    }

    fn skep(&self) -> Command {
        let mut command = Command::new(target_dir().join("release/skep"));
        command.env("SKEP_ROOT", self.disk.path().join("home"));
        command
    }

    fn session(&self, target: &str, toolbox: &str) -> Command {
        let mut command = self.skep();
        command.args(["debug", target, "--toolbox", toolbox, "--"]);
        command
    }

    fn make_tree(&self) -> Result {
        let line = |number: usize| format!("{number:>71}\n");
        for directory in 0..60 {
            let dir = self.work().join(format!("tree/{directory}"));
            std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
            for file in 0..30 {
                let text = line(directory * 30 + file).repeat(1000);
                std::fs::write(dir.join(file.to_string()), text).map_err(|e| e.to_string())?;
            }
        }
        Ok(())
    }

    /// By number, with everything read from the kernel (the filters, too), as for a target that skep knows nothing of.
    fn attaching(&self) -> Result<Vec<Row>> {
        let target = format!("pid:{}", self.pid);
        let by_pid = || {
            let mut command = self.session(&target, SMALL);
            command.args(["/bin/busybox", "true"]);
            command
        };
        let by_name = || {
            let mut command = self.session("target", SMALL);
            command.args(["/bin/busybox", "true"]);
            command
        };
        let nsenter = || {
            let mut command = Command::new("nsenter");
            command.args(["-a", "-t", &self.pid.to_string(), "--", "/bin/busybox", "true"]);
            command
        };
        let contenders = [
            Contender { name: "skep, by number", command: Box::new(by_pid) },
            Contender { name: "skep, by name", command: Box::new(by_name) },
            Contender { name: "nsenter", command: Box::new(nsenter) },
        ];
        let times = interleave(&contenders, ROUNDS)?;
        let [by_pid, by_name, nsenter] = [0, 1, 2].map(|index| times.get(index).cloned().unwrap_or_default());
        let least = |times: &[f64]| times.iter().copied().fold(f64::INFINITY, f64::min);
        let row = |name, ours: f64, theirs: f64, bound| {
            Row::new(name, "ms", ours, Some(("nsenter -a", Some(theirs))), ROUNDS, bound)
        };
        Ok(vec![
            row("attach by pid", median(&by_pid), median(&nsenter), Bound::RatioAtMost(1.5)),
            row("attach by pid, minimum", least(&by_pid), least(&nsenter), Bound::AtMost(5.0)),
            row("attach by name, a cell", median(&by_name), median(&nsenter), Bound::RatioAtMost(1.5)),
        ])
    }

    /// The same script on the same directory in memory: as the host sees it, and as a session sees it in its target.
    fn files(&self) -> Result<Vec<Row>> {
        let (mut ours, mut native) = (vec![Vec::new(); OPERATIONS.len()], vec![Vec::new(); OPERATIONS.len()]);
        for round in 0..FILE_ROUNDS + 1 {
            let mut host = Command::new("bash");
            host.args(["-c", WORK, "work"]).arg(self.work());
            let mut session = self.session("target", TOOLBOX);
            session.args(["bash", "-c", WORK, "work", "/target/work"]);
            for (command, times) in [(&mut host, &mut native), (&mut session, &mut ours)] {
                let text = output_of(command.stdin(Stdio::null()))?;
                let laps: Vec<f64> = text.lines().filter_map(|it| it.parse().ok()).collect();
                if laps.len() != OPERATIONS.len() {
                    return Err(format!("the file work printed: {text}"));
                }
                // The first round warms caches.
                if round > 0 {
                    times.iter_mut().zip(laps).for_each(|(times, lap)| times.push(lap / 1e3));
                }
            }
        }
        let row = |((name, ours), theirs): ((&&str, &Vec<f64>), &Vec<f64>)| {
            let name = format!("in a session: {name}");
            let peer = Some(("native", Some(median(theirs))));
            Row::new(&name, "ms", median(ours), peer, FILE_ROUNDS, Bound::RatioAtMost(1.05))
        };
        Ok(OPERATIONS.iter().zip(&ours).zip(&native).map(row).collect())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = output_of(self.skep().args(["rm", "-f", "target"]));
        let _ = output_of(Command::new("umount").arg(self.work()));
    }
}
