//! `skep stop`

use model::Span;

use super::{Context, select};
use crate::error::Result;
use crate::output;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How long to wait before ending it by force [default: the cell's own]
    #[arg(short = 't', long = "time", value_name = "TIME")]
    timeout: Option<Span>,
    /// Ask with this signal [default: the cell's own]
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
    /// The cells, by name or id
    #[arg(value_name = "CELL", required = true)]
    cells: Vec<String>,
}

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    let engine = context.engine()?;
    let signal = args.signal.as_deref().map(select::signal).transpose()?;
    select::for_each(&engine, &args.cells, |cell| {
        // What has ended already needs no stopping: saying so twice is no failure.
        if cell.record.state.needs_supervisor() {
            let policy = cell.spec.stop;
            engine.stop(&cell, signal.unwrap_or(policy.signal), args.timeout.unwrap_or(policy.timeout))?;
        }
        output::line(cell.spec.name.as_str())
    })
}
