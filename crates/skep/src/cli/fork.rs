//! `skep fork`

use engine::CopyFrom;
use model::CellName;

use super::Context;
use crate::error::Result;
use crate::output;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many to make
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
    /// Call them PREFIX-1, PREFIX-2, ...; else they are called after the cell
    #[arg(long, value_name = "PREFIX")]
    name: Option<String>,
    /// Begin each where the cell's appliance was kept, not where the cell stands
    #[arg(long)]
    anew: bool,
    /// The cell, by name or id
    #[arg(value_name = "CELL")]
    cell: String,
}

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    let engine = context.engine()?;
    let cell = engine.find(&args.cell)?;
    let prefix = args.name.unwrap_or_else(|| cell.spec.name.to_string());
    let taken = engine.names();
    let free = (1..).map(|number: u64| format!("{prefix}-{number}")).filter(|name| !taken.contains(name));
    let names =
        free.take(args.count as usize).map(|it| it.parse()).collect::<std::result::Result<Vec<CellName>, _>>()?;
    let from = if args.anew { CopyFrom::Start } else { CopyFrom::Here };
    engine.fork(&cell, names.clone(), from)?;
    names.iter().try_for_each(|it| output::line(it.as_str()))
}
