//! A toolbox at a cell, or at anything else that runs on this machine.

use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use model::{CellSpec, EventKind, ObjectId, State, Verb};
use toolbox::engines::Found;
use toolbox::lazy::{Lazy, Serving};
use toolbox::{Arrangement, Filters, Privileges, Target, Tools, Trust, Wish};

use crate::boundary::{Companion, boundary_for};
use crate::build::builder_label;
use crate::cell::{Cell, CellLock};
use crate::error::{Error, Result};
use crate::events;
use crate::observe::{ExecStreams, RunningExec};
use crate::table::Engine;

/// What a toolbox is attached to.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A cell. One that does not run is made ready as if it were started, and cannot be started while it is looked at.
    Cell(Box<Cell>),
    /// An image, as a cell that would be made of it.
    Image(Box<CellSpec>),
    /// A container of another engine.
    Container(Box<Found>),
    /// Any process of this machine.
    Process(u32),
}

/// The files of a toolbox.
pub enum ToolboxFiles<'a> {
    /// Those of a tree in the pool, all unpacked before the session begins; once for all sessions.
    Before(ObjectId),
    /// Each unpacked when it is first read, where the machine can do that; else all of them before.
    OnDemand(ObjectId),
    /// Those of an image in a registry, each fetched when it is first read.
    Remote {
        /// The image.
        remote: &'a image::Remote,
        /// Brings its tree into the pool, for a machine that cannot do that.
        otherwise: &'a dyn Fn() -> Result<ObjectId>,
    },
}

impl ToolboxFiles<'_> {
    /// The tree in the pool that has them all.
    fn tree(&self) -> Result<ObjectId> {
        match self {
            Self::Before(tree) | Self::OnDemand(tree) => Ok(*tree),
            Self::Remote { otherwise, .. } => otherwise(),
        }
    }
}

/// What `debug` asks for.
pub struct DebugRequest<'a> {
    /// The toolbox: the name that it was asked for by.
    pub image: String,
    /// Its root file system.
    pub files: ToolboxFiles<'a>,
    /// Its own environment, as `NAME=value`.
    pub image_env: Vec<String>,
    /// The command and its arguments.
    pub argv: Vec<String>,
    /// `NAME=value` pairs over the target's.
    pub env: Vec<String>,
    /// Where to start.
    pub cwd: Option<PathBuf>,
    /// Which file system is the root.
    pub arrangement: Arrangement,
    /// More privileges than the target's?
    pub privileges: Privileges,
    /// What the target is thought capable of.
    pub trust: Trust,
    /// The kind of the caller's terminal.
    pub terminal: Option<String>,
}

impl Engine {
    /// Begins a session with a toolbox at `subject`, on those streams.
    pub fn debug(&self, subject: &Subject, request: &DebugRequest<'_>, streams: ExecStreams) -> Result<RunningExec> {
        let (target, opened) = self.open_subject(subject)?;
        let text =
            |it: &String| CString::new(it.as_str()).map_err(|_| Error::Refused("the command holds a zero byte".into()));
        let wish = Wish {
            command: request.argv.iter().map(text).collect::<Result<_>>()?,
            env: request.env.clone(),
            image_env: request.image_env.clone(),
            cwd: request.cwd.clone(),
            arrangement: request.arrangement,
            privileges: request.privileges,
            trust: request.trust,
            terminal: request.terminal.clone(),
            stdio: crate::container::stdio(streams.open()?),
        };
        let lazy = self.lazy(&target, &request.files)?;
        let running = match &lazy {
            Some(lazy) => toolbox::attach(&target, &Tools::Lazy(lazy), wish)?,
            None => toolbox::attach(&target, &Tools::Stored(&self.rootfs(&request.files.tree()?)?), wish)?,
        };
        self.note_session(subject, target.name(), request);
        let remains = Some(toolbox::Remains::of(&running));
        Ok(RunningExec { companion: Companion { running }, opened, lazy, remains })
    }

    /// Writes the memory and the registers of a running cell's program into a file, as a core for a debugger. The program
    /// stands still meanwhile.
    pub fn write_core(&self, cell: &Cell, file: OwnedFd) -> Result<()> {
        let boundary = boundary_for(&cell.spec, Verb::Dump)?;
        if !matches!(cell.record.state, State::Running { .. }) {
            return Err(Error::NotRunning { cell: cell.spec.name.clone(), state: cell.record.state.word() });
        }
        boundary.write_core(cell, file)
    }

