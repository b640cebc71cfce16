//! Looking at a running cell, and running further programs in it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use container::{Bond, Ended};
use model::{ByteSize, EventKind, Exit, Process, Verb};
use serde::Serialize;

use crate::boundary::{Companion, ProgramStreams, boundary_for};
use crate::cell::Cell;
use crate::debug::Opened;
use crate::error::{Error, Result};
use crate::events;
use crate::stats::Stats;
use crate::table::Engine;

/// One process of a cell, for `skep top`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessRow {
    /// Its number on the host.
    pub pid: u32,
    /// Its number in the cell.
    pub cell_pid: u32,
    /// Its user's number on the host.
    pub uid: u32,
    /// `proc_pid_stat(5)`'s letter: `R`unning, `S`leeping, …
    pub state: char,
    /// Memory that is in use.
    pub memory: ByteSize,
    /// Its command line.
    pub command: String,
}

impl Engine {
    pub(crate) fn must_run(cell: &Cell) -> Result<()> {
        if cell.record.state.is_live() {
            return Ok(());
        }
        Err(Error::NotRunning { cell: cell.spec.name.clone(), state: cell.record.state.word() })
    }

    /// Measures what a running cell uses.
    pub fn stats(&self, cell: &Cell) -> Result<Stats> {
        Self::must_run(cell)?;
        boundary_for(&cell.spec, Verb::Stats)?.stats(cell)
    }

    /// The processes of a running cell.
    pub fn processes(&self, cell: &Cell) -> Result<Vec<ProcessRow>> {
        Self::must_run(cell)?;
        let pids = boundary_for(&cell.spec, Verb::Stats)?.processes(cell)?;
        // A process that ends while it is looked at is left out.
        Ok(pids.into_iter().filter_map(process_row).collect())
    }

    /// Runs a further program in a running cell, on the given streams, as a child of this process.
    pub fn exec(&self, cell: &Cell, process: &Process, streams: ExecStreams) -> Result<RunningExec> {
        Self::must_run(cell)?;
        if matches!(cell.record.state, model::State::Paused { .. }) {
            // It would stand still at once, and its caller with it.
            let refusal = model::IllegalTransition { from: cell.record.state.word(), input: "run a further program" };
            return Err(Error::State { cell: cell.spec.name.clone(), refusal });
        }
        let boundary = boundary_for(&cell.spec, Verb::Exec)?;
        // Nobody stays to take its streams: it goes on without its caller.
        let bond = match streams {
            ExecStreams::Nothing => Bond::OnItsOwn,
            ExecStreams::Pty(..) | ExecStreams::Three(..) => Bond::DiesWithCaller,
        };
        let companion = boundary.exec(cell, process, streams.open()?, bond, None)?;
        events::record(&self.home, cell, EventKind::Executed { command: process.argv.join(" ") });
        Ok(RunningExec { companion, opened: None, lazy: None, remains: None })
    }
}

/// The streams of an `exec`.
#[derive(Debug)]
pub enum ExecStreams {
    /// A new terminal of so many rows and columns.
    Pty(u16, u16),
    /// These three: standard input (nothing when there is none), output and error. **None of them is to be a terminal of
    /// the caller's**: a program that gets hold of one can read what is typed there later.
    Three(Option<OwnedFd>, OwnedFd, OwnedFd),
    /// None.
    Nothing,
}

impl ExecStreams {
    pub(crate) fn open(self) -> Result<ProgramStreams> {
        let null = crate::supervisor::open_null;
        Ok(match self {
            Self::Pty(rows, columns) => ProgramStreams::Pty(rows, columns),
            Self::Three(stdin, stdout, stderr) => {
                let stdin = stdin.map_or_else(null, Ok)?;
                ProgramStreams::Three { stdin, stdout, stderr }
            }
            Self::Nothing => ProgramStreams::Three { stdin: null()?, stdout: null()?, stderr: null()? },
        })
    }
}

/// A program that was started by `exec` or `debug`.
pub struct RunningExec {
    pub(crate) companion: Companion,
    /// Closed when the program has ended.
    pub(crate) opened: Option<Opened>,
    /// What serves the files of its toolbox.
    pub(crate) lazy: Option<toolbox::lazy::Lazy>,
    /// What may be left when its session ends other than by itself.
    pub(crate) remains: Option<toolbox::Remains>,
}

impl RunningExec {
    /// Becomes readable when the program has ended.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.companion.running.ended()
    }

    /// The near end of its terminal; gives it once.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.companion.running.terminal.take()
    }

    /// Its number on the host.
    pub fn pid(&self) -> u32 {
        self.companion.running.pid
    }

    /// Where it is written down what goes wrong with the registry that its files come from, if they do.
    pub fn troubles(&self) -> Option<toolbox::lazy::Troubles> {
        self.lazy.as_ref()?.troubles()
    }

    /// Sends it a signal; one that has ended meanwhile gets none.
    pub fn signal(&self, signal: i32) {
        let _ = sys::process::send_signal(self.companion.running.pidfd.as_fd(), signal);
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Result<Exit> {
        let ended = self.companion.running.reap()?;
        if let (Ended::Signal(_), Some(remains)) = (ended, self.remains) {
            remains.end();
        }
        drop((self.opened.take(), self.lazy.take()));
        Ok(crate::container::exit_of(ended))
    }
}

fn process_row(pid: u32) -> Option<ProcessRow> {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
    let status = read("status")?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let command = read("cmdline").unwrap_or_default().trim_end_matches('\0').replace('\0', " ");
    let resident: u64 = field("VmRSS").and_then(|it| it.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0);
    Some(ProcessRow {
        pid,
        cell_pid: field("NSpid")?.split_ascii_whitespace().next_back()?.parse().ok()?,
        uid: field("Uid")?.split_ascii_whitespace().next()?.parse().ok()?,
        state: field("State")?.trim().chars().next()?,
        memory: ByteSize::bytes(resident << 10),
        command: if command.is_empty() { format!("[{}]", field("Name")?.trim()) } else { command },
    })
}
