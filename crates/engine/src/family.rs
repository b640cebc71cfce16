//! Families of cells: the orders that their tender takes, and a cell that lives in another's tender.
//!
//! The tender listens on a socket in the directory of the cell that the family began with. A cell that was forked is a
//! process of that tender: its control groups, its root file system and its network are the first cell's, and **it ends
//! when that does**.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use container::Ended;
use model::{Boundary, CellSpec, Exit, Limits, Missed, MountKind, NetStack};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use unikernel::control::{Line, Order, Word};

use crate::boundary::{Forked, Keeping, Limited, LiveCell, ProgramStreams, Relative, Standing, Started};
use crate::cell::{Cell, Kin, UnknownCall};
use crate::client::with_short_path;
use crate::error::{Error, Result};
use crate::wire::CopyFrom;

/// How long a running program may take to come to where it can be copied.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to write all of a memory to a disk.
const PATIENCE_TO_WRITE: Duration = Duration::from_secs(150);

/// The number of a cell's first process in its family.
pub(crate) fn first_process(cell: &Cell) -> u32 {
    cell.record.kin.map_or(1, |it| it.number.max(1))
}

fn socket(cell: &Cell) -> PathBuf {
    let root = cell.record.kin.and_then(Kin::host).unwrap_or(cell.spec.id);
    cell.dir.with_file_name(root.to_string()).join("tender.sock")
}

/// Makes the socket of a family that is about to begin.
pub(crate) fn listen(cell: &Cell) -> Result<OwnedFd> {
    with_short_path(&cell.dir.join("tender.sock"), Line::listen)
}

/// Calls a cell's tender.
pub(crate) fn connect(cell: &Cell) -> Result<Line> {
    with_short_path(&socket(cell), Line::connect)
}

pub(crate) fn silent(errno: sys::Errno) -> Error {
    Error::io("talking to the tender", errno)
}

/// Has the cell made again, as often as there are streams.
pub(crate) fn fork(cell: &Cell, streams: Vec<ProgramStreams>, from: CopyFrom) -> Result<Vec<Result<Forked>>> {
    let mut lines = Vec::new();
    for it in streams {
        let line = connect(cell)?;
        let ProgramStreams::Three { stdin, stdout, stderr } = it else {
            return Err(silent(sys::Errno::NOTTY));
        };
        let order = match from {
            CopyFrom::Here => Order::Copy { cell: first_process(cell) },
            CopyFrom::Start => Order::Another,
        };
        line.ask(order, &[stdin, stdout, stderr].each_ref().map(AsFd::as_fd)).map_err(silent)?;
        lines.push(line);
    }
    let deadline = Instant::now() + PATIENCE;
    let begun = |line: Line| {
        if !is_readable(&line, deadline.saturating_duration_since(Instant::now())) {
            return Err(silent(sys::Errno::TIMEDOUT));
        }
        match line.hear().map_err(silent)? {
            Some(Word::Started { number }) => Ok(Forked { live: Box::new(LiveCopy { line }), number }),
            Some(Word::Refused(errno)) => Err(silent(errno)),
            Some(_) | None => Err(silent(sys::Errno::PIPE)),
        }
    };
    Ok(lines.into_iter().map(begun).collect())
}

/// What a cell is taken for, as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// To be several.
    Copying,
    /// To go on from there later.
    Keeping,
}

/// Refuses to take a cell as it stands when its specification tells already that something of it could not be taken along.
/// Its tender knows the rest.
fn must_be_whole(cell: &Cell, purpose: Purpose) -> Result<()> {
    let obstacle = obstacle(&cell.spec, purpose);
    obstacle.map_or(Ok(()), |why| Err(Error::Unkept { cell: cell.spec.name.clone(), why }))
}

fn obstacle(spec: &CellSpec, purpose: Purpose) -> Option<String> {
    match spec.boundary {
        Boundary::Machine => obstacle_of_machine(spec),
        Boundary::Unikernel if purpose == Purpose::Keeping => obstacle_of_unikernel(spec),
        Boundary::Unikernel | Boundary::Container => None,
    }
}

/// What a disk holds would have to be as it was when the machine stood still, and nobody keeps that. What is mounted for a
/// machine from memory is in the host's, and goes with the cell's process.
fn obstacle_of_machine(spec: &CellSpec) -> Option<String> {
    if spec.machine.as_ref().is_some_and(|it| !it.disks.is_empty()) {
        return Some("its disks (--disk) would have to be taken along, which is not done".to_owned());
    }
    let mount = spec.mounts.iter().find(|it| matches!(it.kind, MountKind::Tmpfs(_)))?;
    Some(format!("what is in memory at {} (--tmpfs) is not copied or kept", mount.target.display()))
}

