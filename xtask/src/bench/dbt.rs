//! `bench dbt`: Debian's kernels for foreign processors, and small programs in them, on our processors and on qemu's.
//!
//! Each run boots a kernel, does all programs, and switches the machine off. Runs alternate: ours, then qemu's in each of
//! its fastest configurations; what counts is the best of those. A program takes its own times, by the guest's clock, and
//! prints what it computed: that has to be the same everywhere.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::sample::median;
use super::{Bound, Row};
use crate::debian::{self, Tool};
use crate::vm::archive::Archive;
use crate::{Result, cargo, must, output_of, target_dir};

const TOOLS: &[Tool] = &[
    Tool { program: "qemu-system-aarch64", package: "qemu-system-arm" },
    Tool { program: "qemu-system-riscv64", package: "qemu-system-misc" },
    Tool { program: "aarch64-linux-gnu-gcc", package: "gcc-aarch64-linux-gnu libc6-dev-arm64-cross" },
    Tool { program: "riscv64-linux-gnu-gcc", package: "gcc-riscv64-linux-gnu libc6-dev-riscv64-cross" },
];

const SOURCE: &str = include_str!("dbt/kernels.c");
const ROUNDS: usize = 5;
const INTEGER: &[&str] = &["intloop", "fib", "sieve", "chase", "sort", "hash", "icall"];
const FLOAT: &[&str] = &["matmul", "mandel", "nbody", "fsum", "spectral"];
const SYSTEM: &[&str] = &["syscall", "fork", "fault", "pipe"];
/// The line that `init` prints first.
const REACHED: &str = "INIT REACHED";

const INIT: &str = "#!/bin/sh
/bin/busybox mount -t proc proc /proc
echo INIT REACHED
/bin/kernels
/bin/busybox poweroff -f
";

/// An architecture, and what is promised of it.
struct Target {
    name: &'static str,
    debian: &'static str,
    /// The release that has a kernel for it, and a name that depends on the newest.
    suite: &'static str,
    kernel: &'static str,
    console: &'static str,
    /// qemu's program, machine, and processors with the kernel's arguments.
    qemu: (&'static str, &'static str, &'static [(&'static str, &'static str)]),
    integer: f64,
    float: f64,
}

const TARGETS: [Target; 2] = [
    Target {
        name: "aarch64",
        debian: "arm64",
        suite: "bookworm",
        kernel: "linux-image-arm64",
        console: "ttyAMA0",
        qemu: (
            "qemu-system-aarch64",
            "virt,gic-version=3",
            &[("max,pauth-impdef=on", ""), ("neoverse-n1", ""), ("neoverse-n1", "mitigations=off")],
        ),
        integer: 2.0,
        float: 4.0,
    },
    Target {
        name: "riscv64",
        debian: "riscv64",
        suite: "trixie",
        kernel: "linux-image-riscv64",
        console: "ttyS0",
        qemu: ("qemu-system-riscv64", "virt", &[("rv64", "")]),
        integer: 1.5,
        float: 3.0,
    },
];

pub(super) fn run() -> Result<Vec<Row>> {
    if let Some((tool, why)) = debian::ensure(TOOLS).first() {
        return Err(format!("needs {}: {why}", tool.program));
    }
    must(&mut cargo(&["build", "--release", "--package", "skep-machine", "--example", "boot"]))?;
    let mut rows = Vec::new();
    for target in &TARGETS {
        rows.extend(measure(target)?);
    }
    Ok(rows)
}

/// What one run printed: seconds to `init`, and each program's milliseconds and result.
#[derive(Default)]
struct Run {
    boot: f64,
    programs: BTreeMap<String, (f64, String)>,
}

fn measure(target: &Target) -> Result<Vec<Row>> {
    let guest = Guest::prepare(target)?;
    let (program, machine, processors) = target.qemu;
    let mut ours = Vec::new();
    let mut theirs: Vec<Vec<Run>> = processors.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        ours.push(watch(&mut guest.ours(target))?);
        for ((processor, arguments), runs) in processors.iter().zip(&mut theirs) {
            let mut command = Command::new(program);
            command.args(["-M", machine, "-cpu", processor, "-smp", "1", "-m", "512", "-nographic", "-no-reboot"]);
            command.args(["-nic", "none", "-kernel"]).arg(&guest.kernel).arg("-initrd").arg(&guest.initrd);
            command.args(["-append", &format!("console={} panic=-1 {arguments}", target.console)]);
            runs.push(watch(&mut command)?);
        }
    }
    let name = |what: &str| format!("{} {what}", target.name);
    let boot = |runs: &[Run]| median(&runs.iter().map(|run| run.boot).collect::<Vec<_>>());
    let best = |of: &dyn Fn(&[Run]) -> f64| theirs.iter().map(|runs| of(runs)).fold(f64::INFINITY, f64::min);
    let row = |what: &str, unit, ours: f64, theirs: f64, bound| {
        Row::new(&name(what), unit, ours, Some(("qemu", Some(theirs))), ROUNDS, bound)
    };
    let mut rows = vec![row("boot to init", "s", boot(&ours), best(&boot), Bound::RatioAtMost(1.0 / 1.5))];
    let mut means = Vec::new();
    for (set, programs, promised) in
        [("integer", INTEGER, target.integer), ("floating point", FLOAT, target.float), ("system", SYSTEM, 2.0)]
    {
        let mut logarithms = 0.0;
        for program in programs {
            same_result(program, &ours, &theirs)?;
            let of = |runs: &[Run]| {
                let times = runs.iter().filter_map(|run| run.programs.get(*program)).map(|(time, _)| *time);
                median(&times.collect::<Vec<_>>())
            };
            let (own, peer) = (of(&ours), best(&of));
            logarithms += (own / peer).ln();
            rows.push(row(program, "ms", own, peer, Bound::RatioAtMost(1.0)));
        }
        let mean = (logarithms / programs.len() as f64).exp();
        means.push(row(&format!("{set}, geometric mean"), "", mean, 1.0, Bound::RatioAtMost(1.0 / promised)));
    }
    rows.extend(means);
    Ok(rows)
}

