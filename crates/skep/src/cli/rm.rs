//! `skep rm`

use model::Span;

use super::{Context, select};
use crate::error::Result;
use crate::output;

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
    select::for_each(&engine, &args.cells, |cell| {
        let name = cell.spec.name.clone();
        if args.force && cell.record.state.needs_supervisor() {
            engine.stop(&cell, 9, Span::millis(0))?;
        }
        // A cell that vanishes with its program may be gone by now.
        match engine.find(&cell.spec.id.to_string()) {
            Ok(cell) => engine.remove(cell)?,
            Err(engine::Error::NoSuchCell { .. }) if args.force => {}
            Err(error) => return Err(error.into()),
        }
        output::line(name.as_str())
    })
}
