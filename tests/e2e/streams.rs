//! Standard streams: pipes, terminals, logs, attach.

use std::io::{Read, Write};

use skep_tests::{TestEnv, can_run};

const BUSYBOX: &str = "deb:busybox-static";

fn env() -> Option<TestEnv> {
    can_run(&["root"]).then(|| TestEnv::with(BUSYBOX))
}

#[test]
fn much_goes_through_in_order_and_both_streams_stay_apart() {
    let Some(env) = env() else { return };
    let input: Vec<u8> = (0..300_000u32).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    let run = env.skep_fed(&input, ["run", "--rm", "-i", "--net", "none", BUSYBOX, "--", "busybox", "cat"]);
    assert!(run.clone().ok().into_bytes() == input, "{} of {} bytes came back", run.out.len(), input.len());
    let script = "echo out; echo err >&2";
    let run = env.skep(["run", "--rm", "--net", "none", BUSYBOX, "--", "busybox", "sh", "-c", script]);
    assert_eq!((run.out.as_str(), run.err.as_str()), ("out\n", "err\n"));
    let run = env.skep(["run", "--rm", "--net", "none", BUSYBOX, "--", "busybox", "cat"]);
    assert_eq!((run.code, run.out.as_str()), (0, ""), "without -i standard input is empty");
}

#[test]
fn input_that_ends_before_the_program_begins_reaches_it() {
    let Some(env) = env() else { return };
    // The whole input is on its way before the supervisor has started anything; how far it got differs from run to run.
    for _ in 0..10 {
        let run = env.skep_fed(b"hello\n", ["run", "--rm", "-i", "--net", "none", BUSYBOX, "--", "busybox", "cat"]);
        assert_eq!(run.ok(), "hello\n");
    }
}

#[test]
fn the_streams_of_any_user_can_be_opened_by_name() {
    let Some(env) = env() else { return };
    let script = "echo out >/dev/stdout; echo err >/dev/stderr";
    for options in [&["-u", "33"][..], &["--userns", "auto"], &["--userns", "auto", "-u", "33"]] {
        let args = ["run", "--rm", "--net", "none"].into_iter().chain(options.iter().copied());
        let run = env.skep(args.chain([BUSYBOX, "--", "busybox", "sh", "-c", script]));
        assert_eq!((run.out.as_str(), run.err.as_str()), ("out\n", "err\n"), "{options:?}");
    }
    let sleep =
        ["run", "-d", "--net", "none", "--userns", "auto", "--name", "s", BUSYBOX, "--", "busybox", "sleep", "99"];
    env.skep(sleep).ok();
    let run = env.skep(["exec", "-u", "33", "s", "busybox", "sh", "-c", script]);
    assert_eq!((run.out.as_str(), run.err.as_str()), ("out\n", "err\n"));
}

#[test]
fn whoever_insists_ends_a_program_that_does_not_listen() {
    let Some(env) = env() else { return };
    let script = "trap 'echo heard' INT; echo ready; while :; do busybox sleep 0.1; done";
    let mut terminal =
        Pty::spawn(&env, &["run", "--rm", "-i", "--net", "none", BUSYBOX, "--", "busybox", "sh", "-c", script]);
    let pid = rustix::process::Pid::from_child(&terminal.child);
    let interrupt = || rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    terminal.read_until("ready");
    interrupt();
    terminal.read_until("heard");
    interrupt();
    terminal.read_until("another Ctrl-C");
    interrupt();
    assert_eq!(terminal.wait(), 137);
}

#[test]
fn logs_keep_what_was_printed_and_follow() {
    let Some(env) = env() else { return };
    let script = "for i in 1 2 3; do echo line $i; done; echo oops >&2; busybox sleep 0.5; echo last";
    let run = ["run", "-d", "--net", "none", "--name", "l", BUSYBOX, "--", "busybox", "sh", "-c", script];
    env.skep(run).ok();
    let followed = env.skep(["logs", "-f", "l"]);
    assert_eq!(followed.out, "line 1\nline 2\nline 3\nlast\n");
    assert_eq!(followed.err, "oops\n");
    assert_eq!(env.skep(["logs", "-n", "1", "l"]).out, "last\n");
    assert_eq!(env.skep(["logs", "--since", "1h", "l"]).out, followed.out);
    assert_eq!(env.skep(["logs", "--until", "1h", "l"]).out, "");
    let stamped = env.skep(["logs", "-t", "l"]).out;
    assert!(stamped.lines().all(|line| line.starts_with("20") && line.contains("T")), "{stamped}");
}

