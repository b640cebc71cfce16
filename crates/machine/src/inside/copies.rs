//! The monitor of a machine that is copied or kept, and of one that goes on from there.
//!
//! What is on its way between the monitor and the agent is nothing at that moment ([`Link::settle`](super::link::Link)).
//! The copy has the program that the machine is for, on streams of its own. **Programs that were asked for from outside
//! end in it**, as they do wherever whoever asked for them goes away.

use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use unikernel::control::Word;

use super::guest::Network;
use super::kept::{self, SavedInside, SavedSession};
use super::monitor::{Monitor, Session};
use super::pump::{Input, Output, Way};
use super::renew::renew;
use crate::error::{Error, Result};
use crate::machine::Frozen;

impl Monitor {
    fn save(&self) -> SavedInside {
        let session = |it: &Session| SavedSession {
            process: it.process,
            name: it.name.clone(),
            is_first: it.asker.is_none(),
            input: it.input.as_ref().map(|it| it.to),
            outputs: it.outputs.iter().map(|it| (it.from, it.stream)).collect(),
            terminal: it.terminal.as_ref().map(|it| it.0),
            status: it.status,
        };
        let sessions = self.sessions.iter().map(session).collect();
        SavedInside { server: self.link.server(), ends: self.ends, sessions }
    }

    /// Gives whoever is there what a copy is made of. The machine stands still until he hangs up, so that he can copy what
    /// else belongs to that moment.
    pub(super) fn hand_out(&mut self, connection: &OwnedFd) -> Result<()> {
        self.link.settle()?;
        let (frozen, _standing) = match self.runner.freeze() {
            Ok(frozen) => frozen,
            Err(error) => return refuse(connection, &error),
        };
        let files = match kept::hand_out(frozen, self.save()) {
            Ok(files) => files,
            Err(error) => return refuse(connection, &error),
        };
        for (number, file) in files.iter().enumerate() {
            let left = (files.len() - 1 - number) as u32;
            if (Word::Frozen { left }).say_with(connection, &[file.as_fd()]).is_err() {
                return Ok(());
            }
        }
        // However long that takes: what is copied meanwhile must not change, and who is gone has hung up.
        while let Err(rustix::io::Errno::INTR) = poll(&mut [PollFd::new(connection, PollFlags::IN)], None) {}
        Ok(())
    }

    /// Writes what the machine is into two files. It goes on meanwhile.
    pub(super) fn keep(&mut self, connection: OwnedFd, state: OwnedFd, bytes: OwnedFd) -> Result<()> {
        self.link.settle()?;
        let frozen: Frozen = match self.runner.freeze() {
            Ok((frozen, _)) => frozen,
            Err(error) => return refuse(&connection, &error),
        };
        let inside = self.save();
        thread::spawn(move || {
            let word = match kept::write(frozen, inside, state, bytes) {
                Ok(()) => Word::Kept,
                Err(error) => Word::Unkept { why: error.to_string() },
            };
            let _ = word.say(&connection);
        });
        Ok(())
    }

    /// The programs that were begun from outside, by the guest's numbers.
    pub(super) fn list(&self, connection: &OwnedFd) -> Result<()> {
        for it in self.sessions.iter().filter(|it| it.status.is_none()) {
            let word = Word::Process { number: it.process as u32, parent: 0, cell: 1, name: it.name.clone() };
            if word.say(connection).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Goes on with the programs of another.
    pub(super) fn resume(
        &mut self,
        inside: SavedInside,
        network: Option<&Network>,
        streams: [OwnedFd; 3],
    ) -> Result<()> {
        let (first, others): (Vec<_>, Vec<_>) = inside.sessions.into_iter().partition(|it| it.is_first);
        self.ends = inside.ends;
        renew(&mut self.link, network, &others)?;
        for it in first {
            let copy = |it: &OwnedFd| it.try_clone().map_err(Error::Watching);
            let way = if it.terminal.is_some() { Way::Terminal } else { Way::Pipe };
            let input = match it.input {
                Some(to) => Some(Input::new(copy(&streams[0])?, to, way)),
                None => None,
            };
            let known = it.outputs.iter().filter_map(|(from, stream)| Some((*from, *stream, streams.get(*stream)?)));
            let outputs = known.map(|(from, stream, to)| Ok(Output::new(from, stream, copy(to)?)));
            let outputs = outputs.collect::<Result<Vec<_>>>()?;
            let terminal = match it.terminal {
                Some(end) => Some((end, copy(&streams[0])?)),
                None => None,
            };
            if terminal.is_some()
                && let Ok(raw) = sys::pty::RawMode::enter(streams[0].as_fd())
            {
                std::mem::forget(raw);
            }
            let (process, status, asker, name) = (it.process, it.status, None, it.name);
            self.sessions.push(Session { name, process, input, outputs, terminal, status, asker });
        }
        Ok(())
    }
}

fn refuse(connection: &OwnedFd, error: &Error) -> Result<()> {
    let _ = Word::Unkept { why: error.to_string() }.say(connection);
    Ok(())
}
