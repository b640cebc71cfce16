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
        Work::of(packages, "/arm64")
    }

    /// The same of a suite and an architecture.
    fn of(packages: &str, place: &str) -> Option<Work> {
        if !can_run(&["root"]) {
            return None;
        }
        let image = format!("deb:{packages},{SHELL}{place}");
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
        self.run_on("1", script)
    }

    /// The same with so many processors.
    fn run_on(&self, processors: &str, script: &str) -> Run {
        let mount = format!("{}:/work", self.dir().display());
        let size = ["run", "--rm", "--net", "none", "-u", "root", "-m", "768m", "--cpus", processors];
        let place = ["-v", &mount, "-w", "/work", &self.image, "--", "busybox", "sh", "-e", "-c", script];
        self.env.skep(size.iter().chain(&place))
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

/// Words that threads share, and code that one thread writes while another executes it.
fn check_threads(work: &Work, arch: &str, compiler: &str, source: &str) {
    work.write("threads.c", include_str!("machine_work/threads.c"));
    work.write("atomics.s", source);
    host(&work.dir(), &format!("{arch}-linux-gnu-as"), &["-o", "atomics.o", "atomics.s"]);
    let rounds = if is_long() { 5_000 } else { 2_000 };
    let run = work
        .run_on("2", &format!("{compiler} -o /tmp/it threads.c atomics.o -lpthread; busybox nproc; /tmp/it {rounds}"));
    let expected = "2\ncounters\norder\nwritten\nflipped between writing and executing\nmapped twice\nmapped anew\n\
                    changed while it is executed\n";
    assert_eq!((run.code, run.out.as_str()), (0, expected), "{}", run.err);
}

#[test]
fn threads_see_each_others_words_and_code() {
    if !can_run(&["aarch64-linux-gnu-objdump"]) {
        return;
    }
    let Some(work) = Work::new("tcc,libc6-dev") else { return };
    check_threads(&work, "aarch64", "tcc", include_str!("machine_work/threads_arm64.s"));
}

#[test]
fn threads_of_riscv_see_each_others_words_and_code() {
    // Its compiler is large: there is no small one.
    if !is_long() || !can_run(&["riscv64-linux-gnu-objdump"]) {
        return;
    }
    let Some(work) = Work::of("gcc,libc6-dev", "@trixie/riscv64") else { return };
    check_threads(&work, "riscv64", "gcc -O1", include_str!("machine_work/threads_riscv64.s"));
}

/// A Debian package in the directory that the machine sees: a program and a script of its own, and what it needs.
fn package(work: &Work, name: &str, fields: &str, script: &str) {
    let dir = work.dir().join(name);
    std::fs::create_dir_all(dir.join("DEBIAN")).unwrap();
    let control = format!("Package: {name}\nVersion: 1.0\nMaintainer: T <t@example.org>\n{fields}Description: test\n");
    std::fs::write(dir.join("DEBIAN/control"), control).unwrap();
    let place = dir.join("DEBIAN/postinst");
    std::fs::write(&place, format!("#!/bin/sh\nset -e\n{script}\n")).unwrap();
    std::fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn packages_are_installed_from_a_directory() {
    if !can_run(&["aarch64-linux-gnu-objdump"]) {
        return;
    }
    let Some(work) = Work::new("apt") else { return };
    let dir = work.dir();
    // One of the directory itself, and one that it needs, of a repository there.
    let needs = "Architecture: arm64\nDepends: greeting-data (>= 1), adduser, libc6 (>= 2.30)\n";
    package(&work, "greeting", needs, "adduser --quiet --system greeter");
    package(&work, "greeting-data", "Architecture: all\n", "echo from its script > /var/lib/greeting");
    work.write("greeting.s", include_str!("machine_work/greeting.s"));
    std::fs::create_dir_all(dir.join("greeting/usr/bin")).unwrap();
    std::fs::create_dir_all(dir.join("greeting-data/etc")).unwrap();
    work.write("greeting-data/etc/greeting", "hello, from a package\n");
    work.write("greeting-data/DEBIAN/conffiles", "/etc/greeting\n");
    host(&dir, "aarch64-linux-gnu-as", &["-o", "greeting.o", "greeting.s"]);
    host(&dir, "aarch64-linux-gnu-ld", &["-o", "greeting/usr/bin/greeting", "greeting.o"]);
    std::fs::create_dir(dir.join("repository")).unwrap();
    host(&dir, "dpkg-deb", &["--root-owner-group", "-b", "greeting", "greeting.deb"]);
    host(&dir, "dpkg-deb", &["--root-owner-group", "-b", "greeting-data", "repository/data.deb"]);
    let digest = host(&dir, "sha256sum", &["repository/data.deb"]);
    let size = std::fs::metadata(dir.join("repository/data.deb")).unwrap().len();
    let control = std::fs::read_to_string(dir.join("greeting-data/DEBIAN/control")).unwrap();
    let listed = format!("{control}Filename: ./data.deb\nSize: {size}\nSHA256: {}\n", &digest[..64]);
    work.write("repository/Packages", &listed);

    let run = work.run(include_str!("machine_work/apt.sh"));
    assert_eq!(run.code, 0, "{}{}", run.out, run.err);
    assert!(run.out.contains("Setting up greeting (1.0)"), "{}{}", run.out, run.err);
    assert!(run.out.ends_with("hello, from a package\nfrom its script\ngreeter\nwhole\nremoved\n"), "{}", run.out);
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

/// A package's source as it was taken over by the distribution, unpacked in a directory: by the machine's own sources of packages.
fn source(dir: &Path, package: &str) {
    let (lists, parts) = (dir.join("lists"), dir.join("sources.list.d"));
    std::fs::create_dir_all(lists.join("partial")).unwrap();
    std::fs::create_dir_all(&parts).unwrap();
    let own = std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().map(|it| it.unwrap().path());
    for file in own.chain(["/etc/apt/sources.list".into()]).filter(|it: &std::path::PathBuf| it.is_file()) {
        let text = std::fs::read_to_string(&file).unwrap();
        let line = |it: &str| match it.strip_prefix("deb ") {
            Some(rest) => format!("deb-src {rest}\n"),
            None => it.replace("Types: deb", "Types: deb-src") + "\n",
        };
        std::fs::write(parts.join(file.file_name().unwrap()), text.lines().map(line).collect::<String>()).unwrap();
    }
    let option = |name: &str, value: &Path| format!("{name}={}", value.display());
    let places = [
        option("Dir::Etc::sourcelist", Path::new("/dev/null")),
        option("Dir::Etc::sourceparts", &parts),
        option("Dir::State::lists", &lists),
        "APT::Sandbox::User=root".to_owned(),
        "Dir::Cache::pkgcache=".to_owned(),
        "Dir::Cache::srcpkgcache=".to_owned(),
    ];
    let options: Vec<&str> = places.iter().flat_map(|it| ["-o", it]).collect();
    host(dir, "apt-get", &[&options[..], &["-qq", "update"]].concat());
    host(dir, "apt-get", &[&options[..], &["-qq", "source", "--download-only", "--only-source", package]].concat());
    host(dir, "sh", &["-c", "tar -xf *.orig.tar.* --strip-components=1"]);
}

#[test]
fn a_servers_own_tests_go_well() {
    if !is_long() {
        return;
    }
    let tools = "redis-server,redis-tools,tcl8.6,procps,coreutils,grep,sed";
    let Some(work) = Work::new(tools) else { return };
    source(&work.dir(), "redis");
    let run = work.run_on("2", include_str!("machine_work/redis_tests.sh"));
    assert_eq!(run.code, 0, "{}{}", run.out, run.err);
    assert!(run.out.contains("All tests passed without errors!"), "{}", run.out);
}

#[test]
fn pythons_own_tests_go_well() {
    let Some(work) = Work::new("python3,libpython3.11-testsuite") else { return };
    let short = "test_math test_float test_struct test_json test_zlib";
    let long = "test_cmath test_long test_decimal test_re test_hashlib test_threading test_asyncio test_array \
                test_bytes test_unicode test_pickle test_subprocess test_signal test_mmap test_socket";
    let tests = if is_long() { format!("{short} {long}") } else { short.to_owned() };
    // A file without a name that is mapped to be written, in the directory that the host shares.
    work.write("mapped.py", include_str!("machine_work/mapped.py"));
    let run = work.run(&format!("python3 mapped.py; cd /tmp; python3 -m test {tests} 2>&1"));
    assert_eq!(run.code, 0, "{}{}", run.out, run.err);
    assert!(run.out.contains("Tests result: SUCCESS"), "{}", run.out);
}

/// Published signatures of curves: RFC 6979 (A.2.5, A.2.6: `sample`) and RFC 8032 (7.1, test 2), as files in DER and as they are.
const SIGNATURES: [(&str, &str); 6] = [
    (
        "p256.public",
        "3059301306072a8648ce3d020106082a8648ce3d030107034200 04\
         60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6\
         7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299",
    ),
    (
        "p256.signature",
        "3046 022100 efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716\
         022100 f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8",
    ),
    (
        "p384.public",
        "3076301006072a8648ce3d020106052b81040022036200 04\
         ec3a4e415b4e19a4568618029f427fa5da9a8bc4ae92e02e06aae5286b300c64def8f0ea9055866064a254515480bc13\
         8015d9b72d7d57244ea8ef9ac0c621896708a59367f9dfb9f54ca84b3f1c9db1288b231c3ae0d4fe7344fd2533264720",
    ),
    (
        "p384.signature",
        "3066 023100 94edbb92a5ecb8aad4736e56c691916b3f88140666ce9fa73d64c4ea95ad133c81a648152e44acf96e36dd1e80fabe46\
         023100 99ef4aeb15f178cea1fe40db2603138f130e740a19624526203b6351d0a3a94fa329c145786e679e7b82c71a38628ac8",
    ),
    (
        "ed25519.key",
        "302e020100300506032b657004220420 4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
    ),
    (
        "ed25519.signature",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
         085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
];

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().filter_map(|it| it.to_digit(16)).map(|it| it as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
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
    for (name, hex) in SIGNATURES {
        std::fs::write(dir.join(name), bytes(hex)).unwrap();
    }
    let seconds = if is_long() { 3 } else { 1 };
    let run = work.run(&format!("SECONDS_EACH={seconds}\n{}", include_str!("machine_work/openssl.sh")));
    assert_eq!(run.code, 0, "{}{}", run.out, run.err);
    assert_eq!(run.out.matches("Verified OK").count(), 2 + 2, "{}", run.out);
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
