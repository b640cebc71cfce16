//! Unikernel cells that are kept and go back, and appliances.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use skep_tests::{TestEnv, can_run, free_port};

const BUSYBOX: &str = "deb:busybox-static";
const PYTHON: &str = "deb:python3";
const REDIS: &str = "deb:redis-server";

fn until(what: &str, happened: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !happened() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Begins a cell with that command.
fn begin(env: &TestEnv, name: &str, image: &str, command: &[&str]) {
    let run = ["run", "-d", "--as", "unikernel", "--network", "none", "--name", name, image, "--"];
    env.skep(run.iter().chain(command)).ok();
}

fn logged(env: &TestEnv, cell: &str) -> String {
    env.skep(["logs", cell]).out
}

#[test]
fn a_redis_goes_back_to_where_it_was_kept() {
    if !can_run(&["root", "kvm"]) {
        return;
    }
    let env = TestEnv::with(REDIS);
    let redis = |args: &[&str]| {
        let begin = ["exec", "r", "redis-cli"];
        env.skep(begin.iter().chain(args)).out.trim().to_owned()
    };
    begin(&env, "r", REDIS, &["redis-server", "--save", "", "--enable-debug-command", "yes"]);
    until("it answers", || redis(&["ping"]) == "PONG");
    redis(&["set", "bee", "honey"]);
    redis(&["debug", "populate", "2000"]);
    assert_eq!(env.skep(["snapshot", "r", "full"]).ok(), "full\n");
    redis(&["set", "bee", "wax"]);
    redis(&["del", "key:7"]);
    assert_eq!(env.skep(["snapshot", "r"]).ok(), "s1\n");
    redis(&["flushall"]);
    // Back, forth and back again, as often as one likes.
    for (name, bee, keys) in [("full", "honey", "2001"), ("s1", "wax", "2000"), ("full", "honey", "2001")] {
        env.skep(["rollback", "r", name]).ok();
        assert_eq!((redis(&["get", "bee"]).as_str(), redis(&["dbsize"]).as_str()), (bee, keys), "{name}");
        redis(&["set", "bee", "none"]);
    }
    // What was kept of what went on from a snapshot is as good.
    redis(&["set", "bee", "second"]);
    env.skep(["snapshot", "r", "deep"]).ok();
    redis(&["set", "bee", "third"]);
    env.skep(["rollback", "r", "deep"]).ok();
    assert_eq!(redis(&["get", "bee"]), "second");

    let listed = env.skep(["snapshot", "ls", "r", "--json"]).json();
    assert_eq!(listed.iter().map(|it| it["name"].as_str().unwrap()).collect::<Vec<_>>(), ["full", "s1", "deep"]);
    assert!(env.skep(["snapshot", "r", "full"]).fails(4).contains("already"));
    env.skep(["snapshot", "rm", "r", "s1"]).ok();
    assert!(env.skep(["rollback", "r", "s1"]).fails(3).contains("no snapshot"));
    env.skep(["rm", "-f", "r"]).ok();
}

#[test]
fn what_cannot_be_kept_is_refused_by_name() {
    if !can_run(&["root", "kvm"]) {
        return;
    }
    let env = TestEnv::with(BUSYBOX);
    let run = |name: &str, boundary: &str, script: &str| {
        let begin = ["run", "-d", "--network", "none", "--as", boundary, "--name", name, BUSYBOX, "--"];
        env.skep(begin.iter().chain(&["busybox", "sh", "-c", script])).ok();
    };
    run("container", "container", "busybox sleep 1000");
    assert!(env.skep(["snapshot", "container"]).fails(5).contains("unikernel"));
    assert!(env.skep(["rollback", "container", "x"]).fails(5).contains("unikernel"));
    run("two", "unikernel", "echo here; busybox sleep 1000; echo not here");
    until("it has a child", || env.skep(["tree", "-p", "two"]).out.contains("└─ 2 "));
    assert!(env.skep(["snapshot", "two"]).fails(5).contains("2 processes"));
    run("fifo", "unikernel", "busybox mkfifo /tmp/f; exec 3<>/tmp/f; echo open; while read a <&3; do :; done");
    until("it has opened it", || logged(&env, "fifo").contains("open"));
    assert!(env.skep(["snapshot", "fifo"]).fails(5).contains("a fifo (/tmp/f)"));
    let process = ["run", "-d", "--network", "none", "--as", "unikernel", "--name", "process", BUSYBOX, "--"];
    let process = process.iter().chain(&["busybox", "sleep", "1000"]);
    env.finish(env.command(process).env("SKEP_ENGINE", "process")).ok();
    assert!(env.skep(["snapshot", "process"]).fails(5).contains("kvm"));
    // None of them has suffered.
    for name in ["container", "two", "fifo", "process"] {
        assert!(env.skep(["why", name]).ok().contains("runs"), "{name}");
        env.skep(["rm", "-f", name]).ok();
    }
}

/// Asks a redis something.
fn ask(port: u16, question: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(format!("{question}\r\n").as_bytes()).ok()?;
    let mut answer = [0; 64];
    let count = stream.read(&mut answer).ok()?;
    String::from_utf8(answer[..count].to_vec()).ok()
}

/// Every file in there, and below.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type().unwrap() {
            it if it.is_dir() => found.extend(files(&entry.path())),
            it if it.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

#[test]
fn an_appliance_goes_on_as_often_as_wanted_and_not_when_a_byte_is_another() {
    if !can_run(&["root", "kvm"]) {
        return;
    }
    let env = TestEnv::with(REDIS);
    let build = ["image", "build", "--as", "unikernel", REDIS, "-t", "app", "--warm-until", "port 6379", "--"];
    env.skep(build.iter().chain(&["redis-server", "--save", "", "--protected-mode", "no"])).ok();
    let ports = [("a", free_port()), ("b", free_port())];
    for (name, port) in ports {
        env.skep(["run", "-d", "--name", name, "-p", &format!("{port}:6379"), "app"]).ok();
    }
    for (name, port) in ports {
        until("it answers", || ask(port, "PING").as_deref() == Some("+PONG\r\n"));
        assert_eq!(ask(port, &format!("SET who {name}")).as_deref(), Some("+OK\r\n"));
    }
    for (name, port) in ports {
        assert_eq!(ask(port, "GET who"), Some(format!("$1\r\n{name}\r\n")));
        // It has begun before it was started: it says so only once, where it was built.
        assert!(!logged(&env, name).contains("Redis is starting"), "{}", logged(&env, name));
        env.skep(["rm", "-f", name]).ok();
    }
    assert!(env.skep(["run", "app", "redis-cli"]).fails(2).contains("appliance"));
    assert!(env.skep(["run", "--as", "container", "app"]).fails(2).contains("appliance"));

    // Where there are no virtual machines, it begins as a program does.
    let cold =
        env.command(["run", "-d", "--name", "cold", "--network", "none", "app"]).env("SKEP_ENGINE", "process").output();
    assert!(cold.unwrap().status.success());
    until("it begins", || logged(&env, "cold").contains("Ready to accept"));
    env.skep(["rm", "-f", "cold"]).ok();

    // The largest file of the pool is its pages.
    let largest =
        files(&env.home().join("pool/objects")).into_iter().max_by_key(|it| std::fs::metadata(it).unwrap().size());
    let file = std::fs::File::options().read(true).write(true).open(largest.unwrap()).unwrap();
    let length = file.metadata().unwrap().len();
    for place in [0, length / 2, length - 1] {
        let mut byte = [0];
        file.read_exact_at(&mut byte, place).unwrap();
        file.write_all_at(&[byte[0] ^ 0x40], place).unwrap();
        assert!(env.skep(["run", "--rm", "--network", "none", "app"]).fails(125).contains("changed"), "{place}");
        file.write_all_at(&byte, place).unwrap();
    }
    env.skep(["run", "-d", "--network", "none", "--name", "whole", "app"]).ok();
    env.skep(["rm", "-f", "whole"]).ok();
}

/// What it does after it was kept, it says.
const SEALED: &str = r#"
import mmap, os, time
print("warm", flush=True)
time.sleep(1)
def attempt(what, act):
    try:
        act()
        print(what, "done")
    except OSError as error:
        print(what, os.strerror(error.errno))
attempt("code", lambda: mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_EXEC))
attempt("data", lambda: mmap.mmap(-1, 4096))
attempt("link", lambda: os.link("/bin/true", "/tmp/bee"))
attempt("rmdir", lambda: os.rmdir("/wax"))
attempt("fork", os.fork)
attempt("exec", lambda: os.execv("/bin/true", ["true"]))
print("random", os.urandom(8).hex())
print("clock", time.monotonic() > 0)
"#;

