//! What a toolbox can be attached to on this machine: cells of ours, and containers of other engines.

use model::{TargetRef, process_number};
use toolbox::Error as ToolboxError;
use toolbox::engines::{self, Found, Query, Roots};

use crate::debug::Subject;
use crate::error::{Error, Result};
use crate::table::{Engine, edit_distance};

/// Something that runs here.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Running {
    /// What `skep debug` takes for it.
    pub target: String,
    /// Whose: `skep`, or another engine.
    pub engine: String,
    /// What it is called there.
    pub name: String,
    /// Its identity there.
    pub id: String,
    /// Its first process.
    pub pid: u32,
    /// What it was made of, when that is known.
    pub image: Option<String>,
}

/// What our own cells are listed under.
const OURS: &str = "skep";

impl Running {
    /// Whether it is a cell of ours.
    pub fn is_cell(&self) -> bool {
        self.engine == OURS
    }
}

impl Engine {
    /// What `wanted` names. A name without an engine is a cell's if there is such a cell, else the only container's that
    /// has it; a number that is no cell's is a process's.
    pub fn find_target(&self, roots: &Roots, wanted: &TargetRef) -> Result<Subject> {
        match wanted {
            TargetRef::Process(pid) => Ok(Subject::Process(*pid)),
            TargetRef::Cell(name) => Ok(Subject::Cell(Box::new(self.find(name)?))),
            TargetRef::Container(engine, name) => {
                let found = engines::containers_of(roots, *engine, Query::Named(name));
                only(wanted, found)?.ok_or_else(|| {
                    let others = engines::containers_of(roots, *engine, Query::Any);
                    nothing_like(wanted, others.iter().map(ToString::to_string))
                })
            }
            TargetRef::Named(name) => {
                match self.find(name) {
                    Ok(cell) => return Ok(Subject::Cell(Box::new(cell))),
                    Err(Error::NoSuchCell { .. }) => {}
                    Err(error) => return Err(error),
                }
                if let Some(pid) = process_number(name) {
                    return Ok(Subject::Process(pid));
                }
                only(wanted, engines::containers(roots, Query::Named(name)))?.ok_or_else(|| {
                    let others = engines::containers(roots, Query::Any);
                    nothing_like(wanted, others.iter().map(Found::name).chain(self.names()))
                })
            }
        }
    }

    /// Everything that runs here in a cell or a container.
    pub fn running(&self, roots: &Roots) -> Result<Vec<Running>> {
        let cells = self.cells()?.into_iter().filter_map(|cell| {
            let is_live = cell.record.state.is_live();
            let process = cell.record.process.filter(|_| is_live)?;
            Some(Running {
                target: cell.spec.name.to_string(),
                engine: OURS.to_owned(),
                name: cell.spec.name.to_string(),
                id: cell.spec.id.to_string(),
                pid: process.pid,
                image: Some(cell.spec.image.name),
            })
        });
        let containers = engines::containers(roots, Query::Running).into_iter().filter_map(|it| {
            Some(Running {
                target: it.to_string(),
                engine: it.engine.to_string(),
                name: it.name(),
                pid: it.process?.pid,
                id: it.id,
                image: it.image,
            })
        });
        Ok(cells.chain(containers).collect())
    }
}

fn only(wanted: &TargetRef, mut found: Vec<Found>) -> Result<Option<Subject>> {
    match found.len() {
        0 => Ok(None),
        1 => match found.pop() {
            // Said now, and not when a toolbox has been fetched.
            Some(found) if found.process.is_none() => Err(ToolboxError::Stopped(found.to_string()).into()),
            found => Ok(found.map(|it| Subject::Container(Box::new(it)))),
        },
        _ => {
            let which = found.iter().map(ToString::to_string).collect();
            Err(ToolboxError::Several { wanted: wanted.to_string(), which }.into())
        }
    }
}

fn nothing_like(wanted: &TargetRef, names: impl Iterator<Item = String>) -> Error {
    let wanted = wanted.to_string();
    let distance = |name: &String| edit_distance(name, &wanted);
    let similar = names.min_by_key(distance).filter(|it| distance(it) <= 1 + wanted.len() / 4);
    ToolboxError::NoSuchTarget { wanted, similar }.into()
}
