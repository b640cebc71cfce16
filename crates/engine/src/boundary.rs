//! What the engine asks of a boundary, and the table of those that this build has.
//!
//! A boundary is an implementation of [`Boundary`]; a running cell is a [`LiveCell`] in the hands of its supervisor.
//! **Nothing above this module knows which boundary a cell has**: a verb that a boundary lacks is refused here, by name,
//! with the boundary that has it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use container::{Attendant, Bond};
use model::{CellSpec, Degraded, Engine, Exit, Limits, Missed, Process, Verb};

use crate::cell::{Cell, UnknownCall};
use crate::container::Containers;
use crate::error::{Error, Result};
use crate::machine::Machines;
use crate::stats::Stats;
use crate::unikernel::Unikernels;
use crate::wire::CopyFrom;

/// How to separate a cell from the rest.
pub(crate) trait Boundary: Sync {
    /// Its name.
    fn kind(&self) -> model::Boundary;

    /// What will execute such a new cell's instructions here.
    fn engine(&self, spec: &CellSpec) -> Result<Engine>;

    /// What can be asked of its cells.
    fn verbs(&self) -> &'static [Verb];

    /// Makes the cell and executes its program; returns when the program runs. On failure nothing is left behind.
    fn start(&self, request: &StartRequest<'_>, streams: ProgramStreams) -> Result<Started>;

    /// Runs a further program beside the cell's own; with an attendant, what it uses is announced to that.
    fn exec(
        &self,
        cell: &Cell,
        process: &Process,
        streams: ProgramStreams,
        bond: Bond,
        attendant: Option<&mut dyn Attendant>,
    ) -> Result<Companion>;

    /// Measures what the cell uses.
    fn stats(&self, cell: &Cell) -> Result<Stats>;

    /// The processes of the cell, by their numbers on the host.
    fn processes(&self, cell: &Cell) -> Result<Vec<u32>>;

    /// The root directory of the cell, running or not, through which alone its files are reached.
    fn root(&self, cell: &Cell, rootfs: &store::Rootfs) -> Result<OwnedFd>;

    /// The cell's program, for a toolbox to be attached to.
    fn debug_target(&self, cell: &Cell) -> Result<toolbox::Target>;

    /// Makes the surroundings of a cell that does not run, for a toolbox to be attached to.
    fn debug_stopped(&self, cell: &Cell, rootfs: &store::Rootfs) -> Result<(toolbox::Target, container::Prepared)>;

    /// Where copies of its cells live.
    fn copies(&self) -> Copies {
        Copies::Within
    }

    /// Makes the cell again with each of those standard streams, running on from there, within the cell itself.
    fn fork(&self, cell: &Cell, streams: Vec<ProgramStreams>, from: CopyFrom) -> Result<Vec<Result<Forked>>> {
        let _ = (streams, from);
        Err(lacks(&cell.spec, Verb::Fork))
    }

    /// Has the cell stand still, for others to be started from there.
    fn stand(&self, cell: &Cell) -> Result<Standing> {
        Err(lacks(&cell.spec, Verb::Fork))
    }

    /// Keeps the cell's whole state.
    fn keep(&self, cell: &Cell, keeping: &Keeping) -> Result<()> {
        let _ = keeping;
        Err(lacks(&cell.spec, Verb::Snapshot))
    }

    /// Writes the cell's program into a file, as a core.
    fn write_core(&self, cell: &Cell, file: OwnedFd) -> Result<()> {
        drop(file);
        Err(lacks(&cell.spec, Verb::Dump))
    }

    /// The processes of the cell's family, by the numbers that they know, of every cell of it.
    fn family(&self, cell: &Cell) -> Result<Vec<Relative>> {
        Err(lacks(&cell.spec, Verb::Fork))
    }

    /// Takes apart whatever a vanished supervisor left of the cell.
    fn clear(&self, cell: &Cell) -> Result<()>;

    /// The same for a cell of which only the identity is known.
    fn clear_remains(&self, id: model::CellId) -> Result<()>;
}

/// What a boundary needs to know to start a cell.
pub(crate) struct StartRequest<'a> {
    pub(crate) cell: &'a Cell,
    pub(crate) rootfs: store::Rootfs,
    pub(crate) net: &'a net::Net,
    pub(crate) store: &'a store::Store,
    pub(crate) origin: Origin<'a>,
    /// The running cell whose IPC it joins.
    pub(crate) neighbour: Option<Cell>,
}

impl<'a> StartRequest<'a> {
    /// The same request once more.
    pub(crate) fn again(&self) -> StartRequest<'a> {
        StartRequest {
            cell: self.cell,
            rootfs: self.rootfs.clone(),
            net: self.net,
            store: self.store,
            origin: self.origin,
            neighbour: self.neighbour.clone(),
        }
    }
}

/// What a cell begins with.
#[derive(Clone, Copy)]
pub(crate) enum Origin<'a> {
    /// Its program.
    Program,
    /// Where it was kept, in that directory.
    Snapshot(&'a Path),
    /// Where another cell stood, by the files of what it was.
    Standing(&'a [OwnedFd]),
}

/// Where copies of a boundary's cells live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copies {
    /// In what the cell lives in: they end with it.
    Within,
    /// In one of their own.
    Apart,
}

