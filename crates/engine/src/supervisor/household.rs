//! The cells of one supervisor process: the one that it was started for, and those that were forked from it. They end with
//! that one, or before.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::{Source, Supervisor};
use crate::error::{Error, Result};

pub(super) struct Household {
    signals: OwnedFd,
    members: Vec<Supervisor>,
}

impl Household {
    pub(super) fn new(signals: OwnedFd, first: Supervisor) -> Self {
        Self { signals, members: vec![first] }
    }

    /// Sees each cell to its end.
    pub(super) fn live(mut self) -> Result<()> {
        let mut outcome = Ok(());
        loop {
            let mut index = 0;
            while let Some(member) = self.members.get(index) {
                if member.finished {
                    outcome = outcome.and(self.members.remove(index).farewell());
                } else {
                    index += 1;
                }
            }
            if self.members.is_empty() {
                return outcome;
            }
            self.turn()?;
        }
    }

    /// Waits for something to happen and handles all of it.
    fn turn(&mut self) -> Result<()> {
        let (signalled, ready) = self.wait()?;
        if signalled {
            while let Ok(Some(_)) = sys::signal::next(self.signals.as_fd()) {
                self.members.iter_mut().for_each(Supervisor::on_signal);
            }
        }
        for (member, ready) in self.members.iter_mut().zip(&ready) {
            member.act(ready);
        }
        let born: Vec<_> = self.members.iter_mut().flat_map(|it| it.born.drain(..)).collect();
        self.members.extend(born);
        Ok(())
    }

    /// Whether there are signals, and what each member has to handle.
    fn wait(&self) -> Result<(bool, Vec<Vec<Source>>)> {
        let sources: Vec<_> = self.members.iter().map(Supervisor::sources).collect();
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        fds.extend(sources.iter().flatten().map(|(_, fd, interest)| PollFd::from_borrowed_fd(*fd, *interest)));
        let patience = self.members.iter().filter_map(Supervisor::patience).min();
        let timeout = patience.map(|it| Timespec { tv_sec: it.as_secs() as i64, tv_nsec: it.subsec_nanos().into() });
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::io("waiting for events", e)),
        }
        let mut happened = fds.iter().map(|it| !it.revents().is_empty());
        let signalled = happened.next() == Some(true);
        let ready = sources.iter().map(|of_one| {
            of_one.iter().filter(|_| happened.next() == Some(true)).map(|(source, ..)| *source).collect()
        });
        Ok((signalled, ready.collect()))
    }
}
