//! Build cells: a step in the making of an image that has to run programs of that image.
//!
//! A build cell is a cell like any other, so that it is confined, logged and recovered like any other; it has no network,
//! and the label [`BUILD_LABEL`] names the process that waits for it. **Whatever happens to that process, its build cell
//! does not stay**: the next build removes those whose builder is gone.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use model::{
    Arch, Boundary, CellId, CellImage, CellName, CellSpec, Exit, ExitReport, Init, Ipc, Lifetime, Limits, LogPolicy,
    NetMode, Network, ObjectId, Process, Progress, RestartPolicy, Security, Span, Stdin, StopPolicy, Terminal,
    UserSpec, Watch,
};

use crate::cell::Cell;
use crate::client::Said;
use crate::clock::now;
use crate::error::{Error, Result};
use crate::launch::Attach;
use crate::process::ProcessIdentity;
use crate::table::Engine;

/// The label of build cells; its value is the process that waits for the cell, as `PID:BEGAN`.
pub const BUILD_LABEL: &str = "skep.build";

const SIGKILL: i32 = 9;

/// What of a failed step's output its error shows.
const SHOWN_LINES: usize = 12;
/// As much of the end of the output is held while the step runs.
const HELD_BYTES: usize = 16 << 10;

/// A command to run on a root file system.
#[derive(Clone, Copy, Debug)]
pub struct BuildStep<'a> {
    /// What is being done, for whoever waits: a line of its own.
    pub what: &'a str,
    /// The name of the image that it is for.
    pub image: &'a str,
    /// The root file system. Whoever asks holds it in the pool, by a reader that was opened before it was published.
    pub tree: ObjectId,
    /// The processor that its programs are for.
    pub arch: Arch,
    /// The command, run as root.
    pub command: &'a [String],
    /// Its whole environment.
    pub env: &'a [String],
}

impl Engine {
    /// Runs a step in a cell of its own and, when it succeeded, calls `take` with the directory where the host sees what
    /// the step made of the root file system, nothing mounted inside. The cell is removed in any case.
    ///
    /// # Errors
    /// [`Error::Build`] with the last lines of the step's output when its command failed; whatever `take` gives.
    pub fn build<T, E: From<Error>>(
        &self,
        step: &BuildStep<'_>,
        progress: &dyn Progress,
        take: impl FnOnce(&Path) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        self.remove_orphaned_builds()?;
        let (cell, lock) = self.create(self.build_spec(step)?)?;
        let cell = Doomed { engine: self, cell };
        progress.begin(step.what, None);
        let mut conversation = self.start(&cell.cell, lock, Attach::Streams(None))?;
        let mut output = Tail::default();
        let report = loop {
            match conversation.next_word()? {
                Said::Started(_) => {}
                Said::Output(_, bytes) => {
                    progress.advance(bytes.len() as u64);
                    output.push(&bytes);
                }
                Said::Exited(report) => break report,
            }
        };
        progress.end();
        succeeded(report, step, &output)?;
        let taken = self.with_stopped_root(&cell.cell, take);
        cell.remove()?;
        taken
    }

