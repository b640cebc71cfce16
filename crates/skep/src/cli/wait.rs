//! `skep wait`

use super::{Context, select};
use crate::error::Result;
use crate::output;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The cells, by name or id
    #[arg(value_name = "CELL", required = true)]
    cells: Vec<String>,
}

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    let engine = context.engine()?;
    select::for_each(&engine, &args.cells, |cell| output::line(engine.wait(&cell)?.exit.code().to_string()))
}
