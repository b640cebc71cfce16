//! Making a running cell again: each copy is a cell with a name, a record, a log and a socket of its own.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::rc::Rc;

use model::{CellName, CellSpec, EventKind, Input, RestartPolicy, State, Stdin, Terminal, Verb};

use super::run::Run;
use super::streams::Streams;
use super::{Parts, Supervisor, listen};
use crate::boundary::{Boundary, Copies, Forked, Origin, ProgramStreams, Standing, boundary_for};
use crate::cell::{Cell, CellLock, Kin, Record};
use crate::clock::now;
use crate::disk::Durability;
use crate::error::{Error, Result};
use crate::layer;
use crate::logs::LogWriter;
use crate::process::ProcessIdentity;
use crate::wire::CopyFrom;

/// A copy that does not run yet.
struct Nascent {
    cell: Cell,
    lock: CellLock,
    listener: UnixListener,
    log: LogWriter,
    streams: Streams,
}

impl Supervisor {
    pub(super) fn fork(&mut self, names: Vec<CellName>, from: CopyFrom) -> Result<Vec<String>> {
        let boundary = boundary_for(&self.cell.spec, Verb::Fork)?;
        if !matches!(self.cell.record.state, State::Running { .. }) {
            let refusal = model::IllegalTransition { from: self.cell.record.state.word(), input: "be forked" };
            return Err(Error::State { cell: self.cell.spec.name.clone(), refusal });
        }
        if boundary.copies() == Copies::Apart {
            return self.fork_apart(boundary, names, from);
        }
        let (mut nascent, mut theirs) = (Vec::new(), Vec::new());
        let made = names.into_iter().try_for_each(|name| {
            let (one, streams) = self.prepare_copy(name)?;
            nascent.push(one);
            theirs.push(streams);
            Ok(())
        });
        let forked = match made.and_then(|()| boundary.fork(&self.cell, theirs, from)) {
            Ok(forked) => forked,
            Err(error) => {
                nascent.iter().for_each(|it| self.forget_copy(it));
                return Err(error);
            }
        };
        let mut outcome = Ok(Vec::new());
        for (one, forked) in nascent.into_iter().zip(forked) {
            match forked {
                Ok(forked) => match self.begin_copy(one, forked) {
                    Ok(copy) => self.born.push(copy),
                    Err(error) => outcome = Err(error),
                },
                Err(error) => {
                    self.forget_copy(&one);
                    outcome = Err(error);
                }
            }
        }
        outcome
    }

