//! A toolbox at a cell, or at anything else that runs on this machine.

use std::ffi::CString;
use std::path::PathBuf;

use container::Bond;
use model::{EventKind, ObjectId, Verb};
use toolbox::{Arrangement, Filters, Privileges, Target, Tools, Wish};

use crate::boundary::{Companion, boundary_for};
use crate::cell::Cell;
use crate::error::{Error, Result};
use crate::events;
use crate::observe::{ExecStreams, RunningExec};
use crate::table::Engine;

/// What a toolbox is attached to.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A cell.
    Cell(Box<Cell>),
    /// Any process of this machine.
    Process(u32),
}

/// What `debug` asks for.
#[derive(Clone, Debug)]
pub struct DebugRequest {
    /// The toolbox: the name that it was asked for by.
    pub image: String,
    /// Its root file system.
    pub tree: ObjectId,
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
    /// The kind of the caller's terminal.
    pub terminal: Option<String>,
    /// The streams.
    pub streams: ExecStreams,
}

impl Engine {
    /// Begins a session with a toolbox at `subject`.
    pub fn debug(&self, subject: &Subject, request: &DebugRequest) -> Result<RunningExec> {
        let target = self.target(subject)?;
        let layout = crate::container::layout(&self.home.pool());
        let rootfs = self.store.rootfs(&request.tree, layout, &())?;
        let text =
            |it: &String| CString::new(it.as_str()).map_err(|_| Error::Refused("the command holds a zero byte".into()));
        let wish = Wish {
            command: request.argv.iter().map(text).collect::<Result<_>>()?,
            env: request.env.clone(),
            image_env: request.image_env.clone(),
            cwd: request.cwd.clone(),
            arrangement: request.arrangement,
            privileges: request.privileges,
            terminal: request.terminal.clone(),
            stdio: crate::container::stdio(request.streams.open()?),
            bond: Bond::DiesWithCaller,
        };
        let running = toolbox::attach(&target, &Tools::Stored(&rootfs), wish)?;
        self.note_session(subject, target.name(), request);
        Ok(RunningExec { companion: Companion { running } })
    }

    fn target(&self, subject: &Subject) -> Result<Target> {
        match subject {
            Subject::Process(pid) => Ok(Target::open(&format!("process {pid}"), *pid, None, Filters::OfKernel)?),
            Subject::Cell(cell) => {
                Self::must_run(cell)?;
                boundary_for(&cell.spec, Verb::Debug)?.debug_target(cell)
            }
        }
    }

    fn note_session(&self, subject: &Subject, name: &str, request: &DebugRequest) {
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
            Subject::Cell(cell) => events::record(&self.home, cell, kind),
            Subject::Process(_) => events::record_foreign(&self.home, name, kind),
        }
    }
}
