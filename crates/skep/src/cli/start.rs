//! `skep start`

use engine::Attach;

use super::{Context, select};
use crate::error::{CommandError, Result};
use crate::foreground::{self, CaughtSignals, OnBrokenPipe};
use crate::output;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Join the cell's streams
    #[arg(short, long)]
    attach: bool,
    /// The cells, by name or id
    #[arg(value_name = "CELL", required = true)]
    cells: Vec<String>,
}

pub(super) fn execute(context: &Context, args: Args) -> Result<()> {
    let engine = context.engine()?;
    if args.attach && args.cells.len() > 1 {
        return Err(CommandError::usage("only one cell can be joined at a time"));
    }
    select::for_each(&engine, &args.cells, |cell| {
        let lock = engine.lock(&cell)?;
        if args.attach {
            let signals = CaughtSignals::catch()?;
            let conversation = engine.start(&cell, lock, Attach::Streams(foreground::own_terminal()))?;
            let input = cell.spec.process.stdin;
            return foreground::follow(&cell, conversation, signals, input, OnBrokenPipe::TellProgram);
        }
        let mut conversation = engine.start(&cell, lock, Attach::Nothing)?;
        match conversation.started()? {
            Ok(warnings) => warnings.iter().for_each(output::warning),
            Err(report) => return Err(foreground::ending(&cell, &report)),
        }
        output::line(cell.spec.name.as_str())
    })
}
