//! Starts `/bin/true` in a cell again and again and prints what each step takes, in microseconds: least and median.
//!
//! `cargo run --release -p skep-container --example start [ROUNDS]`, as root, with `/bin/busybox`.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a measuring program for people")]

use std::fs::File;
use std::time::Instant;

use container::{NetNs, Plan, Rootfs, Stdio, Target};
use model::{CellId, Init, Lifetime, Limits, Process, Security, Stdin, Terminal};

fn main() {
    let rounds = std::env::args().nth(1).and_then(|it| it.parse().ok()).unwrap_or(200);
    let dir = std::env::temp_dir().join(format!("skep-start-{}", std::process::id()));
    let root = dir.join("root");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/true")).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/sleep")).unwrap();
    let names = ["prepare", "start", "reap", "remove", "whole", "exec"];
    let mut samples = vec![Vec::new(); names.len()];
    for round in 0..rounds {
        let upper = dir.join(format!("cell{round}"));
        std::fs::create_dir(&upper).unwrap();
        for (name, sample) in names.iter().zip(run(&plan(&root, &upper, &["/bin/true"]))).map(|(_, s)| s).enumerate() {
            samples[name].push(sample);
        }
        std::fs::remove_dir_all(upper).unwrap();
    }
    let upper = dir.join("long");
    std::fs::create_dir(&upper).unwrap();
    let plan = plan(&root, &upper, &["/bin/sleep", "1000"]);
    let prepared = container::prepare(&plan, null()).unwrap();
    let cgroup = prepared.cgroup().clone();
    let mut running = prepared.start().unwrap();
    for _ in 0..rounds {
        let before = Instant::now();
        let target = Target { pid: running.pid, cgroup: &cgroup };
        container::exec(&target, &process(&["/bin/true"]), &plan.security, null(), container::Bond::DiesWithCaller)
            .unwrap()
            .reap()
            .unwrap();
        samples[5].push(before.elapsed().as_secs_f64() * 1e6);
    }
    sys::process::kill(&running.pidfd).unwrap();
    running.reap().unwrap();
    cgroup.remove().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
    println!("{:<10} {:>8} {:>8}", "step", "least", "median");
    for (name, mut sample) in names.iter().zip(samples) {
        sample.sort_by(f64::total_cmp);
        println!("{name:<10} {:>8.0} {:>8.0}", sample[0], sample[sample.len() / 2]);
    }
}

fn null() -> Stdio {
    let open = || File::options().read(true).write(true).open("/dev/null").unwrap().into();
    Stdio::Pipes { stdin: open(), stdout: open(), stderr: open() }
}

fn process(argv: &[&str]) -> Process {
    Process {
        argv: argv.iter().map(|it| (*it).to_owned()).collect(),
        env: Vec::new(),
        cwd: "/".into(),
        user: "".parse().unwrap(),
        terminal: Terminal::None,
        stdin: Stdin::Closed,
    }
}

fn plan(root: &std::path::Path, upper: &std::path::Path, argv: &[&str]) -> Plan {
    Plan {
        id: CellId::from_random(sys::random::bits().unwrap()),
        rootfs: Rootfs::Plain { dir: root.to_owned(), missing: Vec::new() },
        upper: upper.to_owned(),
        hostname: "cell".to_owned(),
        process: process(argv),
        mounts: Vec::new(),
        files: Vec::new(),
        security: Security::default(),
        limits: Limits::default(),
        netns: NetNs::New,
        ipc: container::IpcNs::New,
        init: Init::Reaper,
        lifetime: Lifetime::RemoveOnExit,
        watch: model::Watch::Nothing,
        body: container::Body::Command,
    }
}

fn run(plan: &Plan) -> [f64; 5] {
    let whole = Instant::now();
    let mut last = whole;
    let mut lap = || {
        let taken = last.elapsed().as_secs_f64() * 1e6;
        last = Instant::now();
        taken
    };
    let prepared = container::prepare(plan, null()).unwrap();
    let prepare = lap();
    let cgroup = prepared.cgroup().clone();
    let mut running = prepared.start().unwrap();
    let start = lap();
    running.reap().unwrap();
    let reap = lap();
    cgroup.remove().unwrap();
    let remove = lap();
    [prepare, start, reap, remove, whole.elapsed().as_secs_f64() * 1e6]
}
