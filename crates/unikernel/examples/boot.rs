//! Measures how long a family takes to begin another cell from the snapshot that it went on from: from the order to the
//! first byte that the cell prints. `boot PROGRAM COUNT`: the program prints a line and then, forever, sleeps for some
//! milliseconds and prints another. Prints microseconds, one line each,
//! and then what a process that was made ahead takes, in KiB.

#![expect(clippy::print_stdout, clippy::expect_used, clippy::unwrap_used, reason = "a tool for measuring")]

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use unikernel::control::{Line, Order, Word};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[1..] {
        ["tender", socket, program] => tend(Path::new(socket), program, None),
        ["tender", socket, program, dir] => tend(Path::new(socket), program, Some(Path::new(dir))),
        [program, count] => measure(program, count.parse().expect("a count")),
        _ => println!("boot PROGRAM COUNT"),
    }
}

/// Is a tender.
fn tend(socket: &Path, program: &str, snapshot: Option<&Path>) {
    let copy = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().expect("a standard stream is open");
    let open = |dir: &Path, name: &str| OwnedFd::from(File::open(dir.join(name)).expect("the snapshot is there"));
    let guest = unikernel::Guest {
        command: unikernel::Command {
            path: program.into(),
            arguments: vec![program.to_owned()],
            environment: Vec::new(),
            directory: "/".into(),
            user: 0,
            group: 0,
            groups: Vec::new(),
        },
        snapshot: snapshot.map(|dir| unikernel::Snapshot {
            state: open(dir, "state"),
            bytes: open(dir, "bytes"),
            digest: None,
        }),
        seal: None,
        visibility: unikernel::Visibility::Root,
        stack: unikernel::Stack::Host,
        ipc: unikernel::Ipc::Private,
        patched: Vec::new(),
        control: Some(Line::listen(socket).expect("a socket")),
        streams: [copy(std::io::stdin().as_fd()), copy(std::io::stdout().as_fd()), copy(std::io::stderr().as_fd())],
        open_files: 1024,
        engine: unikernel::Engine::Kvm(unikernel::Machines::begin(
            unikernel::open_kvm().expect("there is /dev/kvm"),
            if snapshot.is_some() { unikernel::Beginning::Snapshot } else { unikernel::Beginning::Program },
        )),
    };
    unikernel::run(guest).expect("the tender runs");
}

/// A tender, which has said its first word.
fn start(arguments: &[&Path]) -> Child {
    let own = std::env::current_exe().unwrap();
    let mut child = Command::new(own)
        .arg("tender")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a tender");
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).expect("it begins");
    child
}

/// What a process takes that was made ahead and that nobody wanted: two of them are there now, and soon none.
fn idle_kib(tender: u32) -> f64 {
    let proportional = || {
        let text = std::fs::read_to_string(format!("/proc/{tender}/smaps_rollup")).unwrap();
        let line = text.lines().find_map(|it| it.strip_prefix("Pss:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap()
    };
    std::thread::sleep(Duration::from_secs(1));
    let with = proportional();
    std::thread::sleep(Duration::from_secs(7));
    (with - proportional()) / 2.0
}

fn measure(program: &str, count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let (socket, program) = (dir.path().join("socket"), Path::new(program));
    let mut first = start(&[&socket, program]);
    let make = |name: &str| {
        File::options().read(true).write(true).create(true).truncate(true).open(dir.path().join(name)).unwrap()
    };
    let (state, bytes) = (make("state"), make("bytes"));
    // It sleeps, and not for the first time.
    std::thread::sleep(Duration::from_millis(50));
    let line = Line::connect(&socket).unwrap();
    line.ask(Order::Keep { cell: 1 }, &[state.as_fd(), bytes.as_fd()]).unwrap();
    assert_eq!(line.hear().unwrap(), Some(Word::Kept), "it is kept");
    first.kill().unwrap();
    first.wait().unwrap();
    // By then whatever it waited for is there.
    std::thread::sleep(Duration::from_millis(50));
    let mut second = start(&[&socket, program, dir.path()]);
    for _ in 0..count {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let null = File::open("/dev/null").unwrap();
        let line = Line::connect(&socket).unwrap();
        let begun = Instant::now();
        line.ask(Order::Another, &[null.as_fd(), writer.as_fd(), writer.as_fd()]).unwrap();
        drop(writer);
        reader.read_exact(&mut [0]).expect("it prints");
        println!("{:.1}", begun.elapsed().as_secs_f64() * 1e6);
        drop(line);
        // The pool is ready again.
        std::thread::sleep(Duration::from_millis(30));
    }
    println!("{}", idle_kib(second.id()));
    second.kill().unwrap();
    second.wait().unwrap();
}
