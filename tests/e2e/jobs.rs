//! Jobs of a shell on a terminal, in guests of both engines: keys stop and end the one in front, the one in the background
//! that reads the terminal is stopped, and what is stopped goes on.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use skep_tests::{TestEnv, can_run};

const IMAGE: &str = "deb:busybox-static";
const PATIENCE: Duration = Duration::from_secs(60);

/// A shell on a terminal.
struct Terminal {
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
    /// How much of that was looked at.
    seen: usize,
}

impl Terminal {
    /// The command on a terminal of its own, which `script` of util-linux makes; nothing where there is none.
    fn open(command: &Command) -> Option<Self> {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let line = words.map(|it| format!("'{}'", it.to_str().unwrap())).collect::<Vec<_>>().join(" ");
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        let mut child = script.spawn().ok()?;
        let (shown, mut from) = (Arc::new(Mutex::new(Vec::new())), child.stdout.take().unwrap());
        let into = shown.clone();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut piece) {
                into.lock().unwrap().extend_from_slice(&piece[..count]);
            }
        });
        Some(Self { child, shown, seen: 0 })
    }

    fn strike(&mut self, keys: &str) {
        // One that has ended reads none.
        let _ = self.child.stdin.as_mut().unwrap().write_all(keys.as_bytes());
    }

    /// Whether that is shown within that time, after what was looked at before.
    fn shows(&mut self, text: &str, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let shown = String::from_utf8_lossy(&self.shown.lock().unwrap()[self.seen..]).into_owned();
            if let Some(at) = shown.find(text) {
                self.seen += at + text.len();
                return true;
            }
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Strikes keys, again and again, until that is shown: a key that comes before a program is in front is the shell's.
    fn strike_until(&mut self, keys: &str, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.strike(keys);
            if self.shows(text, Duration::from_millis(500)) {
                return;
            }
            assert!(Instant::now() < deadline, "{keys:?} does not give {text:?}: {}", self.everything());
        }
    }

    fn everything(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn check(engine: &str, needs: &[&str]) {
    if !can_run(needs) {
        return;
    }
    let env = TestEnv::with(IMAGE);
    let mut command = env.command(["run", "--rm", "-i", "-t", "--as", "unikernel", IMAGE, "--", "busybox", "sh"]);
    command.env("SKEP_ENGINE", engine).env("TERM", "dumb");
    let Some(mut terminal) = Terminal::open(&command) else { return };
    assert!(terminal.shows("# ", PATIENCE), "no prompt: {}", terminal.everything());
    // What is typed is shown, too, but for the quotes.
    terminal.strike("echo beg''in; sleep 100\r");
    assert!(terminal.shows("begin", PATIENCE), "{}", terminal.everything());
    terminal.strike_until("\x03", "# ");
    terminal.strike("echo after $?\r");
    assert!(terminal.shows("after 130", PATIENCE), "{}", terminal.everything());
    terminal.strike("echo ag''ain; sleep 200\r");
    assert!(terminal.shows("again", PATIENCE), "{}", terminal.everything());
    terminal.strike_until("\x1a", "Stopped");
    terminal.strike("bg %1\r");
    terminal.strike_until("jobs\r", "Running");
    terminal.strike("cat &\r");
    terminal.strike_until("jobs\r", "Stopped (tty input)");
    terminal.strike("kill %1; kill -9 %2; wait; echo go''ne\r");
    assert!(terminal.shows("gone", PATIENCE), "{}", terminal.everything());
    terminal.strike("exit 3\r");
    // It has waited for what ran; of what stood still and was killed it may not have heard, and wants to be told twice.
    if terminal.shows("You have stopped jobs", Duration::from_millis(500)) {
        terminal.strike("exit 3\r");
    }
    let deadline = Instant::now() + PATIENCE;
    let ended = loop {
        match terminal.child.try_wait().unwrap() {
            Some(ended) => break ended,
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            None => panic!("it does not end: {}", terminal.everything()),
        }
    };
    assert_eq!(ended.code(), Some(3), "{}", terminal.everything());
}

#[test]
fn a_shell_has_jobs_in_a_virtual_machine() {
    check("kvm", &["root", "kvm"]);
}

#[test]
fn a_shell_has_jobs_in_a_confined_process() {
    check("process", &["root"]);
}
