//! Programs of other processors, each in a machine that has one: what a user sees of them is what is seen of a container.

use std::time::{Duration, Instant};

use skep_tests::{Run, TestEnv, can_run, free_port};

const RISCV: &str = "deb:busybox-static@trixie/riscv64";
const ARM: &str = "deb:busybox-static/arm64";

fn env(image: &str) -> Option<TestEnv> {
    can_run(&["root"]).then(|| TestEnv::with(image))
}

fn run(env: &TestEnv, options: &[&str], image: &str, command: &[&str]) -> Run {
    env.skep(["run", "--rm"].iter().chain(options).chain(&[image, "--"]).chain(command))
}

/// Waits until something is so.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_riscv_image_runs_in_a_machine_by_itself() {
    let Some(env) = env(RISCV) else { return };
    let run = run(&env, &["--net", "none"], RISCV, &["uname", "-sm"]);
    assert_eq!((run.code, run.out.as_str()), (0, "Linux riscv64\n"), "{}", run.err);
}

#[test]
fn an_arm_image_runs_in_a_machine_by_itself() {
    let Some(env) = env(ARM) else { return };
    let run = run(&env, &["--as", "machine"], ARM, &["sh", "-c", "uname -m; seq 1 3 | sed s/2/two/; exit 4"]);
    assert_eq!((run.code, run.out.as_str()), (4, "aarch64\n1\ntwo\n3\n"), "{}", run.err);
}

#[test]
fn streams_and_ends_are_the_programs() {
    let Some(env) = env(RISCV) else { return };
    let input: Vec<u8> = (0..60_000u32).flat_map(|it| format!("{it}\n").into_bytes()).collect();
    let script = "echo err >&2; md5sum; echo out; kill -TERM $$";
    let args = ["run", "--rm", "-i", "--net", "none", RISCV, "--", "sh", "-c", script];
    let run = env.skep_fed(&input, args);
    assert_eq!(run.code, 143, "{}", run.err);
    assert_eq!(run.err, "err\n");
    let sum = env.finish_fed(&mut std::process::Command::new("md5sum"), &input).out;
    assert_eq!(run.out, format!("{sum}out\n"));
    let run = self::run(&env, &["--net", "none"], RISCV, &["nosuch"]);
    assert_eq!(run.code, 127, "{}", run.err);
}