fn same_result(program: &str, ours: &[Run], theirs: &[Vec<Run>]) -> Result {
    let mut results: Vec<&str> =
        ours.iter().chain(theirs.iter().flatten()).filter_map(|run| Some(&*run.programs.get(program)?.1)).collect();
    results.dedup();
    match results.as_slice() {
        [_] => Ok(()),
        [] => Err(format!("{program} ran nowhere")),
        _ => Err(format!("{program} computed different things: {}", results.join(", "))),
    }
}

/// Runs a machine until it is switched off, and reads its console.
fn watch(command: &mut Command) -> Result<Run> {
    let began = Instant::now();
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = spawned.map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    let mut run = Run::default();
    let console = child.stdout.take().ok_or("a console was asked for")?;
    for line in BufReader::new(console).lines().map_while(std::io::Result::ok) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["end", name, time, result] => {
                let time = time.parse::<f64>().map_err(|e| format!("{name} took '{time}': {e}"))?;
                run.programs.insert((*name).to_owned(), (time / 1e6, (*result).to_owned()));
            }
            _ if line.trim() == REACHED => run.boot = began.elapsed().as_secs_f64(),
            _ => {}
        }
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    let all = INTEGER.len() + FLOAT.len() + SYSTEM.len();
    if run.programs.len() < all {
        return Err(format!("{command:?} ended ({status}) after {} of {all} programs", run.programs.len()));
    }
    Ok(run)
}

/// A kernel, and what it starts with.
struct Guest {
    kernel: PathBuf,
    initrd: PathBuf,
}