/// What its family shares with nobody else is all that is kept.
fn obstacle_of_unikernel(spec: &CellSpec) -> Option<String> {
    if spec.network.stack == NetStack::Guest {
        return Some("its sockets are of a network stack in the guest (--net-stack guest)".to_owned());
    }
    let is_shared = !spec.ipc.is_private();
    is_shared.then(|| format!("it may share memory and messages with other cells (--ipc {})", spec.ipc))
}

/// Has a machine stand still.
pub(crate) fn stand(cell: &Cell) -> Result<Standing> {
    must_be_whole(cell, Purpose::Copying)?;
    let line = connect(cell)?;
    line.ask(Order::Freeze, &[]).map_err(silent)?;
    let deadline = Instant::now() + PATIENCE;
    let mut files = Vec::new();
    loop {
        if !is_readable(&line, deadline.saturating_duration_since(Instant::now())) {
            return Err(silent(sys::Errno::TIMEDOUT));
        }
        match line.hear_with().map_err(silent)? {
            (Some(Word::Frozen { left }), Some(file)) => {
                files.push(file);
                if left == 0 {
                    return Ok(Standing { files, line });
                }
            }
            (Some(Word::Unkept { why }), _) => return Err(Error::Unkept { cell: cell.spec.name.clone(), why }),
            _ => return Err(silent(sys::Errno::PIPE)),
        }
    }
}

/// Has the cell's process kept.
pub(crate) fn keep(cell: &Cell, keeping: &Keeping) -> Result<()> {
    must_be_whole(cell, Purpose::Keeping)?;
    let order = Order::Keep { cell: first_process(cell) };
    let unkept = |why| Error::Unkept { cell: cell.spec.name.clone(), why };
    have_kept(cell, order, &[keeping.state.as_fd(), keeping.bytes.as_fd()], PATIENCE_TO_WRITE, unkept)
}

/// Has the first process of a cell written into a file, as a core.
pub(crate) fn write_core(cell: &Cell, file: &OwnedFd) -> Result<()> {
    let order = Order::Core { cell: first_process(cell) };
    let unkept = |why| Error::NoCore { cell: cell.spec.name.clone(), why };
    have_kept(cell, order, &[file.as_fd()], PATIENCE_TO_WRITE, unkept)
}

