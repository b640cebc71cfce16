//! Programs that do real work in a machine for another processor, and whether what they made is right: programs are
//! compiled, databases and servers used, the languages' and libraries' own checks run.
//!
//! With `SKEP_MACHINE_WORK=long` there is more of each: some minutes.

use std::path::Path;
use std::process::Command;

use skep_tests::{Run, TestEnv, can_run};

/// What is in `PATH` where packages' own scripts would have made links.
const SHELL: &str = "busybox-static";

fn is_long() -> bool {
    std::env::var("SKEP_MACHINE_WORK").is_ok_and(|it| it == "long")
}

/// A home with those packages of arm64, and a directory that the machine has as `/work`.
struct Work {
    env: TestEnv,
    image: String,
}

impl Work {
    fn new(packages: &str) -> Option<Work> {
        if !can_run(&["root"]) {
            return None;
        }
        let image = format!("deb:{packages},{SHELL}/arm64");
        let work = Work { env: TestEnv::with(&image), image };
        std::fs::create_dir(work.dir()).unwrap();
        Some(work)
    }

    fn dir(&self) -> std::path::PathBuf {
        self.env.scratch().join("work")
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.dir().join(name), content).unwrap();
    }

    /// What a script does in `/work` of the machine. A step that fails ends it, and is the last that is told of.
    fn run(&self, script: &str) -> Run {
        let mount = format!("{}:/work", self.dir().display());
        let options = ["run", "--rm", "--net", "none", "-m", "768m", "-v", &mount, "-w", "/work", &self.image];
        self.env.skep(options.iter().chain(&["--", "busybox", "sh", "-e", "-c", script]))
    }
}

/// Runs a program of the host's in a directory.
#[track_caller]
fn host(dir: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(dir).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn a_program_is_compiled_and_run() {
    let packages = if is_long() { "tcc,gcc,libc6-dev" } else { "tcc,libc6-dev" };
    let Some(work) = Work::new(packages) else { return };
    work.write("program.c", include_str!("machine_work/program.c"));
    host(&work.dir(), "cc", &["-O1", "-o", "of-the-host", "program.c", "-lm", "-lpthread"]);
    let expected = host(&work.dir(), "./of-the-host", &[]);
    assert!(expected.starts_with("148933 primes\n"), "{expected}");
    let compilers: &[&str] = if is_long() { &["tcc", "gcc -O2", "gcc -O3 -flto"] } else { &["tcc"] };
    for compiler in compilers {
        let run = work.run(&format!("{compiler} -o /tmp/it program.c -lm -lpthread; /tmp/it"));
        assert_eq!((run.code, &run.out), (0, &expected), "{compiler}: {}", run.err);
    }
}

#[test]
fn a_database_is_whole_after_many_changes() {
    let Some(work) = Work::new("sqlite3") else { return };
    let rows = if is_long() { 300_000u64 } else { 20_000 };
    let run = work.run(&format!(
        "sqlite3 base.db <<END\n.param init\n.param set :rows {rows}\n{}\nEND\n",
        include_str!("machine_work/base.sql")
    ));
    assert_eq!(run.code, 0, "{}{}", run.out, run.err);
    // Every seventh was deleted, every third of the others counts twice.
    let left = (1..=rows).filter(|it| it % 7 != 0);
    let sum: u64 = left.clone().map(|it| if it % 3 == 0 { 2 * it } else { it }).sum();
    assert_eq!(run.out, format!("wal\nok\n{}|{sum}\nok\n0\n", left.count()), "{}", run.err);
    // Another system's program finds the file whole, too: it says so in its header.
    assert!(std::fs::read(work.dir().join("base.db")).unwrap().starts_with(b"SQLite format 3\0"));
}

#[test]
fn a_server_keeps_what_it_was_told() {
    let Some(work) = Work::new("redis-server,redis-tools") else { return };
    let requests = if is_long() { 20_000 } else { 2_000 };
    let run = work.run(&format!("REQUESTS={requests}\n{}", include_str!("machine_work/redis.sh")));
    assert_eq!(run.code, 0, "{}{}", run.out, run.err);
    let measured = run.out.lines().filter(|line| line.contains("requests per second")).count();
    assert_eq!(measured, 6, "{}", run.out);
    assert!(run.out.ends_with("kept: 1000 value-777 500500\n"), "{}{}", run.out, run.err);
}

#[test]
fn pythons_own_tests_go_well() {
    let Some(work) = Work::new("python3,libpython3.11-testsuite") else { return };
    let short = "test_math test_float test_struct test_json test_zlib";
    let long = "test_cmath test_long test_decimal test_re test_hashlib test_threading test_asyncio test_array \
                test_bytes test_unicode test_pickle test_subprocess test_signal test_mmap test_socket";
    let tests = if is_long() { format!("{short} {long}") } else { short.to_owned() };
    let run = work.run(&format!("cd /tmp; python3 -m test {tests} 2>&1"));
    assert_eq!(run.code, 0, "{}{}", run.out, run.err);
    assert!(run.out.contains("Tests result: SUCCESS"), "{}", run.out);
}

#[test]
fn cryptography_is_right_and_agrees_with_the_hosts() {
    let Some(work) = Work::new("openssl") else { return };
    if !can_run(&["openssl"]) {
        return;
    }
    let dir = work.dir();
    let openssl = |arguments: &str| host(&dir, "openssl", &arguments.split(' ').collect::<Vec<_>>());
    std::fs::write(dir.join("text"), "what is signed and encrypted\n".repeat(5000)).unwrap();
    openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.key");
    openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ec.key");
    openssl("req -x509 -new -key rsa.key -subj /CN=x -days 9 -out certificate");
    for kind in ["rsa", "ec"] {
        openssl(&format!("pkey -in {kind}.key -pubout -out {kind}.public"));
        openssl(&format!("dgst -sha256 -sign {kind}.key -out {kind}.of-host text"));
    }
    openssl("cms -encrypt -binary -aes-256-gcm -in text -outform DER -out gcm.of-host certificate");
    let seconds = if is_long() { 3 } else { 1 };
    let run = work.run(&format!("SECONDS_EACH={seconds}\n{}", include_str!("machine_work/openssl.sh")));
    assert_eq!(run.code, 0, "{}{}", run.out, run.err);
    assert_eq!(run.out.matches("Verified OK").count(), 2, "{}", run.out);
    for kind in ["rsa", "ec"] {
        let said = openssl(&format!("dgst -sha256 -verify {kind}.public -signature {kind}.of-guest text"));
        assert_eq!(said, "Verified OK\n");
    }
    openssl("cms -decrypt -binary -inform DER -in gcm.of-guest -inkey rsa.key -out gcm.text");
    assert!(std::fs::read(dir.join("gcm.text")).unwrap() == std::fs::read(dir.join("text")).unwrap());
    let digest = |algorithm: &str| openssl(&format!("dgst -{algorithm} -r text"));
    for algorithm in ["sha1", "sha256", "sha512", "sha3-256"] {
        assert!(run.out.contains(&digest(algorithm)), "{algorithm}: {}", run.out);
    }
}
