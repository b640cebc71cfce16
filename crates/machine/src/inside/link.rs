//! The line to an agent: a script goes there, what its calls gave comes back.
//!
//! The agent does one thing at a time. While nothing is to be done it waits for its descriptors, and for this line: the
//! next script ends the waiting, whose answer comes first. **There is never more than one script beside that.**

use std::fs::File;
use std::io::{Read, Write};
use std::ops::Index;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};

use super::agent::{BUFFER, BUFFER_ROOM, MESSAGE, MESSAGE_ROOM, RECORDS};
use super::script::{Call, Data, Script, Shape, Step, Value};
use crate::arch::Arch;
use crate::error::{Error, Result};

/// The agent's own descriptor of the line, out of the way of all others.
pub(crate) const LINE: i64 = 1000;

/// What the calls of a script gave.
#[derive(Debug)]
pub(crate) struct Answer {
    results: Vec<i64>,
    data: Vec<u8>,
    /// What was read for the host.
    pub(crate) read: Vec<u8>,
}

impl Index<Step> for Answer {
    type Output = i64;

    fn index(&self, step: Step) -> &i64 {
        &self.results[step.0]
    }
}

impl Answer {
    /// So many bytes of the script's data, as its calls left them.
    pub(crate) fn data<const N: usize>(&self, data: Data) -> [u8; N] {
        let mut bytes = [0; N];
        let found = self.data.get(data.0 as usize..).unwrap_or(&[]);
        let count = found.len().min(N);
        bytes[..count].copy_from_slice(&found[..count]);
        bytes
    }
}

/// What of a script is wanted back beside its results.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    /// Nothing.
    Results,
    /// What that call read into the agent's buffer.
    Read(Step),
}

/// Ends the records that an agent begins with: from there on it does what it is sent. Gives where.
pub(crate) fn serve(script: &mut Script) -> u64 {
    let at = RECORDS + script.length();
    // The length of what follows goes where the next call has its own.
    script.whole(Call::Read, LINE.into(), Value::Argument(1, 2), 8.into());
    script.whole(Call::Read, LINE.into(), Value::Number(MESSAGE as i64), 0.into());
    script.go_to(MESSAGE);
    at
}

/// The host's end.
#[derive(Debug)]
pub(crate) struct Link {
    arch: Arch,
    to: File,
    from: File,
    server: u64,
    /// A wait that nothing has ended yet.
    waiting: Option<Shape>,
}

/// A descriptor of the agent's that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Awaited {
    pub(crate) descriptor: i32,
    /// What for, as `poll` says it.
    pub(crate) events: PollFlags,
}

impl Link {
    /// Over those two, to an agent that serves from there.
    pub(crate) fn new(arch: Arch, to: OwnedFd, from: OwnedFd, server: u64) -> Link {
        Link { arch, to: File::from(to), from: File::from(from), server, waiting: None }
    }

    /// Where its agent serves.
    pub(crate) fn server(&self) -> u64 {
        self.server
    }

    /// Has the agent wait for nothing but the next script, with nothing on its way to it or from it.
    pub(crate) fn settle(&mut self) -> Result<()> {
        const GET_FLAGS: i64 = 3;
        let mut script = Script::new();
        script.call(Call::Fcntl, [LINE.into(), GET_FLAGS.into()]);
        self.call(script).map(drop)
    }

    /// Has a script done.
    pub(crate) fn call(&mut self, script: Script) -> Result<Answer> {
        self.call_for(script, Wanted::Results)
    }

    /// Has a script done in which that step reads into the agent's buffer.
    pub(crate) fn call_reading(&mut self, script: Script, step: Step) -> Result<Answer> {
        self.call_for(script, Wanted::Read(step))
    }

    fn call_for(&mut self, script: Script, wanted: Wanted) -> Result<Answer> {
        if let Some(shape) = self.waiting.take() {
            // What ends the waiting is this; its answer is of no interest any more.
            let sent = self.send(script, wanted)?;
            self.receive(shape)?;
            return self.receive_for(sent, wanted);
        }
        let shape = self.send(script, wanted)?;
        self.receive_for(shape, wanted)
    }

