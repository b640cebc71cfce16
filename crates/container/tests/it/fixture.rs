//! One cell in a temporary directory, run to its end.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use container::cgroup::Cgroup;
use container::{Ended, NetNs, Plan, Rootfs, Running, Stdio};
use model::{CellId, Init, Lifetime, Limits, Process, Security, Stdin, Terminal};
use tempfile::TempDir;

/// A root file system of busybox and nothing else, and a place for what a cell writes.
pub(crate) struct Fixture {
    pub(crate) dir: TempDir,
}

/// How a program ended and what it printed.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) ended: Ended,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Whether tests that make cells can run here.
pub(crate) fn can_run() -> bool {
    let root = rustix::process::geteuid().is_root();
    let able = root && Path::new("/bin/busybox").exists();
    if !able {
        println!("skipped: needs root and /bin/busybox (package busybox-static)");
    }
    able
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        for path in ["bin", "etc", "root", "tmp", "var/www"] {
            std::fs::create_dir_all(root.join(path)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for applet in [
            "sh", "true", "false", "cat", "echo", "id", "ls", "sleep", "kill", "ps", "stty", "tty", "env", "pwd",
            "mount", "mkdir", "rm", "touch", "dd", "wc", "head", "hostname", "readlink", "stat", "ip", "chmod",
            "chown", "ln", "mknod", "umount", "unshare", "yes", "seq", "grep", "tail", "df", "awk", "sort",
        ] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www:/var/www:/bin/false\n";
        std::fs::write(root.join("etc/passwd"), passwd).unwrap();
        std::fs::write(root.join("etc/group"), "root:x:0:\nadm:x:4:www-data\nwww-data:x:33:\n").unwrap();
        std::fs::create_dir(dir.path().join("cell")).unwrap();
        Self { dir }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// A plan that runs `argv` with nothing special.
    pub(crate) fn plan(&self, argv: &[&str]) -> Plan {
        Plan {
            id: CellId::from_random(sys::random::bits().unwrap()),
            rootfs: Rootfs::Plain { dir: self.root(), missing: Vec::new() },
            upper: self.dir.path().join("cell"),
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

    /// Runs `argv` to its end.
    pub(crate) fn run(&self, argv: &[&str]) -> Outcome {
        run(&self.plan(argv))
    }

    /// Runs a shell script to its end.
    pub(crate) fn shell(&self, script: &str) -> Outcome {
        self.run(&["sh", "-c", script])
    }
}

pub(crate) fn process(argv: &[&str]) -> Process {
    Process {
        argv: argv.iter().map(|it| (*it).to_owned()).collect(),
        env: Vec::new(),
        cwd: "/".into(),
        user: "".parse().unwrap(),
        terminal: Terminal::None,
        stdin: Stdin::Closed,
    }
}

/// The near ends of a program's streams.
pub(crate) struct Streams {
    pub(crate) stdin: File,
    pub(crate) stdout: File,
    pub(crate) stderr: File,
}

pub(crate) fn pipes() -> (Stdio, Streams) {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let ((stdin, in_end), (out_end, stdout), (err_end, stderr)) = (pipe(), pipe(), pipe());
    let near = |fd: OwnedFd| File::from(fd);
    let streams = Streams { stdin: near(in_end), stdout: near(out_end), stderr: near(err_end) };
    (Stdio::Pipes { stdin, stdout, stderr }, streams)
}

impl Streams {
    /// Closes the input, reads what comes and waits.
    pub(crate) fn finish(self, running: &mut Running) -> Outcome {
        let Self { stdin, mut stdout, mut stderr } = self;
        drop(stdin);
        let reader = std::thread::spawn(move || {
            let mut text = Vec::new();
            stderr.read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        });
        let mut text = Vec::new();
        stdout.read_to_end(&mut text).unwrap();
        let ended = running.reap().unwrap();
        Outcome { ended, stdout: String::from_utf8_lossy(&text).into_owned(), stderr: reader.join().unwrap() }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stdin.write_all(bytes).unwrap();
    }
}

/// Prepares and starts a cell; its groups come along to be removed.
pub(crate) fn start(plan: &Plan) -> (Running, Cgroup, Streams) {
    let (stdio, streams) = pipes();
    let prepared = container::prepare(plan, stdio).unwrap();
    let cgroup = prepared.cgroup().clone();
    (prepared.start().unwrap(), cgroup, streams)
}

pub(crate) fn run(plan: &Plan) -> Outcome {
    let (mut running, cgroup, streams) = start(plan);
    let outcome = streams.finish(&mut running);
    cgroup.remove().unwrap();
    outcome
}