    /// Calls `take` with the root directory of a cell that has ended. Nobody can start the cell meanwhile.
    pub(crate) fn with_stopped_root<T, E: From<Error>>(
        &self,
        cell: &Cell,
        take: impl FnOnce(&Path) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let _lock = self.lock_idle(cell, "be read")?;
        // Read anew: the record in hand is from before the start, the cell's first process is gone since.
        let cell = Cell::read(cell.dir.clone())?;
        let layout = crate::container::layout(&self.home.pool());
        let rootfs = self.store.rootfs(&cell.spec.image.tree, layout, &()).map_err(Error::from)?;
        let root = crate::boundary::boundary(cell.spec.boundary)?.root(&cell, &rootfs)?;
        // The overlay is mounted nowhere: its descriptor is the only way to it.
        take(&PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd())))
    }

    fn build_spec(&self, step: &BuildStep<'_>) -> Result<CellSpec> {
        let id = self.fresh_id()?;
        let name = build_name(id);
        Ok(CellSpec {
            id,
            hostname: "localhost".to_owned(),
            name,
            image: CellImage { name: step.image.to_owned(), id: step.tree, tree: step.tree, arch: step.arch },
            boundary: Boundary::Container,
            process: Process {
                argv: step.command.to_vec(),
                env: step.env.to_vec(),
                cwd: "/".into(),
                user: UserSpec::default(),
                terminal: Terminal::None,
                stdin: Stdin::Closed,
            },
            limits: Limits::default(),
            network: Network { mode: NetMode::None, ..Network::default() },
            ipc: Ipc::Private,
            mounts: Vec::new(),
            security: Security::default(),
            init: Init::Reaper,
            restart: RestartPolicy::No,
            stop: StopPolicy::default(),
            log: LogPolicy::default(),
            // Its files are wanted after its end.
            lifetime: Lifetime::Keep,
            watch: Watch::Nothing,
            machine: None,
            labels: BTreeMap::from([builder_label()?]),
            created: now(),
        })
    }

    /// Removes build cells that nobody waits for any more.
    pub(crate) fn remove_orphaned_builds(&self) -> Result<()> {
        for cell in self.cells()? {
            let Some(label) = cell.spec.labels.get(BUILD_LABEL) else { continue };
            if !builder(label).is_some_and(|it| it.is_alive()) {
                self.end_and_remove(&cell)?;
            }
        }
        crate::slim::remove_orphaned_files(&self.home);
        Ok(())
    }

    fn end_and_remove(&self, cell: &Cell) -> Result<()> {
        let cell = match self.find(&cell.spec.id.to_string()) {
            Err(Error::NoSuchCell { .. }) => return Ok(()),
            other => other?,
        };
        if cell.record.state.needs_supervisor() {
            // One that ends by itself meanwhile is as good.
            let _ = self.stop(&cell, SIGKILL, Span::millis(0));
        }
        match self.remove(cell) {
            // Whoever else removes what is orphaned may be first.
            Ok(()) | Err(Error::State { .. } | Error::NoSuchCell { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn build_name(id: CellId) -> CellName {
    let text = format!("build-{id}");
    text.parse().unwrap_or_else(|_| CellName::generated(id))
}

/// The label of a cell that shall not outlive the calling process.
pub(crate) fn builder_label() -> Result<(String, String)> {
    let builder = ProcessIdentity::of(std::process::id())
        .ok_or_else(|| Error::io("reading when this process began", std::io::ErrorKind::NotFound))?;
    Ok((BUILD_LABEL.to_owned(), format!("{}:{}", builder.pid, builder.began)))
}

pub(crate) fn builder(label: &str) -> Option<ProcessIdentity> {
    let (pid, began) = label.split_once(':')?;
    Some(ProcessIdentity { pid: pid.parse().ok()?, began: began.parse().ok()? })
}

fn succeeded(report: ExitReport, step: &BuildStep<'_>, output: &Tail) -> Result<()> {
    match report.exit {
        Exit::Code { code: 0 } => Ok(()),
        Exit::NotStarted { step, error } => Err(Error::Start { step, message: error }),
        exit => Err(Error::Build { what: step.what.to_owned(), exit, output: output.last_lines() }),
    }
}

/// A cell that does not outlive this value.
pub(crate) struct Doomed<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) cell: Cell,
}

impl Doomed<'_> {
    /// Removes the cell, telling what keeps it from being removed.
    pub(crate) fn remove(self) -> Result<()> {
        self.engine.end_and_remove(&self.cell)
    }
}

impl Drop for Doomed<'_> {
    fn drop(&mut self) {
        if self.cell.dir.exists() {
            // On the way out of a failure, which is what is told; the next build tries again.
            let _ = self.engine.end_and_remove(&self.cell);
        }
    }
}

/// The end of a program's output.
#[derive(Debug, Default)]
pub(crate) struct Tail(Vec<u8>);

impl Tail {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        if self.0.len() > 2 * HELD_BYTES {
            self.0.drain(..self.0.len() - HELD_BYTES);
        }
    }

    pub(crate) fn contains(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.0).contains(text)
    }

    pub(crate) fn last_lines(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let from = lines.len().saturating_sub(SHOWN_LINES);
        lines.into_iter().skip(from).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_holds_the_last_lines_whatever_came_before() {
        let mut tail = Tail::default();
        for number in 0..20_000 {
            tail.push(format!("line {number}\n\n").as_bytes());
        }
        let lines = tail.last_lines();
        assert_eq!(lines.lines().count(), SHOWN_LINES);
        assert!(lines.starts_with("line 19988\n") && lines.ends_with("line 19999"), "{lines}");
        assert!(tail.0.len() <= 2 * HELD_BYTES);
    }

    #[test]
    fn labels_tell_the_builder() {
        let own = ProcessIdentity::of(std::process::id()).unwrap();
        assert_eq!(builder(&format!("{}:{}", own.pid, own.began)), Some(own));
        for wrong in ["", "1", "a:b", "1:", ":1"] {
            assert_eq!(builder(wrong), None, "{wrong}");
        }
    }
}
