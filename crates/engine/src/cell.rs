//! One cell on disk: its specification, its record, and the lock that tells whether a supervisor is alive.
//!
//! **The lock is the truth.** A supervisor holds `lock` for as long as it lives; the kernel lets go of it when the
//! supervisor dies, however it dies. A record that claims a live cell while nobody holds the lock was left by a crash, and
//! [`crate::recover`] replaces it before anybody is shown it. Only the holder of the lock writes `state.json`.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use model::{CellId, CellSpec, Degraded, Engine, Missed, State};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::disk::{self, Durability};
use crate::error::{Error, Result};
use crate::process::ProcessIdentity;

/// A cell as it was when it was read.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Its directory.
    pub dir: PathBuf,
    /// What was asked for.
    pub spec: CellSpec,
    /// How it is.
    pub record: Record,
}

/// How a cell is: the content of `state.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Where it is in its life.
    pub state: State,
    /// What executes it.
    pub engine: Engine,
    /// Its first process, while it runs.
    pub process: Option<ProcessIdentity>,
    /// Its supervisor, while there is one.
    pub supervisor: Option<ProcessIdentity>,
    /// How often it was started, restarts included.
    pub runs: u32,
    /// Its control groups, from before the first process enters them until they are removed.
    pub cgroup: Option<container::cgroup::Cgroup>,
    /// Its place in a network, likewise.
    pub attachment: Option<net::Attachment>,
    /// What it asked for and did not get.
    pub degraded: Vec<Degraded>,
    /// What its programs missed of the image that it was slimmed from.
    #[serde(default)]
    pub missed: Vec<Missed>,
    /// System calls that its programs made and its boundary does not have.
    #[serde(default)]
    pub unknown: Vec<UnknownCall>,
    /// How many system calls of its programs came by a trap, in the run that ended last.
    #[serde(default)]
    pub traps: u64,
    /// Where it comes from, when it was made from another cell.
    #[serde(default)]
    pub kin: Option<Kin>,
}

/// A system call that nothing implements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnknownCall {
    /// Its number.
    pub call: u32,
    /// How often it was made, at least.
    pub times: u64,
}

/// What a cell has from the one that it was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kin {
    /// The cell that it was made from.
    pub parent: CellId,
    /// The cell that its family began with: that one's surroundings are its own.
    pub root: CellId,
    /// The number of its first process in the family; 0 if it lives in surroundings of its own, which are like its family's.
    pub number: u32,
}

impl Kin {
    /// The cell in whose surroundings it lives, and ends with.
    pub fn host(self) -> Option<CellId> {
        (self.number > 0).then_some(self.root)
    }
}

impl Record {
    /// That of a cell that was never started.
    pub(crate) fn of(engine: Engine) -> Self {
        Self {
            state: State::Created,
            engine,
            process: None,
            supervisor: None,
            runs: 0,
            cgroup: None,
            attachment: None,
            degraded: Vec::new(),
            missed: Vec::new(),
            unknown: Vec::new(),
            traps: 0,
            kin: None,
        }
    }
}

/// The right to change a cell's record. Held by its supervisor, or for a moment by a command that recovers or removes it.
#[derive(Debug)]
pub struct CellLock(File);

impl CellLock {
    /// Takes the lock if nobody has it. The lock of a directory that goes away meanwhile is none: it fails as if the
    /// directory had not been there.
    pub(crate) fn try_take(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join("lock");
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = open.map_err(|e| Error::at("opening", &path, e))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(e) => return Err(Error::at("locking", &path, e)),
        }
        let ours = file.metadata().map_err(|e| Error::at("reading", &path, e))?;
        match std::fs::metadata(&path) {
            Ok(there) if there.ino() == ours.ino() => Ok(Some(Self(file))),
            Ok(_) => Err(Error::at("locking", &path, std::io::Error::from(std::io::ErrorKind::NotFound))),
            Err(e) => Err(Error::at("locking", &path, e)),
        }
    }

    /// The descriptor that carries the lock, to hand it to a supervisor.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0.into()
    }

    /// The lock that a descriptor carries.
    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd.into())
    }
}

impl Cell {
    /// Reads a cell. The record may be out of date at once; commands that act on it go through the supervisor.
    ///
    /// A record that does not read (it is not synced at each step, and power was lost) says what is known without it:
    /// that the cell was started, so that recovery ends it if nobody supervises it.
    pub(crate) fn read(dir: PathBuf) -> Result<Self> {
        let spec = Self::read_spec(&dir)?;
        let record = match disk::read_json(&dir.join("state.json")) {
            Err(Error::Damaged { .. }) => {
                Record { state: State::Starting { since: spec.created }, ..Record::of(Engine::Native) }
            }
            record => record?,
        };
        Ok(Self { dir, spec, record })
    }

    pub(crate) fn read_spec(dir: &Path) -> Result<CellSpec> {
        disk::read_json(&dir.join("spec.json"))
    }

    /// Its identity.
    pub fn id(&self) -> CellId {
        self.spec.id
    }

    pub(crate) fn write_record(&self, _: &CellLock, durability: Durability) -> Result<()> {
        disk::write_json(&self.dir.join("state.json"), &self.record, durability)
    }

    pub(crate) fn write_spec(&self, durability: Durability) -> Result<()> {
        disk::write_json(&self.dir.join("spec.json"), &self.spec, durability)
    }

    /// Moves the record along the state machine, without writing it.
    pub(crate) fn advance(&mut self, input: model::Input) -> Result<()> {
        let next = self.record.state.clone().next(input);
        self.record.state = next.map_err(|refusal| Error::State { cell: self.spec.name.clone(), refusal })?;
        Ok(())
    }

    /// The directory that holds the writable layer.
    pub fn layer(&self) -> PathBuf {
        self.dir.join("layer")
    }

    /// What its machine's kernel said, if it is one.
    pub fn kernel_log(&self) -> PathBuf {
        self.dir.join("kernel.log")
    }

    /// The directory of its output.
    pub fn log_dir(&self) -> PathBuf {
        self.dir.join("log")
    }
}
