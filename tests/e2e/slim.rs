//! Slim images: watched, cut, proved, explained, and whole again when something was missed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use skep_tests::{TestEnv, can_run, free_port};

const NGINX: &str = "deb:nginx-light";
const PYTHON: &str = "deb:python3,sed";

/// The names of all images.
fn images(env: &TestEnv) -> String {
    env.skep(["image", "ls", "--json"]).json().iter().map(|it| it["name"].to_string()).collect::<Vec<_>>().join(" ")
}

fn workload(env: &TestEnv, text: &str) -> String {
    let path = env.scratch().join("workload.toml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn explain(env: &TestEnv, image: &str, path: &str) -> String {
    env.skep(["image", "slim", image, "--explain", path]).ok()
}

fn report(env: &TestEnv, image: &str) -> Value {
    env.skep(["image", "slim", image, "--json"]).json().remove(0)
}

/// What a program in an image prints.
fn run(env: &TestEnv, options: &[&str], image: &str, script: &str) -> skep_tests::Run {
    let (run, program) = (["run", "--rm", "--net", "none"], [image, "--", "python3", "-c", script]);
    env.skep(run.iter().chain(options).chain(&program))
}

fn get(port: u16, path: &str) -> String {
    let url = format!("http://127.0.0.1:{port}{path}");
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--retry", "20", "--retry-connrefused", "--retry-delay", "0"]);
    let output = command.args(["--write-out", " %{http_code}", &url]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_web_server_is_slimmed_and_serves() {
    if !can_run(&["root", "curl"]) {
        return;
    }
    let env = TestEnv::with(NGINX);
    let said = env.skep(["image", "slim", NGINX, "--http", "/", "--tag", "nginx-slim"]).ok();
    assert!(said.contains("% removed") && said.contains("proved with"), "{said}");
    assert!(images(&env).contains("nginx-slim"));
    assert_eq!(env.skep(["ps", "-aq"]).ok(), "", "no cell of the watching stays");
    let port = free_port();
    let publish = format!("127.0.0.1:{port}:80");
    env.skep(["run", "-d", "--name", "web", "-p", &publish, "nginx-slim"]).ok();
    let page = get(port, "/");
    assert!(page.contains("nginx") && page.ends_with(" 200"), "{page}");
    assert!(get(port, "/nothing").ends_with(" 404"));

    let of = |path: &str| explain(&env, "nginx-slim", path);
    assert!(of("/usr/sbin/nginx").contains("it was executed"));
    assert!(of("/lib64/ld-linux-x86-64.so.2").contains("it was executed"), "through the link /lib64");
    assert!(of("/etc/passwd").contains("it was opened"));
    assert!(of("/usr/lib/x86_64-linux-gnu/libnss_dns.so.2").contains("looks names up for"));
    assert!(of("/usr/share/doc/nginx/copyright").contains("removed"));
    env.skep(["image", "slim", "nginx-slim", "--explain", "/no/such/file"]).fails(3);
    env.skep(["image", "slim", "nginx-slim"]).fails(2);
}

/// What is seen, what is concluded and what is missed, by programs that make it hard.
#[test]
fn what_is_hard_to_see_is_kept() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(PYTHON);
    // A child that executes something else; a library whose name is put together; a file that only an error opens.
    let text = r#"
        patience = "10s"
        [[step]]
        exec = ["python3", "-c", "import os; os.fork() or os.execv('/bin/sed', ['sed', '--version']); os.wait()"]
        expect = "GNU sed"
        [[step]]
        exec = ["python3", "-c", "import ctypes; print(ctypes.CDLL('lib' + 'expat'[:5] + '.so.1').XML_ExpatVersion)"]
        [[unseen]]
        exec = ["python3", "-c", "import sys; sys.stdout.write(open('/usr/share/python3/debian_defaults').read())"]
        expect = "[DEFAULT]"
        "#;
    let file = workload(&env, text);
    env.skep(["image", "slim", PYTHON, "--workload", &file, "--tag", "slim"]).ok();
    assert!(explain(&env, "slim", "/bin/sed").contains("it was executed"));
    assert!(explain(&env, "slim", "/usr/lib/x86_64-linux-gnu/libexpat.so.1").contains("it was opened"));
    let missed = explain(&env, "slim", "/usr/share/python3/debian_defaults");
    assert!(missed.contains("missed on the slim image (the unseen workload)"), "{missed}");
    let report = report(&env, "slim");
    assert_eq!(report["rounds"].as_array().unwrap().len(), 2, "{}", report["rounds"]);
    for call in ["execve", "clone", "openat"] {
        assert!(report["calls"].as_array().unwrap().contains(&call.into()), "{call}");
    }
}

#[test]
fn a_workload_that_fails_leaves_no_image() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(PYTHON);
    let before = images(&env);
    let slim = |text: &str| {
        let file = workload(&env, text);
        env.skep(["image", "slim", PYTHON, "--workload", &file, "--tag", "slim"])
    };
    let error = slim("patience = '1s'\n[[step]]\nexec = ['python3', '-c', 'raise SystemExit(3)']").fails(1);
    assert!(error.contains("fails on the original image") && error.contains("exit code 3"), "{error}");
    // What it looks at is the number of a directory's links: neither a look-up nor a listing tells what is missing.
    let counting = "import os; raise SystemExit(os.stat('/usr/share/doc').st_nlink < 5)";
    let error = slim(&format!("patience = '1s'\n[[step]]\nexec = ['python3', '-c', \"{counting}\"]")).fails(1);
    assert!(error.contains("fails on the slim image"), "{error}");
    assert!(slim("[[step]]\nhttp = '/'\nbogus = 1").fails(2).contains("bogus"));
    assert_eq!((images(&env), env.skep(["ps", "-aq"]).ok()), (before, String::new()));
    // What does not end is ended.
    for command in ["", "command = ['python3', '-c', 'import time; time.sleep(600)']\n"] {
        let text = format!("{command}limit = '1s'\n[[step]]\nexec = ['python3', '-c', 'import time; time.sleep(600)']");
        let error = slim(&text).fails(1);
        assert!(error.contains("it has not ended after 1 s"), "{error}");
        assert_eq!(env.skep(["ps", "-aq"]).ok(), "");
    }
    // Two at once are not in each other's way.
    let args = ["image", "slim", PYTHON, "--exec", "python3 -c 1", "--tag", "both"];
    let two = [env.spawn(args), env.spawn(args)].map(|it| it.wait_with_output().unwrap());
    for output in two {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    env.skep(["image", "rm", "both"]).ok();
    // With what it counts it goes well.
    let file = workload(&env, &format!("[[step]]\nexec = ['python3', '-c', \"{counting}\"]"));
    env.skep(["image", "slim", PYTHON, "--workload", &file, "--keep", "/usr/share/doc", "--tag", "slim"]).ok();
    assert!(explain(&env, "slim", "/usr/share/doc/libc6").contains("--keep /usr/share/doc asks for it"));
}

#[test]
fn what_is_missed_later_is_put_back_and_named() {
    if !can_run(&["root"]) {
        return;
    }
    const LATER: &str = "print(open('/usr/share/python3/debian_defaults').read()[:9])";
    let env = TestEnv::with(PYTHON);
    env.skep(["image", "slim", PYTHON, "--exec", "python3 -c 'print(6*7)'", "--tag", "slim"]).ok();
    assert!(run(&env, &[], "slim", LATER).fails(1).contains("No such file"));
    // Nothing of the original need be there any more.
    env.skep(["image", "rm", PYTHON]).ok();
    env.skep(["pool", "gc"]).ok();
    let restoring =
        ["run", "--name", "later", "--net", "none", "--restore-misses", "slim", "--", "python3", "-c", LATER];
    assert_eq!(env.skep(restoring).ok(), "[DEFAULT]\n");
    let why = env.skep(["why", "later"]).ok();
    assert!(why.contains("missed: /usr/share/python3/debian_defaults") && why.contains("put back"), "{why}");
    assert!(env.skep(["events", "--since", "1h"]).out.contains("missed"));
    // A module that needs a directory, and a program by a path through links.
    let nested = "print(len(open('/usr/lib/python3.11/xmlrpc/client.py').read()) > 100)";
    assert_eq!(run(&env, &["--restore-misses"], "slim", nested).ok(), "True\n");
    let sed = ["run", "--rm", "--net", "none", "--restore-misses", "slim", "--", "sed", "--version"];
    assert!(env.skep(sed).ok().contains("GNU sed"));
    // What the program removes stays removed.
    let removing = "import os; p='/usr/share/python3/debian_defaults'; open(p); os.remove(p); print(os.path.exists(p))";
    assert_eq!(run(&env, &["--restore-misses"], "slim", removing).ok(), "False\n");
    env.pull("deb:busybox-static");
    let refused = ["run", "--restore-misses", "deb:busybox-static", "--", "busybox", "true"];
    assert!(env.skep(refused).fails(2).contains("no slim image"));
}

/// A program that looks at what a directory holds looks nothing up.
#[test]
fn what_a_listing_lacks_is_found_and_put_back() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(PYTHON);
    let counts = |dir: &str, least: u32| format!("import os; raise SystemExit(len(os.listdir('{dir}')) < {least})");
    // What the proof needs of a listing is added; what it does without is told.
    let file = workload(
        &env,
        &format!(
            "patience = '1s'\n[[step]]\nexec = ['python3', '-c', \"{}\"]\n[[step]]\nexec = ['python3', '-c', \"{}\"]",
            counts("/usr/share/doc", 5),
            counts("/usr/share", 0)
        ),
    );
    env.skep(["image", "slim", PYTHON, "--workload", &file, "--tag", "grown"]).ok();
    let why = explain(&env, "grown", "/usr/share/doc/libc6");
    assert!(why.contains("missed on the slim image (a listing of /usr/share/doc)"), "{why}");
    let keep = ["--keep", "/usr/share/doc/sed/copyright", "--tag", "slim"];
    let said = env.skep(["image", "slim", PYTHON, "--exec", "python3 -c 'print(6*7)'"].iter().chain(&keep)).ok();
    assert!(said.contains("listed, though less is there") && said.contains(" /usr/lib/python3.11"), "{said}");

    let listing =
        "import os; print(len(os.listdir('/usr/share/doc')) > 5, os.path.isfile('/usr/share/doc/libc6/copyright'))";
    let cell = |name: &str, option: &str| {
        let run = ["run", "--name", name, "--net", "none", option, "slim", "--", "python3", "-c", listing];
        (env.skep(run).ok(), env.skep(["why", name]).ok())
    };
    let (printed, why) = cell("noted", "--pull=missing");
    assert_eq!(printed, "False False\n");
    assert!(why.contains(" entries of /usr/share/doc, which was listed (slimming took it away; 'skep run"), "{why}");
    assert!(why.contains("missed: /usr/share/doc/libc6/copyright ("), "{why}");
    assert!(!why.contains("/usr/lib/python3.11,"), "the image was proved with that listing: {why}");
    let (printed, why) = cell("restored", "--restore-misses");
    assert_eq!(printed, "True True\n");
    assert!(
        why.contains(" entries of /usr/share/doc, which was listed (slimming took it away; it was put back)"),
        "{why}"
    );
    let restored = why;
    let (printed, why) = cell("ignored", "--ignore-misses");
    assert_eq!((printed.as_str(), why.contains("missed")), ("False False\n", false), "{why}");
    let events = env.skep(["events", "--since", "1h"]).out;
    assert!(events.contains("noted missed: /usr/share/doc/libc6/copyright\n"), "{events}");
    // Again, there is nothing that is missed any more.
    assert_eq!(env.skep(["start", "--attach", "restored"]).ok(), "True True\n");
    let count = |text: &str| text.matches("missed: ").count();
    assert_eq!(count(&env.skep(["why", "restored"]).ok()), count(&restored));
    // What a volume hides of the original is not missed, and nothing is put into it.
    let volume = env.scratch().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let mount = format!("{}:/usr/share/doc", volume.display());
    let run = ["run", "--name", "hidden", "--net", "none", "--restore-misses", "-v", &mount, "slim", "--"];
    assert_eq!(env.skep(run.iter().chain(&["python3", "-c", listing])).ok(), "False False\n");
    assert_eq!(std::fs::read_dir(&volume).unwrap().count(), 0);
    let why = env.skep(["why", "hidden"]).ok();
    assert!(!why.contains("missed: /usr/share/doc") && !why.contains("of /usr/share/doc, which"), "{why}");
}

/// The profile is enough for another runtime, too, and no wider than it says.
#[test]
fn the_profile_lets_the_program_run_under_runc() {
    if !can_run(&["root", "runc", "umoci"]) {
        return;
    }
    let env = TestEnv::with(PYTHON);
    let args = ["image", "slim", PYTHON, "--exec", "python3 -c 'print(6*7)'", "--tag", "slim", "--report", "report"];
    env.skep(args).ok();
    env.skep(["image", "export", "slim", "oci:layout:slim"]).ok();
    let dir = env.scratch();
    let umoci = Command::new("umoci").args(["unpack", "--image", "layout:slim", "bundle"]).current_dir(&dir).output();
    assert!(umoci.unwrap().status.success());
    let profile: Value = serde_json::from_slice(&std::fs::read(dir.join("report/seccomp.json")).unwrap()).unwrap();
    let bundle = dir.join("bundle");
    let under_profile = |script: &str| {
        let path = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["process"]["args"] = serde_json::json!(["python3", "-c", script]);
        config["process"]["terminal"] = false.into();
        config["process"]["rlimits"] = serde_json::json!([]);
        config["linux"]["seccomp"] = profile.clone();
        std::fs::write(&path, config.to_string()).unwrap();
        let name = format!("skep-slim-{}", std::process::id());
        let root = dir.join("runc");
        Command::new("runc").arg("--root").arg(root).args(["run", "--bundle"]).arg(&bundle).arg(name).output().unwrap()
    };
    let output = under_profile("print(6*7)");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "42\n", "{}", String::from_utf8_lossy(&output.stderr));
    let output = under_profile("import os; os.sync(); os.setpriority(0, 0, 5)");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("PermissionError"),
        "a call that was never made is refused"
    );
}