impl Guest {
    fn prepare(target: &Target) -> Result<Guest> {
        let work = target_dir().join("dbt").join(target.name);
        fs::create_dir_all(&work).map_err(|e| format!("making {}: {e}", work.display()))?;
        let tree = work.join("tree");
        if !tree.exists() {
            fetch(target, &work, &tree)?;
        }
        let (source, program) = (work.join("kernels.c"), work.join("kernels"));
        fs::write(&source, SOURCE).map_err(|e| e.to_string())?;
        let mut compiler = Command::new(format!("{}-linux-gnu-gcc", target.name));
        must(compiler.args(["-O2", "-fno-tree-vectorize", "-static", "-o"]).args([&program, &source]).arg("-lm"))?;

        let mut archive = Archive::new();
        ["bin", "dev", "proc"].iter().for_each(|dir| archive.directory(dir));
        archive.link("bin/sh", "busybox");
        archive.data("init", 0o755, INIT.as_bytes());
        archive.file("bin/busybox", &find(&tree, &|path| path.ends_with("bin/busybox"))?)?;
        archive.file("bin/kernels", &program)?;
        let initrd = work.join("initrd");
        fs::write(&initrd, archive.finish()).map_err(|e| e.to_string())?;
        let is_kernel = |path: &Path| path.to_string_lossy().contains("/boot/vmlinu");
        let kernel = find(&tree, &is_kernel)?;
        Ok(Guest { kernel, initrd })
    }

    fn ours(&self, target: &Target) -> Command {
        let mut command = Command::new(target_dir().join("release/examples/boot"));
        command.arg(&self.kernel).arg(&self.initrd);
        command.arg(format!("console={} panic=-1", target.console)).arg(target.debian);
        command
    }
}

/// Fetches the kernel and busybox by the machine's own apt, with lists of their own for the other architecture.
fn fetch(target: &Target, work: &Path, tree: &Path) -> Result {
    let codename = output_of(Command::new("sh").args(["-c", ". /etc/os-release && echo $VERSION_CODENAME"]))?;
    let targets = output_of(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI) $(RELEASE)"]))?;
    let repository =
        targets.lines().filter_map(|line| line.split_once(' ')).find(|(_, release)| *release == codename.trim());
    let (repository, _) = repository.ok_or("apt knows no repository of this release")?;
    let apt = work.join("apt");
    for dir in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(apt.join(dir)).map_err(|e| e.to_string())?;
    }
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let list = format!("deb [arch={} signed-by={keys}] {repository} {} main\n", target.debian, target.suite);
    fs::write(apt.join("sources.list"), list).map_err(|e| e.to_string())?;
    fs::write(apt.join("status"), "").map_err(|e| e.to_string())?;
    let at = |name: &str| apt.join(name).display().to_string();
    let options = [
        format!("APT::Architecture={}", target.debian),
        format!("APT::Architectures={}", target.debian),
        format!("Dir::State::lists={}", at("lists")),
        format!("Dir::State::status={}", at("status")),
        format!("Dir::Cache={}", at("cache")),
        format!("Dir::Etc::sourcelist={}", at("sources.list")),
        "Dir::Etc::sourceparts=-".to_owned(),
    ];
    let with = |program: &str| {
        let mut command = Command::new(program);
        options.iter().for_each(|option| _ = command.args(["-o", option]));
        command.current_dir(work);
        command
    };
    must(with("apt-get").args(["-qq", "update"]))?;
    let depends = output_of(with("apt-cache").args(["depends", target.kernel]))?;
    let image = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let image = image.ok_or_else(|| format!("apt knows no kernel that {} depends on", target.kernel))?;
    must(with("apt-get").args(["-qq", "download", image, "busybox-static"]))?;
    let unpacked = work.join("unpacked");
    for entry in fs::read_dir(work).map_err(|e| e.to_string())?.flatten() {
        if entry.path().extension().is_some_and(|it| it == "deb") {
            must(Command::new("dpkg-deb").arg("-x").args([&entry.path(), &unpacked]))?;
        }
    }
    fs::rename(&unpacked, tree).map_err(|e| format!("renaming {}: {e}", unpacked.display()))
}

/// The first file below a directory that is meant.
fn find(dir: &Path, is_meant: &dyn Fn(&Path) -> bool) -> Result<PathBuf> {
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).map_err(|e| format!("reading {}: {e}", dir.display()))?.flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => left.push(path),
                Ok(kind) if kind.is_file() && is_meant(&path) => return Ok(path),
                _ => {}
            }
        }
    }
    Err(format!("{} does not have what was looked for", dir.display()))
}