/// Has something of a cell put into files; `unkept` says in our words why it cannot be.
fn have_kept(
    cell: &Cell,
    order: Order,
    files: &[BorrowedFd<'_>],
    patience: Duration,
    unkept: impl FnOnce(String) -> Error,
) -> Result<()> {
    let line = connect(cell)?;
    line.ask(order, files).map_err(silent)?;
    if !is_readable(&line, patience) {
        return Err(silent(sys::Errno::TIMEDOUT));
    }
    match line.hear().map_err(silent)? {
        Some(Word::Kept) => Ok(()),
        Some(Word::Unkept { why }) => Err(unkept(why)),
        Some(Word::Refused(errno)) => Err(silent(errno)),
        Some(_) | None => Err(silent(sys::Errno::PIPE)),
    }
}

/// Lets a debugger in.
pub(crate) fn admit_debugger(cell: &Cell, connection: BorrowedFd<'_>) -> Result<()> {
    let line = connect(cell)?;
    line.ask(Order::Debugger, &[connection]).map_err(silent)?;
    if !is_readable(&line, PATIENCE) {
        return Err(silent(sys::Errno::TIMEDOUT));
    }
    match line.hear().map_err(silent)? {
        Some(Word::Started { .. }) => Ok(()),
        Some(_) | None => Err(silent(sys::Errno::PIPE)),
    }
}

/// What a cell that joins the IPC of that one hands its tender.
pub(crate) fn join(cell: &Cell) -> Result<OwnedFd> {
    let line = connect(cell)?;
    line.ask(Order::Join, &[]).map_err(silent)?;
    if !is_readable(&line, PATIENCE) {
        return Err(silent(sys::Errno::TIMEDOUT));
    }
    match line.hear_with().map_err(silent)? {
        (Some(Word::Joined), Some(board)) => Ok(board),
        (Some(Word::Refused(errno)), _) => Err(silent(errno)),
        _ => Err(silent(sys::Errno::PIPE)),
    }
}

/// The processes of the family.
pub(crate) fn list(cell: &Cell) -> Result<Vec<Relative>> {
    let line = connect(cell)?;
    line.ask(Order::List, &[]).map_err(silent)?;
    let mut relatives = Vec::new();
    loop {
        if !is_readable(&line, PATIENCE) {
            return Err(silent(sys::Errno::TIMEDOUT));
        }
        let Some(word) = line.hear().map_err(silent)? else { break };
        if let Word::Process { number, parent, cell, name } = word {
            relatives.push(Relative { number, parent, cell, name });
        }
    }
    Ok(relatives)
}

pub(crate) fn is_readable(line: &impl AsFd, patience: Duration) -> bool {
    let patience = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
    poll(&mut [PollFd::new(line, PollFlags::IN)], Some(&patience)).is_ok_and(|it| it > 0)
}

/// Has what was started hear of what happens in its family. Without that it is a cell nevertheless.
pub(crate) fn listening_to_news(cell: &Cell, started: Started) -> Started {
    let news = connect(cell).and_then(|line| line.ask(Order::News, &[]).map_err(silent).map(|()| line)).ok();
    Started { live: Box::new(LiveFamily { first: started.live, news, traps: 0 }), ..started }
}

/// The cell that a family began with, in the hands of its supervisor: a container, of which the tender says more.
struct LiveFamily {
    first: Box<dyn LiveCell>,
    news: Option<Line>,
    traps: u64,
}

impl LiveCell for LiveFamily {
    fn ended(&self) -> BorrowedFd<'_> {
        self.first.ended()
    }

    fn notices(&self) -> Option<BorrowedFd<'_>> {
        self.first.notices().or(self.news.as_ref().map(AsFd::as_fd))
    }

    fn notice(&mut self) -> Result<Option<Exit>> {
        // What the tender says is asked for after each notice.
        if self.first.notices().is_some() { self.first.notice() } else { Ok(None) }
    }

    fn missed(&mut self) -> Vec<Missed> {
        self.first.missed()
    }

    fn unknown(&mut self) -> Vec<UnknownCall> {
        let mut calls = Vec::new();
        while let Some(line) = self.news.as_ref().filter(|it| is_readable(it, Duration::ZERO)) {
            match line.hear() {
                Ok(Some(Word::Unknown { call, times })) => calls.push(UnknownCall { call, times }),
                Ok(Some(Word::Traps { times })) => self.traps = times,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => self.news = None,
            }
        }
        calls
    }

    fn traps(&self) -> u64 {
        self.traps
    }

    fn reap(&mut self, limits: &Limits) -> Result<Exit> {
        self.first.reap(limits)
    }

    fn signal(&self, signal: i32) -> Result<()> {
        self.first.signal(signal)
    }

    fn kill(&self) -> Result<()> {
        self.first.kill()
    }

    fn pause(&self) -> Result<()> {
        self.first.pause()
    }

    fn resume(&self) -> Result<()> {
        self.first.resume()
    }

    fn set(&mut self, limits: &Limits) -> Result<Limited> {
        self.first.set(limits)
    }

    fn dismantle(&mut self) -> Result<()> {
        self.first.dismantle()
    }
}

/// A cell that was made from another, in the hands of its supervisor.
struct LiveCopy {
    line: Line,
}

/// Why a copy is refused what only the whole family can have.
fn of_the_family(what: &str) -> Error {
    Error::Refused(format!("a cell that was forked {what} with its family: name the cell that the family began with"))
}

impl LiveCell for LiveCopy {
    fn ended(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }

    fn notices(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn notice(&mut self) -> Result<Option<Exit>> {
        Ok(None)
    }

    fn missed(&mut self) -> Vec<Missed> {
        Vec::new()
    }

    fn reap(&mut self, _: &Limits) -> Result<Exit> {
        const SIGKILL: i32 = 9;
        Ok(match self.line.hear() {
            Ok(Some(Word::Ended { status })) => crate::container::exit_of(Ended::from_wait_status(status)),
            // The tender ended, and everything in it.
            Ok(_) | Err(_) => Exit::Signal { signal: SIGKILL },
        })
    }

    fn signal(&self, signal: i32) -> Result<()> {
        let asked = self.line.ask(Order::Signal(signal), &[]);
        asked.map_err(|e| Error::io(format!("sending {}", crate::why::signal_name(signal)), e))
    }

    fn kill(&self) -> Result<()> {
        const SIGKILL: i32 = 9;
        self.signal(SIGKILL)
    }

    fn pause(&self) -> Result<()> {
        Err(of_the_family("is paused"))
    }

    fn resume(&self) -> Result<()> {
        Err(of_the_family("is resumed"))
    }

    fn set(&mut self, _: &Limits) -> Result<Limited> {
        Err(of_the_family("has its limits"))
    }

    fn dismantle(&mut self) -> Result<()> {
        Ok(())
    }
}
