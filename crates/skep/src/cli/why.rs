//! `skep why`

use super::Context;
use crate::error::Result;
use crate::output;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The cell, by name or id
    #[arg(value_name = "CELL")]
    cell: String,
}

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    let engine = context.engine()?;
    let cell = engine.find(&args.cell)?;
    let explanation = engine::explain(&cell.spec, &cell.record);
    if args.json {
        return output::json(&explanation);
    }
    output::line(output::without_numbers(&explanation.summary))?;
    let details = explanation.details.iter().map(|it| output::without_numbers(it));
    details.map(|detail| format!("  {detail}")).try_for_each(output::line)?;
    match explanation.hint {
        Some(hint) => output::line(format!("next: {hint}")),
        None => Ok(()),
    }
}