    /// Waits until one of those is ready, in the guest or here. Gives how each of both is.
    pub(crate) fn wait(
        &mut self,
        awaited: &[Awaited],
        here: &[(BorrowedFd<'_>, PollFlags)],
    ) -> Result<(Vec<PollFlags>, Vec<PollFlags>)> {
        let mut script = Script::new();
        let line = Awaited { descriptor: LINE as i32, events: PollFlags::IN };
        let list: Vec<u8> = [&[line], awaited].concat().iter().flat_map(|it| entry(*it)).collect();
        let list = script.data(&list);
        let count = awaited.len() as i64 + 1;
        script.call(Call::Ppoll, [list.into(), count.into(), 0.into(), 0.into()]);
        let earlier = self.waiting.take();
        let shape = self.send(script, Wanted::Results)?;
        if let Some(earlier) = earlier {
            // Nothing was asked since: what was waited for is waited for again.
            self.receive(earlier)?;
        }
        let mut all = vec![PollFd::new(&self.from, PollFlags::IN)];
        all.extend(here.iter().map(|(it, events)| PollFd::from_borrowed_fd(*it, *events)));
        while let Err(errno) = poll(&mut all, None) {
            if errno != rustix::io::Errno::INTR {
                return Err(broken(errno.into()));
            }
        }
        let mut states = all.iter().map(PollFd::revents);
        let is_answered = states.next().is_some_and(|it| !it.is_empty());
        let states = states.collect();
        drop(all);
        if !is_answered {
            self.waiting = Some(shape);
            return Ok((vec![PollFlags::empty(); awaited.len()], states));
        }
        let answer = self.receive(shape)?;
        let events = |at: usize| {
            let bytes = answer.data.get(list.0 as usize + (at + 1) * 8 + 6..).and_then(|it| it.first_chunk::<2>());
            PollFlags::from_bits_retain(bytes.map_or(0, |it| u16::from_le_bytes(*it)))
        };
        Ok(((0..awaited.len()).map(events).collect(), states))
    }

    fn send(&mut self, mut script: Script, wanted: Wanted) -> Result<Shape> {
        script.whole(Call::Write, LINE.into(), Value::Results, Value::Length);
        if let Wanted::Read(step) = wanted {
            script.whole(Call::Write, LINE.into(), Value::Number(BUFFER as i64), step.into());
        }
        script.go_to(self.server);
        let bytes = script.encode(self.arch, MESSAGE);
        if bytes.len() as u64 > MESSAGE_ROOM {
            return Err(Error::Agent { why: "a command and its environment are longer than a machine takes".into() });
        }
        self.to.write_all(&(bytes.len() as u64).to_le_bytes()).map_err(broken)?;
        self.to.write_all(&bytes).map_err(broken)?;
        Ok(script.shape())
    }

    fn receive(&mut self, shape: Shape) -> Result<Answer> {
        let mut bytes = vec![0; shape.results * 8 + shape.data];
        self.from.read_exact(&mut bytes).map_err(broken)?;
        let data = bytes.split_off(shape.results * 8);
        let word = |it: &[u8]| it.iter().rev().fold(0, |word, byte| word << 8 | i64::from(*byte));
        Ok(Answer { results: bytes.chunks_exact(8).map(word).collect(), data, read: Vec::new() })
    }

    fn receive_for(&mut self, shape: Shape, wanted: Wanted) -> Result<Answer> {
        let mut answer = self.receive(shape)?;
        if let Wanted::Read(step) = wanted {
            let count = answer[step].clamp(0, BUFFER_ROOM as i64) as usize;
            answer.read = vec![0; count];
            self.from.read_exact(&mut answer.read).map_err(broken)?;
        }
        Ok(answer)
    }
}

fn broken(error: std::io::Error) -> Error {
    Error::Agent { why: error.to_string() }
}

/// A descriptor as `ppoll` takes it.
fn entry(it: Awaited) -> [u8; 8] {
    let [a, b, c, d] = it.descriptor.to_le_bytes();
    let [e, f] = it.events.bits().to_le_bytes();
    [a, b, c, d, e, f, 0, 0]
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::super::agent;
    use std::os::fd::AsFd;

    use super::*;

    /// An agent that qemu, if that is needed, executes as a process, with its line in the place of its standard streams.
    fn emulated(arch: Arch, qemu: Option<&str>) -> Option<(Link, std::process::Child)> {
        let mut script = Script::new();
        for (from, to) in [(0, LINE), (1, LINE + 1)] {
            script.call(Call::Dup3, [from.into(), to.into(), 0.into()]);
        }
        // There, one descriptor is both.
        let server = serve(&mut script);
        let path = std::env::temp_dir().join(format!("agent-{arch:?}-{}", std::process::id()));
        std::fs::write(&path, agent::file(arch, &script.encode(arch, agent::RECORDS))).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let theirs = OwnedFd::from(theirs);
        let mut command = Command::new(qemu.map_or(path.as_os_str(), AsRef::as_ref));
        let child = command
            .args(qemu.map(|_| &path))
            .stdin(Stdio::from(theirs.try_clone().unwrap()))
            .stdout(Stdio::from(theirs))
            .spawn()
            .ok()?;
        let from = ours.try_clone().unwrap();
        Some((Link::new(arch, ours.into(), from.into(), server), child))
    }

    #[test]
    fn an_agent_does_what_it_is_sent() {
        for (arch, qemu) in
            [(Arch::Riscv64, Some("qemu-riscv64")), (Arch::Arm64, Some("qemu-aarch64")), (Arch::Amd64, None)]
        {
            let Some((mut link, mut child)) = emulated(arch, qemu) else { continue };
            let mut script = Script::new();
            let pair = script.room(8);
            let made = script.call(Call::Pipe2, [pair.into(), 0.into()]);
            let wrong = script.call(Call::Close, [77.into()]);
            let answer = link.call(script).unwrap();
            assert_eq!((answer[made], answer[wrong]), (0, -9), "{arch:?}");
            let [a, b, c, d, e, f, g, h] = answer.data::<8>(pair);
            let (read, write) = (i32::from_le_bytes([a, b, c, d]), i32::from_le_bytes([e, f, g, h]));
            assert!(read > 2 && write > read, "{arch:?}: {read} {write}");

            let (_other, here) = std::os::unix::net::UnixStream::pair().unwrap();
            let awaited = [Awaited { descriptor: read, events: PollFlags::IN }];
            drop(_other);
            // As often as something is ready here, whatever is asked in between.
            for _ in 0..3 {
                let (there, here) = link.wait(&awaited, &[(here.as_fd(), PollFlags::IN)]).unwrap();
                assert!(there[0].is_empty() && !here[0].is_empty());
            }

            let mut script = Script::new();
            let text = script.data(b"written");
            let written = script.call(Call::Write, [i64::from(write).into(), text.into(), 7.into()]);
            let answer = link.call(script).unwrap();
            assert_eq!(answer[written], 7, "{arch:?}");
            assert_eq!(link.wait(&awaited, &[]).unwrap().0, [PollFlags::IN]);

            let mut script = Script::new();
            let buffer = Value::Number(BUFFER as i64);
            let count = script.call(Call::Read, [i64::from(read).into(), buffer, 100.into()]);
            let answer = link.call_reading(script, count).unwrap();
            assert_eq!(answer.read, b"written", "{arch:?}");

            let mut script = Script::new();
            let child_begins = script.label();
            let parent = script.label();
            let number = script.call(Call::Clone, [17.into(), 0.into(), 0.into(), 0.into(), 0.into()]);
            script.jump_if_equal(number.into(), 0.into(), child_begins);
            script.jump(parent);
            script.place(child_begins);
            script.call(Call::Exit, [7.into()]);
            script.place(parent);
            let status = script.room(4);
            let ended = script.call(Call::Wait4, [number.into(), status.into(), 0.into(), 0.into()]);
            let answer = link.call(script).unwrap();
            assert_eq!(answer[ended], answer[number], "{arch:?}");
            assert_eq!(i32::from_le_bytes(answer.data(status)), 7 << 8, "{arch:?}");
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
