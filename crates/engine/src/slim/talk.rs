//! Talking to a service: over TCP, in HTTP, by programs beside it. What it answers is bytes, read up to a bound.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use container::{Attendant, Bond};
use image::slim::{HttpStep, Observed, TcpStep};
use model::{Exit, Process, Verb, Watch};
use rustix::event::{PollFd, PollFlags};

use crate::boundary::{ProgramStreams, boundary_for};
use crate::cell::Cell;
use crate::error::{Error, Result};
use crate::supervisor::SIGKILL;
use crate::watch::Observer;

/// The most of an answer that is looked at.
pub(super) const MAX_ANSWER: usize = 4 << 20;
const SILENCE: Duration = Duration::from_secs(10);

/// The TCP ports that the cell of a process listens on, but for those of its loopback alone, in order.
pub(super) fn listening(pid: u32) -> Vec<u16> {
    let mut ports = Vec::new();
    for file in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{file}")).unwrap_or_default();
        ports.extend(text.lines().skip(1).filter_map(listening_port));
    }
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// The port of a line of `/proc/net/tcp`, when it listens there for more than the loopback.
fn listening_port(line: &str) -> Option<u16> {
    const LISTEN: &str = "0A";
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let state = fields.nth(1)?;
    let is_loopback = address.len() == 8 && address.ends_with("7F") || address == "00000000000000000000000001000000";
    (state == LISTEN && !is_loopback).then(|| u16::from_str_radix(port, 16).ok())?
}

/// What came back for a page.
pub(super) struct Answer {
    pub(super) status: u16,
    /// All of it, the head included.
    pub(super) bytes: Vec<u8>,
}

fn connect(at: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&at, SILENCE)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    Ok(stream)
}

/// Asks for a page.
pub(super) fn http(at: SocketAddr, step: &HttpStep) -> std::result::Result<Answer, String> {
    let HttpStep { method, path, .. } = step;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: skep\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    let ask = || -> std::io::Result<Vec<u8>> {
        let mut stream = connect(at)?;
        stream.write_all(request.as_bytes())?;
        let mut bytes = Vec::new();
        stream.take(MAX_ANSWER as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = ask().map_err(|error| error.to_string())?;
    let status = status_of(&bytes).ok_or_else(|| "the answer is no HTTP".to_owned())?;
    Ok(Answer { status, bytes })
}

fn status_of(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|it| *it == b'\r' || *it == b'\n').next()?;
    let text = std::str::from_utf8(line).ok()?;
    text.strip_prefix("HTTP/")?.split(' ').nth(1)?.parse().ok()
}

/// Says something and listens until what should come has come, or nothing more does.
pub(super) fn tcp(at: SocketAddr, step: &TcpStep) -> std::result::Result<(), String> {
    let mut answer = Vec::new();
    let mut talk = || -> std::io::Result<bool> {
        let mut stream = connect(at)?;
        stream.write_all(&step.says)?;
        let mut piece = [0; 16 << 10];
        while answer.len() < MAX_ANSWER {
            let count = stream.read(&mut piece)?;
            answer.extend_from_slice(&piece[..count]);
            if count == 0 || step.expect.holds(&answer) && !answer.is_empty() {
                break;
            }
        }
        Ok(step.expect.holds(&answer))
    };
    match talk() {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("the answer is {}", shown(&answer))),
        Err(error) if answer.is_empty() => Err(error.to_string()),
        Err(error) => Err(format!("{error} after {}", shown(&answer))),
    }
}

fn shown(answer: &[u8]) -> String {
    answer.iter().take(200).flat_map(|it| it.escape_ascii()).map(char::from).collect()
}

/// How a program of a step came off.
pub(super) enum Ran {
    /// It ended so, and printed that.
    Ended(Exit, Vec<u8>),
    /// It did not end in its time, and was ended.
    TooLong,
}

/// Runs a program in a running cell to its end, or to that of its time. What it was seen to use is added to
/// `observed`, also when it did not start: what it was looked for is what its image lacks.
pub(super) fn run_beside(
    cell: &Cell,
    process: &Process,
    watch: Watch,
    deadline: Instant,
    observed: &mut Observed,
) -> Result<Ran> {
    let mut observer = (watch == Watch::Uses).then(Observer::of_calls).transpose()?;
    let ran = run_attended(cell, process, deadline, &mut observer);
    observed.merge(observer.map(Observer::into_observed).unwrap_or_default());
    ran
}