/// A cell that stands still until this is dropped, by the files of what it is.
pub(crate) struct Standing {
    pub(crate) files: Vec<OwnedFd>,
    /// As long as this is there.
    pub(crate) line: unikernel::control::Line,
}

/// The two files of a snapshot.
#[derive(Debug)]
pub(crate) struct Keeping {
    /// What is said about it.
    pub(crate) state: OwnedFd,
    /// Its pages.
    pub(crate) bytes: OwnedFd,
}

/// The standard streams that a program is given.
pub(crate) enum ProgramStreams {
    /// A new pseudo-terminal of that size (rows, columns).
    Pty(u16, u16),
    /// These three.
    Three { stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd },
}

/// A cell whose program runs, and what it took to get there.
pub(crate) struct Started {
    pub(crate) live: Box<dyn LiveCell>,
    pub(crate) pid: u32,
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) cgroup: Option<container::cgroup::Cgroup>,
    pub(crate) attachment: Option<net::Attachment>,
    pub(crate) service: Option<net::Service>,
    pub(crate) degraded: Vec<Degraded>,
}

/// A cell that was made from a running one.
pub(crate) struct Forked {
    pub(crate) live: Box<dyn LiveCell>,
    /// The number of its first process in the family.
    pub(crate) number: u32,
}

/// A process of a family.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Relative {
    /// Its number.
    pub number: u32,
    /// The number of its parent; 0 when that is not of the family.
    pub parent: u32,
    /// The number of its cell's first process.
    pub cell: u32,
    /// Its program.
    pub name: String,
}

/// A running cell in the hands of its supervisor. Dropping it does not end it; [`LiveCell::dismantle`] does.
pub(crate) trait LiveCell {
    /// Becomes readable when the cell has ended.
    fn ended(&self) -> BorrowedFd<'_>;

    /// Becomes readable when [`LiveCell::notice`] has something to say.
    fn notices(&self) -> Option<BorrowedFd<'_>>;

    /// Handles what the boundary has to say; an exit if it means that the cell must end for that reason.
    fn notice(&mut self) -> Result<Option<Exit>>;

    /// What its programs missed of the image that it was slimmed from, since the last call.
    fn missed(&mut self) -> Vec<Missed>;

    /// System calls of its programs that its boundary does not have, as far as that is new.
    fn unknown(&mut self) -> Vec<UnknownCall> {
        Vec::new()
    }

    /// How many system calls of its programs came by a trap, as far as that is known.
    fn traps(&self) -> u64 {
        0
    }

    /// Collects the ending. Call once, after [`LiveCell::ended`] became readable.
    fn reap(&mut self, limits: &Limits) -> Result<Exit>;

    /// Sends the program a signal.
    fn signal(&self, signal: i32) -> Result<()>;

    /// Ends every process of the cell at once.
    fn kill(&self) -> Result<()>;

    /// Stops its processors.
    fn pause(&self) -> Result<()>;

    /// Lets them go on.
    fn resume(&self) -> Result<()>;

    /// Applies these limits in place of the present ones.
    fn set(&mut self, limits: &Limits) -> Result<Limited>;

    /// Removes what is left of the ended cell on the host.
    fn dismantle(&mut self) -> Result<()>;
}

/// What came of new limits.
pub(crate) struct Limited {
    /// What could not be applied.
    pub(crate) degraded: Vec<Degraded>,
    /// The cell's control groups: a limit may have needed one more.
    pub(crate) cgroup: Option<container::cgroup::Cgroup>,
}

/// A program that was started beside a cell's own, a child of the caller.
pub(crate) struct Companion {
    pub(crate) running: container::Running,
}

const TABLE: &[&dyn Boundary] = &[&Containers, &Unikernels, &Machines];

/// Takes apart whatever is left of a cell, whichever boundary it had.
pub(crate) fn clear_all(id: model::CellId) -> Result<()> {
    TABLE.iter().try_for_each(|it| it.clear_remains(id))
}

/// The boundary by that name, if this build has it.
pub(crate) fn boundary(kind: model::Boundary) -> Result<&'static dyn Boundary> {
    TABLE.iter().copied().find(|it| it.kind() == kind).ok_or(Error::NoBoundary(kind))
}

/// The cell's boundary, if it can do that; else an error that names one which can.
pub(crate) fn boundary_for(spec: &CellSpec, verb: Verb) -> Result<&'static dyn Boundary> {
    let boundary = boundary(spec.boundary)?;
    let is_own = spec.machine.as_ref().is_some_and(|it| it.first == model::FirstProgram::Disks);
    if is_own && matches!(verb, Verb::Exec | Verb::Copy) {
        return Err(Error::OwnSystem { cell: spec.name.clone(), verb });
    }
    if boundary.verbs().contains(&verb) {
        return Ok(boundary);
    }
    Err(lacks(spec, verb))
}

/// Why a cell's boundary cannot do that, with one that can.
pub(crate) fn lacks(spec: &CellSpec, verb: Verb) -> Error {
    let by =
        model::Boundary::ALL.iter().copied().find(|kind| boundary(*kind).is_ok_and(|it| it.verbs().contains(&verb)));
    Error::Unsupported { boundary: spec.boundary, verb, by }
}
