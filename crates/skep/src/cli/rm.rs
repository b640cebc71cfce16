//! `skep rm`

use engine::{Cell, Engine, Error};
use model::Span;

use super::{Context, select};
use crate::error::Result;
use crate::output;

const SIGKILL: i32 = 9;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// End the cell first if it runs
    #[arg(short, long)]
    force: bool,
    /// The cells, by name or id
    #[arg(value_name = "CELL", required = true)]
    cells: Vec<String>,
}

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    let engine = context.engine()?;
    let mut cells = Vec::new();
    for wanted in args.cells {
        match args.force && engine.remove_damaged(&wanted)? {
            true => output::line(&wanted)?,
            false => cells.push(wanted),
        }
    }
    select::for_each(&engine, &cells, |cell| {
        let name = cell.spec.name.clone();
        if args.force {
            force(&engine, cell)?;
        } else {
            engine.remove(cell)?;
        }
        output::line(name.as_str())
    })
}

/// Ends a cell and removes it, even one that somebody else is starting or removing at the same time.
pub(super) fn force(engine: &Engine, mut cell: Cell) -> Result<()> {
    let id = cell.spec.id.to_string();
    loop {
        if cell.record.state.needs_supervisor() {
            match engine.stop(&cell, SIGKILL, Span::millis(0)) {
                // It ended by itself meanwhile.
                Ok(_) | Err(Error::NotRunning { .. } | Error::SupervisorGone(_) | Error::NoSuchCell { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // A cell that vanishes with its program may be gone by now; one that was being started runs.
        cell = match engine.find(&id).and_then(|cell| engine.remove(cell)) {
            Ok(()) | Err(Error::NoSuchCell { .. }) => return Ok(()),
            Err(Error::State { .. }) => match engine.find(&id) {
                Err(Error::NoSuchCell { .. }) => return Ok(()),
                found => found?,
            },
            Err(error) => return Err(error.into()),
        };
    }
}