fn run_attended(cell: &Cell, process: &Process, deadline: Instant, observer: &mut Option<Observer>) -> Result<Ran> {
    let boundary = boundary_for(&cell.spec, Verb::Exec)?;
    let failed = |e: rustix::io::Errno| Error::io("making a pipe", e);
    let (output, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed)?;
    let stderr = theirs.try_clone().map_err(|e| Error::io("making a pipe", e))?;
    let streams = ProgramStreams::Three { stdin: crate::supervisor::open_null()?, stdout: theirs, stderr };
    let attendant = observer.as_mut().map(|it| it as &mut dyn Attendant);
    let companion = boundary.exec(cell, process, streams, Bond::DiesWithCaller, attendant)?;
    let mut running = companion.running;
    let Some(printed) = attend(observer, &running.pidfd, output, deadline)? else {
        // That it has ended a moment ago is as good.
        let _ = sys::process::send_signal(running.pidfd.as_fd(), SIGKILL);
        running.reap()?;
        return Ok(Ran::TooLong);
    };
    Ok(Ran::Ended(crate::container::exit_of(running.reap()?), printed))
}

/// Answers for a program and takes what it prints until it has ended; nothing when its time ends first.
fn attend(
    observer: &mut Option<Observer>,
    ended: &OwnedFd,
    output: OwnedFd,
    deadline: Instant,
) -> Result<Option<Vec<u8>>> {
    let mut output = Some(File::from(output));
    let mut printed = Vec::new();
    loop {
        let mut fds = vec![PollFd::new(ended, PollFlags::IN)];
        fds.extend(output.as_ref().map(|it| PollFd::new(it, PollFlags::IN)));
        fds.extend(observer.as_ref().map(|it| PollFd::from_borrowed_fd(it.questions(), PollFlags::IN)));
        if !wait(&mut fds, deadline)? {
            return Ok(None);
        }
        let is_ready = |index: usize| fds.get(index).is_some_and(|it| !it.revents().is_empty());
        let has_ended = is_ready(0);
        let has_output = output.is_some() && is_ready(1);
        if let Some(observer) = observer {
            observer.attend().map_err(|e| Error::io("answering for a program", e))?;
        }
        if has_output && let Some(file) = &mut output {
            let mut piece = [0; 16 << 10];
            match file.read(&mut piece) {
                Ok(0) | Err(_) => output = None,
                Ok(count) if printed.len() < MAX_ANSWER => printed.extend_from_slice(&piece[..count]),
                Ok(_) => {}
            }
        } else if has_ended {
            // Whatever it left running may hold the pipe open; what it printed itself has been read.
            return Ok(Some(printed));
        }
    }
}

/// Waits for one of the descriptors; false when there is no more time.
pub(super) fn wait(fds: &mut [PollFd<'_>], deadline: Instant) -> Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let left = rustix::event::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match rustix::event::poll(fds, Some(&left)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(e) => return Err(Error::io("waiting for a program", e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_can_be_reached_are_found() {
        let check = |address: &str, state: &str, expected: Option<u16>| {
            let line =
                format!("   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 0 0 1 1 0");
            assert_eq!(listening_port(&line), expected, "{line}");
        };
        check("00000000:0050", "0A", Some(80));
        check("0100007F:0050", "0A", None);
        check("00000000000000000000000000000000:1F90", "0A", Some(8080));
        check("00000000000000000000000001000000:1F90", "0A", None);
        check("00000000:0050", "01", None);
        assert_eq!(listening_port(""), None);
    }

    #[test]
    fn a_status_is_read() {
        let check = |answer: &[u8], expected| assert_eq!(status_of(answer), expected);
        check(b"HTTP/1.1 404 Not Found\r\nX: y\r\n\r\n", Some(404));
        check(b"HTTP/1.0 200\n", Some(200));
        check(b"SSH-2.0-x\r\n", None);
        check(b"\xff\xfe", None);
        check(b"", None);
    }
}