#[test]
fn a_sealed_appliance_does_what_it_was_seen_to_do_and_what_was_declared() {
    if !can_run(&["root", "kvm"]) {
        return;
    }
    let env = TestEnv::with(PYTHON);
    let build = |name: &str, options: &[&str]| {
        let begin = ["image", "build", "--as", "unikernel", "-t", name, "--warm-until", "log warm"];
        env.skep(begin.iter().chain(options).chain(&[PYTHON, "--", "python3", "-c", SEALED])).ok();
    };
    build("sealed", &[]);
    let mut random = Vec::new();
    for name in ["one", "two"] {
        env.skep(["run", "--network", "none", "--name", name, "sealed"]).ok();
        let said = logged(&env, name);
        for line in ["code Operation not permitted", "data done", "rmdir Operation not permitted"] {
            assert!(said.lines().any(|it| it == line), "{line}: {said}");
        }
        for line in ["fork Operation not permitted", "exec Operation not permitted", "clock True"] {
            assert!(said.lines().any(|it| it == line), "{line}: {said}");
        }
        random.push(said.lines().find(|it| it.starts_with("random")).unwrap().to_owned());
        let why = env.skep(["why", name]).ok();
        for call in ["rmdir", "fork", "mmap", "execve"] {
            assert!(why.contains(&format!("seal does not name: {call} (")), "{call}: {why}");
        }
    }
    assert_ne!(random[0], random[1], "randomness is fresh");

    build("loose", &["--allow", "rmdir", "--jit"]);
    // Its last attempt, at being another program, may be its end.
    let _ = env.skep(["run", "--network", "none", "--name", "three", "loose"]);
    let said = logged(&env, "three");
    for line in ["code done", "rmdir No such file or directory", "link Operation not permitted"] {
        assert!(said.lines().any(|it| it == line), "{line}: {said}");
    }
    let wrong = ["image", "build", "--as", "unikernel", "-t", "x", "--allow", "fly", PYTHON, "--", "python3"];
    assert!(env.skep(wrong).fails(1).contains("'fly'"));
    let container = ["image", "build", "--as", "container", "-t", "x", PYTHON];
    assert!(env.skep(container).fails(5).contains("unikernel"));
}

