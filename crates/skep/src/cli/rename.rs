//! `skep rename`

use model::CellName;

use super::Context;
use crate::error::Result;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The cell, by name or id
    #[arg(value_name = "CELL")]
    cell: String,
    /// Its new name
    #[arg(value_name = "NAME")]
    name: CellName,
}

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    let engine = context.engine()?;
    let cell = engine.find(&args.cell)?;
    Ok(engine.rename(&cell, args.name)?)
}