#[test]
fn a_machine_has_the_verbs_of_a_container() {
    let Some(env) = env(RISCV) else { return };
    let volume = env.scratch().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let mount = format!("{}:/volume", volume.display());
    let script = "echo started; trap 'echo asked; exit 3' TERM; while :; do sleep 0.1; done";
    let options = ["run", "-d", "--name", "m", "-e", "A=b", "-w", "/tmp", "-v", &mount, "-m", "256m", RISCV];
    env.skep(options.iter().chain(&["--", "sh", "-c", script])).ok();
    let exec = |options: &[&str], script: &str| {
        env.skep(["exec"].iter().chain(options).chain(&["m", "--", "sh", "-c", script])).ok()
    };
    assert_eq!(exec(&[], "echo $A; pwd; hostname; echo x > /volume/x"), "b\n/tmp\nm\n");
    assert_eq!(std::fs::read_to_string(volume.join("x")).unwrap(), "x\n");
    assert_eq!(
        exec(&["-u", "1000:1001"], "id -u; id -g; touch /tmp/own; stat -c %u:%g /tmp/own"),
        "1000\n1001\n1000:1001\n"
    );
    assert_eq!(env.skep(["exec", "m", "--", "sh", "-c", "exit 9"]).code, 9);
    assert_eq!(env.skep_fed(b"typed", ["exec", "-i", "m", "--", "busybox", "cat"]).ok(), "typed");
    let total: u64 = exec(&[], "sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo").trim().parse().unwrap();
    assert!((150_000..256 << 10).contains(&total), "{total}");

    let file = env.scratch().join("file");
    std::fs::write(&file, "from the host").unwrap();
    env.skep(["cp", file.to_str().unwrap(), "m:/root/file"]).ok();
    assert_eq!(exec(&[], "cat /root/file; echo more >> /root/file"), "from the host");
    env.skep(["cp", "m:/root/file", file.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "from the hostmore\n");

    env.skep(["pause", "m"]).ok();
    env.skep(["resume", "m"]).ok();
    assert!(env.skep(["logs", "--kernel", "m"]).ok().contains("Linux"));
    let refused = env.skep(["set", "m", "-m", "128m"]).fails(5);
    assert!(refused.contains("a machine cell cannot"), "{refused}");
    env.skep(["stop", "m"]).ok();
    assert_eq!(env.skep(["logs", "m"]).ok(), "started\nasked\n");
    assert!(env.skep(["why", "m"]).ok().contains("exit code 3"));
    // It starts again, with what it wrote.
    env.skep(["start", "m"]).ok();
    until("it runs again", || {
        env.skep(["exec", "m", "--", "busybox", "cat", "/root/file"]).out == "from the hostmore\n"
    });
    env.skep(["kill", "m"]).ok();
    until("it is gone", || env.skep(["why", "m"]).out.contains("SIGKILL"));
}

/// What eight processes compute at once, each with some more of its own.
const WORK: &str = "cd ${TMPDIR:-/tmp}; for i in 1 2 3 4 5 6 7 8; do
    (for j in 1 2 3 4 5; do echo $i $j | md5sum; done | md5sum > sum$i) &
done; wait; cat sum[1-8] | md5sum";

/// Ten machines in a row that have two processors: each uses both, and computes what is right.
fn ten_with_two_processors(image: &str) {
    let Some(env) = env(image) else { return };
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return;
    }
    let mut shell = std::process::Command::new("sh");
    let expected = env.finish_fed(shell.args(["-c", WORK]).env("TMPDIR", env.scratch()), b"").out;
    let where_it_is = "nproc; for it in 1 2; do taskset $it cut -d ' ' -f 39 /proc/self/stat; done";
    let calls = "awk '/Rescheduling|Function call/ { calls += $2 + $3 } END { print (calls > 0) }' /proc/interrupts";
    let script = format!("{where_it_is}; {WORK}; {calls}");
    for number in 0..10 {
        let run = run(&env, &["--cpus", "2", "--net", "none"], image, &["sh", "-c", &script]);
        assert_eq!((run.code, run.out), (0, format!("2\n0\n1\n{expected}1\n")), "{number}: {}", run.err);
    }
}

/// What the first machine of an image has translated is kept for the next, as long as there is the image.
#[test]
fn what_was_translated_is_kept_as_long_as_the_image() {
    let Some(env) = env(ARM) else { return };
    let kept = || -> u64 {
        let files = std::fs::read_dir(env.home().join("pool/translated")).into_iter().flatten().flatten();
        files.map(|it| it.metadata().unwrap().len()).sum()
    };
    let mut lengths = Vec::new();
    for _ in 0..2 {
        let run = run(&env, &["--net", "none"], ARM, &["sh", "-c", "echo there"]);
        assert_eq!((run.code, run.out.as_str()), (0, "there\n"), "{}", run.err);
        lengths.push(kept());
    }
    let [first, second] = lengths[..] else { unreachable!() };
    assert!(first > 1 << 20, "the first has translated most of its kernel's start: {first} bytes");
    assert!((second - first) * 2 < first, "the second finds most of that: {first} bytes, then {second}");
    assert_eq!(env.skep(["image", "rm", ARM]).code, 0);
    assert_eq!(env.skep(["pool", "gc"]).code, 0);
    assert_eq!(kept(), 0, "nobody needs it any more");
}

#[test]
fn a_riscv_machine_has_two_processors() {
    ten_with_two_processors(RISCV);
}

#[test]
fn an_arm_machine_has_two_processors() {
    ten_with_two_processors(ARM);
}

#[test]
fn a_machine_has_one_processor_unless_told() {
    let Some(env) = env(RISCV) else { return };
    for options in [&["--net", "none"][..], &["--cpus", "0.5", "--net", "none"]] {
        assert_eq!(run(&env, options, RISCV, &["busybox", "nproc"]).ok(), "1\n");
    }
}

#[test]
fn a_machines_port_is_reached() {
    let Some(env) = env(RISCV) else { return };
    let www = env.scratch().join("www");
    std::fs::create_dir(&www).unwrap();
    let content: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(www.join("big"), &content).unwrap();
    let (port, mount) = (free_port(), format!("{}:/www:ro", www.display()));
    let publish = format!("127.0.0.1:{port}:80");
    env.skep([
        "run", "-d", "--name", "w", "-p", &publish, "-v", &mount, RISCV, "--", "busybox", "httpd", "-f", "-h", "/www",
    ])
    .ok();
    let url = format!("http://127.0.0.1:{port}/big");
    let fetch = || std::process::Command::new("curl").args(["-sf", "--max-time", "10", &url]).output().unwrap();
    until("it answers", || fetch().status.success());
    assert_eq!(fetch().stdout, content);
    env.skep(["rm", "-f", "w"]).ok();
}