#[test]
fn an_appliance_is_made_again_from_where_it_was_kept() {
    const COUNT: &str =
        "import itertools, time\nfor it in itertools.count():\n  print(it, flush=True)\n  time.sleep(0.05)";
    if !can_run(&["root", "kvm"]) {
        return;
    }
    let env = TestEnv::with(PYTHON);
    let build = ["image", "build", "--as", "unikernel", "-t", "counter", "--warm-until", "log 3"];
    env.skep(build.iter().chain(&[PYTHON, "--", "python3", "-c", COUNT])).ok();
    env.skep(["run", "-d", "--network", "none", "--name", "c", "counter"]).ok();
    let first = |cell: &str| logged(&env, cell).lines().next().and_then(|it| it.parse::<u32>().ok());
    until("it counts", || logged(&env, "c").lines().count() > 10);
    assert_eq!(env.skep(["fork", "c", "--anew", "-n", "3"]).ok(), "c-1\nc-2\nc-3\n");
    env.skep(["fork", "c", "--name", "late"]).ok();
    for cell in ["c-1", "c-2", "c-3", "late-1"] {
        until("it counts", || logged(&env, cell).lines().count() > 3);
    }
    let begun = first("c").unwrap();
    assert!((3..10).contains(&begun), "{begun}");
    for cell in ["c-1", "c-2", "c-3"] {
        assert_eq!(first(cell), Some(begun), "{cell}");
    }
    assert!(first("late-1").unwrap() >= begun + 10);
    // A cell that began with a program was never kept.
    begin(&env, "p", PYTHON, &["python3", "-c", COUNT]);
    until("it counts", || logged(&env, "p").lines().count() > 3);
    env.skep(["fork", "p", "--anew"]).fails(1);
    env.skep(["rm", "-f", "c", "p"]).ok();
}

/// What it has open before it is kept, it looks at afterwards.
const HOLDER: &str = r#"
import os, select, socket, threading, time
reader, writer = os.pipe()
os.write(writer, b"honey")
left, right = socket.socketpair()
left.send(b"to the right")
right.send(b"to the left")
alone, gone = os.pipe()
os.write(gone, b"last words")
os.close(gone)
count = os.eventfd(7, os.EFD_NONBLOCK)
listener = socket.create_server(("127.0.0.1", 4711))
client = socket.create_connection(("127.0.0.1", 4711))
file = os.open("/tmp/file", os.O_RDWR | os.O_CREAT)
os.write(file, b"0123456789")
os.lseek(file, 3, os.SEEK_SET)
again = os.dup(file)
nameless = os.open("/tmp/nameless", os.O_RDWR | os.O_CREAT)
os.unlink("/tmp/nameless")
os.write(nameless, b"nameless")
epoll = select.epoll()
epoll.register(reader, select.EPOLLIN)
epoll.register(writer, 0)
os.chdir("/usr/lib")
os.umask(0o27)
lock, told = threading.Lock(), []
lock.acquire()
def other():
    with lock:
        told.append("other thread")
