//! What clients ask of a supervisor, and how it is done.

use std::time::{Duration, Instant};

use model::{EventKind, ExitReport, Input, State, Verb};
use rustix::event::{PollFd, PollFlags};

use super::run::Run;
use super::{SIGHUP, SIGINT, SIGKILL, SIGPIPE, Supervisor};
use crate::boundary::{Limited, boundary_for};
use crate::cell::Kin;
use crate::disk::Durability;
use crate::error::{Error, Result};
use crate::wire::{Answer, Request};

impl Supervisor {
    pub(super) fn on_request(&mut self, index: usize, request: Request) -> Option<Answer> {
        let client = self.clients.get_mut(index)?;
        let outcome = match request {
            Request::Attach => {
                (client.attached, client.waiting) = (true, true);
                return None;
            }
            Request::Wait => {
                client.waiting = true;
                return None;
            }
            Request::Stop { signal, timeout_ms } => {
                client.waiting = true;
                self.begin_stop(signal, Duration::from_millis(timeout_ms));
                return None;
            }
            Request::Kill { signal } => self.kill(signal),
            Request::Pause => self.pause(),
            Request::Resume => self.resume(),
            Request::Set { limits, restart } => self.set(limits, restart),
            Request::Fork { names, from } => self.fork(names, from),
            Request::Rollback { name } => self.roll_back(&name),
            Request::Rename { name } => self.rename(name),
        };
        Some(match outcome {
            Ok(warnings) => Answer::Done { warnings },
            Err(Error::Unkept { why, .. }) => Answer::Unkept { why },
            Err(error) => Answer::Refused { why: error.to_string() },
        })
    }

    fn running(&self) -> Result<&Run> {
        let state = self.cell.record.state.word();
        self.run.as_ref().ok_or_else(|| Error::NotRunning { cell: self.cell.spec.name.clone(), state })
    }

    /// Sends the program a signal. The signals that the cell is stopped with mean that it shall not start again.
    fn kill(&mut self, signal: i32) -> Result<Vec<String>> {
        let ends = signal == SIGKILL || signal == self.cell.spec.stop.signal;
        if self.run.is_none() && (ends || [SIGHUP, SIGINT, SIGPIPE].contains(&signal)) {
            // There is no program between two runs; what would have ended it ends the waiting for the next.
            self.stop.get_or_insert(None);
            self.end_waiting();
            return Ok(Vec::new());
        }
        let run = self.running()?;
        match signal {
            SIGKILL => run.live.kill()?,
            _ => run.live.signal(signal)?,
        }
        if ends {
            self.stop.get_or_insert(None);
        }
        Ok(Vec::new())
    }

    /// Ends a cell that waits for its next run.
    fn end_waiting(&mut self) {
        if let Some(last) = self.cell.record.state.last_exit().cloned() {
            self.end_for_good(ExitReport { requested: true, ..last });
        }
    }

    pub(super) fn begin_stop(&mut self, signal: i32, patience: Duration) {
        self.stop = Some(Some(Instant::now() + patience));
        if let Some(run) = &self.run {
            let _ = run.live.signal(signal);
            if matches!(self.cell.record.state, State::Paused { .. }) {
                // A frozen program cannot answer a signal.
                let _ = self.resume();
            }
        } else {
            self.end_waiting();
        }
    }

    fn pause(&mut self) -> Result<Vec<String>> {
        self.running()?;
        self.cell.advance(Input::Pause)?;
        if let Err(error) = self.running().and_then(|run| run.live.pause()) {
            self.cell.advance(Input::Resume)?;
            return Err(error);
        }
        self.cell.write_record(&self.lock, Durability::Relaxed)?;
        self.note(EventKind::Paused);
        Ok(Vec::new())
    }

    fn resume(&mut self) -> Result<Vec<String>> {
        self.running()?;
        let paused = self.cell.record.state.clone();
        self.cell.advance(Input::Resume)?;
        if let Err(error) = self.running().and_then(|run| run.live.resume()) {
            self.cell.record.state = paused;
            return Err(error);
        }
        self.cell.write_record(&self.lock, Durability::Relaxed)?;
        self.note(EventKind::Resumed);
        Ok(Vec::new())
    }

    fn set(&mut self, change: model::Limits, restart: Option<model::RestartPolicy>) -> Result<Vec<String>> {
        let mut spec = self.cell.spec.clone();
        spec.limits = spec.limits.updated(change);
        spec.restart = restart.unwrap_or(spec.restart);
        let before = std::mem::replace(&mut self.cell.spec, spec);
        if let Err(error) = self.cell.write_spec(Durability::Synced) {
            self.cell.spec = before;
            return Err(error);
        }
        self.note(EventKind::Limited);
        // Between two runs there is nothing to apply limits to: the next one begins with them.
        let Some(run) = &mut self.run else {
            self.reconsider_restart();
            return Ok(Vec::new());
        };
        let Limited { degraded, cgroup } = run.live.set(&self.cell.spec.limits)?;
        let warnings = degraded.iter().map(ToString::to_string).collect();
        self.cell.record.cgroup = cgroup;
        self.cell.record.degraded.retain(|it| !model::Limits::OPTIONS.contains(&it.what.as_str()));
        self.cell.record.degraded.extend(degraded);
        self.cell.write_record(&self.lock, Durability::Relaxed)?;
        Ok(warnings)
    }

    /// Ends the run, and begins another from where the cell was kept.
    fn roll_back(&mut self, name: &model::CellName) -> Result<Vec<String>> {
        const PATIENCE: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
        if self.cell.record.kin.and_then(Kin::host).is_some() {
            let why = "a cell that was forked goes back with nothing: name the cell that the family began with";
            return Err(Error::Refused(why.to_owned()));
        }
        let snapshot = self.cell.snapshot(name)?;
        if matches!(self.cell.record.state, State::Paused { .. }) {
            self.resume()?;
        }
        let run = self.running()?;
        run.live.kill()?;
        let _ = rustix::event::poll(&mut [PollFd::new(&run.live.ended(), PollFlags::IN)], Some(&PATIENCE));
        self.back_to = Some(snapshot);
        self.end_run();
        if let (None, Some(report)) = (&self.run, self.cell.record.state.last_exit()) {
            return Err(Error::Refused(report.exit.to_string()));
        }
        // A tender that finds the snapshot wrong says so in the log, and ends.
        let family = boundary_for(&self.cell.spec, Verb::Snapshot)?.family(&self.cell);
        if family.is_ok_and(|it| !it.is_empty()) {
            return Ok(Vec::new());
        }
        let cell = &self.cell.spec.name;
        Err(Error::Refused(format!("{cell} did not go on from there: 'skep logs {cell}' tells why")))
    }

    /// A cell that waits for its next run under a policy that would not give it one has ended.
    fn reconsider_restart(&mut self) {
        let Some(last) = self.cell.record.state.last_exit().cloned() else { return };
        if self.cell.spec.restart.delay(self.restarts, last.exit.is_success(), last.requested).is_none() {
            self.end_for_good(last);
        }
    }

    fn rename(&mut self, name: model::CellName) -> Result<Vec<String>> {
        self.engine.rename_locked(&mut self.cell, name)?;
        Ok(Vec::new())
    }
}
