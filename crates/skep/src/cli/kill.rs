//! `skep kill`

use super::{Context, select};
use crate::error::Result;
use crate::output;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The signal
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
    /// The cells, by name or id
    #[arg(value_name = "CELL", required = true)]
    cells: Vec<String>,
}

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    let engine = context.engine()?;
    let signal = select::signal(&args.signal)?;
    select::for_each(&engine, &args.cells, |cell| {
        engine.kill(&cell, signal)?;
        output::line(cell.spec.name.as_str())
    })
}