thread = threading.Thread(target=other)
thread.start()
begun = time.monotonic()
print("warm", flush=True)
time.sleep(1)
print(os.read(reader, 10), right.recv(20), left.recv(20), os.read(alone, 20), os.read(alone, 20))
print(os.eventfd_read(count), os.read(file, 2), os.read(again, 2), os.pread(nameless, 20, 0))
print(epoll.poll(0), os.getcwd(), oct(os.umask(0)), listener.getsockname())
print(client.recv(10), os.get_inheritable(reader), os.getpid(), time.monotonic() > begun)
os.write(writer, b"x")
print([it[1] for it in epoll.poll(0)])
lock.release()
thread.join()
print(told)
"#;

#[test]
fn what_a_process_has_open_is_there_again() {
    if !can_run(&["root", "kvm"]) {
        return;
    }
    let env = TestEnv::with(PYTHON);
    let begin = ["image", "build", "--as", "unikernel", "-t", "holder", "--warm-until", "log warm"];
    env.skep(begin.iter().chain(&[PYTHON, "--", "python3", "-c", HOLDER])).ok();
    let expected = "\
b'honey' b'to the right' b'to the left' b'last words' b''
7 b'34' b'56' b'nameless'
[] /usr/lib 0o27 ('127.0.0.1', 4711)
b'' False 1 True
[1]
['other thread']
";
    for name in ["first", "second"] {
        let run = env.skep(["run", "--network", "none", "--name", name, "holder"]);
        assert_eq!((run.out.as_str(), run.err.as_str()), (expected, ""), "{name}");
    }
}

#[test]
fn a_snapshot_that_is_wrong_is_the_end_of_its_cell_alone() {
    if !can_run(&["root", "kvm"]) {
        return;
    }
    let env = TestEnv::with(BUSYBOX);
    let count = "i=0; while :; do i=$((i+1)); [ $((i % 50000)) = 0 ] && echo $i; done";
    begin(&env, "c", BUSYBOX, &["busybox", "sh", "-c", count]);
    until("it counts", || !logged(&env, "c").is_empty());
    env.skep(["snapshot", "c", "sound"]).ok();
    let state = files(&env.home().join("cells")).into_iter().find(|it| it.ends_with("sound/state")).unwrap();
    let text = std::fs::read_to_string(&state).unwrap();
    let sound: serde_json::Value = serde_json::from_str(&text).unwrap();
    let changed = |change: fn(&mut serde_json::Value)| {
        let mut state = sound.clone();
        change(&mut state);
        state.to_string()
    };
    let wrong = [
        ("", "does not read"),
        (&text[..text.len() / 2], "does not read"),
        (&changed(|it| it["version"] = 7.into()), "another version"),
        (&changed(|it| it["processor"] = "another".into()), "another kind of processor"),
        (&changed(|it| it["memory"][0]["length"] = 4096.into()), "of no size that there is"),
        (&changed(|it| it["memory"][0]["parts"][0][2] = (1u64 << 40).into()), "leads nowhere"),
        (&changed(|it| it["process"]["descriptors"][0][1] = 99.into()), "lead nowhere"),
        (&changed(|it| it["length"] = 4096.into()), "leads nowhere"),
        (&changed(|it| it["digest"] = "0".into()), "changed since"),
        // It is sound as far as one can see, and its guest does not come far.
        (&changed(|it| it["general"][16] = 0.into()), ""),
        (&changed(|it| it["general"][16] = (u64::MAX / 3).into()), ""),
        (&changed(|it| it["layout"] = serde_json::json!([4096, 0, 0, 0, 0])), ""),
    ];
    for (text, said) in wrong {
        std::fs::write(&state, text).unwrap();
        let run = env.skep(["rollback", "c", "sound"]);
        assert!(said.is_empty() || run.code == 1, "{said}: {run:?}");
        if said.is_empty() {
            // Whatever it does is its own affair: it may go round and round, and can be ended.
            let _ = env.skep(["kill", "c"]);
        }
        until("it has ended", || !env.skep(["ps", "-q"]).out.lines().any(|_| true));
        let log = env.skep(["logs", "c"]).err;
        assert!(log.contains(said), "{said}: {log}");
        env.skep(["start", "c"]).ok();
    }
    std::fs::write(&state, &text).unwrap();
    env.skep(["rollback", "c", "sound"]).ok();
    env.skep(["rm", "-f", "c"]).ok();
}