#[test]
fn a_machine_that_ends_by_itself_is_told_of() {
    let Some(env) = env(RISCV) else { return };
    let run = run(&env, &["--net", "none"], RISCV, &["busybox", "poweroff", "-f"]);
    assert_eq!(run.code, 0, "{}", run.err);
    let crash = "echo c > /proc/sysrq-trigger";
    let run = env.skep(["run", "--name", "c", "--net", "none", RISCV, "--", "sh", "-c", crash]);
    assert_eq!(run.code, 125, "{}", run.err);
    assert!(run.err.contains("its kernel gave up"), "{}", run.err);
    assert!(env.skep(["logs", "--kernel", "c"]).ok().contains("sysrq triggered crash"));
}

#[test]
fn a_machine_goes_with_a_user_namespace() {
    let Some(env) = env(RISCV) else { return };
    let script = "touch /root/x; stat -c %u /root/x; touch /usr/y || exit 5";
    let run = run(&env, &["--userns", "auto", "--net", "none"], RISCV, &["sh", "-c", script]);
    assert_eq!((run.code, run.out.as_str()), (0, "0\n"), "{}", run.err);
}

/// Where the host's processor does not execute a guest's kernel itself, Debian's does not start in any time that somebody waits.
#[test]
fn a_machine_of_the_hosts_own_kind_needs_a_processor_that_runs_its_kernel() {
    let env = TestEnv::with("deb:busybox-static");
    let doctor = env.skep(["doctor"]);
    if doctor.out.lines().any(|line| line.contains("KVM") && line.contains("hardware (")) {
        println!("skipped: needs a host whose KVM is none, or software");
        return;
    }
    for options in [&[][..], &["--arch", model_of_host()]] {
        let args = ["run", "--rm", "--as", "machine"].iter().chain(options);
        let said = env.skep(args.chain(&["deb:busybox-static", "--", "busybox", "true"])).fails(5);
        assert!(said.contains("no machine can have this host's own processor: "), "{said}");
        assert!(said.contains("is emulated by this host's KVM") || said.contains("/dev/kvm: "), "{said}");
        assert!(said.contains("--as container") && said.contains("--as unikernel"), "{said}");
    }
    let disk = env.scratch().join("disk.img");
    std::fs::write(&disk, [0; 4096]).unwrap();
    let said = env.skep(["run", "--rm", "--disk", disk.to_str().unwrap()]).fails(5);
    assert!(said.contains("no machine can have this host's own processor: "), "{said}");
    // What other tests have downloaded is there, too.
    let kernels = std::fs::read_dir(env.home().join("cache/kernels")).into_iter().flatten().flatten();
    let is_for_it = |name: std::ffi::OsString| name.to_string_lossy().starts_with(model_of_host());
    assert!(!kernels.map(|it| it.file_name()).any(is_for_it), "nothing was fetched for it");
}

/// The host's architecture, as images call it.
fn model_of_host() -> &'static str {
    if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }
}

#[test]
fn what_no_machine_can_do_is_refused() {
    let Some(env) = env(RISCV) else { return };
    env.pull("deb:busybox-static");
    let refused = |args: &[&str], code: i32, why: &str| {
        let said = env.skep(["run", "--rm"].iter().chain(args)).fails(code);
        assert!(said.contains(why), "{said}");
    };
    refused(&["--net", "host", RISCV, "--", "busybox", "true"], 2, "a network of its own");
    refused(&["--kernel", "/dev/null", "deb:busybox-static", "--", "busybox", "true"], 2, "has no kernel of its own");
    let file = env.scratch().join("kernel");
    std::fs::write(&file, [0; 100]).unwrap();
    let kernel = file.to_str().unwrap();
    refused(
        &["--kernel", kernel, "--net", "none", RISCV, "--", "busybox", "true"],
        125,
        "this is no kernel for riscv64",
    );
    refused(&["-m", "16m", "--net", "none", RISCV, "--", "busybox", "true"], 125, "give it more with --memory");
}
