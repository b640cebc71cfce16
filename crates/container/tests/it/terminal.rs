//! Terminals.

use std::fs::File;
use std::io::{Read, Write};

use container::{Ended, Stdio, Target, WindowSize};
use model::Terminal;

use crate::fixture::{Fixture, can_run, process, start};

/// Reads until the far end is closed, which a terminal tells by an error.
fn read_all(mut terminal: File) -> String {
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = terminal.read(&mut buffer) {
        text.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&text).replace("\r\n", "\n")
}

#[test]
fn a_terminal_is_a_real_one_with_its_size_and_tells_of_changes() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let script = "tty; stty size; ls /dev/console; trap 'stty size; exit 4' WINCH; echo ready; \
                  while true; do sleep 0.01; done";
    let mut plan = fixture.plan(&["sh", "-c", script]);
    plan.process.terminal = Terminal::Pty;
    let size = WindowSize { rows: 33, columns: 111 };
    let prepared = container::prepare(&plan, Stdio::Pty { size }).unwrap();
    let cgroup = prepared.cgroup().clone();
    let mut running = prepared.start().unwrap();
    let mut terminal = File::from(running.terminal.take().unwrap());
    let (mut text, mut byte) = (String::new(), [0]);
    while !text.ends_with("ready") {
        terminal.read_exact(&mut byte).unwrap();
        text.push(byte[0].into());
    }
    assert_eq!(text.replace("\r\n", "\n"), "/dev/pts/0\n33 111\n/dev/console\nready");
    sys::pty::resize(&terminal, WindowSize { rows: 5, columns: 6 }).unwrap();
    assert_eq!(read_all(terminal), "\n5 6\n");
    assert_eq!(running.reap().unwrap(), Ended::Code(4));
    cgroup.remove().unwrap();
}

#[test]
fn keys_of_a_terminal_are_signals() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let mut plan = fixture.plan(&["cat"]);
    plan.process.terminal = Terminal::Pty;
    let size = WindowSize { rows: 24, columns: 80 };
    let prepared = container::prepare(&plan, Stdio::Pty { size }).unwrap();
    let cgroup = prepared.cgroup().clone();
    let mut running = prepared.start().unwrap();
    let mut terminal = File::from(running.terminal.take().unwrap());
    terminal.write_all(b"\x03").unwrap();
    assert_eq!(read_all(terminal), "^C");
    assert_eq!(running.reap().unwrap(), Ended::Signal(2));
    cgroup.remove().unwrap();
}

#[test]
fn exec_gets_a_terminal_of_the_cells_own() {
    if !can_run() {
        return;
    }
    let fixture = Fixture::new();
    let plan = fixture.plan(&["sleep", "100"]);
    let (mut running, cgroup, streams) = start(&plan);
    let target = Target { pid: running.pid, cgroup: &cgroup };
    let mut command = process(&["sh", "-c", "tty; stty size; ls /dev/pts"]);
    command.terminal = Terminal::Pty;
    let size = WindowSize { rows: 7, columns: 9 };
    let mut second = container::exec(&target, &command, &plan.security, Stdio::Pty { size }).unwrap();
    let text = read_all(File::from(second.terminal.take().unwrap()));
    assert!(text.starts_with("/dev/pts/0\n7 9\n"), "{text}");
    assert_eq!(second.reap().unwrap(), Ended::Code(0));
    sys::process::kill(&running.pidfd).unwrap();
    streams.finish(&mut running);
    cgroup.remove().unwrap();
}