    /// Makes copies that are cells in surroundings of their own, of which each has what this one has written.
    fn fork_apart(&mut self, boundary: &dyn Boundary, names: Vec<CellName>, from: CopyFrom) -> Result<Vec<String>> {
        if from == CopyFrom::Start {
            let why = format!("a {} cell's copies begin where it stands", self.cell.spec.boundary);
            return Err(Error::Refused(why));
        }
        let mut nascent: Vec<(Nascent, ProgramStreams)> = Vec::new();
        let made = names.into_iter().try_for_each(|name| {
            nascent.push(self.prepare_copy(name)?);
            Ok(())
        });
        let files = match made.and_then(|()| self.stand_for(boundary, &nascent)) {
            Ok(files) => files,
            Err(error) => {
                nascent.iter().for_each(|(it, _)| self.forget_copy(it));
                return Err(error);
            }
        };
        let mut outcome = Ok(Vec::new());
        for (one, theirs) in nascent {
            match self.begin_apart(one, theirs, &files) {
                Ok(copy) => self.born.push(copy),
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    /// Has this cell stand still as long as it takes to copy what it has written, once for each; gives what it is.
    fn stand_for(&self, boundary: &dyn Boundary, copies: &[(Nascent, ProgramStreams)]) -> Result<Vec<OwnedFd>> {
        let Standing { files, line } = boundary.stand(&self.cell)?;
        let mut from = self.cell.layer();
        for (copy, _) in copies {
            let to = copy.cell.layer();
            layer::copy(&from, &to)?;
            from = to;
        }
        drop(line);
        Ok(files)
    }

    fn begin_apart(&self, nascent: Nascent, theirs: ProgramStreams, files: &[OwnedFd]) -> Result<Self> {
        let Nascent { mut cell, lock, listener, log, streams } = nascent;
        cell.advance(Input::Start(now()))?;
        cell.record.supervisor = ProcessIdentity::of(std::process::id());
        cell.record.runs = 1;
        let begun = Run::start_with(&self.engine, &mut cell, streams, theirs, Origin::Standing(files));
        let run = match begun {
            Ok(run) => run,
            Err(error) => {
                let _ = self.engine.remove_locked(&cell, &lock);
                return Err(error);
            }
        };
        let pid = run.pid;
        cell.record.process = ProcessIdentity::of(pid);
        cell.advance(Input::Started(now()))?;
        cell.write_record(&lock, Durability::Relaxed)?;
        let parts = Parts { engine: Rc::clone(&self.engine), cell, lock, listener, log };
        let mut copy = Self::new(parts, Vec::new());
        copy.run = Some(run);
        copy.note(EventKind::Started { pid });
        Ok(copy)
    }

    /// Makes all that a copy has outside.
    fn prepare_copy(&self, name: CellName) -> Result<(Nascent, ProgramStreams)> {
        let spec = self.spec_of_copy(name)?;
        let own = &self.cell.record;
        // Its number is not known yet.
        let kin = Kin { parent: self.cell.spec.id, root: own.kin.map_or(self.cell.spec.id, |it| it.root), number: 0 };
        let record = Record { kin: Some(kin), degraded: own.degraded.clone(), ..Record::of(own.engine) };
        let (cell, lock) = self.engine.create_with(spec, record)?;
        let rest = || {
            let listener = listen(&self.engine.home, &cell)?;
            let log = LogWriter::open(&cell.log_dir(), cell.spec.log)?;
            Ok((listener, log, Streams::for_program(&cell.spec.process, self.window)?))
        };
        match rest() {
            Ok((listener, log, (streams, theirs))) => Ok((Nascent { cell, lock, listener, log, streams }, theirs)),
            Err(error) => {
                let _ = self.engine.remove_locked(&cell, &lock);
                Err(error)
            }
        }
    }

    /// A copy is what its original is, but for what can be had once: the published ports, the terminal, the input. Nobody
    /// starts it again where it stood, so nobody starts it again.
    fn spec_of_copy(&self, name: CellName) -> Result<CellSpec> {
        let mut spec = self.cell.spec.clone();
        (spec.id, spec.name, spec.created) = (self.engine.fresh_id()?, name, now());
        spec.network.ports.clear();
        spec.restart = RestartPolicy::No;
        (spec.process.terminal, spec.process.stdin) = (Terminal::None, Stdin::Closed);
        Ok(spec)
    }

    fn forget_copy(&self, it: &Nascent) {
        let _ = self.engine.remove_locked(&it.cell, &it.lock);
    }

    fn begin_copy(&self, nascent: Nascent, forked: Forked) -> Result<Self> {
        let Nascent { mut cell, lock, listener, log, streams } = nascent;
        let own = &self.cell.record;
        cell.advance(Input::Start(now()))?;
        cell.advance(Input::Started(now()))?;
        cell.record.kin = cell.record.kin.map(|it| Kin { number: forked.number, ..it });
        cell.record.supervisor = ProcessIdentity::of(std::process::id());
        // It lives in the same process of the host, in the same surroundings.
        (cell.record.process, cell.record.cgroup) = (own.process, own.cgroup.clone());
        cell.record.runs = 1;
        cell.write_record(&lock, Durability::Relaxed)?;
        let parts = Parts { engine: Rc::clone(&self.engine), cell, lock, listener, log };
        let mut copy = Self::new(parts, Vec::new());
        let pid = own.process.map_or(0, |it| it.pid);
        copy.run = Some(Run::forked(pid, forked.live, streams));
        copy.note(EventKind::Started { pid });
        Ok(copy)
    }
}
