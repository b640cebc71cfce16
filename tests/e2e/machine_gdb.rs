//! gdb at the processor of a machine on which Debian's kernel runs.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use skep_tests::{TestEnv, can_run};

struct Debugger {
    env: TestEnv,
}

impl Debugger {
    /// A machine that counts, and a debugger for it.
    fn new(image: &str, processors: &str) -> Option<Debugger> {
        if !can_run(&["root", "gdb-multiarch"]) {
            return None;
        }
        let env = TestEnv::with(image);
        let script = "n=0; while :; do n=$((n+1)); echo $n; usleep 20000; done";
        let options = ["run", "-d", "--name", "m", "--net", "none", "--cpus", processors];
        env.skep(options.into_iter().chain([image, "--", "sh", "-c", script])).ok();
        let debugger = Debugger { env };
        debugger.must_count();
        Some(debugger)
    }

    fn counted(&self) -> u64 {
        self.env.skep(["logs", "m"]).out.lines().last().and_then(|it| it.trim().parse().ok()).unwrap_or(0)
    }

    /// The machine goes on.
    #[track_caller]
    fn must_count(&self) {
        let (before, began) = (self.counted(), Instant::now());
        while self.counted() <= before {
            assert!(began.elapsed() < Duration::from_secs(60), "it stands still");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// gdb with these commands, once it is there.
    fn command(&self, commands: &[&str]) -> Command {
        let skep = self.env.command(["debug", "m", "--gdb"]);
        let words: Vec<String> = std::iter::once(skep.get_program())
            .chain(skep.get_args())
            .map(|it| format!("'{}'", it.to_str().unwrap()))
            .collect();
        let mut gdb = Command::new("gdb-multiarch");
        gdb.args(["-nx", "-batch", "-ex", "set pagination off", "-ex", "set confirm off"]);
        gdb.args(["-ex", &format!("target remote | {}", words.join(" "))]);
        for command in commands {
            gdb.args(["-ex", command]);
        }
        for (name, value) in skep.get_envs() {
            match value {
                Some(value) => gdb.env(name, value),
                None => gdb.env_remove(name),
            };
        }
        gdb.current_dir(self.env.scratch());
        gdb
    }

    /// What gdb says to these commands.
    fn gdb(&self, commands: &[&str]) -> String {
        let output = self.command(commands).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }
}

/// The number behind a text.
#[track_caller]
fn number(said: &str, before: &str) -> u64 {
    let rest = said.split(before).nth(1).unwrap_or_else(|| panic!("{before} is not in: {said}"));
    let digits: String = rest.trim_start_matches("0x").chars().take_while(char::is_ascii_hexdigit).collect();
    u64::from_str_radix(&digits, 16).unwrap_or_else(|_| panic!("{before}: {said}"))
}

fn is_debugged(image: &str, instruction: &str) {
    let Some(debugger) = Debugger::new(image, "1") else { return };
    // Registers, memory at the program counter, single steps; then it is left alone and goes on.
    let said = debugger.gdb(&[
        "printf \"at=%lx\\n\", $pc",
        "printf \"word=%x\\n\", *(unsigned int *)$pc",
        "stepi",
        "stepi",
        "printf \"then=%lx\\n\", $pc",
        "printf \"sp=%lx\\n\", $sp",
        "detach",
    ]);
    assert_ne!(number(&said, "at="), number(&said, "then="), "{said}");
    assert_ne!(number(&said, "word="), 0, "{said}");
    assert_ne!(number(&said, "sp="), 0, "{said}");
    debugger.must_count();
    // A register, and memory, written and read again, and put back.
    let said = debugger.gdb(&[
        &format!("set $kept = {instruction}"),
        &format!("set {instruction} = 0x1234567890"),
        &format!("printf \"now=%lx\\n\", {instruction}"),
        &format!("set {instruction} = $kept"),
        "set $word = *(unsigned int *)$pc",
        "set *(unsigned int *)$pc = 0x12345678",
        "printf \"memory=%x\\n\", *(unsigned int *)$pc",
        "set *(unsigned int *)$pc = $word",
        "detach",
    ]);
    assert_eq!(number(&said, "now="), 0x12_3456_7890, "{said}");
    assert_eq!(number(&said, "memory="), 0x1234_5678, "{said}");
    debugger.must_count();
    // A place that it comes by again: where it was when it was interrupted, of the kernel or of the program.
    let said = debugger.gdb(&[
        "set $place = $pc",
        "printf \"place=%lx\\n\", $place",
        "stepi",
        "break *$place",
        "continue",
        "printf \"reached=%lx\\n\", $pc",
        "delete",
        "detach",
    ]);
    assert!(said.contains("Breakpoint 1, "), "{said}");
    assert_eq!(number(&said, "place="), number(&said, "reached="), "{said}");
    debugger.must_count();
    // It runs until a key is pressed.
    let mut gdb = debugger.command(&["continue", "printf \"at=%lx\\n\", $pc", "detach"]);
    let gdb = gdb.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    debugger.must_count();
    let pid = rustix::process::Pid::from_raw(gdb.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let said = String::from_utf8(gdb.wait_with_output().unwrap().stdout).unwrap();
    assert!(said.contains("SIGINT") && number(&said, "at=") != 0, "{said}");
    debugger.must_count();
    // It goes away without a word: the machine does not mind.
    debugger.gdb(&["stepi"]);
    debugger.must_count();
    debugger.env.skep(["rm", "-f", "m"]).ok();
}

/// Each of two processors is a thread; where one stops all do, and each goes on when they are told to.
fn two_are_debugged(image: &str) {
    let Some(debugger) = Debugger::new(image, "2") else { return };
    let said = debugger.gdb(&[
        "info threads",
        "thread 2",
        "printf \"second=%lx\\n\", $pc",
        "stepi",
        "stepi",
        "printf \"then=%lx\\n\", $pc",
        "thread 1",
        "printf \"first=%lx\\n\", $pc",
        "set scheduler-locking on",
        "stepi",
        "stepi",
        "thread 2",
        "printf \"still=%lx\\n\", $pc",
        "detach",
    ]);
    assert!(said.contains("Thread 1.1") && said.contains("Thread 1.2"), "{said}");
    assert_ne!(number(&said, "second="), number(&said, "then="), "{said}");
    assert_ne!(number(&said, "first="), 0, "{said}");
    assert_eq!(number(&said, "then="), number(&said, "still="), "{said}");
    debugger.must_count();
    // A place that the second comes by again, or the first does; then the second alone.
    let said = debugger.gdb(&[
        "thread 2",
        "set $place = $pc",
        "printf \"place=%lx\\n\", $place",
        "stepi",
        "break *$place",
        "continue",
        "printf \"reached=%lx\\n\", $pc",
        "delete",
        "break *$place thread 2",
        "continue",
        "printf \"by=%x at=%lx\\n\", $_thread, $pc",
        "delete",
        "detach",
    ]);
    assert!(said.contains("Breakpoint 1, "), "{said}");
    assert_eq!(number(&said, "place="), number(&said, "reached="), "{said}");
    assert_eq!((number(&said, "by="), number(&said, "place=")), (2, number(&said, " at=")), "{said}");
    debugger.must_count();
    debugger.gdb(&["thread 2", "stepi"]);
    debugger.must_count();
    let both = "for it in 1 2; do taskset $it true || exit; done; nproc";
    assert_eq!(debugger.env.skep(["exec", "m", "sh", "-c", both]).ok(), "2\n");
    debugger.env.skep(["rm", "-f", "m"]).ok();
}

#[test]
fn two_processors_of_riscv_are_debugged() {
    two_are_debugged("deb:busybox-static@trixie/riscv64");
}

#[test]
fn two_processors_of_arm_are_debugged() {
    two_are_debugged("deb:busybox-static/arm64");
}

#[test]
fn a_riscv_machine_is_debugged() {
    is_debugged("deb:busybox-static@trixie/riscv64", "$x31");
}

#[test]
fn an_arm_machine_is_debugged() {
    is_debugged("deb:busybox-static/arm64", "$x28");
}

/// What the machine of a cell says to a debugger's word, by a socket.
pub(super) fn asked(env: &TestEnv, cell: &str, word: &str) -> String {
    let path = env.scratch().join("gdb");
    let mut skep = env.command(["debug", cell, "--gdb", path.to_str().unwrap()]).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    let mut socket = loop {
        match UnixStream::connect(&path) {
            Ok(socket) => break socket,
            Err(_) if began.elapsed() < Duration::from_secs(20) => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => panic!("{error}"),
        }
    };
    assert!(skep.wait().unwrap().success());
    let sum = word.bytes().fold(0u8, u8::wrapping_add);
    write!(socket, "${word}#{sum:02x}").unwrap();
    let mut said = Vec::new();
    while said.iter().rev().nth(2).is_none_or(|it| *it != b'#') {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        said.push(byte[0]);
    }
    String::from_utf8(said).unwrap()
}

#[test]
fn what_has_no_processor_of_its_own_is_refused() {
    if !can_run(&["root"]) {
        return;
    }
    let env = TestEnv::with("deb:busybox-static");
    env.skep(["run", "-d", "--name", "c", "--net", "none", "deb:busybox-static", "--", "busybox", "sleep", "100"]).ok();
    assert!(env.skep(["debug", "c", "--gdb"]).fails(5).contains("on the host's processors"));
    env.skep(["rm", "-f", "c"]).ok();
    let image = "deb:busybox-static@trixie/riscv64";
    env.pull(image);
    env.skep(["create", "--name", "m", "--net", "none", image, "--", "busybox", "sleep", "100"]).ok();
    assert!(env.skep(["debug", "m", "--gdb", "0.0.0.0:1"]).fails(2).contains("no place for a debugger"));
    assert!(env.skep(["debug", "m", "--gdb"]).fails(4).contains("is not running"));
}
