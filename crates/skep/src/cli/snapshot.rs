//! `skep snapshot` and `skep rollback`

use model::{ByteSize, CellName};

use super::Context;
use crate::error::{CommandError, Result};
use crate::output::{self, Align, Table, ago};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// The cell, by name or id; one that is called as a command here is reached by its id
    #[arg(value_name = "CELL", required = true)]
    cell: Option<String>,
    /// Call it NAME; else it gets a number
    #[arg(value_name = "NAME")]
    name: Option<CellName>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the snapshots of a cell
    Ls {
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
        /// The cell, by name or id
        #[arg(value_name = "CELL")]
        cell: String,
    },
    /// Remove snapshots of a cell
    Rm {
        /// The cell, by name or id
        #[arg(value_name = "CELL")]
        cell: String,
        /// Their names
        #[arg(value_name = "NAME", required = true)]
        names: Vec<CellName>,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct RollbackArgs {
    /// The cell, by name or id
    #[arg(value_name = "CELL")]
    cell: String,
    /// The snapshot
    #[arg(value_name = "NAME")]
    name: CellName,
}

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    let engine = context.engine()?;
    match (args.command, args.cell) {
        (Some(Command::Ls { json, cell }), _) => list(&engine, &cell, json),
        (Some(Command::Rm { cell, names }), _) => {
            let cell = engine.find(&cell)?;
            names.iter().try_for_each(|it| Ok(engine.remove_snapshot(&cell, it)?))
        }
        (None, Some(cell)) => {
            let cell = engine.find(&cell)?;
            output::line(engine.snapshot(&cell, args.name)?.as_str())
        }
        (None, None) => Err(CommandError::usage("no cell is named")),
    }
}

fn list(engine: &engine::Engine, cell: &str, json: bool) -> Result<()> {
    let rows = engine.snapshots(&engine.find(cell)?)?;
    if json {
        return rows.iter().try_for_each(output::json);
    }
    let mut table = Table::new([("NAME", Align::Left), ("SIZE", Align::Right), ("MADE", Align::Left)]);
    for it in rows {
        table.row([it.name.to_string(), ByteSize::bytes(it.bytes).to_string(), ago(it.made)]);
    }
    table.print()
}

pub(super) fn roll_back(context: &Context, args: &RollbackArgs) -> Result<()> {
    let engine = context.engine()?;
    let cell = engine.find(&args.cell)?;
    let warnings = engine.rollback(&cell, &args.name)?;
    warnings.iter().for_each(output::warning);
    Ok(())
}
