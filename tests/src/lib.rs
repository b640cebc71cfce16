//! A hermetic surrounding for runs of the `skep` binary: a home of its own, a cleared environment, and nothing left
//! afterwards.

#![expect(clippy::print_stderr, reason = "a skipped test says so")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot set up its surrounding has failed")]

pub mod engines;
pub mod registry;

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::FlockOperation;

/// One test's own skep.
pub struct TestEnv {
    dir: tempfile::TempDir,
}

/// What a run of the binary gave.
#[must_use = "a run that nobody looks at tests nothing"]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Run {
    /// The output of a run that must have gone well.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "it should have gone well\nstdout: {}\nstderr: {}", self.out, self.err);
        self.out
    }

    /// The complaint of a run that must have failed with that code.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        assert_eq!(self.code, code, "another exit code was expected\nstdout: {}\nstderr: {}", self.out, self.err);
        self.err
    }

    /// The JSON objects that it printed, one a line.
    #[track_caller]
    pub fn json(self) -> Vec<serde_json::Value> {
        self.ok().lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
    }
}

/// The binary under test, beside the test's own binary.
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let dir = own.ancestors().nth(2).unwrap();
    let binary = dir.join("skep");
    assert!(binary.exists(), "{} is not built: run 'cargo xtask test' or 'cargo build -p skep'", binary.display());
    binary
}

/// Whether this test can run here; says why when not.
pub fn can_run(needs: &[&str]) -> bool {
    let without = std::env::var("SKEP_TESTS_WITHOUT").unwrap_or_default();
    for need in needs {
        let missing = match *need {
            "root" => !rustix::process::geteuid().is_root(),
            "kvm" => !Path::new("/dev/kvm").exists(),
            "every capability" => !has_every_capability(),
            tool => without.split(',').any(|it| it == tool),
        };
        if missing {
            eprintln!("skipped: needs {need}");
            return false;
        }
    }
    true
}

fn has_every_capability() -> bool {
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let status = read("/proc/self/status");
    let bounding = status.lines().find_map(|it| it.strip_prefix("CapBnd:\t")).unwrap();
    let last: u32 = read("/proc/sys/kernel/cap_last_cap").trim().parse().unwrap();
    u64::from_str_radix(bounding, 16).unwrap().count_ones() == last + 1
}

/// What executes unikernels here, for `SKEP_ENGINE`.
pub fn unikernel_engines() -> impl Iterator<Item = &'static str> {
    ["kvm", "process"].into_iter().filter(|it| *it == "process" || can_run(&["kvm"]))
}

/// A port of the loopback that was free a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl TestEnv {
    /// A home that holds nothing.
    pub fn empty() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// A home whose pool holds that image. It is fetched once for all tests of a build.
    pub fn with(source: &str) -> Self {
        let env = Self::empty();
        copy_dir(&seed(source), &env.home());
        env
    }

    /// Fetches a further image, with the downloads of this home.
    pub fn pull(&self, source: &str) {
        self.skep(["image", "pull", source]).ok();
    }

    /// Where this skep keeps everything.
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// A directory for the test's own files.
    pub fn scratch(&self) -> PathBuf {
        let dir = self.dir.path().join("scratch");
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// A command that runs the binary here and inherits nothing that could change what it says.
    pub fn command(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        command_at(&self.home(), &self.scratch(), args)
    }

    /// Runs the binary to its end.
    pub fn skep(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Run {
        finish(self.command(args).stdin(Stdio::null()), b"")
    }

    /// Runs the binary to its end, feeding it input.
    pub fn skep_fed(&self, input: &[u8], args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Run {
        finish(self.command(args).stdin(Stdio::piped()), input)
    }

    /// Runs a command of [`TestEnv::command`] to its end.
    pub fn finish(&self, command: &mut Command) -> Run {
        finish(command.stdin(Stdio::null()), b"")
    }

    /// The same, feeding it input.
    pub fn finish_fed(&self, command: &mut Command, input: &[u8]) -> Run {
        finish(command.stdin(Stdio::piped()), input)
    }

    /// Starts the binary and leaves it running.
    pub fn spawn(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Child {
        self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Output with what differs from run to run taken out.
    pub fn stable(&self, text: &str) -> String {
        text.replace(&self.dir.path().display().to_string(), "$ENV")
    }
}

/// A test's cells end with it, however it ends.
impl Drop for TestEnv {
    fn drop(&mut self) {
        let cells = self.skep(["ps", "-aq"]);
        let ids: Vec<&str> = cells.out.lines().collect();
        if !ids.is_empty() {
            let _ = self.skep(["rm", "-f"].into_iter().chain(ids));
        }
    }
}

fn command_at(home: &Path, cwd: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(binary());
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", cwd).env("SKEP_ROOT", home);
    command.env("TZ", "UTC").args(args).current_dir(cwd);
    command
}

fn finish(command: &mut Command, input: &[u8]) -> Run {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_vec();
        // A program that ends without reading its input is no failure of the test's.
        std::thread::spawn(move || drop(stdin.write_all(&input)));
    }
    let output = child.wait_with_output().unwrap();
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    Run {
        code: output.status.code().or(signal.map(|it| 128 + it)).unwrap(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A home with one image, made by the first test that asks and kept beside the build.
fn seed(source: &str) -> PathBuf {
    let binary = binary();
    let base = binary.parent().unwrap().join("e2e-seeds");
    std::fs::create_dir_all(&base).unwrap();
    let lock = File::create(base.join(".lock")).unwrap();
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    let plain: String = source.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let dir = base.join(plain);
    let stamp = base.join(format!("{}.stamp", dir.file_name().unwrap().to_string_lossy()));
    let wanted = format!("{:?}", std::fs::metadata(&binary).unwrap().modified().unwrap());
    if std::fs::read_to_string(&stamp).is_ok_and(|it| it == wanted) {
        return dir;
    }
    let _ = std::fs::remove_dir_all(dir.join("pool"));
    std::fs::create_dir_all(&dir).unwrap();
    share_downloads(&base, &dir);
    finish(command_at(&dir, &base, ["image", "pull", source]).stdin(Stdio::null()), b"").ok();
    std::fs::write(stamp, wanted).unwrap();
    dir
}

/// Gives a home the downloads of all seeds. A home that is copied from it has them too.
fn share_downloads(base: &Path, home: &Path) {
    let (shared, own) = (base.join("downloads"), home.join("cache"));
    std::fs::create_dir_all(&shared).unwrap();
    if !own.is_symlink() {
        let _ = std::fs::remove_dir_all(&own);
        std::os::unix::fs::symlink(&shared, &own).unwrap();
    }
}

/// Copies a home that nobody uses.
fn copy_dir(from: &Path, to: &Path) {
    let status = Command::new("cp").args(["-a", "--reflink=auto", "-T"]).args([from, to]).status().unwrap();
    assert!(status.success());
}
