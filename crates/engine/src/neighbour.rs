//! Which cell's messages and memory another one shares, decided anew at each start: **nobody is joined who does not agree**.
//!
//! Cells are looked for among the caller's own, so another user's are not found.

use model::{CellSpec, Ipc, State, UserNamespace};

use crate::cell::Cell;
use crate::error::{Error, NotJoined, Result};
use crate::table::Engine;

impl Engine {
    /// Refuses a cell that could not be started for the sake of whom it joins.
    pub fn check_neighbour(&self, spec: &CellSpec) -> Result<()> {
        self.neighbour(spec).map(drop)
    }

    /// The running cell whose IPC a cell joins, if it joins one.
    pub(crate) fn neighbour(&self, spec: &CellSpec) -> Result<Option<Cell>> {
        let Ipc::Cell(name) = &spec.ipc else { return Ok(None) };
        let refused = |why| Error::NotJoined { cell: spec.name.clone(), other: name.clone(), why };
        let other = match self.find(name.as_str()) {
            Ok(other) if other.spec.name == *name => other,
            Ok(_) | Err(Error::NoSuchCell { .. }) => return Err(refused(NotJoined::Missing)),
            Err(error) => return Err(error),
        };
        match why_not(spec, &other.spec, &other.record.state) {
            Some(why) => Err(refused(why)),
            None => Ok(Some(other)),
        }
    }
}

fn why_not(spec: &CellSpec, other: &CellSpec, state: &State) -> Option<NotJoined> {
    if spec.id == other.id {
        return Some(NotJoined::Itself);
    }
    match &other.ipc {
        Ipc::Private => return Some(NotJoined::Private),
        Ipc::Cell(third) => return Some(NotJoined::Joined(third.clone())),
        Ipc::Shareable => {}
    }
    // A program that waits in memory or for a message is woken by who knows of it: the host's kernel, or a tender.
    if spec.boundary != other.boundary {
        return Some(NotJoined::Boundary(other.boundary));
    }
    if [spec, other].iter().any(|it| it.security.user_namespace != UserNamespace::Host) {
        return Some(NotJoined::Users);
    }
    // One that stands still would not say who is to be told of sleepers.
    if !matches!(state, State::Running { .. }) {
        return Some(NotJoined::NotRunning(state.word()));
    }
    None
}
