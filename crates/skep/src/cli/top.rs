//! `skep top`

use super::Context;
use crate::error::Result;
use crate::output::{self, Align, Table};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    /// Print process numbers only
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
    /// The cell, by name or id
    #[arg(value_name = "CELL")]
    cell: String,
}

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    let engine = context.engine()?;
    let rows = engine.processes(&engine.find(&args.cell)?)?;
    if args.json {
        return rows.iter().try_for_each(output::json);
    }
    if args.quiet {
        return rows.iter().try_for_each(|row| output::line(row.pid.to_string()));
    }
    let mut table = Table::new([
        ("PID", Align::Right),
        ("IN CELL", Align::Right),
        ("UID", Align::Right),
        ("STATE", Align::Left),
        ("MEMORY", Align::Right),
        ("COMMAND", Align::Left),
    ]);
    for row in rows {
        table.row([
            row.pid.to_string(),
            row.cell_pid.to_string(),
            row.uid.to_string(),
            row.state.to_string(),
            row.memory.to_string(),
            row.command,
        ]);
    }
    table.print()
}