#[test]
fn logs_rotate() {
    let Some(env) = env() else { return };
    let script = "busybox seq 1 20000";
    let args = ["run", "--net", "none", "--name", "l", "--log-size", "16k", "--log-files", "2", BUSYBOX, "--"];
    env.skep(args.iter().chain(&["busybox", "sh", "-c", script])).ok();
    let kept = env.skep(["logs", "l"]).out;
    assert!(kept.ends_with("\n20000\n") && kept.len() < 64 << 10, "{} bytes are kept", kept.len());
}

#[test]
fn a_cell_with_a_terminal_has_a_real_one() {
    let Some(env) = env() else { return };
    let script = "busybox tty; busybox stty size; echo -n 'name? '; read name; echo hello $name";
    let mut terminal =
        Pty::spawn(&env, &["run", "--rm", "-it", "--net", "none", BUSYBOX, "--", "busybox", "sh", "-c", script]);
    let seen = terminal.read_until("name? ");
    assert!(seen.contains("/dev/") && seen.contains("33 111"), "{seen}");
    terminal.type_in(b"bee\r");
    let seen = terminal.read_until("hello bee");
    assert!(seen.contains("bee"), "{seen}");
    assert_eq!(terminal.wait(), 0);
}

#[test]
fn one_leaves_an_attached_cell_running_by_keys() {
    let Some(env) = env() else { return };
    let script = "while read x; do echo got $x; done";
    env.skep(["run", "-d", "-it", "--net", "none", "--name", "t", BUSYBOX, "--", "busybox", "sh", "-c", script]).ok();
    let mut terminal = Pty::spawn(&env, &["attach", "t"]);
    terminal.type_in(b"one\r");
    terminal.read_until("got one");
    terminal.type_in(b"\x10\x11");
    assert_eq!(terminal.wait(), 0);
    let rows = env.skep(["ps", "--json"]).json();
    assert_eq!(rows[0]["state"], "running");
    let mut terminal =
        Pty::spawn(&env, &["exec", "-it", "t", "busybox", "sh", "-c", "busybox stty size; read y; echo $y"]);
    terminal.read_until("33 111");
    terminal.type_in(b"two\r");
    terminal.read_until("two");
    assert_eq!(terminal.wait(), 0);
}

/// A run of the binary on a pseudo-terminal of 33 rows and 111 columns.
struct Pty {
    near: std::fs::File,
    child: std::process::Child,
    seen: String,
}

impl Pty {
    fn spawn(env: &TestEnv, args: &[&str]) -> Self {
        use rustix::pty::OpenptFlags;
        let near = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        rustix::pty::grantpt(&near).unwrap();
        rustix::pty::unlockpt(&near).unwrap();
        let name = rustix::pty::ptsname(&near, Vec::new()).unwrap();
        let far = std::fs::File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let size = rustix::termios::Winsize { ws_row: 33, ws_col: 111, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&far, size).unwrap();
        let mut command = env.command(args);
        command.stdin(far.try_clone().unwrap()).stdout(far.try_clone().unwrap()).stderr(far);
        Self { near: near.into(), child: command.spawn().unwrap(), seen: String::new() }
    }

    fn type_in(&mut self, keys: &[u8]) {
        self.near.write_all(keys).unwrap();
    }

    /// Everything seen since the last call, when the text has appeared; fails when the program ends before.
    fn read_until(&mut self, text: &str) -> String {
        let mut piece = [0; 1024];
        while !self.seen.contains(text) {
            let count = self.near.read(&mut piece).unwrap_or(0);
            assert!(count > 0, "ended before '{text}' appeared: {}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
        std::mem::take(&mut self.seen)
    }

    fn wait(mut self) -> i32 {
        // The terminal is read to its end, or the program could not write its last words.
        let mut near = self.near.try_clone().unwrap();
        std::thread::spawn(move || while near.read(&mut [0; 1024]).is_ok_and(|it| it > 0) {});
        self.child.wait().unwrap().code().unwrap()
    }
}
