//! The unikernel boundary as the engine sees it: a container in which, in the program's place, a tender runs the program as
//! a guest. What is outside the guest is the container's: its root file system, its network, its control groups.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use container::{Attendant, Body, Bond, Ended, Inhabitant, Prepared, Resident};
use model::{CellId, Process, Verb};
use store::Rootfs;

use crate::boundary::{Boundary, Companion, ProgramStreams, StartRequest, Started, lacks};
use crate::cell::Cell;
use crate::container::Containers;
use crate::error::Result;
use crate::stats::Stats;

/// The boundary.
pub(crate) struct Unikernels;

impl Boundary for Unikernels {
    fn kind(&self) -> model::Boundary {
        model::Boundary::Unikernel
    }

    fn verbs(&self) -> &'static [Verb] {
        &[Verb::Logs, Verb::Copy, Verb::Attach, Verb::Pause, Verb::Set, Verb::Stats]
    }

    fn start(&self, request: &StartRequest<'_>, streams: ProgramStreams) -> Result<Started> {
        crate::container::start(request, streams, Body::Resident(Arc::new(Tender)))
    }

    fn exec(
        &self,
        cell: &Cell,
        _process: &Process,
        _streams: ProgramStreams,
        _bond: Bond,
        _attendant: Option<&mut dyn Attendant>,
    ) -> Result<Companion> {
        Err(lacks(&cell.spec, Verb::Exec))
    }

    fn stats(&self, cell: &Cell) -> Result<Stats> {
        Containers.stats(cell)
    }

    fn processes(&self, cell: &Cell) -> Result<Vec<u32>> {
        Containers.processes(cell)
    }

    fn root(&self, cell: &Cell, rootfs: &Rootfs) -> Result<OwnedFd> {
        Containers.root(cell, rootfs)
    }

    fn debug_target(&self, cell: &Cell) -> Result<toolbox::Target> {
        Err(lacks(&cell.spec, Verb::Debug))
    }

    fn debug_stopped(&self, cell: &Cell, _rootfs: &Rootfs) -> Result<(toolbox::Target, Prepared)> {
        Err(lacks(&cell.spec, Verb::Debug))
    }

    fn clear(&self, cell: &Cell) -> Result<()> {
        Containers.clear(cell)
    }

    fn clear_remains(&self, id: CellId) -> Result<()> {
        Containers.clear_remains(id)
    }
}

/// The tender, in the cell's namespaces.
#[derive(Debug)]
struct Tender;

/// How many files a process of a guest may have open, unless it asks for fewer.
const OPEN_FILES: usize = 1024;

impl Resident for Tender {
    fn live(&self, command: &Inhabitant<'_>) -> Ended {
        let text = |it: &std::ffi::CString| it.to_string_lossy().into_owned();
        let stream = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned();
        let streams = (stream(std::io::stdin().as_fd()), stream(std::io::stdout().as_fd()), stream(std::io::stderr().as_fd()));
        let (Ok(stdin), Ok(stdout), Ok(stderr)) = streams else { return Ended::Code(125) };
        let guest = unikernel::Guest {
            path: PathBuf::from(std::ffi::OsStr::from_bytes(command.path.to_bytes())),
            arguments: command.arguments.iter().map(text).collect(),
            environment: command.environment.iter().map(text).collect(),
            directory: PathBuf::from(std::ffi::OsStr::from_bytes(command.working_directory.to_bytes())),
            user: command.uid,
            group: command.gid,
            groups: command.groups.to_vec(),
            streams: [stdin, stdout, stderr],
            open_files: OPEN_FILES,
        };
        match unikernel::run(guest) {
            Ok(outcome) => Ended::from_wait_status(outcome.status),
            Err(error) => {
                unikernel::say(&format!("the unikernel did not start: {error}"));
                Ended::Code(125)
            }
        }
    }
}