    /// Has a debugger, on that connection, speak with a running cell's machine in gdb's remote protocol.
    pub fn connect_debugger(&self, cell: &Cell, connection: BorrowedFd<'_>) -> Result<()> {
        if cell.spec.boundary != model::Boundary::Machine || crate::native::is_native(&cell.spec) {
            return Err(Error::NoProcessor { cell: cell.spec.name.clone(), boundary: cell.spec.boundary });
        }
        if !matches!(cell.record.state, State::Running { .. }) {
            return Err(Error::NotRunning { cell: cell.spec.name.clone(), state: cell.record.state.word() });
        }
        crate::family::admit_debugger(cell, connection)
    }

    /// The toolbox as its files come on demand, if that is wanted and can be.
    fn lazy(&self, target: &Target, files: &ToolboxFiles<'_>) -> Result<Option<Lazy>> {
        let serving = Serving::Process(&["skep", toolbox::lazy::SERVE]);
        let owners = target.user_namespace();
        let lazy = match files {
            ToolboxFiles::Before(_) => return Ok(None),
            ToolboxFiles::OnDemand(tree) => Lazy::start(&self.store, tree, owners, serving),
            ToolboxFiles::Remote { remote, .. } => Lazy::start_remote(&self.store, remote, owners, serving),
        };
        match lazy {
            Ok(lazy) => Ok(Some(lazy)),
            // What is wanted is a session soon; that it takes longer here is no reason to have none.
            Err(toolbox::Error::NotLazy { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn rootfs(&self, tree: &ObjectId) -> Result<store::Rootfs> {
        let layout = crate::container::layout(&self.home.pool());
        Ok(self.store.rootfs(tree, layout, &())?)
    }

    fn open_subject(&self, subject: &Subject) -> Result<(Target, Option<Opened>)> {
        match subject {
            Subject::Process(pid) => {
                Ok((Target::open(&format!("process {pid}"), *pid, None, Filters::OfKernel)?, None))
            }
            Subject::Container(found) => {
                let name = found.to_string();
                let process = found.process.ok_or_else(|| toolbox::Error::Stopped(name.clone()))?;
                Ok((Target::open(&name, process.pid, Some(process.began), Filters::OfKernel)?, None))
            }
            Subject::Cell(cell) if cell.record.state.is_live() => {
                Ok((boundary_for(&cell.spec, Verb::Debug)?.debug_target(cell)?, None))
            }
            Subject::Cell(cell) => {
                let lock = self.lock_idle(cell, "be looked into")?;
                let (target, held) = self.hold(cell)?;
                Ok((target, Some(Opened { held: Some(held), lock: Some(lock), image: None })))
            }
            Subject::Image(spec) => {
                self.remove_orphaned_builds()?;
                let mut spec = spec.clone();
                spec.labels.extend([builder_label()?]);
                let (cell, lock) = self.create(*spec)?;
                let mut opened = Opened {
                    held: None,
                    lock: Some(lock),
                    image: Some((Self::open(self.home.clone())?, cell.clone())),
                };
                let (target, held) = self.hold(&cell)?;
                opened.held = Some(held);
                Ok((target, Some(opened)))
            }
        }
    }

    fn hold(&self, cell: &Cell) -> Result<(Target, container::Prepared)> {
        let rootfs = self.rootfs(&cell.spec.image.tree)?;
        boundary_for(&cell.spec, Verb::Debug)?.debug_stopped(cell, &rootfs)
    }

    fn note_session(&self, subject: &Subject, name: &str, request: &DebugRequest<'_>) {
        let privileges = match request.privileges {
            Privileges::AsTarget => "target",
            Privileges::Tracing => "tracing",
        };
        let kind = EventKind::Debugged {
            toolbox: request.image.clone(),
            command: request.argv.join(" "),
            privileges: privileges.to_owned(),
        };
        match subject {
            Subject::Image(_) => {}
            Subject::Cell(cell) => events::record(&self.home, cell, kind),
            Subject::Container(_) | Subject::Process(_) => events::record_foreign(&self.home, name, kind),
        }
    }
}

/// What was opened for a session to look at, and is closed after it.
pub(crate) struct Opened {
    held: Option<container::Prepared>,
    lock: Option<CellLock>,
    /// The cell that stands for an image.
    image: Option<(Engine, Cell)>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        // In this order: nobody can start the cell before its surroundings are gone.
        drop(self.held.take());
        drop(self.lock.take());
        if let Some((engine, cell)) = self.image.take() {
            // One that stays is removed by the next who makes such a cell.
            let _ = engine.remove(cell);
        }
    }
}
