//! Making a record true again after a crash.
//!
//! A crash leaves a record that claims a supervisor which is gone. Its cell went with it (the cell's first process dies
//! with its parent), so what remains is to clear the host of its control groups and its place in the network, and to
//! write down how it ended. Each step may itself be interrupted: all of them can be done again.

use model::{EventKind, Exit, ExitReport, Input, Lifetime, State};

use crate::boundary::boundary;
use crate::cell::{Cell, CellLock};
use crate::clock::now;
use crate::disk::Durability;
use crate::error::Result;
use crate::events;
use crate::table::Engine;

impl Engine {
    /// Mends the cell's record if nobody supervises it; nothing when that removes the cell.
    pub(crate) fn recover(&self, cell: Cell) -> Result<Option<Cell>> {
        let lock = match CellLock::try_take(&cell.dir) {
            Ok(Some(lock)) => lock,
            Ok(None) => return Ok(Some(cell)),
            // The lock's directory went away under us: the cell was removed.
            Err(_) if !cell.dir.exists() => return Ok(None),
            Err(error) => return Err(error),
        };
        // Between the reading and the locking the supervisor may have ended in good order.
        let mut cell = match Cell::read(cell.dir.clone()) {
            Ok(cell) => cell,
            Err(_) if !cell.dir.exists() => return Ok(None),
            Err(error) => return Err(error),
        };
        if cell.record.state == State::Removing {
            self.remove_locked(&cell, &lock)?;
            return Ok(None);
        }
        if !cell.record.state.needs_supervisor() {
            return Ok(Some(cell));
        }
        self.clear(&mut cell)?;
        let began = match cell.record.state {
            State::Running { since } | State::Paused { since } | State::Starting { since } => since,
            _ => now(),
        };
        let report = ExitReport { exit: Exit::SupervisorLost, at: now(), ran: now().since(began), requested: false };
        cell.advance(Input::Exit(report))?;
        let note = |cell: &Cell| {
            events::record(&self.home, cell, EventKind::Recovered { why: Exit::SupervisorLost.to_string() });
        };
        if cell.spec.lifetime == Lifetime::RemoveOnExit {
            note(&cell);
            self.remove_locked(&cell, &lock)?;
            return Ok(None);
        }
        // What cannot be written down (a full disk) is true nevertheless, and the next command finds it out again.
        if cell.write_record(&lock, Durability::Synced).is_ok() {
            note(&cell);
        }
        Ok(Some(cell))
    }

    /// Clears the host of a cell whose supervisor is gone.
    fn clear(&self, cell: &mut Cell) -> Result<()> {
        boundary(cell.spec.boundary)?.clear(cell)?;
        let net = net::Net::open(self.home.net())?;
        net.detach(cell.spec.id)?;
        net.dissolve_idle()?;
        let _ = std::fs::remove_file(self.home.socket(cell.spec.id));
        cell.record.process = None;
        cell.record.supervisor = None;
        cell.record.cgroup = None;
        cell.record.attachment = None;
        Ok(())
    }
}