/// However a slimming is ended, its cells end.
#[test]
fn a_slimming_that_is_killed_leaves_nothing_that_stays() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(PYTHON);
    for signal in [Signal::INT, Signal::KILL] {
        let mut child = env.spawn(["image", "slim", PYTHON, "--exec", "python3 -c 'import time; time.sleep(600)'"]);
        while env.skep(["ps", "-q", "--filter", "state=running"]).ok().is_empty() {
            assert!(child.try_wait().unwrap().is_none(), "it ended before its cell ran");
            std::thread::sleep(Duration::from_millis(20));
        }
        kill_process(Pid::from_child(&child), signal).unwrap();
        child.wait().unwrap();
        let ends = std::time::Instant::now() + Duration::from_secs(60);
        while !env.skep(["ps", "-aq"]).ok().is_empty() {
            assert!(std::time::Instant::now() < ends, "its cells run on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert!(!images(&env).contains("slim"));
    env.skep(["image", "slim", PYTHON, "--exec", "python3 -c 1", "--tag", "slim"]).ok();
    assert_eq!(env.skep(["ps", "-aq"]).ok(), "");
    env.skep(["pool", "fsck"]).ok();
}

/// Nobody answers for a while, and so many open a file of the cell meanwhile that the kernel's queue of openings runs over.
#[test]
fn a_queue_of_openings_that_runs_over_fails_the_slimming() {
    if let Some(place) = std::env::var_os(FLOODED) {
        return flood(Path::new(&place));
    }
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with(PYTHON);
    let waits = "import os, time; [os.path.exists('/var/go') or time.sleep(0.1) for _ in range(100)]";
    let service = "python3 -c 'import time; time.sleep(600)'";
    let text = format!("command = \"{service}\"\n[[step]]\nexec = ['python3', '-c', \"{waits}\"]");
    let slim = ["image", "slim", PYTHON, "--tag", "slim", "--workload", &workload(&env, &text)].map(str::to_owned);
    let mut slimming = env.command(&slim).stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    let running = || env.skep(["ps", "-q", "--filter", "state=running"]).ok();
    let cell = loop {
        match running() {
            none if none.is_empty() => std::thread::sleep(Duration::from_millis(20)),
            one => break one.trim().to_owned(),
        }
        assert!(slimming.try_wait().unwrap().is_none(), "it ended before its cell ran");
    };
    let inspected: Value = serde_json::from_str(&env.skep(["inspect", &cell]).ok()).unwrap();
    let process = |which: &str| i32::try_from(inspected[0]["record"][which]["pid"].as_i64().unwrap()).unwrap();
    let root = format!("/proc/{}/root", process("process"));
    let stopped = Stopped::new(Pid::from_raw(process("supervisor")).unwrap());
    // One process cannot have that many threads.
    let flood = || {
        let mut test = Command::new(std::env::current_exe().unwrap());
        test.args(["--exact", "slim::a_queue_of_openings_that_runs_over_fails_the_slimming"]).env(FLOODED, &root);
        test.stdout(Stdio::null()).spawn().unwrap()
    };
    let mut flooding = [flood(), flood()];
    while flooding.iter_mut().all(|it| it.try_wait().unwrap().is_none()) {
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(stopped);
    std::fs::write(format!("{root}/var/go"), "").unwrap();
    let output = slimming.wait_with_output().unwrap();
    for mut it in flooding {
        let _ = it.kill();
        it.wait().unwrap();
    }
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("the observation is not complete: the kernel's queue of openings ran over"), "{said}");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!images(&env).contains("slim"));
    assert_eq!(env.skep(["ps", "-aq"]).ok(), "");
}

/// Where a process of the test above opens files until one of them is not held back.
const FLOODED: &str = "SKEP_TEST_FLOODED";

fn flood(place: &Path) {
    let limit = std::fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let (opened, first) = std::sync::mpsc::channel();
    for _ in 0..=limit / 2 {
        let (place, opened) = (place.to_owned(), opened.clone());
        let open = move || {
            // Nobody listens after the first.
            let _ = opened.send(std::fs::File::open(place).is_ok());
        };
        std::thread::Builder::new().stack_size(16 << 10).spawn(open).unwrap();
    }
    std::process::exit(i32::from(!first.recv().unwrap()));
}

/// A process that stands still.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: Pid) -> Self {
        kill_process(pid, Signal::STOP).unwrap();
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}
