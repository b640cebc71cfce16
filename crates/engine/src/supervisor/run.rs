//! One run of a cell's program, from its start to its ending.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use model::{CellId, Exit, Limits, Timestamp};
use rustix::event::PollFlags;

use super::Source;
use super::streams::{Output, Streams};
use crate::boundary::{LiveCell, Origin, ProgramStreams, StartRequest, boundary};
use crate::cell::Cell;
use crate::clock::now;
use crate::error::Result;
use crate::home::Home;
use crate::logs::Stream;
use crate::table::Engine;

/// A program that runs, or has just ended.
pub(super) struct Run {
    pub(super) pid: u32,
    pub(super) live: Box<dyn LiveCell>,
    pub(super) streams: Streams,
    /// The true reason for the ending, when the supervisor brought it about for one.
    pub(super) verdict: Option<Exit>,
    service: Option<net::Service>,
}

impl Run {
    /// Starts the program, or lets it go on from elsewhere. What it took to do so is noted in the record, which the caller writes.
    pub(super) fn start(engine: &Engine, cell: &mut Cell, window: (u16, u16), origin: Origin<'_>) -> Result<Self> {
        let (streams, theirs) = Streams::for_program(&cell.spec.process, window)?;
        Self::start_with(engine, cell, streams, theirs, origin)
    }

    /// The same on streams that were made for it.
    pub(super) fn start_with(
        engine: &Engine,
        cell: &mut Cell,
        mut streams: Streams,
        theirs: ProgramStreams,
        origin: Origin<'_>,
    ) -> Result<Self> {
        // No collector takes the root file system away between the finding and the mounting.
        let _pin = engine.store.pin()?;
        let layout = crate::container::layout(&engine.home.pool());
        let rootfs = engine.store.rootfs(&cell.spec.image.tree, layout, &())?;
        let net = net::Net::open(engine.home.net())?;
        let neighbour = engine.neighbour(&cell.spec)?;
        let request = StartRequest { cell, rootfs, net: &net, store: &engine.store, origin, neighbour };
        let started = boundary(cell.spec.boundary)?.start(&request, theirs)?;
        cell.record.cgroup = started.cgroup;
        cell.record.attachment = started.attachment;
        cell.record.degraded = started.degraded;
        if let Some(terminal) = started.terminal {
            streams.set_terminal(terminal)?;
        }
        Ok(Self { pid: started.pid, live: started.live, streams, verdict: None, service: started.service })
    }

    /// One that began by a fork.
    pub(super) fn forked(pid: u32, live: Box<dyn LiveCell>, streams: Streams) -> Self {
        Self { pid, live, streams, verdict: None, service: None }
    }

    /// What to wait for. While a client is slow, output stays in the pipes.
    pub(super) fn sources<'a>(&'a self, slow: bool, into: &mut Vec<(Source, BorrowedFd<'a>, PollFlags)>) {
        into.push((Source::Ended, self.live.ended(), PollFlags::IN));
        if let Some(fd) = self.live.notices() {
            into.push((Source::Notices, fd, PollFlags::IN));
        }
        if let Some(service) = &self.service {
            into.push((Source::Service, service.fd(), PollFlags::IN));
        }
        for stream in [Stream::Out, Stream::Err] {
            if let Some(fd) = self.streams.output_fd(stream).filter(|_| !slow) {
                into.push((Source::Output(stream), fd, PollFlags::IN));
            }
        }
        if let Some(fd) = self.streams.pending_input_fd() {
            into.push((Source::Input, fd, PollFlags::OUT));
        }
    }

    /// Lets the network service do what is due.
    pub(super) fn serve_network(&mut self) {
        if let Some(service) = &mut self.service {
            service.dispatch();
        }
    }

    /// What the ended program wrote and nobody has read yet. Its processes are gone, so the streams end at once, unless
    /// somebody outside holds them open: for that case there is a time limit.
    pub(super) fn last_words(&mut self) -> Vec<(Timestamp, Stream, Vec<u8>)> {
        let deadline = Instant::now() + Duration::from_millis(200);
        let mut words = Vec::new();
        let mut piece = [0; 16 << 10];
        for stream in [Stream::Out, Stream::Err] {
            loop {
                match self.streams.read(stream, &mut piece) {
                    Output::Bytes(count) => words.push((now(), stream, piece[..count].to_vec())),
                    Output::Ended => break,
                    Output::NothingYet if Instant::now() > deadline => break,
                    Output::NothingYet => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        }
        words
    }

    /// Collects the ending and clears the host of the run.
    pub(super) fn finish(mut self, limits: &Limits, home: &Home, id: CellId) -> Exit {
        let observed = self.live.reap(limits);
        drop(self.service.take());
        // Whatever cannot be removed now is found and removed by the next recovery.
        let _ = net::Net::open(home.net()).and_then(|net| net.detach(id));
        let _ = self.live.dismantle();
        match (self.verdict, observed) {
            (Some(verdict), _) => verdict,
            (None, Ok(exit)) => exit,
            (None, Err(_)) => Exit::SupervisorLost,
        }
    }
}
